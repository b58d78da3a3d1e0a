//! An ordered map of a million entries that is found in by few steps.
//!
//! Keys are mostly digests, so their first bits spread them over many small trees as evenly as a hash function
//! would; a lookup reads two nodes, not seven that all lie somewhere else in memory. The trees are in parts by the
//! keys' first byte; a part has twice as many whenever they are full, so that nobody waits for the whole map to grow.
//! Whoever makes up keys that fall into one tree gets no worse than one large tree.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;

use crate::model::BlobId;

/// Of a key, by which its part is found.
const PART_BITS: u32 = 8;
/// Entries that a tree's node has room for; so many per tree of a part, on average, and it has more trees.
const NODE: usize = 11;

/// A blob's digest as numbers, in the same order: these compare faster than bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) struct BlobKey([u64; 4]);

impl Ord for BlobKey {
    fn cmp(&self, other: &Self) -> Ordering {
        // Hardly ever do the first words not tell.
        self.0[0].cmp(&other.0[0]).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for BlobKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

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

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Buckets<V> {
    parts: Vec<Part<V>>,
    len: usize,
}

/// Entries whose keys have the same first byte.
#[derive(Clone, Debug)]
struct Part<V> {
    /// A power of two of them, by the keys' next bits.
    trees: Vec<BTreeMap<BlobKey, V>>,
    len: usize,
}

impl<V> Default for Buckets<V> {
    fn default() -> Self {
        let part = || Part { trees: vec![BTreeMap::new()], len: 0 };
        Self { parts: (0..1 << PART_BITS).map(|_| part()).collect(), len: 0 }
    }
}

fn part(key: &BlobKey) -> usize {
    (key.0[0] >> (u64::BITS - PART_BITS)) as usize
}

impl<V> Part<V> {
    /// Where a key's tree is.
    fn at(&self, key: &BlobKey) -> usize {
        // One tree is found by no bit at all.
        let rest = key.0[0] << PART_BITS;
        ((rest >> 1) >> (u64::BITS - 1 - self.trees.len().trailing_zeros())) as usize
    }

    /// Twice as many trees: each becomes two.
    fn grow(&mut self) {
        let bit = 1 << (u64::BITS - 1 - PART_BITS - self.trees.len().trailing_zeros());
        let mut twice = Vec::with_capacity(self.trees.len() * 2);
        for mut lower in std::mem::take(&mut self.trees) {
            let upper = match lower.first_key_value() {
                Some((first, _)) => lower.split_off(&BlobKey([(first.0[0] | bit) & !(bit - 1), 0, 0, 0])),
                None => BTreeMap::new(),
            };
            twice.extend([slim(lower), slim(upper)]);
        }
        self.trees = twice;
    }
}

/// One that is empty, but was not always, keeps a node.
fn slim<V>(tree: BTreeMap<BlobKey, V>) -> BTreeMap<BlobKey, V> {
    if tree.is_empty() { BTreeMap::new() } else { tree }
}

impl<V> Buckets<V> {
    fn tree(&self, key: &BlobKey) -> &BTreeMap<BlobKey, V> {
        let part = &self.parts[part(key)];
        &part.trees[part.at(key)]
    }

    pub(in crate::policy) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::policy) fn get(&self, key: &BlobKey) -> Option<&V> {
        self.tree(key).get(key)
    }

    pub(in crate::policy) fn get_mut(&mut self, key: &BlobKey) -> Option<&mut V> {
        let part = &mut self.parts[part(key)];
        let at = part.at(key);
        part.trees[at].get_mut(key)
    }

    /// Begins to read what a lookup reads first, so that several tables are waited for at once.
    pub(in crate::policy) fn touch(&self, key: &BlobKey) {
        let first = self.tree(key).first_key_value();
        black_box(first.map(|(key, _)| key.0[0]));
    }

    /// What is there, or what `new` makes.
    pub(in crate::policy) fn get_or_insert_with(&mut self, key: BlobKey, new: impl FnOnce() -> V) -> &mut V {
        let Self { parts, len } = self;
        let part = &mut parts[part(&key)];
        if part.len >= part.trees.len() * NODE {
            part.grow();
        }
        let at = part.at(&key);
        let Part { trees, len: part_len } = part;
        trees[at].entry(key).or_insert_with(|| {
            *len += 1;
            *part_len += 1;
            new()
        })
    }

    pub(in crate::policy) fn remove(&mut self, key: &BlobKey) -> Option<V> {
        let part = &mut self.parts[part(key)];
        let at = part.at(key);
        let old = part.trees[at].remove(key)?;
        part.len -= 1;
        self.len -= 1;
        if part.trees[at].is_empty() {
            part.trees[at] = BTreeMap::new();
        }
        Some(old)
    }

    /// Keeps those whose values are such.
    pub(in crate::policy) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        for part in &mut self.parts {
            for tree in &mut part.trees {
                tree.retain(|_, value| keep(value));
                *tree = slim(std::mem::take(tree));
            }
            part.len = part.trees.iter().map(BTreeMap::len).sum();
        }
        self.len = self.parts.iter().map(|part| part.len).sum();
    }

    /// Bytes of the trees: a node has room for eleven entries and is two thirds full where a tree has several.
    pub(in crate::policy) fn heap_bytes(&self) -> usize {
        let node = NODE * size_of::<(BlobKey, V)>() + 2 * size_of::<usize>();
        let edges = (NODE + 1) * size_of::<usize>();
        let of_tree = |tree: &BTreeMap<BlobKey, V>| match tree.len() {
            0 => 0,
            len if len <= NODE => node,
            len => node + edges + len.div_ceil(NODE * 2 / 3) * node,
        };
        let all = self.parts.iter().map(|part| {
            let table = part.trees.capacity() * size_of::<BTreeMap<BlobKey, V>>();
            table + part.trees.iter().map(of_tree).sum::<usize>()
        });
        all.sum::<usize>() + self.parts.capacity() * size_of::<Part<V>>()
    }

    /// All of them, in order.
    pub(in crate::policy) fn iter(&self) -> impl Iterator<Item = (&BlobKey, &V)> {
        self.parts.iter().flat_map(|part| part.trees.iter().flatten())
    }

    /// Those from this one on, in order.
    pub(in crate::policy) fn from(&self, first: BlobKey) -> impl Iterator<Item = (&BlobKey, &V)> {
        let at = part(&first);
        let (part, rest) = (&self.parts[at], &self.parts[at + 1..]);
        let at = part.at(&first);
        let trees = part.trees[at].range(first..).chain(part.trees[at + 1..].iter().flatten());
        trees.chain(rest.iter().flat_map(|part| part.trees.iter().flatten()))
    }

    /// Those after `last`, in order.
    pub(in crate::policy) fn after_mut(
        &mut self,
        last: Option<BlobKey>,
    ) -> impl Iterator<Item = (&BlobKey, &mut V)> {
        let (part, at) = last.as_ref().map_or((0, 0), |last| (part(last), self.parts[part(last)].at(last)));
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut skipped = at;
        let trees = self.parts[part..]
            .iter_mut()
            .flat_map(move |part| part.trees[std::mem::take(&mut skipped)..].iter_mut());
        // Only the first tree has some of before.
        let mut from = Some(from);
        trees.flat_map(move |tree| {
            let lower = from.take().unwrap_or(Bound::Unbounded);
            tree.range_mut((lower, Bound::Unbounded))
        })
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
        fn is_an_ordered_map(
            steps in prop::collection::vec((0u8..4, 0u8..3, any::<u8>(), 0u8..3), 0..900),
            after: [u8; 2],
        ) {
            // In few parts, so that there are many trees in each; some keys are the lowest of their trees.
            let key_of = |first: u8, second: u8, last: u8| {
                let mut id = [0; 32];
                (id[0], id[1], id[20]) = (first * 100, second, last);
                BlobId(id)
            };
            let (mut buckets, mut plain) = (Buckets::default(), BTreeMap::new());
            for (n, (what, first, second, last)) in (0..).zip(steps) {
                let id = key_of(first, second, last);
                let key = BlobKey::from(id);
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
            let from = key_of(after[0] % 3, after[1], 1);
            prop_assert!(buckets.from(from.into()).map(|(k, v)| all(k, v)).eq(plain.range(from..).map(|(k, v)| (*k, *v))));
            let rest = plain.range((Bound::Excluded(from), Bound::Unbounded)).map(|(k, v)| (*k, *v));
            let found = buckets.after_mut(Some(from.into())).map(|(k, v)| all(k, v));
            prop_assert!(found.eq(rest));
        }
    }
}
