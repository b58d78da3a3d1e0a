//! Publish gate: a new generation becomes visible when its likely hot files have their copies, or when waiting
//! for them has taken long enough.

use std::sync::Arc;

use crate::model::{Blob, BlobId, Time};

/// A generation that is about to become visible.
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

/// Which release a gate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReleaseNo(pub(super) u64);

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
