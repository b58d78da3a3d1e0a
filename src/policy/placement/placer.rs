//! Which volunteers should hold a blob: as many as its demand needs and pays for, where they are relied on.
//!
//! Copies R = ceil(rate * size / (target utilisation * mean rate)), at least `hot_copies` of what is hot, at most
//! one per volunteer (reference policy, sections E.2 and E.3). The rate is the highest of the demand's and the
//! running slot's. While no holder has a decent rate left for one more client, half as many again. Every copy
//! must be expected to serve `payback` requests within `copy_life`. Beyond that one copy of what was asked for
//! is made where nobody misses what it costs: a store with room, a sync budget hardly touched, a server at
//! leisure; so a small fleet fills up.
//!
//! Properties, tested in `placer_tests.rs` by [`super::lint`] over random fleets:
//! - asking again at once orders nothing more; nobody is ordered what it holds, nor more than it may take;
//! - `hot_copies` of what is hot are on stable volunteers, if there are as many; volatile ones take new files
//!   only and those on probation small ones of them; where stable ones are too few, the others fill in;
//! - copies that are lost are waited for, since their volunteers come back; not if less than two are left of
//!   what is hot, or the load needs them;
//! - sync stays within its budgets ([`super::budget`]);
//! - the first copy comes from the server, the others from those that have it, each from another as far as
//!   they go: so copies double;
//! - one call does bounded work, whatever the size of the rings.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::{Budget, Way};
use super::evict::Cold;
use super::rings::{self, Rings};
use super::scene::{Scene, Want};
use crate::config::Networks;
use crate::formats::control::MAX_SYNC_UPLOADS;
use crate::model::{Blob, BlobId};
use crate::policy::fleet::node::Node;
use crate::policy::fleet::stability::Class;
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::NodeNo;
use crate::policy::outputs::Order;
use crate::policy::params::Params;

/// Orders made per call.
const MAX_ORDERS: usize = 64;
/// Sources per call, and holders looked at for them.
const MAX_SOURCES: usize = 32;
const MAX_SCANNED: usize = 512;
/// Sources named in one order.
const NAMED: usize = 2;
/// Blobs whose open orders are looked at again per [`Placer::sweep`].
const SWEEP: usize = 1024;

/// How many copies there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Goal {
    copies: usize,
    /// Of these, what the load needs at once.
    by_load: usize,
    /// Of these, on stable volunteers.
    safe: usize,
    is_hot: bool,
    /// One that no demand pays for.
    is_spare: bool,
    /// What the demand pays for.
    paid: usize,
}

impl Goal {
    /// Asks for so many copies, if they are paid for and there are volunteers for them.
    fn grow(&mut self, copies: usize, able: usize) {
        self.by_load = self.by_load.max(copies.min(self.paid).min(able));
        self.copies = self.copies.max(self.by_load);
    }
}

/// An order that is not known to have ended.
#[derive(Clone, Copy, Debug)]
struct Open {
    node: NodeNo,
    source: Option<NodeNo>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Placer {
    pub rings: Rings,
    pub sync: Budget,
    pub(in crate::policy) cold: Cold,
    open: BTreeMap<BlobId, Vec<Open>>,
    swept: Option<BlobId>,
}

/// Copies that there are, and that are under way.
#[derive(Clone, Copy, Debug, Default)]
struct Census {
    live: usize,
    safe: usize,
    ordered: usize,
    ordered_safe: usize,
}

/// A holder that others may fetch from.
struct Source {
    no: NodeNo,
    /// Orders of this blob that it serves.
    named: usize,
    /// When one more would be through, in seconds.
    until: f64,
}

impl Placer {
    /// Orders the copies that are missing, and books them. Asking again at once orders nothing.
    pub fn place(&mut self, scene: &mut Scene<'_>, blob: Blob, want: Want) -> Vec<Order> {
        self.rings.refresh(scene.tracker, scene.params, scene.now);
        if self.rings.up() == 0 {
            return Vec::new();
        }
        let mut goal = goal(&self.rings, scene.params, blob, want);
        if want.is_asked && goal.is_hot && are_full(scene, blob.id) {
            let live = scene.tracker.live_holders(blob.id, scene.now).count();
            goal.grow(live + live.div_ceil(2), self.rings.up());
        }
        let census = self.census(scene, blob.id, goal);
        let missing = missing(scene, blob.id, want, goal, census);
        if missing == (0, 0) || (goal.is_spare && !self.has_leisure(scene)) {
            return Vec::new();
        }
        let holders: BTreeSet<NodeNo> = scene.tracker.holders(blob.id).collect();
        // What is still arriving is passed on, which spares a busy server all copies but the first.
        let are_arriving = holders.is_empty()
            && scene.params.cut_through
            && scene.tracker.origin_load() >= scene.params.origin_load;
        let mut sources = match are_arriving {
            true => self.sources(scene, blob, &passing_on(scene, blob.id, self.coming(blob.id))),
            false => self.sources(scene, blob, &holders),
        };
        // Whether that one may send now is another question: the orders given must not change the answer.
        let is_stable = |no: &NodeNo| {
            scene.tracker.is_up(*no, scene.now) && scene.tracker.brief(*no).class == Class::Stable
        };
        let from_peers = scene.tracker.origin_load() >= scene.params.peer_load
            || holders.iter().take(MAX_SCANNED).any(is_stable);
        if !from_peers {
            sources.clear();
        }
        let mut orders = Vec::new();
        for node in self.targets(scene, blob, want, goal, missing, &holders) {
            let Some(peers) = self.choose_source(scene, blob, node, &mut sources) else { continue };
            orders.extend(self.cold.make_room(scene, node, blob, self.rings.full.contains(&node)));
            orders.push(self.book(scene, blob, node, peers));
            if are_arriving {
                sources.extend(self.sources(scene, blob, &passing_on(scene, blob.id, [node])));
            }
        }
        orders
    }

    /// Copies of a blob that many are about to ask for which are not there yet, on their way or not.
    pub fn lacking(&mut self, scene: &mut Scene<'_>, blob: Blob, want: Want) -> usize {
        self.rings.refresh(scene.tracker, scene.params, scene.now);
        let goal = goal(&self.rings, scene.params, blob, want);
        let Goal { copies, safe, .. } = goal;
        let least = copies.min(scene.params.hot_copies);
        let census = self.census(scene, blob.id, Goal { copies: least, ..goal });
        least.saturating_sub(census.live).max(safe.saturating_sub(census.safe))
    }

    /// Volunteers that were ordered to fetch it, and are not known to have ended.
    pub fn coming(&self, blob: BlobId) -> impl Iterator<Item = NodeNo> + '_ {
        self.open.get(&blob).into_iter().flatten().map(|open| open.node)
    }

    /// Whether a copy that no demand pays for costs nobody anything.
    fn has_leisure(&self, scene: &Scene<'_>) -> bool {
        scene.tracker.origin_load() < scene.params.small_file_load
            && self.sync.origin_spent(scene.params, scene.now) < 0.5
            && !self.rings.is_tired()
    }

    /// Counts copies as far as the goal goes, and the orders that are open.
    fn census(&mut self, scene: &Scene<'_>, blob: BlobId, goal: Goal) -> Census {
        let Scene { tracker, now, .. } = scene;
        let is_safe = |no: NodeNo| tracker.brief(no).class == Class::Stable;
        let mut census = Census::default();
        for no in tracker.live_holders(blob, *now) {
            census.live += 1;
            census.safe += usize::from(is_safe(no));
            if census.live >= goal.copies && census.safe >= goal.safe {
                break;
            }
        }
        if let Some(open) = self.open.get_mut(&blob) {
            open.retain(|open| is_open(tracker, open.node, blob));
            census.ordered = open.len();
            census.ordered_safe = open.iter().filter(|open| is_safe(open.node)).count();
            if open.is_empty() {
                self.open.remove(&blob);
            }
        }
        census
    }

    /// The holders that may be fetched from.
    fn sources(&self, scene: &Scene<'_>, blob: Blob, holders: &BTreeSet<NodeNo>) -> Vec<Source> {
        let Scene { tracker, now, .. } = scene;
        let open = self.open.get(&blob.id).map_or(&[][..], Vec::as_slice);
        // Of very many, others each time.
        let skipped = open.len().checked_rem(holders.len()).unwrap_or(0);
        let able = |no: &NodeNo| tracker.is_up(*no, *now) && self.may_send(scene, *no);
        let source = |no: NodeNo| {
            let node = tracker.node(no);
            let sharing = (node.in_flight() + 1) as f64 * blob.size as f64;
            Source {
                no,
                named: open.iter().filter(|open| open.source == Some(no)).count(),
                until: (sharing + self.sync.owed(tracker, no, Way::From, *now)) / node.rate(),
            }
        };
        let turned = holders.iter().skip(skipped).chain(holders.iter().take(skipped)).copied();
        turned.take(MAX_SCANNED).filter(able).take(MAX_SOURCES).map(source).collect()
    }

    /// The volunteers that get a copy, the most preferred first.
    fn targets(
        &mut self,
        scene: &Scene<'_>,
        blob: Blob,
        want: Want,
        goal: Goal,
        (copies, safe): (usize, usize),
        holders: &BTreeSet<NodeNo>,
    ) -> Vec<NodeNo> {
        let Scene { tracker, params, now, .. } = scene;
        let ordered = self.open.get(&blob.id).into_iter().flatten().map(|open| open.node);
        let near = holders.iter().copied().chain(ordered).take(MAX_ORDERS);
        let mut taken: BTreeSet<_> = near.map(|no| rings::group(tracker.node(no))).collect();
        let is_able = |no: NodeNo| {
            !holders.contains(&no)
                && tracker.is_up(no, *now)
                && self.sync.spent(params, tracker, no, Way::To, *now) < if goal.is_spare { 0.5 } else { 1.0 }
                && can_take(tracker.node(no), params, blob, goal.is_spare)
        };
        let is_small = blob.size <= params.probation_size;
        let may_fill = goal.is_hot || self.rings.of_class(Class::Stable) < goal.copies;
        // Each as often as it is needed, in this order: classes and how many they may take together.
        let mut chosen: Vec<NodeNo> = Vec::new();
        let rounds: [(&[Class], usize); 5] = [
            (&[Class::Stable], safe),
            (&rings::CLASSES, if want.is_new && is_small { copies } else { 0 }),
            (&[Class::Stable, Class::Volatile], if want.is_new { copies } else { 0 }),
            (&[Class::Stable], copies),
            (&[Class::Volatile, Class::Probation], if may_fill { copies } else { 0 }),
        ];
        for (classes, upto) in rounds {
            let more = upto.min(MAX_ORDERS).saturating_sub(chosen.len());
            if more > 0 {
                let is_left = |no| !chosen.contains(&no) && is_able(no);
                let more = self.rings.select(classes, blob.id, more, &mut taken, is_left);
                chosen.extend(more);
            }
        }
        chosen
    }

    /// From whom a volunteer gets the copy: the server is no peer. `None` if it has to wait for one.
    fn choose_source(
        &self,
        scene: &Scene<'_>,
        blob: Blob,
        node: NodeNo,
        sources: &mut [Source],
    ) -> Option<Vec<NodeNo>> {
        let Scene { tracker, params, networks, now, .. } = scene;
        let target = tracker.node(node);
        let mut near: Vec<&mut Source> = sources
            .iter_mut()
            .filter(|s| self.may_send(scene, s.no) && is_reachable(tracker.node(s.no), target, networks))
            .collect();
        near.sort_by(|a, b| (a.named.cmp(&b.named)).then(a.until.total_cmp(&b.until)).then(a.no.cmp(&b.no)));
        if let Some(first) = near.first_mut() {
            if first.named >= params.fan_out {
                return None;
            }
            first.named += 1;
            return Some(near.iter().take(NAMED).map(|source| source.no).collect());
        }
        let from_origin = self
            .open
            .get(&blob.id)
            .map_or(0, |open| open.iter().filter(|open| open.source.is_none()).count());
        (from_origin < params.origin_fan && self.sync.origin_spent(params, *now) < 1.0).then(Vec::new)
    }

    /// Whether a volunteer has sync budget left to send copies, and would not send who asks on to the server.
    fn may_send(&self, Scene { tracker, params, now, .. }: &Scene<'_>, no: NodeNo) -> bool {
        tracker.node(no).ledger.syncs() < MAX_SYNC_UPLOADS
            && self.sync.spent(params, tracker, no, Way::From, *now) < 1.0
    }

    fn book(&mut self, scene: &mut Scene<'_>, blob: Blob, no: NodeNo, peers: Vec<NodeNo>) -> Order {
        let Scene { tracker, params, now, .. } = scene;
        let source = peers.first().copied();
        match source {
            Some(source) => self.sync.book(tracker, source, Way::From, blob.size, *now),
            None => self.sync.book_origin(params, blob.size, *now),
        }
        self.sync.book(tracker, no, Way::To, blob.size, *now);
        self.open.entry(blob.id).or_default().push(Open { node: no, source });
        tracker.order_fetch(no, blob, peers, *now)
    }

    /// Forgets orders that have ended, of the next blobs in turn.
    pub fn sweep(&mut self, tracker: &Tracker) {
        let from = self.swept.unwrap_or(BlobId([0; 32]));
        let slice: Vec<BlobId> = self.open.range(from..).take(SWEEP).map(|(blob, _)| *blob).collect();
        self.swept = slice.last().copied().filter(|_| slice.len() == SWEEP);
        for blob in slice {
            let Some(open) = self.open.get_mut(&blob) else { continue };
            open.retain(|open| is_open(tracker, open.node, blob));
            if open.is_empty() {
                self.open.remove(&blob);
            }
        }
    }
}

/// How many copies the demand asks for.
fn goal(rings: &Rings, params: &Params, blob: Blob, want: Want) -> Goal {
    let Want { recent, crowd, .. } = want;
    let per_second = recent.per_second.max(crowd);
    let by_load = (per_second * blob.size as f64 / (params.target_utilisation * rings.mean_rate())).ceil();
    let paid = (recent.expected(params.copy_life) / params.payback).floor();
    let by_load = by_load.min(paid) as usize;
    let is_hot = recent.requests >= params.hot_requests || crowd > 0.0 || want.is_awaited;
    let least = if is_hot { params.hot_copies } else { 0 };
    let copies = by_load.max(least);
    let is_able = rings.up();
    Goal {
        copies: copies.max(1).min(is_able),
        by_load: by_load.min(is_able),
        safe: least.min(rings.of_class(Class::Stable)),
        is_hot,
        is_spare: copies == 0,
        paid: paid as usize,
    }
}

/// Whether no holder has a decent rate left for one more client: the demand was estimated too low, or the holders
/// are busy with something else.
fn are_full(scene: &mut Scene<'_>, blob: BlobId) -> bool {
    let Scene { tracker, params, now, .. } = scene;
    let enough = 2.0 * params.least_share;
    let mut holders = [None; MAX_SOURCES];
    holders.iter_mut().zip(tracker.live_holders(blob, *now)).for_each(|(slot, no)| *slot = Some(no));
    holders.into_iter().flatten().all(|no| {
        tracker.advance(no, *now);
        // As if it sent copies too: that it begins to must not be the reason for more.
        let for_clients = tracker.brief(no).rate * (1.0 - tracker.sync_share());
        for_clients / (tracker.node(no).in_flight() + 1) as f64 <= enough
    })
}

/// Copies that are missing, and those of them that must be on stable volunteers.
fn missing(scene: &mut Scene<'_>, blob: BlobId, want: Want, goal: Goal, census: Census) -> (usize, usize) {
    let Census { live, safe, ordered, ordered_safe } = census;
    let lost = scene.demand.lost(blob, live, goal.copies, scene.params.repair_after, scene.now);
    let is_urgent = (goal.is_hot && live < 2) || (want.is_asked && live == 0);
    let awaited = ordered + if is_urgent { 0 } else { lost };
    // One copy is no load that must be shared.
    let by_load = if goal.by_load > 1 { goal.by_load.saturating_sub(live + ordered) } else { 0 };
    let copies = goal.copies.saturating_sub(live + awaited).max(by_load);
    let lost_safe = awaited - ordered;
    (copies, goal.safe.saturating_sub(safe + ordered_safe + lost_safe))
}

/// Those of them that pass on what they are fetching.
fn passing_on(scene: &Scene<'_>, blob: BlobId, nodes: impl IntoIterator<Item = NodeNo>) -> BTreeSet<NodeNo> {
    let Scene { tracker, params, now, .. } = scene;
    nodes.into_iter().filter(|no| tracker.node(*no).passes_on(params, blob, *now)).collect()
}

fn is_open(tracker: &Tracker, no: NodeNo, blob: BlobId) -> bool {
    tracker.node(no).is_fetching(blob)
}

/// Whether it has room for one more order, and the order room in its store. `is_spare` leaves room for others.
fn can_take(node: &Node, params: &Params, blob: Blob, is_spare: bool) -> bool {
    let max = node.max_size.0;
    let coming = || node.orders.bytes().saturating_add(blob.size);
    let has_room =
        || node.load.store_bytes.saturating_add(coming()) <= (max as f64 * params.spare_room) as u64;
    node.open_orders() < params.max_orders
        && node.orders.get(&blob.id).is_none()
        && coming() <= max
        && (!is_spare || has_room())
}

/// Whether one volunteer can fetch from another.
fn is_reachable(source: &Node, target: &Node, networks: &Networks) -> bool {
    // Of a name nothing is known; what serves everybody serves it.
    let address = rings::address(target);
    let somewhere = address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    source.id != target.id
        && (!source.is_local || target.is_local)
        && (source.clients.is_empty() || address.is_some_and(|address| source.serves(address)))
        && networks.serves(&source.id, somewhere)
}

#[cfg(test)]
#[path = "placer_tests.rs"]
mod tests;
