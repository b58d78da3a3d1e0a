//! How many names stand for how many blobs: over everything, per repository, and shared by each pair of them.
//!
//! Blobs come out of the tables in the order of their digests, so that one merge over all units counts
//! them without a map of millions of entries.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::snapshot::Snapshot;
use super::table::Cursor;
use crate::model::{Algorithm, Digest, Expected};

/// Files from here on count as large: they are few, and most of the bytes.
pub const LARGE: u64 = 1 << 20;

/// Files, or blobs, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
    pub large_files: u64,
    pub large_bytes: u64,
}

impl Totals {
    fn add(&mut self, size: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if size >= LARGE {
            self.large_files += 1;
            self.large_bytes = self.large_bytes.saturating_add(size);
        }
    }
}

/// Blobs that two repositories both have; positions in the list of repositories, the smaller first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub repos: (usize, usize),
    pub shared: Totals,
}

/// See the module's documentation. Counts current generations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Distinct paths of each repository, added up.
    pub paths: Totals,
    /// Distinct bytes over all of them.
    pub blobs: Totals,
    /// Distinct bytes of each repository.
    pub repos: Vec<Totals>,
    /// Pairs that share anything.
    pub pairs: Vec<Pair>,
}

impl Census {
    /// `canonical` maps a digest to the one that names the blob, where it is known.
    pub fn of(repos: &[&Snapshot], canonical: impl Fn(&Digest) -> Digest) -> Self {
        let mut census = Self { repos: vec![Totals::default(); repos.len()], ..Self::default() };
        for snapshot in repos {
            count_paths(snapshot, &mut census.paths);
        }
        let mut pairs: BTreeMap<(usize, usize), Totals> = BTreeMap::new();
        let mut owners: Vec<usize> = Vec::new();
        each_blob(repos, canonical, |repos, size| {
            census.blobs.add(size);
            owners.clear();
            owners.extend_from_slice(repos);
            owners.sort_unstable();
            owners.dedup();
            for (i, &a) in owners.iter().enumerate() {
                census.repos[a].add(size);
                for &b in &owners[i + 1..] {
                    pairs.entry((a, b)).or_default().add(size);
                }
            }
        });
        census.pairs = pairs.into_iter().map(|(repos, shared)| Pair { repos, shared }).collect();
        census
    }
}

/// Suites of one archive share paths; a path counts once.
fn count_paths(snapshot: &Snapshot, totals: &mut Totals) {
    let mut cursors: Vec<Cursor<'_>> = snapshot.units().map(|unit| unit.packages.cursor()).collect();
    let mut heads = BinaryHeap::new();
    let advance = |index: usize, cursors: &mut Vec<Cursor<'_>>| {
        let (path, expected) = cursors[index].next()?;
        Some(Reverse((path.to_owned(), index, expected.size.unwrap_or(0))))
    };
    heads.extend((0..cursors.len()).filter_map(|index| advance(index, &mut cursors)));
    let mut last = None;
    while let Some(Reverse((path, index, size))) = heads.pop() {
        heads.extend(advance(index, &mut cursors));
        if last.as_ref() != Some(&path) {
            totals.add(size);
            last = Some(path);
        }
    }
}

/// Blobs of one unit of one repository, in the order of their digests.
struct Source<'a> {
    repo: usize,
    blobs: Box<dyn Iterator<Item = (Digest, u64)> + 'a>,
}

fn sources<'a>(repos: &[&'a Snapshot], canonical: impl Fn(&Digest) -> Digest) -> Vec<Source<'a>> {
    let sized = |expected: Expected| (expected.digest, expected.size.unwrap_or(0));
    let mut sources = Vec::new();
    for (repo, snapshot) in repos.iter().enumerate() {
        for unit in snapshot.units() {
            let blobs = Box::new(unit.packages.digests(Algorithm::Sha256).map(sized));
            sources.push(Source { repo, blobs });
            // Others have their own order until they are called by their SHA-256.
            let others = Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != Algorithm::Sha256);
            let others = others.flat_map(|algorithm| unit.packages.digests(algorithm)).map(sized);
            let mut others: Vec<_> = others.map(|(digest, size)| (canonical(&digest), size)).collect();
            if !others.is_empty() {
                others.sort_unstable();
                sources.push(Source { repo, blobs: Box::new(others.into_iter()) });
            }
        }
    }
    sources
}

/// Calls `each` for every blob with the repositories that have it, some perhaps more than once.
fn each_blob(
    repos: &[&Snapshot],
    canonical: impl Fn(&Digest) -> Digest,
    mut each: impl FnMut(&[usize], u64),
) {
    let mut sources = sources(repos, canonical);
    let mut heads = BinaryHeap::with_capacity(sources.len());
    for (index, source) in sources.iter_mut().enumerate() {
        heads.extend(source.blobs.next().map(|(digest, size)| Reverse((digest, index, size))));
    }
    let (mut owners, mut largest) = (Vec::new(), 0);
    while let Some(Reverse((digest, index, size))) = heads.pop() {
        owners.push(sources[index].repo);
        // Where metadata disagrees about a size, one of them is wrong; it does not matter which counts.
        largest = size.max(largest);
        heads.extend(sources[index].blobs.next().map(|(digest, size)| Reverse((digest, index, size))));
        if heads.peek().is_none_or(|Reverse((next, ..))| *next != digest) {
            each(&owners, largest);
            owners.clear();
            largest = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Draft, RootFile, UnitKey, UnitKind};
    use crate::model::RepoPath;
    use std::sync::Arc;

    /// A snapshot of one unit with these files: name and a byte that stands for the contents.
    fn snapshot(name: &str, files: &[(&str, u8)]) -> Snapshot {
        let text: String =
            files.iter().map(|(path, n)| format!("{}  {path}\n", format!("{n:02x}").repeat(32))).collect();
        let key = UnitKey { kind: UnitKind::Checksums, dir: name.to_owned() };
        let path = RepoPath::new(&format!("{name}/SHA256SUMS")).expect("valid");
        let unit = Draft::new(key, vec![RootFile::new(path, text.into())]).expect("valid").finish(1, 1);
        let snapshot = Snapshot::default();
        let generations = snapshot.succession(Arc::new(unit));
        snapshot.adopt(generations)
    }

    #[test]
    fn shared_blobs_are_counted_once_and_for_each_pair() {
        let a = snapshot("a", &[("one", 1), ("two", 2), ("again", 1)]);
        let b = snapshot("b", &[("one", 1), ("three", 3)]);
        let c = snapshot("c", &[("uno", 1), ("two", 2)]);
        let census = Census::of(&[&a, &b, &c], |digest| *digest);
        assert_eq!((census.paths.files, census.blobs.files), (7, 3));
        assert_eq!(census.repos.iter().map(|repo| repo.files).collect::<Vec<_>>(), [2, 2, 2]);
        let pairs: Vec<_> = census.pairs.iter().map(|pair| (pair.repos, pair.shared.files)).collect();
        assert_eq!(pairs, [((0, 1), 1), ((0, 2), 2), ((1, 2), 1)]);
    }

    #[test]
    fn digests_of_another_algorithm_count_as_the_blob_they_mean() {
        let a = snapshot("a", &[("one", 1)]);
        let b = {
            let text = format!("{}  one\n", "09".repeat(64));
            let key = UnitKey { kind: UnitKind::Checksums, dir: "b".to_owned() };
            let path = RepoPath::new("b/SHA512SUMS").expect("valid");
            let unit = Draft::new(key, vec![RootFile::new(path, text.into())]).expect("valid").finish(1, 1);
            let snapshot = Snapshot::default();
            snapshot.adopt(snapshot.succession(Arc::new(unit)))
        };
        let canonical = |digest: &Digest| match digest.algorithm() {
            Algorithm::Sha512 => Digest::new(Algorithm::Sha256, &[1; 32]),
            _ => *digest,
        };
        let census = Census::of(&[&a, &b], canonical);
        assert_eq!((census.paths.files, census.blobs.files, census.pairs.len()), (2, 1, 1));
    }
}
