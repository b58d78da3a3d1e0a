//! What placement works on: the blob's need, and the state that one call sees and changes.

use crate::config::Networks;
use crate::model::Time;
use crate::policy::demand::counters::{Demand, Recent};
use crate::policy::fleet::tracker::Tracker;
use crate::policy::params::Params;

/// What a blob is wanted for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Want {
    pub recent: Recent,
    /// Requests/s of the running slot, if it is many.
    pub crowd: f64,
    /// It came with a release of late.
    pub is_new: bool,
    /// It is likely to be asked for by many, though nobody did yet.
    pub is_awaited: bool,
    /// Somebody asks for it now.
    pub is_asked: bool,
}

/// What a call works on, besides the placer's own.
pub struct Scene<'a> {
    pub tracker: &'a mut Tracker,
    pub demand: &'a mut Demand,
    pub params: &'a Params,
    pub networks: &'a Networks,
    pub now: Time,
}
