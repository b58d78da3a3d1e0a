//! Checks a plan: what is wrong with these orders, given the state right after they were made.
//!
//! Written apart from [`super::placer`], from the rules and not from the code, for property tests and for the
//! simulator. Production does not run it.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::Way;
use super::rings;
use crate::model::{BlobId, Time};
use crate::policy::Policy;
use crate::policy::ids::NodeNo;
use crate::policy::outputs::{Order, Task};
use crate::policy::params::Params;

/// A rule that an order breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It was ordered twice in this plan.
    Twice(NodeNo, BlobId),
    /// A copy of what it holds.
    Held(NodeNo, BlobId),
    /// To one that is not up, or of a session that has ended.
    NotUp(NodeNo),
    /// More orders than it may have, or more bytes than its store.
    OverQuota(NodeNo),
    /// More bytes than its sync share, to it or from it, by more than one order.
    OverBudget(NodeNo),
    /// The server has more to send for copies than it may, by more than one order.
    OriginOverBudget,
    /// From itself, one that neither holds nor fetches it, one that is not up, or one that does not serve it.
    FromItself(NodeNo, BlobId),
    NotAtPeer(NodeNo, BlobId),
    PeerNotUp(NodeNo),
    PeerOutOfReach(NodeNo, NodeNo),
    /// Given up though many ask for it, or will.
    DropsHot(NodeNo, BlobId),
    /// Given up though it is the last copy of what is still remembered.
    DropsLast(NodeNo, BlobId),
    /// Given up though it still counts as a copy.
    DropNotBooked(NodeNo, BlobId),
}

impl Policy {
    /// What is wrong with these orders, which were just made.
    pub fn lint(&self, orders: &[Order], now: Time) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut largest: BTreeMap<(NodeNo, Way), u64> = BTreeMap::new();
        let mut from_origin = 0;
        for order in orders {
            if !seen.insert((order.node, order.blob.id)) {
                found.push(Violation::Twice(order.node, order.blob.id));
            }
            match &order.task {
                Task::Fetch { peers } => {
                    self.lint_fetch(order, &mut found, now);
                    for peer in peers {
                        self.lint_peer(order, *peer, &mut found, now);
                    }
                    let from = peers.first().map(|peer| (*peer, Way::From));
                    for account in [Some((order.node, Way::To)), from].into_iter().flatten() {
                        let known = largest.entry(account).or_default();
                        *known = order.blob.size.max(*known);
                    }
                    if peers.is_empty() {
                        from_origin = order.blob.size.max(from_origin);
                    }
                }
                Task::Drop => self.lint_drop(order, &mut found, now),
            }
        }
        self.lint_budgets(&largest, from_origin, &mut found, now);
        found
    }

    fn lint_fetch(&self, order: &Order, found: &mut Vec<Violation>, now: Time) {
        let Order { node: no, epoch, blob, .. } = *order;
        let node = self.tracker.node(no);
        if self.tracker.holders(blob.id).any(|holder| holder == no) {
            found.push(Violation::Held(no, blob.id));
        }
        if !self.tracker.is_up(no, now) || node.epoch != epoch {
            found.push(Violation::NotUp(no));
        }
        let bytes = node.orders.bytes();
        if node.open_orders() > self.params.max_orders || bytes > node.max_size.0 {
            found.push(Violation::OverQuota(no));
        }
    }

    fn lint_peer(&self, order: &Order, peer: NodeNo, found: &mut Vec<Violation>, now: Time) {
        let (source, target) = (self.tracker.node(peer), self.tracker.node(order.node));
        let address = rings::address(target);
        let is_for_all = source.clients.is_empty();
        if peer == order.node {
            found.push(Violation::FromItself(peer, order.blob.id));
        }
        let is_arriving = self.params.cut_through && source.is_fetching(order.blob.id);
        if !is_arriving && !self.tracker.holders(order.blob.id).any(|holder| holder == peer) {
            found.push(Violation::NotAtPeer(peer, order.blob.id));
        }
        if !self.tracker.is_up(peer, now) {
            found.push(Violation::PeerNotUp(peer));
        }
        if (source.is_local && !target.is_local) || !(is_for_all || address.is_some_and(|a| source.serves(a)))
        {
            found.push(Violation::PeerOutOfReach(peer, order.node));
        }
    }

    fn lint_drop(&self, order: &Order, found: &mut Vec<Violation>, now: Time) {
        let Order { node, blob, .. } = *order;
        let (recent, new) = (self.demand.of(blob.id, now), self.releases.of(&self.params, blob.id, now));
        if recent.requests >= self.params.hot_requests || new.is_some() {
            found.push(Violation::DropsHot(node, blob.id));
        }
        if self.tracker.holders(blob.id).any(|holder| holder == node) {
            found.push(Violation::DropNotBooked(node, blob.id));
        }
        let has_others = self.tracker.live_holders(blob.id, now).any(|other| other != node);
        if self.demand.size(blob.id).is_some() && !has_others {
            found.push(Violation::DropsLast(node, blob.id));
        }
    }

    fn lint_budgets(
        &self,
        largest: &BTreeMap<(NodeNo, Way), u64>,
        from_origin: u64,
        found: &mut Vec<Violation>,
        now: Time,
    ) {
        let Params { sync_share, busy_sync_share, sync_window, origin_sync, origin_load, .. } = self.params;
        let window = sync_window.as_secs_f64();
        let share = if self.tracker.origin_load() > origin_load { busy_sync_share } else { sync_share };
        for ((no, way), last) in largest {
            let node = self.tracker.node(*no);
            let budget = node.rate() * share * window;
            let owed = self.placer.sync.owed(&self.tracker, *no, *way, now);
            if owed > budget + *last as f64 + 1.0 {
                found.push(Violation::OverBudget(*no));
            }
        }
        let budget = origin_sync * window;
        let owed = self.placer.sync.origin_spent(&self.params, now) * budget;
        if from_origin > 0 && owed > budget + from_origin as f64 + 1.0 {
            found.push(Violation::OriginOverBudget);
        }
    }
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
