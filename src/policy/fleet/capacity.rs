//! What a volunteer's line carries: never more than is donated, less where that was seen.
//!
//! What clients got proves nothing by itself: the slow ones may have been the clients. Two things prove
//! something: a test of the server's own that got little while others shared the line; and many downloads
//! that got far less together, with what a test got besides, than the line should carry. An estimate that
//! was lowered rises again by itself, so that no mistake lasts.

use std::time::Duration;

use crate::model::Time;
use crate::policy::inputs::Load;
use crate::policy::params::Params;

/// How much a line is believed to carry more after a test that went well.
const RELAX: f64 = 2.0;
/// Downloads that must run all the time for their sum to say something.
const MANY: u32 = 4;
/// A sum below this share of the estimate is far below it...
const FAR: f64 = 0.5;
/// ... and once it was, one below this still speaks against it.
const NEAR: f64 = 0.9;
/// Reports that follow closer than this say nothing of a rate.
const SHORTEST: Duration = Duration::from_secs(1);
/// Tests that a volunteer passes before it is given its full share.
const ENOUGH_TESTS: u8 = 3;
/// Until then it is considered every other time.
const SLOW_START: f32 = 0.5;

/// See the module's documentation. Rates in bytes/s.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Capacity {
    /// Where a test among others showed that it is less than donated.
    carries: Option<f64>,
    /// Where many downloads did.
    busy: Option<f64>,
    /// What the last test got.
    test: Option<(f64, Time)>,
    passed: u8,
    report: Option<Report>,
}

/// Of the last heartbeat.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Report {
    at: Time,
    served: u64,
    uploads: u32,
}

impl Capacity {
    /// What goes on over a new session: its counters begin anew.
    pub fn rejoined(self) -> Self {
        Self { report: None, ..self }
    }

    /// What it sends at most, of `donated`.
    pub fn rate(&self, donated: f64) -> f64 {
        let least = [self.carries, self.busy].into_iter().flatten().fold(donated, f64::min);
        least.max(1.0)
    }

    /// How often it is considered beside those that are known well.
    pub fn turns(&self) -> f32 {
        if self.passed < ENOUGH_TESTS { SLOW_START } else { 1.0 }
    }

    /// A test got so much while `sharing` downloads ran; returns what one alone would have got.
    pub fn tested(&mut self, params: &Params, bytes_per_sec: f64, sharing: usize, now: Time) -> f64 {
        let alone = bytes_per_sec * (sharing + 1) as f64;
        self.carries = match self.carries {
            _ if sharing > 0 && bytes_per_sec < params.least_share => Some(alone),
            carries => carries.map(|carries| carries * RELAX),
        };
        self.test = Some((bytes_per_sec, now));
        if alone >= params.slow_below {
            self.passed = (self.passed + 1).min(ENOUGH_TESTS);
        }
        alone
    }

    /// A test failed: it is not known any more.
    pub fn failed(&mut self) {
        self.passed = 0;
    }

    /// Takes in a heartbeat.
    pub fn reported(&mut self, params: &Params, donated: f64, load: &Load, now: Time) {
        let report = Report { at: now, served: load.served_bytes, uploads: load.uploads };
        let before = self.report.replace(report);
        let Some(before) = before.filter(|before| before.served <= report.served) else { return };
        let span = now.since(before.at);
        if span < SHORTEST {
            self.report = Some(before);
            return;
        }
        let sent = (report.served - before.served) as f64 / span.as_secs_f64();
        let rate = self.rate(donated);
        let below = if self.busy.is_some() { NEAR } else { FAR };
        // What one download more would get is seen by the server alone.
        let is_recent = |at: Time| now.since(at) <= params.probe_every * 3;
        let seen = self.test.filter(|(_, at)| is_recent(*at)).map(|(test, _)| sent + test);
        match seen {
            Some(seen) if before.uploads.min(report.uploads) >= MANY && seen < below * rate => {
                self.busy = Some(towards(rate, seen, span, params.busy_falls));
            }
            _ => {
                // By a share of itself: towards what is donated it would double at once for who claims too much.
                let growth = (span.as_secs_f64() / params.busy_rises.as_secs_f64()).exp();
                let risen = self.busy.map(|busy| busy.max(sent) * growth);
                self.busy = risen.filter(|busy| *busy < 0.99 * donated);
            }
        }
    }
}

/// Exponential approach with time constant `tau`.
fn towards(from: f64, to: f64, span: Duration, tau: Duration) -> f64 {
    to + (from - to) * (-span.as_secs_f64() / tau.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Time = Time::from_secs(1_800_000_000);

    /// Heartbeats of a line that carries `line`, shared by downloads of which each takes `each` at most.
    fn run(capacity: &mut Capacity, donated: f64, line: f64, uploads: u32, each: f64, secs: Range) {
        let params = Params::default();
        for sec in (secs.0..secs.1).step_by(5) {
            let now = START + Duration::from_secs(sec);
            let share = (line / f64::from(uploads.max(1))).min(each);
            let (sent, idle) = (share * f64::from(uploads), line - share * f64::from(uploads));
            if sec % 20 == 0 && uploads > 0 {
                // A test takes what is idle, or its share.
                let test = idle.max(line / f64::from(uploads + 1));
                capacity.tested(&params, test, uploads as usize, now);
            }
            let served = capacity.report.map_or(0, |report| report.served) + (sent * 5.0) as u64;
            let load = Load { uploads, served_bytes: served, ..Load::default() };
            capacity.reported(&params, donated, &load, now);
        }
    }

    type Range = (u64, u64);

    proptest! {
        /// Who claims up to twenty times what it has is found out within minutes, and believed again later.
        #[test]
        fn a_lie_is_found_out_and_forgiven(line in 1e6..1e8f64, lie in 3.0..20.0f64, uploads in 8u32..60) {
            let mut capacity = Capacity::default();
            run(&mut capacity, line * lie, line, uploads, f64::INFINITY, (0, 600));
            let found = capacity.rate(line * lie);
            prop_assert!((0.7 * line..1.4 * line).contains(&found), "{found} of {line}");
            run(&mut capacity, line * lie, line * lie, uploads, f64::INFINITY, (600, 1200));
            prop_assert!(capacity.rate(line * lie) > 0.9 * line * lie, "{capacity:?}");
        }

        /// However slow the clients are, the line is not.
        #[test]
        fn slow_clients_prove_nothing(line in 1e6..1e8f64, uploads in 0u32..60, share in 0.01..0.4f64) {
            let mut capacity = Capacity::default();
            let each = line * share / f64::from(uploads.max(1));
            run(&mut capacity, line, line, uploads, each, (0, 1200));
            prop_assert_eq!(capacity.rate(line), line);
        }
    }

    #[test]
    fn a_lowered_estimate_rises_while_nothing_runs() {
        let mut capacity = Capacity::default();
        run(&mut capacity, 1e8, 1e7, 20, f64::INFINITY, (0, 600));
        let low = capacity.rate(1e8);
        assert!(low < 1.5e7, "{low}");
        run(&mut capacity, 1e8, 1e7, 0, f64::INFINITY, (600, 600 + 3600));
        assert!(capacity.rate(1e8) > 0.9e8, "{capacity:?}");
    }

    #[test]
    fn is_known_after_three_tests() {
        let params = Params::default();
        let mut capacity = Capacity::default();
        for _ in 0..3 {
            assert_eq!(capacity.turns(), 0.5);
            capacity.tested(&params, 1e6, 0, START);
        }
        assert_eq!(capacity.turns(), 1.0);
        capacity.failed();
        assert_eq!(capacity.turns(), 0.5);
    }
}
