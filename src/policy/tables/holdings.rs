//! Who holds what: hundreds of volunteers times millions of blobs, in bounded memory.
//!
//! Each session that does not go on with the holdings of the one before puts its own on a *shelf*, a small
//! number; per blob there is a compact set of these ([`Shelves`]). A session's end retires its shelf at
//! once: nothing on it counts any more. What is left on it is swept out a slice at a time, and then
//! the number is used again. While no shelf is retired, sweeping does nothing.
//!
//! Memory, tables and blob ids included, at most by [`Holdings::heap_bytes`] (tested below; `bench/decide.rs` has what
//! the allocator counts): with 300 volunteers of which all hold everything 162 bytes per blob, 0.54 bytes
//! (4.3 bits) per holding; with 3 holders per blob 122 bytes, 41 per holding, all of it the blob's id, its inline
//! set and the trees' spare room.

use std::collections::BTreeSet;

use super::buckets::{BlobKey, Buckets};
use super::shelves::{Shelf, Shelves};
use crate::model::BlobId;
use crate::policy::ids::NodeNo;

/// Shelves at a time: one for every volunteer that may be known, and as many retired ones.
const MAX_SHELVES: usize = 20_000;
/// Blobs looked at per slice of a sweep: about a millisecond.
const SWEEP: usize = 4096;

/// Whose a shelf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// What is on it counts.
    Now(NodeNo),
    /// Whoever comes back may go on with it.
    Before,
    /// To be swept out.
    Nobody,
    Free,
}

/// A walk over all blobs that clears the shelves that were retired when it began.
#[derive(Debug)]
struct Walk {
    shelves: Shelves,
    last: Option<BlobKey>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::policy) struct Holdings {
    blobs: Buckets<Shelves>,
    owners: Vec<Owner>,
    free: BTreeSet<Shelf>,
    /// Those that no walk has begun to clear.
    retired: Shelves,
    walk: Option<Walk>,
}

impl Holdings {
    /// An empty shelf; `None` if there are too many.
    pub(in crate::policy) fn take_shelf(&mut self, node: NodeNo) -> Option<Shelf> {
        if self.free.is_empty() && self.owners.len() >= MAX_SHELVES {
            // Sessions come and go faster than slices are swept.
            while self.sweep() {}
        }
        // The lowest, which keeps the sets of bits short.
        if let Some(shelf) = self.free.pop_first() {
            self.owners[usize::from(shelf)] = Owner::Now(node);
            return Some(shelf);
        }
        let shelf = Shelf::try_from(self.owners.len()).ok().filter(|shelf| usize::from(*shelf) < MAX_SHELVES);
        if shelf.is_some() {
            self.owners.push(Owner::Now(node));
        }
        shelf
    }

    /// What is on it does not count until it is resumed.
    pub(in crate::policy) fn park(&mut self, shelf: Shelf) {
        self.set(shelf, Owner::Before);
    }

    pub(in crate::policy) fn resume(&mut self, shelf: Shelf, node: NodeNo) {
        self.set(shelf, Owner::Now(node));
    }

    /// What is on it counts no more.
    pub(in crate::policy) fn retire(&mut self, shelf: Shelf) {
        self.set(shelf, Owner::Nobody);
        self.retired.insert(shelf);
    }

    fn set(&mut self, shelf: Shelf, owner: Owner) {
        if let Some(known) = self.owners.get_mut(usize::from(shelf)) {
            *known = owner;
        }
    }

    /// Whether it was not there yet.
    pub(in crate::policy) fn insert(&mut self, blob: BlobId, shelf: Shelf) -> bool {
        self.blobs.get_or_insert_with(blob.into(), Shelves::default).insert(shelf)
    }

    /// Whether it was there.
    pub(in crate::policy) fn remove(&mut self, blob: BlobId, shelf: Shelf) -> bool {
        let blob = blob.into();
        let Some(shelves) = self.blobs.get_mut(&blob) else { return false };
        let was = shelves.remove(shelf);
        if shelves.is_empty() {
            self.blobs.remove(&blob);
        }
        was
    }

    fn owner(&self, shelf: Shelf) -> Option<NodeNo> {
        match self.owners.get(usize::from(shelf)) {
            Some(Owner::Now(node)) => Some(*node),
            _ => None,
        }
    }

    /// The blob is about to be looked up.
    pub(in crate::policy) fn touch(&self, blob: BlobId) {
        self.blobs.touch(&blob.into());
    }

    /// Who holds the blob, each once.
    pub(in crate::policy) fn of(&self, blob: BlobId) -> impl Iterator<Item = NodeNo> + '_ {
        self.blobs
            .get(&blob.into())
            .into_iter()
            .flat_map(|shelves| shelves.iter().filter_map(|s| self.owner(s)))
    }

    /// Visits them, beginning at some shelf that `pick` chooses below the number of shelves if there are more
    /// than `few`: who looks at some only must not always see the same. Ends when `visit` says that it is enough.
    pub(in crate::policy) fn visit(
        &self,
        blob: BlobId,
        few: usize,
        pick: impl FnOnce(u32) -> u32,
        mut visit: impl FnMut(NodeNo) -> bool,
    ) {
        let Some(shelves) = self.blobs.get(&blob.into()) else { return };
        // Counting is dearer than to know that there cannot be so many.
        let is_many = self.owners.len() > few && shelves.len() > few;
        let first = if is_many { pick(self.owners.len() as u32) as Shelf } else { 0 };
        shelves.visit_from(first, &mut |shelf| self.owner(shelf).is_some_and(&mut visit));
    }

    /// Blobs from this one on, in order.
    pub(in crate::policy) fn blobs_from(&self, from: BlobId) -> impl Iterator<Item = BlobId> + '_ {
        self.blobs.from(from.into()).map(|(blob, _)| (*blob).into())
    }

    /// Every holding that counts.
    pub(in crate::policy) fn all(&self) -> impl Iterator<Item = (BlobId, NodeNo)> + '_ {
        self.blobs.iter().flat_map(move |(blob, shelves)| {
            shelves.iter().filter_map(move |shelf| Some(((*blob).into(), self.owner(shelf)?)))
        })
    }

    /// Clears retired shelves from the next blobs; whether there is more to do.
    pub(in crate::policy) fn sweep(&mut self) -> bool {
        let walk = match &mut self.walk {
            Some(walk) => walk,
            None if self.retired.is_empty() => return false,
            None => {
                let shelves = std::mem::take(&mut self.retired);
                self.walk.insert(Walk { shelves, last: None })
            }
        };
        let mut emptied = Vec::new();
        let (mut seen, mut last) = (0, None);
        for (blob, shelves) in self.blobs.after_mut(walk.last).take(SWEEP) {
            if shelves.iter().any(|shelf| walk.shelves.contains(shelf)) {
                shelves.retain(|shelf| !walk.shelves.contains(shelf));
                if shelves.is_empty() {
                    emptied.push(*blob);
                }
            }
            (seen, last) = (seen + 1, Some(*blob));
        }
        for blob in emptied {
            self.blobs.remove(&blob);
        }
        match last {
            Some(_) if seen == SWEEP => walk.last = last,
            _ => {
                for shelf in walk.shelves.iter() {
                    self.owners[usize::from(shelf)] = Owner::Free;
                    self.free.insert(shelf);
                }
                self.walk = None;
            }
        }
        self.walk.is_some() || !self.retired.is_empty()
    }

    /// Bytes on the heap.
    pub(in crate::policy) fn heap_bytes(&self) -> usize {
        let sets: usize = self.blobs.iter().map(|(_, shelves)| shelves.heap_bytes()).sum();
        self.blobs.heap_bytes() + sets + self.owners.capacity() * size_of::<Owner>()
    }
}

#[cfg(test)]
#[path = "holdings_tests.rs"]
mod tests;
