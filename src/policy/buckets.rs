//! An ordered map of a million entries that is found in by few steps.
//!
//! Keys are mostly digests, so their first bits spread them over many small trees as evenly as a hash function
//! would; a lookup reads two nodes, not seven that all lie somewhere else in memory. Whoever makes
//! up keys that fall into one tree gets no worse than one large tree.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::model::BlobId;

/// Trees: with a million entries sixty are in each, and an empty map takes 400 kB.
const BITS: u32 = 14;

/// A key whose first 64 bits are spread evenly, and order first.
pub(super) trait Spread: Ord + Copy {
    fn first(&self) -> u64;
}

/// A blob's digest as numbers, in the same order: these compare faster than bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlobKey([u64; 4]);

impl From<BlobId> for BlobKey {
    fn from(BlobId(bytes): BlobId) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self(std::array::from_fn(|n| words.get(n).map_or(0, |word| u64::from_be_bytes(*word))))
    }
}

impl From<BlobKey> for BlobId {
    fn from(BlobKey(words): BlobKey) -> Self {
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        Self(bytes)
    }
}

impl Spread for BlobKey {
    fn first(&self) -> u64 {
        self.0[0]
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Buckets<K, V> {
    trees: Vec<BTreeMap<K, V>>,
    len: usize,
}

impl<K, V> Default for Buckets<K, V> {
    fn default() -> Self {
        Self { trees: (0..1 << BITS).map(|_| BTreeMap::new()).collect(), len: 0 }
    }
}

fn tree<K: Spread>(key: &K) -> usize {
    (key.first() >> (u64::BITS - BITS)) as usize
}

impl<K: Spread, V> Buckets<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.trees[tree(key)].get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.trees[tree(key)].get_mut(key)
    }

    /// What is there, or what `new` makes.
    pub(super) fn get_or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let Self { trees, len } = self;
        trees[tree(&key)].entry(key).or_insert_with(|| {
            *len += 1;
            new()
        })
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.trees[tree(key)].remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    /// Keeps those whose values are such.
    pub(super) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.trees.iter_mut().for_each(|tree| tree.retain(|_, value| keep(value)));
        self.len = self.trees.iter().map(BTreeMap::len).sum();
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.trees.iter().flatten()
    }

    /// Those from this one on, in order.
    pub(super) fn from(&self, first: K) -> impl Iterator<Item = (&K, &V)> {
        let at = tree(&first);
        self.trees[at].range(first..).chain(self.trees[at + 1..].iter().flatten())
    }

    /// Those after `last`, in order.
    pub(super) fn after_mut(&mut self, last: Option<K>) -> impl Iterator<Item = (&K, &mut V)> {
        let at = last.as_ref().map_or(0, tree);
        let (first, rest) = match self.trees[at..].split_first_mut() {
            Some((first, rest)) => (Some(first), rest),
            None => (None, &mut [][..]),
        };
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let first = first.into_iter().flat_map(move |tree| tree.range_mut((from, Bound::Unbounded)));
        first.chain(rest.iter_mut().flatten())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_the_blob() {
        let id = BlobId(std::array::from_fn(|n| n as u8));
        assert_eq!(BlobId::from(BlobKey::from(id)), id);
    }

    proptest! {
        #[test]
        fn is_an_ordered_map(steps in prop::collection::vec((0u8..4, any::<[u8; 2]>()), 0..200), after: [u8; 2]) {
            let id = |head: [u8; 2]| {
                let mut id = [7; 32];
                // Few trees, so that some share one.
                (id[0], id[20]) = (head[0] % 4 * 60, head[1] % 8);
                BlobId(id)
            };
            let (mut buckets, mut plain) = (Buckets::default(), BTreeMap::new());
            for (n, (what, head)) in (0..).zip(steps) {
                let (key, id) = (BlobKey::from(id(head)), id(head));
                match what {
                    0 => prop_assert_eq!(buckets.remove(&key), plain.remove(&id)),
                    _ => prop_assert_eq!(*buckets.get_or_insert_with(key, || n), *plain.entry(id).or_insert(n)),
                }
                prop_assert_eq!(buckets.get(&key), plain.get(&id));
                prop_assert_eq!(buckets.get_mut(&key), plain.get_mut(&id));
            }
            prop_assert_eq!(buckets.len(), plain.len());
            let all = |key: &BlobKey, value: &i32| (BlobId::from(*key), *value);
            prop_assert!(buckets.iter().map(|(k, v)| all(k, v)).eq(plain.iter().map(|(k, v)| (*k, *v))));
            let mut even = buckets.clone();
            even.retain(|n| n % 2 == 0);
            prop_assert_eq!(even.len(), plain.values().filter(|n| *n % 2 == 0).count());
            prop_assert_eq!(even.iter().count(), even.len());
            prop_assert!(buckets.after_mut(None).map(|(k, v)| all(k, v)).eq(plain.iter().map(|(k, v)| (*k, *v))));
            let rest = plain.range((Bound::Excluded(id(after)), Bound::Unbounded)).map(|(k, v)| (*k, *v));
            let found = buckets.after_mut(Some(id(after).into())).map(|(k, v)| all(k, v));
            prop_assert!(found.eq(rest));
        }
    }
}
