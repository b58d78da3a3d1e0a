//! The server's own account of one volunteer's uploads: two processor-sharing queues, drained at the
//! volunteer's estimated rate and corrected by its reports.
//!
//! One queue is of clients' downloads, the other of *sync flows*: blobs that it sends to other volunteers on our
//! orders. While both run, these get a fixed share of the rate together (the volunteer sees to that), and
//! either gets all of it while the other is empty.
//!
//! Virtual time V of a queue advances by its bytes / its flows; a flow of x bytes that starts at V ends at V + x.
//! So draining costs nothing per flow, and what is left of flow j is its end minus V.

use std::time::Duration;

use crate::model::{Blob, BlobId, Time};
use crate::policy::inputs::Load;

/// Flows kept per queue. A volunteer that has more is saturated whatever the exact sum is.
const MAX_FLOWS: usize = 4096;
/// Of so many a sum over all is as fast as a search.
const FEW: usize = 64;

/// Room for downloads that are yet to come.
const SPARE: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Flow {
    blob: BlobId,
    since: Time,
}

/// Flows that share a line equally.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// Virtual times at which the flows end, the next one last: small downloads come and go without moving the
    /// others. Apart from the flows, since sums run over them alone.
    ends: Vec<f64>,
    flows: Vec<Flow>,
    virtual_now: f64,
}

impl Queue {
    /// Serves so many bytes; returns those that nobody was left for.
    fn advance(&mut self, mut bytes: f64) -> f64 {
        while let Some(end) = self.ends.last() {
            let sharing = self.ends.len() as f64;
            let until_end = (end - self.virtual_now) * sharing;
            if until_end > bytes {
                self.virtual_now += bytes / sharing;
                bytes = 0.0;
                break;
            }
            bytes -= until_end;
            self.virtual_now = *end;
            self.ends.pop();
            self.flows.pop();
        }
        if self.ends.is_empty() {
            self.virtual_now = 0.0;
        }
        bytes
    }

    fn reserve(&mut self, flows: usize) {
        self.ends.reserve(flows);
        self.flows.reserve(flows);
    }

    fn add(&mut self, blob: BlobId, len: u64, since: Time) {
        if self.ends.len() >= MAX_FLOWS {
            return;
        }
        let end = self.virtual_now + len as f64;
        let at = self.ends.partition_point(|other| *other > end);
        self.ends.insert(at, end);
        self.flows.insert(at, Flow { blob, since });
    }

    fn remove(&mut self, at: usize) {
        self.ends.remove(at);
        self.flows.remove(at);
        if self.ends.is_empty() {
            self.virtual_now = 0.0;
        }
    }

    /// Bytes left over all flows, each counted up to `limit`.
    fn left(&self, limit: f64) -> f64 {
        // Cheaper than to find out which are shorter.
        if self.ends.len() <= FEW {
            return sum(&self.ends, |end| (end - self.virtual_now).min(limit));
        }
        let longer = self.ends.partition_point(|end| *end > self.virtual_now + limit);
        let shorter = &self.ends[longer..];
        sum(shorter, |end| end) - self.virtual_now * shorter.len() as f64
            + if longer > 0 { longer as f64 * limit } else { 0.0 }
    }

    fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// In four lanes, which need not wait for each other.
fn sum(numbers: &[f64], of: impl Fn(f64) -> f64) -> f64 {
    let (fours, rest) = numbers.as_chunks::<4>();
    let mut lanes = [0.0; 4];
    for four in fours {
        for (lane, number) in lanes.iter_mut().zip(four) {
            *lane += of(*number);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|number| of(*number)).sum::<f64>()
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    clients: Queue,
    syncs: Queue,
    updated: Time,
}

impl Ledger {
    /// Lets the running flows proceed to `now` at `rate` bytes/s in all, of which sync flows get
    /// `sync_share` while clients download.
    pub fn advance(&mut self, rate: f64, sync_share: f64, now: Time) {
        let seconds = now.seconds_since(self.updated);
        let mut bytes = seconds * rate;
        self.updated = self.updated.max(now);
        if bytes == 0.0 || (self.clients.is_empty() && self.syncs.is_empty()) {
            return;
        }
        if !self.clients.is_empty() && !self.syncs.is_empty() {
            // Until one of them is empty.
            let clients_end = self.clients.left(f64::INFINITY) / (1.0 - sync_share);
            let both = bytes.min(clients_end).min(self.sync_bytes() / sync_share);
            self.clients.advance(both * (1.0 - sync_share));
            self.syncs.advance(both * sync_share);
            bytes -= both;
        }
        let bytes = self.clients.advance(bytes);
        if !self.syncs.is_empty() {
            self.syncs.advance(bytes);
        }
    }

    /// Books a download of `len` bytes.
    pub fn add(&mut self, blob: BlobId, len: u64, now: Time) {
        self.clients.add(blob, len, now);
    }

    /// Books that the blob is sent to another volunteer.
    pub fn begin_sync(&mut self, blob: Blob, now: Time) {
        self.syncs.add(blob.id, blob.size, now);
    }

    /// It was sent, or will not be. Of several of the same blob, that which has most left.
    pub fn end_sync(&mut self, blob: BlobId) {
        if let Some(at) = self.syncs.flows.iter().position(|flow| flow.blob == blob) {
            self.syncs.remove(at);
        }
    }

    /// Replaces the account of downloads by what the volunteer reports, keeping those redirects that are so young
    /// that the report may not know them yet. Sync flows it does not speak of stay: their end is told.
    pub fn reconcile(&mut self, load: &Load, lag: Duration, now: Time) {
        let (young, running) = (now - lag, &load.remaining);
        let unlisted = load.uploads.saturating_sub(u32::try_from(running.len()).unwrap_or(u32::MAX));
        let mut listed: Vec<BlobId> = running.iter().map(|blob| blob.id).collect();
        listed.sort_unstable();
        let old = std::mem::take(&mut self.clients);
        // For what comes until the next report, so that hardly any decision has to make room.
        self.clients.reserve((old.ends.len().max(running.len()) + SPARE).min(MAX_FLOWS));
        for (end, flow) in old.ends.iter().zip(&old.flows) {
            if flow.since > young && listed.binary_search(&flow.blob).is_err() {
                self.clients.add(flow.blob, (end - old.virtual_now).max(0.0) as u64, flow.since);
            }
        }
        let total = running.iter().fold(0_u64, |sum, flow| sum.saturating_add(flow.size));
        let mean = total / (running.len() as u64).max(1);
        let unlisted = (0..unlisted.min(MAX_FLOWS as u32)).map(|_| Blob { id: BlobId([0; 32]), size: mean });
        for Blob { id, size } in running.iter().copied().chain(unlisted) {
            self.clients.add(id, size, young);
        }
        for Blob { id, size } in load.syncs.iter().take(MAX_FLOWS) {
            if let Some(at) = self.syncs.flows.iter().rposition(|flow| flow.blob == *id) {
                let since = self.syncs.flows[at].since;
                self.syncs.remove(at);
                self.syncs.add(*id, *size, since);
            }
        }
    }

    /// Downloads running.
    pub fn flows(&self) -> usize {
        self.clients.ends.len()
    }

    pub fn syncs(&self) -> usize {
        self.syncs.ends.len()
    }

    /// Bytes left over all downloads, each counted up to `limit`: what a new download of `limit` bytes shares
    /// the line with.
    pub fn backlog(&self, limit: u64) -> f64 {
        self.clients.left(limit as f64)
    }

    /// Bytes left over all sync flows.
    pub fn sync_bytes(&self) -> f64 {
        self.syncs.left(f64::INFINITY)
    }

    /// What `rate` leaves to clients now.
    fn client_rate(&self, rate: f64, sync_share: f64) -> f64 {
        if self.syncs.is_empty() { rate } else { rate * (1.0 - sync_share) }
    }

    /// Whether one more client would get no more than `least` at first.
    pub fn is_saturated(&self, least: f64, rate: f64, sync_share: f64) -> bool {
        self.client_rate(rate, sync_share) <= least * (self.flows() + 1) as f64
    }

    /// Bytes that the line sends for each that clients get, until they have got so many: they have their share of
    /// the rate, or share it with all sync flows if these end before. At least 1.
    pub fn stretch(&self, bytes: f64, sync_share: f64) -> f64 {
        if self.syncs.is_empty() {
            return 1.0;
        }
        (1.0 / (1.0 - sync_share)).min(1.0 + self.sync_bytes() / bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(secs: u64) -> Time {
        Time::from_secs(1000 + secs)
    }

    fn blob(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    #[test]
    fn shares_the_line_equally() {
        let mut ledger = Ledger::default();
        ledger.advance(100.0, 0.2, at(0));
        ledger.add(blob(1), 1000, at(0));
        ledger.add(blob(2), 200, at(0));
        // 4 s at 50 bytes/s each end the small one; then 800 bytes at 100 bytes/s.
        ledger.advance(100.0, 0.2, at(4));
        assert_eq!((ledger.flows(), ledger.backlog(u64::MAX)), (1, 800.0));
        ledger.advance(100.0, 0.2, at(8));
        assert_eq!((ledger.backlog(u64::MAX), ledger.backlog(50)), (400.0, 50.0));
        ledger.advance(100.0, 0.2, at(12));
        assert_eq!(ledger.flows(), 0);
    }

    #[test]
    fn a_report_replaces_the_old_and_keeps_the_young() {
        let mut ledger = Ledger::default();
        let lag = Duration::from_secs(2);
        ledger.add(blob(1), 1000, at(0));
        ledger.add(blob(2), 1000, at(9));
        ledger.add(blob(3), 1000, at(9));
        ledger.begin_sync(Blob { id: blob(3), size: 1000 }, at(0));
        ledger.begin_sync(Blob { id: blob(4), size: 1000 }, at(0));
        let (remaining, syncs) =
            (vec![Blob { id: blob(3), size: 700 }], vec![Blob { id: blob(4), size: 100 }]);
        let load = Load { uploads: 2, remaining, syncs, ..Load::default() };
        ledger.reconcile(&load, lag, at(10));
        // The old one is gone, the young unknown one is kept, the reported one is not counted twice.
        assert_eq!((ledger.flows(), ledger.backlog(u64::MAX)), (3, 1000.0 + 700.0 + 700.0));
        // What it did not speak of goes on until its end is told.
        assert_eq!((ledger.syncs(), ledger.sync_bytes()), (2, 1000.0 + 100.0));
        ledger.end_sync(blob(3));
        assert_eq!((ledger.syncs(), ledger.sync_bytes()), (1, 100.0));
    }

    #[test]
    fn clients_lose_no_more_than_the_sync_share() {
        let mut ledger = Ledger::default();
        ledger.advance(100.0, 0.2, at(0));
        ledger.add(blob(1), 800, at(0));
        ledger.begin_sync(Blob { id: blob(2), size: 10_000 }, at(0));
        assert_eq!((ledger.client_rate(100.0, 0.2), ledger.stretch(800.0, 0.2)), (80.0, 1.25));
        assert!(ledger.is_saturated(40.0, 100.0, 0.2) && !ledger.is_saturated(39.0, 100.0, 0.2));
        ledger.advance(100.0, 0.2, at(5));
        assert_eq!((ledger.backlog(u64::MAX), ledger.sync_bytes()), (400.0, 9900.0));
        // From the tenth second on the line is its alone.
        ledger.advance(100.0, 0.2, at(20));
        assert_eq!((ledger.flows(), ledger.sync_bytes()), (0, 8800.0));
        // A sync flow that ends soon delays by its own bytes alone.
        ledger.end_sync(blob(2));
        ledger.begin_sync(Blob { id: blob(2), size: 10 }, at(20));
        ledger.add(blob(1), 800, at(20));
        assert!((ledger.stretch(800.0, 0.2) - 1.0125).abs() < 1e-9);
        ledger.advance(100.0, 0.2, at(28));
        assert!((ledger.backlog(u64::MAX) - 10.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn bytes_are_conserved(
            sizes in prop::collection::vec(1u64..10_000, 0..50),
            syncs in prop::collection::vec(1u64..10_000, 0..10),
            steps in prop::collection::vec(0u64..30, 1..10),
            share in 0.05..0.95f64,
        ) {
            let mut ledger = Ledger::default();
            ledger.advance(64.0, share, at(0));
            for (i, size) in sizes.iter().enumerate() {
                ledger.add(blob(i as u8), *size, at(0));
            }
            for (i, size) in syncs.iter().enumerate() {
                ledger.begin_sync(Blob { id: blob(i as u8), size: *size }, at(0));
            }
            let (clients, copies) = (sizes.iter().sum::<u64>() as f64, syncs.iter().sum::<u64>() as f64);
            let mut secs = 0;
            for step in steps {
                secs += step;
                let before = ledger.backlog(u64::MAX);
                let predicted = before * ledger.stretch(before, share) / 64.0;
                ledger.advance(64.0, share, at(secs));
                let (left, left_copies) = (ledger.backlog(u64::MAX), ledger.sync_bytes());
                let want = (clients + copies - 64.0 * secs as f64).max(0.0);
                let close = 1e-6 * (clients + copies) + 1e-6;
                prop_assert!((left + left_copies - want).abs() < close, "{left} + {left_copies}, not {want}");
                // What was promised is kept: not before, not after.
                if before > close {
                    prop_assert_eq!(left > close, predicted > step as f64 + 1e-9, "{} {}", predicted, step);
                }
                // While clients download, copying gets its share and no more.
                if left > close {
                    let copied = copies - left_copies;
                    prop_assert!(copied <= share * 64.0 * secs as f64 + close, "{copied}");
                }
            }
        }

        #[test]
        fn a_backlog_counts_each_up_to_the_limit(
            sizes in prop::collection::vec(1u64..10_000, 0..200),
            limit in 1u64..12_000,
            secs in 0u64..100,
        ) {
            let mut ledger = Ledger::default();
            ledger.advance(999.0, 0.2, at(0));
            sizes.iter().for_each(|size| ledger.add(blob(1), *size, at(0)));
            ledger.advance(999.0, 0.2, at(secs));
            let left = ledger.clients.ends.iter().map(|end| end - ledger.clients.virtual_now);
            let want: f64 = left.map(|left| left.min(limit as f64)).sum();
            prop_assert!((ledger.backlog(limit) - want).abs() < 1e-6 * want + 1e-6);
        }
    }
}
