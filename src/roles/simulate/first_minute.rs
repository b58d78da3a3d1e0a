//! The first minute of a run, and the server's line while somebody waits elsewhere.
//!
//! Figures of whole runs say nothing of the moment when a crowd comes and nobody has a copy yet. The minute begins with
//! the first request, warm-up or not, and has the downloads that begin within it, however long they take.
//!
//! What they could have taken is told by one line as fast as all lines together: whatever its order, somebody waits for
//! the most that it ever had to send, divided by its rate; and nobody gets a file faster than alone.

use super::engine::{Nanos, SECOND, secs};
use super::figures::Download;
use super::line::Line;
use super::stats::quantile;

const MINUTE: Nanos = 60 * SECOND;

/// A download that began within the minute.
#[derive(Clone, Copy, Debug)]
struct Early {
    asked: Nanos,
    size: u64,
    seconds: f64,
    slowdown: f64,
}

/// What the minute was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub time_p90: f64,
    /// Below this no longest download can be, in seconds.
    pub bound: f64,
    pub slowdown_p99: f64,
    /// See [`Idle`].
    pub idle: f64,
    /// The same of the whole run.
    pub idle_always: f64,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct FirstMinute {
    downloads: Vec<Early>,
    pub idle: Idle,
}

impl FirstMinute {
    pub fn new(lines: usize, least: f64) -> Self {
        Self { downloads: Vec::new(), idle: Idle::new(lines, least) }
    }

    /// A download that was asked for then; `first` is the first request.
    pub fn ended(&mut self, download: &Download, asked: Nanos, first: Nanos) {
        if asked < first + MINUTE {
            let Download { seconds, alone, size, .. } = *download;
            self.downloads.push(Early { asked, size, seconds, slowdown: seconds / alone });
        }
    }

    /// All lines together carry `rate`, and one client gets at most `fastest`.
    pub fn summary(&mut self, (first, last): (Nanos, Nanos), rate: f64, fastest: f64) -> Summary {
        self.downloads.sort_by_key(|download| download.asked);
        let quantile_of = |value: fn(&Early) -> f64, q| {
            let mut values: Vec<f32> = self.downloads.iter().map(|one| value(one) as f32).collect();
            values.sort_by(f32::total_cmp);
            quantile(&values, q)
        };
        let span = secs(last.saturating_sub(first));
        let share = |idle: f64, of: f64| if of > 0.0 { idle / of } else { 0.0 };
        Summary {
            time_p90: quantile_of(|one| one.seconds, 0.9),
            bound: self.longest_of_one_line(rate).max(self.longest_alone(fastest)),
            slowdown_p99: quantile_of(|one| one.slowdown, 0.99),
            idle: share(self.idle.early, span.min(secs(MINUTE))),
            idle_always: share(self.idle.always, span),
        }
    }

    /// Seconds that the most takes which one line had to send at a time. Served in the order of arrival that is the
    /// longest download, and in any other order one takes as long. Of downloads in that order.
    fn longest_of_one_line(&self, rate: f64) -> f64 {
        let (mut free, mut longest) = (0.0_f64, f64::NAN);
        for one in &self.downloads {
            let asked = secs(one.asked);
            free = free.max(asked) + one.size as f64 / rate;
            longest = longest.max(free - asked);
        }
        longest
    }

    fn longest_alone(&self, fastest: f64) -> f64 {
        self.downloads.iter().map(|one| one.size as f64 / fastest).fold(f64::NAN, f64::max)
    }
}

/// Integral of the idle part of the server's line over the time when some client got less than `least` of the line that
/// it was sent to: in seconds of the whole line.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Bytes/s.
    least: f64,
    /// Lines whose clients get less.
    is_slow: Vec<bool>,
    slow_lines: usize,
    /// Part of the server's line that nobody uses.
    unused: f64,
    since: Nanos,
    early: f64,
    always: f64,
}

impl Idle {
    fn new(lines: usize, least: f64) -> Self {
        let (slow_lines, since) = (0, 0);
        Self { least, is_slow: vec![false; lines], slow_lines, unused: 1.0, since, early: 0.0, always: 0.0 }
    }

    /// What a line does from now on; line 0 is the server's.
    pub fn look(&mut self, index: u32, line: &Line, first: Option<Nanos>, now: Nanos) {
        self.advance(first.map_or(0, |first| first + MINUTE), now);
        let is_slow = line.share().is_some_and(|share| share < self.least);
        match (std::mem::replace(&mut self.is_slow[index as usize], is_slow), is_slow) {
            (false, true) => self.slow_lines += 1,
            (true, false) => self.slow_lines -= 1,
            _ => {}
        }
        if index == 0 {
            self.unused = (1.0 - line.used()).max(0.0);
        }
    }

    fn advance(&mut self, minute_ends: Nanos, now: Nanos) {
        if self.slow_lines > 0 {
            self.always += self.unused * secs(now - self.since);
            self.early += self.unused * secs(now.min(minute_ends).saturating_sub(self.since));
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Kind;
    use super::*;

    fn minute(downloads: &[(f64, u64, f64)]) -> FirstMinute {
        let mut minute = FirstMinute::new(2, 100.0);
        for (asked, size, seconds) in downloads {
            let (asked, alone) = ((asked * SECOND as f64) as Nanos, *size as f64 / 50.0);
            let download = Download { seconds: *seconds, alone, size: *size, ..Download::default() };
            minute.ended(&download, asked, SECOND);
        }
        minute
    }

    #[test]
    fn the_bound_of_downloads_at_once_is_their_bytes_over_all_rates() {
        let mut downloads = vec![(1.0, 500, 2.0); 40];
        let summary = |downloads: &[_]| minute(downloads).summary((SECOND, 300 * SECOND), 1000.0, 800.0);
        assert_eq!(summary(&downloads).bound, 20.0);
        // Those that come when the line is free again change nothing, whatever comes before them in the list.
        downloads.insert(0, (41.0, 500, 2.0));
        assert_eq!(summary(&downloads).bound, 20.0);
        // Who comes in between waits for what is left.
        downloads.push((11.0, 11_000, 2.0));
        assert_eq!(summary(&downloads).bound, 21.0);
        assert_eq!(summary(&[(1.0, 4000, 2.0)]).bound, 5.0, "nobody is faster than alone");
        assert!(summary(&[]).bound.is_nan() && summary(&[]).time_p90.is_nan());
    }

    #[test]
    fn only_what_begins_within_the_minute_counts() {
        let mut downloads: Vec<_> = (0..10).map(|n| (1.0 + 6.0 * f64::from(n), 100, f64::from(n))).collect();
        downloads.push((61.0, 100, 1000.0));
        let summary = minute(&downloads).summary((SECOND, 300 * SECOND), 1000.0, 800.0);
        assert_eq!((summary.time_p90, summary.slowdown_p99), (8.0, 4.5));
    }

    #[test]
    fn the_server_is_idle_only_while_somebody_gets_less() {
        let mut minute = FirstMinute::new(2, 100.0);
        let (mut server, mut slow) =
            (Line::new(1000.0, f64::INFINITY, None), Line::new(150.0, f64::INFINITY, Some(0.2)));
        let (first, idle) = (Some(0), &mut minute.idle);
        slow.add(Kind::Client, 1, 1e6, 0);
        idle.look(1, &slow, first, 0);
        // From here two share 150.
        slow.add(Kind::Client, 2, 1e6, 10 * SECOND);
        idle.look(1, &slow, first, 10 * SECOND);
        server.add(Kind::Client, 3, 1e6, 40 * SECOND);
        idle.look(0, &server, first, 40 * SECOND);
        server.clear(50 * SECOND);
        idle.look(0, &server, first, 50 * SECOND);
        slow.remove(Kind::Client, 2, 80 * SECOND);
        idle.look(1, &slow, first, 80 * SECOND);
        idle.look(0, &server, first, 100 * SECOND);
        let summary = minute.summary((0, 100 * SECOND), 1.0, 1.0);
        assert_eq!((summary.idle, summary.idle_always), (40.0 / 60.0, 0.6));
    }
}
