//! A decision allocates nothing, and what is held no more takes no memory: this binary counts every allocation.

use std::alloc::System;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use manyhands::config::Networks;
use manyhands::formats::control::HoldingsChange;
use manyhands::model::{Blob, BlobId, Rate, Size, Time};
use manyhands::policy::{Asker, Decision, Event, Joined, Outcome, Params, Policy, Record, Request};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const START: Time = Time::from_secs(1_800_000_000);
const BLOBS: u8 = 50;

fn blob(n: u8) -> Blob {
    Blob { id: BlobId([n; 32]), size: 1 << 20 }
}

/// What is counted is of one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn joined(n: usize) -> Joined {
    Joined {
        id: format!("v{n}").parse().expect("valid id"),
        base_url: format!("http://v{n}.example").into(),
        is_local: false,
        donate: Rate(10 << 30),
        max_size: Size(1 << 40),
        clients: Vec::new(),
        instance: 0,
        is_volatile: false,
        record: Record::default(),
    }
}

/// `holders` volunteers that all hold everything.
fn fleet(holders: usize) -> Policy {
    let mut policy = Policy::new(Params::default(), Networks::default());
    let blobs: Vec<BlobId> = (0..BLOBS).map(|n| blob(n).id).collect();
    for n in 0..holders {
        let (node, epoch) = policy.join(joined(n), START);
        policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, START);
        let change = HoldingsChange::Add;
        policy.handle(Event::Holdings { node, epoch, change, blobs: &blobs }, START);
    }
    policy
}

/// Allocations of 1,000 decisions for requests of `len` bytes, after those that made room.
fn allocations(holders: usize, len: u64) -> usize {
    let mut policy = fleet(holders);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut decide = |n: u32| {
        let request = Request {
            blob: blob((n % u32::from(BLOBS)) as u8),
            len,
            origin_load: 0.0,
            client: Asker::new(Ipv4Addr::from(0x0a00_0000 + n).into(), "apt"),
            can_return: n.is_multiple_of(2),
            is_segment: false,
            is_sent_back: false,
        };
        let now = START + Duration::from_micros(500 * u64::from(n));
        let decision = policy.choose(&request, now, &mut rng);
        assert!(matches!(decision, Decision::Volunteer { .. }), "{decision:?}");
    };
    (0..6000).for_each(&mut decide);
    let region = Region::new(ALLOCATOR);
    (6000..7000).for_each(&mut decide);
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn decisions_allocate_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for holders in [1, 16, 200, 600] {
        assert_eq!(allocations(holders, 0), 0, "{holders} holders, for one who only looks");
        // The ledger, and what is remembered of clients, demand and crowds, grow now and then.
        let booked = allocations(holders, 1 << 20);
        assert!(booked < 250, "{holders} holders: {booked}");
    }
}

#[test]
fn what_is_held_takes_what_is_said_and_nothing_afterwards() {
    const MANY: usize = 200_000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let blobs: Vec<BlobId> = (0..MANY).map(|_| BlobId(std::array::from_fn(|_| rng.random()))).collect();
    let mut policy = Policy::new(Params::default(), Networks::default());
    let (node, epoch) = policy.join(joined(0), START);
    let region = Region::new(ALLOCATOR);
    let taken = || {
        let change = region.change();
        change.bytes_allocated as isize - change.bytes_deallocated as isize
    };
    policy.handle(Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs: &blobs }, START);
    let (held, said) = (taken() as f64, policy.tracker().holdings_bytes() as f64);
    assert!((0.9..1.1).contains(&(held / said)), "{held} bytes, {said} were said");
    policy.handle(Event::Holdings { node, epoch, change: HoldingsChange::Remove, blobs: &blobs }, START);
    let left = taken();
    assert!(left < 5 * MANY as isize, "{left} bytes are left of {held}");
}
