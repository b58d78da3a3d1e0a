//! The repositories below a folder, by the files that clients ask for first.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Deb,
    Rpm,
}

/// One repository; of an archive with several suites each counts.
#[derive(Debug)]
pub struct Repo {
    /// What servers call it.
    pub name: String,
    pub root: PathBuf,
    /// Its root as the table says it.
    pub shown: String,
    pub kind: Kind,
    /// What apt is told: the suite, or `./`.
    pub suite: String,
    /// deb: of the Release file, `main` and `amd64` where it says nothing or there is none.
    pub components: String,
    pub architectures: String,
    pub has_sources: bool,
    pub is_signed: bool,
    /// The key that signs it, where it lies in the repository.
    pub key: Option<PathBuf>,
}

/// What a flat repository without a Release file has.
const FLAT_LISTS: [&str; 3] = ["Packages", "Packages.gz", "Packages.xz"];
/// Where a repository has its key: `createrepo_c` and zypper name the first, `tests/by_hand/suites.sh` the other.
const KEYS: [&str; 2] = ["repodata/repomd.xml.key", "key.asc"];

fn has_release(folder: &Path) -> bool {
    ["InRelease", "Release"].iter().any(|name| folder.join(name).is_file())
}

/// Folders in a folder, sorted; links are not followed.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir() && !path.is_symlink()).collect();
    found.sort();
    found
}

/// Suites of an archive: the topmost folders below `dists` with a Release file.
fn suites(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in folders(folder) {
        if has_release(&path) { found.push(path) } else { suites(&path, found) }
    }
}

/// All below a folder.
pub fn find(folder: &Path) -> Vec<Repo> {
    let mut repos = Vec::new();
    look(folder, folder, &mut repos);
    repos
}

fn look(top: &Path, folder: &Path, repos: &mut Vec<Repo>) {
    if folder.join("repodata/repomd.xml").is_file() {
        repos.push(rpm(top, folder, repos.len()));
    }
    let dists = folder.join("dists");
    let mut found = Vec::new();
    suites(&dists, &mut found);
    for suite in found {
        let name = suite.strip_prefix(&dists).expect("it is below").display().to_string();
        repos.push(deb(top, folder, &suite, &name, repos.len()));
    }
    if has_release(folder) || FLAT_LISTS.iter().any(|name| folder.join(name).is_file()) {
        repos.push(deb(top, folder, folder, "./", repos.len()));
    }
    folders(folder).iter().filter(|path| **path != dists).for_each(|path| look(top, path, repos));
}

fn rpm(top: &Path, root: &Path, number: usize) -> Repo {
    let is_signed = root.join("repodata/repomd.xml.asc").is_file();
    Repo {
        name: format!("r{number}"),
        root: root.to_owned(),
        shown: root.strip_prefix(top).unwrap_or(root).display().to_string(),
        kind: Kind::Rpm,
        suite: "./".to_owned(),
        components: String::new(),
        architectures: String::new(),
        has_sources: false,
        is_signed,
        key: key_of(root),
    }
}

fn key_of(root: &Path) -> Option<PathBuf> {
    KEYS.iter().map(|name| root.join(name)).find(|path| path.is_file())
}

fn deb(top: &Path, root: &Path, folder: &Path, suite: &str, number: usize) -> Repo {
    let texts = ["InRelease", "Release"].map(|name| fs::read(folder.join(name)).unwrap_or_default());
    let text = String::from_utf8_lossy(&texts.concat()).into_owned();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let is_flat = suite == "./";
    let shown = root.strip_prefix(top).unwrap_or(root).display().to_string();
    let is_binary = |name: &&str| !["all", "source"].contains(name);
    let architectures = field("Architectures:").unwrap_or("amd64").split_whitespace().filter(is_binary);
    let architectures: Vec<&str> = architectures.collect();
    let has_file = |name: &str| folder.join(name).is_file();
    Repo {
        name: format!("r{number}"),
        root: root.to_owned(),
        shown: if is_flat { shown } else { format!("{shown} {suite}") },
        kind: Kind::Deb,
        suite: suite.to_owned(),
        components: if is_flat { "" } else { field("Components:").unwrap_or("main") }.to_owned(),
        architectures: architectures.join(","),
        has_sources: text.contains("/source/Sources") || has_file("Sources") || has_file("Sources.gz"),
        is_signed: has_file("InRelease") || has_file("Release.gpg"),
        key: key_of(root),
    }
}
