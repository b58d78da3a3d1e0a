//! Properties of balancing and placement, over randomly built fleets.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::config::Networks;
use crate::formats::control::HoldingsChange;
use crate::model::{Blob, BlobId, Rate, Size, Time};
use crate::policy::{
    Asker, Decision, Event, Exclusion, Joined, Load, NodeNo, NodeState, OriginReason, Outcome, Params,
    Policy, Record, Request,
};

pub(in crate::policy) const START: Time = Time::from_secs(1_800_000_000);
const BLOB: Blob = Blob { id: BlobId([5; 32]), size: 1 << 20 };

pub(in crate::policy) fn later(millis: u64) -> Time {
    START + Duration::from_millis(millis)
}

fn client(address: impl Into<IpAddr>) -> Asker {
    Asker::new(address.into(), "apt")
}

/// A client of its own each time, so that nobody is taken for one who asks again.
pub(in crate::policy) fn request(blob: Blob) -> Request {
    thread_local!(static NEXT: Cell<u32> = const { Cell::new(0x0a00_0000) });
    let client = client(Ipv4Addr::from(NEXT.replace(NEXT.get() + 1)));
    Request {
        blob,
        len: blob.size,
        origin_load: 0.0,
        client,
        can_return: true,
        is_segment: false,
        is_sent_back: false,
    }
}

fn joined(n: usize, donate: u64) -> Joined {
    Joined {
        id: format!("v{n}").parse().expect("valid id"),
        base_url: format!("http://127.0.0.{n}").into(),
        is_local: false,
        donate: Rate(donate),
        max_size: Size(1 << 40),
        clients: Vec::new(),
        instance: 0,
        is_volatile: false,
        record: Record::default(),
    }
}

/// Joins, and passes the test that follows.
pub(in crate::policy) fn join(policy: &mut Policy, n: usize, donate: u64, now: Time) -> (NodeNo, u32) {
    join_as(policy, joined(n, donate), now)
}

fn join_as(policy: &mut Policy, joined: Joined, now: Time) -> (NodeNo, u32) {
    let (node, epoch) = policy.join(joined, now);
    policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, now);
    (node, epoch)
}

pub(in crate::policy) fn policy() -> Policy {
    Policy::new(Params::default(), Networks::default())
}

pub(in crate::policy) fn hold(policy: &mut Policy, (node, epoch): (NodeNo, u32), blob: BlobId, now: Time) {
    let event = Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs: &[blob] };
    policy.handle(event, now);
}

/// `n` equal volunteers that all hold [`BLOB`].
fn fleet(n: usize) -> Policy {
    let mut policy = policy();
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
    Probe(usize, u8),
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
        (node.clone(), 0u32..40).prop_map(|(n, uploads)| Step::Report(n, uploads)),
        (node, 0u8..5).prop_map(|(n, how)| Step::Probe(n, how)),
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
        let alive = self.sessions.iter().filter(|(n, _)| now - self.seen[n] <= 12_500);
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
                    policy.handle(Event::Left { node, epoch, clean: true }, now);
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
            Step::Probe(n, how) => {
                if let Some(&(node, epoch)) = self.sessions.get(&n) {
                    let outcome = match how {
                        0 => Outcome::Failed { why: "refused".into() },
                        1 => Outcome::Good { bytes_per_sec: 1000.0 },
                        2 => Outcome::Good { bytes_per_sec: 1e8 },
                        _ => Outcome::Reached,
                    };
                    policy.handle(Event::Probed { node, epoch, outcome }, now);
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
        let mut policy = policy();
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let (mut model, mut millis) = (Model::default(), 0);
        for step in &steps {
            let decision = model.apply(&mut policy, step, &mut millis, &mut rng);
            let (now, tracker) = (later(millis), policy.tracker());
            // What decisions look at says what the volunteer itself says.
            for (no, node) in tracker.nodes() {
                let state = node.state(&Params::default(), now);
                prop_assert_eq!(tracker.is_up(no, now), state == NodeState::Up);
            }
            let (Some(decision), Step::Ask(b)) = (decision, step) else { continue };
            let holders = model.holders(*b, millis);
            match decision {
                Decision::Volunteer { node, .. } => {
                    prop_assert!(holders.contains(&node), "{node:?} of {holders:?}");
                    prop_assert!(tracker.is_up(node, now));
                }
                Decision::Origin(OriginReason::NoHolder) => prop_assert!(holders.is_empty(), "{holders:?}"),
                Decision::Origin(_) => {}
            }
        }
    }

    /// Volunteers send clients back as they like, many clients share few addresses, and nobody waits: each
    /// comes to an end after few redirects.
    #[test]
    fn no_redirect_loop_can_be_built(
        fleet_size in 1usize..6,
        clients in prop::collection::vec((0u8..3, any::<bool>(), prop::collection::vec(0u8..3, 12)), 1..60),
        seed: u64,
    ) {
        let mut policy = fleet(fleet_size);
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        for (address, is_segment, volunteers_do) in clients {
            let client = client(Ipv4Addr::new(192, 0, 2, address));
            let mut ask = Request { client, is_segment, ..request(BLOB) };
            let mut hops = 0;
            for does in volunteers_do {
                let Decision::Volunteer { .. } = policy.choose(&ask, START, &mut rng) else { break };
                hops += 1;
                match does {
                    // It serves; or sends the client to the direct URL, which redirects nobody.
                    0 => break,
                    1 => {
                        policy.came_back(ask.client, BLOB, START);
                        break;
                    }
                    // It says that the ticket has expired, true or not.
                    _ => ask.is_sent_back = true,
                }
            }
            prop_assert!(hops <= 3, "{hops} redirects");
        }
    }

    #[test]
    fn the_choice_is_a_function_of_its_inputs(steps in prop::collection::vec(step(), 1..60), seed: u64) {
        let run = || {
            let mut policy = policy();
            let mut rng = Pcg64Mcg::seed_from_u64(seed);
            let (mut model, mut millis) = (Model::default(), 0);
            let all = steps.iter().filter_map(|s| model.apply(&mut policy, s, &mut millis, &mut rng));
            all.collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn placing_twice_orders_nothing_more(nodes in 1usize..8, asks in 1usize..10, seed: u64) {
        let mut policy = policy();
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
        let first = orders[0].clone();
        policy.handle(Event::OrderEnded { node: first.node, epoch: first.epoch, blob: BLOB.id, failed: true }, START);
        prop_assert!(policy.place(BLOB, START).iter().all(|order| order.node != first.node));
    }
}

/// Heartbeats that change nothing but the time of the last one.
fn report_all(policy: &mut Policy, now: Time) {
    let due: Vec<_> = policy.tracker().nodes().map(|(no, n)| (no, n.epoch, n.last_seen)).collect();
    for (node, epoch, last_seen) in due {
        if now.since(last_seen) >= Params::default().heartbeat {
            policy.handle(Event::Reported { node, epoch, load: &Load::default() }, now);
        }
    }
}

fn shares(policy: &mut Policy, requests: usize, gap_millis: u64) -> Vec<usize> {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut counts = BTreeMap::new();
    for i in 0..requests {
        let now = later(i as u64 * gap_millis);
        report_all(policy, now);
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
    let mut policy = policy();
    for (n, donate) in [(0, 10 << 20), (1, 40 << 20)] {
        let session = join(&mut policy, n, donate, START);
        hold(&mut policy, session, BLOB.id, START);
    }
    let counts = shares(&mut policy, 100, 10);
    assert!(counts[1] > 3 * counts[0], "{counts:?}");
}

#[test]
fn silence_takes_a_volunteer_out() {
    let mut policy = fleet(1);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let state =
        |policy: &Policy, now| policy.tracker().nodes().next().map(|(_, n)| n.state(&Params::default(), now));
    for (secs, want) in
        [(75, NodeState::Up), (76, NodeState::Suspect), (125, NodeState::Suspect), (126, NodeState::Down)]
    {
        assert_eq!(state(&policy, later(secs * 100)), Some(want), "after {secs} tenths");
    }
    let suspect = policy.choose(&request(BLOB), later(12_000), &mut rng);
    assert_eq!(suspect, Decision::Origin(OriginReason::OnlySuspects));
    let full = Request { origin_load: 0.95, ..request(BLOB) };
    assert!(matches!(policy.choose(&full, later(12_000), &mut rng), Decision::Volunteer { .. }));
    let gone = policy.choose(&request(BLOB), later(13_000), &mut rng);
    assert_eq!(gone, Decision::Origin(OriginReason::NoHolder));
}

#[test]
fn a_volunteer_on_loopback_is_for_local_clients_only() {
    let mut policy = policy();
    let near = Joined { is_local: true, base_url: "http://127.0.0.1:8090".into(), ..joined(1, 50 << 20) };
    let session = join_as(&mut policy, near, START);
    hold(&mut policy, session, BLOB.id, START);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let remote = policy.choose(&request(BLOB), START, &mut rng);
    assert_eq!(remote, Decision::Origin(OriginReason::NoneEligible));
    let local = Request { client: client(Ipv4Addr::LOCALHOST), ..request(BLOB) };
    assert!(matches!(policy.choose(&local, START, &mut rng), Decision::Volunteer { .. }));
}

#[test]
fn who_asks_again_is_sent_elsewhere_and_then_served() {
    let mut policy = fleet(3);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let again = request(BLOB);
    let mut ask = |policy: &mut Policy, millis| policy.choose(&again, later(millis), &mut rng);
    let (first, second, third) = (ask(&mut policy, 0), ask(&mut policy, 10), ask(&mut policy, 20));
    let node = |decision| match decision {
        Decision::Volunteer { node, .. } => node,
        Decision::Origin(reason) => panic!("{reason:?}"),
    };
    assert_ne!(node(first), node(second));
    assert_eq!(third, Decision::Origin(OriginReason::AskedAgain));
    let complaints =
        |policy: &Policy| policy.tracker().nodes().map(|(_, n)| n.standing.complaints).sum::<u64>();
    assert_eq!(complaints(&policy), 2);
    // Served: who asks for it next from there is somebody else.
    for millis in 30..60 {
        node(ask(&mut policy, millis));
    }
    // A minute later it is another download.
    report_all(&mut policy, later(61_000));
    let last = node(policy.choose(&again, later(61_100), &mut rng));
    assert_eq!(complaints(&policy), 2);
    assert!(policy.came_back(again.client, BLOB, later(61_200)) && complaints(&policy) == 3);
    assert!(!policy.came_back(again.client, BLOB, later(61_300)), "once told, {last:?}");
}

#[test]
fn parts_fetched_on_their_own_are_no_second_tries() {
    let mut policy = fleet(1);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let part = Request { len: 1000, is_segment: true, ..request(BLOB) };
    for _ in 0..10 {
        assert!(matches!(policy.choose(&part, START, &mut rng), Decision::Volunteer { .. }));
    }
}

#[test]
fn who_cannot_come_back_is_not_sent_to_the_volatile() {
    let mut policy = policy();
    for (secs, is_volatile) in [(0, false), (100, false), (200, true)] {
        let now = later(secs * 1000);
        let session = join(&mut policy, 1, 50 << 20, now);
        hold(&mut policy, session, BLOB.id, now);
        let unable = Request { can_return: false, ..request(BLOB) };
        let decision = policy.choose(&unable, now, &mut Pcg64Mcg::seed_from_u64(1));
        assert_eq!(
            decision == Decision::Origin(OriginReason::NoneEligible),
            is_volatile,
            "{secs}: {decision:?}"
        );
        let (node, epoch) = session;
        policy.handle(Event::Left { node, epoch, clean: false }, now + Duration::from_secs(10));
    }
    let declared = Joined { is_volatile: true, ..joined(2, 50 << 20) };
    let session = join_as(&mut policy, declared, START);
    hold(&mut policy, session, BLOB.id, START);
    let unable = Request { can_return: false, ..request(BLOB) };
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let explained = policy.explain(&unable, START);
    assert!(explained.candidates.iter().any(|c| c.excluded == Some(Exclusion::Volatile)), "{explained:?}");
    assert!(matches!(policy.choose(&request(BLOB), START, &mut rng), Decision::Volunteer { .. }));
}

#[test]
fn rules_about_networks_hold_and_are_explained() {
    let text = "
        [[network]]
        clients = ['192.0.2.0/24']
        redirect = false
        [[network]]
        clients = ['198.51.100.0/24']
        prefer = ['v1']
        [[volunteer]]
        id = 'v2'
        clients = ['203.0.113.0/24']
        [[repo]]
        name = 'x'
        distro = 'generic-deb'
        tree = '/x'";
    let profiles = crate::config::Profiles::built_in().expect("valid");
    let networks = crate::config::ServeConfig::parse(text, &profiles).expect("valid").networks;
    let mut policy = Policy::new(Params::default(), networks);
    for n in 0..3 {
        let session = join(&mut policy, n, 50 << 20, START);
        hold(&mut policy, session, BLOB.id, START);
    }
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut seen = |client: &str| {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let client = Asker::new(client.parse().expect("an address"), "apt");
            let request = Request { client, is_segment: true, ..request(BLOB) };
            let explained = policy.explain(&request, START);
            match policy.choose(&request, START, &mut rng) {
                Decision::Volunteer { node, .. } => {
                    let id = policy.tracker().node(node).id.to_string();
                    let candidate = explained.candidates.iter().find(|c| c.id.as_str() == id);
                    assert_eq!(candidate.map(|c| c.excluded), Some(None), "{explained:?}");
                    seen.insert(id);
                }
                Decision::Origin(reason) => {
                    assert_eq!(explained.origin, Some(reason));
                    seen.insert(reason.name().to_owned());
                }
            }
        }
        seen.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(seen("203.0.113.9"), ["v0", "v1", "v2"]);
    assert_eq!(seen("10.9.9.9"), ["v0", "v1"]);
    assert_eq!(seen("192.0.2.9"), [OriginReason::NetworkRule.name()]);
    assert_eq!(seen("198.51.100.9"), ["v1"]);
}
