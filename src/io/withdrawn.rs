//! Files of local trees that no metadata names and whose bytes have changed although nothing has touched them: the disk
//! did that. What metadata names is judged by it; for these the first reading stands, until the file is replaced.
//!
//! Remembered over restarts, since the wrong bytes would be taken for the file then.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::db::{Db, DbError};
use super::regular::Fingerprint;
use crate::model::BlobId;

/// Files remembered: a disk with more of them is beyond help.
const MAX_FILES: usize = 10_000;
/// Kind of the database's records.
const KIND: &str = "withdrawn-1";

#[derive(Clone, Copy, Debug)]
struct Wrong {
    fingerprint: Fingerprint,
    /// What it was when it was first read.
    expected: BlobId,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    fingerprint: [u8; Fingerprint::ENCODED_LEN],
    expected: BlobId,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Withdrawn {
    db: Arc<Db>,
    files: Mutex<HashMap<PathBuf, Wrong>>,
}

impl Withdrawn {
    pub fn new(db: Arc<Db>) -> Self {
        Self { db, files: Mutex::default() }
    }

    /// Restores those from before the start that have not been replaced since. Blocks.
    pub fn restore(&self) -> Result<(), DbError> {
        let mut files = HashMap::new();
        for (name, json) in self.db.records(KIND)?.into_iter().take(MAX_FILES) {
            let Ok(Written { fingerprint, expected }) = serde_json::from_slice(&json) else { continue };
            let (path, fingerprint) = (PathBuf::from(&name), Fingerprint::decode(&fingerprint));
            let now = fs::symlink_metadata(&path).map(|meta| Fingerprint::of(&meta));
            if now.is_ok_and(|now| now != fingerprint) {
                self.db.put_records(KIND, [(name.as_str(), None)])?;
            } else {
                // Also one that cannot be looked at: its disk may not be mounted yet.
                files.insert(path, Wrong { fingerprint, expected });
            }
        }
        *self.lock() = files;
        Ok(())
    }

    /// Whether a file is one of them as it is now.
    pub fn has(&self, path: &Path, fingerprint: &Fingerprint) -> bool {
        self.expected(path, fingerprint).is_some()
    }

    /// What such a file was.
    pub fn expected(&self, path: &Path, fingerprint: &Fingerprint) -> Option<BlobId> {
        let files = self.lock();
        files.get(path).filter(|wrong| wrong.fingerprint == *fingerprint).map(|wrong| wrong.expected)
    }

    /// Notes a file that was altered. Blocks.
    pub fn put(&self, path: &Path, fingerprint: Fingerprint, expected: BlobId) -> Result<(), DbError> {
        let mut files = self.lock();
        if files.len() >= MAX_FILES && !files.contains_key(path) {
            return Ok(());
        }
        files.insert(path.to_owned(), Wrong { fingerprint, expected });
        drop(files);
        let written = Written { fingerprint: fingerprint.encode(), expected };
        // Names that are not UTF-8 are never asked for.
        match (path.to_str(), serde_json::to_vec(&written)) {
            (Some(name), Ok(json)) => self.db.put_records(KIND, [(name, Some(json))]),
            _ => Ok(()),
        }
    }

    /// Forgets a file: it is intact again, or was replaced. Blocks, if it was one of them.
    pub fn remove(&self, path: &Path) -> Result<(), DbError> {
        let was_there = self.lock().remove(path).is_some();
        match path.to_str() {
            Some(name) if was_there => self.db.put_records(KIND, [(name, None)]),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Wrong>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_withdrawn_until_it_is_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).expect("writable");
        let (path, other) = (tree.join("file"), tree.join("other"));
        let now = |path: &Path| Fingerprint::of(&fs::symlink_metadata(path).expect("there"));
        fs::write(&path, b"abc").expect("writable");
        fs::write(&other, b"abc").expect("writable");
        let db = Arc::new(Db::open(&dir.path().join("db")).expect("open"));
        let withdrawn = Withdrawn::new(db.clone());
        withdrawn.put(&path, now(&path), BlobId([1; 32])).expect("write");
        withdrawn.put(&other, now(&other), BlobId([2; 32])).expect("write");
        fs::write(&other, b"abcd").expect("writable");
        assert!(withdrawn.has(&path, &now(&path)) && !withdrawn.has(&other, &now(&other)));
        let again = Withdrawn::new(db.clone());
        again.restore().expect("read");
        assert_eq!(again.expected(&path, &now(&path)), Some(BlobId([1; 32])));
        assert_eq!(db.records(KIND).expect("read").len(), 1, "the other has been replaced");
        // A disk that is not mounted at the start.
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&tree, &elsewhere).expect("writable");
        let late = Withdrawn::new(db.clone());
        late.restore().expect("read");
        fs::rename(&elsewhere, &tree).expect("writable");
        assert!(late.has(&path, &now(&path)));
        assert_eq!(db.records(KIND).expect("read").len(), 1);
        again.remove(&path).expect("write");
        assert!(!again.has(&path, &now(&path)) && db.records(KIND).expect("read").is_empty());
    }
}
