//! What every part of the server shares.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::admin::crowd_status::Crowds;
use super::http::access::AccessLog;
use super::http::target::Door;
use super::http::traffic::Traffic;
use super::metadata::listing_cache::Listings;
use super::metadata::pins::Pins;
use super::metadata::repo::Repo;
use super::packages::metalink_hold::Courtesy;
use super::packages::places::Learnt;
use super::packages::serving::Downloads;
use super::packages::settled::Settled;
use super::volunteers::failover::Failover;
use super::volunteers::fleet::Fleet;
use crate::catalog::{Census, PathTable, Snapshot};
use crate::config::ServeConfig;
use crate::io::clock;
use crate::io::db::Db;
use crate::io::fetch::{FetchError, Fetcher};
use crate::io::index_dir::IndexDir;
use crate::io::shutdown::Shutdown;
use crate::io::tokens::TokenFile;
use crate::io::tree_hashes::TreeHashes;
use crate::io::tunnel::Tunnels;
use crate::io::upstream::Upstream;
use crate::model::{BlobId, Digest, Expected, RepoPath, Time};

/// One list at a time on each of two cores.
const PARSERS: usize = 2;
/// Looks at the start wait for disks and upstreams most of their time.
const WARMERS: usize = 8;
/// Small answers that are expensive to find out again.
const REMEMBERED: u64 = 100_000;
/// Memory for indexes within metadata: a suite's diff indexes are some 100 KB.
const NESTED_BYTES: u64 = 32 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub struct Server {
    pub config: ServeConfig,
    pub repos: Vec<Repo>,
    pub fleet: Fleet,
    pub door: Door,
    pub tunnels: Tunnels,
    /// Packages from upstreams, bounded by `cache.max_size`.
    pub packages: Arc<Fetcher>,
    /// Members of snapshots.
    pub metadata: Arc<Fetcher>,
    pub upstream: Upstream,
    pub db: Arc<Db>,
    pub tokens: TokenFile,
    pub traffic: Arc<Traffic>,
    pub downloads: Arc<Downloads>,
    pub access: Option<AccessLog>,
    pub started: Time,
    /// Encoded generations, for a quick start.
    pub indexes: Mutex<IndexDir>,
    census: Mutex<Option<(u64, Arc<Census>)>>,
    /// Grows whenever a snapshot or what is known of its blobs changes.
    catalog_version: AtomicU64,
    /// Sizes of files whose metadata gives none (checksum files), once the origin has reported them.
    pub sizes: Cache<Digest, Option<u64>>,
    /// Whether an upstream has a file of its own where a client asked for a manifest.
    pub has_own_file: Cache<String, bool>,
    /// Until when a client that has a metalink of a blob is given time to get it from volunteers.
    pub courtesy: Courtesy,
    /// Pages of directories.
    pub listings: Listings,
    /// What clients are in the middle of reading.
    pub pins: Pins,
    /// What members that are indexes themselves name, by their digest.
    pub nested: Cache<Digest, Arc<PathTable>>,
    /// Such members that could not be had, for a minute.
    pub not_nested: Cache<Digest, FetchError>,
    /// What the files of local trees hold.
    pub trees: Arc<TreeHashes>,
    /// Those of them that no metadata names.
    pub learnt: Learnt,
    /// Files that were reread for the digests of their pieces, so that each is read once.
    pub hashing: Cache<Digest, ()>,
    /// Which file a path means, where metadata names several.
    pub settled: Settled,
    /// Package lists being read: each takes as much memory as it has bytes, and more.
    pub parsing: tokio::sync::Semaphore,
    /// Units read at the start, over all repositories.
    pub warming: tokio::sync::Semaphore,
    /// Scans of the whole catalog under way: one.
    pub lookups: Arc<tokio::sync::Semaphore>,
    /// What the failover zone needs, where there is one.
    pub failover: Option<Failover>,
    /// Begins when the server should stop.
    pub shutdown: Shutdown,
    pub crowds: Crowds,
}

/// What [`Server::new`] takes; the rest it makes.
#[derive(Debug)]
pub struct Parts {
    pub config: ServeConfig,
    pub repos: Vec<Repo>,
    pub packages: Arc<Fetcher>,
    pub metadata: Arc<Fetcher>,
    pub upstream: Upstream,
    pub db: Arc<Db>,
    pub access: Option<AccessLog>,
    pub indexes: IndexDir,
    pub shutdown: Shutdown,
}

impl Server {
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        let Parts { config, repos, packages, metadata, upstream, db, access, indexes, shutdown } = parts;
        let ten_minutes = Duration::from_secs(600);
        Ok(Self {
            repos,
            door: Door::new(&config),
            failover: config.failover.as_ref().map(|failover| Failover::new(failover.zone.clone())),
            tunnels: Tunnels::default(),
            tokens: TokenFile::in_state_dir(&config.state_dir),
            fleet: Fleet::new(&config)?,
            config,
            packages,
            metadata,
            upstream,
            trees: TreeHashes::new(db.clone()),
            learnt: Learnt::new(db.clone()),
            db,
            access,
            traffic: Arc::default(),
            downloads: Arc::default(),
            started: clock::now(),
            indexes: Mutex::new(indexes),
            census: Mutex::default(),
            catalog_version: AtomicU64::new(0),
            sizes: Cache::builder().max_capacity(REMEMBERED).time_to_live(ten_minutes).build(),
            has_own_file: Cache::builder().max_capacity(REMEMBERED).time_to_live(ten_minutes).build(),
            courtesy: Courtesy::default(),
            listings: Listings::default(),
            pins: Pins::default(),
            not_nested: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(Duration::from_secs(60))
                .build(),
            nested: Cache::builder()
                .max_capacity(NESTED_BYTES)
                .weigher(|_, table: &Arc<PathTable>| {
                    u32::try_from(table.as_bytes().len()).unwrap_or(u32::MAX)
                })
                .build(),
            hashing: Cache::builder().max_capacity(REMEMBERED).time_to_live(ten_minutes).build(),
            settled: Settled::default(),
            shutdown,
            parsing: tokio::sync::Semaphore::new(PARSERS),
            warming: tokio::sync::Semaphore::new(WARMERS),
            lookups: Arc::new(tokio::sync::Semaphore::new(1)),
            crowds: Crowds::default(),
        })
    }

    pub fn repo(&self, name: &str) -> Option<&Repo> {
        self.repos.iter().find(|repo| repo.config.name == name)
    }

    /// Notes that a census taken before is out of date.
    pub fn catalog_changed(&self) {
        self.catalog_version.fetch_add(1, Ordering::Relaxed);
    }

    /// Equal as long as nothing has changed.
    pub fn catalog_version(&self) -> u64 {
        self.catalog_version.load(Ordering::Relaxed)
    }

    /// How many names there are for how many blobs now. Blocks while millions are counted.
    pub fn census(&self) -> Arc<Census> {
        let taken = self.census.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match taken {
            Some((of, census)) if of == self.catalog_version() => census,
            _ => self.take_census(),
        }
    }

    /// Counts again: bytes hashed since the last time may have shown that files are identical. Blocks.
    pub fn take_census(&self) -> Arc<Census> {
        let mut taken = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.catalog_version();
        let snapshots: Vec<_> = self.repos.iter().map(|repo| repo.snapshot().clone()).collect();
        let snapshots: Vec<&Snapshot> = snapshots.iter().map(AsRef::as_ref).collect();
        let canonical = |digest: &Digest| {
            self.packages.resolve(&Expected { digest: *digest, size: None }).map_or(*digest, |id| id.digest())
        };
        let census = Arc::new(Census::of(&snapshots, canonical));
        *taken = Some((version, census.clone()));
        census
    }

    /// Where the catalog has a blob, once per repository: by its SHA-256, or by a digest that its hashed bytes are
    /// known to have. A generation that is about to become visible counts: volunteers fetch its files. Last, where
    /// it was seen without being named.
    pub fn find(&self, id: BlobId) -> Vec<(&Repo, RepoPath, Expected)> {
        let mut digests = vec![id.digest()];
        if let Ok(Some(all)) = self.db.digests(id) {
            digests.extend(all.aliases());
        }
        let in_repo = |repo| {
            let snapshot = Repo::snapshot(repo);
            let visible = digests.iter().find_map(|digest| snapshot.path_of(digest));
            let pending = || digests.iter().find_map(|digest| Repo::pending_path_of(repo, digest));
            let (path, expected) = visible.or_else(pending)?;
            Some((repo, RepoPath::new(&path).ok()?, expected))
        };
        let learnt = self.learnt.find(id);
        let learnt = learnt.and_then(|(repo, path, expected)| Some((self.repos.get(repo)?, path, expected)));
        self.repos.iter().filter_map(in_repo).chain(learnt).collect()
    }
}
