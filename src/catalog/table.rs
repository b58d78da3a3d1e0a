//! An immutable map from path to what the file must be, and back from digest to path.
//!
//! Built once per generation. Paths live in one buffer and digests in another; an entry is 24 bytes. Look-up
//! is a binary search: no hashing that a hostile name could attack, no order that varies between runs.

use std::cmp::Ordering;

use crate::model::{Algorithm, Digest, Expected};

/// Size value for "the metadata does not say".
const UNKNOWN_SIZE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    size: u64,
    path_at: u32,
    digest_at: u32,
    path_len: u16,
    algorithm: Algorithm,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct PathTable {
    paths: Box<str>,
    digests: Box<[u8]>,
    /// Sorted by path.
    slots: Box<[Slot]>,
    /// Indices into `slots`, sorted by digest.
    by_digest: Box<[u32]>,
}

impl PathTable {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn get(&self, path: &str) -> Option<Expected> {
        let at = self.slots.binary_search_by(|slot| self.name_of(slot).cmp(path)).ok()?;
        Some(self.expected_of(&self.slots[at]))
    }

    /// The first path, in path order, whose metadata gives exactly this digest.
    pub fn path_of(&self, digest: &Digest) -> Option<&str> {
        let first = self.by_digest.partition_point(|&i| self.compare_digest(i, digest) == Ordering::Less);
        let index = *self.by_digest.get(first)?;
        (self.compare_digest(index, digest) == Ordering::Equal)
            .then(|| self.name_of(&self.slots[index as usize]))
    }

    /// Every entry in path order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Expected)> {
        self.slots.iter().map(|slot| (self.name_of(slot), self.expected_of(slot)))
    }

    fn compare_digest(&self, index: u32, digest: &Digest) -> Ordering {
        let slot = &self.slots[index as usize];
        (slot.algorithm, self.digest_of(slot)).cmp(&(digest.algorithm(), digest.as_bytes()))
    }

    fn name_of(&self, slot: &Slot) -> &str {
        &self.paths[slot.path_at as usize..slot.path_at as usize + usize::from(slot.path_len)]
    }

    fn digest_of(&self, slot: &Slot) -> &[u8] {
        &self.digests[slot.digest_at as usize..slot.digest_at as usize + slot.algorithm.digest_len()]
    }

    fn expected_of(&self, slot: &Slot) -> Expected {
        let size = (slot.size != UNKNOWN_SIZE).then_some(slot.size);
        Expected { digest: Digest::new(slot.algorithm, self.digest_of(slot)), size }
    }
}

/// Collects entries in any order.
#[derive(Debug, Default)]
pub struct PathTableBuilder {
    paths: String,
    digests: Vec<u8>,
    slots: Vec<Slot>,
    /// Entries that did not fit the table's bounds.
    overflow: u64,
}

impl PathTableBuilder {
    /// Adds an entry. What passes the bounds of a table (4 GiB of names) is counted in
    /// [`Self::overflow`], not kept.
    pub fn push(&mut self, path: &str, expected: Expected) {
        let fits =
            (u32::try_from(self.paths.len()), u32::try_from(self.digests.len()), u16::try_from(path.len()));
        let (Ok(path_at), Ok(digest_at), Ok(path_len)) = fits else {
            self.overflow += 1;
            return;
        };
        self.paths.push_str(path);
        self.digests.extend_from_slice(expected.digest.as_bytes());
        self.slots.push(Slot {
            size: expected.size.unwrap_or(UNKNOWN_SIZE),
            path_at,
            digest_at,
            path_len,
            algorithm: expected.digest.algorithm(),
        });
    }

    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// Sorts. Of several entries with one path the first pushed is kept: architectures list the same `all`
    /// packages.
    pub fn build(self) -> PathTable {
        let Self { paths, digests, mut slots, .. } = self;
        let name =
            |slot: &Slot| &paths[slot.path_at as usize..slot.path_at as usize + usize::from(slot.path_len)];
        // Stable, so that the first pushed of equal paths comes first.
        slots.sort_by(|a, b| name(a).cmp(name(b)));
        slots.dedup_by(|later, first| name(later) == name(first));
        let mut by_digest: Vec<u32> = (0..u32::try_from(slots.len()).unwrap_or(u32::MAX)).collect();
        let digest = |slot: &Slot| {
            &digests[slot.digest_at as usize..slot.digest_at as usize + slot.algorithm.digest_len()]
        };
        by_digest.sort_by(|&a, &b| {
            let (a, b) = (&slots[a as usize], &slots[b as usize]);
            (a.algorithm, digest(a)).cmp(&(b.algorithm, digest(b)))
        });
        PathTable {
            paths: paths.into_boxed_str(),
            digests: digests.into_boxed_slice(),
            slots: slots.into_boxed_slice(),
            by_digest: by_digest.into_boxed_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn expected(n: u8, algorithm: Algorithm) -> Expected {
        Expected {
            digest: Digest::new(algorithm, &vec![n; algorithm.digest_len()]),
            size: (n != 9).then_some(u64::from(n)),
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(entries in prop::collection::vec(("[a-c/]{1,4}", 0u8..12, prop::bool::ANY), 0..60)) {
            let mut builder = PathTableBuilder::default();
            let mut model = BTreeMap::new();
            for (path, n, strong) in &entries {
                let algorithm = if *strong { Algorithm::Sha512 } else { Algorithm::Sha256 };
                builder.push(path, expected(*n, algorithm));
                model.entry(path.clone()).or_insert(expected(*n, algorithm));
            }
            let table = builder.build();
            prop_assert_eq!(table.len(), model.len());
            let listed: Vec<_> = table.iter().map(|(p, e)| (p.to_owned(), e)).collect();
            prop_assert_eq!(listed, model.clone().into_iter().collect::<Vec<_>>());
            for (path, want) in &model {
                prop_assert_eq!(table.get(path), Some(*want));
                let same = model.iter().find(|(_, e)| e.digest == want.digest).map(|(p, _)| p.as_str());
                prop_assert_eq!(table.path_of(&want.digest), same);
            }
            prop_assert_eq!(table.get("absent"), None);
        }
    }
}
