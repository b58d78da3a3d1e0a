//! What a decision costs with 1,000 volunteers and a million blobs, and what the memory of who holds what takes.
//! Run by `bench/run.sh`; see README.md.
//!
//! Each decision is timed alone (the clock's own cost is in it), and its allocations are counted. With `BENCH=short`
//! there are few of everything, and the figures mean nothing.

use std::alloc::System;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use manyhands::config::Networks;
use manyhands::formats::control::HoldingsChange;
use manyhands::model::{Blob, BlobId, Rate, Size, Time};
use manyhands::policy::{
    Asker, Decision, Event, Joined, Load, NodeNo, Outcome, Params, Policy, Record, Request,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use rand_pcg::Pcg64Mcg;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How much of everything there is.
#[derive(Clone, Copy)]
struct Scale {
    volunteers: usize,
    blobs: u32,
    /// The first of the blobs have many holders.
    wide_blobs: u32,
    decisions: usize,
}

const WHOLE: Scale = Scale { volunteers: 1000, blobs: 1_000_000, wide_blobs: 50_000, decisions: 200_000 };
const SHORT: Scale = Scale { volunteers: 250, blobs: 5000, wide_blobs: 500, decisions: 2000 };
const FEW: usize = 16;
const MANY: usize = 200;
const CLIENTS: u32 = 200_000;
/// Between requests of the whole mirror: 2,000 a second.
const GAP: Duration = Duration::from_micros(500);
const HEARTBEAT: Duration = Duration::from_secs(5);

fn blob(n: u32) -> Blob {
    // Spread as digests are; sizes from 40 kB to 4 MB.
    let mut rng = Pcg64Mcg::seed_from_u64(u64::from(n));
    let id = BlobId(std::array::from_fn(|_| rng.random()));
    Blob { id, size: 40_000 << rng.random_range(0..8) }
}

/// Which blobs are asked for.
#[derive(Clone, Copy)]
enum Popularity {
    /// As people do: half of the requests are for a thousandth of the files.
    Zipf(Zipf<f64>),
    /// None more than another: nothing that a decision reads was read lately.
    Equal,
}

struct Fleet {
    policy: Policy,
    sessions: Vec<(NodeNo, u32)>,
    now: Time,
    next_report: Time,
    rng: Pcg64Mcg,
}

impl Fleet {
    fn new(scale: Scale, blobs: &[Blob]) -> Self {
        let now = Time::from_secs(1_800_000_000);
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        // A server at leisure would serve some of them itself.
        let params = Params { min_share: 0.0, ..Params::default() };
        let mut policy = Policy::new(params, Networks::default());
        let mut held: Vec<Vec<BlobId>> = vec![Vec::new(); scale.volunteers];
        for (n, blob) in (0..).zip(blobs) {
            let holders = if n < scale.wide_blobs { MANY } else { FEW };
            rand::seq::index::sample(&mut rng, scale.volunteers, holders)
                .into_iter()
                .for_each(|v| held[v].push(blob.id));
        }
        let mut sessions = Vec::new();
        for (n, blobs) in held.iter().enumerate() {
            let (node, epoch) = policy.join(joined(n, rng.random_range(10..100) << 20), now);
            policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, now);
            policy.handle(Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs }, now);
            sessions.push((node, epoch));
        }
        Self { policy, sessions, now, next_report: now, rng }
    }

    /// Time passes; heartbeats keep 5 to 20 downloads running at each volunteer.
    fn pass(&mut self) {
        self.now = self.now + GAP;
        if self.now < self.next_report {
            return;
        }
        self.next_report = self.now + HEARTBEAT;
        for &(node, epoch) in &self.sessions {
            let uploads = self.rng.random_range(5..=20);
            let running = |_| Blob {
                id: BlobId(std::array::from_fn(|_| self.rng.random())),
                size: self.rng.random_range(1 << 20..100 << 20),
            };
            let remaining: Vec<Blob> = (0..uploads).map(running).collect();
            let load = Load { uploads, remaining, ..Load::default() };
            self.policy.handle(Event::Reported { node, epoch, load: &load }, self.now);
        }
    }

    fn request(&mut self, blobs: &[Blob], popularity: Popularity) -> Request {
        let index = match popularity {
            Popularity::Zipf(law) => law.sample(&mut self.rng) as usize - 1,
            Popularity::Equal => self.rng.random_range(0..blobs.len()),
        };
        let blob = blobs[index];
        let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + self.rng.random_range(0..CLIENTS)));
        Request {
            blob,
            len: blob.size,
            origin_load: 0.3,
            client: Asker { address, agent: self.rng.next_u64() % 8 },
            can_return: self.rng.random_range(0..4) == 0,
            is_segment: false,
            is_sent_back: false,
        }
    }

    /// Nanoseconds of each of so many decisions, and allocations of all; with the orders for copies if `places`.
    fn decide(
        &mut self,
        count: usize,
        blobs: &[Blob],
        popularity: Popularity,
        places: bool,
    ) -> (Vec<u64>, usize) {
        let (mut nanos, mut allocations, mut redirects) = (Vec::with_capacity(count), 0, 0);
        for _ in 0..count {
            self.pass();
            let request = self.request(blobs, popularity);
            let region = Region::new(ALLOCATOR);
            let begin = Instant::now();
            let decision = if places {
                black_box(self.policy.decide(black_box(&request), self.now, &mut self.rng)).0
            } else {
                black_box(self.policy.choose(black_box(&request), self.now, &mut self.rng))
            };
            nanos.push(begin.elapsed().as_nanos() as u64);
            let change = region.change();
            allocations += change.allocations + change.reallocations;
            redirects += usize::from(matches!(decision, Decision::Volunteer { .. }));
        }
        assert!(redirects * 100 >= count * 99, "only {redirects} of {count} were redirects");
        (nanos, allocations)
    }
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

/// What it takes to read the clock twice.
fn clock_nanos() -> u64 {
    let mut nanos: Vec<u64> = (0..10_001).map(|_| Instant::now().elapsed().as_nanos() as u64).collect();
    nanos.sort_unstable();
    nanos[nanos.len() / 2]
}

fn main() {
    let is_short = std::env::var("BENCH").is_ok_and(|form| form == "short");
    let scale = if is_short { SHORT } else { WHOLE };
    let Scale { volunteers, blobs: count, wide_blobs, decisions } = scale;
    let region = Region::new(ALLOCATOR);
    let blobs: Vec<Blob> = (0..count).map(blob).collect();
    let mut fleet = Fleet::new(scale, &blobs);
    let change = region.change();
    let kept = change.bytes_allocated as isize - change.bytes_deallocated as isize;
    let holdings = wide_blobs as usize * MANY + (count - wide_blobs) as usize * FEW;
    let kept = kept - size_of_val(&blobs[..]) as isize;
    println!(
        "{volunteers} volunteers, {count} blobs, {holdings} holdings: {} MB, {:.1} bytes per holding",
        kept / 1_000_000,
        kept as f64 / holdings as f64
    );
    println!("estimated by the tracker: {} MB", fleet.policy.tracker().holdings_bytes() / 1_000_000);
    println!("reading the clock takes {} ns of each", clock_nanos());
    println!(
        "{:<22} {:>8} {:>12} {:>9} {:>9} {:>12} {:>22}",
        "", "holders", "target (us)", "median", "p99", "mean", "allocations/decision"
    );
    let (wide, narrow) = blobs.split_at(wide_blobs as usize);
    let mut row = |what: &str, (holders, target): (usize, f64), blobs: &[Blob], popularity, places| {
        // The first round fills what remembers requests.
        fleet.decide(decisions, blobs, popularity, places);
        let (mut nanos, allocations) = fleet.decide(decisions, blobs, popularity, places);
        nanos.sort_unstable();
        let at = |share: f64| nanos[(decisions as f64 * share) as usize] as f64 / 1000.0;
        let mean = nanos.iter().sum::<u64>() as f64 / decisions as f64 / 1000.0;
        println!(
            "{what:<22} {holders:>8} {target:>12.1} {:>9.2} {:>9.2} {mean:>12.2} {:>22.3}",
            at(0.5),
            at(0.99),
            allocations as f64 / decisions as f64
        );
    };
    for (aim, blobs) in [((FEW, 2.0), narrow), ((MANY, 5.0), wide)] {
        let zipf = Popularity::Zipf(Zipf::new(blobs.len() as f64, 1.0).expect("a valid law"));
        row("by popularity", aim, blobs, zipf, false);
        row("with orders for copies", aim, blobs, zipf, true);
        row("in no order", aim, blobs, Popularity::Equal, false);
    }
}
