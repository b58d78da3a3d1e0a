//! The numbered changes of this volunteer's holdings, so that a server that knows some of them only needs the rest.
//!
//! Bounded: the oldest are forgotten, and a server that lacks those gets everything. A new process has a new journal.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::formats::control::{HoldingsChange, JournalSpan};
use crate::model::BlobId;

/// Changes that are kept: hours of a busy volunteer, some MB.
const MAX_CHANGES: usize = 1 << 16;

/// See the module's documentation.
#[derive(Debug)]
pub struct Journal {
    id: u64,
    state: Mutex<State>,
    /// Notified of new changes.
    pub woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the first change that is kept.
    first: u64,
    changes: VecDeque<(HoldingsChange, BlobId)>,
}

impl Journal {
    pub fn new() -> std::io::Result<Self> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(std::io::Error::other)?;
        Ok(Self { id: u64::from_le_bytes(id), state: Mutex::default(), woken: Notify::new() })
    }

    pub fn push(&self, change: HoldingsChange, blobs: impl IntoIterator<Item = BlobId>) {
        let mut state = self.lock();
        state.changes.extend(blobs.into_iter().map(|blob| (change, blob)));
        let excess = state.changes.len().saturating_sub(MAX_CHANGES);
        state.changes.drain(..excess);
        state.first += excess as u64;
        drop(state);
        self.woken.notify_one();
    }

    pub fn span(&self) -> JournalSpan {
        let State { first, changes } = &*self.lock();
        JournalSpan { id: self.id, first: *first, next: first + changes.len() as u64 }
    }

    /// The changes from a number on; `None` if some are forgotten, or the number is not of this journal.
    pub fn since(&self, number: u64) -> Option<Vec<(HoldingsChange, BlobId)>> {
        let State { first, changes } = &*self.lock();
        let skipped = usize::try_from(number.checked_sub(*first)?).ok()?;
        (skipped <= changes.len()).then(|| changes.range(skipped..).copied().collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_can_be_said_again() {
        let journal = Journal::new().expect("randomness");
        let blob = |n: usize| {
            let mut id = BlobId([0; 32]);
            id.0[..8].copy_from_slice(&(n as u64).to_le_bytes());
            id
        };
        assert_eq!(journal.since(0), Some(vec![]));
        assert_eq!(journal.since(1), None, "nobody was told of it");
        journal.push(HoldingsChange::Add, [blob(0), blob(1)]);
        journal.push(HoldingsChange::Remove, [blob(0)]);
        assert_eq!(
            journal.since(1),
            Some(vec![(HoldingsChange::Add, blob(1)), (HoldingsChange::Remove, blob(0))])
        );
        journal.push(HoldingsChange::Add, (3..MAX_CHANGES + 2).map(blob));
        let span = journal.span();
        assert_eq!((span.first, span.next), (2, MAX_CHANGES as u64 + 2));
        assert_eq!(journal.since(1), None);
        assert_eq!(journal.since(2).map(|changes| changes.len()), Some(MAX_CHANGES));
        assert_eq!(journal.since(span.next), Some(vec![]));
    }
}
