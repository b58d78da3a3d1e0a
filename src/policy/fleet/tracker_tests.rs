//! Orders, shares and classes as they follow from events.

use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::config::Networks;
use crate::model::{Rate, Size};
use crate::policy::{Asker, Decision, OriginReason, Policy, Record, Request};

const START: Time = Time::from_secs(1_800_000_000);
const BLOB: Blob = Blob { id: BlobId([5; 32]), size: 1 << 20 };

fn at(millis: u64) -> Time {
    START + Duration::from_millis(millis)
}

fn joined(n: usize, donate: u64) -> Joined {
    Joined {
        id: format!("v{n}").parse().expect("valid id"),
        base_url: format!("http://v{n}.example").into(),
        is_local: false,
        donate: Rate(donate),
        max_size: Size(1 << 40),
        clients: Vec::new(),
        instance: 0,
        is_volatile: false,
        record: Record::default(),
    }
}

fn request(n: u32) -> Request {
    Request {
        blob: BLOB,
        len: BLOB.size,
        origin_load: 0.0,
        client: Asker::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), "apt"),
        can_return: true,
        is_segment: false,
        is_sent_back: false,
    }
}

fn join(tracker: &mut Tracker, n: usize, now: Time) -> (NodeNo, u32) {
    let (node, epoch) = tracker.join(joined(n, 10 << 20), now);
    tracker.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, now);
    (node, epoch)
}

/// Of many that fail and are due again at once, those that have not been tested at all are not left waiting.
#[test]
fn tests_go_round_where_more_are_due_than_may_begin() {
    let mut tracker = Tracker::new(Params::default());
    for n in 0..100 {
        tracker.join(joined(n, 10 << 20), START);
    }
    let mut tested = std::collections::BTreeSet::new();
    for second in 0..4 {
        let now = at(10_000 * second);
        let probes = tracker.probes(30, now);
        assert_eq!(probes.len(), 30, "{second}");
        for Probe { node, epoch, .. } in probes {
            tested.insert(node);
            let outcome = Outcome::Failed { why: "refused".into() };
            tracker.handle(Event::Probed { node, epoch, outcome }, now);
        }
    }
    assert_eq!(tested.len(), 100);
}

/// What one sends to another ends with the order, however that ends.
#[test]
fn a_sync_flow_lasts_as_long_as_its_order() {
    let ends: [fn(&mut Tracker, NodeNo, u32); 6] = [
        |tracker, node, epoch| {
            let ended = Event::OrderEnded { node, epoch, blob: BLOB.id, failed: false };
            tracker.handle(ended, at(10));
        },
        |tracker, node, epoch| {
            tracker.handle(Event::OrderEnded { node, epoch, blob: BLOB.id, failed: true }, at(10));
            assert_eq!(tracker.node(node).open_orders(), 0);
        },
        |tracker, node, epoch| tracker.handle(Event::Left { node, epoch, clean: true }, at(10)),
        |tracker, _, _| {
            join(tracker, 2, at(10));
        },
        |tracker, node, epoch| {
            // Its source is slow: what is left would take longer than an order may.
            let load = Load::default();
            let late = at(10) + Params::default().order_timeout + MAX_COPYING;
            tracker.handle(Event::Reported { node, epoch, load: &load }, late);
            assert!(tracker.node(node).orders.get(&BLOB.id).is_some_and(|order| order.has_failed));
        },
        |tracker, node, _| {
            // It says nothing any more, though its connection lives.
            let (other, epoch) = join(tracker, 3, at(10));
            tracker.handle(Event::Reported { node: other, epoch, load: &Load::default() }, at(60_000));
            assert_eq!(tracker.node(node).open_orders(), 0);
        },
    ];
    for (case, end) in ends.into_iter().enumerate() {
        let mut tracker = Tracker::new(Params::default());
        let (source, _) = join(&mut tracker, 1, START);
        let (node, epoch) = join(&mut tracker, 2, START);
        let big = Blob { size: 1 << 40, ..BLOB };
        tracker.order_fetch(node, big, vec![source], START);
        assert_eq!((tracker.open_syncs(source, at(0)), tracker.node(node).open_orders()), ((1 << 40, 1), 1));
        let (left, flows) = tracker.open_syncs(source, at(1000));
        assert_eq!((left, flows), ((1 << 40) - (10 << 20), 1), "nothing else runs");
        end(&mut tracker, node, epoch);
        assert_eq!(tracker.open_syncs(source, at(1000)), (0, 0), "case {case}");
    }
}

#[test]
fn copying_may_take_more_while_the_server_is_nearly_full() {
    let mut tracker = Tracker::new(Params::default());
    assert_eq!(tracker.sync_share(), 0.2);
    tracker.note_origin_load(0.81);
    assert_eq!(tracker.sync_share(), 0.5);
}

#[test]
fn sums_over_the_fleet_follow_its_events() {
    let mut tracker = Tracker::new(Params::default());
    assert_eq!(tracker.fleet(START), Fleet::default());
    let (one, epoch) = join(&mut tracker, 1, START);
    join(&mut tracker, 2, START);
    let rate = (10 << 20) as f64;
    assert_eq!(tracker.fleet(START), Fleet { up: 2, rate: 2.0 * rate });
    tracker.handle(Event::Left { node: one, epoch, clean: true }, START);
    assert_eq!(tracker.fleet(START), Fleet { up: 1, rate });
    // The other one is silent.
    assert_eq!(tracker.fleet(at(8000)), Fleet::default());
}

/// A new fleet is relied on at once, a newcomer at a server that has run for long is not; and that outlasts
/// the volunteer's record.
#[test]
fn classes_follow_presence() {
    let mut tracker = Tracker::new(Params::default());
    let hour = Duration::from_secs(3600);
    let (old, _) = join(&mut tracker, 1, START);
    assert_eq!(tracker.class(old, START), Class::Stable);
    let day = START + 24 * hour;
    let (new, epoch) = join(&mut tracker, 2, day);
    assert_eq!((tracker.class(old, day), tracker.class(new, day)), (Class::Stable, Class::Probation));
    assert_eq!(tracker.class(new, day + hour), Class::Volatile);
    tracker.handle(Event::Left { node: new, epoch, clean: true }, day + 6 * hour);
    let record = tracker.node(new).standing.record;
    assert_eq!((record.presence.present, record.presence.observed), (6 * hour, 6 * hour));
    // It is away for a day; then it comes to a server that has not seen it so far.
    join(&mut tracker, 2, day + 30 * hour);
    assert_eq!(tracker.class(new, day + 30 * hour), Class::Volatile);
    let mut other = Tracker::new(Params::default());
    let (known, _) = other.join(Joined { record, ..joined(2, 10 << 20) }, day);
    assert_eq!(other.class(known, day), Class::Stable);
}

#[test]
fn who_may_leave_before_the_end_gets_no_client_that_cannot_come_back() {
    let mut policy = Policy::new(Params { min_share: 0.0, ..Params::default() }, Networks::default());
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    policy.join(joined(0, 10 << 20), START);
    let day = START + Duration::from_secs(86_400);
    // At its first moment and a hundredth of the usual rate: 5 s for a megabyte.
    let (node, epoch) = policy.join(joined(1, 200_000), day);
    policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, day);
    let change = HoldingsChange::Add;
    policy.handle(Event::Holdings { node, epoch, change, blobs: &[BLOB.id] }, day);
    let unable = Request { can_return: false, ..request(1) };
    assert_eq!(policy.choose(&unable, day, &mut rng), Decision::Origin(OriginReason::OnlyBrief));
    assert_eq!(policy.explain(&unable, day).origin, Some(OriginReason::OnlyBrief));
    let chosen = |decision| matches!(decision, Decision::Volunteer { .. });
    assert!(chosen(policy.choose(&request(2), day, &mut rng)), "it can come back");
    let busy = Request { origin_load: 0.9, can_return: false, ..request(3) };
    assert!(chosen(policy.choose(&busy, day, &mut rng)), "nobody else has it, and the server is full");
    let soon = day + Duration::from_secs(120);
    policy.handle(Event::Reported { node, epoch, load: &Load::default() }, soon);
    let unable = Request { can_return: false, ..request(4) };
    assert!(chosen(policy.choose(&unable, soon, &mut rng)), "it has lasted for longer than that");
}

/// Requests evenly over a minute, for a blob that all hold, at 80 % of what they carry.
fn shares(policy: &mut Policy, nodes: usize, seed: u64) -> Vec<u64> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let per_second = (nodes as u64 * (10 << 20)) * 8 / 10 / BLOB.size;
    let mut reported = START;
    for n in 0..per_second * 30 {
        let now = at(n * 1000 / per_second);
        if now.since(reported) >= Params::default().heartbeat {
            reported = now;
            let sessions: Vec<_> = policy.tracker().nodes().map(|(no, node)| (no, node.epoch)).collect();
            for (node, epoch) in sessions {
                // As old as the heartbeat before; that it says nothing of what runs must not matter.
                policy.handle(Event::Reported { node, epoch, load: &Load::default() }, now);
            }
        }
        policy.choose(&request(n as u32), now, &mut rng);
    }
    policy.tracker().nodes().map(|(_, node)| node.redirects).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Unknown ones among known ones, more than are scored or fewer: all get something.
    #[test]
    fn nobody_starves(nodes in 2usize..40, known in 0usize..40, seed: u64) {
        let mut policy = Policy::new(Params::default(), Networks::default());
        for n in 0..nodes {
            let (node, epoch) = policy.join(joined(n, 10 << 20), START);
            policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, START);
            let change = HoldingsChange::Add;
            policy.handle(Event::Holdings { node, epoch, change, blobs: &[BLOB.id] }, START);
            for _ in 0..if n < known { 3 } else { 0 } {
                let outcome = Outcome::Good { bytes_per_sec: 1e7 };
                policy.handle(Event::Probed { node, epoch, outcome }, START);
            }
        }
        let shares = shares(&mut policy, nodes, seed);
        let mean = shares.iter().sum::<u64>() / nodes as u64;
        prop_assert!(shares.iter().all(|share| *share > mean / 4), "{shares:?}");
    }
}

/// More holders than a decision looks at.
#[test]
fn none_of_a_thousand_is_overlooked() {
    let mut policy = Policy::new(Params::default(), Networks::default());
    for n in 0..1000 {
        let (node, epoch) = policy.join(joined(n, 10 << 20), START);
        policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, START);
        let change = HoldingsChange::Add;
        policy.handle(Event::Holdings { node, epoch, change, blobs: &[BLOB.id] }, START);
    }
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    for n in 0..12_000 {
        policy.choose(&request(n), START, &mut rng);
    }
    let counts: Vec<u64> = policy.tracker().nodes().map(|(_, node)| node.redirects).collect();
    assert!(counts.iter().all(|n| (4..=24).contains(n)), "{counts:?}");
    let halves = counts.chunks(500).map(|half| half.iter().sum()).collect::<Vec<u64>>();
    assert!(halves[0].abs_diff(halves[1]) < 300, "{halves:?}");
}
