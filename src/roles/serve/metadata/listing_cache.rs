//! Pages of directories that were made just now, and the bounds on making them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::model::RepoPath;

/// A page is made once for all who ask within this time: a crowd must not read a large directory again and again.
const FRESH: Duration = Duration::from_secs(2);

/// Bytes of pages that are kept for that.
const MAX_KEPT: u64 = 64 << 20;

/// Directories being read: each may take the memory of `MAX_ENTRIES`.
const READERS: usize = 4;

/// KiB of large pages in memory, the ones included that slow clients are still reading.
const MAX_LARGE: usize = 256 << 10;

/// Pages that were made just now, and the bounds on making them.
#[derive(Debug)]
pub struct Listings {
    /// By repository and directory.
    pub(super) pages: Cache<(usize, Option<RepoPath>), Bytes>,
    pub(super) readers: Semaphore,
    pub(super) large: Arc<Semaphore>,
}

impl Default for Listings {
    fn default() -> Self {
        let weigh = |_: &_, page: &Bytes| u32::try_from(page.len()).unwrap_or(u32::MAX);
        Self {
            pages: Cache::builder().max_capacity(MAX_KEPT).weigher(weigh).time_to_live(FRESH).build(),
            readers: Semaphore::new(READERS),
            large: Arc::new(Semaphore::new(MAX_LARGE)),
        }
    }
}
