//! L2: who serves what, and who should hold what. State and decisions, nothing else.
//!
//! Inputs are a log of [`Event`]s; outputs are decisions with their reasons. `now` and the random generator
//! are arguments everywhere, so the same log gives the same decisions in production and in a simulation.
//! Formulas and their sources: reference policy section E; parameters: [`Params`].
//!
//! A room imports only from those above it in this list, and no file from one that imports it (`tests/tidy.rs`
//! checks that):
//!
//! | room | what |
//! |---|---|
//! | `ids`, `params` | numbers of volunteers and releases; every parameter with its reason |
//! | `tables` | blobs to values and to holders, compactly; hashes |
//! | `inputs`, `outputs` | what the policy is told, and what it answers |
//! | `fleet` | what is known of each volunteer: sessions, tests, load, orders |
//! | `demand` | what is asked for: files, releases, crowds |
//! | `redirect` | who answers one request |
//! | `placement` | who should hold what |
//!
//! This file puts them together: [`Policy`] takes each input through the rooms that it concerns.

mod demand;
mod fleet;
mod ids;
mod inputs;
mod outputs;
mod params;
mod placement;
mod redirect;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use fleet::node::{Node, NodeState};
pub use fleet::position::{KEPT_FOR, Known, Position};
pub use fleet::roster::Fleet;
pub use fleet::stability::Class;
pub use fleet::tracker::Tracker;
pub use ids::{NodeNo, ReleaseNo};
pub use inputs::{
    Asker, Event, Joined, Load, Outcome, Presence, Record, Release, ReleasedFile, Remembered, Request,
    Serving,
};
pub use outputs::{CrowdReport, Decision, Gate, Order, OriginReason, Probe, Stage, Subject, Task};
pub use params::Params;
pub use placement::lint::Violation;
pub use redirect::balancer::{Candidate, Explanation};
pub use redirect::eligible::Exclusion;
pub use redirect::recent::Tries;

use demand::counters::{Demand, Recent};
use demand::crowd::Crowds;
use demand::release::Releases;
use demand::watch::Decided;
use placement::placer::Placer;
use placement::scene::{Scene, Want};
use rand::Rng;
use redirect::balancer::Scratch;
use redirect::eligible::View;
use redirect::recent::Askers;
use redirect::{arriving, balancer, origin};

use crate::config::Networks;
use crate::formats::control::{Ended, JournalSpan};
use crate::model::{Blob, BlobId, Time};

/// Blobs looked at per [`Policy::tend`]: bounds how long the policy is held.
const TENDED: usize = 1024;

/// Tests of volunteers that begin within a second: all of 5,000 that clients are sent to as often as
/// `probe_every` says, at 16 MB/s.
const PROBES_AT_ONCE: usize = 256;

/// Files of a waiting generation that are looked at per [`Policy::seed`].
const SEEDED: usize = 256;
/// Holders looked at for alternatives to the chosen one.
const OTHERS: usize = 32;

/// Everything the server decides with.
#[derive(Debug)]
pub struct Policy {
    params: Params,
    networks: Networks,
    tracker: Tracker,
    demand: Demand,
    placer: Placer,
    releases: Releases,
    crowds: Crowds,
    askers: Askers,
    origin: origin::Line,
    scratch: Scratch,
    has_doubts: bool,
}

impl Policy {
    pub fn new(params: Params, networks: Networks) -> Self {
        Self {
            tracker: Tracker::new(params.clone()),
            demand: Demand::new(&params),
            placer: Placer::default(),
            releases: Releases::default(),
            crowds: Crowds::default(),
            askers: Askers::default(),
            origin: origin::Line::default(),
            scratch: Scratch::default(),
            has_doubts: false,
            params,
            networks,
        }
    }

    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    pub fn join(&mut self, join: Joined, now: Time) -> (NodeNo, u32) {
        self.placer.rings.changed();
        self.tracker.join(join, now)
    }

    /// See [`Tracker::resume`].
    pub fn resume(&mut self, node: NodeNo, span: Option<JournalSpan>, now: Time) -> Option<u64> {
        self.tracker.resume(node, span, now)
    }

    pub fn handle(&mut self, event: Event<'_>, now: Time) {
        if matches!(event, Event::Left { .. } | Event::Probed { .. }) {
            self.placer.rings.changed();
        }
        if let Event::Reported { node, load, .. } = event {
            let mut running = BTreeMap::new();
            load.remaining.iter().for_each(|blob| *running.entry(blob.id).or_default() += 1);
            self.fared(Some(node), running, &load.ended, now);
        }
        self.tracker.handle(event, now);
    }

    /// What a sender says of its downloads.
    fn fared(
        &mut self,
        sender: Option<NodeNo>,
        running: impl IntoIterator<Item = (BlobId, u32)>,
        ended: &[Ended],
        now: Time,
    ) {
        let Self { crowds, releases, params, .. } = self;
        let release = |blob| releases.of(params, blob, now).map(|file| file.release);
        let ended = ended.iter().map(|ended| (*ended, release(ended.blob)));
        crowds.told(sender, running.into_iter(), ended, now);
    }

    /// Decides who answers a package request, and books it.
    pub fn choose(&mut self, request: &Request, now: Time, rng: &mut impl Rng) -> Decision {
        self.book(request, now, rng).0
    }

    /// The decision, and the demand with this request.
    fn book(&mut self, request: &Request, now: Time, rng: &mut impl Rng) -> (Decision, Recent) {
        let (blob, asker) = (request.blob, request.client);
        self.tracker.touch(blob.id);
        self.demand.touch(blob.id);
        let request = &self.at_this_instant(request, now);
        self.tracker.note_origin_load(request.origin_load);
        let tries = self.tries(request, now);
        let offer = self.origin.offer(&self.params);
        let view = View { params: &self.params, networks: &self.networks, request, tries, offer, now };
        let decision = match balancer::choose(&mut self.tracker, &view, &mut self.scratch, rng) {
            Decision::Origin(reason) if arriving::may_help(&view, reason) => {
                let coming = self.placer.coming(blob.id);
                arriving::choose(&mut self.tracker, &view, coming, rng).unwrap_or(Decision::Origin(reason))
            }
            decision => decision,
        };
        let mut recent = Recent::default();
        if request.len > 0 {
            // A download in parts is asked for once.
            let weight = if request.is_segment { request.len as f64 / blob.size.max(1) as f64 } else { 1.0 };
            recent = self.demand.record_part(blob, weight.min(1.0), now);
            let release = self.releases.of(&self.params, blob.id, now).map(|file| file.release);
            let node = match decision {
                Decision::Volunteer { node, .. } => Some(node),
                Decision::Origin(_) => None,
            };
            let decided = Decided { bytes: request.len, node, is_segment: request.is_segment };
            self.crowds.record(&self.params, (blob, recent), release, decided, now);
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
                        self.askers.redirected((asker, blob.id), node, tries, now);
                    }
                }
                Decision::Origin(reason) => {
                    match reason {
                        OriginReason::AllSlow => self.origin.give(&self.params, request.len, now),
                        _ => self.origin.add(&self.params, request.len, now),
                    }
                    self.askers.served((asker, blob.id), tries, now);
                }
            }
        }
        (decision, recent)
    }

    /// The request with the server's load as the decisions since the measurement make it.
    fn at_this_instant(&mut self, request: &Request, now: Time) -> Request {
        Request { origin_load: self.origin.load(&self.params, request.origin_load, now), ..*request }
    }

    /// A request of another time: all that it says is that the blob is in demand.
    pub fn learn(&mut self, blob: Blob, now: Time) {
        self.demand.record(blob, now);
    }

    /// What the server's own line is doing: to be told every second, since no request may say it.
    pub fn measured(&mut self, serving: Serving, now: Time) {
        let load = self.origin.load(&self.params, serving.load, now);
        self.tracker.note_origin_load(load);
        self.fared(None, serving.running, &serving.ended, now);
    }

    fn tries(&self, request: &Request, now: Time) -> Option<Tries> {
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
            self.askers.served((client, blob.id), tries, now);
            // The server sends it after all. It is the same request.
            let release = self.releases.of(&self.params, blob.id, now).map(|file| file.release);
            let decided = Decided { bytes: blob.size, node: None, is_segment: true };
            self.crowds.record(&self.params, (blob, Recent::default()), release, decided, now);
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

    /// The same where it may have sent wrong bytes of a blob: it is tested by that one, if it says that it holds it, or
    /// when it has fetched it.
    pub fn suspect(&mut self, node: NodeNo, blob: Blob) {
        let is_holder = self.tracker.holders(blob.id).any(|holder| holder == node);
        let node = self.tracker.node_mut(node);
        if is_holder {
            node.standing.sent(blob);
        } else if !node.orders.owe(&blob.id) {
            return;
        }
        node.standing.hasten();
    }

    /// Tests of volunteers that are due, a few hundred at most; to be asked every second, and when there are doubts.
    pub fn probes(&mut self, now: Time) -> Vec<Probe> {
        self.tracker.probes(PROBES_AT_ONCE, now)
    }

    /// [`Self::choose`], and the copies that the demand now asks for.
    pub fn decide(&mut self, request: &Request, now: Time, rng: &mut impl Rng) -> (Decision, Vec<Order>) {
        let (decision, recent) = self.book(request, now, rng);
        let may_place = request.len > 0
            && match decision {
                Decision::Origin(OriginReason::SmallFile) => false,
                Decision::Origin(_) => true,
                Decision::Volunteer { .. } => recent.requests >= self.params.hot_requests,
            };
        let is_held = !self.params.cut_through || self.tracker.holders(request.blob.id).next().is_some();
        let orders = if may_place && self.demand.is_due(request.blob.id, is_held, now) {
            self.place(request.blob, now)
        } else {
            Vec::new()
        };
        (decision, orders)
    }

    /// Why [`Self::choose`] would decide what it decides; books nothing.
    pub fn explain(&mut self, request: &Request, now: Time) -> Explanation {
        let request = &self.at_this_instant(request, now);
        let tries = self.tries(request, now);
        self.tracker.note_origin_load(request.origin_load);
        let offer = self.origin.offer(&self.params);
        let view = View { params: &self.params, networks: &self.networks, request, tries, offer, now };
        let mut explanation = balancer::explain(&mut self.tracker, &view, balancer::MAX_HOLDERS);
        if explanation.origin.is_some_and(|reason| arriving::may_help(&view, reason)) {
            let coming = self.placer.coming(request.blob.id);
            let (candidates, is_sooner) = arriving::explain(&mut self.tracker, &view, coming);
            if is_sooner {
                explanation.origin = None;
            }
            explanation.candidates.splice(0..0, candidates);
        }
        explanation
    }

    /// Holders that would do besides the chosen one, the best first, of the first few that there are.
    pub fn others(&mut self, request: &Request, now: Time) -> impl Iterator<Item = NodeNo> + use<> {
        let request = &self.at_this_instant(request, now);
        let tries = self.tries(request, now);
        let offer = self.origin.offer(&self.params);
        let view = View { params: &self.params, networks: &self.networks, request, tries, offer, now };
        let explained = balancer::explain(&mut self.tracker, &view, OTHERS);
        let able = explained.candidates.into_iter().filter(|candidate| candidate.excluded.is_none());
        able.map(|candidate| candidate.node)
    }

    /// Where clients of an address were sent for a blob a moment ago, whatever programs they are.
    pub fn asked_before(&self, address: IpAddr, blob: BlobId, now: Time) -> Vec<Tries> {
        self.askers.of_address(&self.params, address, blob, now).collect()
    }

    /// Copies that are missing of what was asked for lately, over the next blobs in turn: for volunteers
    /// that have just joined, and instead of those that have left. What full stores may give up is looked for.
    pub fn tend(&mut self, now: Time) -> Vec<Order> {
        let mut orders = self.seed(now);
        self.placer.sweep(&self.tracker);
        let Self { placer, releases, tracker, demand, params, networks, .. } = self;
        let scene = Scene { tracker, demand, params, networks, now };
        placer.rings.refresh(scene.tracker, params, now);
        placer.cold.look(&scene, &placer.rings.full, |blob| releases.of(params, blob, now).is_some());
        let smallest = self.params.small_file;
        for blob in self.demand.slice(TENDED, now).into_iter().filter(|blob| blob.size >= smallest) {
            orders.extend(self.place_as(blob, false, now));
        }
        orders
    }

    /// A generation is about to become visible, or just has. Its files inherit the demand for their predecessors;
    /// the orders are for the copies that its likely hot ones need before. Where a gate exempts a repository,
    /// this is called all the same, and [`Self::gate`] is not.
    pub fn released(&mut self, release: &Release, now: Time) -> (ReleaseNo, Vec<Order>) {
        self.placer.cold.forget();
        let (no, usual) = self.releases.add(&self.params, &mut self.demand, release, now);
        self.crowds.watch(&self.params, no, release.name.clone(), usual);
        (no, self.seed(now))
    }

    /// Whether that generation may become visible.
    pub fn gate(&mut self, release: ReleaseNo, now: Time) -> Gate {
        let Some((awaited, until)) = self.releases.awaited(&self.params, release, now) else {
            return Gate::Open;
        };
        let lacking: Vec<(Blob, usize)> =
            awaited.into_iter().map(|blob| (blob, self.lacking(blob, now))).filter(|(_, n)| *n > 0).collect();
        let copies = lacking.iter().map(|(_, copies)| copies).sum();
        let lacking: BTreeSet<BlobId> = lacking.into_iter().map(|(blob, _)| blob.id).collect();
        self.releases.arrived(release, |blob| !lacking.contains(&blob.id));
        if copies == 0 { Gate::Open } else { Gate::Waits { copies, until } }
    }

    /// Orders that are still missing for the next files of the generations that wait at their gates; to be asked
    /// several times a second while one waits.
    pub fn seed(&mut self, now: Time) -> Vec<Order> {
        let mut orders = Vec::new();
        for (no, blobs) in self.releases.waiting(SEEDED) {
            // One whose time is over is open, whether anybody asks or not.
            if self.releases.awaited(&self.params, no, now).is_some() {
                blobs.into_iter().for_each(|blob| orders.extend(self.place_as(blob, false, now)));
            }
        }
        orders
    }

    /// What there is to say of flash crowds; to be asked every second.
    pub fn crowds(&mut self, now: Time) -> Vec<CrowdReport> {
        self.crowds.reports(&self.params, &self.tracker, now)
    }

    /// Which volunteers should fetch the blob now, given what is asked for.
    pub fn place(&mut self, blob: Blob, now: Time) -> Vec<Order> {
        self.place_as(blob, true, now)
    }

    fn place_as(&mut self, blob: Blob, is_asked: bool, now: Time) -> Vec<Order> {
        let want = self.want(blob.id, is_asked, now);
        let Self { placer, tracker, demand, params, networks, .. } = self;
        placer.place(&mut Scene { tracker, demand, params, networks, now }, blob, want)
    }

    fn lacking(&mut self, blob: Blob, now: Time) -> usize {
        let want = self.want(blob.id, false, now);
        let Self { placer, tracker, demand, params, networks, .. } = self;
        placer.lacking(&mut Scene { tracker, demand, params, networks, now }, blob, want)
    }

    fn want(&self, blob: BlobId, is_asked: bool, now: Time) -> Want {
        let new = self.releases.of(&self.params, blob, now);
        Want {
            recent: self.demand.of(blob, now),
            crowd: self.crowds.rate(&self.params, blob),
            is_new: new.is_some(),
            is_awaited: new.is_some_and(|file| file.is_hot),
            is_asked,
        }
    }

    /// What is asked for most in the long run, to be kept over a restart; at most `max`.
    pub fn export_demand(&self, max: usize, now: Time) -> Vec<Remembered> {
        self.demand.export(max, now)
    }

    /// Takes back what was exported.
    pub fn import_demand(&mut self, remembered: impl IntoIterator<Item = Remembered>, now: Time) {
        self.demand.import(remembered, now);
    }
}
