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

use super::eligible::{Exclusion, View};
use super::tracker::{NodeNo, NodeState, Tracker};
use crate::config::NetworkRule;
use crate::model::VolunteerId;

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
    /// The client's network must not be redirected.
    NetworkRule,
    /// The client was redirected for this file and asks once more.
    AskedAgain,
    NoHolder,
    /// There are holders, none for this client.
    NoneEligible,
    AllSaturated,
    OnlySuspects,
}

impl OriginReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::SmallFile => "small file",
            Self::NetworkRule => "the client's network is not redirected",
            Self::AskedAgain => "the client asks again for what it was redirected for",
            Self::NoHolder => "no volunteer holds it",
            Self::NoneEligible => "none of its holders is for this client",
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
    pub excluded: Option<Exclusion>,
    pub rank: Rank,
    pub rate: f64,
    pub in_flight: usize,
    /// Why it is not well, in words.
    pub problem: Option<String>,
}

/// Why a request goes where it goes.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The best first; those that are left out last.
    pub candidates: Vec<Candidate>,
    /// Why none of them would be chosen.
    pub origin: Option<OriginReason>,
}

/// Holders scored per decision at most; further ones are as good as those.
const MAX_SCORED: usize = 512;

/// Decides; books nothing but the passing of time in the ledgers.
pub fn choose(tracker: &mut Tracker, view: &View<'_>, rng: &mut impl Rng) -> Decision {
    let View { params, request, .. } = *view;
    let rule = view.rule();
    if let Some(reason) = beforehand(view, rule) {
        return Decision::Origin(reason);
    }
    let is_busy = request.origin_load >= params.origin_load;
    let mut holders = Holders::of(tracker, view);
    let candidates = holders.eligible.len();
    if candidates == 0 {
        return match holders.suspects.as_slice() {
            [] => Decision::Origin(holders.none()),
            suspects if is_busy => {
                let node = suspects[draw_by_rate(tracker, suspects, rng)];
                Decision::Volunteer { node, candidates: suspects.len(), cost_micros: 0 }
            }
            _ => Decision::Origin(OriginReason::OnlySuspects),
        };
    }
    if let Some(near) = holders.preferred(tracker, rule)
        && let Some((node, rank)) = best(tracker, view, &near, rng)
        && !rank.is_saturated
    {
        return Decision::Volunteer { node, candidates, cost_micros: rank.cost_micros };
    }
    if candidates > params.score_all_up_to {
        holders.eligible = sample_by_rate(tracker, holders.eligible, params.sample, rng);
    }
    let Some((node, rank)) = best(tracker, view, &holders.eligible, rng) else {
        return Decision::Origin(OriginReason::NoHolder);
    };
    if rank.is_saturated && !is_busy {
        return Decision::Origin(OriginReason::AllSaturated);
    }
    Decision::Volunteer { node, candidates, cost_micros: rank.cost_micros }
}

/// The same view without choosing, for people.
pub fn explain(tracker: &mut Tracker, view: &View<'_>) -> Explanation {
    let View { params, request, now, .. } = *view;
    let rule = view.rule();
    let holders = Holders::of(tracker, view);
    let near = holders.preferred(tracker, rule);
    let is_busy = request.origin_load >= params.origin_load;
    let all: Vec<NodeNo> = tracker.holders(request.blob.id).take(MAX_SCORED).collect();
    let mut candidates = Vec::with_capacity(all.len());
    for no in all {
        let rank = rank(tracker, view, no);
        let node = tracker.node(no);
        candidates.push(Candidate {
            node: no,
            id: node.id.clone(),
            state: node.state(params, now),
            excluded: view.exclusion(tracker, no),
            rank,
            rate: node.rate(),
            in_flight: node.in_flight(),
            problem: node.standing.problem.clone(),
        });
    }
    let has_near = |c: &Candidate| near.as_ref().is_some_and(|near| near.contains(&c.node));
    if candidates.iter().any(|c| has_near(c) && !c.rank.is_saturated) {
        let left_out = candidates.iter_mut().filter(|c| c.excluded.is_none());
        for candidate in left_out.filter(|c| near.as_ref().is_some_and(|near| !near.contains(&c.node))) {
            candidate.excluded = Some(Exclusion::NotPreferred);
        }
    }
    candidates
        .sort_by(|a, b| (a.excluded.is_some(), a.rank, &a.id).cmp(&(b.excluded.is_some(), b.rank, &b.id)));
    let origin = beforehand(view, rule).or_else(|| match candidates.first() {
        None => Some(OriginReason::NoHolder),
        Some(best) if best.excluded.is_some() && holders.suspects.is_empty() => Some(holders.none()),
        Some(best) if best.excluded.is_some() => (!is_busy).then_some(OriginReason::OnlySuspects),
        Some(best) => (best.rank.is_saturated && !is_busy).then_some(OriginReason::AllSaturated),
    });
    Explanation { candidates, origin }
}

/// What keeps a request at the server whoever holds the file.
fn beforehand(view: &View<'_>, rule: Option<&NetworkRule>) -> Option<OriginReason> {
    let View { params, request, tries, .. } = *view;
    let is_small = request.blob.size < params.small_file && request.origin_load < params.small_file_load;
    // One of many behind the same address is not told from the others: it may have been sent back before.
    let is_lost = request.is_sent_back && (request.is_segment || tries.is_some_and(|tries| tries.is_crowd()));
    match () {
        () if is_lost => Some(OriginReason::AskedAgain),
        () if rule.is_some_and(|rule| !rule.redirect) => Some(OriginReason::NetworkRule),
        () if tries.is_some_and(|tries| !tries.is_crowd() && tries.nodes().len() >= params.asker_tries) => {
            Some(OriginReason::AskedAgain)
        }
        () if is_small => Some(OriginReason::SmallFile),
        () => None,
    }
}

/// The holders by what may be done with them.
struct Holders {
    eligible: Vec<NodeNo>,
    /// Left out for nothing but missing heartbeats.
    suspects: Vec<NodeNo>,
    has_others: bool,
}

impl Holders {
    fn of(tracker: &Tracker, view: &View<'_>) -> Self {
        let mut holders = Self { eligible: Vec::new(), suspects: Vec::new(), has_others: false };
        let is_crowd = view.tries.is_some_and(|tries| tries.is_crowd());
        let mut last = None;
        for no in tracker.holders(view.request.blob.id) {
            match view.exclusion(tracker, no) {
                None => holders.eligible.push(no),
                Some(Exclusion::State(NodeState::Suspect)) => holders.suspects.push(no),
                Some(Exclusion::State(NodeState::Down)) => {}
                // Whom a crowd was sent to last is left out only where there is another.
                Some(Exclusion::SentBefore) if is_crowd => last = Some(no),
                Some(_) => holders.has_others = true,
            }
            if holders.eligible.len() == MAX_SCORED {
                break;
            }
        }
        if holders.eligible.is_empty() {
            holders.eligible.extend(last);
        }
        holders
    }

    /// Those of the client's site, if there are any.
    fn preferred(&self, tracker: &Tracker, rule: Option<&NetworkRule>) -> Option<Vec<NodeNo>> {
        let rule = rule.filter(|rule| rule.has_preferences())?;
        let near: Vec<NodeNo> =
            self.eligible.iter().copied().filter(|no| rule.prefers(&tracker.node(*no).id)).collect();
        (!near.is_empty()).then_some(near)
    }

    /// Why there is nobody to choose.
    fn none(&self) -> OriginReason {
        if self.has_others { OriginReason::NoneEligible } else { OriginReason::NoHolder }
    }
}

/// The best ranked; equal ones with equal chance.
fn best(
    tracker: &mut Tracker,
    view: &View<'_>,
    holders: &[NodeNo],
    rng: &mut impl Rng,
) -> Option<(NodeNo, Rank)> {
    let mut chosen: Option<(NodeNo, Rank)> = None;
    let mut equals = 0_u32;
    for &no in holders {
        let rank = rank(tracker, view, no);
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

fn rank(tracker: &mut Tracker, view: &View<'_>, no: NodeNo) -> Rank {
    let View { params, request, now, .. } = *view;
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
