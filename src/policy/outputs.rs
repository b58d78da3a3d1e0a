//! What the policy answers with: decisions with their reasons, orders, tests to make, gates, reports of crowds.

use std::sync::Arc;
use std::time::Duration;

use super::ids::NodeNo;
use crate::model::{Blob, Time};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// A redirect; the scores say why.
    Volunteer { node: NodeNo, candidates: usize, cost_micros: u64 },
    /// The server itself.
    Origin(OriginReason),
}

/// Why the server serves a package itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginReason {
    SmallFile,
    /// The client's network must not be redirected.
    NetworkRule,
    /// The client was redirected for this file and asks once more.
    AskedAgain,
    NoHolder,
    /// There are holders, none for this client.
    NoneEligible,
    AllSaturated,
    AllSlow,
    OnlySuspects,
    OnlyBrief,
}

impl OriginReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::SmallFile => "small file",
            Self::NetworkRule => "the client's network is not redirected",
            Self::AskedAgain => "the client asks again for what it was redirected for",
            Self::NoHolder => "no volunteer holds it",
            Self::NoneEligible => "none of its holders is for this client",
            Self::AllSaturated => "every holder is saturated",
            Self::AllSlow => "its holders would take more than `patience` times as long as the server itself",
            Self::OnlySuspects => "its holders miss heartbeats",
            Self::OnlyBrief => {
                "its holders may leave before the download ends, and this client could not come back"
            }
        }
    }
}

/// Work for a volunteer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub node: NodeNo,
    pub epoch: u32,
    /// Of a [`Task::Drop`], the size is 0 where it is not known.
    pub blob: Blob,
    pub task: Task,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Fetch it from these volunteers, in order, else from the server.
    Fetch { peers: Vec<NodeNo> },
    /// Nobody asks for it any more, and something else needs the room.
    Drop,
}

/// A test that the server should make of a volunteer now.
#[derive(Clone, Debug)]
pub struct Probe {
    pub node: NodeNo,
    pub epoch: u32,
    pub base_url: Arc<str>,
    /// What it should send; without one, only whether it answers.
    pub blob: Option<Blob>,
}

/// Whether a generation may become visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// So many copies of hot files are still on their way; it opens then at the latest.
    Waits {
        copies: usize,
        until: Time,
    },
}

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
    /// Requests still to come, if this crowd is like others: the rate above the usual fades from now on with a
    /// half-life of the crowd's age (at least a minute, at most six hours).
    pub forecast: u64,
    /// Bytes of the requests that volunteers were chosen for, and of those that the server answers. Alone, the
    /// server would have had to send both.
    pub redirected_bytes: u64,
    pub origin_bytes: u64,
    /// Downloads running now, of a file; the last reports of volunteers and the server's own count.
    pub in_flight: u32,
    /// What half and nine of ten of the downloads had at least that ended within the span, in bytes/s, as their
    /// senders say.
    pub rate_p50: Option<u64>,
    pub rate_p90: Option<u64>,
    /// Volunteers chosen within the span, and the one whose downloads take longest now, in bytes/s each.
    pub volunteers: usize,
    pub slowest: Option<(NodeNo, f64)>,
}
