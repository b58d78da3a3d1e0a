//! Properties of placement, gates and eviction, over randomly built fleets; plans are checked by the lint.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::config::Networks;
use crate::formats::control::HoldingsChange;
use crate::model::{Blob, BlobId, Rate, Size, Time};
use crate::policy::outputs::{Order, Task};
use crate::policy::placement::rings;
use crate::policy::{
    Asker, Class, Event, Gate, Joined, Load, NodeNo, Outcome, Params, Policy, Record, Release, ReleasedFile,
    Request,
};

const START: Time = Time::from_secs(1_800_000_000);
const MIB: u64 = 1 << 20;

fn blob(n: u32, size: u64) -> Blob {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    id[4..8].copy_from_slice(&n.to_be_bytes());
    Blob { id: BlobId(id), size }
}

#[derive(Clone, Copy, Debug)]
struct Session {
    node: NodeNo,
    epoch: u32,
}

/// A policy with volunteers that do what they are told.
struct Bed {
    policy: Policy,
    rng: Pcg64Mcg,
    now: Time,
    sessions: BTreeMap<u32, Session>,
    load: f64,
    asked: u32,
    stored: BTreeMap<NodeNo, u64>,
}

impl Bed {
    fn new() -> Self {
        let policy = Policy::new(Params::default(), Networks::default());
        let rng = Pcg64Mcg::seed_from_u64(1);
        let (sessions, stored) = (BTreeMap::new(), BTreeMap::new());
        Self { policy, rng, now: START, sessions, load: 0.0, asked: 0, stored }
    }

    fn with(volunteers: u32, donate: u64) -> Self {
        let mut bed = Self::new();
        (0..volunteers).for_each(|n| bed.join(n, donate, false, 1 << 40));
        bed
    }

    fn join(&mut self, n: u32, donate: u64, is_volatile: bool, max_size: u64) {
        let address = Ipv4Addr::from_bits(0x0a00_0001 + (n % 7) * 256 + n);
        let joined = Joined {
            id: format!("v{n}").parse().expect("valid id"),
            base_url: format!("http://{address}:8090").into(),
            is_local: n % 11 == 10,
            donate: Rate(donate),
            max_size: Size(max_size),
            clients: if n % 13 == 12 { vec!["10.0.1.0/24".parse().expect("a network")] } else { vec![] },
            instance: 0,
            is_volatile,
            record: Record::default(),
        };
        let (node, epoch) = self.policy.join(joined, self.now);
        self.policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, self.now);
        self.stored.insert(node, 0);
        self.sessions.insert(n, Session { node, epoch });
    }

    fn leave(&mut self, n: u32) {
        if let Some(Session { node, epoch }) = self.sessions.remove(&n) {
            self.policy.handle(Event::Left { node, epoch, clean: true }, self.now);
        }
    }

    /// Time passes, and everybody reports.
    fn wait(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        for Session { node, epoch } in self.sessions.values().copied() {
            let load = Load { store_bytes: self.stored[&node], ..Load::default() };
            self.policy.handle(Event::Reported { node, epoch, load: &load }, self.now);
        }
    }

    fn hold(&mut self, Session { node, epoch }: Session, blob: Blob) {
        let event = Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs: &[blob.id] };
        self.policy.handle(event, self.now);
        *self.stored.entry(node).or_default() += blob.size;
    }

    /// The volunteers have done these; every `nth` failed.
    fn carry_out(&mut self, orders: &[Order], nth: usize) {
        for (index, order) in orders.iter().enumerate() {
            let Order { node, epoch, blob, .. } = *order;
            if order.task == Task::Drop {
                let stored = self.stored.entry(node).or_default();
                *stored = stored.saturating_sub(blob.size);
                continue;
            }
            let failed = nth > 0 && index % nth == nth - 1;
            if !failed {
                self.hold(Session { node, epoch }, blob);
            }
            self.policy.handle(Event::OrderEnded { node, epoch, blob: blob.id, failed }, self.now);
        }
    }

    fn ask(&mut self, blob: Blob) -> Vec<Order> {
        self.asked += 1;
        let client = Asker::new(Ipv4Addr::from_bits(0xc000_0000 + self.asked).into(), "apt");
        let request = Request {
            blob,
            len: blob.size,
            origin_load: self.load,
            client,
            can_return: true,
            is_segment: false,
            is_sent_back: false,
        };
        self.policy.decide(&request, self.now, &mut self.rng).1
    }

    fn copies(&self, blob: Blob, class: Class) -> usize {
        let is_of = |no: &NodeNo| self.policy.tracker().class(*no, self.now) == class;
        self.policy.tracker().live_holders(blob.id, self.now).filter(is_of).count()
    }

    fn release(&mut self, files: &[(Blob, Option<Blob>)]) -> Release {
        let file = |(blob, before): &(Blob, Option<Blob>)| ReleasedFile {
            blob: *blob,
            predecessor: before.map(|blob| blob.id),
        };
        Release { name: "debian dists/stable".into(), files: files.iter().map(file).collect() }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join(u32, u64, bool, u64),
    Leave(u32),
    Ask(u32, u32),
    Tend,
    Release(u32),
    Wait(u64),
    Load(f64),
    Done(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0u32..30;
    prop_oneof![
        4 => (node.clone(), 100_000u64..20_000_000, any::<bool>(), 1u64..500)
            .prop_map(|(n, rate, volatile, mib)| Step::Join(n, rate, volatile, mib * MIB)),
        1 => node.prop_map(Step::Leave),
        6 => (0u32..12, 1u32..20).prop_map(|(b, times)| Step::Ask(b, times)),
        3 => Just(Step::Tend),
        1 => (0u32..12).prop_map(Step::Release),
        4 => prop_oneof![0u64..7000, 0u64..100_000_000].prop_map(Step::Wait),
        1 => (0.0f64..1.0).prop_map(Step::Load),
        6 => (0usize..5).prop_map(Step::Done),
    ]
}

fn size(n: u32) -> u64 {
    [100_000, MIB, 5 * MIB, 20 * MIB][n as usize % 4]
}

proptest! {
    /// Whatever happens, no plan breaks a rule, and asking again at once orders nothing.
    #[test]
    fn plans_keep_the_rules(steps in prop::collection::vec(step(), 1..120)) {
        let mut bed = Bed::new();
        let (mut open, mut generation): (Vec<Order>, u32) = (Vec::new(), 0);
        for step in steps {
            let orders = match step {
                Step::Join(n, rate, is_volatile, max) => {
                    bed.join(n, rate, is_volatile, max);
                    vec![]
                }
                Step::Leave(n) => {
                    bed.leave(n);
                    vec![]
                }
                Step::Ask(b, times) => {
                    let mut all = Vec::new();
                    for _ in 0..times {
                        let orders = bed.ask(blob(b, size(b)));
                        let found = bed.policy.lint(&orders, bed.now);
                        prop_assert!(found.is_empty(), "{found:?}");
                        all.extend(orders);
                    }
                    all.extend(bed.policy.place(blob(b, size(b)), bed.now));
                    prop_assert_eq!(bed.policy.place(blob(b, size(b)), bed.now), vec![]);
                    all
                }
                Step::Tend => bed.policy.tend(bed.now),
                Step::Release(b) => {
                    generation += 1;
                    let next = blob(1000 * generation + b, size(b));
                    let release = bed.release(&[(next, Some(blob(b, size(b))))]);
                    bed.policy.released(&release, bed.now).1
                }
                Step::Wait(millis) => {
                    bed.wait(millis);
                    vec![]
                }
                Step::Load(load) => {
                    bed.load = load;
                    vec![]
                }
                Step::Done(nth) => {
                    let done = std::mem::take(&mut open);
                    bed.carry_out(&done, nth);
                    vec![]
                }
            };
            let found = bed.policy.lint(&orders, bed.now);
            prop_assert!(found.is_empty(), "{found:?}");
            open.extend(orders);
        }
    }
}

#[test]
fn a_first_request_fills_a_fleet_that_is_at_leisure() {
    let mut bed = Bed::with(3, 10 * MIB);
    assert_eq!(bed.ask(blob(1, MIB)).len(), 1);
    // Not one that is busy, has spent its budget, or has no room: there two requests must pay for it.
    for case in 0..3 {
        let mut bed = Bed::with(3, 10 * MIB);
        match case {
            0 => bed.load = 0.6,
            1 => (0..3).for_each(|n| {
                let orders = bed.policy.place(blob(100 + n, 400 * MIB), bed.now);
                bed.carry_out(&orders, 0);
            }),
            _ => {
                bed = Bed::new();
                bed.join(1, 10 * MIB, false, MIB);
            }
        }
        let wanted = blob(1, 900_000);
        assert_eq!(bed.ask(wanted), vec![], "case {case}");
        bed.wait(1000);
        assert_eq!(bed.ask(wanted).len(), 1, "case {case}");
    }
}

#[test]
fn a_crowd_doubles_its_copies_from_peers() {
    let mut bed = Bed::with(9, 10 * MIB);
    bed.policy.params.cut_through = false;
    let wanted = blob(1, 8 * MIB);
    let mut rounds = Vec::new();
    for _ in 0..6 {
        // 400 requests/s for 8 MiB each need all of 90 MiB/s.
        let mut orders: Vec<Order> = (0..400).flat_map(|_| bed.ask(wanted)).collect();
        orders.extend(bed.policy.tend(bed.now));
        let firsts: Vec<NodeNo> = orders
            .iter()
            .filter_map(|order| match &order.task {
                Task::Fetch { peers } => peers.first().copied(),
                Task::Drop => None,
            })
            .collect();
        for no in &firsts {
            assert!(firsts.iter().filter(|other| *other == no).count() <= bed.policy.params.fan_out);
        }
        rounds.push((orders.len(), firsts.len()));
        bed.carry_out(&orders, 0);
        bed.wait(1000);
    }
    let copies: usize = rounds.iter().map(|(orders, _)| orders).sum();
    assert_eq!(copies, 9, "{rounds:?}");
    assert_eq!(rounds[0], (4, 0), "the first come from the server: {rounds:?}");
    assert_eq!(rounds[1], (5, 5), "the others from those: {rounds:?}");
}

#[test]
fn the_volatile_take_new_files_and_are_no_safe_copies() {
    let mut bed = Bed::with(4, 10 * MIB);
    (20..28).for_each(|n| bed.join(n, 10 * MIB, true, 1 << 40));
    let (old, new) = (blob(1, MIB), blob(2, MIB));
    for wanted in [old, new] {
        if wanted == new {
            let release = bed.release(&[(new, Some(old))]);
            let (_, orders) = bed.policy.released(&release, bed.now);
            bed.carry_out(&orders, 0);
        }
        for _ in 0..10 {
            let mut orders: Vec<Order> = (0..300).flat_map(|_| bed.ask(wanted)).collect();
            orders.extend(bed.policy.tend(bed.now));
            bed.carry_out(&orders, 0);
            bed.wait(1000);
        }
    }
    assert!(bed.copies(new, Class::Stable) >= 3 && bed.copies(new, Class::Volatile) >= 3);
    assert!(bed.copies(old, Class::Stable) == 4);
    // With nobody stable, what there is serves.
    let mut bed = Bed::new();
    (0..3).for_each(|n| bed.join(n, 10 * MIB, true, 1 << 40));
    let orders = (0..3).flat_map(|_| bed.ask(old)).collect::<Vec<_>>();
    assert_eq!(orders.len() + bed.policy.place(old, bed.now).len(), 3);
}

#[test]
fn copies_are_in_different_networks() {
    // 28 volunteers in 7 networks: three copies are never in one.
    for n in 0..50 {
        let mut bed = Bed::with(28, 10 * MIB);
        let mut orders: Vec<Order> = (0..3).flat_map(|_| bed.ask(blob(n, MIB))).collect();
        orders.extend(bed.policy.place(blob(n, MIB), bed.now));
        let groups: std::collections::BTreeSet<_> =
            orders.iter().map(|order| rings::group(bed.policy.tracker().node(order.node))).collect();
        assert_eq!((orders.len(), groups.len()), (3, 3));
    }
}

#[test]
fn who_leaves_moves_only_its_own_share_and_weight_counts() {
    let placed = |left_out: Option<u32>| {
        let mut bed = Bed::new();
        (0..10).filter(|n| Some(*n) != left_out).for_each(|n| {
            bed.join(n, if n < 5 { 10 * MIB } else { 40 * MIB }, false, 1 << 40);
        });
        let first = |n| bed.policy.place(blob(n, 1), START).first().map(|order| order.node);
        (0..1000).map(first).collect::<Vec<_>>()
    };
    let (all, fewer) = (placed(None), placed(Some(9)));
    let gone = all.iter().max().copied().flatten();
    let moved = all.iter().zip(&fewer).filter(|(a, b)| a != b).count();
    assert_eq!(moved, all.iter().filter(|no| **no == gone).count());
    let heavy = all.iter().filter(|no| no.is_some_and(|no| no >= crate::policy::ids::node_no(5))).count();
    assert!((730..870).contains(&heavy), "{heavy} of 1000, 800 by weight");
}

#[test]
fn lost_copies_are_waited_for_unless_few_are_left() {
    let mut bed = Bed::with(6, 10 * MIB);
    let wanted = blob(1, MIB);
    let mut orders: Vec<Order> = (0..5).flat_map(|_| bed.ask(wanted)).collect();
    orders.extend(bed.policy.place(wanted, bed.now));
    bed.carry_out(&orders, 0);
    let holders = |bed: &Bed| -> Vec<u32> {
        let live: Vec<NodeNo> = bed.policy.tracker().live_holders(wanted.id, bed.now).collect();
        bed.sessions.iter().filter(|(_, s)| live.contains(&s.node)).map(|(n, _)| *n).collect()
    };
    assert_eq!((holders(&bed).len(), bed.policy.tend(bed.now)), (3, vec![]));
    let first = holders(&bed)[0];
    bed.leave(first);
    assert_eq!(bed.policy.tend(bed.now), vec![], "it may come back");
    let second = holders(&bed)[0];
    bed.leave(second);
    let repair = bed.policy.tend(bed.now);
    assert_eq!(repair.len(), 2, "one is too few");
    bed.carry_out(&repair, 0);
    let third = holders(&bed)[0];
    bed.leave(third);
    // Asked for every day it is worth its copies, but nobody is in a hurry.
    for _ in 0..20 {
        bed.ask(wanted);
    }
    bed.wait(1000);
    assert_eq!(bed.policy.tend(bed.now), vec![]);
    let mut repairs = Vec::new();
    for hour in 1..=24 {
        bed.wait(3_600_000);
        (0..5).for_each(|_| repairs.extend(bed.ask(wanted)));
        bed.wait(1000);
        repairs.extend(bed.policy.tend(bed.now));
        assert_eq!(repairs.len(), usize::from(hour == 24), "after {hour} h");
    }
}

#[test]
fn a_gate_opens_when_the_copies_are_there_or_time_is_over() {
    let old: Vec<Blob> = (0..40).map(|n| blob(n, MIB)).collect();
    let new: Vec<(Blob, Option<Blob>)> =
        (0..40).map(|n| (blob(1000 + n, MIB), Some(old[n as usize]))).collect();
    let asked = |volunteers| {
        let mut bed = Bed::with(volunteers, 10 * MIB);
        for blob in &old {
            let orders: Vec<Order> = (0..4).flat_map(|_| bed.ask(*blob)).collect();
            bed.carry_out(&orders, 0);
        }
        bed
    };
    let mut bed = asked(6);
    let release = bed.release(&new);
    let (no, mut orders) = bed.policy.released(&release, bed.now);
    assert_eq!(orders.len(), 16 * 3, "the hot ones of a small release, three each");
    let mut waited = 0;
    while let Gate::Waits { copies, until } = bed.policy.gate(no, bed.now) {
        assert!(copies > 0 && until == START + Duration::from_secs(120) && waited < 20);
        assert!(bed.policy.lint(&orders, bed.now).is_empty());
        // Some fail at first; what is missing is ordered again.
        bed.carry_out(&orders, if waited < 3 { 4 } else { 0 });
        waited += 1;
        bed.wait(1000);
        orders = bed.policy.seed(bed.now);
    }
    assert!(waited > 1, "failed ones had to be ordered again");
    let safe = new.iter().filter(|(blob, _)| bed.copies(*blob, Class::Stable) == 3).count();
    assert_eq!(safe, 16);
    assert_eq!(bed.policy.gate(no, bed.now), Gate::Open, "it stays open");
    assert_eq!(bed.policy.seed(bed.now), vec![]);

    // Nobody does what is ordered.
    let mut bed = asked(6);
    let release = bed.release(&new);
    let (no, _) = bed.policy.released(&release, bed.now);
    for _ in 0..119 {
        bed.wait(1000);
        assert!(matches!(bed.policy.gate(no, bed.now), Gate::Waits { .. }));
    }
    bed.wait(1000);
    assert_eq!(bed.policy.gate(no, bed.now), Gate::Open);
    // Nothing is hot; nobody is there; one volunteer is as many as there are.
    let mut bed = Bed::with(6, 10 * MIB);
    let release = bed.release(&new);
    let (no, orders) = bed.policy.released(&release, bed.now);
    assert_eq!((orders, bed.policy.gate(no, bed.now)), (vec![], Gate::Open));
    let mut bed = asked(0);
    let (no, _) = bed.policy.released(&release, bed.now);
    assert_eq!(bed.policy.gate(no, bed.now), Gate::Open);
    let mut bed = asked(1);
    let (no, orders) = bed.policy.released(&release, bed.now);
    assert_eq!(orders.len(), 16);
    assert!(matches!(bed.policy.gate(no, bed.now), Gate::Waits { copies: 16, .. }));
    bed.carry_out(&orders, 0);
    assert_eq!(bed.policy.gate(no, bed.now), Gate::Open);
}

#[test]
fn a_full_store_gives_up_what_nobody_asks_for() {
    let mut bed = Bed::new();
    (0..3).for_each(|n| bed.join(n, 10 * MIB, false, 100 * MIB));
    let sessions: Vec<Session> = bed.sessions.values().copied().collect();
    // Everybody holds all of these; only the first is asked for.
    for n in 0..20 {
        sessions.iter().for_each(|session| bed.hold(*session, blob(n, 5 * MIB)));
    }
    for _ in 0..5 {
        assert_eq!(bed.ask(blob(0, 5 * MIB)), vec![]);
    }
    bed.ask(blob(1, 5 * MIB));
    // Their stores are full, as they report.
    bed.wait(2000);
    assert_eq!(bed.policy.tend(bed.now), vec![], "room for nothing is wanted");
    let wanted = blob(100, 5 * MIB);
    let mut orders: Vec<Order> = (0..5).flat_map(|_| bed.ask(wanted)).collect();
    orders.extend(bed.policy.place(wanted, bed.now));
    assert_eq!(bed.policy.lint(&orders, bed.now), vec![]);
    let (drops, fetches): (Vec<_>, Vec<_>) = orders.iter().partition(|order| order.task == Task::Drop);
    assert_eq!(fetches.len(), 3);
    assert!(drops.len() >= 3 * 3, "10 % of room and the new one, each: {drops:?}");
    for order in drops {
        assert!(order.blob.id != blob(0, 0).id && order.blob.id != blob(1, 0).id, "there are colder ones");
        assert!(!bed.policy.tracker().holders(order.blob.id).any(|no| no == order.node), "no copy any more");
    }
}
