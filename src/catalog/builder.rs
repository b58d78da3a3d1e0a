//! Collects entries in any order and writes the buffer that a [`PathTable`] reads.

use super::table::{BLOCK, HEADER, PathTable, UNKNOWN_SIZE};
use crate::model::{Algorithm, Expected};

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
pub struct PathTableBuilder {
    paths: String,
    digests: Vec<u8>,
    slots: Vec<Slot>,
    /// Entries that did not fit the table's bounds.
    overflow: u64,
}

/// A state of a builder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    slots: usize,
    paths: usize,
    digests: usize,
}

impl PathTableBuilder {
    /// Adds an entry. What passes the bounds of a table (4 GiB of names) is counted in
    /// [`Self::overflow`], not kept.
    pub fn push(&mut self, path: &str, expected: Expected) {
        let fits = (
            u32::try_from(self.paths.len() + path.len()),
            u32::try_from(self.digests.len()),
            u16::try_from(path.len()),
        );
        let (Ok(end), Ok(digest_at), Ok(path_len)) = fits else {
            self.overflow += 1;
            return;
        };
        self.paths.push_str(path);
        self.digests.extend_from_slice(expected.digest.as_bytes());
        self.slots.push(Slot {
            size: expected.size.unwrap_or(UNKNOWN_SIZE),
            path_at: end - u32::from(path_len),
            digest_at,
            path_len,
            algorithm: expected.digest.algorithm(),
        });
    }

    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// Entries pushed so far.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Where it stands, for [`Self::rewind`].
    pub(super) fn mark(&self) -> Mark {
        Mark { slots: self.slots.len(), paths: self.paths.len(), digests: self.digests.len() }
    }

    /// Takes back everything pushed since `mark`.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.slots.truncate(mark.slots);
        self.paths.truncate(mark.paths);
        self.digests.truncate(mark.digests);
    }

    /// Sorts. Of several entries with one path the first pushed is kept: architectures list the same `all`
    /// packages.
    pub fn build(mut self) -> PathTable {
        let mut slots = std::mem::take(&mut self.slots);
        // Stable, so that the first pushed of equal paths comes first.
        slots.sort_by(|a, b| self.name(a).cmp(self.name(b)));
        slots.dedup_by(|later, first| self.name(later) == self.name(first));
        let (ranks, records) = self.records(&slots);
        let bytes = self.encode(&slots, &ranks, &records);
        PathTable::from_bytes(bytes.into()).unwrap_or_default()
    }

    fn name(&self, slot: &Slot) -> &str {
        &self.paths[slot.path_at as usize..slot.path_at as usize + usize::from(slot.path_len)]
    }

    fn digest(&self, slot: &Slot) -> &[u8] {
        &self.digests[slot.digest_at as usize..slot.digest_at as usize + slot.algorithm.digest_len()]
    }

    /// For each slot its record, and for each record the first slot that has it, records sorted by
    /// algorithm, digest and size.
    fn records(&self, slots: &[Slot]) -> (Vec<u32>, Vec<u32>) {
        let key = |at: u32| {
            let slot = &slots[at as usize];
            (slot.algorithm, self.digest(slot), slot.size)
        };
        // Fewer than 2^32: each has a digest below `u32::MAX`.
        let mut order: Vec<u32> = (0..slots.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)).then(a.cmp(&b)));
        let mut ranks = vec![0; slots.len()];
        let mut records: Vec<u32> = Vec::new();
        for slot in order {
            if records.last().is_none_or(|&last| key(last) != key(slot)) {
                records.push(slot);
            }
            ranks[slot as usize] = (records.len() - 1) as u32;
        }
        (ranks, records)
    }

    fn encode(&self, slots: &[Slot], ranks: &[u32], records: &[u32]) -> Vec<u8> {
        let (names, blocks) = self.names(slots);
        let digest_bytes: usize = records.iter().map(|&r| slots[r as usize].algorithm.digest_len()).sum();
        let len =
            HEADER + 4 * (blocks.len() + ranks.len() + records.len()) + 8 * records.len() + digest_bytes;
        let mut out = Vec::with_capacity(len + names.len());
        out.extend_from_slice(&(slots.len() as u32).to_le_bytes());
        for algorithm in Algorithm::ALL {
            let count = records.iter().filter(|&&r| slots[r as usize].algorithm == algorithm).count();
            out.extend_from_slice(&(count as u32).to_le_bytes());
        }
        out.extend_from_slice(&(names.len() as u64).to_le_bytes());
        for part in [&blocks, ranks, records] {
            part.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        }
        for &record in records {
            out.extend_from_slice(&slots[record as usize].size.to_le_bytes());
        }
        for &record in records {
            out.extend_from_slice(self.digest(&slots[record as usize]));
        }
        out.extend_from_slice(&names);
        out
    }

    /// The names, front-coded, and where each block begins.
    fn names(&self, slots: &[Slot]) -> (Vec<u8>, Vec<u32>) {
        let (mut names, mut blocks) = (Vec::new(), Vec::with_capacity(slots.len().div_ceil(BLOCK)));
        let mut before: &[u8] = b"";
        for (index, slot) in slots.iter().enumerate() {
            let name = self.name(slot).as_bytes();
            let shared = if index.is_multiple_of(BLOCK) {
                // Not longer than all names together, which fit 32 bits, plus a few bytes a name.
                blocks.push(u32::try_from(names.len()).unwrap_or(u32::MAX));
                0
            } else {
                name.iter().zip(before).take_while(|(a, b)| a == b).count()
            };
            push_varint(&mut names, shared);
            push_varint(&mut names, name.len() - shared);
            names.extend_from_slice(&name[shared..]);
            before = name;
        }
        names.shrink_to_fit();
        (names, blocks)
    }
}

/// LEB128: seven bits a byte, low ones first.
fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
