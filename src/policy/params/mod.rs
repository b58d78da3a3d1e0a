//! The parameters of balancing and placement, each with its reason. Starting values of reference policy
//! section E; the simulator sweeps them.

use std::time::Duration;

/// See each field.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Fixed heartbeat period.
    pub heartbeat: Duration,
    /// A volunteer silent for this long is suspect: one heartbeat is missing, and half a period to be late.
    pub stale_after: Duration,
    /// A volunteer silent for this long is out: the next one is missing too.
    pub dead_after: Duration,
    /// A client that asks for the same file again within this time was not served where it was sent.
    pub asker_window: Duration,
    /// Redirects of one client for one file within the window; then the server serves it.
    pub asker_tries: usize,
    /// A volunteer that went away without a word twice within this time is volatile...
    pub volatile_within: Duration,
    /// ... until it has stayed for this long.
    pub stable_after: Duration,
    /// Clients go on trying a machine that refuses them for so long (apt: 7 s).
    pub client_patience: Duration,
    /// The server tests a volunteer that clients are sent to this often: one that has become slow loses its
    /// share within three of these.
    pub probe_every: Duration,
    /// Longest pause between tests of one that failed.
    pub probe_retry: Duration,
    /// One that would send a single download slower than this, in bytes/s, is left out.
    pub slow_below: f64,
    /// How long one that sent wrong bytes gets nothing.
    pub quarantine: Duration,
    /// Weight of the delay that a new download inflicts on the running ones.
    pub beta: f64,
    /// Weight of what a volunteer has been given lately, in seconds of its line, and how long that counts: the
    /// fast would carry all else, and the slow nothing, until a crowd comes.
    pub fairness: f64,
    pub fairness_window: Duration,
    /// All holders are scored up to this many; of more, `sample` are drawn by rate.
    pub score_all_up_to: usize,
    pub sample: usize,
    /// A volunteer that could give a new download less than this, in bytes/s, is saturated.
    pub least_share: f64,
    /// Nobody is sent to a holder that takes more than so many times as long as the idle server would, which is
    /// taken to give each client `patience` times this share, in bytes/s, unless its line is slower: so
    /// nobody gets less than this share while the server is at leisure, of a file that its credit is enough for.
    pub patience: f64,
    pub min_share: f64,
    /// So many seconds of its line the server gives clients who have a holder, and a little of its line more in the
    /// long run: enough for the first minute of a crowd, and little of the whole.
    pub credit: Duration,
    /// Smaller files stay at the server while it is less than `small_file_load` busy: the redirect's round
    /// trip would cost more than the bytes.
    pub small_file: u64,
    pub small_file_load: f64,
    /// What the server's own line carries, in bytes/s.
    pub uplink: f64,
    /// With every holder saturated, the server serves while its own load is below this.
    pub origin_load: f64,
    /// Beyond that too, where holders would take so many times as long as its own queue, while that is short:
    /// nobody should wait for minutes beside a line that is free in seconds.
    pub rescue: f64,
    pub rescue_queue: Duration,
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
    /// Share of a donated rate that copying to other volunteers may take while clients download: they
    /// should notice little. With the server nearly full copies help them more.
    pub sync_share: f64,
    pub busy_sync_share: f64,
    /// Time constants of a rate estimate by what many downloads got: it falls within a crowd's first minute,
    /// and rises again so slowly that one who lies is not believed anew at once.
    pub busy_falls: Duration,
    pub busy_rises: Duration,
    /// A volunteer that was present for less is on probation.
    pub probation: Duration,
    /// Lifetimes of sessions: Weibull shape and scale, fitted to a Debian torrent.
    pub session_shape: f64,
    pub session_scale: Duration,
    /// A client that could not come back is not sent to one of unknown staying that ends, as likely as
    /// this, before the download does.
    pub break_risk: f64,
    /// Half-life of the long demand counters: what is asked for every day stays known, last week's does not.
    pub demand_long_half_life: Duration,
    /// For so long a release is new: volatile volunteers take its files, and requests for them may be its crowd.
    pub new_for: Duration,
    /// A volunteer on probation takes files up to this size only: little is lost with it.
    pub probation_size: u64,
    /// Requests that one copy must be expected to serve, or its transfer costs more than it spares.
    pub payback: f64,
    /// What a copy is expected to live: demand beyond it pays nothing back.
    pub copy_life: Duration,
    /// So long a copy whose volunteer is gone is waited for, unless its file is hot and nearly without.
    pub repair_after: Duration,
    /// What a volunteer has not spent of its sync share is kept for so long: a release comes at once.
    pub sync_window: Duration,
    /// What the server itself sends for copies, in bytes/s in the long run: 100 Mbit/s.
    pub origin_sync: f64,
    /// From this load of the server on, copies are made from any other copy.
    pub peer_load: f64,
    /// Copies of one blob that are fetched at a time from one holder, and from the server: copies then double
    /// rather than wait in one queue.
    pub fan_out: usize,
    pub origin_fan: usize,
    /// A copy that no demand asks for is made only where less than this of the store is in use.
    pub spare_room: f64,
    /// From this use of a store on, what nobody asks for goes before more comes.
    pub evict_above: f64,
    /// Requests are counted in slots of this length. A crowd is told of after `burst_slots` and at most one
    /// more, so within 15 s; the model's 20 s would take a minute, when most of a release's crowd has passed.
    pub slot: Duration,
    pub burst_slots: u32,
    /// A slot is of a burst with so many standard deviations over the forecast, and at least so many requests
    /// for a file, or for the files of a release: a handful is no crowd.
    pub burst_sigmas: f64,
    pub burst_requests: u32,
    pub burst_release: u32,
    /// A crowd is over after so long at the usual rate.
    pub crowd_quiet: Duration,
    /// Volunteers pass on what they are still fetching.
    pub cut_through: bool,
    /// A generation waits for the copies of its hot files so long at most.
    pub gate_wait: Duration,
    /// Share of a release's files that counts as likely hot, by the demand for their predecessors.
    pub gate_share: f64,
    /// Bytes of hot files that a release waits for at most.
    pub gate_bytes: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            stale_after: Duration::from_millis(7500),
            dead_after: Duration::from_millis(12_500),
            asker_window: Duration::from_secs(60),
            asker_tries: 2,
            volatile_within: Duration::from_secs(86_400),
            stable_after: Duration::from_secs(5 * 3600),
            client_patience: Duration::from_secs(6),
            probe_every: Duration::from_secs(20),
            probe_retry: Duration::from_secs(30),
            slow_below: 100_000.0,
            quarantine: Duration::from_secs(7 * 86_400),
            beta: 1.0,
            fairness: 1.0,
            fairness_window: Duration::from_secs(30),
            score_all_up_to: 16,
            sample: 8,
            least_share: 128_000.0,
            patience: 2.0,
            min_share: 1_048_576.0,
            credit: Duration::from_secs(5),
            small_file: 32 << 10,
            small_file_load: 0.5,
            uplink: 125_000_000.0,
            origin_load: 0.8,
            rescue: 16.0,
            rescue_queue: Duration::from_secs(5),
            report_lag: Duration::from_secs(2),
            demand_half_life: Duration::from_secs(600),
            target_utilisation: 0.7,
            hot_requests: 3.0,
            hot_copies: 3,
            max_orders: 4096,
            order_timeout: Duration::from_secs(600),
            order_retry: Duration::from_secs(20),
            sync_share: 0.2,
            busy_sync_share: 0.5,
            busy_falls: Duration::from_secs(20),
            busy_rises: Duration::from_secs(1200),
            probation: Duration::from_secs(15 * 60),
            session_shape: 0.38,
            session_scale: Duration::from_secs(2544),
            break_risk: 0.05,
            demand_long_half_life: Duration::from_secs(86_400),
            new_for: Duration::from_secs(72 * 3600),
            probation_size: 8 << 20,
            payback: 2.0,
            copy_life: Duration::from_secs(86_400),
            repair_after: Duration::from_secs(86_400),
            sync_window: Duration::from_secs(300),
            origin_sync: 12_500_000.0,
            peer_load: 0.1,
            fan_out: 2,
            origin_fan: 4,
            spare_room: 0.8,
            evict_above: 0.9,
            slot: Duration::from_secs(5),
            burst_slots: 2,
            burst_sigmas: 3.0,
            burst_requests: 8,
            burst_release: 20,
            crowd_quiet: Duration::from_secs(30),
            cut_through: true,
            gate_wait: Duration::from_secs(120),
            gate_share: 0.2,
            gate_bytes: 4 << 30,
        }
    }
}
