//! How fast this volunteer sends, measured every second, and the line about it in the log, every ten seconds while
//! there is anything to tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::edge::Edge;
use crate::formats::control::Report;
use crate::model::{Rate, Size};

/// Seconds from line to line, as in the server's log.
const LINE_SECS: u64 = 10;

/// Bytes sent per second, smoothed.
#[derive(Debug, Default)]
pub struct Meter(AtomicU64);

impl Meter {
    pub fn rate(&self) -> Rate {
        Rate(self.0.load(Relaxed))
    }

    /// Records what was sent within a second.
    fn add(&self, bytes: u64) {
        let before = self.0.load(Relaxed);
        // A third at a time: steady enough to be read, and idle within seconds.
        self.0.store((before * 2 + bytes) / 3, Relaxed);
    }
}

/// Measures and writes the line; ends with the process.
pub async fn report(edge: Arc<Edge>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let mut told = edge.report();
    let (mut before, mut seconds) = (sent(&told), 0);
    loop {
        every_second.tick().await;
        let now = edge.report();
        edge.meter.add(sent(&now) - before);
        before = sent(&now);
        seconds += 1;
        if seconds % LINE_SECS == 0 {
            line(&told, &now);
            told = now;
        }
    }
}

fn sent(report: &Report) -> u64 {
    report.served_bytes + report.sync_bytes
}

/// What happened between two reports, if anything did.
fn line(told: &Report, now: &Report) {
    let counts =
        |of: &Report| [sent(of), of.peer_bytes + of.fetched_bytes, of.served_requests, of.returned_requests];
    if counts(told) == counts(now) {
        return;
    }
    tracing::info!(
        rate = %Rate((sent(now) - sent(told)) / LINE_SECS),
        downloads = now.uploads,
        sent = %Size(now.served_bytes - told.served_bytes),
        copies = %Size(now.sync_bytes - told.sync_bytes),
        fetched = %Size(now.peer_bytes + now.fetched_bytes - told.peer_bytes - told.fetched_bytes),
        sent_back = now.returned_requests - told.returned_requests,
        "traffic"
    );
}
