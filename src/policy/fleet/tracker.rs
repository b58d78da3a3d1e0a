//! What the server knows of its volunteers: who is up, who holds what, how busy each is.
//!
//! Fed by [`Event`]s alone. A volunteer's *epoch* counts its sessions; a session may go on with the holdings of
//! the one before ([`super::resume`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::ledger::Ledger;
use super::node::{Node, NodeState};
use super::orders::OrderState;
use super::position::KEPT_FOR;
use super::roster::{Brief, Fleet, Roster};
use super::stability::Class;
use crate::formats::control::HoldingsChange;
use crate::model::{Blob, BlobId, Time, VolunteerId};
use crate::policy::ids::NodeNo;
use crate::policy::inputs::{Event, Joined, Load, Outcome};
use crate::policy::outputs::{Order, Probe, Task};
use crate::policy::params::Params;
use crate::policy::tables::holdings::Holdings;

/// Volunteers known at a time, gone ones included.
const MAX_NODES: usize = 10_000;
/// Holdings that one volunteer may announce: twice the mission's repository of 2.2 million files.
const MAX_HOLDINGS: u64 = 4_400_000;
/// Between slices of a sweep, which take a millisecond each.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// A copy takes no longer, whatever its size.
const MAX_COPYING: Duration = Duration::from_secs(86_400);
/// How often it is looked for volunteers that are gone for too long.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug)]
pub struct Tracker {
    params: Params,
    nodes: Vec<Node>,
    roster: Roster,
    by_id: BTreeMap<VolunteerId, NodeNo>,
    pub(in crate::policy) holdings: Holdings,
    /// Since when it has been watching: its first volunteer's coming.
    began: Option<Time>,
    swept: Time,
    looked: Time,
    /// Whom a test was last begun of.
    probed: usize,
    /// How busy the server's own line was at the last request.
    origin_load: f64,
}

impl Tracker {
    pub fn new(params: Params) -> Self {
        Self {
            params,
            nodes: Vec::new(),
            roster: Roster::default(),
            by_id: BTreeMap::new(),
            holdings: Holdings::default(),
            began: None,
            swept: Time::default(),
            looked: Time::default(),
            probed: 0,
            origin_load: 0.0,
        }
    }

    pub fn node(&self, no: NodeNo) -> &Node {
        &self.nodes[no.0 as usize]
    }

    pub(in crate::policy) fn node_mut(&mut self, no: NodeNo) -> &mut Node {
        &mut self.nodes[no.0 as usize]
    }

    pub(in crate::policy) fn brief(&self, no: NodeNo) -> &Brief {
        self.roster.of(no)
    }

    /// How much what volunteers were given counts by now ([`Brief::given`]).
    pub(in crate::policy) fn fading(&self, now: Time) -> f64 {
        self.roster.fading(self.params.fairness_window, now)
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
        self.brief(no).is_up(now)
    }

    pub fn count_up(&self, now: Time) -> usize {
        self.nodes().filter(|(no, _)| self.is_up(*no, now)).count()
    }

    /// How many are up and what they carry together; costs nothing per volunteer.
    pub fn fleet(&mut self, now: Time) -> Fleet {
        self.roster.fleet(now)
    }

    pub fn class(&self, no: NodeNo, now: Time) -> Class {
        self.node(no).class(&self.params, now)
    }

    /// Starts a session; the epoch marks its events.
    pub fn join(&mut self, join: Joined, now: Time) -> (NodeNo, u32) {
        let no = match self.by_id.get(&join.id) {
            Some(no) => *no,
            None => self.new_slot(&join.id, now),
        };
        let began = *self.began.get_or_insert(now);
        self.end_orders(no, now);
        self.drop_left(no);
        self.roster.begins(no);
        let Some(old) = self.nodes.get_mut(no.0 as usize) else {
            self.nodes.push(Node::join(&self.params, join, None, began, now));
            self.renew(no, now);
            return (no, 0);
        };
        let is_same = old.id == join.id;
        let node = Node {
            epoch: old.epoch + 1,
            redirected_bytes: old.redirected_bytes,
            redirects: old.redirects,
            ..Node::join(&self.params, join, Some(&*old).filter(|_| is_same), began, now)
        };
        let shelf = old.shelf.take();
        *old = node;
        match shelf {
            Some(shelf) if is_same => self.holdings.park(shelf),
            Some(shelf) => self.holdings.retire(shelf),
            None => {}
        }
        self.renew(no, now);
        (no, self.node(no).epoch)
    }

    /// What the session before left and this one did not go on with.
    pub(in crate::policy) fn drop_left(&mut self, no: NodeNo) {
        let left = self.nodes.get_mut(no.0 as usize).and_then(|node| node.left.take());
        if let Some(shelf) = left.and_then(|left| left.shelf) {
            self.holdings.retire(shelf);
        }
    }

    /// A free index: the next one, or that of a volunteer that is down when the table is full.
    fn new_slot(&mut self, id: &VolunteerId, now: Time) -> NodeNo {
        let longest_gone = || {
            let gone = |node: &&(usize, &Node)| node.1.state(&self.params, now) == NodeState::Down;
            self.nodes.iter().enumerate().filter(|(_, n)| gone(&&(0, n))).min_by_key(|(_, n)| n.last_seen)
        };
        let is_full = self.nodes.len() >= MAX_NODES;
        let index = match is_full.then(longest_gone).flatten() {
            Some((index, _)) => index,
            None => self.nodes.len(),
        };
        if let Some(old) = self.nodes.get(index) {
            self.by_id.remove(&old.id);
        }
        let no = NodeNo(u32::try_from(index).unwrap_or(u32::MAX));
        self.by_id.insert(id.clone(), no);
        no
    }

    pub fn handle(&mut self, event: Event<'_>, now: Time) {
        let (no, epoch) = event.session();
        // Wrong bytes are proven whatever session they came in.
        let is_proof = matches!(event, Event::Probed { outcome: Outcome::Wrong { .. }, .. });
        if self.node(no).epoch != epoch && !is_proof {
            return;
        }
        match event {
            Event::Left { clean, .. } => self.left(no, clean, now),
            Event::Probed { outcome, .. } => {
                self.advance(no, now);
                let node = self.node_mut(no);
                // As of now: of a crowd, most have come since the last report. Who reports more than there are
                // gets no more.
                let sharing = node.ledger.flows();
                let params = &self.params;
                self.nodes[no.0 as usize].standing.probed(params, outcome, sharing, now);
            }
            Event::Tested { bytes, .. } => self.node_mut(no).tested_bytes += bytes,
            Event::Holdings { change, blobs, .. } => self.change_holdings(no, change, blobs),
            Event::Announced { next, .. } => self.node_mut(no).announced = Some(next),
            Event::Reported { load, .. } => self.reported(no, load, now),
            Event::OrderEnded { blob, failed, .. } => {
                let pause = failed.then(|| self.pause(no, blob));
                let node = self.node_mut(no);
                let ended = node.orders.end(blob, pause.map(|pause| now + pause));
                if let Some(order) = ended.filter(|order| order.is_owed && !failed) {
                    node.standing.sent(Blob { id: blob, size: order.size });
                }
                self.end_sync(blob, ended, now);
            }
        }
        self.renew(no, now);
    }

    fn renew(&mut self, no: NodeNo, now: Time) {
        self.roster.renew(no, &self.nodes[no.0 as usize], &self.params, now);
    }

    fn left(&mut self, no: NodeNo, clean: bool, now: Time) {
        self.end_orders(no, now);
        let node = self.node_mut(no);
        if node.is_connected && !clean {
            node.standing.record.vanish(now);
        }
        node.standing.record.presence.watched(now.since(node.booked), node.is_connected);
        node.booked = now;
        node.is_connected = false;
        node.ledger = Ledger::default();
    }

    fn change_holdings(&mut self, no: NodeNo, change: HoldingsChange, blobs: &[BlobId]) {
        self.drop_left(no);
        let node = &mut self.nodes[no.0 as usize];
        if change == HoldingsChange::Add && node.shelf.is_none() {
            node.shelf = self.holdings.take_shelf(no);
        }
        let Some(shelf) = node.shelf else { return };
        for blob in blobs {
            match change {
                HoldingsChange::Add if node.holdings < MAX_HOLDINGS => {
                    node.holdings += u64::from(self.holdings.insert(*blob, shelf));
                }
                HoldingsChange::Add => {}
                HoldingsChange::Remove => {
                    node.holdings -= u64::from(self.holdings.remove(*blob, shelf));
                }
            }
        }
    }

    fn reported(&mut self, no: NodeNo, load: &Load, now: Time) {
        self.advance(no, now);
        let params = &self.params;
        let node = &mut self.nodes[no.0 as usize];
        node.last_seen = now;
        node.ledger.reconcile(load, params.report_lag, now);
        node.standing.capacity.reported(params, node.donate.0 as f64, load, now);
        node.load = load.clone();
        node.dropped = 0;
        let lost = node.orders.expire(params.order_timeout, now);
        lost.into_iter().for_each(|(blob, order)| self.end_sync(blob, Some(order), now));
        self.tidy(now);
    }

    /// How busy the server's own line is, 0 to 1: what synchronisation may take depends on it.
    pub(in crate::policy) fn note_origin_load(&mut self, load: f64) {
        self.origin_load = load;
    }

    pub(in crate::policy) fn origin_load(&self) -> f64 {
        self.origin_load
    }

    /// Share of a donated rate that copying to other volunteers may take while clients download.
    pub fn sync_share(&self) -> f64 {
        let is_busy = self.origin_load > self.params.origin_load;
        if is_busy { self.params.busy_sync_share } else { self.params.sync_share }
    }

    /// Lets a volunteer's uploads proceed.
    pub(in crate::policy) fn advance(&mut self, no: NodeNo, now: Time) {
        let (share, rate) = (self.sync_share(), self.brief(no).rate);
        self.node_mut(no).ledger.advance(rate, share, now);
    }

    /// Bytes that a volunteer has yet to send to others on our orders, and how many uploads these are.
    pub fn open_syncs(&mut self, no: NodeNo, now: Time) -> (u64, usize) {
        self.advance(no, now);
        let ledger = &self.node(no).ledger;
        (ledger.sync_bytes() as u64, ledger.syncs())
    }

    /// Books an order to fetch a blob from the first of `peers`, or from the server.
    pub(in crate::policy) fn order_fetch(
        &mut self,
        no: NodeNo,
        blob: Blob,
        peers: Vec<NodeNo>,
        now: Time,
    ) -> Order {
        let source = peers.first().copied();
        if let Some(source) = source {
            self.advance(source, now);
            self.node_mut(source).ledger.begin_sync(blob, now);
        }
        let until = now + self.params.order_timeout + self.copying(no, blob.size);
        let node = self.node_mut(no);
        node.orders.insert(
            blob.id,
            OrderState { until, has_failed: false, source, size: blob.size, given: now, is_owed: false },
        );
        Order { node: no, epoch: node.epoch, blob, task: Task::Fetch { peers } }
    }

    /// How long a volunteer takes for so many bytes of copies, if it gives them their share of its line only.
    fn copying(&self, no: NodeNo, bytes: u64) -> Duration {
        let rate = (self.brief(no).rate * self.params.sync_share).max(1.0);
        Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(MAX_COPYING).min(MAX_COPYING)
    }

    /// How long a volunteer is not asked again for what it failed to fetch: each try is booked, and must not
    /// take more of the budgets than a copy that arrives.
    fn pause(&self, no: NodeNo, blob: BlobId) -> Duration {
        let size = self.node(no).orders.get(&blob).map_or(0, |order| order.size);
        self.params.order_retry + self.copying(no, size)
    }

    fn end_sync(&mut self, blob: BlobId, order: Option<OrderState>, now: Time) {
        if let Some(source) = order.and_then(|order| order.source) {
            self.advance(source, now);
            self.node_mut(source).ledger.end_sync(blob);
        }
    }

    fn end_orders(&mut self, no: NodeNo, now: Time) {
        let Some(node) = self.nodes.get_mut(no.0 as usize) else { return };
        for (blob, order) in node.orders.take_all() {
            self.end_sync(blob, Some(order), now);
        }
    }

    /// Books a redirect.
    pub(in crate::policy) fn redirected(&mut self, no: NodeNo, blob: Blob, len: u64, now: Time) {
        self.advance(no, now);
        self.node_mut(no).ledger.add(blob.id, len, now);
        self.roster.gave(no, len, self.params.fairness_window, now);
        let node = self.node_mut(no);
        node.redirected_bytes += len;
        node.redirects += 1;
        node.last_redirect = Some(now);
        // What is still arriving comes as slowly as the copy does, which says nothing of this volunteer: it is tested
        // by it afterwards.
        if !node.orders.owe(&blob.id) {
            node.standing.sent(blob);
        }
    }

    /// Every holding that counts, of volunteers that are gone too.
    pub(in crate::policy) fn all_holdings(&self) -> impl Iterator<Item = (BlobId, NodeNo)> + '_ {
        self.holdings.all()
    }

    /// Books that a client asked again for what it was sent there for.
    pub(in crate::policy) fn doubted(&mut self, no: NodeNo, blob: Blob) {
        let node = self.node_mut(no);
        match node.orders.owe(&blob.id) {
            true => node.standing.hasten(),
            false => node.standing.doubted(blob),
        }
    }

    /// Begins the tests that are due, of all volunteers in turn: where more are due than may begin, nobody waits
    /// for ever.
    pub(in crate::policy) fn probes(&mut self, max: usize, now: Time) -> Vec<Probe> {
        let mut due = Vec::new();
        for _ in 0..self.nodes.len() {
            if due.len() == max {
                break;
            }
            self.probed = (self.probed + 1) % self.nodes.len();
            let node = &mut self.nodes[self.probed];
            if node.is_connected
                && let Some(blob) = node.standing.begin_probe(now)
            {
                let no = NodeNo(self.probed as u32);
                due.push(Probe { node: no, epoch: node.epoch, base_url: node.base_url.clone(), blob });
            }
        }
        due
    }

    /// The blob's holders are about to be looked up.
    pub(in crate::policy) fn touch(&self, blob: BlobId) {
        self.holdings.touch(blob);
    }

    /// Volunteers that hold the blob, in whatever state.
    pub fn holders(&self, blob: BlobId) -> impl Iterator<Item = NodeNo> + '_ {
        self.holdings.of(blob)
    }

    /// Those of them that count as copies: that are, or may soon be, sent clients.
    pub fn live_holders(&self, blob: BlobId, now: Time) -> impl Iterator<Item = NodeNo> + '_ {
        self.holders(blob).filter(move |no| self.brief(*no).is_live(now))
    }

    /// The next blobs from this one on that anybody holds or held.
    pub(in crate::policy) fn held_from(&self, from: BlobId, count: usize) -> Vec<BlobId> {
        self.holdings.blobs_from(from).take(count).collect()
    }

    /// Sweeps out holdings of ended sessions that no new one can go on with, a little now and then.
    fn tidy(&mut self, now: Time) {
        if now.since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            // Who does not report does not end its orders either.
            for no in (0..self.nodes.len() as u32).map(NodeNo) {
                if self.node(no).state(&self.params, now) == NodeState::Down {
                    self.end_orders(no, now);
                }
            }
            for node in &mut self.nodes {
                if !node.is_connected && now.since(node.last_seen) >= KEPT_FOR {
                    let left = node.left.take().and_then(|left| left.shelf);
                    let shelves = [left, node.shelf.take()];
                    shelves.into_iter().flatten().for_each(|shelf| self.holdings.retire(shelf));
                }
            }
        }
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.holdings.sweep();
        }
    }

    /// Bytes on the heap that say who holds what.
    pub fn holdings_bytes(&self) -> usize {
        self.holdings.heap_bytes()
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
