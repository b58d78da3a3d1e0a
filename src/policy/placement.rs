//! Which volunteers should hold a blob: as many as its demand needs, picked by weighted rendezvous.
//!
//! Copies R = ceil(demand * size / (target utilisation * mean rate)), at least one for what was asked for and
//! `hot_copies` for what is hot, at most one per volunteer (reference policy, section E.2). Rendezvous
//! hashing ranks volunteers per blob by -weight / ln(h), h a hash of both in (0, 1): the same blob always
//! prefers the same volunteers, and one that leaves moves only its own share.

use super::demand::Recent;
use super::node::{Node, NodeNo, NodeState};
use super::params::Params;
use super::tracker::Tracker;
use crate::model::{Blob, Time};

/// Work for a volunteer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub node: NodeNo,
    pub epoch: u32,
    pub blob: Blob,
    pub task: Task,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Fetch it from these volunteers, in order, else from the server.
    Fetch { peers: Vec<NodeNo> },
    /// Nobody asks for it any more, and something else needs the room.
    Drop,
}

/// Orders the copies that are missing, and books them. Asking again at once orders nothing.
pub fn place(tracker: &mut Tracker, params: &Params, blob: Blob, demand: Recent, now: Time) -> Vec<Order> {
    let copies = tracker.live_holders(blob.id, now).count();
    let (mut ordered, mut rate_sum, mut up) = (0, 0.0, 0_usize);
    let mut able: Vec<(f64, NodeNo)> = Vec::new();
    for (no, node) in tracker.nodes().filter(|(_, node)| node.state(params, now) == NodeState::Up) {
        up += 1;
        rate_sum += node.rate();
        match node.orders.get(&blob.id) {
            Some(order) if !order.has_failed => ordered += 1,
            Some(_) => {}
            None if can_take(node, params, blob) => able.push((score(node, blob), no)),
            None => {}
        }
    }
    if up == 0 {
        return Vec::new();
    }
    let wanted = wanted_copies(params, blob, demand, rate_sum / up as f64).min(up);
    if copies + ordered >= wanted {
        return Vec::new();
    }
    let holders: Vec<NodeNo> = tracker.live_holders(blob.id, now).collect();
    able.retain(|(_, no)| !holders.contains(no));
    able.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    able.truncate(wanted - copies - ordered);
    able.into_iter().map(|(_, no)| tracker.order_fetch(no, blob, Vec::new(), now)).collect()
}

fn can_take(node: &Node, params: &Params, blob: Blob) -> bool {
    node.open_orders() < params.max_orders && blob.size <= node.max_size.0
}

fn wanted_copies(params: &Params, blob: Blob, demand: Recent, mean_rate: f64) -> usize {
    let by_demand = demand.per_second * blob.size as f64 / (params.target_utilisation * mean_rate);
    let least = if demand.requests >= params.hot_requests { params.hot_copies } else { 1 };
    (by_demand.ceil() as usize).max(least)
}

/// Weighted rendezvous score; the donated rate is the weight.
fn score(node: &Node, blob: Blob) -> f64 {
    let hash = mix(blob.id.prefix() ^ fnv1a(node.id.as_str()));
    // 53 bits, moved off both ends of (0, 1).
    let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -(node.donate.0 as f64) / unit.ln()
}

/// FNV-1a, 64 bits.
pub fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
