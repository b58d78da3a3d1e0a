//! Which holder serves a request: the one for whom it costs least.
//!
//! Cost of a download of s bytes at volunteer v with estimated rate u and running downloads x_j
//! (reference policy, section E.1; processor sharing):
//!
//! ```text
//! B = sum min(s, x_j)                    what shares the line with it
//! T = (s + B) / u                        when this download would end
//! C = T + beta * B / u + phi * W / u     plus the delay it inflicts on the others, plus its past
//! ```
//!
//! W is what the volunteer was given lately (`Params::fairness_window`) and phi its weight
//! (`Params::fairness`): cost alone sends everything to the fastest until it is busy, which is neither fair to
//! whoever donates it nor kind to those whose downloads run there when a crowd comes.
//!
//! Where copies are sent to other volunteers too, u is what they leave (see [`crate::policy::fleet::ledger`]). Who is not
//! known yet is passed over every other time, beside others that are. The ledger has what was decided a moment
//! ago, so that reports, however old, make no herd: they only correct it.
//!
//! Properties, tested below: the chosen one holds the blob and is not down; equal ones are chosen equally
//! often; nobody starves; the choice is a function of state, request, time and generator.

use rand::{Rng, RngExt};

use super::eligible::{Exclusion, View};
use crate::config::NetworkRule;
use crate::model::VolunteerId;
use crate::policy::fleet::node::NodeState;
use crate::policy::fleet::roster::Brief;
use crate::policy::fleet::stability::{Class, break_risk};
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::NodeNo;
use crate::policy::outputs::{Decision, OriginReason};

/// How a candidate ranks; smaller is better, and field order is priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// It may well be gone before the download ends, and the client could not come back.
    pub is_brief: bool,
    /// A new download would get less than the minimum share.
    pub is_saturated: bool,
    pub cost_micros: u64,
    /// The server is at leisure, and would be so much faster. Last: among holders it would prefer the fast, and leave
    /// the others idle.
    pub is_slow: bool,
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
    /// It is fetching the file, and passes on what it has.
    pub is_arriving: bool,
}

/// Why a request goes where it goes.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The best first; those that are left out last.
    pub candidates: Vec<Candidate>,
    /// Why none of them would be chosen.
    pub origin: Option<OriginReason>,
}

impl Rank {
    /// Whether a client goes past a holder that the network's rule prefers: not for the server's line alone, which
    /// may be far away.
    pub(in crate::policy) fn is_bad(&self) -> bool {
        self.is_brief || self.is_saturated
    }

    /// Why the server should rather serve itself while it can.
    fn objection(&self) -> Option<OriginReason> {
        match () {
            () if self.is_brief => Some(OriginReason::OnlyBrief),
            () if self.is_saturated => Some(OriginReason::AllSaturated),
            () if self.is_slow => Some(OriginReason::AllSlow),
            () => None,
        }
    }
}

/// Holders looked at per decision at most: those of more that follow a random one.
pub(in crate::policy) const MAX_HOLDERS: usize = 512;
/// Draws per one that is wanted, since some come twice.
const DRAWS: usize = 8;

/// Room for lists of holders, kept from decision to decision so that none allocates.
#[derive(Debug, Default)]
pub(in crate::policy) struct Scratch {
    eligible: Vec<NodeNo>,
    sums: Vec<f64>,
    drawn: Vec<NodeNo>,
    hopes: Vec<Hope>,
}

/// A holder before its line is looked at.
#[derive(Clone, Copy, Debug)]
pub(in crate::policy) struct Hope {
    node: NodeNo,
    /// What it was given lately, in bytes.
    past: f64,
    /// What the request costs if it has nothing else to do: no rank has less.
    least_micros: u64,
}

/// Decides; books nothing but the passing of time in the ledgers.
pub fn choose(tracker: &mut Tracker, view: &View<'_>, scratch: &mut Scratch, rng: &mut impl Rng) -> Decision {
    let rule = view.rule();
    match beforehand(view, rule) {
        Some(reason) => Decision::Origin(reason),
        None => choose_holder(tracker, view, rule, scratch, rng),
    }
}

fn choose_holder(
    tracker: &mut Tracker,
    view: &View<'_>,
    rule: Option<&NetworkRule>,
    scratch: &mut Scratch,
    rng: &mut impl Rng,
) -> Decision {
    let View { params, request, .. } = *view;
    let is_busy = request.origin_load >= params.origin_load;
    let has_others = eligible(tracker, view, &mut scratch.eligible, |shelves| rng.random_range(0..shelves));
    let candidates = scratch.eligible.len();
    if candidates == 0 {
        let suspects = suspects(tracker, view);
        return match suspects.len() {
            0 => Decision::Origin(nobody(has_others)),
            _ if !is_busy => Decision::Origin(OriginReason::OnlySuspects),
            candidates => {
                sample_by_rate(tracker, &suspects, 1, scratch, rng);
                let node = scratch.drawn.first().copied().unwrap_or(suspects[0]);
                Decision::Volunteer { node, candidates, cost_micros: 0 }
            }
        };
    }
    let near = preferred(tracker, &mut scratch.eligible, rule);
    if let Some((node, rank)) = best(tracker, view, &scratch.eligible[..near], &mut scratch.hopes, rng)
        && !rank.is_bad()
    {
        return Decision::Volunteer { node, candidates, cost_micros: rank.cost_micros };
    }
    if candidates > params.score_all_up_to {
        let eligible = std::mem::take(&mut scratch.eligible);
        sample_by_rate(tracker, &eligible, params.sample, scratch, rng);
        scratch.eligible = eligible;
    }
    let scored = if candidates > params.score_all_up_to { &scratch.drawn } else { &scratch.eligible };
    let Some((node, rank)) = best(tracker, view, scored, &mut scratch.hopes, rng) else {
        return Decision::Origin(OriginReason::NoHolder);
    };
    match rank.objection() {
        Some(reason) if origin_helps(view, reason, rank) => Decision::Origin(reason),
        _ => Decision::Volunteer { node, candidates, cost_micros: rank.cost_micros },
    }
}

/// Whether the server serves itself rather than leave a request to a holder that there is something against.
fn origin_helps(view: &View<'_>, reason: OriginReason, rank: Rank) -> bool {
    let View { params, request, offer, .. } = *view;
    // That the server is faster, even with what it is about to send, was found out already.
    if request.origin_load < params.origin_load || reason == OriginReason::AllSlow {
        return true;
    }
    // As a holder's cost: until the end, and the delay of the others.
    let own = (1.0 + params.beta) * offer.queue + request.len as f64 / params.uplink.max(1.0);
    reason == OriginReason::AllSaturated
        && offer.queue <= params.rescue_queue.as_secs_f64()
        && rank.cost_micros as f64 > params.rescue * own * 1e6
}

/// The same view of up to `most` holders without choosing, for people.
pub fn explain(tracker: &mut Tracker, view: &View<'_>, most: usize) -> Explanation {
    let View { params, request, .. } = *view;
    let rule = view.rule();
    let mut eligible_ones = Vec::new();
    let has_others = eligible(tracker, view, &mut eligible_ones, |_| 0);
    let suspects = suspects(tracker, view);
    let near = preferred(tracker, &mut eligible_ones, rule);
    let near = &eligible_ones[..near];
    let is_busy = request.origin_load >= params.origin_load;
    let all: Vec<NodeNo> = tracker.holders(request.blob.id).take(most).collect();
    let mut candidates: Vec<Candidate> = all.into_iter().map(|no| candidate(tracker, view, no)).collect();
    if candidates.iter().any(|c| near.contains(&c.node) && !c.rank.is_bad()) {
        let left_out = candidates.iter_mut().filter(|c| c.excluded.is_none());
        for candidate in left_out.filter(|c| !near.contains(&c.node)) {
            candidate.excluded = Some(Exclusion::NotPreferred);
        }
    }
    candidates
        .sort_by(|a, b| (a.excluded.is_some(), a.rank, &a.id).cmp(&(b.excluded.is_some(), b.rank, &b.id)));
    let origin = beforehand(view, rule).or_else(|| match candidates.first() {
        None => Some(OriginReason::NoHolder),
        Some(best) if best.excluded.is_some() && suspects.is_empty() => Some(nobody(has_others)),
        Some(best) if best.excluded.is_some() => (!is_busy).then_some(OriginReason::OnlySuspects),
        Some(best) if near.contains(&best.node) && !best.rank.is_bad() => None,
        Some(best) => best.rank.objection().filter(|reason| origin_helps(view, *reason, best.rank)),
    });
    Explanation { candidates, origin }
}

/// A volunteer as the decision sees it.
pub(in crate::policy) fn candidate(tracker: &mut Tracker, view: &View<'_>, no: NodeNo) -> Candidate {
    let past = past(view, tracker.brief(no), tracker.fading(view.now));
    let rank = rank(tracker, view, no, past);
    let node = tracker.node(no);
    Candidate {
        node: no,
        id: node.id.clone(),
        state: node.state(view.params, view.now),
        excluded: view.exclusion(tracker, no),
        rank,
        rate: node.rate(),
        in_flight: node.in_flight(),
        problem: node.standing.problem.clone(),
        is_arriving: false,
    }
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

/// Fills in the holders that may be chosen; returns whether others are up.
fn eligible(
    tracker: &Tracker,
    view: &View<'_>,
    eligible: &mut Vec<NodeNo>,
    pick: impl FnOnce(u32) -> u32,
) -> bool {
    let is_crowd = view.tries.is_some_and(|tries| tries.is_crowd());
    let (mut last, mut has_others) = (None, false);
    eligible.clear();
    tracker.holdings.visit(view.request.blob.id, MAX_HOLDERS, pick, |no| {
        let excluded = if view.is_plain(tracker, no) { None } else { view.exclusion(tracker, no) };
        match excluded {
            None => eligible.push(no),
            Some(Exclusion::State(NodeState::Down | NodeState::Suspect)) => {}
            // Whom a crowd was sent to last is left out only where there is another.
            Some(Exclusion::SentBefore) if is_crowd => last = Some(no),
            Some(_) => has_others = true,
        }
        eligible.len() == MAX_HOLDERS
    });
    if eligible.is_empty() {
        eligible.extend(last);
    }
    has_others
}

/// Holders left out for nothing but missing heartbeats.
fn suspects(tracker: &Tracker, view: &View<'_>) -> Vec<NodeNo> {
    let is_suspect = |no: &NodeNo| view.exclusion(tracker, *no) == Some(Exclusion::State(NodeState::Suspect));
    tracker.holders(view.request.blob.id).filter(is_suspect).take(MAX_HOLDERS).collect()
}

/// Moves those of the client's site to the front; returns how many.
fn preferred(tracker: &Tracker, eligible: &mut [NodeNo], rule: Option<&NetworkRule>) -> usize {
    let Some(rule) = rule.filter(|rule| rule.has_preferences()) else { return 0 };
    let mut near = 0;
    for at in 0..eligible.len() {
        if rule.prefers(&tracker.node(eligible[at]).id) {
            eligible.swap(near, at);
            near += 1;
        }
    }
    near
}

/// Why there is nobody to choose.
fn nobody(has_others: bool) -> OriginReason {
    if has_others { OriginReason::NoneEligible } else { OriginReason::NoHolder }
}

/// The best ranked; equal ones with equal chance. Those that are not known yet have fewer turns than others.
pub(in crate::policy) fn best(
    tracker: &mut Tracker,
    view: &View<'_>,
    holders: &[NodeNo],
    hopes: &mut Vec<Hope>,
    rng: &mut impl Rng,
) -> Option<(NodeNo, Rank)> {
    let most = holders.iter().map(|no| tracker.brief(*no).turns).fold(0.0, f32::max);
    let fading = tracker.fading(view.now);
    hopes.clear();
    for &no in holders {
        let brief = tracker.brief(no);
        if brief.turns < most && rng.random::<f32>() * most >= brief.turns {
            continue;
        }
        let past = past(view, brief, fading);
        let least_micros = micros((view.request.len as f64 + past) / brief.rate);
        hopes.push(Hope { node: no, past, least_micros });
    }
    // Whoever promises most comes first: most others cost more than that one does, whatever their lines do.
    if let Some(first) = (0..hopes.len()).min_by_key(|at| hopes[*at].least_micros) {
        hopes.swap(0, first);
    }
    let mut chosen: Option<(NodeNo, Rank)> = None;
    let mut equals = 0_u32;
    for &Hope { node: no, past, least_micros } in &*hopes {
        if chosen.is_some_and(|(_, rank)| !rank.is_bad() && rank.cost_micros < least_micros) {
            continue;
        }
        let rank = rank(tracker, view, no, past);
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

/// Until a request would be served there, if nothing changes.
pub(in crate::policy) fn seconds(tracker: &Tracker, view: &View<'_>, no: NodeNo) -> f64 {
    let ledger = &tracker.node(no).ledger;
    let bytes = view.request.len as f64 + ledger.backlog(view.request.len);
    bytes * ledger.stretch(bytes, tracker.sync_share()) / tracker.brief(no).rate
}

fn rank(tracker: &mut Tracker, view: &View<'_>, no: NodeNo, past: f64) -> Rank {
    let View { params, request, now, .. } = *view;
    tracker.advance(no, now);
    let share = tracker.sync_share();
    let (brief, node) = (tracker.brief(no), tracker.node(no));
    let (rate, len) = (brief.rate, request.len as f64);
    let backlog = node.ledger.backlog(request.len);
    let stretch = node.ledger.stretch(len + backlog, share);
    let seconds = || (len + backlog) * stretch / rate;
    // In a crowd another comes for each that ends: its share of the line stays what it is at first.
    let shared = len * (node.ledger.flows() + 1) as f64 * stretch / rate;
    let is_brief = !request.can_return
        && brief.class != Class::Stable
        && break_risk(params, now.since(node.connected), seconds()) > params.break_risk;
    Rank {
        is_brief,
        is_slow: shared > params.patience * view.offer.seconds(params, request.len),
        is_saturated: node.ledger.is_saturated(params.least_share, rate, share),
        cost_micros: micros(((len + (1.0 + params.beta) * backlog) * stretch + past) / rate),
    }
}

/// What a volunteer was given lately, in bytes as heavy as those that it sends, by [`Tracker::fading`].
fn past(view: &View<'_>, brief: &Brief, fading: f64) -> f64 {
    view.params.fairness * brief.given(fading)
}

/// A tenth of a millisecond is below what any estimate here is good for, and five days are as good as never.
fn micros(seconds: f64) -> u64 {
    u64::from((seconds * 1e4) as u32) * 100
}

/// Leaves `count` different holders in `scratch.drawn`, drawn in proportion to their rates; fewer if some
/// rates are next to nothing.
fn sample_by_rate(
    tracker: &Tracker,
    holders: &[NodeNo],
    count: usize,
    scratch: &mut Scratch,
    rng: &mut impl Rng,
) {
    let Scratch { sums, drawn, .. } = scratch;
    let mut total = 0.0;
    sums.clear();
    drawn.clear();
    sums.extend(holders.iter().map(|no| {
        total += tracker.brief(*no).rate;
        total
    }));
    for _ in 0..count * DRAWS {
        let at = rng.random::<f64>() * total;
        let index = sums.partition_point(|sum| *sum <= at).min(holders.len() - 1);
        if !drawn.contains(&holders[index]) {
            drawn.push(holders[index]);
        }
        if drawn.len() >= count.min(holders.len()) {
            break;
        }
    }
}

#[cfg(test)]
#[path = "balancer_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "balancer_best_tests.rs"]
mod best_tests;

#[cfg(test)]
#[path = "balancer_leisure_tests.rs"]
mod leisure_tests;

#[cfg(test)]
#[path = "balancer_arriving_tests.rs"]
mod arriving_tests;
