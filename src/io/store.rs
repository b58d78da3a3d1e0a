//! The blob store: one file per blob, named by its SHA-256, in `blobs/ab/<hex>`.
//!
//! Bytes come in through [`Incoming`], which hashes while it writes a temporary file. Only
//! [`Incoming::verify`] turns it into a [`Verified`], and only [`BlobStore::commit`] takes one: nothing else
//! can create a blob. fsync comes before rename, so a crash at any instant leaves whole blobs and
//! temporary files, which opening removes. Names prove contents, so opening reads no file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::hasher::Hasher;
use crate::model::{Blob, BlobId, Digests, Expected};

/// A file that is being written and is not yet known to be what it should be.
#[derive(Debug)]
pub struct Incoming {
    temp: TempFile,
    file: File,
    hasher: Hasher,
    written: u64,
    expected: Expected,
}

/// A whole file whose size and digest are right. Its only constructor is [`Incoming::verify`].
#[derive(Debug)]
pub struct Verified {
    temp: TempFile,
    blob: Blob,
    digests: Digests,
}

/// Why bytes are not what metadata promised.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("longer than the {size} bytes that the metadata says")]
    TooLong { size: u64 },
    #[error("{got} bytes instead of {size}")]
    WrongSize { size: u64, got: u64 },
    #[error("digest {got} instead of {want}")]
    WrongDigest { want: String, got: String },
    #[error("{0} is too weak to verify a file")]
    Weak(crate::model::Algorithm),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Removes its file unless it was kept.
#[derive(Debug)]
struct TempFile(Option<PathBuf>);

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl Incoming {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        if let Some(size) = self.expected.size
            && self.written + bytes.len() as u64 > size
        {
            return Err(VerifyError::TooLong { size });
        }
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// A second handle, to read what was written so far.
    pub fn reader(&self) -> io::Result<File> {
        File::open(self.temp.0.as_deref().unwrap_or(Path::new("")))
    }

    /// Checks size and digest and makes the bytes durable.
    pub fn verify(self) -> Result<Verified, VerifyError> {
        if let Some(size) = self.expected.size
            && size != self.written
        {
            return Err(VerifyError::WrongSize { size, got: self.written });
        }
        let want = self.expected.digest;
        if !want.algorithm().may_verify() {
            return Err(VerifyError::Weak(want.algorithm()));
        }
        let digests = self.hasher.finish();
        if !digests.matches(&want) {
            let got = digests.get(want.algorithm()).to_string();
            return Err(VerifyError::WrongDigest { want: want.to_string(), got });
        }
        self.file.sync_all()?;
        let blob = Blob { id: BlobId(digests.sha256), size: self.written };
        Ok(Verified { temp: self.temp, blob, digests })
    }
}

/// What a commit did.
#[derive(Debug)]
pub struct Committed {
    pub blob: Blob,
    pub digests: Digests,
    /// Blobs that had to make room.
    pub evicted: Vec<BlobId>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    /// Position in the order of last use.
    tick: u64,
}

#[derive(Debug, Default)]
struct Index {
    entries: HashMap<BlobId, Entry>,
    by_use: BTreeMap<u64, BlobId>,
    bytes: u64,
    tick: u64,
}

impl Index {
    fn insert(&mut self, blob: Blob) {
        self.remove(blob.id);
        self.tick += 1;
        self.entries.insert(blob.id, Entry { size: blob.size, tick: self.tick });
        self.by_use.insert(self.tick, blob.id);
        self.bytes += blob.size;
    }

    fn remove(&mut self, id: BlobId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.by_use.remove(&entry.tick);
        self.bytes -= entry.size;
        Some(entry)
    }

    fn touch(&mut self, id: BlobId) -> Option<u64> {
        let entry = self.entries.get_mut(&id)?;
        self.by_use.remove(&entry.tick);
        self.tick += 1;
        entry.tick = self.tick;
        self.by_use.insert(self.tick, id);
        Some(entry.size)
    }
}

/// See the module's documentation. All methods block on the file system.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    max_bytes: u64,
    index: Mutex<Index>,
    next_temp: AtomicU64,
}

impl BlobStore {
    /// Opens or creates a store and lists what it holds, without reading contents.
    pub fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        let temp = dir.join("tmp");
        fs::create_dir_all(&temp)?;
        for entry in fs::read_dir(&temp)? {
            let _ = fs::remove_file(entry?.path());
        }
        for shard in 0..=255_u8 {
            fs::create_dir_all(dir.join("blobs").join(format!("{shard:02x}")))?;
        }
        let store = Self {
            dir: dir.to_owned(),
            max_bytes,
            index: Mutex::new(Index::default()),
            next_temp: AtomicU64::new(0),
        };
        let mut found = store.scan()?;
        // Oldest first, so that the order of eviction survives a restart roughly.
        found.sort_unstable_by_key(|(modified, blob)| (*modified, blob.id));
        let mut index = store.lock();
        for (_, blob) in found {
            index.insert(blob);
        }
        let doomed = Self::make_room(&mut index, max_bytes);
        drop(index);
        store.unlink(&doomed);
        Ok(store)
    }

    fn scan(&self) -> io::Result<Vec<(SystemTime, Blob)>> {
        let mut found = Vec::new();
        for shard in fs::read_dir(self.dir.join("blobs"))? {
            let shard = shard?;
            if !shard.file_type()?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(shard.path())? {
                let entry = entry?;
                let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<BlobId>().ok()) else {
                    continue;
                };
                let meta = entry.metadata()?;
                if meta.is_file() && entry.path() == self.path(id) {
                    let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((modified, Blob { id, size: meta.len() }));
                }
            }
        }
        Ok(found)
    }

    /// Starts a file that must become `expected`.
    pub fn incoming(&self, expected: Expected) -> io::Result<Incoming> {
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("tmp").join(number.to_string());
        let file = File::create_new(&path)?;
        Ok(Incoming { temp: TempFile(Some(path)), file, hasher: Hasher::default(), written: 0, expected })
    }

    /// Makes a verified file a blob, and room for it.
    pub fn commit(&self, mut verified: Verified) -> io::Result<Committed> {
        let Verified { blob, digests, .. } = verified;
        let target = self.path(blob.id);
        if let Some(temp) = verified.temp.0.as_deref() {
            fs::rename(temp, &target)?;
        }
        verified.temp.0 = None;
        if let Some(shard) = target.parent() {
            File::open(shard)?.sync_all()?;
        }
        let mut index = self.lock();
        index.insert(blob);
        let mut evicted = Self::make_room(&mut index, self.max_bytes);
        drop(index);
        // A blob larger than the whole store goes at once; who is reading it keeps its open file.
        self.unlink(&evicted);
        evicted.sort_unstable();
        Ok(Committed { blob, digests, evicted })
    }

    /// Least recently used blobs beyond the bound, taken out of the index.
    fn make_room(index: &mut Index, max_bytes: u64) -> Vec<BlobId> {
        let mut doomed = Vec::new();
        while index.bytes > max_bytes
            && let Some((_, id)) = index.by_use.first_key_value().map(|(tick, id)| (*tick, *id))
        {
            index.remove(id);
            doomed.push(id);
        }
        doomed
    }

    fn unlink(&self, doomed: &[BlobId]) {
        for id in doomed {
            let _ = fs::remove_file(self.path(*id));
        }
    }

    /// Opens a blob for reading and counts it as used. One whose file is gone or has another length is
    /// dropped from the store: somebody altered it behind our back.
    pub fn open_blob(&self, id: BlobId) -> Option<(File, u64)> {
        let size = self.lock().touch(id)?;
        match File::open(self.path(id)).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((len, file)) if len == size => Some((file, size)),
            _ => {
                self.remove(id);
                None
            }
        }
    }

    pub fn size_of(&self, id: BlobId) -> Option<u64> {
        self.lock().entries.get(&id).map(|entry| entry.size)
    }

    pub fn remove(&self, id: BlobId) {
        if self.lock().remove(id).is_some() {
            self.unlink(&[id]);
        }
    }

    /// Everything held, in no particular order.
    pub fn blobs(&self) -> Vec<Blob> {
        self.lock().entries.iter().map(|(id, entry)| Blob { id: *id, size: entry.size }).collect()
    }

    /// Number of blobs and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        let index = self.lock();
        (index.entries.len() as u64, index.bytes)
    }

    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    fn path(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.dir.join("blobs").join(&name[..2]).join(name)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // Every change of the index is complete before anything can panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::hasher::hash;
    use crate::model::Algorithm;

    fn put(store: &BlobStore, bytes: &[u8]) -> Committed {
        let (digests, size) = hash(bytes).expect("memory");
        let blob = Blob { id: BlobId(digests.sha256), size };
        let mut incoming = store.incoming(blob.into()).expect("temp file");
        incoming.write(bytes).expect("fits");
        store.commit(incoming.verify().expect("right bytes")).expect("commit")
    }

    #[test]
    fn only_right_bytes_become_a_blob() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = BlobStore::open(dir.path(), 1 << 20).expect("open");
        let (digests, _) = hash(&b"right"[..]).expect("memory");
        let expected = Expected { digest: digests.get(Algorithm::Sha512), size: Some(5) };
        let attempt = |bytes: &[u8], expected| {
            let mut incoming = store.incoming(expected).expect("temp file");
            incoming.write(bytes)?;
            incoming.verify()
        };
        assert!(matches!(attempt(b"wrong", expected), Err(VerifyError::WrongDigest { .. })));
        assert!(matches!(attempt(b"righ", expected), Err(VerifyError::WrongSize { .. })));
        assert!(matches!(attempt(b"right!", expected), Err(VerifyError::TooLong { .. })));
        let weak = Expected { digest: digests.get(Algorithm::Md5), size: Some(5) };
        assert!(matches!(attempt(b"right", weak), Err(VerifyError::Weak(_))));
        let committed = store.commit(attempt(b"right", expected).expect("right")).expect("commit");
        assert_eq!(committed.blob.id, BlobId(digests.sha256));
        assert_eq!(fs::read_dir(dir.path().join("tmp")).expect("tmp").count(), 0);
    }

    #[test]
    fn least_recently_used_goes_first_and_survives_reopening() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = BlobStore::open(dir.path(), 250).expect("open");
        let (a, b) = (put(&store, &[1; 100]).blob, put(&store, &[2; 100]).blob);
        assert!(store.open_blob(a.id).is_some());
        assert_eq!(put(&store, &[3; 100]).evicted, [b.id]);
        assert_eq!(store.totals(), (2, 200));
        fs::write(dir.path().join("tmp/left-over"), "x").expect("write");
        drop(store);
        let store = BlobStore::open(dir.path(), 250).expect("reopen");
        assert_eq!(store.totals(), (2, 200));
        assert_eq!(store.size_of(a.id), Some(100));
        assert!(!dir.path().join("tmp/left-over").exists());
        assert_eq!(put(&store, &[4; 300]).evicted.len(), 3, "a blob larger than the store leaves nothing");
    }

    #[test]
    fn an_altered_file_is_dropped() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = BlobStore::open(dir.path(), 1000).expect("open");
        let blob = put(&store, &[1; 100]).blob;
        fs::write(store.path(blob.id), "short").expect("write");
        assert!(store.open_blob(blob.id).is_none());
        assert_eq!(store.totals(), (0, 0));
    }
}
