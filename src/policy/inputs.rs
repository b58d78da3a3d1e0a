//! What the tracker is told, in the order in which it happened: a log, from which its state follows.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::ids::NodeNo;
use super::tables::hash::fnv1a;
use crate::formats::control::{Ended, HoldingsChange};
use crate::model::{Blob, BlobId, Rate, Size, Time, VolunteerId};

/// What happened. Events of an old session (another epoch) are ignored.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The control connection ended; `clean` if the volunteer had said so, or the server itself ended it.
    Left {
        node: NodeNo,
        epoch: u32,
        clean: bool,
    },
    Holdings {
        node: NodeNo,
        epoch: u32,
        change: HoldingsChange,
        blobs: &'a [BlobId],
    },
    /// Changes of holdings are announced up to this number of the volunteer's journal.
    Announced {
        node: NodeNo,
        epoch: u32,
        next: u64,
    },
    Reported {
        node: NodeNo,
        epoch: u32,
        load: &'a Load,
    },
    /// An order was carried out, or could not be. What its source sent for it ends with it.
    OrderEnded {
        node: NodeNo,
        epoch: u32,
        blob: BlobId,
        failed: bool,
    },
    /// A test of the server's own has ended.
    Probed {
        node: NodeNo,
        epoch: u32,
        outcome: Outcome,
    },
    /// Bytes that such a test got. The volunteer takes them for a client's.
    Tested {
        node: NodeNo,
        epoch: u32,
        bytes: u64,
    },
}

impl Event<'_> {
    /// Of which volunteer and session.
    pub fn session(&self) -> (NodeNo, u32) {
        match self {
            Self::Left { node, epoch, .. }
            | Self::Holdings { node, epoch, .. }
            | Self::Announced { node, epoch, .. }
            | Self::Reported { node, epoch, .. }
            | Self::OrderEnded { node, epoch, .. }
            | Self::Probed { node, epoch, .. }
            | Self::Tested { node, epoch, .. } => (*node, *epoch),
        }
    }
}

/// A heartbeat's figures.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Uploads to clients running now, and what is left of those that are listed.
    pub uploads: u32,
    pub remaining: Vec<Blob>,
    /// Uploads to other volunteers and what is left of them, as far as they are known; not among `uploads`.
    pub syncs: Vec<Blob>,
    /// Bytes sent to clients since the volunteer's process started.
    pub served_bytes: u64,
    pub served_requests: u64,
    /// What `max_size` bounds; adopted files are not in it.
    pub store_bytes: u64,
    /// Holdings that are adopted files.
    pub adopted: u64,
    /// The same to other volunteers; and fetched on order, from other volunteers and from the server.
    pub sync_bytes: u64,
    pub peer_bytes: u64,
    pub fetched_bytes: u64,
    /// A sample of the clients' downloads that ended since the last report.
    pub ended: Vec<Ended>,
}

/// What the server's own line is doing.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// Bytes/s sent over what the line takes, 0 to 1 and beyond.
    pub load: f64,
    /// Downloads of packages running now, by blob.
    pub running: Vec<(BlobId, u32)>,
    /// A sample of those that ended since this was last told.
    pub ended: Vec<Ended>,
}

/// A volunteer that introduces itself.
#[derive(Clone, Debug)]
pub struct Joined {
    pub id: VolunteerId,
    /// Base URL that clients are sent to.
    pub base_url: Arc<str>,
    /// Only clients on the server's own machine can reach it.
    pub is_local: bool,
    pub donate: Rate,
    pub max_size: Size,
    /// The only networks whose clients it serves, as it says itself; empty is all.
    pub clients: Vec<IpNet>,
    /// Its process, so that two with one identity are told apart.
    pub instance: u64,
    /// It says itself that it comes and goes.
    pub is_volatile: bool,
    pub record: Record,
}

/// What outlives sessions and the server's restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// It sent wrong bytes: nothing before this.
    pub quarantined_until: Option<Time>,
    /// When it went away without a word, the last time and the time before.
    pub vanished: [Option<Time>; 2],
    /// How much of the time it was there.
    pub presence: Presence,
}

/// How long some server watched for a volunteer since it first joined, and how much of that it was there. While
/// no server runs nobody is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    pub observed: Duration,
    pub present: Duration,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It answered and showed that it has its key.
    Reached,
    /// It sent the right bytes, so many a second.
    Good { bytes_per_sec: f64 },
    /// It sent bytes that are not the file's.
    Wrong { what: String },
    /// It did not answer, or not so that a client could use it.
    Failed { why: String },
}

/// A package request, as far as the decision goes.
#[derive(Clone, Debug)]
pub struct Request {
    pub blob: Blob,
    /// Bytes asked for: the blob's size, or less for a range; 0 for those who only look.
    pub len: u64,
    /// How busy the server's own line is, 0 to 1.
    pub origin_load: f64,
    pub client: Asker,
    /// If its volunteer fails, the client asks here again or has another URL.
    pub can_return: bool,
    /// One of several parts that are fetched on their own: asking for the next is no second try.
    pub is_segment: bool,
    /// A volunteer sent the client back to be redirected anew: that must come to an end.
    pub is_sent_back: bool,
}

/// Who asks, as far as can be told: another program is another client. A client that tries again is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    pub address: IpAddr,
    /// What stands for its User-Agent.
    pub agent: u64,
}

impl Asker {
    pub fn new(address: IpAddr, user_agent: &str) -> Self {
        Self { address, agent: fnv1a(user_agent) }
    }
}

/// A generation that is about to become visible. A unit's first is none: nobody waits for what is all new.
#[derive(Clone, Debug)]
pub struct Release {
    /// `debian dists/stable`: for people.
    pub name: Arc<str>,
    pub files: Vec<ReleasedFile>,
}

/// A file that the generation before did not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleasedFile {
    pub blob: Blob,
    /// The version before it, whose demand it inherits.
    pub predecessor: Option<BlobId>,
}

/// The long counter of one blob, to be kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remembered {
    pub blob: Blob,
    /// Requests, each halved per long half-life up to `updated`.
    pub lasting: f64,
    pub updated: Time,
}
