//! What is counted for one file or release that may have a crowd: requests in slots, downloads under way, who answered,
//! how the downloads fared, and what of this is usual.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rates::Rates;
use crate::model::Time;
use crate::policy::ids::{NodeNo, ReleaseNo};
use crate::policy::outputs::Subject;
use crate::policy::params::Params;

/// So many requests for one file within one slot need no second one. So many downloads under way are a crowd.
pub(super) const AT_ONCE: u32 = 20;
/// Where requests are usual, so are the downloads that they begin, for so many slots.
const USUAL_SLOTS: f64 = 12.0;
/// How long a count of running downloads holds if nobody says another: more than two heartbeats.
const COUNT_LASTS: Duration = Duration::from_secs(12);
/// Volunteers whose counts are kept for one file.
const MAX_COUNTS: usize = 512;
/// Weight of a slot in the forecast: about the last 20.
const WEIGHT: f64 = 0.05;
/// The same during a crowd: what lasts for hours is usual. At 5 s, 2000 slots are nearly 3 hours.
const CROWD_WEIGHT: f64 = 0.0005;

/// One request as it was decided: its bytes, and the volunteer chosen, if any.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    pub bytes: u64,
    pub node: Option<NodeNo>,
    /// One of several parts of one download counts its bytes, and is no request more.
    pub is_segment: bool,
}

/// Volunteers as bits by their numbers, so that noting one more seldom allocates.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes(Vec<u64>);

impl Nodes {
    pub(super) fn insert(&mut self, NodeNo(no): NodeNo) {
        let word = no as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (no % 64);
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = NodeNo> + '_ {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        (0_u32..).zip(&self.0).flat_map(move |(at, word)| bits(*word).map(move |bit| NodeNo(at * 64 + bit)))
    }
}

/// Requests and who answered them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) redirected: u64,
    pub(super) origin: u64,
    pub(super) nodes: Nodes,
    pub(super) rates: Rates,
}

impl Tally {
    pub(super) fn add(&mut self, decided: Decided) {
        self.requests += u64::from(!decided.is_segment);
        match decided.node {
            Some(node) => {
                self.redirected += decided.bytes;
                self.nodes.insert(node);
            }
            None => self.origin += decided.bytes,
        }
    }

    /// Begins anew; keeps its memory.
    pub(super) fn clear(&mut self) {
        self.nodes.0.fill(0);
        self.rates.clear();
        (self.requests, self.redirected, self.origin) = (0, 0, 0);
    }
}

/// Moving mean and variance of a number per slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    pub(super) mean: f64,
    pub(super) variance: f64,
}

impl Forecast {
    pub(super) fn new(mean: f64) -> Self {
        Self { mean, variance: mean }
    }

    /// Whether so many are more than chance makes of the usual ones. Requests that do not know of each other vary by
    /// the root of their number at least.
    pub(super) fn is_exceeded(&self, params: &Params, count: u32) -> bool {
        let deviation = self.variance.max(self.mean).max(1.0).sqrt();
        f64::from(count) > self.mean + params.burst_sigmas * deviation
    }

    pub(super) fn learn(&mut self, count: u32, weight: f64) {
        let off = f64::from(count) - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
    }
}

/// Downloads of one file that run, as those say who send them; `None` is the server.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(BTreeMap<Option<NodeNo>, (u32, Time)>);

impl InFlight {
    pub(super) fn set(&mut self, sender: Option<NodeNo>, count: u32, now: Time) {
        if self.0.len() < MAX_COUNTS || self.0.contains_key(&sender) {
            self.0.insert(sender, (count, now));
        }
    }

    pub(super) fn count(&mut self, now: Time) -> u32 {
        self.0.retain(|_, (_, told)| now.since(*told) < COUNT_LASTS);
        self.0.values().fold(0, |sum, (count, _)| sum.saturating_add(*count))
    }
}

/// A crowd under way.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) number: u64,
    pub(super) began: Time,
    pub(super) told: Time,
    pub(super) is_told: bool,
    pub(super) usual: f64,
    pub(super) peak: u32,
    pub(super) quiet_since: Option<Time>,
    /// Since it began; the watch's own tally is since it was last told of.
    pub(super) whole: Tally,
}

/// What is counted for one subject.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) subject: Subject,
    pub(super) release: Option<ReleaseNo>,
    pub(super) least: u32,
    /// Requests of the running slot, and of the one before.
    pub(super) count: u32,
    pub(super) last: u32,
    pub(super) requests: Forecast,
    pub(super) in_flight: InFlight,
    pub(super) downloads: Forecast,
    /// Slots of a burst up to now, and without a request.
    pub(super) over: u32,
    pub(super) idle: u32,
    /// More downloads ran at the end of the last slot than usual.
    pub(super) has_many: bool,
    pub(super) tally: Tally,
    pub(super) crowd: Option<Running>,
}

impl Watch {
    pub(super) fn new(subject: Subject, release: Option<ReleaseNo>, least: u32, forecast: f64) -> Self {
        Self {
            subject,
            release,
            least,
            count: 0,
            last: 0,
            requests: Forecast::new(forecast),
            in_flight: InFlight::default(),
            downloads: Forecast::new(0.0),
            over: 0,
            idle: 0,
            has_many: false,
            tally: Tally::default(),
            crowd: None,
        }
    }

    pub(super) fn add(&mut self, decided: Decided) {
        self.count += u32::from(!decided.is_segment);
        self.tally.add(decided);
        if let Some(crowd) = &mut self.crowd {
            crowd.whole.add(decided);
        }
    }

    /// Whether so many requests in a slot are a burst.
    pub(super) fn is_burst(&self, params: &Params, count: u32) -> bool {
        count >= self.least && self.requests.is_exceeded(params, count)
    }

    pub(super) fn fared(&mut self, rate: u64) {
        self.tally.rates.add(rate);
        if let Some(crowd) = &mut self.crowd {
            crowd.whole.rates.add(rate);
        }
    }

    /// Ends the running slot, and lets `empty` more pass; the last one ends at `end`.
    pub(super) fn close(&mut self, params: &Params, empty: u32, end: Time) {
        let in_flight = self.in_flight.count(end);
        self.has_many = in_flight >= AT_ONCE
            && f64::from(in_flight) > self.requests.mean * USUAL_SLOTS
            && self.downloads.is_exceeded(params, in_flight);
        let is_burst = self.is_burst(params, self.count) || self.has_many;
        self.over = if is_burst { self.over + 1 } else { 0 };
        let weight = if is_burst || self.crowd.is_some() { CROWD_WEIGHT } else { WEIGHT };
        self.requests.learn(self.count, weight);
        // Slow downloads pile up slowly: only what lasts for hours is usual.
        self.downloads.learn(in_flight, CROWD_WEIGHT);
        self.idle = if self.count == 0 && in_flight == 0 { self.idle + 1 } else { 0 };
        (self.last, self.count) = (self.count, 0);
        if let Some(crowd) = &mut self.crowd {
            crowd.peak = crowd.peak.max(self.last);
            let quiet_since = crowd.quiet_since.unwrap_or(end - params.slot * empty);
            crowd.quiet_since = (!is_burst).then_some(quiet_since);
        }
        if empty > 0 {
            (self.over, self.last) = (0, 0);
            self.idle = self.idle.saturating_add(empty);
            // Enough to forget all; a longer pause is no more.
            (0..empty.min(200)).for_each(|_| self.requests.learn(0, WEIGHT));
            if let Some(crowd) = &mut self.crowd {
                crowd.quiet_since.get_or_insert(end - params.slot * (empty - 1));
            }
        }
        if self.over == 0 && self.crowd.is_none() {
            self.tally.clear();
        }
    }
}
