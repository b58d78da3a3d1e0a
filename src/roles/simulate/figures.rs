//! What a run is measured by: counters and samples while it goes, figures at its end, curves for plots.

use serde::Serialize;

use super::engine::{Nanos, SECOND, secs};
use super::first_minute::Summary;
use super::stats::{jain, mean, quantile};

/// The figures of a run, in the order of the report. Shares are of 1, times in seconds.
pub const NAMES: [&str; 30] = [
    "offload_bytes",
    "offload_requests",
    "balance_p99",
    "jain",
    "jain_run",
    "peak_use",
    "makespan",
    "fluid_bound",
    "makespan_ratio",
    "time_mean",
    "time_p50",
    "time_p95",
    "time_p99",
    "time_max",
    "slowdown_mean",
    "slowdown_p99",
    "first_minute_p90",
    "first_minute_bound",
    "first_minute_ratio",
    "first_minute_slowdown_p99",
    "first_minute_idle_origin",
    "retries",
    "stalls",
    "wasted",
    "sync",
    "origin_bytes",
    "idle_origin",
    "found",
    "detection",
    "downloads",
];

/// What a figure means, for the report.
pub fn meaning(name: &str) -> &'static str {
    match name {
        "offload_bytes" => "share of the package bytes that volunteers sent",
        "offload_requests" => "share of the downloads that a volunteer ended",
        "balance_p99" => "max/mean of bytes over rate, 99th percentile of 60 s windows",
        "jain" => "Jain's index of bytes over rate, mean of 60 s windows",
        "jain_run" => "Jain's index of bytes over rate, whole run",
        "peak_use" => "most that a volunteer sent in 60 s to clients and volunteers, over its rate",
        "makespan" => "first request to last byte, s",
        "fluid_bound" => "what it would be if all lines were one and always full, s",
        "makespan_ratio" => "makespan over its bound",
        "time_mean" => "download time, mean, s",
        "time_p50" => "download time, median, s",
        "time_p95" => "download time, 95th percentile, s",
        "time_p99" => "download time, 99th percentile, s",
        "time_max" => "download time, longest, s",
        "slowdown_mean" => "download time over that on an idle line of the mean rate, mean",
        "slowdown_p99" => "download time over that on an idle line of the mean rate, 99th percentile",
        "first_minute_p90" => {
            "download time of those that began within 60 s of the first request, 90th percentile, s"
        }
        "first_minute_bound" => "the longest of these at least, if all lines were one and always full, s",
        "first_minute_ratio" => "first_minute_p90 over its bound",
        "first_minute_slowdown_p99" => "slowdown of those that began within 60 s, 99th percentile",
        "first_minute_idle_origin" => "idle_origin of the first 60 s",
        "retries" => "share of the downloads whose client had to try again",
        "stalls" => "share of the downloads that stood still for 30 s",
        "wasted" => "bytes sent in vain, over all",
        "sync" => "bytes of copies to volunteers, over those sent to clients",
        "origin_bytes" => "sent by the server, copies included, over those sent to clients",
        "idle_origin" => "share of the server's line that was idle while a client got less than min_share",
        "found" => "share of the volunteers that send wrong bytes which were quarantined",
        "detection" => "first request to the last of their quarantines, or to the end if one is missing, s",
        "downloads" => "downloads measured",
        _ => "",
    }
}

/// The span over which balance is measured.
pub const WINDOW: Nanos = 60 * SECOND;
/// A download without progress for this long is stalled.
pub const STALL: Nanos = 30 * SECOND;
/// Bins of a curve at most; then pairs are joined.
const MAX_BINS: usize = 240;
/// Rows of the picture of volunteers at most.
const MAX_ROWS: usize = 100;
/// Points of a distribution.
const POINTS: usize = 200;

/// Figures of one run, in the order of [`NAMES`]; NaN where there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures(pub [f64; NAMES.len()]);

impl Figures {
    pub fn get(&self, name: &str) -> f64 {
        NAMES.iter().position(|known| *known == name).map_or(f64::NAN, |index| self.0[index])
    }
}

/// A download that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Download {
    pub seconds: f64,
    /// What it would have taken alone on a line of the mean rate.
    pub alone: f64,
    pub size: u64,
    /// Of it, by volunteers.
    pub by_volunteers: u64,
    /// A volunteer sent the last byte.
    pub is_volunteers: bool,
    pub is_retried: bool,
    pub is_stalled: bool,
}

/// Counters of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    times: Vec<f32>,
    slowdowns: Vec<f32>,
    bytes: u64,
    by_volunteers: u64,
    ended_by_volunteers: u64,
    retried: u64,
    stalled: u64,
    /// Max/mean and Jain's index of each window.
    windows: Vec<(f64, f64)>,
    peak_use: Option<f64>,
}

/// What only the end of a run tells.
#[derive(Clone, Debug)]
pub struct Totals {
    pub first_request: Nanos,
    pub last_byte: Nanos,
    pub fluid_bound: f64,
    /// Bytes sent to clients, to volunteers, by the server, and in vain.
    pub to_clients: f64,
    pub to_volunteers: f64,
    pub by_server: f64,
    pub wasted: f64,
    /// When each volunteer that sends wrong bytes was quarantined.
    pub found: Vec<Option<Nanos>>,
    pub early: Summary,
}

impl Tally {
    pub fn ended(&mut self, download: &Download) {
        self.times.push(download.seconds as f32);
        self.slowdowns.push((download.seconds / download.alone) as f32);
        self.bytes += download.size;
        self.by_volunteers += download.by_volunteers;
        self.ended_by_volunteers += u64::from(download.is_volunteers);
        self.retried += u64::from(download.is_retried);
        self.stalled += u64::from(download.is_stalled);
    }

    /// The use of each volunteer that was there for a whole window: bytes over what its rate allows.
    pub fn window(&mut self, uses: &[f64], peak_use: f64) {
        let mean = mean(uses.iter().copied());
        let most = uses.iter().copied().fold(0.0, f64::max);
        self.peak_use = Some(self.peak_use.map_or(peak_use, |before| before.max(peak_use)));
        if mean > 0.0 {
            self.windows.push((most / mean, jain(uses)));
        }
    }

    /// `uses` is the use of each volunteer over the whole run.
    pub fn figures(&mut self, uses: &[f64], totals: &Totals) -> Figures {
        self.times.sort_by(f32::total_cmp);
        self.slowdowns.sort_by(f32::total_cmp);
        let count = self.times.len() as f64;
        let mut spreads: Vec<f32> = self.windows.iter().map(|(spread, _)| *spread as f32).collect();
        spreads.sort_by(f32::total_cmp);
        let makespan = secs(totals.last_byte.saturating_sub(totals.first_request));
        let mean_of = |values: &[f32]| mean(values.iter().map(|value| f64::from(*value)));
        let time = |q| quantile(&self.times, q);
        let (sent, early) = (totals.to_clients.max(1.0), &totals.early);
        let found = totals.found.iter().flatten().count() as f64;
        // Who is never found is not found for as long as the run goes.
        let until = |found: &Option<Nanos>| found.unwrap_or(totals.last_byte.max(totals.first_request));
        let last_found = totals.found.iter().map(until).max();
        let detection = last_found.map(|found| secs(found.saturating_sub(totals.first_request)));
        Figures([
            self.by_volunteers as f64 / self.bytes as f64,
            self.ended_by_volunteers as f64 / count,
            quantile(&spreads, 0.99),
            mean(self.windows.iter().map(|(_, jain)| *jain)),
            jain(uses),
            self.peak_use.unwrap_or(f64::NAN),
            makespan,
            totals.fluid_bound,
            makespan / totals.fluid_bound,
            mean_of(&self.times),
            time(0.5),
            time(0.95),
            time(0.99),
            time(1.0),
            mean_of(&self.slowdowns),
            quantile(&self.slowdowns, 0.99),
            early.time_p90,
            early.bound,
            early.time_p90 / early.bound,
            early.slowdown_p99,
            early.idle,
            self.retried as f64 / count,
            self.stalled as f64 / count,
            totals.wasted / (totals.to_clients + totals.to_volunteers).max(1.0),
            totals.to_volunteers / sent,
            totals.by_server / sent,
            early.idle_always,
            found / totals.found.len() as f64,
            detection.unwrap_or(f64::NAN),
            count,
        ])
    }

    /// Download times at evenly spread shares, for a plot; after [`Self::figures`] has sorted them.
    pub fn distribution(&self) -> Vec<f64> {
        (0..=POINTS).map(|point| quantile(&self.times, point as f64 / POINTS as f64)).collect()
    }
}

/// Curves over time: bytes in bins of one width, which doubles when there are too many.
#[derive(Clone, Debug, Serialize)]
pub struct Curves {
    /// Width of a bin in seconds.
    pub bin: f64,
    /// Bytes/s to clients by volunteers and by the server, and of copies.
    pub volunteers: Vec<f64>,
    pub server: Vec<f64>,
    pub copies: Vec<f64>,
    /// Use of volunteers, 0 to 1: a row for each, or for some that are next to each other in rate.
    pub uses: Vec<Vec<f64>>,
}

/// Bytes since the last bin.
#[derive(Clone, Debug)]
pub struct Sample {
    pub volunteers: f64,
    pub server: f64,
    pub copies: f64,
    /// Bytes to clients and the rate of each volunteer, in the order of rates.
    pub nodes: Vec<(f64, f64)>,
}

impl Default for Curves {
    fn default() -> Self {
        Self { bin: 1.0, volunteers: vec![], server: vec![], copies: vec![], uses: vec![] }
    }
}

impl Curves {
    pub fn width(&self) -> Nanos {
        (self.bin * SECOND as f64) as Nanos
    }

    pub fn push(&mut self, sample: &Sample) {
        self.volunteers.push(sample.volunteers / self.bin);
        self.server.push(sample.server / self.bin);
        self.copies.push(sample.copies / self.bin);
        let group = sample.nodes.len().div_ceil(MAX_ROWS).max(1);
        self.uses.resize(sample.nodes.len().div_ceil(group), vec![]);
        for (row, nodes) in self.uses.iter_mut().zip(sample.nodes.chunks(group)) {
            let (bytes, rate) = nodes.iter().fold((0.0, 0.0), |(b, r), node| (b + node.0, r + node.1));
            row.push(bytes / (rate * self.bin));
        }
        if self.volunteers.len() == MAX_BINS {
            self.bin *= 2.0;
            let curves = [&mut self.volunteers, &mut self.server, &mut self.copies];
            for curve in curves.into_iter().chain(&mut self.uses) {
                *curve = curve.chunks(2).map(|pair| mean(pair.iter().copied())).collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn download(seconds: f64, by_volunteers: u64) -> Download {
        let (is_volunteers, size) = (by_volunteers > 0, 100);
        Download {
            seconds,
            alone: 2.0,
            size,
            by_volunteers,
            is_volunteers,
            is_retried: false,
            is_stalled: false,
        }
    }

    #[test]
    fn figures_are_named_and_right() {
        let mut tally = Tally::default();
        tally.ended(&download(2.0, 100));
        tally.ended(&download(6.0, 0));
        tally.ended(&Download { is_retried: true, ..download(4.0, 50) });
        tally.window(&[0.5, 0.5, 0.8], 0.8);
        let totals = Totals {
            first_request: SECOND,
            last_byte: 11 * SECOND,
            fluid_bound: 8.0,
            to_clients: 310.0,
            to_volunteers: 90.0,
            by_server: 155.0,
            wasted: 10.0,
            found: vec![Some(3 * SECOND), None, Some(5 * SECOND), Some(2 * SECOND)],
            early: Summary { time_p90: 6.0, bound: 4.0, slowdown_p99: 3.0, idle: 0.25, idle_always: 0.125 },
        };
        let figures = tally.figures(&[1.0, 1.0], &totals);
        for (name, want) in [
            ("offload_bytes", 0.5),
            ("offload_requests", 2.0 / 3.0),
            ("balance_p99", 0.8 / 0.6),
            ("jain_run", 1.0),
            ("peak_use", 0.8),
            ("makespan", 10.0),
            ("makespan_ratio", 1.25),
            ("time_p50", 4.0),
            ("time_max", 6.0),
            ("slowdown_mean", 2.0),
            ("first_minute_p90", 6.0),
            ("first_minute_ratio", 1.5),
            ("first_minute_slowdown_p99", 3.0),
            ("first_minute_idle_origin", 0.25),
            ("idle_origin", 0.125),
            ("retries", 1.0 / 3.0),
            ("stalls", 0.0),
            ("wasted", 0.025),
            ("origin_bytes", 0.5),
            ("found", 0.75),
            ("detection", 10.0),
            ("downloads", 3.0),
        ] {
            assert!((figures.get(name) - want).abs() < 1e-6, "{name}: {} is not {want}", figures.get(name));
        }
        assert!(NAMES.iter().all(|name| !meaning(name).is_empty()));
    }

    #[test]
    fn curves_join_bins_and_rows() {
        let mut curves = Curves::default();
        for _ in 0..MAX_BINS {
            let nodes = vec![(5.0, 10.0); 250];
            curves.push(&Sample { volunteers: 100.0, server: 10.0, copies: 0.0, nodes });
        }
        assert_eq!((curves.bin, curves.volunteers.len(), curves.uses.len()), (2.0, MAX_BINS / 2, 84));
        assert_eq!((curves.volunteers[3], curves.uses[83][0]), (100.0, 0.5));
    }
}
