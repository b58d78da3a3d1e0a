//! Opening files that others put where we look. A FIFO among them must not hold a thread, nor a device be acted
//! upon: only regular files are opened, whatever takes their place at the last moment.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What shows that a file was written to or replaced. Times are nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub size: u64,
    pub inode: u64,
    pub modified: i64,
    /// Of the inode: nobody can set it back.
    pub changed: i64,
}

impl Fingerprint {
    pub const ENCODED_LEN: usize = 32;

    pub fn of(meta: &Metadata) -> Self {
        let nanos = |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            size: meta.len(),
            inode: meta.ino(),
            modified: nanos(meta.mtime(), meta.mtime_nsec()),
            changed: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether the bytes are the same, although links to the file may have changed.
    pub fn has_same_bytes(&self, other: &Self) -> bool {
        (self.size, self.inode, self.modified) == (other.size, other.inode, other.modified)
    }

    /// Size, inode, time of modification and of change, 8 bytes each, little-endian.
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let numbers = [self.size, self.inode, self.modified.cast_unsigned(), self.changed.cast_unsigned()];
        let mut out = [0; Self::ENCODED_LEN];
        for (part, number) in out.chunks_exact_mut(8).zip(numbers) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8; Self::ENCODED_LEN]) -> Self {
        let number = |at: usize| {
            let (part, _) = bytes[8 * at..].split_first_chunk().unwrap_or((&[0; 8], &[]));
            u64::from_le_bytes(*part)
        };
        Self {
            size: number(0),
            inode: number(1),
            modified: number(2).cast_signed(),
            changed: number(3).cast_signed(),
        }
    }
}

/// Opens a regular file for reading, and nothing else; a symbolic link is something else. Never waits for the other
/// end of a FIFO.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // To open a device can do something to it.
    check(&fs::symlink_metadata(path)?)?;
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let meta = file.metadata()?;
    check(&meta)?;
    Ok((file, meta))
}

fn check(meta: &Metadata) -> io::Result<()> {
    if meta.is_file() { Ok(()) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_at_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), b"abc").expect("writable");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, mode, 0)
            .expect("a FIFO");
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
        std::os::unix::fs::symlink("file", path("link")).expect("a link");
        assert_eq!(open(&path("file")).expect("a regular file").1.len(), 3);
        for name in ["fifo", "socket", "link", ".", "missing"] {
            assert!(open(&path(name)).is_err(), "{name}");
        }
        assert!(open(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn fingerprints_come_back_and_tell_changes() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("file");
        fs::write(&path, b"abc").expect("writable");
        let own = Fingerprint::of(&open(&path).expect("there").1);
        assert_eq!(Fingerprint::decode(&own.encode()), own);
        let before_1970 = Fingerprint { modified: -5, ..own };
        assert_eq!(Fingerprint::decode(&before_1970.encode()), before_1970);
        assert!(own.has_same_bytes(&Fingerprint { changed: own.changed + 1, ..own }));
        assert!(!own.has_same_bytes(&before_1970));
    }
}
