//! Placement for ten thousand volunteers: its plans keep the rules, and what they cost is printed (`--nocapture`,
//! in an optimised build). No time is asserted: it depends on the machine.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use manyhands::config::Networks;
use manyhands::formats::control::HoldingsChange;
use manyhands::model::{Blob, BlobId, Rate, Size, Time};
use manyhands::policy::{
    Asker, Event, Joined, Load, NodeNo, Order, Outcome, Params, Policy, Record, Request, Task,
};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

const VOLUNTEERS: u32 = 10_000;
const BLOBS: u32 = 1024;
const MIB: u64 = 1 << 20;

fn blob(n: u32) -> Blob {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    Blob { id: BlobId(id), size: MIB }
}

fn join(policy: &mut Policy, n: u32, now: Time) -> (NodeNo, u32) {
    let joined = Joined {
        id: format!("v{n}").parse().expect("valid id"),
        base_url: format!("http://{}:8090", Ipv4Addr::from_bits(0x0a00_0000 + n * 64)).into(),
        is_local: false,
        donate: Rate(10 * MIB),
        max_size: Size(1 << 40),
        clients: Vec::new(),
        instance: 0,
        is_volatile: n.is_multiple_of(3),
        record: Record::default(),
    };
    let (node, epoch) = policy.join(joined, now);
    policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, now);
    (node, epoch)
}

fn request(n: u32) -> Request {
    Request {
        blob: blob(n % BLOBS),
        len: MIB,
        origin_load: 0.0,
        client: Asker::new(Ipv4Addr::from_bits(0xc000_0000 + n).into(), "apt"),
        can_return: true,
        is_segment: false,
        is_sent_back: false,
    }
}

fn carry_out(policy: &mut Policy, orders: &[Order], now: Time) {
    for Order { node, epoch, blob, task } in orders.iter().cloned() {
        assert!(matches!(task, Task::Fetch { .. }), "every store has room");
        let change = HoldingsChange::Add;
        policy.handle(Event::Holdings { node, epoch, change, blobs: &[blob.id] }, now);
        policy.handle(Event::OrderEnded { node, epoch, blob: blob.id, failed: false }, now);
    }
}

fn timed<T>(what: &str, each: u32, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    println!("{what}: {:?}", began.elapsed() / each);
    result
}

#[test]
fn a_large_fleet_is_filled_by_the_rules() {
    let mut now = Time::from_secs(1_800_000_000);
    let mut policy = Policy::new(Params::default(), Networks::default());
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let sessions: Vec<_> = (0..VOLUNTEERS).map(|n| join(&mut policy, n, now)).collect();
    for n in 0..4 * BLOBS {
        policy.choose(&request(n), now, &mut rng);
    }
    let mut copies = 0;
    for _ in 0..8 {
        let orders = timed("tend, with the look through the fleet", 1, || policy.tend(now));
        println!("  {} orders", orders.len());
        assert_eq!(policy.lint(&orders, now), []);
        copies += orders.len();
        carry_out(&mut policy, &orders, now);
        now = now + Duration::from_secs(5);
        for (node, epoch) in &sessions {
            let load = Load::default();
            policy.handle(Event::Reported { node: *node, epoch: *epoch, load: &load }, now);
        }
    }
    assert_eq!(copies, 3 * BLOBS as usize, "three copies of each hot file");
    let more = timed("place, with copies enough", BLOBS, || {
        (0..BLOBS).map(|n| policy.place(blob(n), now).len()).sum::<usize>()
    });
    assert_eq!(more, 0);
    timed("decide", 100_000, || {
        (0..100_000).for_each(|n| _ = policy.decide(&request(n), now, &mut rng));
    });
    timed("crowds", 1, || policy.crowds(now));
}
