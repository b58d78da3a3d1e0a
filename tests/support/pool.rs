//! A deb repository of several suites over one pool, of which some may be stale. Not signed, and the packages are no
//! archives: for clients that fetch.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha512};

use super::{hex, sha256_hex};

/// See the module's documentation.
#[derive(Debug)]
pub struct Pool {
    pub root: PathBuf,
}

/// How a suite's lists name its packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Sha256,
    Sha512,
}

impl Pool {
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root).expect("the scratch folder is writable");
        Self { root: root.to_owned() }
    }

    /// The path of a package.
    pub fn path(package: &str) -> String {
        format!("pool/{package}_1_all.deb")
    }

    /// Puts a package's file in its place, as `rsync` does: another file, renamed.
    pub fn put(&self, package: &str, bytes: &[u8]) {
        let path = self.root.join(Self::path(package));
        fs::create_dir_all(path.with_file_name("")).expect("the scratch folder is writable");
        let new = path.with_extension("new");
        fs::write(&new, bytes).expect("the scratch folder is writable");
        fs::rename(new, path).expect("the scratch folder is writable");
    }

    /// Publishes a suite that says these bytes are its packages', whatever the pool has.
    pub fn publish(&self, suite: &str, by: By, packages: &[(&str, &[u8])]) {
        let mut list = String::new();
        for (package, bytes) in packages {
            let digest = match by {
                By::Sha256 => format!("SHA256: {}", sha256_hex(bytes)),
                By::Sha512 => format!("SHA512: {}", hex(&Sha512::digest(bytes))),
            };
            let (path, size) = (Self::path(package), bytes.len());
            let _ = write!(
                list,
                "Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
                 Filename: {path}\nSize: {size}\n{digest}\nDescription: test\n\n"
            );
        }
        let dir = self.root.join("dists").join(suite);
        let member = "main/binary-amd64/Packages";
        fs::create_dir_all(dir.join(member).with_file_name("")).expect("the scratch folder is writable");
        let release = format!(
            "Origin: Tests\nSuite: {suite}\nCodename: {suite}\nDate: Sat, 01 Nov 2025 12:00:00 UTC\n\
             Architectures: amd64 all\nComponents: main\nSHA256:\n {} {} {member}\n",
            sha256_hex(list.as_bytes()),
            list.len()
        );
        fs::write(dir.join(member), list).expect("the scratch folder is writable");
        fs::write(dir.join("Release"), release).expect("the scratch folder is writable");
    }
}
