//! The volunteers as a whole: the policy that knows them, and what its decisions need: randomness, and the keys by
//! which volunteers know this server's requests.
//!
//! The policy is behind one lock, which is held for one question or one command, never across an `.await` and not
//! while anything is logged. Nobody else gets hold of it. Times are the caller's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use tokio::sync::Notify;

use super::holdings::{self, Kept};
use super::sessions::Sessions;
use super::status;
use crate::config::{Networks, ServeConfig};
use crate::formats::control::{HoldingsChange, JournalSpan, MAX_HOLDINGS};
use crate::formats::status::VolunteerStatus;
use crate::formats::ticket::Key;
use crate::io::clock;
use crate::model::{Blob, BlobId, Seen, Time, VolunteerId};
use crate::policy::{
    Asker, Class, CrowdReport, Decision, Event, Explanation, Gate, Joined, Known, NodeNo, NodeState, Order,
    Outcome, Params, Policy, Probe, Record, Release, ReleaseNo, Remembered, Request, Serving, Tries,
};

/// See the module's documentation.
#[derive(Debug)]
pub struct Fleet {
    /// What the policy goes by.
    pub params: Params,
    pub sessions: Sessions,
    chooser: Mutex<Chooser>,
    /// A volunteer is to be tested at once.
    doubts: Notify,
    /// Volunteers' holdings from before the start.
    kept: Kept,
}

/// The policy and what it needs to act: randomness and keys.
#[derive(Debug)]
struct Chooser {
    policy: Policy,
    rng: Pcg64Mcg,
    signers: BTreeMap<NodeNo, Signer>,
}

/// What makes a volunteer's URLs.
#[derive(Clone, Debug)]
pub struct Signer {
    pub key: Arc<Key>,
    /// Its base URL in the failover zone.
    pub named_url: Option<Arc<str>>,
    /// The peer address of its control connection.
    pub peer: IpAddr,
}

/// A decision with what is needed to carry it out.
#[derive(Debug)]
pub enum Choice {
    /// Redirect to this base URL, or to the signer's, which signs.
    Volunteer {
        node: NodeNo,
        base_url: Arc<str>,
        signer: Signer,
    },
    Origin,
}

/// Who answers a request, and why.
#[derive(Debug)]
pub struct Decided {
    pub choice: Choice,
    pub decision: Decision,
    /// The volunteer's name, if it is asked for.
    pub chosen: Option<VolunteerId>,
    /// Copies to be made.
    pub orders: Vec<Order>,
}

/// Why a client's request would go where it would go.
#[derive(Debug)]
pub struct Explained {
    pub explanation: Explanation,
    /// How stable each candidate is, in their order.
    pub classes: Vec<Class>,
    /// Where the client's address was sent for this blob, with names.
    pub asked_before: Vec<(Tries, Vec<VolunteerId>)>,
}

/// What a test changed.
#[derive(Debug)]
pub struct Tested {
    pub before: NodeState,
    pub after: NodeState,
    /// If it is another than before.
    pub record: Option<Record>,
    pub problem: Option<String>,
}

impl Fleet {
    /// Blocks: it reads what the last process kept of holdings.
    pub fn new(config: &ServeConfig) -> std::io::Result<Self> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
        // Each repository has its own bound on waiting, which is kept where that is.
        let gates = config.repos.iter().map(|repo| repo.publish_gate);
        let params = Params::default();
        let gate_wait = gates.max().unwrap_or_default().max(params.gate_wait);
        let uplink = config.uplink.0 as f64;
        let (patience, min_share) = (config.patience, config.min_share.0 as f64);
        let params = Params { gate_wait, uplink, patience, min_share, ..params };
        let policy = Policy::new(params.clone(), config.networks.clone());
        let chooser = Chooser { policy, rng: Pcg64Mcg::from_seed(seed), signers: BTreeMap::new() };
        Ok(Self {
            params,
            sessions: Sessions::default(),
            chooser: Mutex::new(chooser),
            doubts: Notify::new(),
            kept: Kept::read(&config.state_dir),
        })
    }

    fn policy<T>(&self, with: impl FnOnce(&mut Policy) -> T) -> T {
        with(&mut self.chooser().policy)
    }

    fn chooser(&self) -> MutexGuard<'_, Chooser> {
        // Policy calls do not panic half-way through a change that matters: worst case is a wrong estimate.
        self.chooser.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the policy is free: a process in which it never is must not go on serving.
    pub fn wait_for_policy(&self) {
        drop(self.chooser());
    }

    // ---- who they are -----------------------------------------------------------------------------

    pub fn count_up(&self, now: Time) -> usize {
        self.policy(|policy| policy.tracker().count_up(now))
    }

    pub fn status(&self, now: Time) -> Vec<VolunteerStatus> {
        self.policy(|policy| {
            policy.tracker().nodes().map(|(_, node)| status::volunteer(node, &self.params, now)).collect()
        })
    }

    /// How a volunteer is seen, in words for its administrator.
    pub fn seen(&self, node: NodeNo, networks: &Networks, now: Time) -> Seen {
        self.policy(|policy| status::seen(policy.tracker().node(node), networks, &self.params, now))
    }

    pub fn id_of(&self, node: NodeNo) -> VolunteerId {
        self.policy(|policy| policy.tracker().node(node).id.clone())
    }

    pub fn base_url_of(&self, node: NodeNo) -> Arc<str> {
        self.policy(|policy| policy.tracker().node(node).base_url.clone())
    }

    /// Who a volunteer is, where it serves and what signs for it there.
    pub fn address_of(&self, node: NodeNo) -> Option<(VolunteerId, Arc<str>, Arc<Key>)> {
        let chooser = self.chooser();
        let key = chooser.signers.get(&node)?.key.clone();
        let node = chooser.policy.tracker().node(node);
        Some((node.id.clone(), node.base_url.clone(), key))
    }

    /// The volunteer of this name, if it is well.
    pub fn find_up(&self, id: &VolunteerId, now: Time) -> Option<NodeNo> {
        self.policy(|policy| {
            let (no, _) = policy.tracker().find(id)?;
            policy.tracker().is_up(no, now).then_some(no)
        })
    }

    /// The volunteer of this name, with its base URL if it is well. With `was_well`, having been so lately is enough.
    pub fn find_address(
        &self,
        id: &VolunteerId,
        was_well: bool,
        now: Time,
    ) -> Option<(NodeNo, Option<Arc<str>>)> {
        self.policy(|policy| {
            let (no, node) = policy.tracker().find(id)?;
            let is_recent = || now.since(node.last_seen) <= self.params.stale_after;
            let is_well = policy.tracker().is_up(no, now) || (was_well && is_recent());
            Some((no, is_well.then(|| node.base_url.clone())))
        })
    }

    /// Another process that is connected as this volunteer, and where it serves.
    pub fn twin(&self, id: &VolunteerId, instance: u64) -> Option<(NodeNo, Arc<str>)> {
        self.policy(|policy| {
            let (no, node) = policy.tracker().nodes().find(|(_, node)| node.id == *id)?;
            let is_other = node.is_connected() && node.instance != instance;
            is_other.then(|| (no, node.base_url.clone()))
        })
    }

    // ---- their coming and going -------------------------------------------------------------------

    pub fn join(&self, joined: Joined, now: Time) -> (NodeNo, u32) {
        self.policy(|policy| policy.join(joined, now))
    }

    /// Goes on with what was known of a volunteer that has just joined, from its last session or from before the
    /// start. Returns the number of the first change that it has to announce; `None` is everything.
    pub fn resume(
        &self,
        node: NodeNo,
        epoch: u32,
        id: &VolunteerId,
        span: Option<JournalSpan>,
    ) -> Option<u64> {
        let now = clock::now();
        let kept = self.kept.take(id, span);
        if let Some(next) = self.policy(|policy| policy.resume(node, span, now)) {
            return Some(next);
        }
        let Known { position, blobs, .. } = kept?;
        for blobs in blobs.chunks(MAX_HOLDINGS) {
            let event = Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs };
            self.handle(event, now);
        }
        self.handle(Event::Announced { node, epoch, next: position.next }, now);
        Some(position.next)
    }

    /// Stops waiting for volunteers that have not come back by now.
    pub fn forget_kept(&self) {
        self.kept.clear();
    }

    /// Saves volunteers' holdings for the next process. Blocks.
    pub fn keep_holdings(&self, state_dir: &Path) {
        let known = self.policy(|policy| policy.tracker().known(holdings::MAX_KEPT, clock::now()));
        if let Err(e) = holdings::write(state_dir, &known) {
            tracing::warn!(error = %e, "cannot save volunteers' holdings; they will announce everything");
        }
    }

    /// Takes in what happened at a volunteer.
    pub fn handle(&self, event: Event<'_>, now: Time) {
        self.policy(|policy| policy.handle(event, now));
    }

    /// Takes in several that belong together: nothing is decided in between.
    pub fn handle_all<'a>(&self, events: impl IntoIterator<Item = Event<'a>>, now: Time) {
        self.policy(|policy| events.into_iter().for_each(|event| policy.handle(event, now)));
    }

    /// A session has ended by itself; returns the volunteer's record, if that changed it.
    pub fn lost(&self, node: NodeNo, epoch: u32, clean: bool, now: Time) -> Option<Record> {
        let record = |policy: &Policy| policy.tracker().node(node).standing.record;
        let (before, after) = self.policy(|policy| {
            let before = record(policy);
            policy.handle(Event::Left { node, epoch, clean }, now);
            (before, record(policy))
        });
        (before != after).then_some(after)
    }

    /// A volunteer says that it leaves; returns when a client was sent there last.
    pub fn leaves(&self, node: NodeNo, epoch: u32, now: Time) -> Option<Time> {
        self.policy(|policy| {
            policy.handle(Event::Left { node, epoch, clean: true }, now);
            policy.tracker().node(node).last_redirect
        })
    }

    // ---- their keys ---------------------------------------------------------------------------------

    /// Sets how a volunteer's URLs are made from now on.
    pub fn set_signer(&self, node: NodeNo, signer: Signer) {
        self.chooser().signers.insert(node, signer);
    }

    pub fn signer(&self, node: NodeNo) -> Option<Signer> {
        self.chooser().signers.get(&node).cloned()
    }

    pub fn key(&self, node: NodeNo) -> Option<Arc<Key>> {
        self.chooser().signers.get(&node).map(|signer| signer.key.clone())
    }

    /// The key of the volunteer of this name. A look-up by name, whatever the number of volunteers.
    pub fn key_of(&self, id: &VolunteerId) -> Option<Arc<Key>> {
        let chooser = self.chooser();
        let (node, _) = chooser.policy.tracker().find(id)?;
        chooser.signers.get(&node).map(|signer| signer.key.clone())
    }

    // ---- who answers --------------------------------------------------------------------------------

    /// Decides who answers. The volunteer's name is only looked up with `name`: it is for the log.
    pub fn decide(&self, request: &Request, name: bool, now: Time) -> Decided {
        let mut chooser = self.chooser();
        let Chooser { policy, rng, signers } = &mut *chooser;
        let (decision, orders) = policy.decide(request, now, rng);
        let has_doubts = policy.has_doubts();
        let (choice, chosen) = match decision {
            Decision::Volunteer { node, .. } => {
                let chosen = policy.tracker().node(node);
                let base_url = chosen.base_url.clone();
                let signer = signers.get(&node).cloned();
                let choice = signer.map(|signer| Choice::Volunteer { node, base_url, signer });
                let id = name.then(|| chosen.id.clone());
                (choice.unwrap_or(Choice::Origin), id)
            }
            Decision::Origin(_) => (Choice::Origin, None),
        };
        drop(chooser);
        if has_doubts {
            self.test_now();
        }
        Decided { choice, decision, chosen, orders }
    }

    /// Up to `count` further volunteers that hold a blob, best first, with the keys to sign for them. Nothing is
    /// booked: whoever was chosen gets the download, unless it fails.
    pub fn others(&self, request: &Request, chosen: &str, count: usize) -> Vec<(Arc<str>, Arc<Key>)> {
        let mut chooser = self.chooser();
        let Chooser { policy, signers, .. } = &mut *chooser;
        let others = policy.others(request, clock::now());
        let holder = |node: NodeNo| {
            let base_url = policy.tracker().node(node).base_url.clone();
            let signer = signers.get(&node).filter(|_| *base_url != *chosen)?;
            Some((base_url, signer.key.clone()))
        };
        others.filter_map(holder).take(count).collect()
    }

    /// Why a request would go where it would go. Nothing is booked.
    pub fn explain(&self, request: &Request, now: Time) -> Explained {
        self.policy(|policy| {
            let explanation = policy.explain(request, now);
            let tracker = policy.tracker();
            let class = |node| tracker.node(node).class(&self.params, now);
            let names =
                |tries: &Tries| tries.nodes().iter().map(|node| tracker.node(*node).id.clone()).collect();
            let asked = policy.asked_before(request.client.address, request.blob.id, now);
            Explained {
                classes: explanation.candidates.iter().map(|candidate| class(candidate.node)).collect(),
                asked_before: asked.into_iter().map(|tries| (tries, names(&tries))).collect(),
                explanation,
            }
        })
    }

    /// A client asks here for what it was perhaps redirected for: it did not get it there.
    pub fn came_back(&self, client: Asker, blob: Blob, now: Time) {
        if self.policy(|policy| policy.came_back(client, blob, now)) {
            self.test_now();
        }
    }

    // ---- what is wanted, and copies of it -------------------------------------------------------------

    /// Takes in what this server itself sends, and tells of flash crowds.
    pub fn measured(&self, serving: Serving, now: Time) -> Vec<CrowdReport> {
        self.policy(|policy| {
            policy.measured(serving, now);
            policy.crowds(now)
        })
    }

    pub fn export_demand(&self, max: usize, now: Time) -> Vec<Remembered> {
        self.policy(|policy| policy.export_demand(max, now))
    }

    pub fn import_demand(&self, remembered: Vec<Remembered>, now: Time) {
        self.policy(|policy| policy.import_demand(remembered, now));
    }

    pub fn holders(&self, blob: BlobId) -> Vec<NodeNo> {
        self.policy(|policy| policy.tracker().holders(blob).collect())
    }

    /// Part of their lines that volunteers are to have for each other.
    pub fn sync_share(&self) -> f64 {
        self.policy(|policy| policy.tracker().sync_share())
    }

    /// Copies of a blob whose bytes have just become known.
    pub fn place(&self, blob: Blob, now: Time) -> Vec<Order> {
        self.policy(|policy| policy.place(blob, now))
    }

    /// Copies that are missing of what was asked for lately.
    pub fn tend(&self, now: Time) -> Vec<Order> {
        self.policy(|policy| policy.tend(now))
    }

    /// A new generation, and first copies of its files.
    pub fn released(&self, release: &Release, now: Time) -> (ReleaseNo, Vec<Order>) {
        self.policy(|policy| policy.released(release, now))
    }

    /// Whether the generation may become visible.
    pub fn gate(&self, release: ReleaseNo, now: Time) -> Gate {
        self.policy(|policy| policy.gate(release, now))
    }

    /// Copies that generations are still waiting for.
    pub fn seed(&self, now: Time) -> Vec<Order> {
        self.policy(|policy| policy.seed(now))
    }

    // ---- tests of them --------------------------------------------------------------------------------

    /// Has tests looked for that are due now, before the next tick.
    pub fn test_now(&self) {
        self.doubts.notify_one();
    }

    /// Completes when [`Self::test_now`] was called.
    pub async fn tests_wanted(&self) {
        self.doubts.notified().await;
    }

    pub fn probes(&self, now: Time) -> Vec<Probe> {
        self.policy(|policy| policy.probes(now))
    }

    /// Takes in the outcome of a test.
    pub fn probed(&self, probe: &Probe, outcome: Outcome, now: Time) -> Tested {
        let Probe { node, epoch, .. } = *probe;
        self.policy(|policy| {
            let state = |policy: &Policy| {
                let node = policy.tracker().node(node);
                (node.state(&self.params, now), node.standing.record)
            };
            let (before, known) = state(policy);
            policy.handle(Event::Probed { node, epoch, outcome }, now);
            let (after, record) = state(policy);
            let problem = policy.tracker().node(node).standing.problem.clone();
            Tested { before, after, record: (known != record).then_some(record), problem }
        })
    }

    /// Something speaks against a volunteer that clients were sent to: has it tested soon.
    pub fn hasten(&self, node: NodeNo) {
        self.policy(|policy| policy.hasten(node));
        self.test_now();
    }

    /// The volunteer of this name, if there is one, is to be tested by this blob.
    pub fn suspect(&self, id: &VolunteerId, blob: Blob) {
        self.policy(|policy| {
            if let Some((node, _)) = policy.tracker().find(id) {
                policy.suspect(node, blob);
            }
        });
    }
}
