//! What decisions ask of every volunteer, side by side in memory: a decision looks at hundreds of holders, and
//! what lies apart costs more to fetch than to judge.
//!
//! A brief says from its volunteer's last event on what [`Node::state`] will say; the tracker renews it with
//! each event.

use std::time::Duration;

use super::node::Node;
use super::stability::Class;
use crate::model::Time;
use crate::policy::ids::NodeNo;
use crate::policy::params::Params;

/// Sums over all volunteers are made anew after this: heartbeats go missing without an event.
const SUMS_LAST: Duration = Duration::from_secs(1);

/// e to this power is the most that what is given counts more than what was at the epoch.
const MAX_WINDOWS: f64 = 100.0;

/// One volunteer in short.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(in crate::policy) struct Brief {
    /// It is up from then, until its heartbeat is late.
    up: (Time, Time),
    /// Its holdings count as copies until then.
    live_until: Time,
    /// It may go away at any moment until then.
    pub(in crate::policy) volatile_until: Time,
    /// In bytes/s.
    pub(in crate::policy) rate: f64,
    /// Bytes of downloads that it was given, each times e to the windows since the epoch.
    given: f64,
    /// How often it is considered: less while it is not known yet.
    pub(in crate::policy) turns: f32,
    /// As of the last event.
    pub(in crate::policy) class: Class,
    /// It serves every client on any machine, as far as it says itself.
    pub(in crate::policy) is_open: bool,
}

impl Brief {
    fn of(node: &Node, params: &Params, now: Time) -> Self {
        let standing = &node.standing;
        let is_well = !standing.is_unreachable() && !standing.is_slow();
        let until = |silence, is_so: bool| if is_so { node.last_seen + silence } else { Time::default() };
        let is_up = node.is_connected && is_well && !standing.is_untested();
        Self {
            up: (
                standing.record.quarantined_until.unwrap_or_default(),
                until(params.stale_after.min(params.dead_after), is_up),
            ),
            live_until: until(params.dead_after, node.is_connected && is_well),
            volatile_until: standing.volatile_until(params, node.connected),
            rate: node.rate(),
            given: 0.0,
            turns: standing.capacity.turns(),
            class: node.class(params, now),
            is_open: !node.is_local && node.clients.is_empty(),
        }
    }

    pub(in crate::policy) fn is_up(&self, now: Time) -> bool {
        self.up.0 <= now && now <= self.up.1
    }

    /// Bytes of downloads that it was given lately, with [`Roster::fading`] of the moment.
    pub(in crate::policy) fn given(&self, fading: f64) -> f64 {
        self.given * fading
    }

    pub(in crate::policy) fn is_live(&self, now: Time) -> bool {
        self.up.0 <= now && now <= self.live_until
    }
}

/// Those that are up, together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fleet {
    pub up: usize,
    /// Sum of their estimated rates in bytes/s.
    pub rate: f64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::policy) struct Roster {
    briefs: Vec<Brief>,
    fleet: Fleet,
    /// When it was summed, if nothing but heartbeats came since.
    summed: Option<Time>,
    /// What was given then counts as it is.
    epoch: Time,
    /// When something was given last: a clock that is set back undoes no fading.
    latest: Time,
}

impl Roster {
    pub(in crate::policy) fn of(&self, no: NodeNo) -> &Brief {
        &self.briefs[no.0 as usize]
    }

    /// A session begins: what was given to the one before is none of its.
    pub(in crate::policy) fn begins(&mut self, no: NodeNo) {
        if let Some(brief) = self.briefs.get_mut(no.0 as usize) {
            brief.given = 0.0;
        }
    }

    /// A download of so many bytes was given to it. It counts less and less: after every window by a factor of e.
    pub(in crate::policy) fn gave(&mut self, no: NodeNo, len: u64, window: Duration, now: Time) {
        if now < self.latest || self.windows(window, now) > MAX_WINDOWS {
            let fading = self.fading(window, now);
            self.briefs.iter_mut().for_each(|brief| brief.given *= fading);
            self.epoch = now;
        }
        self.latest = now;
        self.briefs[no.0 as usize].given += len as f64 * self.windows(window, now).exp();
    }

    /// How much what was given counts by now: one factor for all, so that a decision needs no power per holder.
    pub(in crate::policy) fn fading(&self, window: Duration, now: Time) -> f64 {
        (-self.windows(window, now.max(self.latest))).exp()
    }

    fn windows(&self, window: Duration, now: Time) -> f64 {
        now.seconds_since(self.epoch) / window.as_secs_f64()
    }

    /// To be called after whatever changes the node.
    pub(in crate::policy) fn renew(&mut self, no: NodeNo, node: &Node, params: &Params, now: Time) {
        let brief = Brief::of(node, params, now);
        match self.briefs.get_mut(no.0 as usize) {
            Some(known) => {
                let is_same = known.rate == brief.rate
                    && known.up.0 == brief.up.0
                    && (known.up.1 == Time::default()) == (brief.up.1 == Time::default());
                if !is_same {
                    self.summed = None;
                }
                *known = Brief { given: known.given, ..brief };
            }
            None => {
                self.summed = None;
                self.briefs.push(brief);
            }
        }
    }

    /// Exact but for heartbeats that went missing within the last second.
    pub(in crate::policy) fn fleet(&mut self, now: Time) -> Fleet {
        let is_fresh = |at: Time| at <= now && now.since(at) < SUMS_LAST;
        if !self.summed.is_some_and(is_fresh) {
            let up = self.briefs.iter().filter(|brief| brief.is_up(now));
            let sum = |sum: Fleet, brief: &Brief| Fleet { up: sum.up + 1, rate: sum.rate + brief.rate };
            self.fleet = up.fold(Fleet::default(), sum);
            self.summed = Some(now);
        }
        self.fleet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_fades_and_ends_with_the_session() {
        let window = Duration::from_secs(10);
        let now = Time::from_secs(1_800_000_000);
        let brief = Brief {
            up: (now, now),
            live_until: now,
            volatile_until: now,
            rate: 1e6,
            given: 0.0,
            turns: 1.0,
            class: Class::Stable,
            is_open: true,
        };
        let mut roster = Roster { briefs: vec![brief, brief], ..Roster::default() };
        roster.gave(NodeNo(1), 1000, window, now);
        roster.gave(NodeNo(1), 500, window, now + window);
        let given = |roster: &Roster, no, at| roster.of(NodeNo(no)).given(roster.fading(window, at)).round();
        assert_eq!((given(&roster, 1, now + window), given(&roster, 1, now + 2 * window)), (868.0, 319.0));
        assert_eq!((given(&roster, 0, now + window), size_of::<Brief>()), (0.0, 64));
        // As before where the numbers would have become too large.
        let much_later = now + 200 * window;
        roster.gave(NodeNo(1), 1000, window, much_later);
        assert_eq!((given(&roster, 1, much_later), given(&roster, 1, much_later + window)), (1000.0, 368.0));
        // A clock that is set back makes nothing of the past heavier.
        let back = much_later - 100 * window;
        assert_eq!(given(&roster, 1, back), 1000.0);
        roster.gave(NodeNo(0), 500, window, back);
        assert_eq!((given(&roster, 0, back), given(&roster, 1, back)), (500.0, 1000.0));
        roster.begins(NodeNo(1));
        assert_eq!(given(&roster, 1, now + window), 0.0);
    }
}
