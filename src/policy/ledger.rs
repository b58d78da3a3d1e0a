//! The server's own account of one volunteer's uploads: a processor-sharing queue, drained at the
//! volunteer's estimated rate and corrected by its reports.
//!
//! Virtual time V advances by (dt * rate / flows); a flow of x bytes that starts at V ends at V + x. So
//! draining costs nothing per flow, and what is left of flow j is its end minus V.

use std::time::Duration;

use crate::model::{Blob, BlobId, Time};

/// Flows kept per volunteer. One that has more is saturated whatever the exact sum is.
const MAX_FLOWS: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Virtual time at which it ends.
    end: f64,
    blob: BlobId,
    since: Time,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Sorted by `end`.
    flows: Vec<Flow>,
    virtual_now: f64,
    updated: Time,
}

impl Ledger {
    /// Lets the running flows proceed to `now` at `rate` bytes/s in all.
    pub fn advance(&mut self, rate: f64, now: Time) {
        let mut left = now.since(self.updated).as_secs_f64();
        self.updated = self.updated.max(now);
        let mut ended = 0;
        while let Some(next) = self.flows.get(ended) {
            let sharing = (self.flows.len() - ended) as f64;
            let until_end = (next.end - self.virtual_now) * sharing / rate;
            if until_end > left {
                self.virtual_now += left * rate / sharing;
                break;
            }
            left -= until_end;
            self.virtual_now = next.end;
            ended += 1;
        }
        self.flows.drain(..ended);
        if self.flows.is_empty() {
            self.virtual_now = 0.0;
        }
    }

    /// Books a download of `len` bytes.
    pub fn add(&mut self, blob: BlobId, len: u64, now: Time) {
        if self.flows.len() >= MAX_FLOWS {
            return;
        }
        let flow = Flow { end: self.virtual_now + len as f64, blob, since: now };
        let at = self.flows.partition_point(|other| other.end <= flow.end);
        self.flows.insert(at, flow);
    }

    /// Replaces the account by what the volunteer reports, keeping those redirects that are so young that
    /// the report may not know them yet.
    pub fn reconcile(&mut self, running: &[Blob], unlisted: u32, lag: Duration, now: Time) {
        let young = now - lag;
        self.flows.retain(|flow| flow.since > young && !running.iter().any(|blob| blob.id == flow.blob));
        for flow in running {
            self.add(flow.id, flow.size, young);
        }
        let total = running.iter().fold(0_u64, |sum, flow| sum.saturating_add(flow.size));
        let mean = total / (running.len() as u64).max(1);
        for _ in 0..unlisted.min(MAX_FLOWS as u32) {
            self.add(BlobId([0; 32]), mean, young);
        }
    }

    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Bytes left over all flows, each counted up to `limit`: what a new download of `limit` bytes shares
    /// the line with.
    pub fn backlog(&self, limit: u64) -> f64 {
        let limit = limit as f64;
        self.flows.iter().map(|flow| (flow.end - self.virtual_now).min(limit)).sum()
    }
}

#[cfg(test)]
mod tests {
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
        ledger.advance(100.0, at(0));
        ledger.add(blob(1), 1000, at(0));
        ledger.add(blob(2), 200, at(0));
        // 4 s at 50 bytes/s each end the small one; then 800 bytes at 100 bytes/s.
        ledger.advance(100.0, at(4));
        assert_eq!((ledger.flows(), ledger.backlog(u64::MAX)), (1, 800.0));
        ledger.advance(100.0, at(8));
        assert_eq!((ledger.backlog(u64::MAX), ledger.backlog(50)), (400.0, 50.0));
        ledger.advance(100.0, at(12));
        assert_eq!(ledger.flows(), 0);
    }

    #[test]
    fn a_report_replaces_the_old_and_keeps_the_young() {
        let mut ledger = Ledger::default();
        let lag = Duration::from_secs(2);
        ledger.add(blob(1), 1000, at(0));
        ledger.add(blob(2), 1000, at(9));
        ledger.add(blob(3), 1000, at(9));
        ledger.reconcile(&[Blob { id: blob(3), size: 700 }], 1, lag, at(10));
        // The old one is gone, the young unknown one is kept, the reported one is not counted twice.
        assert_eq!((ledger.flows(), ledger.backlog(u64::MAX)), (3, 1000.0 + 700.0 + 700.0));
    }

    proptest::proptest! {
        #[test]
        fn bytes_are_conserved(sizes in proptest::collection::vec(1u64..10_000, 1..50), secs in 0u64..100) {
            let mut ledger = Ledger::default();
            ledger.advance(64.0, at(0));
            for (i, size) in sizes.iter().enumerate() {
                ledger.add(blob(i as u8), *size, at(0));
            }
            let total: u64 = sizes.iter().sum();
            ledger.advance(64.0, at(secs));
            let want = (total as f64 - 64.0 * secs as f64).max(0.0);
            proptest::prop_assert!((ledger.backlog(u64::MAX) - want).abs() < 1e-3 * total as f64);
        }
    }
}
