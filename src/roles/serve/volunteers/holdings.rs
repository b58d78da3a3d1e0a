//! Volunteers' holdings over a restart: written when this process stops or hands over, read by the next one,
//! so that volunteers need only announce what has changed since.
//!
//! One file per volunteer in `state_dir`/holdings: a line that names the form, the journal's id, the position in it,
//! the digests, and the SHA-256 of all that. What is read is deleted: after a crash nothing is there, and everything
//! is announced. A file that is damaged is ignored.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::formats::control::JournalSpan;
use crate::model::{BlobId, VolunteerId};
use crate::policy::{Known, Position};

const FOLDER: &str = "holdings";
const MAGIC: &[u8] = b"manyhands holdings 1\n";
const HEAD: usize = MAGIC.len() + 16;
const DIGEST: usize = 32;
/// Digests kept of all volunteers together, 128 MiB of them: of those with the least, which are the most.
pub const MAX_KEPT: u64 = 4 << 20;

/// What was read at startup, of volunteers that have not come back yet.
#[derive(Debug, Default)]
pub struct Kept(Mutex<BTreeMap<VolunteerId, Known>>);

impl Kept {
    /// Reads and deletes what the last process left. Blocks.
    pub fn read(state_dir: &Path) -> Self {
        let dir = state_dir.join(FOLDER);
        let mut kept = BTreeMap::new();
        let mut left = MAX_KEPT;
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let known = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let known = known.and_then(|id| read_file(&path, id, left));
            if let Some(known) = known {
                left -= known.blobs.len() as u64;
                kept.insert(known.id.clone(), known);
            }
            let _ = fs::remove_file(&path);
        }
        Self(Mutex::new(kept))
    }

    /// What is known of a volunteer, if its journal reaches back to it. Only once.
    pub fn take(&self, id: &VolunteerId, span: Option<JournalSpan>) -> Option<Known> {
        let known = self.lock().remove(id)?;
        span.is_some_and(|span| known.position.is_within(&span)).then_some(known)
    }

    /// Forgets the rest.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolunteerId, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what the next process is to read. Not synced: what a power loss damages is ignored. Blocks.
pub fn write(state_dir: &Path, all: &[Known]) -> io::Result<()> {
    let dir = state_dir.join(FOLDER);
    fs::create_dir_all(&dir)?;
    all.iter().try_for_each(|known| {
        // Names of volunteers are names of files: no dots, no slashes.
        fs::write(dir.join(known.id.as_str()), encode(known))
    })
}

fn encode(known: &Known) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + (known.blobs.len() + 1) * DIGEST);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&known.position.journal.to_le_bytes());
    bytes.extend_from_slice(&known.position.next.to_le_bytes());
    for blob in &known.blobs {
        bytes.extend_from_slice(&blob.0);
    }
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn read_file(path: &PathBuf, id: VolunteerId, max_blobs: u64) -> Option<Known> {
    let limit = HEAD as u64 + (max_blobs + 1) * DIGEST as u64;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limit + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > limit {
        return None;
    }
    let known = decode(&bytes, id);
    if known.is_none() {
        tracing::info!(file = %path.display(), "saved holdings are damaged; that volunteer will announce everything");
    }
    known
}

fn decode(bytes: &[u8], id: VolunteerId) -> Option<Known> {
    let (body, sum) = bytes.split_last_chunk::<DIGEST>()?;
    if Sha256::digest(body)[..] != sum[..] {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let (journal, rest) = rest.split_first_chunk()?;
    let (next, rest) = rest.split_first_chunk()?;
    let (digests, []) = rest.as_chunks::<DIGEST>() else { return None };
    let position = Position { journal: u64::from_le_bytes(*journal), next: u64::from_le_bytes(*next) };
    Some(Known { id, position, blobs: digests.iter().copied().map(BlobId).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Known {
        let id = name.parse().expect("valid id");
        let blobs = vec![BlobId([1; 32]), BlobId([2; 32])];
        Known { id, position: Position { journal: u64::MAX, next: 7 }, blobs }
    }

    #[test]
    fn what_is_written_is_read_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        write(dir.path(), &[known("v1"), known("v2")]).expect("write");
        let kept = Kept::read(dir.path());
        let span = |first| Some(JournalSpan { id: u64::MAX, first, next: 9 });
        assert_eq!(kept.take(&known("v1").id, span(7)), Some(known("v1")));
        assert_eq!(kept.take(&known("v1").id, span(7)), None, "it is taken");
        assert_eq!(kept.take(&known("v2").id, span(8)), None, "changes are missing");
        assert!(Kept::read(dir.path()).lock().is_empty());
    }

    #[test]
    fn damage_is_ignored() {
        let bytes = encode(&known("v1"));
        let id = known("v1").id;
        assert_eq!(decode(&bytes, id.clone()), Some(known("v1")));
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], id.clone()), None);
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, id.clone()), None);
        }
        let mut odd = bytes[..bytes.len() - DIGEST - 1].to_vec();
        let sum = Sha256::digest(&odd);
        odd.extend_from_slice(&sum);
        assert_eq!(decode(&odd, id), None, "half a digest");
    }
}
