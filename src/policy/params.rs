//! The parameters of balancing and placement, each with its reason. Starting values of reference policy
//! section E; the simulator sweeps them.

use std::time::Duration;

/// See each field.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Fixed heartbeat period.
    pub heartbeat: Duration,
    /// A report older than this no longer steers: only capacity does.
    pub stale_after: Duration,
    /// A volunteer silent for this long gets nothing.
    pub dead_after: Duration,
    /// Weight of the delay that a new download inflicts on the running ones.
    pub beta: f64,
    /// All holders are scored up to this many; of more, `sample` are drawn by rate.
    pub score_all_up_to: usize,
    pub sample: usize,
    /// A volunteer that could give a new download less than this, in bytes/s, is saturated.
    pub min_share: f64,
    /// Smaller files stay at the server while it is less than `small_file_load` busy: the redirect's round
    /// trip would cost more than the bytes.
    pub small_file: u64,
    pub small_file_load: f64,
    /// With every holder saturated, the server serves while its own load is below this.
    pub origin_load: f64,
    /// How long a redirect may take to show up in a report.
    pub report_lag: Duration,
    /// Half-life of demand counters.
    pub demand_half_life: Duration,
    /// Utilisation that placement aims at.
    pub target_utilisation: f64,
    /// Recent requests (decayed) from which a blob counts as hot, and the copies it then has at least.
    pub hot_requests: f64,
    pub hot_copies: usize,
    /// Orders that one volunteer may have open: bounds its queue and our memory.
    pub max_orders: usize,
    /// An order that was not reported on for this long counts as lost.
    pub order_timeout: Duration,
    /// After a failed order a volunteer is not asked for the same blob for this long: the fault may have
    /// been the server's or the upstream's.
    pub order_retry: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            stale_after: Duration::from_secs(15),
            dead_after: Duration::from_secs(30),
            beta: 1.0,
            score_all_up_to: 16,
            sample: 8,
            min_share: 128_000.0,
            small_file: 32 << 10,
            small_file_load: 0.5,
            origin_load: 0.8,
            report_lag: Duration::from_secs(2),
            demand_half_life: Duration::from_secs(600),
            target_utilisation: 0.7,
            hot_requests: 3.0,
            hot_copies: 3,
            max_orders: 4096,
            order_timeout: Duration::from_secs(600),
            order_retry: Duration::from_secs(20),
        }
    }
}
