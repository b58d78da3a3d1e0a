//! The state of a volunteer: what it holds, what it sends, who it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::journal::Journal;
use super::returners::Returners;
use super::told::Told;
use super::traffic::Meter;
use super::uploads::Uploads;
use crate::config::VolunteerConfig;
use crate::formats::control::{HoldingsChange, Report};
use crate::formats::ticket::Key;
use crate::io::db::Db;
use crate::io::fetch::Fetcher;
use crate::io::regular;
use crate::io::shaper::Shaper;
use crate::io::store::{BlobStore, Change, Limits, OnChange};
use crate::io::upstream::Upstream;
use crate::io::{clock, confined};
use crate::model::{BlobId, Time, TreeStatus, VolunteerId};

/// Kinds of the database's records.
const SELF: &str = "self";
const ADOPTED: &str = "adopted";

/// A verified file of an adopted tree, served in place while it stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    pub blob: BlobId,
    pub size: u64,
    pub modified_nanos: u128,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Edge {
    pub config: VolunteerConfig,
    pub id: VolunteerId,
    pub token: String,
    /// This process, among those that may have its identity.
    pub instance: u64,
    /// Where it listens.
    pub address: SocketAddr,
    pub started: Time,
    pub fetcher: Arc<Fetcher>,
    pub upstream: Upstream,
    pub shaper: Arc<Shaper>,
    pub returners: Arc<Returners>,
    db: Arc<Db>,
    key: ArcSwapOption<Key>,
    /// The server's clock at its last welcome, and when that was by our monotonic clock: a step of the local
    /// wall clock does not void tickets.
    server_clock: Mutex<Option<(u64, Instant)>>,
    adopted: Arc<AdoptedFiles>,
    pub journal: Arc<Journal>,
    pub uploads: Arc<Uploads>,
    pub meter: Meter,
    pub told: Told,
    /// What the last look at each adopted tree found.
    trees: Mutex<BTreeMap<PathBuf, TreeStatus>>,
    /// Fetched on order, from other volunteers and from the server.
    pub peer_bytes: AtomicU64,
    pub fetched_bytes: AtomicU64,
    is_draining: AtomicBool,
    /// Notified when it is known that no more clients are on their way here.
    pub nobody_comes: Notify,
    /// Another process is the volunteer now, or about to be.
    has_let_go: watch::Sender<bool>,
    returned: AtomicU64,
}

/// Adopted files by what they are.
type AdoptedFiles = Mutex<BTreeMap<BlobId, (PathBuf, Adopted)>>;

impl Edge {
    /// Opens store and database. Blocks.
    pub fn open(config: VolunteerConfig, address: SocketAddr, token: String) -> anyhow::Result<Self> {
        let named = || format!("cannot open the store in {}", config.store.display());
        confined::writable_folder(&config.store).with_context(named)?;
        // First, since it is locked: a second volunteer must not clean up what this one is writing.
        let db = Db::open(&config.store.join("volunteer.redb"));
        let db = Arc::new(db.with_context(|| format!("{}; is another volunteer using it?", named()))?);
        let journal = Arc::new(Journal::new()?);
        let adopted: Arc<AdoptedFiles> = Arc::default();
        let limits = Limits::new(config.max_size.0, config.min_free.0);
        let tell = tell_changes(journal.clone(), adopted.clone());
        let store = BlobStore::open(&config.store, limits, tell).with_context(named)?;
        store.tell_limits(limits);
        let upstream = Upstream::new().context("cannot read the system's certificate authorities")?;
        let mut instance = [0; 8];
        getrandom::fill(&mut instance).map_err(std::io::Error::other)?;
        let edge = Self {
            id: identity(&config, &db)?,
            token,
            instance: u64::from_le_bytes(instance),
            address,
            started: clock::now(),
            fetcher: Fetcher::new(store, db.clone(), upstream.clone()),
            upstream,
            shaper: Arc::new(Shaper::new(config.donate)),
            returners: Arc::new(Returners::new()),
            key: ArcSwapOption::empty(),
            server_clock: Mutex::default(),
            adopted,
            journal,
            uploads: Arc::default(),
            meter: Meter::default(),
            told: Told::default(),
            trees: Mutex::default(),
            peer_bytes: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            nobody_comes: Notify::new(),
            has_let_go: watch::Sender::new(false),
            returned: AtomicU64::new(0),
            db,
            config,
        };
        edge.load_key();
        edge.load_adopted();
        Ok(edge)
    }

    /// The key of the last session, so that tickets are served before the server is reached again.
    fn load_key(&self) {
        let stored = self.db.record(SELF, &format!("key {}", self.config.server)).ok().flatten();
        if let Some(key) = stored.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            self.key.store(Some(Arc::new(Key::new(&key))));
        }
    }

    /// What the server said in its welcome.
    pub fn set_key(&self, secret: [u8; 32], server_now_secs: u64) {
        self.key.store(Some(Arc::new(Key::new(&secret))));
        *self.lock_clock() = Some((server_now_secs, Instant::now()));
        let name = format!("key {}", self.config.server);
        if let Err(e) = self.db.put_records(SELF, [(name.as_str(), Some(secret.to_vec()))]) {
            tracing::warn!(error = %e, "cannot save the key");
        }
    }

    pub fn key(&self) -> Option<Arc<Key>> {
        self.key.load_full()
    }

    /// Seconds since 1970 by the server's clock.
    pub fn server_now_secs(&self) -> u64 {
        match *self.lock_clock() {
            Some((then, since)) => then + since.elapsed().as_secs(),
            None => clock::now().as_secs(),
        }
    }

    fn lock_clock(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.server_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything held, for a full announcement.
    pub fn holdings(&self) -> Vec<BlobId> {
        let mut all: Vec<BlobId> = self.fetcher.store.blobs().into_iter().map(|blob| blob.id).collect();
        all.extend(self.lock_adopted().keys());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Blobs and bytes, adopted ones included.
    pub fn totals(&self) -> (u64, u64) {
        let (blobs, bytes) = self.fetcher.store.totals();
        let adopted = self.lock_adopted();
        (blobs + adopted.len() as u64, bytes + adopted.values().map(|(_, file)| file.size).sum::<u64>())
    }

    pub fn holds(&self, id: BlobId) -> bool {
        self.fetcher.store.size_of(id).is_some() || self.lock_adopted().contains_key(&id)
    }

    /// Opens a holding. One that was altered on disk is dropped, and the server informed.
    pub fn open_blob(&self, id: BlobId) -> Option<(File, u64)> {
        self.fetcher.store.open_blob(id).or_else(|| self.open_adopted(id))
    }

    fn open_adopted(&self, id: BlobId) -> Option<(File, u64)> {
        let (path, known) = self.lock_adopted().get(&id).cloned()?;
        let file = regular::open(&path)
            .ok()
            .map(|(file, _)| file)
            .filter(|file| fingerprint(file) == Some((known.size, known.modified_nanos)));
        if let Some(file) = file {
            return Some((file, known.size));
        }
        tracing::info!(file = %path.display(), "an adopted file changed; no longer served");
        self.lock_adopted().remove(&id);
        self.journal.push(HoldingsChange::Remove, [id]);
        let name = path.to_string_lossy();
        // If this fails the file is checked again, and dropped again, after the next start.
        let _ = self.db.put_records(ADOPTED, [(name.as_ref(), None)]);
        None
    }

    /// Adds verified files of a tree.
    pub fn adopt(&self, files: Vec<(PathBuf, Adopted)>) -> anyhow::Result<()> {
        let mut records = Vec::with_capacity(files.len());
        for (path, file) in &files {
            records.push((path.to_string_lossy().into_owned(), serde_json::to_vec(file)?));
        }
        self.db
            .put_records(ADOPTED, records.iter().map(|(name, json)| (name.as_str(), Some(json.clone()))))?;
        let blobs: Vec<BlobId> = files.iter().map(|(_, file)| file.blob).collect();
        // A full announcement in between must find them.
        self.lock_adopted().extend(files.into_iter().map(|(path, file)| (file.blob, (path, file))));
        self.journal.push(HoldingsChange::Add, blobs);
        Ok(())
    }

    /// Whether the file is adopted as it is now.
    pub fn is_adopted(&self, path: &Path, size: u64, modified_nanos: u128) -> bool {
        let record = self.db.record(ADOPTED, &path.to_string_lossy()).ok().flatten();
        let known = record.and_then(|json| serde_json::from_slice::<Adopted>(&json).ok());
        known.is_some_and(|known| (known.size, known.modified_nanos) == (size, modified_nanos))
    }

    /// Notes what a look at an adopted tree found; whether that is news.
    pub fn note_tree(&self, tree: &Path, found: TreeStatus) -> bool {
        let before = self.lock_trees().insert(tree.to_owned(), found.clone());
        before != Some(found)
    }

    pub fn trees(&self) -> Vec<TreeStatus> {
        self.lock_trees().values().cloned().collect()
    }

    fn lock_trees(&self) -> MutexGuard<'_, BTreeMap<PathBuf, TreeStatus>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings adopted files back whose size and date are as they were when they were hashed.
    fn load_adopted(&self) {
        let mut adopted = self.lock_adopted();
        let mut gone = Vec::new();
        for (name, json) in self.db.records(ADOPTED).unwrap_or_default() {
            let path = PathBuf::from(&name);
            let is_ours = self.config.adopt.iter().any(|tree| path.starts_with(tree));
            let known = serde_json::from_slice::<Adopted>(&json).ok().filter(|_| is_ours);
            let now = regular::open(&path).ok().and_then(|(file, _)| fingerprint(&file));
            match known {
                Some(known) if now == Some((known.size, known.modified_nanos)) => {
                    adopted.insert(known.blob, (path, known));
                }
                _ => gone.push(name),
            }
        }
        // What stays in the database by a failure here is only looked at again.
        let _ = self.db.put_records(ADOPTED, gone.iter().map(|name| (name.as_str(), None)));
    }

    fn lock_adopted(&self) -> MutexGuard<'_, BTreeMap<BlobId, (PathBuf, Adopted)>> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count_returned(&self) {
        self.returned.fetch_add(1, Relaxed);
    }

    /// New requests go back to the server from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// Lets go of what only one process can have; what it holds is still served. Blocks.
    pub fn let_go(&self) {
        self.has_let_go.send_replace(true);
        self.fetcher.store.save_use();
        self.fetcher.store.leave();
        self.db.close();
    }

    /// Takes it back. Blocks.
    pub fn take_back(&self) -> anyhow::Result<()> {
        self.db.reopen()?;
        self.fetcher.store.take_back()?;
        self.has_let_go.send_replace(false);
        Ok(())
    }

    pub fn has_let_go(&self) -> bool {
        *self.has_let_go.borrow()
    }

    /// Completes when that is so, or not so any more.
    pub async fn let_go_is(&self, wanted: bool) {
        // The sender lives as long as this.
        let _ = self.has_let_go.subscribe().wait_for(|is| *is == wanted).await;
    }

    /// The next heartbeat.
    pub fn report(&self) -> Report {
        let (stored, store_bytes) = self.fetcher.store.totals();
        let adopted = self.lock_adopted().len() as u64;
        Report {
            returned_requests: self.returned.load(Relaxed),
            store_bytes,
            holdings: stored + adopted,
            adopted,
            peer_bytes: self.peer_bytes.load(Relaxed),
            fetched_bytes: self.fetched_bytes.load(Relaxed),
            ..self.uploads.report()
        }
    }
}

/// Tells the server what the store holds. What is adopted as well stays announced.
fn tell_changes(journal: Arc<Journal>, adopted: Arc<AdoptedFiles>) -> OnChange {
    OnChange(Box::new(move |change| match change {
        Change::Added(blob) => journal.push(HoldingsChange::Add, [blob.id]),
        Change::Removed(id) => {
            if !adopted.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id) {
                journal.push(HoldingsChange::Remove, [id]);
            }
        }
    }))
}

/// Size and modification time: they show that a file was modified.
pub fn fingerprint(file: &File) -> Option<(u64, u128)> {
    let meta = file.metadata().ok()?;
    Some((meta.len(), modified_nanos(&meta)?))
}

/// Nanoseconds since 1970.
pub fn modified_nanos(meta: &std::fs::Metadata) -> Option<u128> {
    Some(meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos())
}

/// The configured name, or the remembered one, or a new one from the host's name.
fn identity(config: &VolunteerConfig, db: &Db) -> anyhow::Result<VolunteerId> {
    if let Some(id) = &config.id {
        return Ok(id.clone());
    }
    if let Some(stored) = db.record(SELF, "id")? {
        return Ok(String::from_utf8(stored)?.parse()?);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_ascii_lowercase();
    let label = host.trim().split('.').next().unwrap_or("");
    let mut name: String =
        label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(50).collect();
    name = name.trim_matches('-').to_owned();
    if name.is_empty() {
        name.push_str("volunteer");
    }
    let mut suffix = [0; 3];
    getrandom::fill(&mut suffix).map_err(std::io::Error::other)?;
    let id: VolunteerId = format!("{name}-{:02x}{:02x}{:02x}", suffix[0], suffix[1], suffix[2]).parse()?;
    db.put_records(SELF, [("id", Some(id.as_str().as_bytes().to_vec()))])?;
    Ok(id)
}
