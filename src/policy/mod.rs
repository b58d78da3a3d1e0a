//! L2: who serves what, and who should hold what. State and decisions, nothing else.
//!
//! Inputs are a log of [`Event`]s; outputs are decisions with their reasons. `now` and the random generator
//! are arguments everywhere, so the same log gives the same decisions in production and in a simulation.
//! Formulas and their sources: reference policy section E; parameters: [`Params`].

mod balancer;
mod demand;
mod ledger;
mod params;
mod placement;
mod resume;
mod tracker;

pub use balancer::{Candidate, Decision, Explanation, OriginReason, Request};
pub use params::Params;
pub use placement::Order;
pub use resume::{KEPT_FOR, Known, Position};
pub use tracker::{Event, Joined, Load, Node, NodeNo, NodeState, Tracker};

use demand::Demand;
use rand::Rng;

use crate::formats::control::JournalSpan;
use crate::model::{Blob, Time};

/// Blobs looked at per [`Policy::tend`]: bounds how long the policy is held.
const TENDED: usize = 1024;

/// Everything the server decides with.
#[derive(Debug)]
pub struct Policy {
    params: Params,
    tracker: Tracker,
    demand: Demand,
}

impl Policy {
    pub fn new(params: Params) -> Self {
        let (tracker, demand) = (Tracker::new(params.clone()), Demand::new(params.demand_half_life));
        Self { params, tracker, demand }
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
        let decision = balancer::choose(&mut self.tracker, &self.params, request, now, rng);
        if request.len > 0 {
            self.demand.record(request.blob, now);
            if let Decision::Volunteer { node, .. } = decision {
                self.tracker.redirected(node, request.blob, request.len, now);
            }
        }
        decision
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
        balancer::explain(&mut self.tracker, &self.params, request, now)
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

    /// Which volunteers should fetch the blob now, given what is asked for.
    pub fn place(&mut self, blob: Blob, now: Time) -> Vec<Order> {
        let demand = self.demand.of(blob.id, now);
        placement::place(&mut self.tracker, &self.params, blob, demand, now)
    }
}
