//! Where files are that no list of packages has, as far as that was learnt: see [`super::learnt`].

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::passed_files::Passed;
use crate::io::db::Db;
use crate::io::withdrawn::Withdrawn;
use crate::model::{Blob, BlobId, Expected, RepoPath};
use crate::policy::Params;
use crate::roles::serve::metadata::repo::Repo;

/// Memory for places: some 100,000.
const PLACES: u64 = 32 << 20;

/// What a place takes besides its path.
const PLACE: usize = 250;

/// Files read at a time for this. Packages wait for the same readers, and clients for packages.
const READINGS: usize = 2;

/// See the module's documentation.
#[derive(Debug)]
pub struct Learnt {
    places: Cache<BlobId, Arc<Place>>,
    pub(super) readings: Arc<Semaphore>,
    pub passed: Passed,
    pub withdrawn: Withdrawn,
    /// Smaller files stay at the server anyway.
    pub(super) smallest: u64,
}

/// Where a blob was seen.
#[derive(Debug)]
struct Place {
    repo: usize,
    path: RepoPath,
    size: u64,
}

impl Learnt {
    pub fn new(db: Arc<Db>) -> Self {
        let weight = |_: &BlobId, place: &Arc<Place>| {
            u32::try_from(place.path.as_str().len() + PLACE).unwrap_or(u32::MAX)
        };
        let places = Cache::builder().max_capacity(PLACES).weigher(weight);
        Self {
            places: places.eviction_policy(EvictionPolicy::lru()).build(),
            readings: Arc::new(Semaphore::new(READINGS)),
            passed: Passed::default(),
            withdrawn: Withdrawn::new(db),
            smallest: Params::default().small_file,
        }
    }

    /// Notes that a path has a blob.
    pub fn put(&self, repo: &Repo, path: &RepoPath, blob: Blob) {
        if !self.has(blob.id, repo, path) {
            let place = Place { repo: repo.index, path: path.clone(), size: blob.size };
            self.places.insert(blob.id, Arc::new(place));
        }
    }

    /// The same for what is large enough to be anywhere else.
    pub fn put_large(&self, repo: &Repo, path: &RepoPath, blob: Blob) {
        if blob.size >= self.smallest {
            self.put(repo, path, blob);
        }
    }

    /// Where a blob was seen last: the repository's number, the path, and what is there.
    pub fn find(&self, id: BlobId) -> Option<(usize, RepoPath, Expected)> {
        let place = self.places.get(&id)?;
        Some((place.repo, place.path.clone(), Expected { digest: id.digest(), size: Some(place.size) }))
    }

    pub fn has(&self, id: BlobId, repo: &Repo, path: &RepoPath) -> bool {
        self.places.get(&id).is_some_and(|place| place.repo == repo.index && place.path == *path)
    }

    /// The path has something else now.
    pub fn forget(&self, id: BlobId) {
        self.places.invalidate(&id);
    }
}
