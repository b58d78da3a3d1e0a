//! What copying may cost: bytes ordered to and from each volunteer, and from the server, against a share of its
//! rate.
//!
//! An account drains at the share it may spend. What was not spent is kept for `sync_window`; one order may
//! overdraw it, since a file is not ordered in parts, and then nothing more is until it has drained. Property:
//! over any time the bytes ordered are at most share x rate x (time + window) and the last order.

use std::collections::BTreeMap;

use crate::model::Time;
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::NodeNo;
use crate::policy::params::Params;

/// Bytes ordered and not yet drained.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    owed: f64,
    updated: Time,
}

impl Account {
    fn owed(&self, per_second: f64, now: Time) -> f64 {
        (self.owed - per_second * now.since(self.updated).as_secs_f64()).max(0.0)
    }

    fn add(&mut self, bytes: u64, per_second: f64, now: Time) {
        *self = Self { owed: self.owed(per_second, now) + bytes as f64, updated: self.updated.max(now) };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Copies that it receives.
    To,
    /// Copies that it sends.
    From,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Budget {
    origin: Account,
    /// At most two per volunteer that the tracker knows.
    volunteers: BTreeMap<(NodeNo, Way), Account>,
}

impl Budget {
    /// Part of its budget that a volunteer has spent; from 1 on, nothing more is ordered.
    pub fn spent(&self, params: &Params, tracker: &Tracker, no: NodeNo, way: Way, now: Time) -> f64 {
        let per_second = per_second(tracker, no);
        self.owed(tracker, no, way, now) / (per_second * params.sync_window.as_secs_f64())
    }

    /// The same of the server.
    pub fn origin_spent(&self, params: &Params, now: Time) -> f64 {
        let rate = params.origin_sync.max(1.0);
        self.origin.owed(rate, now) / (rate * params.sync_window.as_secs_f64())
    }

    /// Bytes ordered and not yet drained.
    pub fn owed(&self, tracker: &Tracker, no: NodeNo, way: Way, now: Time) -> f64 {
        let owed = |account: &Account| account.owed(per_second(tracker, no), now);
        self.volunteers.get(&(no, way)).map_or(0.0, owed)
    }

    pub fn book(&mut self, tracker: &Tracker, no: NodeNo, way: Way, bytes: u64, now: Time) {
        self.volunteers.entry((no, way)).or_default().add(bytes, per_second(tracker, no), now);
    }

    pub fn book_origin(&mut self, params: &Params, bytes: u64, now: Time) {
        self.origin.add(bytes, params.origin_sync.max(1.0), now);
    }
}

fn per_second(tracker: &Tracker, no: NodeNo) -> f64 {
    // Never nothing: what is spent is divided by it.
    (tracker.node(no).rate() * tracker.sync_share()).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    proptest::proptest! {
        #[test]
        fn no_more_is_ordered_than_drains(
            orders in proptest::collection::vec((0u64..20_000, 1u64..5_000_000), 1..200),
        ) {
            let params = Params { origin_sync: 100_000.0, ..Params::default() };
            let (mut budget, start) = (Budget::default(), Time::from_secs(1_000_000));
            let (mut now, mut ordered, mut last) = (start, 0.0, 0.0);
            for (millis, bytes) in orders {
                now = now + Duration::from_millis(millis);
                if budget.origin_spent(&params, now) < 1.0 {
                    budget.book_origin(&params, bytes, now);
                    ordered += bytes as f64;
                    last = bytes as f64;
                }
                let span = (now.since(start) + params.sync_window).as_secs_f64();
                proptest::prop_assert!(ordered <= params.origin_sync * span + last + 1.0);
            }
        }
    }
}
