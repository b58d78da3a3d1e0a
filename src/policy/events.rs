//! What the tracker is told, in the order in which it happened: a log, from which its state follows.

use super::node::NodeNo;
use super::standing::Outcome;
use crate::formats::control::{Ended, HoldingsChange};
use crate::model::{Blob, BlobId};

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
