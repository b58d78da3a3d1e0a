//! The snapshot of one repository: the current generation of each of its units, and the retained ones.
//!
//! Immutable: adopting a generation makes a new snapshot, which the server swaps in with one store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::unit::{Root, Unit, UnitKey};
use crate::model::{Alternatives, Digest, Expected, RepoPath};

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

/// What metadata says of a package's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// By the newest generation that names it.
    pub expected: Expected,
    /// Another current generation says otherwise: [`Snapshot::alternatives`] has all that they say.
    pub is_disputed: bool,
}

impl From<Expected> for Package {
    fn from(expected: Expected) -> Self {
        Self { expected, is_disputed: false }
    }
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

    /// What a package path must be, by the newest generation that names it.
    pub fn package(&self, path: &str) -> Option<Expected> {
        self.find_package(path).map(|package| package.expected)
    }

    /// The same, and whether the current generations agree. The hot path: it allocates nothing.
    pub fn find_package(&self, path: &str) -> Option<Package> {
        newest(path, self.units()).or_else(|| newest(path, self.retired()))
    }

    /// Everything that a package's file may be: what current generations say, the newest first, then what older
    /// ones said that are retained.
    pub fn alternatives(&self, path: &str) -> Option<Alternatives> {
        let mut found = named_by(path, self.units()).collect::<Vec<_>>();
        found.sort_by_key(|(at, _)| Reverse(*at));
        let current = found.len();
        found.extend(named_by(path, self.retired()));
        found[current..].sort_by_key(|(at, _)| Reverse(*at));
        let mut found = found.into_iter().map(|(_, expected)| expected);
        let mut all = Alternatives::from(found.next()?);
        found.for_each(|expected| all.push(expected));
        Some(all)
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

/// What some generations say of a path, and since when each does.
fn named_by<'a>(
    path: &str,
    units: impl Iterator<Item = &'a Arc<Unit>>,
) -> impl Iterator<Item = (u64, Expected)> {
    units.filter_map(move |unit| {
        let expected = unit.may_hold(path).then(|| unit.packages.get(path)).flatten()?;
        Some((unit.adopted_secs, expected))
    })
}

fn newest<'a>(path: &str, units: impl Iterator<Item = &'a Arc<Unit>>) -> Option<Package> {
    let mut found: Option<(u64, Package)> = None;
    for (at, expected) in named_by(path, units) {
        let is_disputed =
            found.is_some_and(|(_, other)| other.is_disputed || !other.expected.agrees(&expected));
        found = match found {
            Some((newest, other)) if newest > at => Some((newest, Package { is_disputed, ..other })),
            _ => Some((at, Package { expected, is_disputed })),
        };
    }
    found.map(|(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Draft, RootFile, UnitKind};
    use crate::model::BlobId;

    /// A unit of checksums in a folder that it shares with others: each names `pool/a` by one digest.
    fn unit(dir: &str, digest: u8, adopted_secs: u64) -> Arc<Unit> {
        let key = UnitKey { kind: UnitKind::Suite, dir: format!("dists/{dir}") };
        let path = RepoPath::new(&format!("dists/{dir}/Release")).expect("valid");
        let root = RootFile::new(path, format!("Origin: {digest}\nSHA256:\n").into());
        let unit = Draft::new(key, vec![root]).expect("valid").finish(adopted_secs, adopted_secs);
        let mut packages = crate::catalog::PathTableBuilder::default();
        packages.push("pool/a", expected(digest));
        Arc::new(Unit { packages: packages.build(), ..unit })
    }

    fn expected(digest: u8) -> Expected {
        Expected { digest: BlobId([digest; 32]).digest(), size: Some(5) }
    }

    fn adopted(units: impl IntoIterator<Item = Arc<Unit>>) -> Snapshot {
        let adopt = |snapshot: Snapshot, unit| {
            let generations = snapshot.succession(unit);
            snapshot.adopt(generations)
        };
        units.into_iter().fold(Snapshot::default(), adopt)
    }

    #[test]
    fn the_newest_comes_first_and_older_generations_last() {
        let snapshot = adopted([unit("x", 1, 10), unit("x", 2, 20), unit("y", 3, 30), unit("z", 3, 40)]);
        let package = snapshot.find_package("pool/a").expect("named");
        assert_eq!(package, Package { expected: expected(3), is_disputed: true });
        let all = snapshot.alternatives("pool/a").expect("named");
        assert_eq!(all.iter().copied().collect::<Vec<_>>(), [expected(3), expected(2), expected(1)]);
        assert_eq!(snapshot.alternatives("pool/b"), None);
    }

    #[test]
    fn a_new_generation_is_no_dispute() {
        let snapshot = adopted([unit("x", 1, 10), unit("x", 2, 20), unit("y", 2, 15)]);
        let package = snapshot.find_package("pool/a").expect("named");
        assert_eq!(package, Package { expected: expected(2), is_disputed: false });
        assert_eq!(snapshot.alternatives("pool/a").map(|all| all.iter().count()), Some(2));
    }
}
