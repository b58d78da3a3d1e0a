//! The flash crowds that run and the last ones, for the status.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::formats::status::CrowdStatus;

/// Crowds that ended and are still shown.
const MAX_ENDED: usize = 10;

/// Crowds that run and are shown. The log has them all.
const MAX_RUNNING: usize = 100;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Crowds(Mutex<Shown>);

#[derive(Debug, Default)]
struct Shown {
    running: BTreeMap<u64, CrowdStatus>,
    /// The last one first.
    ended: VecDeque<CrowdStatus>,
}

impl Crowds {
    /// Those that run, then the last ones that ended.
    pub fn status(&self) -> Vec<CrowdStatus> {
        let shown = self.lock();
        shown.running.values().chain(&shown.ended).cloned().collect()
    }

    pub fn note(&self, status: CrowdStatus) {
        let mut shown = self.lock();
        if status.is_over {
            shown.running.remove(&status.number);
            shown.ended.push_front(status);
            shown.ended.truncate(MAX_ENDED);
        } else if shown.running.len() < MAX_RUNNING || shown.running.contains_key(&status.number) {
            shown.running.insert(status.number, status);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(number: u64, is_over: bool) -> CrowdStatus {
        CrowdStatus { number, is_over, ..CrowdStatus::default() }
    }

    #[test]
    fn what_runs_comes_before_the_last_that_ended() {
        let crowds = Crowds::default();
        for number in 1..=20 {
            crowds.note(crowd(number, false));
        }
        for number in 1..=15 {
            crowds.note(crowd(number, true));
        }
        let shown: Vec<(u64, bool)> = crowds.status().iter().map(|c| (c.number, c.is_over)).collect();
        let running = (16..=20).map(|number| (number, false));
        let ended = (6..=15).rev().map(|number| (number, true));
        assert_eq!(shown, running.chain(ended).collect::<Vec<_>>());
    }
}
