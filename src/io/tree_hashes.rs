//! What the files of local trees hold. Others write there, and disks rot: a file is read once before anything is said
//! of its bytes, and again when its size, inode or times change. What was read is remembered over restarts.
//!
//! However many ask for a file, it is read once; few threads do that, in turns, so that a large file holds up nobody.
//! Meanwhile its bytes can be sent as far as they were read, all but the last one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use moka::sync::Cache;
use tokio::sync::{Semaphore, watch};

use super::body::{Body, read_at};
use super::clock;
use super::db::{Db, DbError};
use super::hasher::{Hasher, Hashes};
use super::regular::Fingerprint;
use crate::model::{Algorithm, BlobId, Digests};

/// Threads that read at a time.
const READERS: usize = 2;
/// Bytes that one of them reads in its turn: some 20 ms of hashing.
const TURN: u64 = 4 << 20;
/// Bytes in memory for each of them.
const BUFFER: usize = 256 << 10;
/// Bytes read for one client at a time.
const CHUNK: u64 = 128 << 10;
/// Files being read or waiting for their turn, each with an open file.
const MAX_READING: usize = 512;
/// Files whose digests are at hand, some 25 MB; of others the database knows them.
const AT_HAND: u64 = 50_000;
/// Files that the database remembers, 200 bytes each: the largest mirrors have some millions.
const MAX_REMEMBERED: u64 = 4_000_000;
/// Records looked at in one step when the database is cleaned.
const STEP: usize = 1000;
/// File times have the kernel's clock tick, 10 ms at most: what was written so recently may be written again without
/// a trace.
const TICK: Duration = Duration::from_millis(20);

/// A file as it was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Without symbolic links.
    pub path: PathBuf,
    pub file: Arc<File>,
    pub fingerprint: Fingerprint,
    /// By which metadata names it; it is computed besides those that every file has.
    pub algorithm: Algorithm,
}

/// What a file holds, for as long as its fingerprint stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub fingerprint: Fingerprint,
    pub digests: Digests,
}

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("it changes while it is read")]
    Changing,
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("too many files are being read")]
    Busy,
}

#[derive(Clone, Debug)]
enum Progress {
    /// Bytes read so far.
    Reading(u64),
    Done(Box<Known>),
    Failed(HashError),
}

/// A file being read, as seen by those who wait for it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reading {
    progress: watch::Receiver<Progress>,
    /// It has just begun, for the first who asked.
    pub is_new: bool,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct TreeHashes {
    db: Arc<Db>,
    at_hand: Cache<PathBuf, Known>,
    /// What was logged about files, so that it is logged once.
    told: Cache<(PathBuf, Fingerprint), ()>,
    reading: Mutex<HashMap<(PathBuf, Fingerprint), watch::Receiver<Progress>>>,
    readers: Arc<Semaphore>,
    unsaved: Mutex<Vec<(PathBuf, Known)>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl TreeHashes {
    pub fn new(db: Arc<Db>) -> Arc<Self> {
        Arc::new(Self {
            db,
            at_hand: Cache::new(AT_HAND),
            told: Cache::new(AT_HAND),
            reading: Mutex::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            unsaved: Mutex::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Files and bytes read since the start.
    pub fn totals(&self) -> Totals {
        Totals { files: self.files.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }

    /// What a file holds, if it was read since it last changed. The hot path. Blocks on the database the first time.
    pub fn known(&self, path: &Path, fingerprint: &Fingerprint, algorithm: Algorithm) -> Option<Known> {
        let known = self.at_hand.get(path).or_else(|| {
            let (fingerprint, id) = self.db.tree_file(path).ok().flatten()?;
            let digests = self.db.digests(id).ok().flatten()?;
            let known = Known { fingerprint, digests };
            self.at_hand.insert(path.to_owned(), known);
            Some(known)
        });
        known.filter(|known| known.fingerprint == *fingerprint && known.digests.has(algorithm))
    }

    /// Whether nothing was logged yet about a file as it is now.
    pub fn is_news(&self, path: &Path, fingerprint: &Fingerprint) -> bool {
        // One at a time: of two at the same moment, the cache may find both the first.
        let _alone = self.lock_reading();
        self.told.entry((path.to_owned(), *fingerprint)).or_insert(()).is_fresh()
    }

    /// Reads a file, or joins a reading that has begun.
    pub fn read(self: &Arc<Self>, opened: &Opened) -> Result<Reading, HashError> {
        let key = (opened.path.clone(), opened.fingerprint);
        let mut reading = self.lock_reading();
        if let Some(progress) = reading.get(&key) {
            return Ok(Reading { progress: progress.clone(), is_new: false });
        }
        if reading.len() >= MAX_READING {
            return Err(HashError::Busy);
        }
        let (sender, progress) = watch::channel(Progress::Reading(0));
        reading.insert(key.clone(), progress.clone());
        drop(reading);
        let (hashes, opened) = (self.clone(), opened.clone());
        tokio::spawn(async move {
            let publish = |read| _ = sender.send_replace(Progress::Reading(read));
            let outcome = hashes.read_whole(&opened, TURN, publish, |_| Duration::ZERO).await;
            // Whoever comes from now on finds it known.
            hashes.lock_reading().remove(&key);
            sender
                .send_replace(outcome.map_or_else(Progress::Failed, |known| Progress::Done(Box::new(known))));
        });
        Ok(Reading { progress, is_new: true })
    }

    /// Reads a file whether it is known or not, `turn` bytes at a time with a pause after each.
    pub async fn read_again(
        self: &Arc<Self>,
        opened: &Opened,
        turn: u64,
        pause: impl Fn(u64) -> Duration,
    ) -> Result<Known, HashError> {
        self.read_whole(opened, turn, |_| (), pause).await
    }

    async fn read_whole(
        self: &Arc<Self>,
        opened: &Opened,
        turn: u64,
        publish: impl Fn(u64),
        pause: impl Fn(u64) -> Duration,
    ) -> Result<Known, HashError> {
        let Opened { path, file, fingerprint, algorithm } = opened;
        tokio::time::sleep(until_settled(fingerprint)).await;
        let mut hasher = Hasher::with_pieces(Some(fingerprint.size)).with(*algorithm);
        let mut position = 0;
        while position < fingerprint.size {
            let len = turn.min(fingerprint.size - position);
            let permit = self.readers.acquire().await.map_err(unreadable)?;
            let own = file.clone();
            let step = tokio::task::spawn_blocking(move || read_step(&own, hasher, position, len));
            hasher = step.await.map_err(unreadable)?.map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => HashError::Changing,
                _ => unreadable(e),
            })?;
            drop(permit);
            position += len;
            publish(position);
            tokio::time::sleep(pause(len)).await;
        }
        let (own, path, file, before) = (self.clone(), path.clone(), file.clone(), *fingerprint);
        let learn = move || {
            if Fingerprint::of(&file.metadata().map_err(unreadable)?) != before {
                return Err(HashError::Changing);
            }
            Ok(own.learn(path, before, hasher.finish()))
        };
        tokio::task::spawn_blocking(learn).await.map_err(unreadable)?
    }

    /// Remembers what was read. Blocks.
    fn learn(&self, path: PathBuf, fingerprint: Fingerprint, hashes: Hashes) -> Known {
        if let Err(e) = self.db.put_hashes(&hashes) {
            tracing::warn!(file = %path.display(), error = %e, "cannot save digests");
        }
        self.files.fetch_add(1, Relaxed);
        self.bytes.fetch_add(fingerprint.size, Relaxed);
        let known = Known { fingerprint, digests: hashes.digests };
        self.at_hand.insert(path.clone(), known);
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).push((path, known));
        known
    }

    /// Writes down what was read since the last time, for the next start. Blocks.
    pub fn save(&self) -> Result<(), DbError> {
        let unsaved = std::mem::take(&mut *self.unsaved.lock().unwrap_or_else(PoisonError::into_inner));
        if unsaved.is_empty() || self.db.is_closed() {
            return Ok(());
        }
        let records = unsaved
            .iter()
            .map(|(path, known)| (path.as_path(), known.fingerprint, BlobId(known.digests.sha256)));
        self.db.put_tree_files(records, MAX_REMEMBERED)
    }

    /// Forgets files that are gone, have changed since, or that `is_wanted` is false for. Blocks; returns how many.
    pub fn clean(&self, is_wanted: impl Fn(&Path) -> bool) -> Result<usize, DbError> {
        let (mut last, mut forgotten) = (None, 0);
        loop {
            let step = self.db.tree_files_after(last.as_deref(), STEP)?;
            let stays = |(path, known): &(PathBuf, Fingerprint)| {
                let now = fs::symlink_metadata(path).map(|meta| Fingerprint::of(&meta));
                is_wanted(path) && now.is_ok_and(|now| now == *known)
            };
            let gone: Vec<&Path> =
                step.iter().filter(|file| !stays(file)).map(|(path, _)| path.as_path()).collect();
            forgotten += gone.len();
            self.db.forget_tree_files(&gone)?;
            let Some((path, _)) = step.last() else { return Ok(forgotten) };
            last = Some(path.clone());
        }
    }

    fn lock_reading(&self) -> MutexGuard<'_, HashMap<(PathBuf, Fingerprint), watch::Receiver<Progress>>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait until a change would show in the file's times.
fn until_settled(fingerprint: &Fingerprint) -> Duration {
    let now = i64::try_from(clock::now().as_nanos()).unwrap_or(i64::MAX);
    let tick = i64::try_from(TICK.as_nanos()).unwrap_or(0);
    let age = now.saturating_sub(fingerprint.changed.max(fingerprint.modified));
    // A date in the future says nothing.
    let left = if age < 0 { 0 } else { tick.saturating_sub(age).max(0) };
    Duration::from_nanos(left.cast_unsigned())
}

fn read_step(file: &File, mut hasher: Hasher, begin: u64, len: u64) -> io::Result<Hasher> {
    let (mut position, end) = (begin, begin + len);
    let mut buffer = vec![0; usize::try_from(len).map_or(BUFFER, |len| len.min(BUFFER))];
    while position < end {
        let part = usize::try_from(end - position).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..part], position)?;
        hasher.update(&buffer[..part]);
        position += part as u64;
    }
    Ok(hasher)
}

fn unreadable(error: impl std::fmt::Display) -> HashError {
    HashError::Unreadable(error.to_string())
}

impl Reading {
    /// Waits for the end.
    pub async fn finished(mut self) -> Result<Known, HashError> {
        let state = self.progress.wait_for(|state| !matches!(state, Progress::Reading(_))).await;
        match state.as_deref() {
            Ok(Progress::Done(known)) => Ok(**known),
            Ok(Progress::Failed(e)) => Err(e.clone()),
            Ok(Progress::Reading(_)) | Err(_) => Err(unreadable("reading was cancelled")),
        }
    }

    /// The bytes of `range` as far as they were read, the file's last one when `is_right` of the whole.
    pub fn body(
        self,
        opened: Opened,
        range: Range<u64>,
        is_right: Arc<dyn Fn(&Known) -> bool + Send + Sync>,
    ) -> Body {
        let begun = (self, opened, range, is_right);
        Body::stream(stream::try_unfold(begun, |(mut reading, opened, range, is_right)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let last = opened.fingerprint.size - 1;
            let available =
                reading.available(range.start, last, &*is_right).await.map_err(io::Error::other)?;
            let part = range.start..(range.start + CHUNK).min(available).min(range.end);
            let bytes = read_at(opened.file.clone(), part.start, part.end - part.start).await?;
            Ok(Some((bytes, (reading, opened, part.end..range.end, is_right))))
        }))
    }

    /// Waits until there is more than `position`.
    async fn available(
        &mut self,
        position: u64,
        last: u64,
        is_right: &(dyn Fn(&Known) -> bool + Send + Sync),
    ) -> Result<u64, HashError> {
        let more = |state: &Progress| match state {
            Progress::Reading(read) => (*read).min(last) > position,
            Progress::Done(_) | Progress::Failed(_) => true,
        };
        let state = self.progress.wait_for(more).await.map_err(unreadable)?.clone();
        match state {
            Progress::Reading(read) => Ok(read.min(last)),
            Progress::Done(known) if is_right(&known) => Ok(last + 1),
            Progress::Done(_) => Err(unreadable("it does not match its metadata")),
            Progress::Failed(e) => Err(e),
        }
    }
}

impl Opened {
    /// A part of a file that was read before; breaks off if the file has changed by the end of the part.
    pub fn body(&self, part: Range<u64>) -> Body {
        let begun = (self.file.clone(), self.fingerprint, part);
        Body::stream(stream::try_unfold(begun, |(file, fingerprint, part)| async move {
            if part.is_empty() {
                return Ok(None);
            }
            let next = (part.start + CHUNK).min(part.end);
            let is_last = next == part.end;
            let bytes = if is_last {
                let own = file.clone();
                let read = move || read_last(&own, &fingerprint, part.start..next);
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??
            } else {
                read_at(file.clone(), part.start, next - part.start).await?
            };
            Ok(Some((bytes, (file, fingerprint, next..part.end))))
        }))
    }
}

fn read_last(file: &File, before: &Fingerprint, part: Range<u64>) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(part.end - part.start).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut buffer, part.start)?;
    if Fingerprint::of(&file.metadata()?).has_same_bytes(before) {
        Ok(Bytes::from(buffer))
    } else {
        Err(io::Error::other("the file changed while it was sent"))
    }
}

#[cfg(test)]
#[path = "tree_hashes_tests.rs"]
mod tests;
