//! A line that its transfers share: downloads of clients equally (processor sharing), each at most at the
//! client's own rate, and copies to other volunteers beside them.
//!
//! One virtual time per kind advances by (dt * rate of one transfer); a transfer of x bytes that begins at V
//! ends at V + x. So a change costs the logarithm of the transfers, and time between changes nothing.
//! Copies from a volunteer get their share of the line together while clients are there; the server's own line
//! knows no such thing, and a copy is one transfer of many.
//!
//! Left out: packet loss, TCP's slow start, round trips that differ.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::engine::{Nanos, SECOND};

/// For whom a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Client,
    Sync,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Virtual time at which it ends.
    end: f64,
    transfer: u32,
}

impl PartialEq for Flow {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Flow {}

impl PartialOrd for Flow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.end.total_cmp(&other.end).then(self.transfer.cmp(&other.transfer))
    }
}

/// The transfers of one kind.
#[derive(Clone, Debug, Default)]
struct Class {
    flows: BinaryHeap<Reverse<Flow>>,
    virtual_now: f64,
    /// Bytes that left the line, as time and rate say.
    sent: f64,
}

impl Class {
    fn advance(&mut self, each: f64, seconds: f64) {
        self.virtual_now += each * seconds;
        self.sent += each * seconds * self.flows.len() as f64;
    }

    /// Seconds until the first of them ends.
    fn first_end(&self, each: f64) -> Option<f64> {
        let Reverse(first) = self.flows.peek()?;
        Some((first.end - self.virtual_now).max(0.0) / each)
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Line {
    /// Bytes/s in all, and at most for one client.
    rate: f64,
    client_rate: f64,
    /// Of all copies together while clients are there; none: each is as any download.
    sync_share: Option<f64>,
    clients: Class,
    sync: Class,
    updated: Nanos,
    /// When the earliest look at this line is scheduled.
    pub wake: Nanos,
}

/// A transfer whose end is nearer than this, in bytes, has ended: half of what a nanosecond sends at 1 Gbit/s
/// is less, and no sum of roundings comes near it.
const DONE: f64 = 1e-3;

impl Line {
    pub fn new(rate: f64, client_rate: f64, sync_share: Option<f64>) -> Self {
        let (clients, sync) = (Class::default(), Class::default());
        Self { rate, client_rate, sync_share, clients, sync, updated: 0, wake: Nanos::MAX }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Bytes/s of one download and of one copy.
    fn each(&self) -> (f64, f64) {
        let (clients, sync) = (self.clients.flows.len() as f64, self.sync.flows.len() as f64);
        if sync == 0.0 {
            return ((self.rate / clients.max(1.0)).min(self.client_rate), 0.0);
        }
        if clients == 0.0 {
            return (0.0, self.rate / sync);
        }
        let for_sync = self.rate * self.sync_share.unwrap_or(sync / (clients + sync));
        (((self.rate - for_sync) / clients).min(self.client_rate), for_sync / sync)
    }

    pub fn advance(&mut self, now: Nanos) {
        let seconds = now.saturating_sub(self.updated) as f64 / SECOND as f64;
        self.updated = self.updated.max(now);
        if seconds > 0.0 {
            let (client, sync) = self.each();
            self.clients.advance(client, seconds);
            self.sync.advance(sync, seconds);
        }
    }

    /// From now on copies get another share.
    pub fn set_sync_share(&mut self, share: f64, now: Nanos) {
        self.advance(now);
        self.sync_share = Some(share);
    }

    fn class(&mut self, kind: Kind) -> &mut Class {
        match kind {
            Kind::Client => &mut self.clients,
            Kind::Sync => &mut self.sync,
        }
    }

    /// Begins a transfer of `len` bytes now.
    pub fn add(&mut self, kind: Kind, transfer: u32, len: f64, now: Nanos) {
        self.advance(now);
        let class = self.class(kind);
        if class.flows.is_empty() {
            // Small numbers are exact ones.
            class.virtual_now = 0.0;
        }
        let end = class.virtual_now + len;
        class.flows.push(Reverse(Flow { end, transfer }));
    }

    /// Takes a transfer away; the bytes that it still lacked. `None` if it is not here.
    pub fn remove(&mut self, kind: Kind, transfer: u32, now: Nanos) -> Option<f64> {
        self.advance(now);
        let class = self.class(kind);
        let virtual_now = class.virtual_now;
        let mut left = None;
        class.flows.retain(|Reverse(flow)| {
            let is_other = flow.transfer != transfer;
            if !is_other {
                left = Some((flow.end - virtual_now).max(0.0));
            }
            is_other
        });
        left
    }

    /// Takes all transfers away, with the bytes that each still lacked; in the order of their ends.
    pub fn clear(&mut self, now: Nanos) -> Vec<(u32, f64)> {
        self.advance(now);
        let mut gone = Vec::new();
        for class in [&mut self.clients, &mut self.sync] {
            let virtual_now = class.virtual_now;
            let flows = std::mem::take(&mut class.flows).into_sorted_vec();
            gone.extend(flows.iter().rev().map(|Reverse(f)| (f.transfer, (f.end - virtual_now).max(0.0))));
        }
        gone
    }

    /// The next transfer that has ended by now.
    pub fn ended(&mut self, now: Nanos) -> Option<u32> {
        self.advance(now);
        let is_done = |class: &Class| {
            class.flows.peek().is_some_and(|Reverse(flow)| flow.end - class.virtual_now <= DONE)
        };
        let class = match () {
            () if is_done(&self.clients) => &mut self.clients,
            () if is_done(&self.sync) => &mut self.sync,
            () => return None,
        };
        class.flows.pop().map(|Reverse(flow)| flow.transfer)
    }

    /// When the next transfer ends if nothing else happens; never before the nanosecond after `now`.
    pub fn next_end(&self, now: Nanos) -> Option<Nanos> {
        let (client, sync) = self.each();
        let ends = [self.clients.first_end(client), self.sync.first_end(sync)];
        let first = ends.into_iter().flatten().min_by(f64::total_cmp)?;
        Some(now + ((first * SECOND as f64).ceil() as Nanos).max(1))
    }

    /// Downloads of clients.
    pub fn clients(&self) -> usize {
        self.clients.flows.len()
    }

    /// What each download of a client gets, in bytes/s.
    pub fn share(&self) -> Option<f64> {
        (self.clients() > 0).then(|| self.each().0)
    }

    /// Part of its rate that it sends at now.
    pub fn used(&self) -> f64 {
        let (client, sync) = self.each();
        (client * self.clients.flows.len() as f64 + sync * self.sync.flows.len() as f64) / self.rate
    }

    pub fn flows(&self) -> usize {
        self.clients.flows.len() + self.sync.flows.len()
    }

    /// Bytes that the line has sent to clients and to volunteers.
    pub fn sent(&self) -> (f64, f64) {
        (self.clients.sent, self.sync.sent)
    }

    /// Transfers of a kind with the bytes that each still lacks; in no meaningful order, the same every time.
    pub fn remaining(&self, kind: Kind) -> impl Iterator<Item = (u32, f64)> + '_ {
        let class = match kind {
            Kind::Client => &self.clients,
            Kind::Sync => &self.sync,
        };
        let virtual_now = class.virtual_now;
        class.flows.iter().map(move |Reverse(flow)| (flow.transfer, (flow.end - virtual_now).max(0.0)))
    }

    /// When a download of `len` bytes would end if it began now and no other came, in seconds from now: it
    /// waits for the shorter of itself and each other (processor sharing), at what copies leave of the line.
    pub fn finish_time(&self, len: f64) -> f64 {
        let shared = |kind| -> f64 { self.remaining(kind).map(|(_, left)| left.min(len)).sum() };
        let (others, rate) = match self.sync_share {
            Some(share) if !self.sync.flows.is_empty() => (shared(Kind::Client), self.rate * (1.0 - share)),
            _ => (shared(Kind::Client) + shared(Kind::Sync), self.rate),
        };
        ((len + others) / rate).max(len / self.client_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line::new(100.0, f64::INFINITY, Some(0.2))
    }

    #[test]
    fn downloads_share_the_line_equally() {
        let mut line = line();
        line.add(Kind::Client, 1, 1000.0, 0);
        line.add(Kind::Client, 2, 200.0, 0);
        // 4 s at 50 bytes/s each end the small one; then 800 bytes at 100 bytes/s.
        assert_eq!(line.next_end(0), Some(4 * SECOND));
        assert_eq!(line.ended(4 * SECOND), Some(2));
        assert_eq!(line.ended(4 * SECOND), None);
        assert_eq!(line.next_end(4 * SECOND), Some(12 * SECOND));
        assert_eq!(line.ended(12 * SECOND), Some(1));
        assert_eq!(line.next_end(12 * SECOND), None);
        assert!((line.sent().0 - 1200.0).abs() < 1e-6);
    }

    #[test]
    fn a_client_takes_no_more_than_its_own_line_does() {
        let mut line = Line::new(100.0, 10.0, Some(0.2));
        line.add(Kind::Client, 1, 100.0, 0);
        assert_eq!(line.next_end(0), Some(10 * SECOND));
        for other in 2..=20 {
            line.add(Kind::Client, other, 1e6, 0);
        }
        assert_eq!(line.next_end(0), Some(20 * SECOND));
    }

    #[test]
    fn copies_get_a_fifth_beside_clients_and_all_without() {
        let mut line = line();
        line.add(Kind::Client, 1, 800.0, 0);
        line.add(Kind::Sync, 2, 1000.0, 0);
        assert_eq!(line.ended(10 * SECOND), Some(1));
        assert!((line.sent().1 - 200.0).abs() < 1e-6);
        assert_eq!(line.next_end(10 * SECOND), Some(18 * SECOND));
        // Among many downloads too.
        let mut line = self::line();
        line.add(Kind::Sync, 1, 100.0, 0);
        for other in 2..=10 {
            line.add(Kind::Client, other, 1e6, 0);
        }
        assert_eq!(line.next_end(0), Some(5 * SECOND));
        // And more from when the server says so.
        line.set_sync_share(0.5, 2 * SECOND);
        assert_eq!(line.next_end(2 * SECOND), Some(3 * SECOND + SECOND / 5));
    }

    #[test]
    fn a_copy_from_the_server_is_one_transfer_of_many() {
        let mut line = Line::new(100.0, f64::INFINITY, None);
        line.add(Kind::Client, 1, 100.0, 0);
        line.add(Kind::Sync, 2, 1000.0, 0);
        line.add(Kind::Sync, 3, 1000.0, 0);
        line.add(Kind::Client, 4, 1000.0, 0);
        assert_eq!((line.next_end(0), line.finish_time(100.0)), (Some(4 * SECOND), 5.0));
        assert_eq!(line.ended(4 * SECOND), Some(1));
        assert!((line.sent().1 - 200.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_taken_away_leaves_its_share_to_the_others() {
        let mut line = line();
        line.add(Kind::Client, 1, 1000.0, 0);
        line.add(Kind::Client, 2, 1000.0, 0);
        assert_eq!(line.remove(Kind::Client, 2, 10 * SECOND), Some(500.0));
        assert_eq!(line.remove(Kind::Client, 2, 10 * SECOND), None);
        assert_eq!(line.next_end(10 * SECOND), Some(15 * SECOND));
        assert_eq!(line.clear(11 * SECOND), [(1, 400.0)]);
        assert_eq!(line.flows(), 0);
    }

    #[test]
    fn the_finish_time_is_that_of_processor_sharing() {
        let mut line = line();
        line.add(Kind::Client, 1, 1000.0, 0);
        let predicted = line.finish_time(200.0);
        line.add(Kind::Client, 2, 200.0, 0);
        assert_eq!(line.next_end(0), Some((predicted * SECOND as f64) as Nanos));
    }

    proptest::proptest! {
        #[test]
        fn bytes_are_conserved(sizes in proptest::collection::vec(1_u32..10_000, 1..60), steps in 1_u64..40) {
            let mut line = Line::new(64.0, 50.0, Some(0.2));
            let (mut now, mut done) = (0, 0.0);
            for (number, size) in (0..).zip(&sizes) {
                let kind = if number % 5 == 0 { Kind::Sync } else { Kind::Client };
                line.add(kind, number, f64::from(*size), now);
                let target = now + steps * SECOND;
                while let Some(end) = line.next_end(now).filter(|end| *end <= target) {
                    now = end;
                    while let Some(ended) = line.ended(now) {
                        done += f64::from(sizes[ended as usize]);
                    }
                }
                now = target;
            }
            let total: f64 = sizes.iter().map(|size| f64::from(*size)).sum();
            let begun: f64 = total;
            let left: f64 = line.clear(now).iter().map(|(_, left)| left).sum();
            let sent = line.sent().0 + line.sent().1;
            proptest::prop_assert!((sent - (begun - left)).abs() < 1e-6 * total + 1e-2, "{sent} {begun} {left}");
            proptest::prop_assert!(done <= sent + 1e-2);
        }
    }
}
