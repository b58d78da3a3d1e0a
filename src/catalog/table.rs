//! An immutable map from path to what the file must be, and back from digest to path, in one buffer.
//!
//! The buffer is the same in memory and in an index file: reading one back is one read, no parsing. Paths
//! are front-coded (each stores how much it shares with the one before it) in blocks of [`BLOCK`], so that
//! millions take a third of their length; digests and sizes are stored once, however many paths have them.
//! Look-up is a binary search over blocks and a walk within one: no hashing that a hostile name could
//! attack, no allocation. [`super::builder`] writes what this reads. Little-endian throughout:
//!
//! | part | bytes |
//! |---|---|
//! | number of paths, records of each algorithm, bytes of names | 4 + 7 x 4 + 8 |
//! | per block, where its first name begins | 4 each |
//! | per path in path order, its record | 4 each |
//! | per record, the first path that has it | 4 each |
//! | per record, size (all ones: the metadata does not say) | 8 each |
//! | digests of the records, by algorithm, sorted | 16 to 64 each |
//! | names: shared length, own length (LEB128), own bytes | |

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;

use crate::model::{Algorithm, Digest, Expected};

/// Paths per block: a look-up walks through half of one on average.
pub(super) const BLOCK: usize = 16;
/// Size value for "the metadata does not say".
pub(super) const UNKNOWN_SIZE: u64 = u64::MAX;
pub(super) const HEADER: usize = 4 + 4 * Algorithm::ALL.len() + 8;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct PathTable {
    bytes: Bytes,
    paths: usize,
    /// Records before those of each algorithm, and of all.
    records: [usize; Algorithm::ALL.len() + 1],
    blocks_at: usize,
    ranks_at: usize,
    firsts_at: usize,
    sizes_at: usize,
    /// Where the digests of each algorithm begin.
    digests_at: [usize; Algorithm::ALL.len()],
    names_at: usize,
}

impl PathTable {
    /// Takes a buffer that the builder made. `None` if it is anything else: lengths that do not fit. What
    /// is inside is not looked at; damage there finds nothing or the wrong thing, but never panics, and
    /// whoever keeps tables on disk guards them with a checksum.
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let paths = number(0)? as usize;
        let mut table = Self { paths, ..Self::default() };
        let mut digest_bytes = [0; Algorithm::ALL.len()];
        for (i, algorithm) in Algorithm::ALL.into_iter().enumerate() {
            let count = number(4 + 4 * i)? as usize;
            table.records[i + 1] = table.records[i].checked_add(count)?;
            digest_bytes[i] = count.checked_mul(algorithm.digest_len())?;
        }
        let names = bytes.get(HEADER - 8..HEADER)?.try_into().ok().map(u64::from_le_bytes)?;
        let all = table.records[Algorithm::ALL.len()];
        let mut at = HEADER;
        let mut part = |len: Option<usize>| {
            let begin = at;
            at = at.checked_add(len?)?;
            Some(begin)
        };
        table.blocks_at = part(paths.div_ceil(BLOCK).checked_mul(4))?;
        table.ranks_at = part(paths.checked_mul(4))?;
        table.firsts_at = part(all.checked_mul(4))?;
        table.sizes_at = part(all.checked_mul(8))?;
        for (begin, len) in table.digests_at.iter_mut().zip(digest_bytes) {
            *begin = part(Some(len))?;
        }
        table.names_at = part(usize::try_from(names).ok())?;
        (at == bytes.len()).then_some(Self { bytes, ..table })
    }

    /// The buffer, for [`Self::from_bytes`].
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same in a buffer of its own.
    pub fn detached(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self.clone() }
    }

    pub fn len(&self) -> usize {
        self.paths
    }

    pub fn is_empty(&self) -> bool {
        self.paths == 0
    }

    pub fn get(&self, path: &str) -> Option<Expected> {
        let block = self.block_of(path.as_bytes())?;
        let within = self.find_in_block(block, path.as_bytes())?;
        self.expected_of(block * BLOCK + within)
    }

    /// The first path, in path order, whose metadata gives exactly this digest, and what it must be.
    pub fn path_of(&self, digest: &Digest) -> Option<(String, Expected)> {
        let records = self.records_of(digest.algorithm());
        let (mut low, mut high) = (records.start, records.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.digest_bytes(digest.algorithm(), middle)?.cmp(digest.as_bytes()) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        // The same digest with two sizes makes two records: some metadata lies, so the first path decides.
        let same = (low..records.end)
            .take_while(|&record| self.digest_bytes(digest.algorithm(), record) == Some(digest.as_bytes()));
        let slot = same.filter_map(|record| self.u32_at(self.firsts_at, record)).min()?;
        let mut cursor = self.cursor_at(slot as usize / BLOCK);
        for _ in 0..slot as usize % BLOCK {
            cursor.step()?;
        }
        cursor.next().map(|(path, expected)| (path.to_owned(), expected))
    }

    /// Every entry in path order.
    pub fn cursor(&self) -> Cursor<'_> {
        self.cursor_at(0)
    }

    /// Calls `each` for every entry in path order.
    pub fn for_each(&self, mut each: impl FnMut(&str, Expected)) {
        let mut cursor = self.cursor();
        while let Some((path, expected)) = cursor.next() {
            each(path, expected);
        }
    }

    /// Calls `each` for the entries whose path begins with `prefix`, at most `max` of them, in path order.
    pub fn for_each_below(&self, prefix: &str, max: usize, mut each: impl FnMut(&str, Expected)) {
        let mut cursor = self.cursor_at(self.block_of(prefix.as_bytes()).unwrap_or(0));
        let mut left = max;
        while left > 0
            && let Some((path, expected)) = cursor.next()
        {
            if path.starts_with(prefix) {
                each(path, expected);
                left -= 1;
            } else if path > prefix {
                return;
            }
        }
    }

    /// Calls `each` with the names that stand directly in a directory, in path order, at most `max` of them: what a
    /// file must be, `None` for a directory. `dir` is empty or ends with a slash. A directory is passed over in one
    /// search, however many paths are below it; a name that is both comes twice.
    pub fn for_each_in(&self, dir: &str, max: usize, mut each: impl FnMut(&str, Option<Expected>)) {
        let mut cursor = self.cursor_from(dir);
        for _ in 0..max {
            let Some((path, expected)) = cursor.next() else { return };
            let Some(rest) = path.strip_prefix(dir) else { return };
            match rest.split_once('/') {
                None => each(rest, Some(expected)),
                Some((name, _)) => {
                    each(name, None);
                    // `0` follows `/`.
                    let behind = format!("{dir}{name}0");
                    cursor = self.cursor_from(&behind);
                }
            }
        }
    }

    /// A cursor whose next path is the first that does not come before `path`.
    fn cursor_from(&self, path: &str) -> Cursor<'_> {
        let mut cursor = self.cursor_at(self.block_of(path.as_bytes()).unwrap_or(0));
        loop {
            let before = cursor.clone();
            if cursor.step().is_none() || cursor.path.as_slice() >= path.as_bytes() {
                return before;
            }
        }
    }

    /// Digests of one algorithm in ascending order, each once for every size that is claimed for it.
    pub fn digests(&self, algorithm: Algorithm) -> impl Iterator<Item = Expected> + '_ {
        self.records_of(algorithm).filter_map(move |record| self.expected_of_record(algorithm, record))
    }

    fn cursor_at(&self, block: usize) -> Cursor<'_> {
        let at = self.block_start(block).unwrap_or(self.bytes.len());
        Cursor { table: self, slot: block * BLOCK, at, path: Vec::new() }
    }

    /// The block that holds `path` if any does.
    fn block_of(&self, path: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.paths.div_ceil(BLOCK));
        while low < high {
            let middle = low + (high - low) / 2;
            let (_, first, _) = self.entry_at(self.block_start(middle)?)?;
            if first <= path { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1)
    }

    /// Walks a block without putting any name together: `matched` bytes of the path before are known to
    /// equal those of the one looked for, which comes after it.
    fn find_in_block(&self, block: usize, path: &[u8]) -> Option<usize> {
        let mut at = self.block_start(block)?;
        let mut matched = 0;
        for within in 0..BLOCK.min(self.paths - block * BLOCK) {
            let (shared, own, next) = self.entry_at(at)?;
            at = next;
            match shared.cmp(&matched) {
                // Differs from the one looked for where the one before it does.
                Ordering::Greater => continue,
                // Already greater than the one looked for.
                Ordering::Less => return None,
                Ordering::Equal => {}
            }
            let rest = path.get(matched..)?;
            let same = own.iter().zip(rest).take_while(|(a, b)| a == b).count();
            matched += same;
            match (own.get(same), rest.get(same)) {
                (None, None) => return Some(within),
                (Some(a), Some(b)) if a > b => return None,
                (Some(_), None) => return None,
                (None, Some(_)) | (Some(_), Some(_)) => {}
            }
        }
        None
    }

    /// The entry at a place: how much it shares with the one before, its own part, where the next begins.
    fn entry_at(&self, at: usize) -> Option<(usize, &[u8], usize)> {
        let (shared, at) = self.varint_at(at)?;
        let (own, at) = self.varint_at(at)?;
        let end = at.checked_add(own)?;
        Some((shared, self.bytes.get(at..end)?, end))
    }

    fn varint_at(&self, mut at: usize) -> Option<(usize, usize)> {
        let mut value = 0;
        // Lengths fit 16 bits.
        for shift in [0, 7, 14] {
            let byte = *self.bytes.get(at)?;
            at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value, at));
            }
        }
        None
    }

    fn block_start(&self, block: usize) -> Option<usize> {
        if block >= self.paths.div_ceil(BLOCK) {
            return None;
        }
        Some(self.names_at + self.u32_at(self.blocks_at, block)? as usize)
    }

    fn records_of(&self, algorithm: Algorithm) -> Range<usize> {
        let index = algorithm as usize;
        self.records[index]..self.records[index + 1]
    }

    fn expected_of(&self, slot: usize) -> Option<Expected> {
        // In a damaged table there may be more names than paths.
        let record = (slot < self.paths).then(|| self.u32_at(self.ranks_at, slot))?? as usize;
        let algorithm = Algorithm::ALL.into_iter().find(|a| self.records_of(*a).contains(&record))?;
        self.expected_of_record(algorithm, record)
    }

    fn expected_of_record(&self, algorithm: Algorithm, record: usize) -> Option<Expected> {
        let at = self.sizes_at + 8 * record;
        let size = u64::from_le_bytes(self.bytes.get(at..at + 8)?.try_into().ok()?);
        let digest = Digest::new(algorithm, self.digest_bytes(algorithm, record)?);
        Some(Expected { digest, size: (size != UNKNOWN_SIZE).then_some(size) })
    }

    fn digest_bytes(&self, algorithm: Algorithm, record: usize) -> Option<&[u8]> {
        let within = record - self.records[algorithm as usize];
        let at = self.digests_at[algorithm as usize] + within * algorithm.digest_len();
        self.bytes.get(at..at + algorithm.digest_len())
    }

    fn u32_at(&self, part: usize, index: usize) -> Option<u32> {
        let at = part + 4 * index;
        self.bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
    }
}

/// A place in a table. Lends its path until the next step.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    table: &'a PathTable,
    slot: usize,
    at: usize,
    path: Vec<u8>,
}

impl Cursor<'_> {
    /// The next path in order, and what it must be.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend")]
    pub fn next(&mut self) -> Option<(&str, Expected)> {
        let expected = self.table.expected_of(self.slot)?;
        self.step()?;
        Some((std::str::from_utf8(&self.path).ok()?, expected))
    }

    fn step(&mut self) -> Option<()> {
        let (shared, own, next) = self.table.entry_at(self.at)?;
        // A block's first name shares nothing.
        self.path.truncate(if self.slot.is_multiple_of(BLOCK) { 0 } else { shared });
        self.path.extend_from_slice(own);
        self.at = next;
        self.slot += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::PathTableBuilder;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn expected(n: u8, algorithm: Algorithm) -> Expected {
        Expected {
            digest: Digest::new(algorithm, &vec![n; algorithm.digest_len()]),
            size: (n != 9).then_some(u64::from(n)),
        }
    }

    fn table(entries: &[(String, u8, bool)]) -> (PathTable, BTreeMap<String, Expected>) {
        let mut builder = PathTableBuilder::default();
        let mut model = BTreeMap::new();
        for (path, n, strong) in entries {
            let algorithm = if *strong { Algorithm::Sha512 } else { Algorithm::Sha256 };
            builder.push(path, expected(*n, algorithm));
            model.entry(path.clone()).or_insert(expected(*n, algorithm));
        }
        (builder.build(), model)
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(entries in prop::collection::vec(("[a-c/]{1,6}", 0u8..12, prop::bool::ANY), 0..200)) {
            let (table, model) = table(&entries);
            prop_assert_eq!(table.len(), model.len());
            let mut listed = Vec::new();
            table.for_each(|path, expected| listed.push((path.to_owned(), expected)));
            prop_assert_eq!(listed, model.clone().into_iter().collect::<Vec<_>>());
            for (path, want) in &model {
                prop_assert_eq!(table.get(path), Some(*want));
                let same = model.iter().find(|(_, e)| e.digest == want.digest);
                prop_assert_eq!(table.path_of(&want.digest), same.map(|(p, e)| (p.clone(), *e)));
            }
            for absent in ["", "a", "ab/", "absent", "b/b/b/b/b", "c/", "d"] {
                prop_assert_eq!(table.get(absent), model.get(absent).copied());
            }
            let again = PathTable::from_bytes(table.as_bytes().clone()).expect("own bytes");
            prop_assert_eq!(again.len(), table.len());
            for dir in ["", "a/", "b/", "a/b/", "c/a/", "absent/"] {
                let mut listed = Vec::new();
                table.for_each_in(dir, usize::MAX, |name, expected| listed.push((name.to_owned(), expected)));
                let mut want: Vec<(String, Option<Expected>)> = Vec::new();
                for (path, expected) in &model {
                    let Some(rest) = path.strip_prefix(dir) else { continue };
                    let entry = match rest.split_once('/') {
                        None => (rest.to_owned(), Some(*expected)),
                        Some((name, _)) => (name.to_owned(), None),
                    };
                    if want.last() != Some(&entry) || entry.1.is_some() {
                        want.push(entry);
                    }
                }
                prop_assert_eq!(listed, want, "{}", dir);
            }
        }

        #[test]
        fn damage_finds_the_wrong_thing_at_worst(
            entries in prop::collection::vec(("[a-c/]{1,6}", 0u8..12, prop::bool::ANY), 1..60),
            at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let (table, model) = table(&entries);
            let mut bytes = table.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if cut.index(4) == 0 {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Some(table) = PathTable::from_bytes(bytes.into()) {
                table.for_each(|_, _| ());
                table.for_each_in("a/", model.len(), |_, _| ());
                for (path, want) in &model {
                    let _ = (table.get(path), table.path_of(&want.digest));
                }
            }
        }
    }

    #[test]
    fn one_digest_with_two_sizes_is_two_records() {
        let mut builder = PathTableBuilder::default();
        let digest = Digest::new(Algorithm::Sha256, &[7; 32]);
        builder.push("b", Expected { digest, size: Some(1) });
        builder.push("a", Expected { digest, size: Some(2) });
        let table = builder.build();
        assert_eq!(table.get("b").and_then(|e| e.size), Some(1));
        assert_eq!(table.get("a").and_then(|e| e.size), Some(2));
        assert_eq!(table.path_of(&digest).map(|(path, _)| path), Some("a".to_owned()));
    }
}
