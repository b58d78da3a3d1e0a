//! How busy the server's own line is, as decisions see it: what was measured, and what they have added since.
//!
//! A measurement is a second old and more. Who decides by it alone sends everybody to the server until it shows,
//! thousands within a second when a crowd comes: so each decision for the server counts at once.

use crate::model::Time;
use crate::policy::params::Params;

/// So much of the line one download counts for, in seconds: how fast its client takes it is not known.
const COUNTED: f64 = 1.0;
/// So much all of them count for: what was given up by clients is forgotten within seconds.
const MOST: f64 = 2.0;
/// A queue of more seconds is not counted.
const LONGEST: f64 = 600.0;

/// Credit comes back at this share of the line.
const CREDIT_REFILL: f64 = 0.02;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Line {
    /// Decided and not yet sent, if the line sends nothing else and clients take all that it gives; at most
    /// [`COUNTED`] of each.
    bytes: f64,
    /// The same in full.
    queue: f64,
    /// Bytes of its credit that are spent.
    spent: f64,
    measured: f64,
    updated: Time,
}

impl Line {
    fn advance(&mut self, params: &Params, now: Time) {
        let rate = params.uplink.max(1.0);
        let sent = now.seconds_since(self.updated) * rate;
        self.bytes = (self.bytes - sent).max(0.0);
        self.queue = (self.queue - sent).max(0.0);
        self.spent = (self.spent - sent * CREDIT_REFILL).max(0.0);
        self.updated = self.updated.max(now);
    }

    /// Books a download of `len` bytes.
    pub fn add(&mut self, params: &Params, len: u64, now: Time) {
        let uplink = params.uplink.max(1.0);
        self.advance(params, now);
        self.bytes = (self.bytes + (len as f64).min(uplink * COUNTED)).min(uplink * MOST);
        self.queue = (self.queue + len as f64).min(uplink * LONGEST);
    }

    /// The same of a client who has a holder: that is what the credit is for.
    pub fn give(&mut self, params: &Params, len: u64, now: Time) {
        self.add(params, len, now);
        self.spent = (self.spent + len as f64).min(credit(params));
    }

    /// What it has to offer. To be asked after [`Self::load`].
    pub fn offer(&self, params: &Params) -> Offer {
        Offer { queue: self.queue / params.uplink.max(1.0), spent: self.spent, measured: self.measured }
    }

    /// 0 to 1 and beyond.
    pub fn load(&mut self, params: &Params, measured: f64, now: Time) -> f64 {
        let uplink = params.uplink.max(1.0);
        self.advance(params, now);
        self.measured = measured;
        measured.max(self.bytes / (uplink * COUNTED))
    }
}

/// Bytes that the server gives at once to clients who have a holder.
fn credit(params: &Params) -> f64 {
    params.uplink.max(1.0) * params.credit.as_secs_f64()
}

/// What the server's line has to offer at this instant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// Seconds until all that was decided is sent.
    pub queue: f64,
    spent: f64,
    measured: f64,
}

impl Offer {
    /// Seconds until a client who has a holder would get so many bytes from here, with their price: it rises with
    /// what was given lately and with the measured load, beyond all bounds. What was decided since is in the queue.
    pub fn seconds(&self, params: &Params, len: u64) -> f64 {
        let bytes = len as f64;
        let spent = (self.spent + bytes) / credit(params);
        let left = 1.0 - spent.max(self.measured / params.origin_load);
        if left <= 0.0 {
            return f64::INFINITY;
        }
        let line = self.queue + bytes / params.uplink.max(1.0);
        line.max(bytes / (params.patience * params.min_share)) / left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn counts_at_once_what_a_measurement_shows_later() {
        let params = Params { uplink: 1e6, ..Params::default() };
        let (mut line, start) = (Line::default(), Time::from_secs(1000));
        assert_eq!(line.load(&params, 0.2, start), 0.2);
        (0..9).for_each(|_| line.add(&params, 100_000, start));
        assert_eq!(line.load(&params, 0.2, start), 0.9);
        assert_eq!(line.load(&params, 0.2, start + Duration::from_millis(500)), 0.4);
        assert_eq!(line.load(&params, 0.2, start + Duration::from_secs(5)), 0.2);
        line.add(&params, 1 << 40, start + Duration::from_secs(5));
        assert_eq!(line.load(&params, 0.0, start + Duration::from_secs(5)), 1.0, "its client may be slow");
        (0..1000).for_each(|_| line.add(&params, 1 << 40, start + Duration::from_secs(6)));
        assert_eq!(line.load(&params, 0.1, start + Duration::from_secs(8)), 0.1, "as many as left have gone");
    }
}
