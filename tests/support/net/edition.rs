//! An apt repository whose packages get a new version all at once: a release. The packages are random bytes with a
//! known hash, for clients that download and look no further.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::generation::{Signer, gzip};
use crate::support::{Scratch, ServerConfig, random_bytes, sha256_hex};

/// Where it is served.
pub const REPO: &str = "deb";

/// See the module's documentation. Old versions stay in the pool.
#[derive(Debug)]
pub struct Editions {
    tree: PathBuf,
    signer: Signer,
    packages: usize,
    size: usize,
}

/// A package of one version.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: String,
    /// On the server.
    pub path: String,
    pub sha256: String,
}

impl Editions {
    /// Packages of `size` bytes each; nothing is published yet.
    pub fn new(scratch: &Scratch, packages: usize, size: usize) -> Self {
        Self { tree: scratch.dir("editions"), signer: Signer::new(scratch), packages, size }
    }

    pub fn config(&self, more: &str) -> ServerConfig {
        ServerConfig::default().tree(
            REPO,
            "generic-deb",
            &self.tree,
            &format!("suites = [\"stable\"]\n{more}"),
        )
    }

    /// Publishes a version of every package.
    pub fn publish(&self, version: u32) -> Vec<Package> {
        let (mut lists, mut packages) = (String::new(), Vec::new());
        for number in 0..self.packages {
            let name = format!("hands-{number}");
            let bytes = random_bytes(u64::from(version) << 32 | number as u64, self.size);
            let (path, sha256) = (format!("pool/{name}_{version}_all.deb"), sha256_hex(&bytes));
            put(&self.tree.join(&path), &bytes);
            let _ = write!(
                lists,
                "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
                 Filename: {path}\nSize: {}\nSHA256: {sha256}\nDescription: random bytes\n\n",
                self.size
            );
            packages.push(Package { name, path: format!("{REPO}/{path}"), sha256 });
        }
        let mut release = format!(
            "Origin: Tests\nLabel: Tests\nSuite: stable\nCodename: stable\nVersion: {version}\n\
             Date: Sat, 01 Nov 2025 12:00:{version:02} UTC\nArchitectures: amd64 all\nComponents: main\nSHA256:\n"
        );
        let suite = self.tree.join("dists/stable");
        for (file, bytes) in
            [("Packages", lists.clone().into_bytes()), ("Packages.gz", gzip(lists.as_bytes()))]
        {
            let path = format!("main/binary-amd64/{file}");
            let _ = writeln!(release, " {} {} {path}", sha256_hex(&bytes), bytes.len());
            put(&suite.join(path), &bytes);
        }
        put(&suite.join("InRelease"), &self.signer.clearsign(release.as_bytes()));
        packages
    }
}

/// Writes a file as a well-kept mirror does: beside its place, then into it.
fn put(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::create_dir_all(path.parent().expect("a file has a folder"))
        .and_then(|()| fs::write(&beside, bytes))
        .and_then(|()| fs::rename(&beside, path))
        .expect("the scratch folder is writable");
}
