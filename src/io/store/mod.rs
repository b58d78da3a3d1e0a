//! The blob store: one file per blob, named by its SHA-256, in `blobs/ab/<hex>`.
//!
//! Bytes come in through [`Incoming`], which hashes while it writes a temporary file. Only
//! [`Incoming::verify`] turns it into a [`Verified`], and only [`BlobStore::commit`] takes one: nothing else
//! can create a blob. fsync comes before rename, so a crash at any instant leaves whole blobs and
//! temporary files, which opening removes. Names prove contents, so opening reads no file; what is altered
//! behind our back is found by [`super::scrub`].
//!
//! Bounded: room is promised before bytes are written, by quota and by what the disk has left, and made by
//! removing the least valuable blobs ([`Rank`]). A reader keeps its open file, whatever is removed.

mod disk;
mod incoming;
mod index;
mod leave;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use self::incoming::Room;
pub use self::incoming::{Incoming, Verified, VerifyError};
use self::index::Index;
pub use self::index::Rank;
use super::hasher::Hashes;
use crate::model::{Alternatives, Blob, BlobId, Expected, Size};

/// Blobs looked at under one lock when all are gone through.
const CHUNK: usize = 512;

/// Why the store cannot take a file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{need} bytes do not fit into max_size ({max}) besides what must not be removed")]
    NoRoom { need: u64, max: u64 },
    /// `max_size` is not what limits it.
    #[error(
        "{need} bytes do not fit on a disk of {total} of which min_free ({min_free}) stay free: lower min_free"
    )]
    DiskSmall { need: u64, total: Size, min_free: Size },
    #[error(
        "the disk has {free} free, and {need} bytes besides min_free ({min_free}) are needed: free some space, or lower min_free"
    )]
    DiskFull { need: u64, free: Size, min_free: Size },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a store may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum bytes of blobs, arriving ones included. Less where the file system is smaller.
    pub max_bytes: u64,
    /// Bytes of the file system that stay free.
    pub min_free: u64,
    /// The rank of new blobs.
    pub rank: Rank,
}

impl Limits {
    pub fn new(max_bytes: u64, min_free: u64) -> Self {
        Self { max_bytes, min_free, rank: Rank::Named }
    }
}

/// A change of what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added(Blob),
    Removed(BlobId),
}

/// Told of every change in the order they happen, under the store's lock: it must be quick and must not call
/// the store.
pub struct OnChange(pub Box<dyn Fn(Change) + Send + Sync>);

impl std::fmt::Debug for OnChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnChange")
    }
}

impl OnChange {
    pub fn ignore() -> Self {
        Self(Box::new(|_| ()))
    }
}

/// A new blob.
#[derive(Debug)]
pub struct Committed {
    pub blob: Blob,
    pub hashes: Hashes,
}

/// A blob that is to be reread.
#[derive(Debug)]
pub(super) struct ToCheck {
    pub(super) blob: Blob,
    born: u64,
    /// None if it could not even be opened, and has been dropped for that.
    pub(super) file: Option<File>,
}

/// See the module's documentation. All methods but [`Self::touch`], [`Self::rank`], [`Self::size_of`] and the
/// totals block on the file system.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    limits: Limits,
    index: Mutex<Index>,
    /// Held while files come to or go from their final names, so that index and names agree. Taken before
    /// the index's lock.
    names: Mutex<()>,
    /// Of this process alone: while one process takes over from another, both have files under way.
    temp_prefix: String,
    next_temp: AtomicU64,
    /// Another process keeps it now. Set with the names locked.
    is_left: AtomicBool,
    on_change: OnChange,
    scrubbed: AtomicU64,
    bad: AtomicU64,
}

impl BlobStore {
    /// Opens or creates a store and lists what it holds, without reading contents.
    pub fn open(dir: &Path, mut limits: Limits, on_change: OnChange) -> io::Result<Arc<Self>> {
        let temp = dir.join("tmp");
        fs::create_dir_all(&temp)?;
        for entry in fs::read_dir(&temp)? {
            let _ = fs::remove_file(entry?.path());
        }
        create_shards(&dir.join("blobs"))?;
        if let Some(total) = disk::total(dir) {
            limits.max_bytes = limits.max_bytes.min(total.saturating_sub(limits.min_free));
        }
        let mut index = Index::default();
        for blob in scan(dir)? {
            index.insert(blob, limits.rank);
        }
        let doomed = index.doom(index.excess(0, limits.max_bytes)).unwrap_or_default();
        let store = Self {
            dir: dir.to_owned(),
            limits,
            index: Mutex::new(index),
            names: Mutex::default(),
            temp_prefix: leave::temp_prefix()?,
            next_temp: AtomicU64::new(0),
            is_left: AtomicBool::new(false),
            on_change,
            scrubbed: AtomicU64::new(0),
            bad: AtomicU64::new(0),
        };
        store.unlink(&doomed);
        Ok(Arc::new(store))
    }

    /// Starts a file that must become `expected`, and makes room for it.
    pub fn incoming(self: &Arc<Self>, expected: Expected) -> Result<Incoming, StoreError> {
        let mut incoming = self.begin(expected.into())?;
        if let Some(size) = expected.size {
            incoming.expect_len(size)?;
        }
        Ok(incoming)
    }

    /// The same without making room yet: for those who do not know whether any bytes will come.
    pub fn begin(self: &Arc<Self>, wanted: Alternatives) -> Result<Incoming, StoreError> {
        self.promise(0)?;
        let room = Room { store: self.clone(), bytes: 0 };
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("tmp").join(format!("{}{number}", self.temp_prefix));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok(Incoming::new(path, file, wanted, room))
    }

    /// Makes a verified file a blob; it is not kept if another process keeps the store by now.
    pub fn commit(&self, mut verified: Verified) -> io::Result<Committed> {
        let blob = verified.blob;
        let target = self.path(blob.id);
        let names = self.lock_names();
        if !self.publish(&mut verified, &target)? {
            return Ok(Committed { blob, hashes: verified.hashes });
        }
        let mut index = self.lock();
        index.release(std::mem::take(&mut verified.room.bytes));
        index.insert(blob, self.limits.rank);
        (self.on_change.0)(Change::Added(blob));
        drop(index);
        drop(names);
        if let Some(shard) = target.parent() {
            File::open(shard)?.sync_all()?;
        }
        Ok(Committed { blob, hashes: verified.hashes })
    }

    /// Promises room, and makes it.
    fn promise(&self, bytes: u64) -> Result<(), StoreError> {
        let max = self.limits.max_bytes;
        let mut index = self.lock();
        // What is under way when the store is left is not stopped, and no longer at the cost of what is kept.
        if index.excess(bytes, max) > 0 && !self.is_left() {
            drop(index);
            let names = self.lock_names();
            index = self.lock();
            let excess = if self.is_left() { 0 } else { index.excess(bytes, max) };
            let doomed = index.doom(excess).ok_or_else(|| self.no_room(bytes))?;
            index.promise(bytes);
            self.forget(index, &doomed);
            drop(names);
        } else {
            index.promise(bytes);
            drop(index);
        }
        self.make_disk_room(bytes).inspect_err(|_| self.lock().release(bytes))
    }

    /// Removes blobs worth at least `bytes`, if there are so many.
    fn evict(&self, bytes: u64) -> bool {
        let _names = self.lock_names();
        if self.is_left() {
            return false;
        }
        let mut index = self.lock();
        let doomed = index.doom(bytes);
        let is_enough = doomed.is_some();
        self.forget(index, &doomed.unwrap_or_default());
        is_enough
    }

    /// Reports blobs that were taken out of the index and removes their files; the caller holds the names.
    fn forget(&self, index: MutexGuard<'_, Index>, doomed: &[BlobId]) {
        for id in doomed {
            (self.on_change.0)(Change::Removed(*id));
        }
        drop(index);
        self.unlink(doomed);
    }

    fn unlink(&self, doomed: &[BlobId]) {
        for id in doomed {
            let _ = fs::remove_file(self.path(*id));
        }
    }

    /// Opens a blob for reading and counts it as used. One whose file is gone or has another length is
    /// dropped from the store: somebody altered it behind our back.
    pub fn open_blob(&self, id: BlobId) -> Option<(File, u64)> {
        let entry = self.lock().touch(id)?;
        self.open_entry(id, entry.size, entry.born).map(|file| (file, entry.size))
    }

    fn open_entry(&self, id: BlobId, size: u64, born: u64) -> Option<File> {
        match File::open(self.path(id)).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((len, file)) if len == size => return Some(file),
            Ok((len, _)) => self.drop_bad(id, born, &format!("has {len} bytes instead of {size}")),
            Err(e) if disk::is_damage(&e) => self.drop_bad(id, born, &e.to_string()),
            Err(e) => tracing::warn!(blob = %id, error = %e, "a stored file cannot be opened now"),
        }
        None
    }

    /// Removes a blob that need not be kept; whether it was there. Who reads it now reads on. Blocks.
    pub fn remove(&self, id: BlobId) -> bool {
        let _names = self.lock_names();
        let mut index = self.lock();
        if self.is_left() || index.get(id).is_none() {
            return false;
        }
        index.remove(id);
        self.forget(index, &[id]);
        true
    }

    /// Drops a blob whose file failed while it was read, if that is the file's fault.
    pub fn read_failed(&self, id: BlobId, error: &io::Error) {
        let born = self.lock().get(id).map(|entry| entry.born);
        if let Some(born) = born
            && disk::is_damage(error)
        {
            self.drop_bad(id, born, &error.to_string());
        }
    }

    /// Drops the blob that came at `born`, unless it has gone since.
    fn drop_bad(&self, id: BlobId, born: u64, problem: &str) {
        let _names = self.lock_names();
        let mut index = self.lock();
        if self.is_left() || index.get(id).is_none_or(|entry| entry.born != born) {
            return;
        }
        index.remove(id);
        self.forget(index, &[id]);
        self.bad.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            file = %self.path(id).display(), problem,
            "a stored file was altered or cannot be read; removed, and fetched again on request. If this recurs, check the disk and what else writes there"
        );
    }

    /// The next blob after one in the order of ids, for reading it again; not counted as a use. `None` past the
    /// last one.
    pub(super) fn next_to_check(&self, last: Option<BlobId>) -> Option<ToCheck> {
        let index = self.lock();
        let blob = index.after(last, 1).pop()?;
        let born = index.get(blob.id)?.born;
        drop(index);
        Some(ToCheck { blob, born, file: self.open_entry(blob.id, blob.size, born) })
    }

    /// What came of reading it again.
    pub(super) fn was_checked(&self, what: &ToCheck, outcome: &io::Result<()>) {
        match outcome {
            Ok(()) => _ = self.scrubbed.fetch_add(1, Ordering::Relaxed),
            Err(e) if disk::is_damage(e) => self.drop_bad(what.blob.id, what.born, &e.to_string()),
            Err(_) => {}
        }
    }

    /// Counts a use that opened nothing, such as a redirect. Touches no disk.
    pub fn touch(&self, id: BlobId) {
        self.lock().touch(id);
    }

    /// Asks for every blob what it is worth now. The lock is held for some blobs at a time, never in `rank_of`.
    pub fn rank(&self, rank_of: impl Fn(BlobId) -> Rank) {
        let mut last = None;
        loop {
            let chunk = self.lock().after(last, CHUNK);
            let ranks: Vec<(BlobId, Rank)> = chunk.iter().map(|b| (b.id, rank_of(b.id))).collect();
            let mut index = self.lock();
            for &(id, rank) in &ranks {
                index.set_rank(id, rank);
            }
            drop(index);
            let Some((id, _)) = ranks.last() else { return };
            last = Some(*id);
        }
    }

    /// Writes the order of use down as the files' modification times, for the next start.
    pub fn save_use(&self) {
        if self.is_left() {
            return;
        }
        let (mut used, mut last) = (Vec::new(), None);
        loop {
            let mut index = self.lock();
            let chunk = index.after(last, CHUNK);
            index.take_unsaved(&chunk, &mut used);
            drop(index);
            let Some(blob) = chunk.last() else { break };
            last = Some(blob.id);
        }
        used.sort_unstable();
        let now = SystemTime::now();
        for (place, (_, id)) in used.iter().enumerate() {
            // A little apart, so that the order within one call survives too. What was removed meanwhile or
            // is on a read-only disk stays as it is.
            let at = now + Duration::from_micros(place as u64);
            disk::set_modified(&self.path(*id), at);
        }
    }

    pub fn size_of(&self, id: BlobId) -> Option<u64> {
        self.lock().get(id).map(|entry| entry.size)
    }

    /// Everything held, in the order of ids.
    pub fn blobs(&self) -> Vec<Blob> {
        self.lock().iter().collect()
    }

    /// Number of blobs and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        let index = self.lock();
        (index.len() as u64, index.bytes())
    }

    /// Blobs that were reread and found right, and those that were found altered, since the start.
    pub fn checked(&self) -> (u64, u64) {
        (self.scrubbed.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed))
    }

    pub fn max_bytes(&self) -> u64 {
        self.limits.max_bytes
    }

    fn path(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.dir.join("blobs").join(&name[..2]).join(name)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // Every change of the index is complete before anything can panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All folders that blobs go to, there after a power loss as well.
fn create_shards(blobs: &Path) -> io::Result<()> {
    let is_new = !blobs.join("ff").exists();
    for shard in 0..=255_u8 {
        fs::create_dir_all(blobs.join(format!("{shard:02x}")))?;
    }
    if is_new {
        File::open(blobs)?.sync_all()?;
        if let Some(dir) = blobs.parent() {
            File::open(dir)?.sync_all()?;
        }
    }
    Ok(())
}

/// What lies under final names, least recently used first. Reads no contents.
fn scan(dir: &Path) -> io::Result<Vec<Blob>> {
    let mut found = Vec::new();
    for shard in fs::read_dir(dir.join("blobs"))? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        let shard_name = shard.file_name();
        for entry in fs::read_dir(shard.path())? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((id, text)) = name.to_str().and_then(|n| Some((n.parse::<BlobId>().ok()?, n))) else {
                continue;
            };
            let is_named_right = id.to_string() == text && shard_name.to_str() == Some(&text[..2]);
            // One that cannot be looked at is no reason to refuse all others.
            let Ok(meta) = entry.metadata() else { continue };
            if is_named_right && meta.is_file() {
                let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((modified, Blob { id, size: meta.len() }));
            }
        }
    }
    found.sort_unstable_by_key(|(modified, blob)| (*modified, blob.id));
    Ok(found.into_iter().map(|(_, blob)| blob).collect())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
