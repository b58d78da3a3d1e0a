//! The file system under a store: what is free, room made on it, times of files.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::{BlobStore, Limits, StoreError};
use crate::model::Size;

/// Tries at making room: what is removed but still being read frees nothing.
const ROUNDS: usize = 3;
/// Room made at least when a write fails for the lack of it, so that the next one does not fail at once.
const SPARE: u64 = 16 << 20;

/// Bytes that the file system can hold at all.
pub fn total(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// Bytes that we may still write.
fn free(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Sets a file's modification time and leaves its access time. Failing costs the order of eviction only.
pub fn set_modified(path: &Path, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since.subsec_nanos().into(),
        },
    };
    let _ = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
}

/// Whether an error speaks against the file that was read: not if this process lacks descriptors or memory, or
/// is ending.
pub fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // A disk or a file server in trouble may be well again; the scrub decides what stays unreadable.
        Some(code) => matches!(code, Errno::NOENT | Errno::NOTDIR | Errno::ISDIR),
        None => matches!(error.kind(), InvalidData | UnexpectedEof),
    }
}

impl BlobStore {
    /// Says what of the configured limits the file system cannot give, each blamed for itself.
    pub fn tell_limits(&self, wanted: Limits) {
        let (Some(total), Some(free)) = (total(&self.dir), free(&self.dir)) else { return };
        let (max_size, min_free) = (Size(wanted.max_bytes), Size(wanted.min_free));
        let (dir, file_system, held) = (self.dir.display(), Size(total), self.totals().1);
        if wanted.min_free >= total {
            tracing::warn!(
                %dir, %min_free, free = %Size(free), %file_system,
                "min_free exceeds the file system: nothing is kept. Lower min_free"
            );
        } else if free.saturating_add(held) < wanted.min_free {
            tracing::warn!(
                %dir, %min_free, free = %Size(free), %file_system,
                "less than min_free is free: nothing new is kept. Free some space, or lower min_free"
            );
        } else if self.max_bytes() < wanted.max_bytes {
            tracing::warn!(
                %dir, %max_size, used_at_most = %Size(self.max_bytes()), %min_free, %file_system,
                "max_size exceeds what the file system holds besides min_free"
            );
        }
    }

    /// Why so many bytes have no place whatever is removed.
    pub(super) fn no_room(&self, need: u64) -> StoreError {
        let Limits { max_bytes: max, min_free, .. } = self.limits;
        match total(&self.dir) {
            Some(total) if min_free > 0 && total.saturating_sub(min_free) <= max => {
                StoreError::DiskSmall { need, total: Size(total), min_free: Size(min_free) }
            }
            _ => StoreError::NoRoom { need, max },
        }
    }

    /// Removes blobs until `bytes` more can be written and `min_free` stays.
    pub(super) fn make_disk_room(&self, bytes: u64) -> Result<(), StoreError> {
        let need = bytes.saturating_add(self.limits.min_free);
        let mut left = free(&self.dir);
        for _ in 0..ROUNDS {
            match left {
                Some(free) if free < need => {
                    if !self.evict(need - free) {
                        break;
                    }
                }
                // What cannot be asked is found out by writing.
                _ => return Ok(()),
            }
            left = self::free(&self.dir);
        }
        match left {
            Some(free) if free < need => Err(StoreError::DiskFull {
                need: bytes,
                free: Size(free),
                min_free: Size(self.limits.min_free),
            }),
            _ => Ok(()),
        }
    }

    /// Takes the blocks of a file now, so that writing cannot run out of them. Its length stays.
    pub(super) fn allocate(&self, file: &File, len: u64) -> Result<(), StoreError> {
        if len == 0 {
            return Ok(());
        }
        let allocate = || rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len);
        match allocate() {
            Err(e @ (Errno::NOSPC | Errno::DQUOT)) => {
                self.after_write_error(&e.into(), len)?;
                allocate().map_err(|e| StoreError::Io(e.into()))
            }
            // Many file systems cannot; then writing finds out.
            _ => Ok(()),
        }
    }

    /// What can be done so that a write that failed with `error` goes well: room, if that is what it lacks.
    pub(super) fn after_write_error(&self, error: &io::Error, bytes: u64) -> Result<(), StoreError> {
        let lacks_room = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let (_, held) = self.totals();
        // Small stores give what they have.
        let wanted = bytes.max(SPARE.min(held));
        if lacks_room && !self.evict(wanted) && !self.evict(bytes) {
            let free = free(&self.dir).unwrap_or(0);
            return Err(StoreError::DiskFull {
                need: bytes,
                free: Size(free),
                min_free: Size(self.limits.min_free),
            });
        }
        Ok(())
    }
}
