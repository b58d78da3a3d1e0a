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
/// One that was current this recently is kept besides: a slow client's update takes minutes, however fast
/// generations follow each other.
const RETAINED_SECS: u64 = 600;
/// Bounds what an origin that changes all the time can make us keep.
const MAX_RETAINED: usize = 32;

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
        path: RepoPath,
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

    /// The generations to keep of a unit that gets a new one, newest first. One with the same roots is
    /// replaced, not kept beside it: it only learned more members. The one that was current is retired,
    /// which takes time: do it before [`Self::adopt`].
    pub fn succession(&self, unit: Arc<Unit>) -> VecDeque<Arc<Unit>> {
        let old = self.generations(&unit.key).filter(|old| old.roots != unit.roots);
        let retire = |old: &Arc<Unit>| match old.is_retired {
            true => old.clone(),
            false => Arc::new(old.retire(&unit)),
        };
        let mut kept = VecDeque::new();
        let mut superseded_secs = unit.adopted_secs;
        for old in old.take(MAX_RETAINED - 1) {
            let age_secs = unit.adopted_secs.saturating_sub(superseded_secs);
            if kept.len() < RETAINED - 1 || age_secs < RETAINED_SECS {
                kept.push_back(retire(old));
            }
            superseded_secs = old.adopted_secs;
        }
        kept.push_front(unit);
        kept
    }

    /// A snapshot with these generations of a unit, newest first.
    pub fn adopt(&self, generations: VecDeque<Arc<Unit>>) -> Self {
        let mut next = self.clone();
        if let Some(key) = generations.front().map(|unit| unit.key.clone()) {
            next.units.insert(key, generations);
        }
        next
    }

    /// A certain generation of a unit, while it is retained.
    pub fn generation(&self, key: &UnitKey, generation: u64) -> Option<&Arc<Unit>> {
        self.generations(key).find(|unit| unit.generation == generation)
    }

    /// Every retained generation of a unit, the current one first.
    pub fn generations(&self, key: &UnitKey) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.get(key).into_iter().flatten()
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
        let find = |unit: &'_ Arc<Unit>| {
            let expected = unit.may_hold(path).then(|| unit.packages.get(path)).flatten()?;
            Some((unit.adopted_secs, expected))
        };
        // Where suites disagree about a file that was replaced, the one that was read last is right.
        let newest =
            |units: &mut dyn Iterator<Item = &Arc<Unit>>| units.filter_map(find).max_by_key(|(at, _)| *at);
        let found = newest(&mut self.units()).or_else(|| newest(&mut self.retired()));
        found.map(|(_, expected)| expected)
    }

    fn retired(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.values().flat_map(|all| all.iter().skip(1))
    }

    /// `Last-Modified` of a package in seconds since 1970, where its path had other contents before; else its
    /// bytes give it. Where units disagree the latest counts.
    pub fn modified_secs(&self, path: &str, digest: &Digest) -> Option<u64> {
        let named = |unit: &Unit| unit.packages.get(path).is_some_and(|expected| expected.digest == *digest);
        self.retained().filter_map(|unit| unit.dates.of(path, digest, || named(unit))).max()
    }

    /// Whether a retained generation of any unit has other contents under a path.
    pub fn had_other(&self, path: &str, digest: &Digest) -> bool {
        self.retained().any(|unit| {
            let named = unit.may_hold(path).then(|| unit.packages.get(path)).flatten();
            named.is_some_and(|expected| expected.digest != *digest) || unit.dates.has_other(path, digest)
        })
    }

    /// Where a blob stands in this repository.
    pub fn path_of(&self, digest: &Digest) -> Option<(String, Expected)> {
        self.units().chain(self.retired()).find_map(|unit| unit.packages.path_of(digest))
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
