//! How much each blob is asked for: two counters that halve every half-life, a short and a long one.
//!
//! Properties, tested below:
//! - a counter without requests halves per half-life; the rate is the higher of both estimates, so it follows a
//!   crowd at once and does not forget overnight what is asked for every day (reference policy, section E.2);
//! - a new version begins with what its predecessor was asked for in the long run, and keeps what it has;
//! - there are never more than [`MAX_COUNTERS`], and those that go are asked for less than those that stay: in
//!   the long run, so that many files asked for once do not push out what is asked for every day;
//! - what is exported and imported again rates the same.
//!
//! Exact counters, not a sketch: only blobs that were asked for within some half-lives have one.

use std::f64::consts::LN_2;
use std::time::Duration;

use crate::model::{Blob, BlobId, Time};
use crate::policy::inputs::Remembered;
use crate::policy::params::Params;
use crate::policy::tables::buckets::{BlobKey, Buckets};

/// Counters kept; above it, the forgotten ones go. About 200 bytes each.
const MAX_COUNTERS: usize = 200_000;
/// How often the copies of one blob are counted while it is asked for.
const PLACE_EVERY: Duration = Duration::from_secs(1);
/// A long counter below this is no reason to look after copies: one request, one half-life ago.
const RECENT: f64 = 0.5;
/// A long counter below this is forgotten: one request, four half-lives ago.
const FORGOTTEN: f64 = 1.0 / 16.0;

/// Recent demand for one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    /// Requests, each halved per short half-life since.
    pub requests: f64,
    /// The same per long half-life.
    pub lasting: f64,
    /// The rate that would keep the higher counter where it is, in requests/s.
    pub per_second: f64,
    /// The same of the long counter alone.
    pub usual: f64,
}

impl Recent {
    /// Requests to come within `span`. What made the short counter is taken to fade as that does, so that it
    /// is still worth itself; the long one to go on.
    pub fn expected(&self, span: Duration) -> f64 {
        self.requests + self.usual * span.as_secs_f64()
    }
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    size: u64,
    short: f64,
    long: f64,
    updated: Time,
    /// When the copies of the blob were last counted.
    placed: Option<Time>,
    /// The short counter of that time.
    placed_at: f64,
    /// The most copies it was seen with, and since when there are fewer.
    copies: u32,
    fewer_since: Option<Time>,
}

impl Counter {
    fn new(size: u64, now: Time) -> Self {
        Self {
            size,
            short: 0.0,
            long: 0.0,
            updated: now,
            placed: None,
            placed_at: 0.0,
            copies: 0,
            fewer_since: None,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Demand {
    short: f64,
    long: f64,
    counters: Buckets<Counter>,
    /// Where the next slice begins.
    tended: BlobId,
}

impl Demand {
    pub fn new(params: &Params) -> Self {
        Self {
            short: params.demand_half_life.as_secs_f64(),
            long: params.demand_long_half_life.as_secs_f64(),
            counters: Buckets::default(),
            tended: BlobId([0; 32]),
        }
    }

    /// The blob is about to be looked up.
    pub fn touch(&self, blob: BlobId) {
        self.counters.touch(&blob.into());
    }

    /// Books a request; what the demand is with it.
    pub fn record(&mut self, blob: Blob, now: Time) -> Recent {
        self.record_part(blob, 1.0, now)
    }

    /// The same of a request for a part of the blob.
    pub fn record_part(&mut self, blob: Blob, weight: f64, now: Time) -> Recent {
        self.make_room(blob.id, now);
        let (short, long) = (self.short, self.long);
        let counter = self.counters.get_or_insert_with(blob.id.into(), || Counter::new(blob.size, now));
        let age = now.seconds_since(counter.updated);
        counter.short = halved(counter.short, age, short) + weight;
        counter.long = halved(counter.long, age, long) + weight;
        counter.updated = counter.updated.max(now);
        let (requests, lasting) = (counter.short, counter.long);
        self.rated(requests, lasting)
    }

    /// Gives a new version what its predecessor is asked for in the long run. Returns that, in requests/s.
    pub fn inherit(&mut self, blob: Blob, predecessor: BlobId, now: Time) -> f64 {
        let inherited = self.of(predecessor, now).lasting;
        if inherited < FORGOTTEN {
            return 0.0;
        }
        self.remember(blob, inherited, now);
        inherited * LN_2 / self.long
    }

    /// Raises the long counter to this value.
    fn remember(&mut self, blob: Blob, lasting: f64, now: Time) {
        self.make_room(blob.id, now);
        let (short, long) = (self.short, self.long);
        let counter = self.counters.get_or_insert_with(blob.id.into(), || Counter::new(blob.size, now));
        let age = now.seconds_since(counter.updated);
        counter.short = halved(counter.short, age, short);
        counter.long = halved(counter.long, age, long).max(lasting);
        counter.updated = counter.updated.max(now);
    }

    /// Whether it is time to count the blob's copies again. Says so once a second at most, and at once for a
    /// blob that was just asked for the first time; while nobody holds it, also whenever the demand has doubled.
    pub fn is_due(&mut self, blob: BlobId, is_held: bool, now: Time) -> bool {
        let Some(counter) = self.counters.get_mut(&blob.into()) else { return true };
        let has_doubled = !is_held && counter.short >= 2.0 * counter.placed_at;
        let is_due = has_doubled || counter.placed.is_none_or(|placed| now.since(placed) >= PLACE_EVERY);
        if is_due {
            (counter.placed, counter.placed_at) = (Some(now), counter.short);
        }
        is_due
    }

    /// Takes in how many copies the blob has now, and should have; how many it has lost that may come back, since
    /// nobody has waited for them for `patience` yet.
    pub fn lost(&mut self, blob: BlobId, copies: usize, goal: usize, patience: Duration, now: Time) -> usize {
        let Some(counter) = self.counters.get_mut(&blob.into()) else { return 0 };
        let of = |count| u32::try_from(count).unwrap_or(u32::MAX);
        let copies = of(copies);
        let since = *counter.fewer_since.get_or_insert(now);
        if copies >= counter.copies || now.since(since) >= patience {
            (counter.copies, counter.fewer_since) = (copies, None);
        }
        counter.copies.min(of(goal)).saturating_sub(copies) as usize
    }

    /// A copy is given up: it is not waited for.
    pub fn given_up(&mut self, blob: BlobId) {
        if let Some(counter) = self.counters.get_mut(&blob.into()) {
            counter.copies = counter.copies.saturating_sub(1);
        }
    }

    /// The next blobs in turn that were asked for lately; every counter has its turn.
    pub fn slice(&mut self, count: usize, now: Time) -> Vec<Blob> {
        let next: Vec<(BlobId, Counter)> =
            self.counters.from(self.tended.into()).take(count).map(|(id, c)| ((*id).into(), *c)).collect();
        self.tended = match next.last() {
            Some((last, _)) if next.len() == count => *last,
            _ => BlobId([0; 32]),
        };
        let is_recent = |(_, counter): &(BlobId, Counter)| lasting(counter, self.long, now) >= RECENT;
        next.into_iter().filter(is_recent).map(|(id, counter)| Blob { id, size: counter.size }).collect()
    }

    pub fn of(&self, blob: BlobId, now: Time) -> Recent {
        let Some(counter) = self.counters.get(&blob.into()) else { return Recent::default() };
        let age = now.seconds_since(counter.updated);
        self.rated(halved(counter.short, age, self.short), halved(counter.long, age, self.long))
    }

    pub fn size(&self, blob: BlobId) -> Option<u64> {
        self.counters.get(&blob.into()).map(|counter| counter.size)
    }

    /// The most asked for in the long run, at most `max`.
    pub fn export(&self, max: usize, now: Time) -> Vec<Remembered> {
        let kept = |(id, counter): (&BlobKey, &Counter)| Remembered {
            blob: Blob { id: (*id).into(), size: counter.size },
            lasting: lasting(counter, self.long, now),
            updated: now,
        };
        let mut all: Vec<Remembered> =
            self.counters.iter().map(kept).filter(|kept| kept.lasting >= FORGOTTEN).collect();
        all.sort_unstable_by(|a, b| b.lasting.total_cmp(&a.lasting).then(a.blob.id.cmp(&b.blob.id)));
        all.truncate(max);
        all
    }

    /// Takes back what was exported; what is known by now stays if it is more.
    pub fn import(&mut self, remembered: impl IntoIterator<Item = Remembered>, now: Time) {
        for Remembered { blob, lasting, updated } in remembered.into_iter().take(MAX_COUNTERS) {
            let lasting = halved(lasting, now.seconds_since(updated), self.long);
            if lasting.is_finite() && lasting >= FORGOTTEN {
                self.remember(blob, lasting, now);
            }
        }
    }

    fn rated(&self, requests: f64, lasting: f64) -> Recent {
        let usual = lasting * LN_2 / self.long;
        Recent { requests, lasting, per_second: usual.max(requests * LN_2 / self.short), usual }
    }

    /// Drops the forgotten before there are too many; if all are remembered, the less asked-for half.
    fn make_room(&mut self, blob: BlobId, now: Time) {
        if self.counters.len() < MAX_COUNTERS || self.counters.get(&blob.into()).is_some() {
            return;
        }
        let long = self.long;
        self.counters.retain(|counter| lasting(counter, long, now) >= FORGOTTEN);
        if self.counters.len() >= MAX_COUNTERS {
            let mut values: Vec<f64> = self.counters.iter().map(|(_, c)| lasting(c, long, now)).collect();
            let middle = values.len() / 2;
            let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
            let median = *median;
            self.counters.retain(|counter| lasting(counter, long, now) > median);
        }
    }
}

fn lasting(counter: &Counter, half_life: f64, now: Time) -> f64 {
    halved(counter.long, now.seconds_since(counter.updated), half_life)
}

fn halved(value: f64, age: f64, half_life: f64) -> f64 {
    // Most requests of a crowd come within the same moment.
    if age == 0.0 { value } else { value * (-age / half_life).exp2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(10_000);

    fn blob(n: u64) -> Blob {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        Blob { id: BlobId(id), size: 1 }
    }

    fn demand() -> Demand {
        Demand::new(&Params::default())
    }

    #[test]
    fn halves_by_both_half_lives_and_takes_the_higher_rate() {
        let mut demand = demand();
        let hot = blob(u64::MAX);
        for _ in 0..4 {
            demand.record(hot, START);
        }
        let later = |secs| START + Duration::from_secs(secs);
        assert_eq!(demand.of(hot.id, later(600)).requests, 2.0);
        assert_eq!(demand.of(hot.id, later(86_400)).lasting, 2.0);
        assert_eq!(demand.of(blob(0).id, START), Recent::default());
        let (now, day) = (demand.of(hot.id, START), demand.of(hot.id, later(86_400)));
        assert!((now.per_second - 4.0 * LN_2 / 600.0).abs() < 1e-12 && day.per_second == day.usual);
        assert!((now.expected(Duration::from_secs(86_400)) - (4.0 + 4.0 * LN_2)).abs() < 1e-9);
    }

    #[test]
    fn is_bounded_and_forgets_what_is_asked_for_least_in_the_long_run() {
        let mut demand = demand();
        let daily = blob(u64::MAX);
        let day = |n: u64| START + Duration::from_secs(86_400 * n);
        for n in 0..10 {
            demand.record(daily, day(n / 2));
        }
        for n in 0..MAX_COUNTERS as u64 + 10 {
            demand.record(blob(n), day(5));
            assert!(demand.counters.len() <= MAX_COUNTERS);
        }
        let lasting = demand.of(daily.id, day(5)).lasting;
        assert!((1.0..2.0).contains(&lasting), "{lasting}: more than each of those, though none is of today");
    }

    #[test]
    fn a_new_version_inherits_and_keeps_what_it_has() {
        let mut demand = demand();
        for _ in 0..10 {
            demand.record(blob(1), START);
        }
        demand.record(blob(3), START);
        let later = START + Duration::from_secs(86_400);
        assert!((demand.inherit(blob(2), blob(1).id, later) - 5.0 * LN_2 / 86_400.0).abs() < 1e-12);
        assert_eq!(demand.of(blob(2).id, later).lasting, 5.0);
        assert_eq!(demand.of(blob(2).id, later).requests, 0.0, "nobody asked for it yet");
        demand.inherit(blob(2), blob(3).id, later);
        assert_eq!(demand.of(blob(2).id, later).lasting, 5.0);
        assert_eq!(demand.inherit(blob(4), blob(9).id, later), 0.0);
        assert_eq!(demand.size(blob(4).id), None, "of nothing nothing is inherited");
    }

    #[test]
    fn lost_copies_are_waited_for_and_then_given_up() {
        let mut demand = demand();
        demand.record(blob(1), START);
        let at = |secs| START + Duration::from_secs(secs);
        let mut lost = |copies, secs| demand.lost(blob(1).id, copies, 3, Duration::from_secs(100), at(secs));
        let table = [(0, 0, 0), (3, 1, 0), (1, 10, 2), (2, 109, 1), (2, 110, 0), (1, 111, 1), (2, 112, 0)];
        for (copies, secs, want) in table {
            assert_eq!(lost(copies, secs), want, "{copies} copies after {secs} s");
        }
        demand.given_up(blob(1).id);
        assert_eq!(demand.lost(blob(1).id, 1, 3, Duration::from_secs(100), at(200)), 0);
    }

    proptest::proptest! {
        #[test]
        fn what_is_imported_again_rates_the_same(
            asks in proptest::collection::vec((0u64..20, 0u64..200_000), 0..100),
            max in 0usize..30,
        ) {
            let mut demand = demand();
            let mut now = START;
            for (n, secs) in asks {
                now = now + Duration::from_secs(secs / 20);
                demand.record(blob(n), now);
            }
            let exported = demand.export(max, now);
            proptest::prop_assert!(exported.len() <= max);
            let later = now + Duration::from_secs(3600);
            let mut other = Demand::new(&Params::default());
            other.import(exported.iter().copied(), later);
            let least = exported.last().map_or(f64::INFINITY, |kept| kept.lasting);
            for n in 0..20 {
                let (before, after) = (demand.of(blob(n).id, later), other.of(blob(n).id, later));
                if exported.iter().any(|kept| kept.blob == blob(n)) {
                    // Within that hour it may be forgotten.
                    let is_forgotten = before.lasting < FORGOTTEN && after.usual == 0.0;
                    proptest::prop_assert!(is_forgotten || (before.usual - after.usual).abs() <= 1e-9 * before.usual);
                } else if exported.len() == max {
                    proptest::prop_assert!(demand.of(blob(n).id, now).lasting <= least);
                }
            }
        }
    }
}
