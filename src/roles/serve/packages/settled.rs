//! Which file a path turned out to mean, where metadata names several: remembered for a while.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::model::{Alternatives, Expected, RepoPath};
use crate::roles::serve::metadata::repo::Repo;

/// How long an answer of the origin holds where current suites disagree: one of them stays stale for long.
const DISPUTE: Duration = Duration::from_secs(300);

/// The same where an origin still has what its metadata no longer names: it is about to have the new file.
const LAG: Duration = Duration::from_secs(20);

/// Paths remembered: there are few such at a time.
const REMEMBERED: u64 = 10_000;

/// What files turned out to be, by repository and path.
#[derive(Debug)]
pub struct Settled(Cache<(usize, RepoPath), Answer>);

/// What the origin had.
#[derive(Clone, Copy, Debug)]
struct Answer {
    expected: Expected,
    at: Instant,
    /// A current suite named it.
    was_current: bool,
}

impl Default for Settled {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(REMEMBERED).time_to_live(DISPUTE).build())
    }
}

impl Settled {
    pub fn get(&self, repo: &Repo, path: &RepoPath, all: &Alternatives) -> Option<Expected> {
        let Answer { expected, at, was_current } = self.0.get(&(repo.index, path.clone()))?;
        let holds_for = if was_current { DISPUTE } else { LAG };
        // What every suite has replaced since is not what the origin has.
        let is_over = was_current && !is_current(repo, path, expected);
        let holds = !is_over && at.elapsed() < holds_for && all.iter().any(|other| *other == expected);
        holds.then_some(expected)
    }

    pub fn put(&self, repo: &Repo, path: &RepoPath, expected: Expected) {
        let was_current = is_current(repo, path, expected);
        self.0.insert((repo.index, path.clone()), Answer { expected, at: Instant::now(), was_current });
    }
}

fn is_current(repo: &Repo, path: &RepoPath, expected: Expected) -> bool {
    repo.snapshot().units().any(|unit| unit.packages.get(path.as_str()) == Some(expected))
}
