//! How far a volunteer's staying is to be relied on: for copies that must last, and for downloads of clients
//! that cannot come back.
//!
//! Classes and their limits: reference policy, section E.3. A server that has run for ten minutes cannot know who
//! stays for five hours: what it asks for is never more than [`MOST`] of what anybody can have shown. So a new
//! fleet carries at once, and who joins a server that has run for long starts on probation.
//!
//! Lifetimes of sessions are Weibull: P(longer than t) = exp(-(t/lambda)^k), so that of those that have lasted for t
//! a share 1 - exp((t/lambda)^k - ((t+T)/lambda)^k) ends within T (reference policy, sections B and E.3; k and
//! lambda there are of a Debian torrent).

use std::time::Duration;

use crate::policy::inputs::Presence;
use crate::policy::params::Params;

/// Longest past that counts for availability.
const WINDOW: Duration = Duration::from_secs(7 * 86_400);
/// Share of the time watched that is present enough.
const MOST: f64 = 0.8;
/// The server's own start, and its volunteers' finding back to it, are nobody's absence.
const GRACE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Present for a few minutes.
    Probation,
    /// It comes and goes, or has not shown yet that it stays.
    Volatile,
    Stable,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Self::Probation => "probation",
            Self::Volatile => "volatile",
            Self::Stable => "stable",
        }
    }
}

impl Presence {
    /// Books a span that ends now. The past loses weight, so that [`WINDOW`] counts.
    pub fn watched(&mut self, span: Duration, is_here: bool) {
        // Before it first joined nobody waited for it.
        if self.observed.is_zero() && !is_here {
            return;
        }
        self.observed += span;
        if is_here {
            self.present += span;
        }
        if self.observed > WINDOW {
            self.present = self.present.mul_f64(WINDOW.as_secs_f64() / self.observed.as_secs_f64());
            self.observed = WINDOW;
        }
    }
}

/// The class of a volunteer with that past, at a server that has been watching for `watch`.
pub(in crate::policy) fn class(
    params: &Params,
    presence: Presence,
    watch: Duration,
    is_volatile: bool,
) -> Class {
    let could_show = watch.max(presence.observed).saturating_sub(GRACE).mul_f64(MOST);
    let is_often_away = presence.present + GRACE < presence.observed.mul_f64(MOST);
    match () {
        () if presence.present < params.probation.min(could_show) => Class::Probation,
        () if is_volatile || is_often_away => Class::Volatile,
        () if presence.present < params.stable_after.min(could_show) => Class::Volatile,
        () => Class::Stable,
    }
}

/// Probability that a session which has lasted for `age` ends within the next `secs`.
pub(in crate::policy) fn break_risk(params: &Params, age: Duration, secs: f64) -> f64 {
    let hazard = |t: f64| (t / params.session_scale.as_secs_f64()).powf(params.session_shape);
    let age = age.as_secs_f64();
    1.0 - (hazard(age) - hazard(age + secs)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mins(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn classes_are_relative_to_what_could_be_shown() {
        let params = Params::default();
        let of = |present, observed, watch| {
            let presence = Presence { present: mins(present), observed: mins(observed) };
            class(&params, presence, mins(watch), false)
        };
        // A new fleet at a new server; one of it that went away for long.
        assert_eq!([of(0, 0, 0), of(9, 9, 10), of(60, 60, 61)], [Class::Stable; 3]);
        assert_eq!(of(5, 10, 10), Class::Probation);
        // Newcomers where the server has run for days.
        let days = 3 * 1440;
        assert_eq!(
            [of(14, 14, days), of(16, 16, days), of(299, 299, days), of(301, 301, days)],
            [Class::Probation, Class::Volatile, Class::Volatile, Class::Stable]
        );
        // An old hand that is away half of the time, and one that was restarted; the server has just started.
        assert_eq!([of(2000, 4000, days), of(2000, 4000, 1)], [Class::Volatile; 2]);
        assert_eq!([of(4000, 4010, days), of(4000, 4010, 1)], [Class::Stable; 2]);
        let presence = Presence { present: mins(4000), observed: mins(4000) };
        assert_eq!(class(&params, presence, mins(days), true), Class::Volatile, "it says so itself");
    }

    #[test]
    fn the_last_week_counts() {
        let mut presence = Presence::default();
        presence.watched(mins(100_000), false);
        assert_eq!(presence, Presence::default(), "it was not expected");
        presence.watched(mins(30 * 1440), true);
        assert_eq!((presence.observed, presence.present), (WINDOW, WINDOW));
        presence.watched(mins(3 * 1440), false);
        assert_eq!(presence.observed, WINDOW);
        assert!(presence.present.as_secs_f64() < 0.71 * WINDOW.as_secs_f64());
        presence.watched(mins(30 * 1440), true);
        assert!(presence.present.as_secs_f64() > 0.9 * WINDOW.as_secs_f64(), "it is forgiven");
    }

    /// The reference's figures: of those that have lasted for 10 min, 5 h, 10 h so many stay for another hour.
    #[test]
    fn sessions_end_as_the_source_says() {
        let params = Params::default();
        for (age, stays) in [(10, 0.53), (300, 0.86), (600, 0.90)] {
            let risk = break_risk(&params, mins(age), 3600.0);
            assert!((1.0 - risk - stays).abs() < 0.02, "{age} min: {risk}");
        }
        assert_eq!(break_risk(&params, mins(0), 0.0), 0.0);
    }
}
