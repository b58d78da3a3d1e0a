//! The event loop: what happens next, in the order of time; of equal times, in the order of scheduling.
//!
//! Time is in nanoseconds since the simulation began. No clock: only events move it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Nanoseconds since the simulation began.
pub type Nanos = u64;

pub const SECOND: Nanos = 1_000_000_000;

/// `secs` as nanoseconds, rounded; saturating.
pub fn nanos(secs: f64) -> Nanos {
    (secs * SECOND as f64).round() as Nanos
}

pub fn secs(nanos: Nanos) -> f64 {
    nanos as f64 / SECOND as f64
}

#[derive(Clone, Copy, Debug)]
struct Scheduled<E> {
    at: Nanos,
    seq: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest: what a heap of greatest elements needs.
impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// Events to come.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    now: Nanos,
    scheduled: u64,
    handled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now: 0, scheduled: 0, handled: 0 }
    }
}

impl<E> Queue<E> {
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Events that have happened.
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// Schedules an event; what should have happened before happens now.
    pub fn at(&mut self, at: Nanos, event: E) {
        self.scheduled += 1;
        self.heap.push(Scheduled { at: at.max(self.now), seq: self.scheduled, event });
    }

    pub fn after(&mut self, span: Nanos, event: E) {
        self.at(self.now.saturating_add(span), event);
    }

    /// The next event; time is its time from now on.
    pub fn next(&mut self) -> Option<E> {
        let next = self.heap.pop()?;
        self.now = next.at;
        self.handled += 1;
        Some(next.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_then_of_scheduling() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b')] {
            queue.at(at, event);
        }
        let mut seen = Vec::new();
        while let Some(event) = queue.next() {
            seen.push((queue.now(), event));
            if event == 'b' {
                // The past is over.
                queue.at(1, 'x');
            }
        }
        assert_eq!(seen, [(3, 'a'), (3, 'b'), (3, 'x'), (5, 'c'), (5, 'd')]);
        assert_eq!(queue.handled(), 5);
    }
}
