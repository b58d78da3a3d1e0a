//! What the administrator of a volunteer is shown: how the server sees it, and its own status.
//!
//! Sizes are bytes, rates bytes per second; points in time are seconds since 1970, and their names say so.

use serde::{Deserialize, Serialize};

use super::VolunteerId;

/// What the server tells a volunteer for its administrator: a text message of the control connection beside those of
/// `formats::control`. A volunteer that does not know it ignores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Notice {
    /// Sent after the first heartbeat, and whenever it has changed.
    Seen(Seen),
}

/// How the server sees a volunteer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// As in the server's own status: `up`, `testing`, `unreachable`, `slow`, `quarantined`.
    pub state: String,
    /// Whether clients are sent there.
    pub gets_clients: bool,
    /// Why not.
    pub problem: Option<String>,
    /// Which clients it is limited to, if any.
    pub limits: Vec<String>,
}

/// The status of a volunteer: what its admin address answers and `manyhands status --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeStatus {
    pub id: VolunteerId,
    pub version: String,
    pub uptime_secs: u64,
    /// Base URL of its server.
    pub server: String,
    /// Where it listens, and the base URL that it advertises instead.
    pub listen: String,
    pub advertise: Option<String>,
    /// When the current session began; `None` without a session.
    pub joined_unix_secs: Option<u64>,
    /// How the server sees it, or `not joined`, `joined` (an older server does not say more), `draining`, `full`.
    pub state: String,
    /// Whether clients are sent here; `None` if the server has not said so.
    pub gets_clients: Option<bool>,
    /// Why not.
    pub problem: Option<String>,
    /// Which clients it is limited to, if any.
    pub limits: Vec<String>,
    /// Files that it holds, in its store and in adopted trees.
    pub holdings: u64,
    pub store_bytes: u64,
    pub max_size: u64,
    pub adopted_holdings: u64,
    pub trees: Vec<TreeStatus>,
    pub orders: OrdersStatus,
    /// Downloads that run: of clients, and of other volunteers.
    pub uploads: u64,
    pub sync_uploads: u64,
    /// What it sends now, and what it donates.
    pub rate: u64,
    pub donate: u64,
    /// Since its process started: package bytes sent to clients, in how many requests; requests redirected to the server;
    /// bytes sent to other volunteers, fetched from them, and fetched from the server.
    pub served_bytes: u64,
    pub served_requests: u64,
    pub returned_requests: u64,
    pub sync_bytes: u64,
    pub peer_bytes: u64,
    pub fetched_bytes: u64,
}

/// An adopted tree, as the last look at it found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeStatus {
    pub path: String,
    /// Files in the tree, and those of them that are served.
    pub files: u64,
    pub adopted: u64,
    /// Why the look failed.
    pub problem: Option<String>,
}

/// What the server ordered since the process started: files to fetch and to drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersStatus {
    pub open: u64,
    pub done: u64,
    pub failed: u64,
    /// Why the last one failed that did.
    pub last_problem: Option<String>,
}
