//! A folder of files that are replaced whole: the encoded indexes of the catalog's generations.
//!
//! They only save time, so damage or a full disk costs a rebuild and nothing else: writers log and continue.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Largest index read back: tens of millions of paths.
const MAX_FILE: u64 = 8 << 30;
const TEMPORARY: &str = "new";

/// See the module's documentation. Methods block.
#[derive(Debug)]
pub struct IndexDir {
    dir: PathBuf,
    /// Another process writes them now: this one does not.
    pub is_left: bool,
}

impl IndexDir {
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), is_left: false })
    }

    /// Replaces a file in one step. A crash leaves the old one or the new one.
    pub fn put(&self, name: &str, parts: &[Bytes]) -> io::Result<()> {
        let temp = self.dir.join(name).with_extension(TEMPORARY);
        let written = (|| {
            let mut file = File::create(&temp)?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()?;
            fs::rename(&temp, self.dir.join(name))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temp);
        }
        written
    }

    pub fn get(&self, name: &str) -> io::Result<Bytes> {
        let path = self.dir.join(name);
        if fs::metadata(&path)?.len() > MAX_FILE {
            return Err(io::Error::other("larger than any index"));
        }
        fs::read(path).map(Bytes::from)
    }

    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.dir.join(name));
    }

    /// Removes everything that is not to be kept, what a crash left included.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !keep(name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_cleans_up() {
        let dir = tempfile::tempdir().expect("temp dir");
        let index = IndexDir::open(&dir.path().join("index")).expect("open");
        index.put("a", &[Bytes::from_static(b"one")]).expect("write");
        index.put("a", &[Bytes::from_static(b"tw"), Bytes::from_static(b"o")]).expect("write");
        index.put("b", &[]).expect("write");
        assert_eq!(index.get("a").expect("read"), "two");
        fs::write(dir.path().join("index/c.new"), "left over").expect("write");
        index.retain(|name| name == "a");
        assert!(index.get("a").is_ok() && index.get("b").is_err());
        assert_eq!(fs::read_dir(dir.path().join("index")).expect("list").count(), 1);
    }
}
