//! L2: who serves what, and who should hold what. State and decisions, nothing else.
//!
//! Inputs are a log of [`Event`]s; outputs are decisions with their reasons. `now` and the random generator
//! are arguments everywhere, so the same log gives the same decisions in production and in a simulation.
//! Formulas and their sources: reference policy section E; parameters: [`Params`].

mod askers;
mod balancer;
mod capacity;
mod crowd;
mod demand;
mod eligible;
mod events;
mod holdings;
mod ledger;
mod node;
mod orders;
mod params;
mod placement;
mod release;
mod resume;
mod roster;
mod shelves;
mod stability;
mod standing;
mod tracker;

use std::sync::Arc;

pub use askers::Asker;
pub use balancer::{Candidate, Decision, Explanation, OriginReason};
pub use crowd::{CrowdReport, Stage, Subject};
pub use eligible::{Exclusion, Request};
pub use events::{Event, Load};
pub use node::{Joined, Node, NodeNo, NodeState};
pub use params::Params;
pub use placement::{Order, Task};
pub use release::{Gate, Release, ReleaseNo, ReleasedFile};
pub use resume::{KEPT_FOR, Known, Position};
pub use roster::Fleet;
pub use stability::{Class, Presence};
pub use standing::{Outcome, Record};
pub use tracker::Tracker;

use askers::Askers;
use demand::Demand;
use eligible::View;
use rand::Rng;

use crate::config::Networks;
use crate::formats::control::JournalSpan;
use crate::model::{Blob, Time};

/// Blobs looked at per [`Policy::tend`]: bounds how long the policy is held.
const TENDED: usize = 1024;

/// Everything the server decides with.
#[derive(Debug)]
pub struct Policy {
    params: Params,
    networks: Networks,
    tracker: Tracker,
    demand: Demand,
    askers: Askers,
    has_doubts: bool,
}

/// A test that the server should make of a volunteer now.
#[derive(Clone, Debug)]
pub struct Probe {
    pub node: NodeNo,
    pub epoch: u32,
    pub base_url: Arc<str>,
    /// What it should send; without one, only whether it answers.
    pub blob: Option<Blob>,
}

impl Policy {
    pub fn new(params: Params, networks: Networks) -> Self {
        let (tracker, demand) = (Tracker::new(params.clone()), Demand::new(params.demand_half_life));
        Self { params, networks, tracker, demand, askers: Askers::default(), has_doubts: false }
    }

    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    pub fn join(&mut self, join: Joined, now: Time) -> (NodeNo, u32) {
        self.tracker.join(join, now)
    }

    /// See [`Tracker::resume`].
    pub fn resume(&mut self, node: NodeNo, span: Option<JournalSpan>, now: Time) -> Option<u64> {
        self.tracker.resume(node, span, now)
    }

    pub fn handle(&mut self, event: Event<'_>, now: Time) {
        self.tracker.handle(event, now);
    }

    /// Decides who answers a package request, and books it.
    pub fn choose(&mut self, request: &Request, now: Time, rng: &mut impl Rng) -> Decision {
        let (blob, asker) = (request.blob, request.client);
        self.tracker.note_origin_load(request.origin_load);
        let tries = self.tries(request, now);
        let view = View { params: &self.params, networks: &self.networks, request, tries, now };
        let decision = balancer::choose(&mut self.tracker, &view, rng);
        if request.len > 0 {
            self.demand.record(blob, now);
            if let Some((tries, last)) = tries.and_then(|tries| Some((tries, tries.last()?))) {
                // Of a crowd, most that ask have not asked before.
                if tries.is_crowd() {
                    self.hasten(last)
                } else {
                    self.tracker.doubted(last, blob)
                }
                self.has_doubts |= !tries.is_crowd();
            }
            match decision {
                Decision::Volunteer { node, .. } => {
                    self.tracker.redirected(node, blob, request.len, now);
                    if !request.is_segment {
                        self.askers.redirected(&self.params, (asker, blob.id), node, tries, now);
                    }
                }
                Decision::Origin(_) => self.askers.served(&self.params, (asker, blob.id), tries, now),
            }
        }
        decision
    }

    fn tries(&self, request: &Request, now: Time) -> Option<askers::Tries> {
        let Request { blob, is_segment, .. } = *request;
        if is_segment { None } else { self.askers.before(&self.params, request.client, blob.id, now) }
    }

    /// A client asks the server itself: if it was sent to a volunteer for this a moment ago, it did not get
    /// it there. Says whether that was so.
    pub fn came_back(&mut self, client: Asker, blob: Blob, now: Time) -> bool {
        let tries = self.askers.before(&self.params, client, blob.id, now);
        let last = tries.and_then(|tries| tries.last());
        if let Some(last) = last {
            self.tracker.doubted(last, blob);
            self.askers.served(&self.params, (client, blob.id), tries, now);
        }
        last.is_some()
    }

    /// Whether a test has become due since this was last asked, because somebody asked again.
    pub fn has_doubts(&mut self) -> bool {
        std::mem::take(&mut self.has_doubts)
    }

    /// Something speaks against a volunteer that clients were sent to: let it be tested soon.
    pub fn hasten(&mut self, node: NodeNo) {
        self.tracker.node_mut(node).standing.hasten();
    }

    /// Tests of volunteers that are due; at most `max` at a time.
    pub fn probes(&mut self, max: usize, now: Time) -> Vec<Probe> {
        self.tracker.probes(max, now)
    }

    /// [`Self::choose`], and the copies that the demand now asks for.
    pub fn decide(&mut self, request: &Request, now: Time, rng: &mut impl Rng) -> (Decision, Vec<Order>) {
        let decision = self.choose(request, now, rng);
        let may_place = request.len > 0
            && match decision {
                Decision::Origin(OriginReason::SmallFile) => false,
                Decision::Origin(_) => true,
                Decision::Volunteer { .. } => {
                    self.demand.of(request.blob.id, now).requests >= self.params.hot_requests
                }
            };
        let orders = if may_place && self.demand.is_due(request.blob.id, now) {
            self.place(request.blob, now)
        } else {
            Vec::new()
        };
        (decision, orders)
    }

    /// Why [`Self::choose`] would decide what it decides; books nothing.
    pub fn explain(&mut self, request: &Request, now: Time) -> Explanation {
        let tries = self.tries(request, now);
        let view = View { params: &self.params, networks: &self.networks, request, tries, now };
        balancer::explain(&mut self.tracker, &view)
    }

    /// Copies that are missing of what was asked for lately, over the next blobs in turn: for volunteers
    /// that have just joined, and instead of those that have left.
    pub fn tend(&mut self, now: Time) -> Vec<Order> {
        let blobs = self.demand.slice(TENDED, now);
        let smallest = self.params.small_file;
        blobs
            .into_iter()
            .filter(|blob| blob.size >= smallest)
            .flat_map(|blob| self.place(blob, now))
            .collect()
    }

    /// A generation is about to become visible. Its files inherit the demand for their predecessors; the orders
    /// are for the copies that its likely hot ones need before.
    pub fn released(&mut self, release: &Release, now: Time) -> (ReleaseNo, Vec<Order>) {
        let _ = (release, now);
        (ReleaseNo(0), Vec::new())
    }

    /// Whether that generation may become visible.
    pub fn gate(&mut self, release: ReleaseNo, now: Time) -> Gate {
        let _ = (release, now);
        Gate::Open
    }

    /// What there is to say of flash crowds; to be asked every second.
    pub fn crowds(&mut self, now: Time) -> Vec<CrowdReport> {
        let _ = now;
        Vec::new()
    }

    /// Which volunteers should fetch the blob now, given what is asked for.
    pub fn place(&mut self, blob: Blob, now: Time) -> Vec<Order> {
        let demand = self.demand.of(blob.id, now);
        placement::place(&mut self.tracker, &self.params, blob, demand, now)
    }
}
