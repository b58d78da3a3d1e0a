//! Files that were passed through and are known since: see [`super::passed`].

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::model::{Blob, RepoPath};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::metadata::validator::Validator;

/// Memory for files: some 30,000.
const MEMORY: u64 = 16 << 20;

/// What a file takes besides its path, which it has twice, and its upstream's tag and date.
const RECORD: usize = 400;

/// See the module's documentation.
#[derive(Debug)]
pub struct Passed {
    pub(super) files: Cache<Place, Arc<Record>>,
    /// What is to be written down.
    pub(super) changed: Arc<Mutex<BTreeSet<Place>>>,
}

/// The repository's number and the path.
pub type Place = (usize, RepoPath);

/// A file as it was passed through.
#[derive(Debug)]
pub struct Record {
    pub blob: Blob,
    /// `Last-Modified` as the upstream gave it.
    pub modified_secs: u64,
    pub validator: Validator,
    /// When the upstream was asked last, and what it said. Not since the start for what was read.
    pub asked: tokio::sync::Mutex<Option<(Instant, Said)>>,
}

/// What an upstream says of a file that was passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Same,
    Other,
    /// It does not answer.
    Nothing,
}

impl Default for Passed {
    fn default() -> Self {
        let changed = Arc::<Mutex<BTreeSet<Place>>>::default();
        let gone = changed.clone();
        let weight = |(_, path): &Place, _: &Arc<Record>| {
            u32::try_from(2 * path.as_str().len() + RECORD).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(MEMORY).weigher(weight);
        // Whatever leaves memory leaves the database, which is bounded by that.
        let cache = cache.eviction_listener(move |place: Arc<Place>, _, _| {
            gone.lock().unwrap_or_else(PoisonError::into_inner).insert(Place::clone(&place));
        });
        Self { files: cache.eviction_policy(EvictionPolicy::lru()).build(), changed }
    }
}

impl Passed {
    pub fn get(&self, repo: &Repo, path: &RepoPath) -> Option<Arc<Record>> {
        self.files.get(&(repo.index, path.clone()))
    }

    pub fn put(&self, place: Place, record: Record) {
        self.files.insert(place.clone(), Arc::new(record));
        self.note_changed(place);
    }

    pub fn note_changed(&self, place: Place) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
    }
}
