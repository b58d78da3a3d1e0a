//! Leaving a store to another process, and taking it back if that one fails.
//!
//! A store that was left is still read. Files under way are written and verified to their end for those who
//! wait for them, but not kept, and nothing is removed: the names are the other process's.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::incoming::Verified;
use super::{BlobStore, Change, scan};
use crate::model::BlobId;

/// For names of temporary files.
pub(super) fn temp_prefix() -> io::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(format!("{:016x}-", u64::from_le_bytes(random)))
}

impl BlobStore {
    /// From the return of this on no name in the folder changes by this process.
    pub fn leave(&self) {
        let _names = self.lock_names();
        self.is_left.store(true, Ordering::Relaxed);
    }

    /// Keeps the store again, with what has come and gone since.
    pub fn take_back(&self) -> io::Result<()> {
        let _names = self.lock_names();
        let found = scan(&self.dir)?;
        let mut index = self.lock();
        let held: Vec<BlobId> = index.iter().map(|blob| blob.id).collect();
        let mut gone: std::collections::BTreeSet<BlobId> = held.into_iter().collect();
        for blob in found {
            if !gone.remove(&blob.id) {
                index.insert(blob, self.limits.rank);
                (self.on_change.0)(Change::Added(blob));
            }
        }
        for id in gone {
            index.remove(id);
            (self.on_change.0)(Change::Removed(id));
        }
        self.is_left.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Relaxed)
    }

    /// Gives a verified file its final name; the caller holds the names. False if it is not to be kept.
    pub(super) fn publish(&self, verified: &mut Verified, target: &Path) -> io::Result<bool> {
        if self.is_left() {
            return Ok(false);
        }
        if let Some(temp) = verified.temp.0.as_deref() {
            match fs::rename(temp, target) {
                Ok(()) => {}
                // Another process opened the store in between, which cleans up; the bytes are still readable.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !temp.exists() => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        verified.temp.0 = None;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, OnChange};
    use super::*;
    use crate::io::hasher::hash;
    use crate::model::{Blob, Expected};
    use std::sync::Arc;

    fn blob(bytes: &[u8]) -> Blob {
        let (digests, size) = hash(bytes).expect("memory");
        Blob { id: BlobId(digests.sha256), size }
    }

    fn put(store: &Arc<BlobStore>, bytes: &[u8]) -> Blob {
        let mut incoming = store.incoming(Expected::from(blob(bytes))).expect("there is room");
        incoming.write(bytes).expect("fits");
        store.commit(incoming.verify().expect("right")).expect("commit").blob
    }

    #[test]
    fn two_processes_share_a_folder_while_one_takes_over() {
        let dir = tempfile::tempdir().expect("temp dir");
        let open = || BlobStore::open(dir.path(), Limits::new(1000, 0), OnChange::ignore()).expect("open");
        let old = open();
        let kept = put(&old, b"kept");
        let mut running = old.incoming(blob(b"running").into()).expect("there is room");
        running.write(b"run").expect("fits");
        old.leave();

        let new = open();
        let mut other = new.incoming(blob(b"other").into()).expect("there is room");
        other.write(b"other").expect("fits");
        // The old one ends what it began, keeps none of it, and disturbs nothing.
        running.write(b"ning").expect("its file is open");
        let reader = running.reader().expect("its file is open");
        let ended = old.commit(running.verify().expect("right")).expect("verified");
        assert_eq!((ended.blob, reader.metadata().expect("open").len()), (blob(b"running"), 7));
        assert!(old.open_blob(kept.id).is_some() && old.open_blob(ended.blob.id).is_none());
        old.incoming(blob(&[7; 2000]).into()).map(drop).expect("nothing is removed for it");
        new.commit(other.verify().expect("right")).expect("commit");
        assert_eq!(open().blobs().len(), 2);

        // The new one fails: the old one goes on with what is there.
        fs::remove_file(new.path(kept.id)).expect("a file");
        old.take_back().expect("a folder");
        assert_eq!(old.blobs(), [blob(b"other")]);
        put(&old, b"again");
        assert_eq!(open().blobs().len(), 2);
    }
}
