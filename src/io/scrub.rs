//! Scrubbing: every stored blob is reread now and then, and removed if its bytes are no longer those that
//! its name promises. Disks rot, and administrators edit.
//!
//! One pass takes the configured time, so that it costs next to nothing; also keeps the order of use on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, sleep_until};

use super::store::{BlobStore, ToCheck};
use crate::model::BlobId;

/// Bytes read at a time.
pub const CHUNK: usize = 1 << 20;
/// Fastest reading, in bytes/s: leaves most of any disk to clients.
const MAX_RATE: f64 = (50 << 20) as f64;
/// Longest rest after a chunk: small stores are read more often than asked for.
pub const LONGEST_REST: Duration = Duration::from_secs(60);
/// How often the order of use is written down.
const SAVE_PERIOD: Duration = Duration::from_secs(3600);
const SECS_PER_DAY: f64 = 86_400.0;

/// Starts the upkeep of a store: the order of use every hour, and a pass over all blobs in `days` days; 0 is
/// none.
pub fn keep(store: &Arc<BlobStore>, days: u32) {
    let saving = store.clone();
    tokio::spawn(async move {
        loop {
            sleep(SAVE_PERIOD).await;
            save_use(&saving).await;
        }
    });
    if days > 0 {
        tokio::spawn(scrub(store.clone(), days));
    }
}

/// Writes the order of use down, without blocking the reactor.
pub async fn save_use(store: &Arc<BlobStore>) {
    let store = store.clone();
    // It is only ended by the end of the program.
    let _ = tokio::task::spawn_blocking(move || store.save_use()).await;
}

async fn scrub(store: Arc<BlobStore>, days: u32) {
    let mut last = Some(somewhere());
    loop {
        let (looking, after) = (store.clone(), last);
        let next = tokio::task::spawn_blocking(move || looking.next_to_check(after)).await;
        let Ok(next) = next else { return };
        let Some(next) = next else {
            if last.take().is_none() {
                sleep(LONGEST_REST).await;
            }
            continue;
        };
        last = Some(next.blob.id);
        check(&store, next, days).await;
    }
}

/// Where to begin: restarts must not mean that the same blobs are reread and others never.
fn somewhere() -> BlobId {
    let mut id = [0; BlobId::LEN];
    // Without randomness the first pass begins at the beginning.
    let _ = getrandom::fill(&mut id);
    BlobId(id)
}

/// Reads one blob and says how it is.
async fn check(store: &Arc<BlobStore>, mut what: ToCheck, days: u32) {
    let Some(mut file) = what.file.take() else { return };
    let (mut hasher, mut offset) = (Sha256::new(), 0);
    while offset < what.blob.size {
        let begin = Instant::now();
        let len = usize::try_from(what.blob.size - offset).map_or(CHUNK, |left| left.min(CHUNK));
        let read = tokio::task::spawn_blocking(move || hash_chunk(file, hasher, offset, len)).await;
        match read.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(more) => (file, hasher) = more,
            Err(e) => return report(store, what, Err(e)).await,
        }
        offset += len as u64;
        if offset < what.blob.size {
            sleep_until(begin + rest(len, store.totals().1, days)).await;
        }
    }
    let is_right = hasher.finalize()[..] == what.blob.id.0;
    let (last_len, bytes) = (what.blob.size.min(CHUNK as u64), store.totals().1);
    let other = || io::Error::new(io::ErrorKind::InvalidData, "holds other bytes than its name says");
    report(store, what, is_right.then_some(()).ok_or_else(other)).await;
    sleep(rest(usize::try_from(last_len).unwrap_or(CHUNK), bytes, days)).await;
}

async fn report(store: &Arc<BlobStore>, what: ToCheck, outcome: io::Result<()>) {
    let store = store.clone();
    let tell = move || store.was_checked(&what, &outcome);
    let _ = tokio::task::spawn_blocking(tell).await;
}

fn hash_chunk(file: File, mut hasher: Sha256, offset: u64, len: usize) -> io::Result<(File, Sha256)> {
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset)?;
    hasher.update(&buffer);
    Ok((file, hasher))
}

/// How long `len` bytes may take so that `total` take `days` days.
pub fn rest(len: usize, total: u64, days: u32) -> Duration {
    let wanted = total as f64 / (f64::from(days.max(1)) * SECS_PER_DAY);
    let secs = len as f64 / wanted.min(MAX_RATE);
    Duration::try_from_secs_f64(secs).unwrap_or(LONGEST_REST).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::hasher::hash;
    use crate::io::store::{Change, Limits, OnChange};
    use crate::model::Blob;
    use std::sync::Mutex;

    #[test]
    fn a_pass_takes_its_days_within_bounds() {
        let month_of_a_terabyte = rest(CHUNK, 1 << 40, 30).as_secs_f64();
        assert!((2.4..2.6).contains(&month_of_a_terabyte), "{month_of_a_terabyte}");
        assert_eq!(rest(CHUNK, 1000, 30), LONGEST_REST);
        assert_eq!(rest(CHUNK, 0, 30), LONGEST_REST);
        assert_eq!(rest(CHUNK, u64::MAX, 1), Duration::from_millis(20), "50 MiB/s");
    }

    #[tokio::test(start_paused = true)]
    async fn altered_bytes_of_the_same_length_are_found() {
        let dir = tempfile::tempdir().expect("temp dir");
        let removed = Arc::new(Mutex::new(Vec::new()));
        let told = removed.clone();
        let on_change = OnChange(Box::new(move |change| {
            if let Change::Removed(id) = change {
                told.lock().expect("no panic").push(id);
            }
        }));
        let store = BlobStore::open(dir.path(), Limits::new(1 << 30, 0), on_change).expect("open");
        let mut blobs = Vec::new();
        for n in 0..5_u8 {
            let bytes = vec![n; 100_000 + CHUNK * usize::from(n)];
            let (digests, size) = hash(&bytes[..]).expect("memory");
            let blob = Blob { id: BlobId(digests.sha256), size };
            let mut incoming = store.incoming(blob.into()).expect("room");
            incoming.write(&bytes).expect("fits");
            store.commit(incoming.verify().expect("right")).expect("commit");
            blobs.push(blob);
        }
        let name = blobs[3].id.to_string();
        let path = dir.path().join("blobs").join(&name[..2]).join(&name);
        let file = File::options().write(true).open(path).expect("the blob's file");
        file.write_all_at(b"x", blobs[3].size - 1).expect("writable");
        keep(&store, 1);
        while store.checked() != (4, 1) {
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(*removed.lock().expect("no panic"), [blobs[3].id]);
        assert_eq!(store.size_of(blobs[3].id), None);
    }
}
