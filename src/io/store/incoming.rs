//! A blob that is being written: room that was promised to it, a temporary file, a hasher.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::hasher::{Hasher, Hashes};
use super::{BlobStore, StoreError};
use crate::model::{Algorithm, Alternatives, Blob, BlobId, Pieces};

/// A file that is being written and is not yet known to be what it should be.
#[derive(Debug)]
pub struct Incoming {
    temp: TempFile,
    file: File,
    hasher: Hasher,
    written: u64,
    wanted: Alternatives,
    room: Room,
    pieces: KnownPieces,
}

/// Digests that the pieces must have, and how many of them have been compared.
#[derive(Debug, Default)]
struct KnownPieces {
    sha256: Arc<[[u8; 32]]>,
    right: usize,
}

/// A whole file whose size and digest are right. Its only constructor is [`Incoming::verify`].
#[derive(Debug)]
pub struct Verified {
    pub(super) temp: TempFile,
    pub(super) blob: Blob,
    pub(super) hashes: Hashes,
    pub(super) room: Room,
}

/// Why bytes are not what metadata promised.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("longer than the {size} bytes in the metadata")]
    TooLong { size: u64 },
    #[error("{got} bytes instead of {size}")]
    WrongSize { size: u64, got: u64 },
    #[error("digest {got} instead of {want}")]
    WrongDigest { want: String, got: String },
    #[error("the bytes from {start} on are not those of the file")]
    WrongPiece { start: u64 },
    #[error("{0} is too weak to verify a file")]
    Weak(Algorithm),
    /// Not the bytes' fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for VerifyError {
    fn from(e: io::Error) -> Self {
        Self::Store(StoreError::Io(e))
    }
}

/// Removes its file unless it was kept.
#[derive(Debug)]
pub(super) struct TempFile(pub(super) Option<PathBuf>);

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Bytes of the store that are promised to one file; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) store: Arc<BlobStore>,
    pub(super) bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.store.lock().release(self.bytes);
    }
}

/// One that gives every digest by which the file may be named.
fn hasher_for(wanted: &Alternatives, size: Option<u64>) -> Hasher {
    wanted.iter().fold(Hasher::with_pieces(size), |hasher, expected| hasher.with(expected.digest.algorithm()))
}

impl Incoming {
    pub(super) fn new(path: PathBuf, file: File, wanted: Alternatives, room: Room) -> Self {
        let temp = TempFile(Some(path));
        let hasher = hasher_for(&wanted, wanted.size());
        Self { temp, file, hasher, written: 0, wanted, room, pieces: KnownPieces::default() }
    }

    /// The SHA-256 digests of its pieces: the first piece that differs ends the writing with an error.
    pub fn expect_pieces(&mut self, sha256: Arc<[[u8; 32]]>) {
        self.pieces.sha256 = sha256;
    }

    /// Compares the pieces that have become whole.
    fn compare_pieces(&mut self) -> Result<(), VerifyError> {
        let KnownPieces { sha256, right } = &mut self.pieces;
        for (got, want) in self.hasher.whole_pieces().iter().zip(sha256.iter()).skip(*right) {
            if got != want {
                let len = self.wanted.size().map_or(0, Pieces::len_for);
                return Err(VerifyError::WrongPiece { start: *right as u64 * len });
            }
            *right += 1;
        }
        Ok(())
    }

    /// Bytes from the start whose pieces are known to be right.
    pub fn verified(&self) -> u64 {
        let len = self.wanted.size().map_or(0, Pieces::len_for);
        (self.pieces.right as u64 * len).min(self.written)
    }

    /// Makes room for a length that somebody said, all at once.
    pub fn expect_len(&mut self, len: u64) -> Result<(), StoreError> {
        if self.written == 0 {
            self.hasher = hasher_for(&self.wanted, Some(len));
        }
        self.grow(len)?;
        self.allocate()
    }

    /// Takes the blocks that were promised.
    pub(super) fn allocate(&self) -> Result<(), StoreError> {
        self.room.store.allocate(&self.file, self.room.bytes)
    }

    fn grow(&mut self, len: u64) -> Result<(), StoreError> {
        if len > self.room.bytes {
            let more = len - self.room.bytes;
            self.room.store.promise(more)?;
            self.room.bytes = len;
        }
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        let end = self.written + bytes.len() as u64;
        if let Some(size) = self.wanted.max_size()
            && end > size
        {
            return Err(VerifyError::TooLong { size });
        }
        self.grow(end)?;
        if let Err(e) = self.file.write_all_at(bytes, self.written) {
            if !is_disk_trouble(&e) {
                return Err(e.into());
            }
            self.room.store.after_write_error(&e, bytes.len() as u64)?;
            self.file.write_all_at(bytes, self.written)?;
        }
        self.hasher.update(bytes);
        self.written = end;
        self.compare_pieces()
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// A second handle, to read what was written so far.
    pub fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Checks size and digest and makes the bytes durable.
    pub fn verify(self) -> Result<Verified, VerifyError> {
        let Some(of_size) = self.wanted.of_size(self.written) else {
            let size = self.wanted.size().or(self.wanted.first().size).unwrap_or_default();
            return Err(VerifyError::WrongSize { size, got: self.written });
        };
        let first = of_size.first().digest.algorithm();
        let Some(wanted) = of_size.filtered(|expected| expected.digest.algorithm().may_verify()) else {
            return Err(VerifyError::Weak(first));
        };
        let hashes = self.hasher.finish();
        let digests = &hashes.digests;
        if wanted.matching(digests, self.written).is_none() {
            let got = digests.get(wanted.first().digest.algorithm()).to_string();
            return Err(VerifyError::WrongDigest { want: wanted.to_string(), got });
        }
        self.file.sync_all()?;
        let blob = Blob { id: BlobId(digests.sha256), size: self.written };
        Ok(Verified { temp: self.temp, blob, hashes, room: self.room })
    }
}

/// A write that may go well a moment later, or once there is room.
fn is_disk_trouble(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, OnChange};
    use super::*;
    use crate::io::hasher::hash;
    use crate::model::{Digest, Expected};

    fn incoming(store: &Arc<BlobStore>, bytes: &[u8]) -> Incoming {
        let (digests, size) = hash(bytes).expect("memory");
        store.incoming(Blob { id: BlobId(digests.sha256), size }.into()).expect("there is room")
    }

    #[test]
    fn a_write_that_finds_the_disk_full_makes_room_and_is_tried_once_more() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = BlobStore::open(dir.path(), Limits::new(1000, 0), OnChange::ignore()).expect("open");
        let mut held = incoming(&store, &[1; 100]);
        held.write(&[1; 100]).expect("fits");
        store.commit(held.verify().expect("right")).expect("commit");
        let temp = || fs::read_dir(dir.path().join("tmp")).expect("the store's").count();

        let mut full = incoming(&store, &[2; 100]);
        // full(4): whatever is written finds no space.
        full.file = File::options().write(true).open("/dev/full").expect("full(4)");
        let first = full.write(&[2; 50]).expect_err("still full");
        assert!(matches!(first, VerifyError::Store(StoreError::Io(_))), "{first}");
        assert_eq!(store.totals(), (0, 0), "what was held gave way");
        let second = full.write(&[2; 50]).expect_err("nothing more gives way");
        assert!(matches!(second, VerifyError::Store(StoreError::DiskFull { .. })), "{second}");
        assert_eq!((full.written(), temp()), (0, 1));
        drop(full);
        assert_eq!(temp(), 0);
        drop(incoming(&store, &[3; 1000]));
    }
    #[test]
    fn bytes_are_kept_under_what_they_are_of_several_alternatives() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = BlobStore::open(dir.path(), Limits::new(1000, 0), OnChange::ignore()).expect("open");
        let digests = |bytes: &[u8]| hash(bytes).expect("memory").0;
        let expected = |bytes: &[u8], algorithm| Expected {
            digest: digests(bytes).get(algorithm),
            size: Some(bytes.len() as u64),
        };
        let mut wanted = Alternatives::from(expected(b"stale", Algorithm::Sha256));
        wanted.push(expected(b"fresh", Algorithm::Sha512));
        wanted.push(expected(b"weak!", Algorithm::Md5));
        let verify = |wanted: &Alternatives, bytes: &[u8]| {
            let mut incoming = store.begin(wanted.clone()).expect("there is room");
            incoming.write(bytes)?;
            incoming.verify().map(|verified| verified.blob.id)
        };
        for right in [b"stale", b"fresh"] {
            assert_eq!(verify(&wanted, right).ok(), Some(BlobId(digests(right).sha256)));
        }
        for wrong in [b"weak!", b"other"] {
            assert!(matches!(verify(&wanted, wrong), Err(VerifyError::WrongDigest { .. })));
        }
        assert!(matches!(verify(&wanted, b"long"), Err(VerifyError::WrongSize { size: 5, got: 4 })));
        assert!(matches!(verify(&wanted, b"longer"), Err(VerifyError::TooLong { size: 5 })));
        let weak = Expected { digest: Digest::new(Algorithm::Md5, &digests(b"x").md5), size: Some(1) };
        assert!(matches!(verify(&weak.into(), b"x"), Err(VerifyError::Weak(Algorithm::Md5))));
    }
}
