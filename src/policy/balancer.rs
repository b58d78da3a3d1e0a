//! Which holder serves a request: the one for whom it costs least.
//!
//! Cost of a download of s bytes at volunteer v with estimated rate u and running downloads x_j
//! (reference policy, section E.1; processor sharing):
//!
//! ```text
//! T = (s + sum min(s, x_j)) / u          when this download would end
//! C = T + beta * sum min(s, x_j) / u     plus the delay it inflicts on the others
//! ```
//!
//! Properties, tested below: the chosen one holds the blob and is not down; equal ones are chosen equally
//! often; the choice is a function of state, request, time and generator.

use rand::{Rng, RngExt};

use super::params::Params;
use super::tracker::{NodeNo, NodeState, Tracker};
use crate::model::{Blob, Time, VolunteerId};

/// A package request, as far as the decision goes.
#[derive(Clone, Debug)]
pub struct Request {
    pub blob: Blob,
    /// Bytes asked for: the blob's size, or less for a range.
    pub len: u64,
    /// How busy the server's own line is, 0 to 1.
    pub origin_load: f64,
    /// The client is on the server's own machine.
    pub is_local: bool,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// A redirect; the scores say why.
    Volunteer { node: NodeNo, candidates: usize, cost_micros: u64 },
    /// The server itself.
    Origin(OriginReason),
}

/// Why the server serves a package itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginReason {
    SmallFile,
    NoHolder,
    AllSaturated,
    OnlySuspects,
}

impl OriginReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::SmallFile => "small file",
            Self::NoHolder => "no volunteer holds it",
            Self::AllSaturated => "every holder is saturated",
            Self::OnlySuspects => "its holders miss heartbeats",
        }
    }
}

/// How a candidate ranks; smaller is better, and field order is priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// A new download would get less than the minimum share.
    pub is_saturated: bool,
    pub cost_micros: u64,
}

/// One holder, as the decision sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: NodeNo,
    pub id: VolunteerId,
    pub state: NodeState,
    pub rank: Rank,
    pub rate: f64,
    pub in_flight: usize,
}

/// Why a request goes where it goes.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub candidates: Vec<Candidate>,
    /// Why none of them would be chosen.
    pub origin: Option<OriginReason>,
}

/// Holders scored per decision at most; further ones are as good as those.
const MAX_SCORED: usize = 512;

/// Decides; books nothing but the passing of time in the ledgers.
pub fn choose(
    tracker: &mut Tracker,
    params: &Params,
    request: &Request,
    now: Time,
    rng: &mut impl Rng,
) -> Decision {
    if is_small(params, request) {
        return Decision::Origin(OriginReason::SmallFile);
    }
    let mut holders = Holders::of(tracker, params, request, now);
    if holders.list.is_empty() {
        return Decision::Origin(OriginReason::NoHolder);
    }
    let candidates = holders.list.len();
    if !holders.are_fresh && request.origin_load < params.origin_load {
        return Decision::Origin(OriginReason::OnlySuspects);
    }
    if !holders.are_fresh {
        let node = draw_by_rate(tracker, &holders.list, rng);
        return Decision::Volunteer { node: holders.list[node], candidates, cost_micros: 0 };
    }
    if candidates > params.score_all_up_to {
        holders.list = sample_by_rate(tracker, holders.list, params.sample, rng);
    }
    let Some((node, rank)) = best(tracker, params, request, &holders.list, now, rng) else {
        return Decision::Origin(OriginReason::NoHolder);
    };
    if rank.is_saturated && request.origin_load < params.origin_load {
        return Decision::Origin(OriginReason::AllSaturated);
    }
    Decision::Volunteer { node, candidates, cost_micros: rank.cost_micros }
}

/// The same view without choosing, for people.
pub fn explain(tracker: &mut Tracker, params: &Params, request: &Request, now: Time) -> Explanation {
    let holders = Holders::of(tracker, params, request, now).list;
    let mut candidates = Vec::with_capacity(holders.len());
    for no in holders {
        let rank = rank(tracker, params, request, no, now);
        let node = tracker.node(no);
        candidates.push(Candidate {
            node: no,
            id: node.id.clone(),
            state: node.state(params, now),
            rank,
            rate: node.rate(),
            in_flight: node.in_flight(),
        });
    }
    candidates.sort_by(|a, b| (a.rank, &a.id).cmp(&(b.rank, &b.id)));
    let has_room = request.origin_load < params.origin_load;
    let origin = match candidates.first() {
        _ if is_small(params, request) => Some(OriginReason::SmallFile),
        None => Some(OriginReason::NoHolder),
        Some(best) if best.state != NodeState::Up && has_room => Some(OriginReason::OnlySuspects),
        Some(best) if best.rank.is_saturated && has_room => Some(OriginReason::AllSaturated),
        Some(_) => None,
    };
    Explanation { candidates, origin }
}

fn is_small(params: &Params, request: &Request) -> bool {
    request.blob.size < params.small_file && request.origin_load < params.small_file_load
}

/// The eligible holders: those with a fresh report if there are any, else the suspect ones.
struct Holders {
    list: Vec<NodeNo>,
    are_fresh: bool,
}

impl Holders {
    fn of(tracker: &Tracker, params: &Params, request: &Request, now: Time) -> Self {
        let fresh = |no: &NodeNo| tracker.node(*no).state(params, now) == NodeState::Up;
        // A volunteer on a loopback address is another machine's own loopback.
        let reachable = |no: &NodeNo| request.is_local || !tracker.node(*no).is_local;
        let live = || tracker.live_holders(request.blob.id, now).filter(reachable).take(MAX_SCORED);
        let list: Vec<NodeNo> = live().filter(fresh).collect();
        if list.is_empty() {
            Self { list: live().collect(), are_fresh: false }
        } else {
            Self { list, are_fresh: true }
        }
    }
}

/// The best ranked; equal ones with equal chance.
fn best(
    tracker: &mut Tracker,
    params: &Params,
    request: &Request,
    holders: &[NodeNo],
    now: Time,
    rng: &mut impl Rng,
) -> Option<(NodeNo, Rank)> {
    let mut chosen: Option<(NodeNo, Rank)> = None;
    let mut equals = 0_u32;
    for &no in holders {
        let rank = rank(tracker, params, request, no, now);
        match chosen {
            Some((_, lowest)) if rank > lowest => {}
            Some((_, lowest)) if rank == lowest => {
                equals += 1;
                if rng.random_range(0..equals) == 0 {
                    chosen = Some((no, rank));
                }
            }
            _ => {
                equals = 1;
                chosen = Some((no, rank));
            }
        }
    }
    chosen
}

fn rank(tracker: &mut Tracker, params: &Params, request: &Request, no: NodeNo, now: Time) -> Rank {
    let node = tracker.node_mut(no);
    let rate = node.rate();
    node.ledger.advance(rate, now);
    let backlog = node.ledger.backlog(request.len);
    let seconds = (request.len as f64 + backlog + params.beta * backlog) / rate;
    Rank {
        is_saturated: rate / (node.ledger.flows() + 1) as f64 <= params.min_share,
        // A tenth of a millisecond is below what any estimate here is good for.
        cost_micros: ((seconds * 1e4) as u64).saturating_mul(100),
    }
}

/// Index of one holder, drawn in proportion to its rate.
fn draw_by_rate(tracker: &Tracker, holders: &[NodeNo], rng: &mut impl Rng) -> usize {
    let total: f64 = holders.iter().map(|no| tracker.node(*no).rate()).sum();
    let mut at = rng.random::<f64>() * total;
    for (index, no) in holders.iter().enumerate() {
        at -= tracker.node(*no).rate();
        if at < 0.0 {
            return index;
        }
    }
    holders.len() - 1
}

/// `count` different holders, drawn in proportion to their rates.
fn sample_by_rate(
    tracker: &Tracker,
    mut holders: Vec<NodeNo>,
    count: usize,
    rng: &mut impl Rng,
) -> Vec<NodeNo> {
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count && !holders.is_empty() {
        let index = draw_by_rate(tracker, &holders, rng);
        drawn.push(holders.swap_remove(index));
    }
    drawn
}

#[cfg(test)]
#[path = "balancer_tests.rs"]
mod tests;
