//! What the server counts, the line it writes about it every ten seconds, and how busy its own line is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::io::body::Body;
use crate::model::{Rate, Size};

/// Period of the traffic line.
const LINE: Duration = Duration::from_secs(10);

/// Whose bytes a response carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A package, to a client.
    Package,
    /// A package, to a volunteer that was ordered to fetch it.
    Sync,
    Metadata,
    /// A file that no metadata names.
    Passed,
}

/// Counters since start. Relaxed atomics: each is exact, together they are a moment apart.
#[derive(Debug, Default)]
pub struct Traffic {
    pub requests: AtomicU64,
    pub redirects: AtomicU64,
    pub redirected_bytes: AtomicU64,
    pub failovers: AtomicU64,
    pub served_requests: AtomicU64,
    pub served_bytes: AtomicU64,
    pub sync_bytes: AtomicU64,
    /// What volunteers say that they fetched from each other.
    pub peer_bytes: AtomicU64,
    pub metadata_bytes: AtomicU64,
    pub passed_bytes: AtomicU64,
    pub tunnel_bytes: AtomicU64,
    /// Everything sent, per second, smoothed.
    sent_per_second: AtomicU64,
}

impl Traffic {
    fn counter(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Package => &self.served_bytes,
            Kind::Sync => &self.sync_bytes,
            Kind::Metadata => &self.metadata_bytes,
            Kind::Passed => &self.passed_bytes,
        }
    }

    /// Counts a body's bytes as they leave.
    pub fn count(self: &Arc<Self>, kind: Kind, body: Body) -> Body {
        let traffic = self.clone();
        body.counted(move |bytes| {
            traffic.counter(kind).fetch_add(bytes, Relaxed);
        })
    }

    /// Counts what a volunteer claims: no claim makes the sum wrap.
    pub fn count_peers(&self, bytes: u64) {
        let _ = self.peer_bytes.fetch_update(Relaxed, Relaxed, |sum| Some(sum.saturating_add(bytes)));
    }

    /// How busy the server's line is, 0 to 1 and beyond.
    pub fn load(&self, uplink: Rate) -> f64 {
        self.sent_per_second.load(Relaxed) as f64 / (uplink.0 as f64).max(1.0)
    }

    fn sent(&self) -> u64 {
        let kinds = [Kind::Package, Kind::Sync, Kind::Metadata, Kind::Passed];
        let files: u64 = kinds.map(|kind| self.counter(kind).load(Relaxed)).iter().sum();
        files + self.tunnel_bytes.load(Relaxed)
    }

    pub fn offload_ratio(redirected: u64, served: u64) -> f64 {
        if redirected + served == 0 { 0.0 } else { redirected as f64 / (redirected + served) as f64 }
    }
}

/// Measures the line every second and writes the traffic line; ends with the process.
pub async fn report(traffic: Arc<Traffic>, volunteers_up: impl Fn() -> usize) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let (mut sent, mut seconds) = (traffic.sent(), 0);
    let mut last = Figures::of(&traffic);
    loop {
        every_second.tick().await;
        let now_sent = traffic.sent();
        let smoothed = (traffic.sent_per_second.load(Relaxed) * 2 + (now_sent - sent)) / 3;
        traffic.sent_per_second.store(smoothed, Relaxed);
        sent = now_sent;
        seconds += 1;
        if seconds % LINE.as_secs() == 0 {
            let now = Figures::of(&traffic);
            now.line(&last, volunteers_up());
            last = now;
        }
    }
}

/// The counters at one moment.
struct Figures {
    requests: u64,
    redirects: u64,
    redirected: u64,
    served: u64,
    metadata: u64,
    sync: u64,
    peers: u64,
}

impl Figures {
    fn of(traffic: &Traffic) -> Self {
        Self {
            requests: traffic.requests.load(Relaxed),
            redirects: traffic.redirects.load(Relaxed),
            redirected: traffic.redirected_bytes.load(Relaxed),
            served: traffic.served_bytes.load(Relaxed),
            metadata: traffic.metadata_bytes.load(Relaxed),
            sync: traffic.sync_bytes.load(Relaxed),
            peers: traffic.peer_bytes.load(Relaxed),
        }
    }

    fn line(&self, last: &Self, volunteers_up: usize) {
        let sums = |of: &Self| [of.requests, of.served, of.sync, of.peers];
        if sums(self) == sums(last) {
            return;
        }
        let (redirected, served) = (self.redirected - last.redirected, self.served - last.served);
        let share = 100.0 * Traffic::offload_ratio(redirected, served);
        tracing::info!(
            requests = self.requests - last.requests,
            redirects = self.redirects - last.redirects,
            redirected = %Size(redirected),
            served = %Size(served),
            metadata = %Size(self.metadata - last.metadata),
            sync = %Size(self.sync - last.sync),
            peers = %Size(self.peers.saturating_sub(last.peers)),
            offload_percent = format_args!("{share:.1}"),
            volunteers_up,
            "traffic"
        );
    }
}
