//! Crowds of made-up requests, second by second.

use super::*;
use crate::model::{Rate, Size};
use crate::policy::demand::counters::Demand;
use crate::policy::{Joined, Record, Remembered};

const START: Time = Time::from_secs(1_800_000_000);
const SIZE: u64 = 1000;

fn blob(n: u32) -> Blob {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    Blob { id: BlobId(id), size: SIZE }
}

/// Crowds, and what they are fed with.
struct Bed {
    params: Params,
    crowds: Crowds,
    demand: Demand,
    tracker: Tracker,
    node: NodeNo,
    millis: u64,
    asked: u64,
    reports: Vec<CrowdReport>,
}

impl Bed {
    fn new() -> Self {
        let params = Params::default();
        let mut tracker = Tracker::new(params.clone());
        let joined = Joined {
            id: "v1".parse().expect("valid id"),
            base_url: "http://192.0.2.1".into(),
            is_local: false,
            donate: Rate(1 << 20),
            max_size: Size(1 << 40),
            clients: Vec::new(),
            instance: 0,
            is_volatile: false,
            record: Record::default(),
        };
        let (node, _) = tracker.join(joined, START);
        let demand = Demand::new(&params);
        Self {
            params,
            crowds: Crowds::default(),
            demand,
            tracker,
            node,
            millis: 0,
            asked: 0,
            reports: vec![],
        }
    }

    fn now(&self) -> Time {
        START + Duration::from_millis(self.millis)
    }

    /// One request; two of three are redirected.
    fn ask(&mut self, blob: Blob, release: Option<ReleaseNo>) {
        let now = self.now();
        let recent = self.demand.record(blob, now);
        let node = (!self.asked.is_multiple_of(3)).then_some(self.node);
        self.asked += 1;
        let decided = Decided { bytes: SIZE, node, is_segment: false };
        self.crowds.record(&self.params, (blob, recent), release, decided, now);
    }

    /// So many requests a second, for this long, and what is told meanwhile.
    fn run(&mut self, secs: u64, per_second: u64, mut which: impl FnMut(u64) -> (Blob, Option<ReleaseNo>)) {
        for _ in 0..secs {
            for _ in 0..per_second {
                let (blob, release) = which(self.asked);
                self.ask(blob, release);
                self.millis += 1000 / per_second.max(1);
            }
            self.millis =
                self.millis.next_multiple_of(1000).max(self.millis + u64::from(per_second == 0) * 1000);
            let reports = self.crowds.reports(&self.params, &self.tracker, self.now());
            self.reports.extend(reports);
        }
    }

    fn stages(&self, number: u64) -> Vec<Stage> {
        self.reports.iter().filter(|report| report.number == number).map(|report| report.stage).collect()
    }

    fn crowds(&self) -> usize {
        self.reports.iter().filter(|report| report.stage == Stage::Began).count()
    }
}

#[test]
fn a_crowd_is_told_of_from_begin_to_end() {
    let mut bed = Bed::new();
    bed.run(300, 0, |_| (blob(1), None));
    let (before, began) = (bed.asked, bed.now());
    bed.run(60, 20, |_| (blob(1), None));
    let asked = bed.asked - before;
    bed.run(120, 0, |_| (blob(1), None));

    let first = &bed.reports[0];
    assert_eq!((first.stage, first.number), (Stage::Began, 1));
    assert_eq!(first.subject, Subject::Blob(blob(1)));
    assert!(first.began.since(began) <= bed.params.slot, "not before the requests");
    let told = first.began + first.span;
    assert!(told.since(began) <= Duration::from_secs(15), "{:?}", told.since(began));
    assert!((15.0..=20.0).contains(&first.peak_rate) && first.usual_rate < 0.5, "{first:?}");
    assert!(first.forecast > 0 && first.slowest.map(|(no, _)| no) == Some(bed.node));

    let stages = bed.stages(1);
    assert_eq!((stages.first(), stages.last()), (Some(&Stage::Began), Some(&Stage::Ended)));
    let goes = stages.iter().filter(|stage| **stage == Stage::Goes).count();
    assert!((6..=9).contains(&goes) && goes == stages.len() - 2, "every 10 s of about 80: {stages:?}");
    let last = bed.reports.last().expect("reports");
    // Those that it took to be noticed, before the first slot that was whole.
    assert!((asked - 5..=asked).contains(&last.requests), "{} of {asked}", last.requests);
    assert_eq!(last.redirected_bytes + last.origin_bytes, last.requests * SIZE);
    assert!((0.6..0.7).contains(&(last.redirected_bytes as f64 / (last.requests * SIZE) as f64)));
    assert_eq!((last.volunteers, last.forecast), (1, 0));
    let parts: u64 = bed.reports.iter().filter(|r| r.stage != Stage::Ended).map(|r| r.requests).sum();
    assert_eq!(parts, last.requests, "the parts add up");
    let quiet = last.span - Duration::from_secs(60);
    assert!(
        quiet >= bed.params.crowd_quiet && quiet < bed.params.crowd_quiet + Duration::from_secs(15),
        "{quiet:?}"
    );
}

#[test]
fn what_is_usual_or_little_is_none() {
    let mut bed = Bed::new();
    // Every day's demand, which the long counter knows.
    let usual =
        Remembered { blob: blob(1), lasting: 15.0 * 86_400.0 / std::f64::consts::LN_2, updated: START };
    bed.demand.import([usual], START);
    bed.run(600, 15, |_| (blob(1), None));
    assert_eq!(bed.crowds(), 0, "{:?}", bed.reports);
    // A handful, however sudden.
    bed.run(20, 1, |_| (blob(2), None));
    assert_eq!(bed.crowds(), 0, "{:?}", bed.reports);
    // Thrice as much is more than chance.
    bed.run(20, 45, |_| (blob(1), None));
    assert_eq!(bed.crowds(), 1);
}

#[test]
fn many_slow_downloads_are_one_however_slowly_they_came() {
    let mut bed = Bed::new();
    let began = bed.now();
    // One client every other second, and each takes two minutes.
    for second in 0..300 {
        if second % 2 == 0 && second < 200 {
            bed.ask(blob(1), None);
        }
        let ended_by_now = u64::saturating_sub(second, 120) / 2;
        let running = (second.min(200) / 2).saturating_sub(ended_by_now) as u32;
        let ended = Ended { blob: blob(1).id, bytes_per_sec: 40_000 };
        let ended = (second > 120 && second % 2 == 0).then_some((ended, None));
        let now = bed.now();
        bed.crowds.told(Some(bed.node), [(blob(1).id, running)].into_iter(), ended.into_iter(), now);
        bed.run(1, 0, |_| (blob(1), None));
    }
    assert_eq!(bed.crowds(), 1, "{:?}", bed.reports);
    let first = &bed.reports[0];
    assert_eq!((first.stage, first.rate_p50), (Stage::Began, None));
    // The twentieth runs after 40 s.
    let told = (first.began + first.span).since(began).as_secs();
    assert!((40..=55).contains(&told) && first.in_flight >= 20, "{told} s: {first:?}");
    bed.run(120, 0, |_| (blob(1), None));
    let last = bed.reports.last().expect("reports");
    assert!(last.stage == Stage::Ended && last.in_flight < 20, "{last:?}");
    let p90 = last.rate_p90.expect("downloads ended");
    assert!((32_000..=40_000).contains(&p90) && last.rate_p50 == Some(p90), "{last:?}");
}

#[test]
fn what_stays_becomes_usual() {
    let mut bed = Bed::new();
    bed.run(8 * 3600, 4, |_| (blob(1), None));
    assert_eq!(bed.crowds(), 1);
    assert_eq!(bed.reports.last().map(|report| report.stage), Some(Stage::Ended));
}

#[test]
fn a_releases_crowd_is_one() {
    let mut bed = Bed::new();
    let no = ReleaseNo(7);
    let params = bed.params.clone();
    bed.crowds.watch(&params, no, "debian dists/stable".into(), 0.1);
    bed.run(60, 50, |n| (blob((n % 3) as u32), Some(no)));
    bed.run(60, 0, |_| (blob(0), None));
    assert_eq!(bed.crowds(), 1, "{:?}", bed.reports);
    let last = bed.reports.last().expect("reports");
    assert_eq!((&last.subject, last.stage), (&Subject::Release("debian dists/stable".into()), Stage::Ended));
    assert_eq!(last.requests, 3000);
    // A long while later one of its files can have its own.
    bed.run(1000, 0, |_| (blob(0), None));
    bed.run(20, 3, |_| (blob(0), Some(no)));
    assert_eq!(bed.crowds(), 2);
    assert_eq!(bed.reports.last().map(|report| report.subject.clone()), Some(Subject::Blob(blob(0))));
}

#[test]
fn a_files_crowd_ends_in_that_of_its_release() {
    let mut bed = Bed::new();
    let no = ReleaseNo(7);
    let params = bed.params.clone();
    bed.crowds.watch(&params, no, "debian dists/stable".into(), 0.1);
    bed.run(20, 3, |_| (blob(0), Some(no)));
    assert_eq!(bed.stages(1).first(), Some(&Stage::Began), "too few for a release's");
    bed.run(20, 50, |n| (blob((n % 3) as u32), Some(no)));
    assert_eq!(bed.stages(1).last(), Some(&Stage::Ended));
    assert_eq!(bed.stages(2).first(), Some(&Stage::Began));
    assert_eq!(bed.crowds(), 2);
}

#[test]
fn a_million_files_leave_little_behind() {
    let mut bed = Bed::new();
    for n in 0..250_000_u32 {
        (0..4).for_each(|_| bed.ask(blob(n), None));
        bed.millis += u64::from(n % 20 == 0);
        assert!(bed.crowds.watches.len() <= MAX_FILES + MAX_RELEASES);
    }
    bed.run(20, 0, |_| (blob(0), None));
    // Nor do they hide a crowd.
    bed.run(20, 20, |_| (blob(u32::MAX), None));
    assert_eq!(bed.crowds(), 1);
}
