//! Flash crowds: many who want the same file, or files of the same release, at once. What the policy says of
//! one, for the log and the status.

use std::sync::Arc;
use std::time::Duration;

use super::node::NodeNo;
use crate::model::{Blob, Time};

/// What a crowd wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Blob(Blob),
    /// Files that came with one generation of a unit, by its name.
    Release(Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Began,
    Goes,
    Ended,
}

/// A crowd at one moment, since its last report; at its end, as a whole.
#[derive(Clone, Debug)]
pub struct CrowdReport {
    /// Counts from 1.
    pub number: u64,
    pub subject: Subject,
    pub stage: Stage,
    pub began: Time,
    /// What the figures below are of.
    pub span: Duration,
    pub requests: u64,
    /// Requests/s over the span, the highest of any slot, and what was expected without a crowd.
    pub rate: f64,
    pub peak_rate: f64,
    pub usual_rate: f64,
    /// Requests still to come, if this crowd is like others.
    pub forecast: u64,
    /// Bytes of the requests that volunteers were chosen for, and of those that the server answers.
    pub redirected_bytes: u64,
    pub origin_bytes: u64,
    /// Volunteers chosen within the span, and the one whose downloads take longest now, in bytes/s each.
    pub volunteers: usize,
    pub slowest: Option<(NodeNo, f64)>,
}
