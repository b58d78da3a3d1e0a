//! One unit of a repository: which it is, and one immutable generation of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::dates::Dates;
use super::diff;
use super::table::PathTable;
use crate::config::{Layout, Profile};
use crate::formats::conditions::Modified;
use crate::model::{Algorithm, Blob, BlobId, Digest, Expected, RepoPath};

/// Suites tried for one path: names like `bookworm-security/updates/main` exist, deeper ones do not, and
/// each try is a question to an upstream.
const MAX_CANDIDATES: usize = 3;

/// What kind of metadata a unit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitKind {
    /// `dists/SUITE/Release`; package paths are relative to what holds `dists/`.
    Suite,
    /// `DIR/Release` outside `dists/`.
    Flat,
    /// `DIR/repodata/repomd.xml`.
    RpmMd,
    /// `DIR/SHA256SUMS` and the like.
    Checksums,
}

/// Which unit of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitKey {
    pub kind: UnitKind,
    /// The directory, without a final slash; empty at the top.
    pub dir: String,
}

impl UnitKey {
    /// The unit whose generation a file starts: `InRelease`, `repomd.xml`, `SHA256SUMS`.
    pub fn of_root(path: &RepoPath, profile: &Profile) -> Option<Self> {
        let dir = path.parent().unwrap_or("");
        match (path.file_name(), profile.layout) {
            ("Release", Layout::Deb) if is_part_of_suite(dir) => None,
            ("InRelease" | "Release" | "Release.gpg", Layout::Deb) => Some(Self::of_release(dir)),
            ("repomd.xml" | "repomd.xml.asc" | "repomd.xml.key", Layout::RpmMd) => {
                let dir = if dir == "repodata" { "" } else { dir.strip_suffix("/repodata")? };
                Some(Self { kind: UnitKind::RpmMd, dir: dir.to_owned() })
            }
            (name, _) if profile.is_checksum_file(name) && !is_below_dists(dir) => {
                Some(Self { kind: UnitKind::Checksums, dir: dir.to_owned() })
            }
            _ => None,
        }
    }

    /// The unit that a suite of the configuration means.
    pub fn of_suite(suite: &str, layout: Layout) -> Self {
        let dir = suite.trim_matches('/');
        let dir = if dir == "." { "" } else { dir };
        match layout {
            Layout::Deb if suite.ends_with('/') || dir.is_empty() => {
                Self { kind: UnitKind::Flat, dir: dir.to_owned() }
            }
            Layout::Deb if is_below_dists(dir) => Self { kind: UnitKind::Suite, dir: dir.to_owned() },
            Layout::Deb => Self { kind: UnitKind::Suite, dir: format!("dists/{dir}") },
            Layout::RpmMd => Self { kind: UnitKind::RpmMd, dir: dir.to_owned() },
            Layout::Files => Self { kind: UnitKind::Checksums, dir: dir.to_owned() },
        }
    }

    /// Units that might name `path` as a member: what to load when nothing known does.
    pub fn candidates(path: &RepoPath, layout: Layout) -> Vec<Self> {
        let parents = || std::iter::successors(path.parent(), |dir| dir.rsplit_once('/').map(|(up, _)| up));
        match layout {
            // A suite's name may itself have slashes, so every directory below `dists/` is a candidate.
            Layout::Deb => {
                let mut keys: Vec<Self> =
                    parents().filter(|dir| is_below_dists(dir)).map(Self::of_release).collect();
                keys.reverse();
                keys.truncate(MAX_CANDIDATES);
                keys
            }
            Layout::RpmMd => parents()
                .filter(|dir| *dir == "repodata" || dir.ends_with("/repodata"))
                .map(|dir| Self {
                    kind: UnitKind::RpmMd,
                    dir: dir.trim_end_matches("repodata").trim_end_matches('/').to_owned(),
                })
                .collect(),
            Layout::Files => Vec::new(),
        }
    }

    fn of_release(dir: &str) -> Self {
        let kind = if is_below_dists(dir) { UnitKind::Suite } else { UnitKind::Flat };
        Self { kind, dir: dir.to_owned() }
    }

    /// What the unit's package paths are relative to.
    pub fn package_base(&self) -> &str {
        match self.kind {
            UnitKind::Suite => match self.dir.find("dists/") {
                Some(at) => self.dir[..at].trim_end_matches('/'),
                None => "",
            },
            UnitKind::Flat | UnitKind::RpmMd | UnitKind::Checksums => &self.dir,
        }
    }

    /// What the member paths in the unit's root file are relative to: the unit's directory for all kinds.
    pub fn member_base(&self) -> &str {
        &self.dir
    }

    /// The files that start a generation, in the order to fetch them: (path, whether it must exist).
    /// For checksum files the names come from a listing instead.
    pub fn roots(&self) -> Vec<(String, bool)> {
        let at =
            |name: &str| if self.dir.is_empty() { name.to_owned() } else { format!("{}/{name}", self.dir) };
        match self.kind {
            UnitKind::Suite | UnitKind::Flat => {
                vec![(at("InRelease"), false), (at("Release"), false), (at("Release.gpg"), false)]
            }
            UnitKind::RpmMd => vec![
                (at("repodata/repomd.xml"), true),
                (at("repodata/repomd.xml.asc"), false),
                (at("repodata/repomd.xml.key"), false),
            ],
            UnitKind::Checksums => Vec::new(),
        }
    }
}

impl std::fmt::Display for UnitKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.dir.is_empty() { "./" } else { &self.dir })
    }
}

/// Suites have a small `Release` beside each package list, which starts nothing: it is a member itself.
fn is_part_of_suite(dir: &str) -> bool {
    let folder = dir.rsplit('/').next().unwrap_or(dir);
    is_below_dists(dir) && (folder.starts_with("binary-") || folder == "source")
}

fn is_below_dists(dir: &str) -> bool {
    dir.strip_prefix("dists/").is_some() || dir.contains("/dists/")
}

/// A root file's bytes, exactly as upstream has them, and their identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub bytes: Bytes,
    pub blob: Blob,
}

impl Root {
    pub fn new(bytes: Bytes) -> Self {
        let id = BlobId(Sha256::digest(&bytes).into());
        Self { blob: Blob { id, size: bytes.len() as u64 }, bytes }
    }

    /// The same in a buffer of its own.
    fn detached(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), blob: self.blob }
    }
}

/// `DIR/by-hash/SHA256/<hex>` for a member, where its SHA-256 is known.
pub fn by_hash_path(member: &RepoPath, expected: &Expected) -> Option<RepoPath> {
    let id = expected.blob_id()?;
    let name = RepoPath::new(&format!("by-hash/SHA256/{id}")).ok()?;
    Some(name.under(member.parent().unwrap_or("")))
}

/// One immutable generation. Its tables are shared with its clones.
#[derive(Clone, Debug)]
pub struct Unit {
    pub key: UnitKey,
    /// Counts adoptions since the server first knew the unit.
    pub generation: u64,
    /// The files that start it, byte for byte as upstream has them.
    pub roots: BTreeMap<RepoPath, Root>,
    pub members: PathTable,
    /// The members again with their other digests, one table for each algorithm, for `by-hash` look-ups.
    pub(super) other_digests: Vec<PathTable>,
    /// rpm-md: what kind of metadata each member is (`primary`, `filelists`), since its path changes with its
    /// contents.
    pub kinds: BTreeMap<String, String>,
    /// The archive offers members under `by-hash/`.
    pub has_by_hash: bool,
    pub packages: PathTable,
    /// A later generation was adopted, and `packages` has only what that one has not.
    pub is_retired: bool,
    /// Some clients refuse it as a whole, although every file is what its metadata says.
    pub is_refused: bool,
    /// Lists among `stems` that apt refuses.
    pub refused_lists: BTreeSet<String>,
    /// Index families read into `packages`: member paths without their compression suffix.
    pub stems: BTreeSet<String>,
    /// Families that the metadata lists and the origin lacks.
    pub absent: BTreeSet<String>,
    /// Entries of the metadata that were unusable, and why the first of them was.
    pub skipped: u64,
    pub first_skipped: Option<String>,
    /// Oddities of the metadata that harm no client: a file and what is odd about it. A few at most.
    pub warnings: Vec<String>,
    /// deb: what the suite is divided into.
    pub components: Vec<String>,
    /// Seconds since 1970, where the metadata says.
    pub date: Option<u64>,
    pub valid_until: Option<u64>,
    /// When it was adopted first, in seconds since 1970.
    pub adopted_secs: u64,
    /// When its files were changed last.
    pub dates: Arc<Dates>,
}

impl Unit {
    /// When its metadata was changed last. Only what is current is known to be newer than any copy of before.
    pub fn modified(&self) -> Modified {
        let secs = self.dates.metadata_secs;
        Modified { secs, unchanged_since: (!self.is_retired).then_some(self.adopted_secs.max(secs)) }
    }

    /// `Last-Modified` of a package that it names, where its path had other contents before.
    pub fn package_modified_secs(&self, path: &str, digest: &Digest) -> Option<u64> {
        self.dates.of(path, digest, || true)
    }

    /// The member a path means: by its own name, or by `by-hash/ALGORITHM/HEX` in its directory.
    pub fn member(&self, path: &RepoPath) -> Option<(RepoPath, Expected)> {
        if let Some(expected) = self.members.get(path.as_str()) {
            return Some((path.clone(), expected));
        }
        let digest = by_hash_digest(path)?;
        let tables = std::iter::once(&self.members).chain(&self.other_digests);
        let (path, _) = tables.filter_map(|table| table.path_of(&digest)).next()?;
        let expected = self.members.get(&path)?;
        Some((RepoPath::new(&path).ok()?, expected))
    }

    /// What a member is called in every generation: its kind where it has one, else its path.
    pub fn member_name<'a>(&'a self, path: &'a RepoPath) -> &'a str {
        self.kinds.get(path.as_str()).map_or(path.as_str(), String::as_str)
    }

    /// The member that [`Self::member_name`] calls so.
    pub fn member_called(&self, name: &str) -> Option<Expected> {
        let of_kind = self.kinds.iter().find(|(_, kind)| *kind == name).map(|(path, _)| path.as_str());
        self.members.get(of_kind.unwrap_or(name))
    }

    /// This generation once `newer` is current: what both name alike is found there.
    pub fn retire(&self, newer: &Self) -> Self {
        Self {
            packages: diff::minus(&self.packages, &newer.packages),
            is_retired: true,
            key: self.key.clone(),
            // Copies: parts of an index file would keep all of it in memory.
            roots: self.roots.iter().map(|(path, root)| (path.clone(), root.detached())).collect(),
            members: self.members.detached(),
            other_digests: self.other_digests.iter().map(PathTable::detached).collect(),
            kinds: self.kinds.clone(),
            stems: self.stems.clone(),
            absent: self.absent.clone(),
            refused_lists: self.refused_lists.clone(),
            first_skipped: self.first_skipped.clone(),
            warnings: self.warnings.clone(),
            components: self.components.clone(),
            dates: self.dates.clone(),
            ..*self
        }
    }

    /// Whether a package of this path could be in this unit: a cheap test before the look-up.
    pub fn may_hold(&self, path: &str) -> bool {
        let base = self.key.package_base();
        // A flat repository's paths may begin above its directory.
        self.key.kind == UnitKind::Flat
            || base.is_empty()
            || path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether the path belongs to the metadata of this unit, known member or not.
    pub fn covers(&self, path: &RepoPath) -> bool {
        let inside = |dir: &str| path.as_str().strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
        match self.key.kind {
            UnitKind::Suite => inside(&self.key.dir),
            UnitKind::RpmMd if self.key.dir.is_empty() => inside("repodata"),
            UnitKind::RpmMd => inside(&format!("{}/repodata", self.key.dir)),
            UnitKind::Flat | UnitKind::Checksums => {
                self.roots.contains_key(path) || self.members.get(path.as_str()).is_some()
            }
        }
    }
}

/// The digest in `.../by-hash/SHA256/<hex>`.
pub fn by_hash_digest(path: &RepoPath) -> Option<Digest> {
    let mut segments = path.as_str().rsplit('/');
    let (hex, algorithm, marker) = (segments.next()?, segments.next()?, segments.next()?);
    if marker != "by-hash" {
        return None;
    }
    Digest::from_hex(Algorithm::from_name(algorithm)?, hex).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profiles;

    fn of_root(path: &str, profile: &str) -> Option<(UnitKind, String)> {
        let profiles = Profiles::built_in().expect("built in");
        let path = RepoPath::new(path).expect("valid");
        UnitKey::of_root(&path, profiles.get(profile).expect("known")).map(|key| (key.kind, key.dir))
    }

    #[test]
    fn roots_name_their_unit() {
        let table = [
            ("dists/stable/InRelease", "generic-deb", Some((UnitKind::Suite, "dists/stable"))),
            ("x/dists/a/b/Release.gpg", "generic-deb", Some((UnitKind::Suite, "x/dists/a/b"))),
            ("dists/stable/main/binary-amd64/Release", "generic-deb", None),
            ("dists/stable/main/source/Release", "generic-deb", None),
            ("InRelease", "generic-deb", Some((UnitKind::Flat, ""))),
            ("flat/Release", "generic-deb", Some((UnitKind::Flat, "flat"))),
            ("os/repodata/repomd.xml", "generic-rpm", Some((UnitKind::RpmMd, "os"))),
            ("repodata/repomd.xml.asc", "generic-rpm", Some((UnitKind::RpmMd, ""))),
            ("notrepodata/repomd.xml", "generic-rpm", None),
            ("iso/SHA256SUMS", "generic-deb", Some((UnitKind::Checksums, "iso"))),
            ("dists/stable/main/installer-amd64/current/images/SHA256SUMS", "generic-deb", None),
            ("dists/stable/Release", "generic-rpm", None),
            ("pool/a.deb", "generic-deb", None),
        ];
        for (path, profile, want) in table {
            assert_eq!(of_root(path, profile), want.map(|(kind, dir)| (kind, dir.to_owned())), "{path}");
        }
    }

    #[test]
    fn suites_of_the_configuration() {
        for (suite, layout, kind, dir, base) in [
            ("bookworm", Layout::Deb, UnitKind::Suite, "dists/bookworm", ""),
            ("dists/bookworm/updates", Layout::Deb, UnitKind::Suite, "dists/bookworm/updates", ""),
            ("ubuntu/dists/noble", Layout::Deb, UnitKind::Suite, "ubuntu/dists/noble", "ubuntu"),
            ("./", Layout::Deb, UnitKind::Flat, "", ""),
            ("flat/", Layout::Deb, UnitKind::Flat, "flat", "flat"),
            (
                "9/BaseOS/x86_64/os",
                Layout::RpmMd,
                UnitKind::RpmMd,
                "9/BaseOS/x86_64/os",
                "9/BaseOS/x86_64/os",
            ),
        ] {
            let key = UnitKey::of_suite(suite, layout);
            assert_eq!((key.kind, key.dir.as_str(), key.package_base()), (kind, dir, base), "{suite}");
        }
    }

    #[test]
    fn candidates_for_members() {
        let dirs = |path: &str, layout| -> Vec<String> {
            let path = RepoPath::new(path).expect("valid");
            UnitKey::candidates(&path, layout).into_iter().map(|key| key.dir).collect()
        };
        assert_eq!(dirs("dists/a/main/Packages.xz", Layout::Deb), ["dists/a", "dists/a/main"]);
        assert_eq!(dirs("os/repodata/x-primary.xml.gz", Layout::RpmMd), ["os"]);
        assert!(dirs("pool/a.deb", Layout::Deb).is_empty());
    }
}
