//! How much each blob is asked for: a counter that halves every half-life.
//!
//! Exact counters, not a sketch: only blobs that were asked for within some half-lives have one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Blob, BlobId, Time};

/// Counters kept; above it, the forgotten ones go. About 100 bytes each.
const MAX_COUNTERS: usize = 200_000;
/// How often the copies of one blob are counted while it is asked for.
const PLACE_EVERY: Duration = Duration::from_secs(1);
/// A counter below this is no reason to make a copy: one request, one half-life ago.
const RECENT: f64 = 0.5;
/// A counter below this is forgotten: one request, four half-lives ago.
const FORGOTTEN: f64 = 1.0 / 16.0;

/// Recent demand for one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    /// Requests, each halved per half-life since.
    pub requests: f64,
    /// The rate that would keep the counter where it is, in requests/s.
    pub per_second: f64,
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    size: u64,
    value: f64,
    updated: Time,
    /// When the copies of the blob were last counted.
    placed: Option<Time>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Demand {
    half_life: Duration,
    counters: BTreeMap<BlobId, Counter>,
    /// Where the next slice begins.
    tended: BlobId,
}

impl Demand {
    pub fn new(half_life: Duration) -> Self {
        Self { half_life, counters: BTreeMap::new(), tended: BlobId([0; 32]) }
    }

    pub fn record(&mut self, blob: Blob, now: Time) {
        let Blob { id: blob, size } = blob;
        if self.counters.len() >= MAX_COUNTERS && !self.counters.contains_key(&blob) {
            self.forget(now);
        }
        let half_life = self.half_life;
        let counter =
            self.counters.entry(blob).or_insert(Counter { size, value: 0.0, updated: now, placed: None });
        counter.value = decayed(counter, half_life, now) + 1.0;
        counter.updated = now;
    }

    /// Whether it is time to count the blob's copies again, which asks every volunteer. Says so once a
    /// second at most, and at once for a blob that was just asked for the first time.
    pub fn is_due(&mut self, blob: BlobId, now: Time) -> bool {
        let Some(counter) = self.counters.get_mut(&blob) else { return true };
        let is_due = counter.placed.is_none_or(|placed| now.since(placed) >= PLACE_EVERY);
        if is_due {
            counter.placed = Some(now);
        }
        is_due
    }

    /// The next blobs in turn that were asked for lately; every counter has its turn.
    pub fn slice(&mut self, count: usize, now: Time) -> Vec<Blob> {
        let next: Vec<(BlobId, Counter)> =
            self.counters.range(self.tended..).take(count).map(|(id, counter)| (*id, *counter)).collect();
        self.tended = match next.last() {
            Some((last, _)) if next.len() == count => *last,
            _ => BlobId([0; 32]),
        };
        let is_recent = |(_, counter): &(BlobId, Counter)| decayed(counter, self.half_life, now) >= RECENT;
        next.into_iter().filter(is_recent).map(|(id, counter)| Blob { id, size: counter.size }).collect()
    }

    pub fn of(&self, blob: BlobId, now: Time) -> Recent {
        let requests = self.counters.get(&blob).map_or(0.0, |counter| decayed(counter, self.half_life, now));
        Recent { requests, per_second: requests * std::f64::consts::LN_2 / self.half_life.as_secs_f64() }
    }

    /// Drops the forgotten; if all are remembered, the less asked-for half.
    fn forget(&mut self, now: Time) {
        let half_life = self.half_life;
        self.counters.retain(|_, counter| decayed(counter, half_life, now) >= FORGOTTEN);
        if self.counters.len() >= MAX_COUNTERS {
            let mut values: Vec<f64> = self.counters.values().map(|c| decayed(c, half_life, now)).collect();
            let middle = values.len() / 2;
            let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
            let median = *median;
            self.counters.retain(|_, counter| decayed(counter, half_life, now) > median);
        }
    }
}

fn decayed(counter: &Counter, half_life: Duration, now: Time) -> f64 {
    counter.value * (-now.since(counter.updated).as_secs_f64() / half_life.as_secs_f64()).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_is_bounded() {
        let mut demand = Demand::new(Duration::from_secs(600));
        let start = Time::from_secs(10_000);
        let hot = BlobId([255; 32]);
        for _ in 0..4 {
            demand.record(Blob { id: hot, size: 1 }, start);
        }
        assert_eq!(demand.of(hot, start + Duration::from_secs(600)).requests, 2.0);
        assert_eq!(demand.of(BlobId([0; 32]), start).requests, 0.0);
        for n in 0..MAX_COUNTERS as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            demand.record(Blob { id: BlobId(id), size: 1 }, start);
        }
        assert!(demand.counters.len() <= MAX_COUNTERS);
        assert_eq!(demand.of(hot, start).requests, 4.0);
    }
}
