//! Properties of balancing and placement, over randomly built fleets.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::formats::control::HoldingsChange;
use crate::model::{Blob, BlobId, Rate, Size, Time};
use crate::policy::{
    Decision, Event, Joined, Load, NodeNo, NodeState, OriginReason, Params, Policy, Request,
};

const START: Time = Time::from_secs(1_800_000_000);
const BLOB: Blob = Blob { id: BlobId([5; 32]), size: 1 << 20 };

fn later(millis: u64) -> Time {
    START + Duration::from_millis(millis)
}

fn request(blob: Blob) -> Request {
    Request { blob, len: blob.size, origin_load: 0.0, is_local: false }
}

fn join(policy: &mut Policy, n: usize, donate: u64, now: Time) -> (NodeNo, u32) {
    let id = format!("v{n}").parse().expect("valid id");
    let base_url = format!("http://127.0.0.{n}").into();
    policy.join(Joined { id, base_url, is_local: false, donate: Rate(donate), max_size: Size(1 << 40) }, now)
}

fn hold(policy: &mut Policy, (node, epoch): (NodeNo, u32), blob: BlobId, now: Time) {
    let event = Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs: &[blob] };
    policy.handle(event, now);
}

/// `n` equal volunteers that all hold [`BLOB`].
fn fleet(n: usize) -> Policy {
    let mut policy = Policy::new(Params::default());
    for i in 0..n {
        let session = join(&mut policy, i, 50 << 20, START);
        hold(&mut policy, session, BLOB.id, START);
    }
    policy
}

#[derive(Clone, Debug)]
enum Step {
    Join(usize, u64),
    Leave(usize),
    Hold(usize, u8),
    Drop(usize, u8),
    Report(usize, u32),
    Ask(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0usize..6;
    prop_oneof![
        (node.clone(), 20_000u64..100_000_000).prop_map(|(n, rate)| Step::Join(n, rate)),
        node.clone().prop_map(Step::Leave),
        (node.clone(), 0u8..4).prop_map(|(n, b)| Step::Hold(n, b)),
        (node.clone(), 0u8..4).prop_map(|(n, b)| Step::Drop(n, b)),
        (node, 0u32..40).prop_map(|(n, uploads)| Step::Report(n, uploads)),
        (0u8..4).prop_map(Step::Ask),
        (0u64..20_000).prop_map(Step::Wait),
    ]
}

/// What the tracker should know, kept as plainly as possible.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<usize, (NodeNo, u32)>,
    holds: BTreeMap<usize, Vec<u8>>,
    seen: BTreeMap<usize, u64>,
}

impl Model {
    fn holders(&self, blob: u8, now: u64) -> Vec<NodeNo> {
        let alive = self.sessions.iter().filter(|(n, _)| now - self.seen[n] <= 30_000);
        alive.filter(|(n, _)| self.holds[n].contains(&blob)).map(|(_, (no, _))| *no).collect()
    }

    fn apply(
        &mut self,
        policy: &mut Policy,
        step: &Step,
        millis: &mut u64,
        rng: &mut Pcg64Mcg,
    ) -> Option<Decision> {
        let now = later(*millis);
        match *step {
            Step::Join(n, rate) => {
                self.sessions.insert(n, join(policy, n, rate, now));
                self.holds.insert(n, Vec::new());
                self.seen.insert(n, *millis);
            }
            Step::Leave(n) => {
                if let Some((node, epoch)) = self.sessions.remove(&n) {
                    policy.handle(Event::Left { node, epoch }, now);
                }
            }
            Step::Hold(n, b) => {
                if let Some(session) = self.sessions.get(&n) {
                    hold(policy, *session, BlobId([b; 32]), now);
                    self.holds.entry(n).or_default().push(b);
                }
            }
            Step::Drop(n, b) => {
                if let Some(&(node, epoch)) = self.sessions.get(&n) {
                    let blobs = &[BlobId([b; 32])];
                    policy
                        .handle(Event::Holdings { node, epoch, change: HoldingsChange::Remove, blobs }, now);
                    self.holds.entry(n).or_default().retain(|own| *own != b);
                }
            }
            Step::Report(n, uploads) => {
                if let Some(&(node, epoch)) = self.sessions.get(&n) {
                    let load = Load { uploads, ..Load::default() };
                    policy.handle(Event::Reported { node, epoch, load: &load }, now);
                    self.seen.insert(n, *millis);
                }
            }
            Step::Ask(b) => {
                let blob = Blob { id: BlobId([b; 32]), size: 1 << 20 };
                return Some(policy.choose(&request(blob), now, rng));
            }
            Step::Wait(ms) => *millis += ms,
        }
        None
    }
}

proptest! {
    #[test]
    fn the_chosen_one_holds_the_blob_and_is_alive(steps in prop::collection::vec(step(), 1..80), seed: u64) {
        let mut policy = Policy::new(Params::default());
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let (mut model, mut millis) = (Model::default(), 0);
        for step in &steps {
            let decision = model.apply(&mut policy, step, &mut millis, &mut rng);
            let (Some(decision), Step::Ask(b)) = (decision, step) else { continue };
            let holders = model.holders(*b, millis);
            match decision {
                Decision::Volunteer { node, .. } => prop_assert!(holders.contains(&node), "{node:?} of {holders:?}"),
                Decision::Origin(OriginReason::NoHolder) => prop_assert!(holders.is_empty(), "{holders:?}"),
                Decision::Origin(_) => {}
            }
        }
    }

    #[test]
    fn the_choice_is_a_function_of_its_inputs(steps in prop::collection::vec(step(), 1..60), seed: u64) {
        let run = || {
            let mut policy = Policy::new(Params::default());
            let mut rng = Pcg64Mcg::seed_from_u64(seed);
            let (mut model, mut millis) = (Model::default(), 0);
            let all = steps.iter().filter_map(|s| model.apply(&mut policy, s, &mut millis, &mut rng));
            all.collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn placing_twice_orders_nothing_more(nodes in 1usize..8, asks in 1usize..10, seed: u64) {
        let mut policy = Policy::new(Params::default());
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        for n in 0..nodes {
            join(&mut policy, n, 10 << 20, START);
        }
        for _ in 0..asks {
            policy.choose(&request(BLOB), START, &mut rng);
        }
        let orders = policy.place(BLOB, START);
        prop_assert!(!orders.is_empty() && orders.len() <= nodes);
        prop_assert!(asks < 3 || orders.len() >= nodes.min(3));
        prop_assert_eq!(policy.place(BLOB, START), vec![]);
        // A failed order is not repeated at once at the same volunteer.
        let first = orders[0];
        policy.handle(Event::OrderEnded { node: first.node, epoch: first.epoch, blob: BLOB.id, failed: true }, START);
        prop_assert!(policy.place(BLOB, START).iter().all(|order| order.node != first.node));
    }
}

fn shares(policy: &mut Policy, requests: usize, gap_millis: u64) -> Vec<usize> {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut counts = BTreeMap::new();
    for i in 0..requests {
        let now = later(i as u64 * gap_millis);
        if let Decision::Volunteer { node, .. } = policy.choose(&request(BLOB), now, &mut rng) {
            *counts.entry(node).or_insert(0) += 1;
        }
    }
    counts.into_values().collect()
}

#[test]
fn equal_loads_are_spread_evenly() {
    // At once: the ledger alternates them.
    assert_eq!(shares(&mut fleet(4), 40, 0), [10; 4]);
    // Far apart, all idle each time: ties are broken by lot, so 4 sigma around the mean.
    let counts = shares(&mut fleet(4), 700, 21);
    assert_eq!(counts.len(), 4);
    let sigma = (700.0_f64 * 0.25 * 0.75).sqrt();
    assert!(counts.iter().all(|n| (*n as f64 - 175.0).abs() < 4.0 * sigma), "{counts:?}");
    // More than are scored: still even.
    let counts = shares(&mut fleet(40), 4000, 3);
    assert_eq!(counts.len(), 40);
    assert!(counts.iter().all(|n| (60..=145).contains(n)), "{counts:?}");
}

#[test]
fn a_faster_volunteer_gets_more() {
    let mut policy = Policy::new(Params::default());
    for (n, donate) in [(0, 10 << 20), (1, 40 << 20)] {
        let session = join(&mut policy, n, donate, START);
        hold(&mut policy, session, BLOB.id, START);
    }
    let counts = shares(&mut policy, 100, 10);
    assert!(counts[1] > 3 * counts[0], "{counts:?}");
}

#[test]
fn small_files_and_saturation_stay_at_the_server() {
    let mut policy = fleet(2);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let small = Blob { id: BLOB.id, size: 1000 };
    let busy = Request { origin_load: 0.9, ..request(small) };
    assert_eq!(policy.choose(&request(small), START, &mut rng), Decision::Origin(OriginReason::SmallFile));
    assert!(matches!(policy.choose(&busy, START, &mut rng), Decision::Volunteer { .. }));
    let mut saturated = 0;
    for _ in 0..1200 {
        let decision = policy.choose(&request(BLOB), START, &mut rng);
        saturated += usize::from(decision == Decision::Origin(OriginReason::AllSaturated));
    }
    // 50 MiB/s give 409 downloads 128 kB/s each.
    assert!((300..400).contains(&saturated), "{saturated}");
    let full = Request { origin_load: 0.95, ..request(BLOB) };
    assert!(matches!(policy.choose(&full, START, &mut rng), Decision::Volunteer { .. }));
}

#[test]
fn silence_takes_a_volunteer_out() {
    let mut policy = fleet(1);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let state =
        |policy: &Policy, now| policy.tracker().nodes().next().map(|(_, n)| n.state(&Params::default(), now));
    for (secs, want) in
        [(15, NodeState::Up), (16, NodeState::Suspect), (30, NodeState::Suspect), (31, NodeState::Down)]
    {
        assert_eq!(state(&policy, later(secs * 1000)), Some(want), "after {secs} s");
    }
    let suspect = policy.choose(&request(BLOB), later(29_000), &mut rng);
    assert_eq!(suspect, Decision::Origin(OriginReason::OnlySuspects));
    let full = Request { origin_load: 0.95, ..request(BLOB) };
    assert!(matches!(policy.choose(&full, later(29_000), &mut rng), Decision::Volunteer { .. }));
    let gone = policy.choose(&request(BLOB), later(31_000), &mut rng);
    assert_eq!(gone, Decision::Origin(OriginReason::NoHolder));
}

#[test]
fn a_volunteer_on_loopback_is_for_local_clients_only() {
    let mut policy = Policy::new(Params::default());
    let joined = Joined {
        id: "near".parse().expect("valid id"),
        base_url: "http://127.0.0.1:8090".into(),
        is_local: true,
        donate: Rate(50 << 20),
        max_size: Size(1 << 40),
    };
    let session = policy.join(joined, START);
    hold(&mut policy, session, BLOB.id, START);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let remote = policy.choose(&request(BLOB), START, &mut rng);
    assert_eq!(remote, Decision::Origin(OriginReason::NoHolder));
    let local = policy.choose(&Request { is_local: true, ..request(BLOB) }, START, &mut rng);
    assert!(matches!(local, Decision::Volunteer { .. }));
}
