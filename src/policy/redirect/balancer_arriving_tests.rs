//! A file that nobody holds, a server with a thin line, and volunteers that pass on what they are fetching.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::tests::{START, hold, join, request};
use crate::config::Networks;
use crate::model::{Blob, BlobId};
use crate::policy::{Decision, Event, Load, NodeNo, Order, OriginReason, Params, Policy, Task};

const FILE: Blob = Blob { id: BlobId([7; 32]), size: 5_000_000 };
const THIN: f64 = 1e6;

fn fleet(params: Params) -> Policy {
    let mut policy = Policy::new(params, Networks::default());
    (0..4).for_each(|n| _ = join(&mut policy, n, 4 << 20, START));
    policy
}

/// Clients by where they go; `None` is the server.
type Sent = BTreeMap<Option<NodeNo>, usize>;

/// Forty clients within a moment: how many go where, and who is to fetch the file from whom, in the order of orders.
fn forty(policy: &mut Policy) -> (Sent, Vec<(NodeNo, Vec<NodeNo>)>) {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let (mut sent, mut ordered) = (BTreeMap::new(), Vec::new());
    for _ in 0..40 {
        let (decision, orders) = policy.decide(&request(FILE), START, &mut rng);
        let to = match decision {
            Decision::Volunteer { node, .. } => Some(node),
            Decision::Origin(_) => None,
        };
        *sent.entry(to).or_default() += 1;
        ordered.extend(orders.into_iter().filter_map(|order| match order.task {
            Task::Fetch { peers } => Some((order.node, peers)),
            Task::Drop => None,
        }));
    }
    (sent, ordered)
}

#[test]
fn a_thin_line_carries_one_copy_and_volunteers_the_rest() {
    let mut policy = fleet(Params { uplink: THIN, ..Params::default() });
    let (sent, ordered) = forty(&mut policy);
    let served = sent.get(&None).copied().unwrap_or_default();
    assert!((1..=4).contains(&served), "{sent:?}");
    assert_eq!(sent.len(), 5, "all four take part: {sent:?}");
    // A share of less than 5 MB / 15 s is too little.
    assert!(sent.values().all(|clients| *clients <= 12), "{sent:?}");
    assert!(ordered[0].1.is_empty(), "the first copy comes from the server: {ordered:?}");
    assert!(ordered[1..].iter().all(|(_, peers)| !peers.is_empty()), "{ordered:?}");
    let explained = policy.explain(&request(FILE), START);
    assert!(explained.candidates.iter().all(|candidate| candidate.is_arriving), "{explained:?}");
    assert_eq!(explained.candidates.len(), 4);
}

#[test]
fn a_fast_line_serves_at_once() {
    let mut policy = fleet(Params::default());
    let (sent, _) = forty(&mut policy);
    assert!(sent[&None] >= 30, "{sent:?}");
}

#[test]
fn a_fetch_that_failed_is_not_waited_for() {
    let mut policy = fleet(Params { uplink: THIN, ..Params::default() });
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let (_, orders) = policy.decide(&request(FILE), START, &mut rng);
    let order = &orders[0];
    let redirected = policy.choose(&request(FILE), START, &mut rng);
    assert!(matches!(redirected, Decision::Volunteer { node, .. } if node == order.node), "{redirected:?}");
    let ended = Event::OrderEnded { node: order.node, epoch: order.epoch, blob: FILE.id, failed: true };
    policy.handle(ended, START);
    assert_eq!(policy.choose(&request(FILE), START, &mut rng), Decision::Origin(OriginReason::NoHolder));
}

#[test]
fn volunteers_that_do_not_pass_on_get_nobody() {
    let mut policy = fleet(Params { uplink: THIN, cut_through: false, ..Params::default() });
    let (sent, ordered) = forty(&mut policy);
    assert_eq!(sent[&None], 40);
    assert!(ordered.iter().all(|(_, peers)| peers.is_empty()), "{ordered:?}");
}

#[test]
fn what_is_still_arriving_is_no_test_of_a_volunteer() {
    let mut policy = fleet(Params { uplink: THIN, ..Params::default() });
    forty(&mut policy);
    let later = START + policy.params.probe_every * 2;
    assert!(policy.probes(later).iter().all(|probe| probe.blob.is_none()));
    // What it has fetched is one: it has sent that already.
    let sessions: Vec<_> = policy.tracker().nodes().map(|(no, node)| (no, node.epoch)).collect();
    for &(node, epoch) in &sessions {
        policy.handle(Event::OrderEnded { node, epoch, blob: FILE.id, failed: false }, later);
        hold(&mut policy, (node, epoch), FILE.id, later);
    }
    let probes = policy.probes(later);
    assert_eq!(probes.iter().filter(|probe| probe.blob == Some(FILE)).count(), sessions.len(), "{probes:?}");
}

#[test]
fn who_is_said_to_pass_on_wrong_bytes_is_tested_when_it_has_them() {
    let mut policy = fleet(Params { uplink: THIN, ..Params::default() });
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let (_, orders) = policy.decide(&request(FILE), START, &mut rng);
    let Order { node, epoch, .. } = orders[0];
    policy.suspect(node, FILE);
    policy.handle(Event::OrderEnded { node, epoch, blob: FILE.id, failed: false }, START);
    let probes = policy.probes(START + policy.params.probe_every * 2);
    assert_eq!(probes.iter().map(|probe| (probe.node, probe.blob)).collect::<Vec<_>>(), [(node, Some(FILE))]);
}

#[test]
fn nobody_waits_for_a_copy_that_does_not_come() {
    let mut policy = fleet(Params { uplink: THIN, ..Params::default() });
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let (_, orders) = policy.decide(&request(FILE), START, &mut rng);
    let Order { node, epoch, .. } = orders[0];
    // Thirty seconds, and four times what 5 MB take at 1 MB/s.
    for (secs, is_waited_for) in [(49, true), (51, false)] {
        let now = START + Duration::from_secs(secs);
        policy.handle(Event::Reported { node, epoch, load: &Load::default() }, now);
        let explained = policy.explain(&request(FILE), now);
        let is_candidate = explained.candidates.iter().any(|candidate| candidate.node == node);
        assert_eq!(is_candidate, is_waited_for, "{secs} s: {explained:?}");
    }
}
