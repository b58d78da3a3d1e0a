//! What a store holds, in memory: sizes, ranks and the order of use. Knows no files.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::model::{Blob, BlobId};

/// What a blob is worth. The lower goes first when room is needed; within a rank the least recently used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// No retained snapshot names it.
    Unnamed,
    Named,
    /// Never removed to make room.
    Pinned,
}

#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub size: u64,
    pub rank: Rank,
    /// When it came, in ticks: tells a blob from an earlier one of the same name.
    pub born: u64,
    /// Position in the order of last use.
    used: u64,
    /// Used since the order was last written down.
    is_unsaved: bool,
}

/// See the module's documentation. Counts bytes of blobs, and bytes promised to those that are arriving.
#[derive(Debug, Default)]
pub struct Index {
    entries: BTreeMap<BlobId, Entry>,
    by_use: BTreeMap<(Rank, u64), BlobId>,
    bytes: u64,
    pinned_bytes: u64,
    promised: u64,
    tick: u64,
}

impl Index {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of blobs.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes beyond `limit` if `more` were promised.
    pub fn excess(&self, more: u64, limit: u64) -> u64 {
        self.bytes.saturating_add(self.promised).saturating_add(more).saturating_sub(limit)
    }

    pub fn promise(&mut self, bytes: u64) {
        self.promised = self.promised.saturating_add(bytes);
    }

    pub fn release(&mut self, bytes: u64) {
        self.promised = self.promised.saturating_sub(bytes);
    }

    pub fn get(&self, id: BlobId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = Blob> {
        self.entries.iter().map(|(id, entry)| Blob { id: *id, size: entry.size })
    }

    /// Up to `count` blobs in order of their ids, after one.
    pub fn after(&self, last: Option<BlobId>, count: usize) -> Vec<Blob> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.entries.range((from, Bound::Unbounded)).take(count);
        range.map(|(id, entry)| Blob { id: *id, size: entry.size }).collect()
    }

    /// The newest in the order of use.
    pub fn insert(&mut self, blob: Blob, rank: Rank) {
        self.remove(blob.id);
        self.tick += 1;
        let entry = Entry { size: blob.size, rank, born: self.tick, used: self.tick, is_unsaved: false };
        self.bytes += entry.size;
        self.link(blob.id, entry);
    }

    pub fn remove(&mut self, id: BlobId) -> Option<Entry> {
        let entry = self.unlink(id)?;
        self.bytes -= entry.size;
        Some(entry)
    }

    /// Counts a use. What is among the eighth used last stays where it is: the order is rough, and most uses
    /// are of few blobs.
    pub fn touch(&mut self, id: BlobId) -> Option<Entry> {
        let recent = self.entries.len() as u64 / 8;
        let entry = self.entries.get_mut(&id)?;
        entry.is_unsaved = true;
        if self.tick - entry.used > recent {
            let mut entry = self.unlink(id)?;
            self.tick += 1;
            entry.used = self.tick;
            self.link(id, entry);
            return Some(entry);
        }
        Some(*entry)
    }

    pub fn set_rank(&mut self, id: BlobId, rank: Rank) {
        if self.entries.get(&id).is_some_and(|entry| entry.rank != rank)
            && let Some(mut entry) = self.unlink(id)
        {
            entry.rank = rank;
            self.link(id, entry);
        }
    }

    /// Takes blobs out until `bytes` are gained; none if there are not so many to gain.
    pub fn doom(&mut self, bytes: u64) -> Option<Vec<BlobId>> {
        if self.bytes - self.pinned_bytes < bytes {
            return None;
        }
        let mut doomed = Vec::new();
        let mut gained = 0;
        while gained < bytes {
            let id = *self.by_use.first_key_value()?.1;
            gained += self.remove(id).map_or(0, |entry| entry.size);
            doomed.push(id);
        }
        Some(doomed)
    }

    /// Which of these were used since they were last asked for, and their places in the order of use.
    pub fn take_unsaved(&mut self, blobs: &[Blob], found: &mut Vec<(u64, BlobId)>) {
        for blob in blobs {
            if let Some(entry) = self.entries.get_mut(&blob.id)
                && std::mem::take(&mut entry.is_unsaved)
            {
                found.push((entry.used, blob.id));
            }
        }
    }

    fn link(&mut self, id: BlobId, entry: Entry) {
        if entry.rank == Rank::Pinned {
            self.pinned_bytes += entry.size;
        }
        self.by_use.insert((entry.rank, entry.used), id);
        self.entries.insert(id, entry);
    }

    fn unlink(&mut self, id: BlobId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.by_use.remove(&(entry.rank, entry.used));
        if entry.rank == Rank::Pinned {
            self.pinned_bytes -= entry.size;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: u8, size: u64) -> Blob {
        Blob { id: BlobId([n; 32]), size }
    }

    fn ids(doomed: Option<Vec<BlobId>>) -> Vec<u8> {
        doomed.expect("there is enough to remove").iter().map(|id| id.0[0]).collect()
    }

    #[test]
    fn unnamed_go_first_then_the_least_recently_used_and_pinned_never() {
        let mut index = Index::default();
        for n in 0..6 {
            index.insert(blob(n, 10), Rank::Named);
        }
        index.set_rank(blob(4, 10).id, Rank::Unnamed);
        index.set_rank(blob(1, 10).id, Rank::Pinned);
        index.touch(blob(0, 10).id);
        assert_eq!(ids(index.doom(25)), [4, 2, 3]);
        assert_eq!((index.len(), index.bytes()), (3, 30));
        assert!(index.doom(21).is_none(), "a pinned one would have to go");
        assert_eq!(index.len(), 3, "and then nothing goes");
        assert_eq!(ids(index.doom(20)), [5, 0]);
        index.set_rank(blob(1, 10).id, Rank::Named);
        assert_eq!(ids(index.doom(1)), [1]);
        assert_eq!((index.bytes, index.pinned_bytes, index.by_use.len()), (0, 0, 0));
    }

    #[test]
    fn promises_count_like_bytes() {
        let mut index = Index::default();
        index.insert(blob(0, 10), Rank::Named);
        index.promise(20);
        assert_eq!(index.excess(5, 30), 5);
        index.release(20);
        assert_eq!(index.excess(5, 30), 0);
        assert_eq!(index.excess(u64::MAX, 30), u64::MAX - 30, "no overflow");
    }

    #[test]
    fn the_most_used_do_not_move_but_count_as_used() {
        let mut index = Index::default();
        for n in 0..16 {
            index.insert(blob(n, 1), Rank::Named);
        }
        index.touch(blob(14, 1).id);
        assert_eq!(index.tick, 16, "it is among the last two");
        index.touch(blob(3, 1).id);
        assert_eq!(index.tick, 17);
        let (all, mut unsaved) = (index.after(None, 16), Vec::new());
        for _ in 0..2 {
            index.take_unsaved(&all, &mut unsaved);
        }
        assert_eq!(unsaved, [(17, blob(3, 1).id), (15, blob(14, 1).id)], "each once");
    }

    #[test]
    fn chunks_go_through_everything_once() {
        let mut index = Index::default();
        for n in 0..10 {
            index.insert(blob(n, 1), Rank::Named);
        }
        let (mut seen, mut last) = (Vec::new(), None);
        loop {
            let chunk = index.after(last, 3);
            let Some(end) = chunk.last() else { break };
            last = Some(end.id);
            seen.extend(chunk.iter().map(|blob| blob.id.0[0]));
        }
        assert_eq!(seen, (0..10).collect::<Vec<u8>>());
    }
}
