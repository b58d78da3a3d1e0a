//! What is known of a volunteer's conduct: whether it can be reached, what the server's own tests of it gave,
//! how it went away. Complaints only hasten a test; nothing but a test's outcome changes what it is given.

use std::time::Duration;

use super::capacity::Capacity;
use crate::model::{Blob, Time};
use crate::policy::inputs::{Outcome, Record};
use crate::policy::params::Params;

/// A test whose outcome was never told is not waited for any longer.
const LOST: Duration = Duration::from_secs(60);
/// The pause after the first failed test; it doubles up to `probe_retry`.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// Failed tests of one blob, after which only the connection is tested: it may not have that blob any more.
const SAMPLE_TRIES: u32 = 3;
/// Complaints do not make tests follow closer than this.
const CLOSEST: Duration = Duration::from_secs(2);
/// Nor do weaker signs closer than this: a busy volunteer's clients give them without meaning to.
const HASTENED: Duration = Duration::from_secs(5);

impl Record {
    /// Books that it went away without a word.
    pub fn vanish(&mut self, now: Time) {
        self.vanished = [Some(now), self.vanished[0]];
    }

    /// It is back. Gone for less than clients try on, it was not gone: a crashed process that is restarted.
    pub fn returned(&mut self, params: &Params, now: Time) {
        if self.vanished[0].is_some_and(|vanished| now.since(vanished) < params.client_patience) {
            self.vanished = [self.vanished[1], None];
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Untested,
    Reached,
    Failed,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Standing {
    pub record: Record,
    /// Why it is not used, in words.
    pub problem: Option<String>,
    /// Clients that asked again for what it should have sent.
    pub complaints: u64,
    /// Its administrator says that it comes and goes.
    pub is_declared_volatile: bool,
    pub capacity: Capacity,
    reach: Reach,
    is_slow: bool,
    failures: u32,
    /// When the last test began, until its outcome is known.
    probing: Option<Time>,
    /// The last test was of a blob; if it failed, only another of a blob can show that it is well.
    is_of_blob: bool,
    last_probe: Time,
    due: Time,
    /// To be tested though nobody was sent to it since the last test.
    is_hastened: bool,
    /// What it should be able to send: the last blob that a client was sent to it for.
    sample: Option<Blob>,
}

impl Standing {
    pub fn new(record: Record, complaints: u64, now: Time) -> Self {
        Self {
            record,
            problem: None,
            complaints,
            is_declared_volatile: false,
            capacity: Capacity::default(),
            reach: Reach::Untested,
            is_slow: false,
            failures: 0,
            probing: None,
            is_of_blob: false,
            last_probe: Time::default(),
            due: now,
            is_hastened: false,
            sample: None,
        }
    }

    /// What goes on over a new session: neither an open test nor a verdict ends by coming anew.
    pub fn rejoined(old: &Self, now: Time) -> Self {
        Self {
            capacity: old.capacity.rejoined(),
            is_slow: old.is_slow,
            failures: old.failures,
            last_probe: old.last_probe,
            sample: old.sample,
            problem: old.problem.clone(),
            ..Self::new(old.record, old.complaints, now)
        }
    }

    pub fn is_quarantined(&self, now: Time) -> bool {
        self.record.quarantined_until.is_some_and(|until| now < until)
    }

    pub fn is_untested(&self) -> bool {
        self.reach == Reach::Untested
    }

    pub fn is_unreachable(&self) -> bool {
        self.reach == Reach::Failed
    }

    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Whether it may go away at any moment: it says so itself, or it did so twice within `volatile_within`
    /// without a word, and has not been here long enough since. One such end is an accident.
    pub fn is_volatile(&self, params: &Params, connected: Time, now: Time) -> bool {
        now < self.volatile_until(params, connected)
    }

    /// Until when [`Self::is_volatile`] holds, if it stays.
    pub fn volatile_until(&self, params: &Params, connected: Time) -> Time {
        match self.record.vanished {
            _ if self.is_declared_volatile => Time::from_nanos(u64::MAX),
            [Some(last), Some(before)] if last.since(before) < params.volatile_within => {
                last.max(connected) + params.stable_after
            }
            _ => Time::default(),
        }
    }

    /// A client was sent to it.
    pub fn sent(&mut self, blob: Blob) {
        self.sample = Some(blob);
    }

    /// A client asked again for what it was sent to it for.
    pub fn doubted(&mut self, blob: Blob) {
        self.complaints += 1;
        self.sample = Some(blob);
        self.due = self.due.min(self.last_probe + CLOSEST);
    }

    /// Something speaks against it, though no client's complaint.
    pub fn hasten(&mut self) {
        self.is_hastened = true;
        self.due = self.due.min(self.last_probe + HASTENED);
    }

    /// Begins a test if it is time for one: of `Some` blob, or only of whether it can be reached.
    pub fn begin_probe(&mut self, now: Time) -> Option<Option<Blob>> {
        // A clock that was set back would let nothing be due for as long.
        self.due = self.due.min(now + LOST);
        let is_under_way = self.probing.is_some_and(|since| now.since(since) < LOST);
        let is_well = self.reach == Reach::Reached && !self.is_slow;
        // Nothing is tested that no client was sent to.
        let is_needed = !is_well || self.is_hastened || self.sample.is_some();
        if is_under_way || now < self.due || !is_needed {
            return None;
        }
        self.is_hastened = false;
        self.probing = Some(now);
        self.last_probe = now;
        // Being reached comes first; what to send is asked in the test after it.
        let may_send = self.reach == Reach::Reached || (self.reach == Reach::Failed && self.is_of_blob);
        let sample = self.sample.filter(|_| may_send);
        self.is_of_blob = sample.is_some();
        Some(sample)
    }

    /// Takes in how a test ended. `sharing` is how many downloads shared the line with it.
    pub fn probed(&mut self, params: &Params, outcome: Outcome, sharing: usize, now: Time) {
        self.probing = None;
        match outcome {
            // Without anything left to test it by, it has its chance again.
            Outcome::Reached => self.well(params, now, self.is_slow && self.sample.is_some()),
            Outcome::Good { bytes_per_sec } => {
                let alone = self.capacity.tested(params, bytes_per_sec, sharing, now);
                self.well(params, now, alone < params.slow_below);
                if self.is_slow {
                    self.problem = Some(format!("sends {:.1} kB/s", alone / 1000.0));
                    self.retry(params, now);
                } else {
                    self.sample = None;
                }
            }
            Outcome::Wrong { what } => {
                self.record.quarantined_until = Some(now + params.quarantine);
                self.problem = Some(what);
                self.retry(params, now);
            }
            Outcome::Failed { why } => {
                self.reach = Reach::Failed;
                self.capacity.failed();
                self.problem = Some(why);
                if self.failures >= SAMPLE_TRIES {
                    self.sample = None;
                }
                self.retry(params, now);
            }
        }
    }

    fn well(&mut self, params: &Params, now: Time, is_slow: bool) {
        self.reach = Reach::Reached;
        self.is_slow = is_slow;
        self.due = now + params.probe_every;
        if !is_slow {
            self.failures = 0;
            if !self.is_quarantined(now) {
                self.problem = None;
            }
        }
    }

    fn retry(&mut self, params: &Params, now: Time) {
        self.due = now + (FIRST_RETRY * 2_u32.saturating_pow(self.failures.min(8))).min(params.probe_retry);
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BlobId;

    const START: Time = Time::from_secs(1_800_000_000);
    const BLOB: Blob = Blob { id: BlobId([1; 32]), size: 1 << 20 };

    fn at(secs: u64) -> Time {
        START + Duration::from_secs(secs)
    }

    fn reached() -> Standing {
        let mut standing = Standing::new(Record::default(), 0, START);
        assert_eq!(standing.begin_probe(START), Some(None), "the connection is tested first");
        assert_eq!(standing.begin_probe(START), None, "one at a time");
        standing.probed(&Params::default(), Outcome::Reached, 0, START);
        standing
    }

    #[test]
    fn is_tested_only_when_used_and_at_once_when_doubted() {
        let params = Params::default();
        let mut standing = reached();
        assert_eq!(standing.begin_probe(at(1000)), None, "nobody was sent to it");
        standing.sent(BLOB);
        assert_eq!(standing.begin_probe(at(1)), None, "not yet");
        standing.doubted(BLOB);
        assert_eq!(standing.begin_probe(at(2)), Some(Some(BLOB)), "a complaint hastens it");
        standing.probed(&params, Outcome::Good { bytes_per_sec: 1e6 }, 0, at(2));
        standing.doubted(BLOB);
        assert_eq!(standing.begin_probe(at(3)), None, "many complaints are not many tests");
        assert_eq!(standing.begin_probe(at(4)), Some(Some(BLOB)));
        standing.probed(&params, Outcome::Good { bytes_per_sec: 1e6 }, 0, at(4));
        assert_eq!(standing.begin_probe(at(65)), None, "nobody was sent to it since");
    }

    #[test]
    fn slow_is_relative_to_what_shares_the_line() {
        let params = Params::default();
        let mut standing = reached();
        standing.probed(&params, Outcome::Good { bytes_per_sec: 1000.0 }, 0, START);
        assert!(standing.is_slow() && standing.problem.is_some());
        standing.probed(&params, Outcome::Good { bytes_per_sec: 1000.0 }, 200, START);
        assert!(!standing.is_slow() && standing.problem.is_none());
    }

    #[test]
    fn failures_back_off_and_wrong_bytes_stay() {
        let params = Params::default();
        let mut standing = reached();
        let mut now = START;
        for pause in [2, 4, 8, 16, 30, 30] {
            standing.probed(&params, Outcome::Failed { why: "refused".into() }, 0, now);
            assert!(standing.is_unreachable());
            let next = now + Duration::from_secs(pause);
            assert_eq!(standing.begin_probe(next - Duration::from_millis(1)), None, "{pause}");
            assert_eq!(standing.begin_probe(next), Some(None), "{pause}");
            now = next;
        }
        standing.probed(&params, Outcome::Wrong { what: "other bytes".into() }, 0, now);
        standing.probed(&params, Outcome::Reached, 0, now);
        assert!(standing.is_quarantined(now) && standing.problem.is_some());
        assert!(!standing.is_quarantined(now + params.quarantine));
    }

    #[test]
    fn who_vanishes_twice_is_volatile_until_it_has_stayed() {
        let params = Params::default();
        let stayed = params.stable_after.as_secs();
        let mut record = Record::default();
        let volatile = |record: Record, since, now| {
            Standing::new(record, 0, at(since)).is_volatile(&params, at(since), at(now))
        };
        assert!(!volatile(record, 0, 0));
        record.vanish(at(100));
        record.returned(&params, at(105));
        assert_eq!(record, Record::default(), "clients still tried");
        record.vanish(at(200));
        record.returned(&params, at(300));
        assert!(!volatile(record, 300, 300), "an accident");
        record.vanish(at(400));
        record.returned(&params, at(500));
        assert!(volatile(record, 500, 500) && volatile(record, 500, 499 + stayed));
        assert!(!volatile(record, 500, 500 + stayed));
    }
}
