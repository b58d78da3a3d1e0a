//! Up to where a volunteer's holdings are known, and what of them outlives a session.

use std::time::Duration;

use crate::formats::control::JournalSpan;
use crate::model::{BlobId, Time, VolunteerId};
use crate::policy::tables::shelves::Shelf;

/// For how long the holdings of a volunteer that is gone are kept: a restart, a lost line. A volunteer gone for
/// longer is one of those that come and go.
pub const KEPT_FOR: Duration = Duration::from_secs(600);

/// Up to where a volunteer has announced its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which journal: a volunteer that begins a new one must announce everything.
    pub journal: u64,
    /// The number of the first change that is not known.
    pub next: u64,
}

impl Position {
    /// Whether the volunteer can say all that is missing.
    pub fn is_within(&self, span: &JournalSpan) -> bool {
        self.journal == span.id && (span.first..=span.next).contains(&self.next)
    }
}

/// What a session leaves to the next one.
#[derive(Clone, Copy, Debug)]
pub(in crate::policy) struct Left {
    pub(super) shelf: Option<Shelf>,
    pub(super) holdings: u64,
    pub(super) position: Option<Position>,
    pub(super) last_seen: Time,
}

/// What is known of one volunteer, to be kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub id: VolunteerId,
    pub position: Position,
    pub blobs: Vec<BlobId>,
}
