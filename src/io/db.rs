//! What cannot be recomputed cheaply: digests of blobs and of their pieces, aliases, files of trees, adopted files,
//! units' last generations, volunteers' keys. One redb file; every write is one durable transaction.
//!
//! The file is locked. Who hands over to another process closes it: from then on nothing is found, and nothing
//! is written.

use std::ffi::OsStr;
use std::fs::File;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::hasher::Hashes;
use super::regular::Fingerprint;
use crate::model::{Algorithm, Blob, BlobId, Digest, Digests, Pieces};

/// SHA-256 -> the digests, see [`Digests::encode`].
const DIGESTS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("digests-1");
/// SHA-256 -> digests of its pieces, for blobs of several that were hashed since there are such.
const PIECES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("pieces-1");
/// Another algorithm's digest (algorithm byte, digest) -> SHA-256. Written only after real bytes were hashed.
const ALIASES: TableDefinition<&[u8], &[u8; 32]> = TableDefinition::new("aliases-1");
/// Path of a local tree's file -> its fingerprint when it was read (32 bytes), SHA-256 of its bytes (32 bytes).
const TREE_FILES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("tree-files-1");
/// Small JSON records by kind and key.
const RECORDS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("records-1");

/// A failure of the database file.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("database: {0}")]
    Failed(#[from] redb::Error),
    #[error("database: another process is taking over")]
    Closed,
}

macro_rules! from_redb {
    ($($source:ty),*) => {
        $(impl From<$source> for DbError {
            fn from(error: $source) -> Self {
                Self::Failed(error.into())
            }
        })*
    };
}

from_redb!(
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);

/// See the module's documentation. Methods block.
#[derive(Debug)]
pub struct Db {
    path: PathBuf,
    open: RwLock<Option<Database>>,
}

impl Db {
    /// Opens or creates the file. Only one process can have it open.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        Ok(Self { path: path.to_owned(), open: RwLock::new(Some(open(path)?)) })
    }

    /// Lets go of the file, once transactions under way have ended.
    pub fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes the file back after [`Self::close`].
    pub fn reopen(&self) -> Result<(), DbError> {
        let mut slot = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(open(&self.path)?);
        }
        Ok(())
    }

    pub fn is_closed(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn digests(&self, id: BlobId) -> Result<Option<Digests>, DbError> {
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(None) };
        let table = db.begin_read()?.open_table(DIGESTS)?;
        Ok(table.get(&id.0)?.and_then(|value| Digests::decode(value.value())))
    }

    /// Digests of a blob's pieces, where they are known.
    pub fn pieces(&self, blob: Blob) -> Result<Option<Pieces>, DbError> {
        if Pieces::is_one(blob.size) {
            return Ok(self.digests(blob.id)?.as_ref().map(Pieces::whole));
        }
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(None) };
        let table = db.begin_read()?.open_table(PIECES)?;
        let pieces = table.get(&blob.id.0)?.and_then(|value| Pieces::decode(value.value()));
        Ok(pieces.filter(|pieces| pieces.are_of(blob.size)))
    }

    /// Remembers the digests of bytes that were hashed, and makes each an alias that metadata may use.
    /// Not synced: after a crash it is computed again, and by the process that took over.
    pub fn put_hashes(&self, hashes: &Hashes) -> Result<(), DbError> {
        let digests = &hashes.digests;
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(()) };
        let mut write = db.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            write.open_table(DIGESTS)?.insert(&digests.sha256, digests.encode().as_slice())?;
            if let Some(pieces) = &hashes.pieces {
                write.open_table(PIECES)?.insert(&digests.sha256, pieces.encode().as_slice())?;
            }
            let mut aliases = write.open_table(ALIASES)?;
            for digest in digests.aliases() {
                aliases.insert(alias_key(&digest).as_slice(), &digests.sha256)?;
            }
        }
        Ok(write.commit()?)
    }

    /// The blob that a digest of another algorithm means, if its bytes were ever hashed here.
    pub fn alias(&self, digest: &Digest) -> Result<Option<BlobId>, DbError> {
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(None) };
        let table = db.begin_read()?.open_table(ALIASES)?;
        Ok(table.get(alias_key(digest).as_slice())?.map(|value| BlobId(*value.value())))
    }

    /// What a file of a tree was when it was last read.
    pub fn tree_file(&self, path: &Path) -> Result<Option<(Fingerprint, BlobId)>, DbError> {
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(None) };
        let table = db.begin_read()?.open_table(TREE_FILES)?;
        Ok(table.get(path.as_os_str().as_bytes())?.and_then(|value| tree_file(value.value())))
    }

    /// Remembers files of trees in one durable step: up to `max` of them, then only those that are known already.
    pub fn put_tree_files<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a Path, Fingerprint, BlobId)>,
        max: u64,
    ) -> Result<(), DbError> {
        let open = self.lock();
        let write = open.as_ref().ok_or(DbError::Closed)?.begin_write()?;
        {
            let mut table = write.open_table(TREE_FILES)?;
            for (path, fingerprint, id) in files {
                let key = path.as_os_str().as_bytes();
                if table.len()? < max || table.get(key)?.is_some() {
                    table.insert(key, [fingerprint.encode(), id.0].concat().as_slice())?;
                }
            }
        }
        Ok(write.commit()?)
    }

    /// Some remembered files of trees, in the order of their paths.
    pub fn tree_files_after(
        &self,
        last: Option<&Path>,
        max: usize,
    ) -> Result<Vec<(PathBuf, Fingerprint)>, DbError> {
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(Vec::new()) };
        let table = db.begin_read()?.open_table(TREE_FILES)?;
        let from = last.map_or(Bound::Unbounded, |path| Bound::Excluded(path.as_os_str().as_bytes()));
        let mut found = Vec::new();
        for item in table.range::<&[u8]>((from, Bound::Unbounded))?.take(max) {
            let (key, value) = item?;
            let path = PathBuf::from(OsStr::from_bytes(key.value()));
            // What cannot be read is as good as of another file.
            let nothing = Fingerprint { size: 0, inode: 0, modified: 0, changed: 0 };
            found.push((path, tree_file(value.value()).map_or(nothing, |(fingerprint, _)| fingerprint)));
        }
        Ok(found)
    }

    pub fn forget_tree_files(&self, paths: &[&Path]) -> Result<(), DbError> {
        if paths.is_empty() {
            return Ok(());
        }
        let open = self.lock();
        let write = open.as_ref().ok_or(DbError::Closed)?.begin_write()?;
        {
            let mut table = write.open_table(TREE_FILES)?;
            for path in paths {
                table.remove(path.as_os_str().as_bytes())?;
            }
        }
        Ok(write.commit()?)
    }

    pub fn record(&self, kind: &str, key: &str) -> Result<Option<Vec<u8>>, DbError> {
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(None) };
        let table = db.begin_read()?.open_table(RECORDS)?;
        Ok(table.get((kind, key))?.map(|value| value.value().to_vec()))
    }

    /// All records of a kind, by key.
    pub fn records(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, DbError> {
        let open = self.lock();
        let Some(db) = open.as_ref() else { return Ok(Vec::new()) };
        let table = db.begin_read()?.open_table(RECORDS)?;
        let mut found = Vec::new();
        for item in table.range((kind, "")..)? {
            let (key, value) = item?;
            let (its_kind, key) = key.value();
            if its_kind != kind {
                break;
            }
            found.push((key.to_owned(), value.value().to_vec()));
        }
        Ok(found)
    }

    /// Writes records of one kind in one durable step; `None` deletes.
    pub fn put_records<'a>(
        &self,
        kind: &str,
        records: impl IntoIterator<Item = (&'a str, Option<Vec<u8>>)>,
    ) -> Result<(), DbError> {
        let open = self.lock();
        let write = open.as_ref().ok_or(DbError::Closed)?.begin_write()?;
        {
            let mut table = write.open_table(RECORDS)?;
            for (key, value) in records {
                match value {
                    Some(value) => drop(table.insert((kind, key), value.as_slice())?),
                    None => drop(table.remove((kind, key))?),
                }
            }
        }
        Ok(write.commit()?)
    }
}

fn open(path: &Path) -> Result<Database, DbError> {
    // It holds keys of volunteers: for its owner only, from the first byte.
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    file.map_err(redb::StorageError::from)?;
    let db = Database::builder().set_cache_size(16 << 20).create(path)?;
    let setup = db.begin_write()?;
    setup.open_table(DIGESTS)?;
    setup.open_table(PIECES)?;
    setup.open_table(ALIASES)?;
    setup.open_table(TREE_FILES)?;
    setup.open_table(RECORDS)?;
    setup.commit()?;
    Ok(db)
}

fn tree_file(value: &[u8]) -> Option<(Fingerprint, BlobId)> {
    let (fingerprint, id) = value.split_first_chunk()?;
    Some((Fingerprint::decode(fingerprint), BlobId(id.try_into().ok()?)))
}

fn alias_key(digest: &Digest) -> Vec<u8> {
    let tag = match digest.algorithm() {
        Algorithm::Md4 => 4,
        Algorithm::Md5 => 5,
        Algorithm::Sha1 => 1,
        Algorithm::Sha256 => 2,
        Algorithm::Sha512 => 3,
        Algorithm::Sha224 => 6,
        Algorithm::Sha384 => 7,
    };
    let mut key = vec![tag];
    key.extend_from_slice(digest.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests() -> Digests {
        Digests {
            md4: [1; 16],
            md5: [2; 16],
            sha1: [3; 20],
            sha256: [4; 32],
            sha512: [5; 64],
            also: Some(Digest::new(Algorithm::Sha384, &[9; 48])),
        }
    }

    #[test]
    fn keeps_what_it_was_given() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("db");
        let digests = digests();
        let db = Db::open(&path).expect("open");
        let pieces = Pieces { len: 256 << 10, sha1: vec![[6; 20], [7; 20]], sha256: vec![[8; 32], [9; 32]] };
        db.put_hashes(&Hashes { digests, pieces: Some(pieces.clone()) }).expect("write");
        db.put_records("unit", [("b", Some(b"2".to_vec())), ("a", Some(b"1".to_vec()))]).expect("write");
        db.put_records("unitx", [("c", Some(b"3".to_vec()))]).expect("write");
        drop(db);
        let db = Db::open(&path).expect("reopen");
        assert_eq!(db.digests(BlobId([4; 32])).expect("read"), Some(digests));
        let blob = |size| Blob { id: BlobId([4; 32]), size };
        assert_eq!(db.pieces(blob(300 << 10)).expect("read"), Some(pieces));
        assert_eq!(db.pieces(blob(600 << 10)).expect("read"), None, "of another size");
        assert_eq!(db.pieces(blob(10)).expect("read"), Some(Pieces::whole(&digests)));
        assert_eq!(db.pieces(Blob { id: BlobId([5; 32]), size: 300 << 10 }).expect("read"), None, "unknown");
        assert_eq!(db.alias(&digests.get(Algorithm::Sha512)).expect("read"), Some(BlobId([4; 32])));
        assert_eq!(db.alias(&digests.get(Algorithm::Sha384)).expect("read"), Some(BlobId([4; 32])));
        assert_eq!(db.alias(&digests.get(Algorithm::Md5)).expect("read"), None);
        let all = db.records("unit").expect("read");
        assert_eq!(all, [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        db.put_records("unit", [("a", None)]).expect("write");
        assert_eq!(db.record("unit", "a").expect("read"), None);
    }
    #[test]
    fn a_closed_one_is_another_processes_until_it_is_taken_back() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("db");
        let db = Db::open(&path).expect("open");
        db.put_records("unit", [("a", Some(b"1".to_vec()))]).expect("write");
        assert!(Db::open(&path).is_err(), "it is locked");
        db.close();
        let digests = digests();
        assert!(db.is_closed() && db.put_hashes(&Hashes { digests, pieces: None }).is_ok());
        assert_eq!(db.record("unit", "a").expect("nothing"), None);
        assert!(matches!(db.put_records("unit", [("a", None)]), Err(DbError::Closed)));
        let other = Db::open(&path).expect("it is free");
        assert!(db.reopen().is_err());
        drop(other);
        db.reopen().expect("free again");
        assert_eq!(db.record("unit", "a").expect("read"), Some(b"1".to_vec()));
        assert_eq!(db.digests(BlobId([4; 32])).expect("read"), None);
    }
}
