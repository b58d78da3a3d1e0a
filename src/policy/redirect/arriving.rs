//! Volunteers that are fetching a file, for requests that no holder is good for.
//!
//! They pass on what has arrived (see `roles/volunteer/http.rs`), so whoever is sent there has the file soon after the
//! copy is whole. At the server a client shares the line with this copy and with all who came before: where these take
//! longer than the volunteer needs to send the file, the client fares better with the volunteer.

use rand::Rng;

use super::balancer::{self, Candidate};
use super::eligible::View;
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::NodeNo;
use crate::policy::outputs::{Decision, OriginReason};

/// Such volunteers looked at per decision.
const MAX_LOOKED_AT: usize = 16;

/// Whether the server would answer only because there is nobody else.
pub(in crate::policy) fn may_help(view: &View<'_>, reason: OriginReason) -> bool {
    let is_for_want_of_holders =
        matches!(reason, OriginReason::NoHolder | OriginReason::NoneEligible | OriginReason::AllSaturated);
    view.params.cut_through && view.request.len > 0 && is_for_want_of_holders
}

/// The one of them that serves this request, if one does so before the server would.
pub(in crate::policy) fn choose(
    tracker: &mut Tracker,
    view: &View<'_>,
    coming: impl Iterator<Item = NodeNo>,
    rng: &mut impl Rng,
) -> Option<Decision> {
    let able: Vec<NodeNo> = able(tracker, view, coming);
    let (node, rank) = balancer::best(tracker, view, &able, &mut Vec::new(), rng)?;
    let is_sooner = !rank.is_bad() && is_soon_enough(tracker, view, node);
    let decision = Decision::Volunteer { node, candidates: able.len(), cost_micros: rank.cost_micros };
    is_sooner.then_some(decision)
}

/// The same for people: candidates, and whether one of them would be chosen.
pub(in crate::policy) fn explain(
    tracker: &mut Tracker,
    view: &View<'_>,
    coming: impl Iterator<Item = NodeNo>,
) -> (Vec<Candidate>, bool) {
    let able = able(tracker, view, coming);
    let mut candidates: Vec<Candidate> = able
        .into_iter()
        .map(|node| Candidate { is_arriving: true, ..balancer::candidate(tracker, view, node) })
        .collect();
    candidates.sort_by(|a, b| (a.rank, &a.id).cmp(&(b.rank, &b.id)));
    let best = candidates.first().map(|best| (best.node, best.rank));
    let is_sooner = best.is_some_and(|(node, rank)| !rank.is_bad() && is_soon_enough(tracker, view, node));
    (candidates, is_sooner)
}

/// Whether it sends the file soon enough: clients accept up to `patience` times the server's own time, because one more
/// client there delays the copy and everyone who waits for it.
fn is_soon_enough(tracker: &Tracker, view: &View<'_>, no: NodeNo) -> bool {
    let View { params, request, offer, .. } = *view;
    let here = offer.queue + request.len as f64 / params.uplink.max(1.0);
    balancer::seconds(tracker, view, no) <= params.patience * here
}

fn able(tracker: &Tracker, view: &View<'_>, coming: impl Iterator<Item = NodeNo>) -> Vec<NodeNo> {
    let View { params, request, now, .. } = *view;
    let passes_on = |no: &NodeNo| tracker.node(*no).passes_on(params, request.blob.id, now);
    coming.filter(passes_on).filter(|no| view.exclusion(tracker, *no).is_none()).take(MAX_LOOKED_AT).collect()
}
