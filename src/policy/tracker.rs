//! What the server knows of its volunteers: who is up, who holds what, how busy each is.
//!
//! Fed by [`Event`]s alone. A volunteer's *epoch* counts its sessions. Holdings carry the epoch of the session
//! that announced them all; others are ignored, and swept out later, a slice at a time. A session may go on with
//! the holdings of the one before ([`super::resume`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Probe;
use super::ledger::Ledger;
use super::params::Params;
use super::resume::{KEPT_FOR, Left, Position};
use super::standing::{Outcome, Record, Standing};
use crate::config::contain;
use crate::formats::control::HoldingsChange;
use crate::model::{Blob, BlobId, Rate, Size, Time, VolunteerId};

/// Volunteers known at a time, gone ones included.
const MAX_NODES: usize = 10_000;
/// Holdings that one volunteer may announce: twice the mission's repository of 2.2 million files.
const MAX_HOLDINGS: u64 = 4_400_000;
/// Holder lists looked at per sweep.
const SWEEP: usize = 4096;

/// Index of a volunteer in the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNo(u32);

impl NodeNo {
    /// Counts from 0, in the order of first joining.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
pub(super) fn node_no(number: u32) -> NodeNo {
    NodeNo(number)
}

/// A volunteer that introduces itself.
#[derive(Clone, Debug)]
pub struct Joined {
    pub id: VolunteerId,
    /// Base URL that clients are sent to.
    pub base_url: Arc<str>,
    /// Only clients on the server's own machine can reach it.
    pub is_local: bool,
    pub donate: Rate,
    pub max_size: Size,
    /// The only networks whose clients it serves, as it says itself; empty is all.
    pub clients: Vec<IpNet>,
    /// Its process, so that two with one identity are told apart.
    pub instance: u64,
    /// It says itself that it comes and goes.
    pub is_volatile: bool,
    pub record: Record,
}

/// What happened. Events of an old session (another epoch) are ignored.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The control connection ended; `clean` if the volunteer had said so, or the server itself ended it.
    Left {
        node: NodeNo,
        epoch: u32,
        clean: bool,
    },
    Holdings {
        node: NodeNo,
        epoch: u32,
        change: HoldingsChange,
        blobs: &'a [BlobId],
    },
    /// Changes of holdings are announced up to this number of the volunteer's journal.
    Announced {
        node: NodeNo,
        epoch: u32,
        next: u64,
    },
    Reported {
        node: NodeNo,
        epoch: u32,
        load: &'a Load,
    },
    OrderEnded {
        node: NodeNo,
        epoch: u32,
        blob: BlobId,
        failed: bool,
    },
    /// A test of the server's own has ended.
    Probed {
        node: NodeNo,
        epoch: u32,
        outcome: Outcome,
    },
}

/// A heartbeat's figures.
#[derive(Clone, Debug, Default)]
pub struct Load {
    pub uploads: u32,
    pub remaining: Vec<Blob>,
    pub served_bytes: u64,
    pub served_requests: u64,
    pub store_bytes: u64,
}

/// Whether a volunteer is given clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    Up,
    /// A heartbeat is missing.
    Suspect,
    /// It has just joined; whether clients can reach it is being tested.
    Testing,
    /// The server's own test does not reach it: so it is for clients.
    Unreachable,
    /// The server's own test got too little from it.
    Slow,
    /// It sent wrong bytes.
    Quarantined,
    Down,
}

impl NodeState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Testing => "testing",
            Self::Unreachable => "unreachable",
            Self::Slow => "slow",
            Self::Quarantined => "quarantined",
            Self::Down => "down",
        }
    }
}

/// One volunteer.
#[derive(Debug)]
pub struct Node {
    pub id: VolunteerId,
    pub epoch: u32,
    pub base_url: Arc<str>,
    pub is_local: bool,
    pub donate: Rate,
    pub max_size: Size,
    pub holdings: u64,
    pub redirected_bytes: u64,
    pub redirects: u64,
    pub load: Load,
    pub last_seen: Time,
    /// Since when it has been connected.
    pub connected: Time,
    pub clients: Vec<IpNet>,
    pub instance: u64,
    pub standing: Standing,
    pub(super) ledger: Ledger,
    pub(super) orders: BTreeMap<BlobId, OrderState>,
    pub(super) holdings_epoch: u32,
    /// The journal of its changes, and up to where that is known.
    pub(super) journal: Option<u64>,
    pub(super) announced: Option<u64>,
    /// Of the session before.
    pub(super) left: Option<Left>,
    is_connected: bool,
}

/// An order given to a volunteer and not yet forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderState {
    pub since: Time,
    pub has_failed: bool,
}

impl Node {
    /// Estimated upload rate in bytes/s: what is donated, or less where the server's own tests say so. How
    /// fast clients were served proves nothing: the slow one may have been the client.
    pub fn rate(&self) -> f64 {
        self.standing.rate(self.donate.0 as f64)
    }

    /// Downloads that the ledger counts as running.
    pub fn in_flight(&self) -> usize {
        self.ledger.flows()
    }

    pub(super) fn position(&self) -> Option<Position> {
        Some(Position { journal: self.journal?, next: self.announced? })
    }

    pub fn open_orders(&self) -> usize {
        self.orders.values().filter(|order| !order.has_failed).count()
    }

    pub fn state(&self, params: &Params, now: Time) -> NodeState {
        let silence = now.since(self.last_seen);
        match () {
            () if !self.is_connected || silence > params.dead_after => NodeState::Down,
            () if self.standing.is_quarantined(now) => NodeState::Quarantined,
            () if silence > params.stale_after => NodeState::Suspect,
            () if self.standing.is_untested() => NodeState::Testing,
            () if self.standing.is_unreachable() => NodeState::Unreachable,
            () if self.standing.is_slow() => NodeState::Slow,
            () => NodeState::Up,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Whether it serves clients of this address, as far as it said itself.
    pub fn serves(&self, client: IpAddr) -> bool {
        self.clients.is_empty() || contain(&self.clients, client)
    }
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    node: NodeNo,
    epoch: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tracker {
    params: Params,
    nodes: Vec<Node>,
    by_id: BTreeMap<VolunteerId, NodeNo>,
    holders: BTreeMap<BlobId, Vec<Holder>>,
    swept: BlobId,
}

impl Tracker {
    pub fn new(params: Params) -> Self {
        Self {
            params,
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            holders: BTreeMap::new(),
            swept: BlobId([0; 32]),
        }
    }

    pub fn node(&self, no: NodeNo) -> &Node {
        &self.nodes[no.0 as usize]
    }

    pub(super) fn node_mut(&mut self, no: NodeNo) -> &mut Node {
        &mut self.nodes[no.0 as usize]
    }

    /// All volunteers ever seen, in the order of their first joining.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeNo, &Node)> {
        (0..).map(NodeNo).zip(&self.nodes)
    }

    /// The volunteer of this name, if it ever joined.
    pub fn find(&self, id: &VolunteerId) -> Option<(NodeNo, &Node)> {
        self.by_id.get(id).map(|no| (*no, self.node(*no)))
    }

    pub fn is_up(&self, no: NodeNo, now: Time) -> bool {
        self.node(no).state(&self.params, now) == NodeState::Up
    }

    pub fn count_up(&self, now: Time) -> usize {
        self.nodes.iter().filter(|node| node.state(&self.params, now) == NodeState::Up).count()
    }

    /// Starts a session; the epoch marks its events.
    pub fn join(&mut self, join: Joined, now: Time) -> (NodeNo, u32) {
        let no = match self.by_id.get(&join.id) {
            Some(no) => *no,
            None => self.new_slot(&join.id, now),
        };
        let old = self.nodes.get(no.0 as usize);
        let (epoch, redirected) =
            old.map_or((0, (0, 0)), |old| (old.epoch + 1, (old.redirected_bytes, old.redirects)));
        let old = old.filter(|old| old.id == join.id);
        let left = old.map(|old| Left {
            holdings_epoch: old.holdings_epoch,
            holdings: old.holdings,
            position: old.position(),
            last_seen: old.last_seen,
        });
        // What this server saw itself is newer than what it had written down.
        let standing = old
            .map_or_else(|| Standing::new(join.record, 0, now), |old| Standing::rejoined(&old.standing, now));
        let mut node = Node {
            id: join.id,
            epoch,
            base_url: join.base_url,
            is_local: join.is_local,
            donate: join.donate,
            max_size: join.max_size,
            holdings: 0,
            redirected_bytes: redirected.0,
            redirects: redirected.1,
            load: Load::default(),
            last_seen: now,
            connected: now,
            clients: join.clients,
            instance: join.instance,
            standing,
            ledger: Ledger::default(),
            orders: BTreeMap::new(),
            holdings_epoch: epoch,
            journal: None,
            announced: None,
            left,
            is_connected: true,
        };
        node.standing.record.returned(&self.params, now);
        node.standing.is_declared_volatile = join.is_volatile;
        match self.nodes.get_mut(no.0 as usize) {
            Some(slot) => *slot = node,
            None => self.nodes.push(node),
        }
        (no, epoch)
    }

    /// A free index: the next one, or that of a volunteer that is down when the table is full.
    fn new_slot(&mut self, id: &VolunteerId, now: Time) -> NodeNo {
        let longest_gone = || {
            let gone = |node: &&(usize, &Node)| node.1.state(&self.params, now) == NodeState::Down;
            self.nodes.iter().enumerate().filter(|(_, n)| gone(&&(0, n))).min_by_key(|(_, n)| n.last_seen)
        };
        let index = match longest_gone() {
            Some((index, _)) if self.nodes.len() >= MAX_NODES => index,
            _ => self.nodes.len(),
        };
        if let Some(old) = self.nodes.get(index) {
            self.by_id.remove(&old.id);
        }
        let no = NodeNo(u32::try_from(index).unwrap_or(u32::MAX));
        self.by_id.insert(id.clone(), no);
        no
    }

    pub fn handle(&mut self, event: Event<'_>, now: Time) {
        let (node, epoch) = match &event {
            Event::Left { node, epoch, .. }
            | Event::Holdings { node, epoch, .. }
            | Event::Announced { node, epoch, .. }
            | Event::Reported { node, epoch, .. }
            | Event::OrderEnded { node, epoch, .. }
            | Event::Probed { node, epoch, .. } => (*node, *epoch),
        };
        // Wrong bytes are proven whatever session they came in.
        let is_proof = matches!(event, Event::Probed { outcome: Outcome::Wrong { .. }, .. });
        if self.node(node).epoch != epoch && !is_proof {
            return;
        }
        match event {
            Event::Left { clean, .. } => {
                let node = self.node_mut(node);
                if node.is_connected && !clean {
                    node.standing.record.vanish(now);
                }
                node.is_connected = false;
                node.orders.clear();
                node.ledger = Ledger::default();
            }
            Event::Probed { outcome, .. } => {
                let node = &mut self.nodes[node.0 as usize];
                node.ledger.advance(node.rate(), now);
                // Who was redirected may not have come; and a report may say what it likes.
                let sharing = node.ledger.flows().min(node.load.uploads as usize);
                node.standing.probed(&self.params, outcome, sharing, now);
            }
            Event::Holdings { change, blobs, .. } => self.change_holdings(node, change, blobs),
            Event::Announced { next, .. } => self.node_mut(node).announced = Some(next),
            Event::Reported { load, .. } => self.reported(node, load, now),
            Event::OrderEnded { blob, failed, .. } => {
                let orders = &mut self.node_mut(node).orders;
                match orders.get_mut(&blob) {
                    Some(order) if failed => *order = OrderState { since: now, has_failed: true },
                    _ => drop(orders.remove(&blob)),
                }
            }
        }
    }

    fn change_holdings(&mut self, no: NodeNo, change: HoldingsChange, blobs: &[BlobId]) {
        let node = &mut self.nodes[no.0 as usize];
        let epoch = node.holdings_epoch;
        for blob in blobs {
            match change {
                HoldingsChange::Add if node.holdings < MAX_HOLDINGS => {
                    let holders = self.holders.entry(*blob).or_default();
                    match holders.iter_mut().find(|holder| holder.node == no) {
                        Some(holder) if holder.epoch == epoch => continue,
                        Some(holder) => holder.epoch = epoch,
                        None => holders.push(Holder { node: no, epoch }),
                    }
                    node.holdings += 1;
                }
                HoldingsChange::Add => {}
                HoldingsChange::Remove => {
                    let Some(holders) = self.holders.get_mut(blob) else { continue };
                    let before = holders.len();
                    holders.retain(|holder| holder.node != no || holder.epoch != epoch);
                    node.holdings -= (before - holders.len()) as u64;
                    if holders.is_empty() {
                        self.holders.remove(blob);
                    }
                }
            }
        }
    }

    fn reported(&mut self, no: NodeNo, load: &Load, now: Time) {
        let lag = self.params.report_lag;
        let node = &mut self.nodes[no.0 as usize];
        node.last_seen = now;
        node.ledger.advance(node.rate(), now);
        let unlisted = load.uploads.saturating_sub(u32::try_from(load.remaining.len()).unwrap_or(u32::MAX));
        node.ledger.reconcile(&load.remaining, unlisted, lag, now);
        node.load = load.clone();
        let (timeout, retry) = (self.params.order_timeout, self.params.order_retry);
        let keep =
            |order: &OrderState| now.since(order.since) < if order.has_failed { retry } else { timeout };
        node.orders.retain(|_, order| keep(order));
        self.sweep(now);
    }

    /// Books a redirect.
    pub(super) fn redirected(&mut self, no: NodeNo, blob: Blob, len: u64, now: Time) {
        let node = self.node_mut(no);
        node.ledger.add(blob.id, len, now);
        node.redirected_bytes += len;
        node.redirects += 1;
        node.standing.sent(blob);
    }

    /// Every holding that counts, of volunteers that are gone too.
    pub(super) fn all_holdings(&self) -> impl Iterator<Item = (BlobId, NodeNo)> + '_ {
        self.holders.iter().flat_map(move |(blob, holders)| {
            let current = move |holder: &&Holder| self.node(holder.node).holdings_epoch == holder.epoch;
            holders.iter().filter(current).map(move |holder| (*blob, holder.node))
        })
    }

    /// Books that a client asked again for what it was sent there for.
    pub(super) fn doubted(&mut self, no: NodeNo, blob: Blob) {
        self.node_mut(no).standing.doubted(blob);
    }

    /// Begins the tests that are due.
    pub(super) fn probes(&mut self, max: usize, now: Time) -> Vec<Probe> {
        let mut due = Vec::new();
        for (no, node) in (0..).map(NodeNo).zip(&mut self.nodes) {
            if due.len() == max {
                break;
            }
            if node.is_connected
                && let Some(blob) = node.standing.begin_probe(now)
            {
                due.push(Probe { node: no, epoch: node.epoch, base_url: node.base_url.clone(), blob });
            }
        }
        due
    }

    /// Volunteers of the current epoch that hold the blob, in whatever state.
    pub fn holders(&self, blob: BlobId) -> impl Iterator<Item = NodeNo> + '_ {
        let holders = self.holders.get(&blob).map_or(&[][..], Vec::as_slice);
        let current = holders.iter().filter(|holder| self.node(holder.node).holdings_epoch == holder.epoch);
        current.map(|holder| holder.node)
    }

    /// Those of them that count as copies: that are, or may soon be, sent clients.
    pub fn live_holders(&self, blob: BlobId, now: Time) -> impl Iterator<Item = NodeNo> + '_ {
        let is_live = move |no: &NodeNo| {
            let state = self.node(*no).state(&self.params, now);
            matches!(state, NodeState::Up | NodeState::Suspect | NodeState::Testing)
        };
        self.holders(blob).filter(is_live)
    }

    /// Removes holdings of ended sessions that no new one can go on with from the next slice of the table.
    fn sweep(&mut self, now: Time) {
        let slice: Vec<BlobId> = self.holders.range(self.swept..).take(SWEEP).map(|(id, _)| *id).collect();
        self.swept = if slice.len() < SWEEP { BlobId([0; 32]) } else { slice[SWEEP - 1] };
        for blob in slice {
            let Some(holders) = self.holders.get_mut(&blob) else { continue };
            let nodes = &self.nodes;
            holders.retain(|holder| {
                let node = &nodes[holder.node.0 as usize];
                node.holdings_epoch == holder.epoch
                    && (node.is_connected || now.since(node.last_seen) < KEPT_FOR)
            });
            if holders.is_empty() {
                self.holders.remove(&blob);
            }
        }
    }
}
