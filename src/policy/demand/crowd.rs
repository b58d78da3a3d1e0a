//! Flash crowds: many who want the same file, or files of the same release, at once. What the policy says of
//! one, for the log and the status.
//!
//! Requests are counted in slots, with a moving mean and variance per file that is asked for a lot and per
//! release of late. A slot of a burst has `burst_sigmas` standard deviations more than that forecast and more
//! than a handful of requests; `burst_slots` of them in a row are a crowd, told of when the last one closes, and one
//! is enough where [`AT_ONCE`] want the same file within it. So many downloads of one file that run at once, and are
//! more than its forecast of these, are a crowd too, however slowly they came.
//!
//! Properties, tested below:
//! - a crowd is told of once when it begins, within 15 s, every ten seconds while it goes, and once when it has
//!   ended; steady demand however high, and a few requests however sudden, are none;
//! - what volunteers and server were chosen for adds up to what was asked for, from the first slot of the burst;
//! - while a release has its crowd, its files have none of their own;
//! - a demand that stays becomes the usual one: every crowd ends;
//! - a million different files leave no more than [`MAX_FILES`] behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::counters::Recent;
use super::watch::{AT_ONCE, Decided, Running, Tally, Watch};
use crate::formats::control::Ended;
use crate::model::{Blob, BlobId, Time};
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::{NodeNo, ReleaseNo};
use crate::policy::outputs::{CrowdReport, Stage, Subject};
use crate::policy::params::Params;
use crate::policy::tables::buckets::BlobKey;

/// Files whose requests are counted in slots.
const MAX_FILES: usize = 4096;
/// Releases likewise: as many as are remembered.
const MAX_RELEASES: usize = 64;
/// Recent requests from which a file is counted.
const WATCHED_FROM: f64 = 4.0;
/// A file that was not asked for in so many slots is not counted any more.
const MAX_IDLE: u32 = 120;
/// How often there is something to say of a crowd that goes on.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// A crowd is taken to fade with a half-life of its age, within these: those that came fast go fast.
const HALF_LIFE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(6 * 3600)];

/// What a watch is kept under; releases come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Release(ReleaseNo),
    File(BlobKey),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Crowds {
    watches: BTreeMap<Key, Watch>,
    /// When the running slot began.
    slot: Time,
    count: u64,
}

impl Crowds {
    /// Counts requests for the files of a release; so many a second would be usual.
    pub fn watch(&mut self, params: &Params, no: ReleaseNo, name: Arc<str>, usual: f64) {
        let releases = || self.watches.iter().take_while(|(key, _)| matches!(key, Key::Release(_)));
        if releases().count() >= MAX_RELEASES {
            let quiet = releases().find(|(_, watch)| watch.crowd.is_none()).or_else(|| releases().next());
            if let Some(key) = quiet.map(|(key, _)| *key) {
                self.watches.remove(&key);
            }
        }
        let forecast = usual * params.slot.as_secs_f64();
        let watch = Watch::new(Subject::Release(name), Some(no), params.burst_release, forecast);
        self.watches.insert(Key::Release(no), watch);
    }

    /// Books a decided request. `recent` is the demand with it.
    pub fn record(
        &mut self,
        params: &Params,
        (blob, recent): (Blob, Recent),
        release: Option<ReleaseNo>,
        decided: Decided,
        now: Time,
    ) {
        self.roll(params, now);
        if let Some(watch) = release.and_then(|no| self.watches.get_mut(&Key::Release(no))) {
            watch.add(decided);
        }
        let key = Key::File(blob.id.into());
        if let Some(watch) = self.watches.get_mut(&key) {
            watch.add(decided);
        } else if recent.requests >= WATCHED_FROM && self.watches.len() < MAX_FILES + MAX_RELEASES {
            // Those that it took to get here are not usual yet.
            let before = (recent.lasting - recent.requests).max(0.0) * recent.usual / recent.lasting.max(1.0);
            let forecast = before * params.slot.as_secs_f64();
            let mut watch = Watch::new(Subject::Blob(blob), release, params.burst_requests, forecast);
            watch.add(decided);
            self.watches.insert(key, watch);
        }
    }

    /// What somebody says who sends packages: the downloads that run, and how those fared that ended; each with the
    /// release of its file.
    pub fn told(
        &mut self,
        sender: Option<NodeNo>,
        running: impl Iterator<Item = (BlobId, u32)>,
        ended: impl Iterator<Item = (Ended, Option<ReleaseNo>)>,
        now: Time,
    ) {
        for (blob, count) in running {
            if let Some(watch) = self.watches.get_mut(&Key::File(blob.into())) {
                watch.in_flight.set(sender, count, now);
            }
        }
        for (ended, release) in ended {
            for key in [Some(Key::File(ended.blob.into())), release.map(Key::Release)].into_iter().flatten() {
                if let Some(watch) = self.watches.get_mut(&key) {
                    watch.fared(ended.bytes_per_sec);
                }
            }
        }
    }

    /// Requests/s for a file, where they are as many as a burst's.
    pub fn rate(&self, params: &Params, blob: BlobId) -> f64 {
        let Some(watch) = self.watches.get(&Key::File(blob.into())) else { return 0.0 };
        let count = watch.count.max(watch.last);
        let is_crowd = watch.is_burst(params, count);
        if is_crowd { f64::from(count) / params.slot.as_secs_f64() } else { 0.0 }
    }

    /// What there is to say now.
    pub fn reports(&mut self, params: &Params, tracker: &Tracker, now: Time) -> Vec<CrowdReport> {
        self.roll(params, now);
        let mut reports = Vec::new();
        for watch in self.watches.values_mut() {
            let Some(crowd) = &mut watch.crowd else { continue };
            let is_over = crowd.quiet_since.is_some_and(|since| now.since(since) >= params.crowd_quiet);
            let stage = match () {
                () if !crowd.is_told => Stage::Began,
                () if is_over => Stage::Ended,
                () if now.since(crowd.told) >= TOLD_EVERY => Stage::Goes,
                () => continue,
            };
            let since = if stage == Stage::Goes { crowd.told } else { crowd.began };
            let tally = std::mem::take(&mut watch.tally);
            let tally = if stage == Stage::Ended { &crowd.whole } else { &tally };
            let in_flight = watch.in_flight.count(now);
            let of = (&*crowd, &watch.subject, in_flight);
            reports.push(report(params, tracker, of, (stage, since), tally, now));
            (crowd.told, crowd.is_told) = (now, true);
            if stage == Stage::Ended {
                (watch.crowd, watch.over) = (None, 0);
            }
        }
        reports
    }

    /// Ends the slots that are over.
    fn roll(&mut self, params: &Params, now: Time) {
        let passed = now.since(self.slot).as_nanos() / params.slot.as_nanos().max(1);
        if passed == 0 && self.slot <= now {
            return;
        }
        if self.slot > now || self.slot == Time::default() {
            self.slot = now;
            return;
        }
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        // Far behind, only that it is long matters.
        let step = u64::try_from(params.slot.as_nanos()).unwrap_or(u64::MAX).saturating_mul(passed.into());
        self.slot = self.slot + Duration::from_nanos(step);
        let end = self.slot;
        self.watches.values_mut().for_each(|watch| watch.close(params, passed - 1, end));
        let is_file = |key: &Key| matches!(key, Key::File(_));
        // Nobody keeps the others out by asking for many files now and then.
        let max_idle = if self.watches.len() > MAX_FILES / 2 { 1 } else { MAX_IDLE };
        self.watches.retain(|key, watch| watch.crowd.is_some() || !is_file(key) || watch.idle < max_idle);
        self.begin(params);
    }

    /// Makes crowds of those that were over their forecast for long enough.
    fn begin(&mut self, params: &Params) {
        // Of releases whose crowd seems to begin, and goes; they come before all files.
        let (mut seems, mut goes) = (BTreeSet::new(), BTreeSet::new());
        for (key, watch) in &mut self.watches {
            let is_file = matches!(key, Key::File(_));
            let is_part =
                |of: &BTreeSet<ReleaseNo>| is_file && watch.release.is_some_and(|no| of.contains(&no));
            // One client that upgrades asks for many files of a release, and for each of them once.
            let is_at_once = is_file && watch.over > 0 && (watch.last >= AT_ONCE || watch.has_many);
            let may_begin = (watch.over >= params.burst_slots || is_at_once) && !is_part(&seems);
            let is_joined = is_part(&goes);
            match &mut watch.crowd {
                // It goes on as part of the release's.
                Some(crowd) if is_joined => crowd.quiet_since = Some(Time::default()),
                None if may_begin => {
                    self.count += 1;
                    watch.crowd = Some(Running {
                        number: self.count,
                        began: self.slot - params.slot * watch.over.min(params.burst_slots),
                        told: self.slot,
                        is_told: false,
                        usual: watch.requests.mean / params.slot.as_secs_f64(),
                        peak: watch.last,
                        quiet_since: None,
                        whole: watch.tally.clone(),
                    });
                }
                _ => {}
            }
            if let Key::Release(no) = key {
                goes.extend(watch.crowd.as_ref().map(|_| *no));
                seems.extend((watch.over > 0 || watch.crowd.is_some()).then_some(*no));
            }
        }
    }
}

fn report(
    params: &Params,
    tracker: &Tracker,
    (crowd, subject, in_flight): (&Running, &Subject, u32),
    (stage, since): (Stage, Time),
    tally: &Tally,
    now: Time,
) -> CrowdReport {
    let span = now.since(since);
    let rate = tally.requests as f64 / span.as_secs_f64().max(params.slot.as_secs_f64());
    let [least, most] = HALF_LIFE;
    let half_life = now.since(crowd.began).clamp(least, most).as_secs_f64();
    let to_come = (rate - crowd.usual).max(0.0) * half_life / std::f64::consts::LN_2;
    let share = |no: NodeNo| {
        let node = tracker.node(no);
        (no, node.rate() / (node.in_flight() + 1) as f64)
    };
    CrowdReport {
        number: crowd.number,
        subject: subject.clone(),
        stage,
        began: crowd.began,
        span,
        requests: tally.requests,
        rate,
        peak_rate: f64::from(crowd.peak) / params.slot.as_secs_f64(),
        usual_rate: crowd.usual,
        forecast: if stage == Stage::Ended { 0 } else { to_come as u64 },
        redirected_bytes: tally.redirected,
        origin_bytes: tally.origin,
        in_flight,
        rate_p50: tally.rates.reached_by(0.5),
        rate_p90: tally.rates.reached_by(0.9),
        volunteers: tally.nodes.len(),
        slowest: tally.nodes.iter().map(share).min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))),
    }
}

#[cfg(test)]
#[path = "crowd_tests.rs"]
mod tests;
