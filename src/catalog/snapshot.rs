//! The snapshot of one repository: the current generation of each of its units, and the retained ones.
//!
//! Immutable: adopting a generation makes a new snapshot, which the server swaps in with one store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::unit::{Root, Unit, UnitKey};
use crate::model::{Digest, Expected, RepoPath};

/// Generations kept per unit, the current one included: clients whose lists are old still find the members
/// and packages that those name (DESIGN.md section 7).
const RETAINED: usize = 3;

/// See the module's documentation. Newest generation first.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    units: BTreeMap<UnitKey, VecDeque<Arc<Unit>>>,
}

/// What a path of the repository is.
#[derive(Debug)]
pub enum Named<'a> {
    /// Starts a generation: served from memory, byte for byte.
    Root {
        unit: &'a Arc<Unit>,
        root: &'a Root,
    },
    /// A member of a generation: served from the metadata store.
    Member {
        unit: &'a Arc<Unit>,
        path: &'a RepoPath,
        expected: Expected,
    },
    /// Belongs to a unit's metadata, but its generation does not list it.
    Unlisted {
        unit: &'a Arc<Unit>,
    },
    Package {
        expected: Expected,
    },
    Unknown,
}

impl Snapshot {
    pub fn unit(&self, key: &UnitKey) -> Option<&Arc<Unit>> {
        self.units.get(key)?.front()
    }

    /// Current generations.
    pub fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.values().filter_map(VecDeque::front)
    }

    /// Every retained generation, current ones first within a unit.
    pub fn retained(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.values().flatten()
    }

    /// A snapshot with `unit` as the current generation of its key. Another generation with the same roots
    /// is replaced, not kept beside it: it only learned more members.
    pub fn adopt(&self, unit: Arc<Unit>) -> Self {
        let mut next = self.clone();
        let kept = next.units.entry(unit.key.clone()).or_default();
        kept.retain(|old| old.roots != unit.roots);
        kept.push_front(unit);
        kept.truncate(RETAINED);
        next
    }

    /// A snapshot without that unit.
    pub fn forget(&self, key: &UnitKey) -> Self {
        let mut next = self.clone();
        next.units.remove(key);
        next
    }

    pub fn resolve<'a>(&'a self, path: &RepoPath) -> Named<'a> {
        if let Some(expected) = self.package(path.as_str()) {
            return Named::Package { expected };
        }
        for unit in self.units().filter(|unit| unit.covers(path)) {
            if let Some(root) = unit.roots.get(path) {
                return Named::Root { unit, root };
            }
            if let Some((path, expected)) = unit.member(path) {
                return Named::Member { unit, path, expected };
            }
        }
        self.older_member(path)
    }

    /// What a package path must be, by the newest generation that names it. The hot path.
    pub fn package(&self, path: &str) -> Option<Expected> {
        let current = self.units().find_map(|unit| unit.packages.get(path));
        current.or_else(|| self.retained().find_map(|unit| unit.packages.get(path)))
    }

    /// Where a blob stands in this repository.
    pub fn path_of<'a>(&'a self, digest: &Digest) -> Option<(&'a str, Expected)> {
        self.retained().find_map(|unit| {
            let path = unit.packages.path_of(digest)?;
            Some((path, unit.packages.get(path)?))
        })
    }

    /// Members of older generations are reachable by names that change with their content: by-hash in deb,
    /// hash-prefixed names in rpm-md.
    fn older_member<'a>(&'a self, path: &RepoPath) -> Named<'a> {
        let Some((_, generations)) =
            self.units.iter().find(|(_, all)| all.iter().any(|unit| unit.covers(path)))
        else {
            return Named::Unknown;
        };
        let is_stable_name = path.as_str().contains("/by-hash/") || path.as_str().contains("repodata/");
        for unit in generations.iter().skip(1).filter(|_| is_stable_name) {
            if let Some((path, expected)) = unit.member(path) {
                return Named::Member { unit, path, expected };
            }
        }
        match generations.front() {
            Some(unit) => Named::Unlisted { unit },
            None => Named::Unknown,
        }
    }
}

/// How many names stand for how many blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogStats {
    pub paths: u64,
    pub blobs: u64,
    /// Sizes added up over paths, and over blobs.
    pub bytes: u64,
    pub blob_bytes: u64,
}

impl CatalogStats {
    /// Counts over all repositories. `canonical` maps a digest to the one that names the blob, where known.
    pub fn of<'a>(
        snapshots: impl Iterator<Item = &'a Snapshot>,
        canonical: impl Fn(&Digest) -> Digest,
    ) -> Self {
        let mut stats = Self::default();
        let mut blobs = BTreeMap::new();
        for snapshot in snapshots {
            // Suites of one archive share paths; a path counts once.
            let mut paths: Vec<(&str, Expected)> =
                snapshot.units().flat_map(|unit| unit.packages.iter()).collect();
            paths.sort_unstable_by_key(|(path, _)| *path);
            paths.dedup_by_key(|(path, _)| *path);
            for (_, expected) in paths {
                let size = expected.size.unwrap_or(0);
                stats.paths += 1;
                stats.bytes = stats.bytes.saturating_add(size);
                blobs.insert(canonical(&expected.digest), size);
            }
        }
        stats.blobs = blobs.len() as u64;
        stats.blob_bytes = blobs.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
        stats
    }
}
