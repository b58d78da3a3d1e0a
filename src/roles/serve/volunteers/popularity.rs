//! Popularity, kept over a restart: long counters of demand, by which a server that has just started knows
//! which files of a new generation many will want.
//!
//! One file in `state_dir`: a line that names the form, the counters, and the SHA-256 of all that. It is written now
//! and then and at the end, in place of the one before. A file that is damaged is ignored.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::io::clock;
use crate::model::{Blob, BlobId, Time};
use crate::policy::Remembered;
use crate::roles::serve::state::Server;

const FILE: &str = "popularity";
const MAGIC: &[u8] = b"manyhands popularity 1\n";
const DIGEST: usize = 32;
/// Digest, size, counter and when it was that, in seconds since 1970.
const ENTRY: usize = DIGEST + 3 * 8;
/// Counters kept, 5.6 MB: of those with less demand one is as good as another.
const MAX_KEPT: usize = 100_000;
/// What a crash may lose of counters that halve in a day.
const KEEP_EVERY: Duration = Duration::from_secs(600);

/// What the last process left. Blocks.
pub fn read(state_dir: &Path) -> Vec<Remembered> {
    let path = state_dir.join(FILE);
    let limit = MAGIC.len() + MAX_KEPT * ENTRY + DIGEST;
    let mut bytes = Vec::new();
    let Ok(file) = File::open(&path) else { return Vec::new() };
    let read = file.take(limit as u64 + 1).read_to_end(&mut bytes);
    let known = read.ok().filter(|len| *len <= limit).and_then(|_| decode(&bytes));
    known.unwrap_or_else(|| {
        tracing::warn!(file = %path.display(), "saved popularity is damaged, and must be learned again");
        Vec::new()
    })
}

/// Writes down what is popular now and then; ends with the process.
pub async fn keep(server: Arc<Server>) {
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        let keeping = server.clone();
        // It is only ended by the end of the program.
        let _ = tokio::task::spawn_blocking(move || write(&keeping)).await;
    }
}

/// Writes it down now, unless another process does by now. Blocks.
pub fn write(server: &Server) {
    if server.db.is_closed() {
        return;
    }
    let all = server.fleet.export_demand(MAX_KEPT, clock::now());
    if let Err(e) = replace(&server.config.state_dir, &all) {
        tracing::warn!(error = %e, "cannot save popularity: a restart would lose it");
    }
}

fn replace(state_dir: &Path, all: &[Remembered]) -> io::Result<()> {
    let (path, new) = (state_dir.join(FILE), state_dir.join("popularity.new"));
    fs::write(&new, encode(all))?;
    fs::rename(new, path)
}

fn encode(all: &[Remembered]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + all.len() * ENTRY + DIGEST);
    bytes.extend_from_slice(MAGIC);
    for Remembered { blob, lasting, updated } in all {
        bytes.extend_from_slice(&blob.id.0);
        bytes.extend_from_slice(&blob.size.to_le_bytes());
        bytes.extend_from_slice(&lasting.to_bits().to_le_bytes());
        bytes.extend_from_slice(&updated.as_secs().to_le_bytes());
    }
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Remembered>> {
    let (body, sum) = bytes.split_last_chunk::<DIGEST>()?;
    if Sha256::digest(body)[..] != sum[..] {
        return None;
    }
    let (entries, []) = body.strip_prefix(MAGIC)?.as_chunks::<ENTRY>() else { return None };
    entries.iter().map(entry).collect()
}

fn entry(bytes: &[u8; ENTRY]) -> Option<Remembered> {
    let (id, rest) = bytes.split_first_chunk::<DIGEST>()?;
    let (numbers, []) = rest.as_chunks::<8>() else { return None };
    let &[size, lasting, updated_secs] = numbers else { return None };
    Some(Remembered {
        blob: Blob { id: BlobId(*id), size: u64::from_le_bytes(size) },
        lasting: f64::from_bits(u64::from_le_bytes(lasting)),
        updated: Time::from_secs(u64::from_le_bytes(updated_secs)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Remembered> {
        let one = |n: u8| Remembered {
            blob: Blob { id: BlobId([n; 32]), size: u64::from(n) << 40 },
            lasting: f64::from(n) + 0.25,
            updated: Time::from_secs(1_800_000_000 + u64::from(n)),
        };
        vec![one(1), one(200)]
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(read(dir.path()), vec![], "the first start");
        replace(dir.path(), &some()).expect("write");
        assert_eq!(read(dir.path()), some());
        replace(dir.path(), &some()[..1]).expect("write");
        assert_eq!(read(dir.path()), some()[..1], "only what was written last");
        let bytes = encode(&some());
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at]), None);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None);
            fs::write(dir.path().join(FILE), &damaged).expect("write");
            assert_eq!(read(dir.path()), vec![]);
        }
    }
}
