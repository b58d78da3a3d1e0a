//! Small signed repositories, each with bytes of its own, and one client's walk through one of them: what it
//! saw when something is wrong with one file.

use std::fs;
use std::path::Path;

use super::generation::Signer;
use super::{Response, http, random_bytes, sha256_hex};

/// Which file has the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// InRelease.
    Root,
    /// The package list, without which no generation is whole.
    Index,
    /// A file that the root names and nobody needs before a client asks for it.
    Member,
    Package,
}

pub const KINDS: [Kind; 4] = [Kind::Root, Kind::Index, Kind::Member, Kind::Package];

const ROOT: &str = "dists/stable/InRelease";
const INDEX: &str = "dists/stable/main/binary-amd64/Packages";
const MEMBER: &str = "dists/stable/main/i18n/Translation-en";
const PACKAGE: &str = "pool/p_1_all.deb";

impl Kind {
    pub fn path(self) -> &'static str {
        match self {
            Self::Root => ROOT,
            Self::Index => INDEX,
            Self::Member => MEMBER,
            Self::Package => PACKAGE,
        }
    }

    /// What a client asks for to get this file, in order.
    fn walk(self) -> &'static [Self] {
        match self {
            Self::Root => &[Self::Root],
            Self::Index => &[Self::Root, Self::Index],
            Self::Member => &[Self::Root, Self::Index, Self::Member],
            Self::Package => &[Self::Root, Self::Index, Self::Package],
        }
    }
}

/// One repository.
#[derive(Debug)]
pub struct Cell {
    pub name: String,
    files: Vec<(Kind, Vec<u8>)>,
}

impl Cell {
    /// `size` is that of its package; `more` are further lines of its Release.
    pub fn new(signer: &Signer, number: u64, size: usize, more: &str) -> Self {
        let package = random_bytes(1000 + number, size);
        let index = format!(
            "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@example.org>\nFilename: {PACKAGE}\n\
             Size: {}\nSHA256: {}\nDescription: test {number}\n\n",
            package.len(),
            sha256_hex(&package)
        )
        .into_bytes();
        let member = format!("Package: p\nDescription-md5: {number:032x}\nDescription-en: test\n test\n\n")
            .into_bytes();
        let line = |path: &str, bytes: &[u8]| {
            let path = path.trim_start_matches("dists/stable/");
            format!(" {} {} {path}\n", sha256_hex(bytes), bytes.len())
        };
        let release = format!(
            "Origin: Tests\nLabel: Tests {number}\nSuite: stable\nCodename: stable\nDate: Sat, 01 Nov 2025 12:00:00 UTC\n\
             {more}Architectures: amd64\nComponents: main\nSHA256:\n{}{}",
            line(INDEX, &index),
            line(MEMBER, &member)
        );
        let root = signer.clearsign(release.as_bytes());
        let files =
            vec![(Kind::Root, root), (Kind::Index, index), (Kind::Member, member), (Kind::Package, package)];
        Self { name: format!("cell{number}"), files }
    }

    pub fn write(&self, tree: &Path) {
        for (kind, bytes) in &self.files {
            let path = tree.join(&self.name).join(kind.path());
            fs::create_dir_all(path.parent().expect("a file has a folder"))
                .and_then(|()| fs::write(path, bytes))
                .expect("the scratch folder is writable");
        }
    }

    pub fn bytes(&self, kind: Kind) -> &[u8] {
        let found = self.files.iter().find(|(k, _)| *k == kind);
        found.map(|(_, bytes)| bytes.as_slice()).expect("every kind is there")
    }

    /// The first thing on the way to a file that is not right; else "right". `server` ends without slash.
    pub fn walk(&self, server: &str, kind: Kind) -> String {
        self.walk_at(&format!("{server}/{}", self.name), kind)
    }

    /// The same where the repository is served under another name; its URL.
    pub fn walk_at(&self, repo: &str, kind: Kind) -> String {
        for step in kind.walk() {
            let seen = self.seen(&http::try_get(&format!("{repo}/{}", step.path())), *step);
            if seen != "right" {
                return seen;
            }
        }
        "right".to_owned()
    }

    fn seen(&self, answer: &std::io::Result<Response>, kind: Kind) -> String {
        match answer {
            Err(_) => "broken".to_owned(),
            Ok(answer) if answer.cut => "broken".to_owned(),
            Ok(answer) if answer.status != 200 => answer.status.to_string(),
            Ok(answer) if answer.body == self.bytes(kind) => "right".to_owned(),
            Ok(_) => "WRONG".to_owned(),
        }
    }

    /// Whether a server's stores hold the right file.
    pub fn is_kept(&self, state: &Path, kind: Kind) -> bool {
        is_kept(state, self.bytes(kind))
    }
}

/// Whether one of a server's stores has these bytes.
pub fn is_kept(state: &Path, bytes: &[u8]) -> bool {
    let name = sha256_hex(bytes);
    ["cache", "metadata"].iter().any(|part| {
        let path = state.join(part).join("blobs").join(&name[..2]).join(&name);
        path.is_file()
    })
}
