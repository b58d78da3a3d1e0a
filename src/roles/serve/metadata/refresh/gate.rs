//! Publish gate: before a generation becomes visible, volunteers fetch those of its new files that many will want,
//! so that the crowd finds the copies there. Which these are, and when there are enough, the policy says; here is
//! the waiting, within bounds. Meanwhile clients see the generation before, and volunteers alone get files of this
//! one, by hash.

use std::sync::Arc;
use std::time::Duration;

use super::RefreshError;
use crate::catalog::{Diff, Unit, UnitKey};
use crate::io::clock;
use crate::model::{Blob, BlobId, Expected, Time};
use crate::policy::{Gate, Release, ReleaseNo, ReleasedFile};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;
use crate::roles::serve::volunteers::dispatch;

/// How often the policy is asked whether it is time.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Files of one release that the policy is told of: those with a predecessor first, since only they have demand.
const MAX_FILES: usize = 100_000;

/// A generation that may become visible. Volunteers get its files for as long as this lives: until it is.
pub struct Passed<'a> {
    /// Whether that took time.
    pub has_waited: bool,
    _pending: Option<Pending<'a>>,
}

/// Returns when `unit` may take the place of `before`.
pub async fn wait<'a>(
    server: &Arc<Server>,
    repo: &'a Repo,
    before: &Arc<Unit>,
    unit: &Arc<Unit>,
    diff: &Arc<Diff>,
) -> Result<Passed<'a>, RefreshError> {
    // The same generation, of which more was read.
    if before.roots == unit.roots {
        return Ok(Passed { has_waited: false, _pending: None });
    }
    let (reading, old, new, diff) = (server.clone(), before.clone(), unit.clone(), diff.clone());
    let files = move || files(&reading, &old, &new, &diff);
    let files = tokio::task::spawn_blocking(files).await.map_err(RefreshError::internal)?;
    if files.is_empty() {
        return Ok(Passed { has_waited: false, _pending: None });
    }
    let (count, name) = (files.len(), format!("{} {}", repo.config.name, unit.key).into());
    let pending = Pending::new(repo, unit);
    let begun = clock::now();
    let release = dispatch::release(server, &Release { name, files }, begun);
    let longest = longest(repo, before, begun);
    let gate = if longest.is_zero() { Gate::Open } else { server.fleet.gate(release, begun) };
    let Gate::Waits { copies, .. } = gate else {
        return Ok(Passed { has_waited: false, _pending: Some(pending) });
    };
    let (repo, generation) = (repo.config.name.as_str(), unit.generation);
    let volunteers_up = server.fleet.count_up(begun);
    tracing::info!(
        repo, unit = %unit.key, generation, files = count, copies, volunteers_up,
        at_most_secs = longest.as_secs(), "a new generation waits for copies of its hot files"
    );
    let left = until_open(server, &pending, release, begun + longest).await?;
    let waited_secs = format!("{:.1}", clock::now().since(begun).as_secs_f64());
    let why = if left == 0 { "nothing is missing" } else { "the time is over" };
    tracing::info!(
        repo, unit = %unit.key, generation, copies_made = copies.saturating_sub(left), copies_missing = left,
        waited_secs, why, "the new generation becomes visible"
    );
    Ok(Passed { has_waited: true, _pending: Some(pending) })
}

/// Waits for the gate, at most until `deadline`; says how many copies are missing then.
async fn until_open(
    server: &Arc<Server>,
    pending: &Pending<'_>,
    release: ReleaseNo,
    deadline: Time,
) -> Result<usize, RefreshError> {
    let begun = clock::now();
    let mut shutdown = server.shutdown.clone();
    loop {
        let now = clock::now();
        match server.fleet.gate(release, now) {
            Gate::Open => break,
            // A clock that was set back must not keep it waiting.
            Gate::Waits { copies, .. } if now >= deadline || now < begun => return Ok(copies),
            Gate::Waits { copies, until } => pending.note(copies, until.min(deadline)),
        }
        // What is still to be ordered, also for who has joined since, and in place of what failed.
        dispatch::seed(server, now);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = shutdown.begun() => return Err(RefreshError::Stopping),
        }
    }
    Ok(0)
}

/// How long it may wait. At the start everything is new to volunteers and clients alike.
fn longest(repo: &Repo, before: &Unit, now: Time) -> Duration {
    if !repo.is_warm() || repo.config.is_ungated(&before.key.to_string()) {
        return Duration::ZERO;
    }
    let valid_for = before.valid_until.map(|until| Time::from_secs(until).since(now));
    repo.config.publish_gate.min(valid_for.unwrap_or(Duration::MAX))
}

/// What the generation has that the one before had not. What was never hashed here, or has no known size, cannot be
/// ordered.
fn files(server: &Server, before: &Unit, unit: &Unit, diff: &Diff) -> Vec<ReleasedFile> {
    let id = |expected: Expected| server.packages.resolve(&expected);
    let blob = |expected: Expected| {
        let id = id(expected)?;
        Some(Blob { id, size: expected.size.or_else(|| server.packages.store.size_of(id))? })
    };
    let was = |path: &str| before.packages.get(path).and_then(id);
    let file =
        |expected, predecessor: Option<BlobId>| Some(ReleasedFile { blob: blob(expected)?, predecessor });
    let changed = diff.changed.iter().filter_map(|path| file(unit.packages.get(path)?, was(path)));
    let new = diff.new.iter().filter_map(|new| file(new.expected, new.predecessor.as_deref().and_then(was)));
    let mut files: Vec<ReleasedFile> = changed.chain(new).collect();
    files.sort_by_key(|file| file.predecessor.is_none());
    files.truncate(MAX_FILES);
    files
}

/// A generation that is whole and not yet visible, for as long as this lives.
struct Pending<'a> {
    repo: &'a Repo,
    key: UnitKey,
}

impl<'a> Pending<'a> {
    fn new(repo: &'a Repo, unit: &Arc<Unit>) -> Self {
        repo.set_pending(&unit.key, Some(unit.clone()));
        Self { repo, key: unit.key.clone() }
    }

    fn note(&self, copies: usize, until: Time) {
        self.repo.with_unit(&self.key, |state| state.gate = Some((copies as u64, until)));
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.repo.set_pending(&self.key, None);
        self.repo.with_unit(&self.key, |state| state.gate = None);
    }
}
