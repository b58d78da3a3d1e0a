//! Scratch folders, the committed repositories, and repositories made on the spot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{sha256_file, sha256_hex};

/// A folder of one test; it goes with the test.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("manyhands-test-").tempdir().expect("a scratch folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same, created.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("the scratch folder is writable");
        path
    }
}

/// One generation of the committed repositories: `t0` or `t1`.
pub fn test_repos(generation: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-repos").join(generation);
    assert!(path.is_dir(), "{} is missing", path.display());
    path
}

/// The public key that signs them.
pub fn test_key() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test-repos/keys/test.asc")
}

/// All files below a folder, as paths relative to it, sorted.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|e| e.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The packages below a folder that exists or not.
pub fn package_files(root: &Path) -> Vec<PathBuf> {
    let is_package = |p: &PathBuf| p.extension().is_some_and(|e| e == "deb" || e == "rpm");
    let below = if root.is_dir() { files(root) } else { Vec::new() };
    below.into_iter().filter(is_package).map(|p| root.join(p)).collect()
}

/// Path, size, time and SHA-256 of everything below a folder: equal means untouched.
pub fn tree_digest(root: &Path) -> BTreeMap<PathBuf, (u64, SystemTime, String)> {
    let describe = |path: PathBuf| {
        let full = root.join(&path);
        let meta = fs::metadata(&full).expect("a file has metadata");
        (path, (meta.len(), meta.modified().expect("a file has a time"), sha256_file(&full)))
    };
    files(root).into_iter().map(describe).collect()
}

fn copy_file(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a file has a folder")).expect("the scratch folder is writable");
    // As rsync does it: a reader sees the old file or the new one.
    let temporary = to.with_extension("tmp-copy");
    fs::copy(from, &temporary).unwrap_or_else(|e| panic!("{} -> {}: {e}", from.display(), to.display()));
    let modified = fs::metadata(from).and_then(|m| m.modified()).expect("a file has a time");
    let file = fs::File::options().write(true).open(&temporary).expect("the copy opens");
    file.set_modified(modified).expect("times can be set");
    fs::rename(&temporary, to).expect("a rename within a folder");
}

/// Copies a tree with its times.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the scratch folder is writable");
    for path in files(from) {
        copy_file(&from.join(&path), &to.join(&path));
    }
}

/// Makes `to` what `from` is, as a careful mirror script does: packages first, then metadata, then
/// deletions.
pub fn overlay_tree(from: &Path, to: &Path) {
    let is_metadata =
        |p: &Path| p.components().any(|c| matches!(c.as_os_str().to_str(), Some("dists" | "repodata")));
    let new = files(from);
    let (metadata, packages): (Vec<_>, Vec<_>) = new.iter().partition(|p| is_metadata(p));
    for path in packages.into_iter().chain(metadata) {
        let (source, target) = (from.join(path), to.join(path));
        let same =
            fs::read(&target).is_ok_and(|old| old == fs::read(&source).expect("a committed file reads"));
        if !same {
            copy_file(&source, &target);
        }
    }
    for gone in files(to).into_iter().filter(|p| new.binary_search(p).is_err()) {
        fs::remove_file(to.join(gone)).expect("the scratch folder is writable");
    }
}

/// A flat deb repository with packages of any content, for tests that need big or many ones. Not signed,
/// and the packages are no archives: only for clients that fetch.
#[derive(Debug)]
pub struct DebRepo {
    pub root: PathBuf,
    /// Name, version, size, SHA-256.
    entries: Vec<(String, u32, u64, String)>,
}

impl DebRepo {
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root).expect("the scratch folder is writable");
        Self { root: root.to_owned(), entries: Vec::new() }
    }

    /// Adds `NAME_1_all.deb`.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> String {
        self.add_version(name, 1, bytes)
    }

    /// Adds `NAME_VERSION_all.deb` in place of an earlier version, whose file stays.
    pub fn add_version(&mut self, name: &str, version: u32, bytes: &[u8]) -> String {
        let file = format!("{name}_{version}_all.deb");
        fs::write(self.root.join(&file), bytes).expect("the scratch folder is writable");
        self.entries.retain(|(other, ..)| other != name);
        self.entries.push((name.to_owned(), version, bytes.len() as u64, sha256_hex(bytes)));
        file
    }

    /// Writes Packages and Release.
    pub fn publish(&self) {
        let mut packages = String::new();
        for (name, version, size, sha256) in &self.entries {
            let _ = write!(
                packages,
                "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
                 Filename: ./{name}_{version}_all.deb\nSize: {size}\nSHA256: {sha256}\nDescription: test\n\n"
            );
        }
        let release = format!(
            "Origin: Tests\nSuite: flat\nDate: {}\nSHA256:\n {} {} Packages\n",
            // Any past date does; apt never sees this repository.
            "Sat, 01 Nov 2025 12:00:00 UTC",
            sha256_hex(packages.as_bytes()),
            packages.len()
        );
        fs::write(self.root.join("Packages"), packages).expect("the scratch folder is writable");
        fs::write(self.root.join("Release"), release).expect("the scratch folder is writable");
    }
}
