//! Looking at the origin: is there a new generation of a unit, and if so is it whole?
//!
//! [`look`] reads the root files and judges them, [`complete`] fetches every wanted member and verifies it
//! against them; only then, and when the [`gate`] is open, is the generation [`adopt`]ed, in one step. Anything that does not fit together
//! leaves the last good one in place. [`schedule`] looks without being asked.

mod adopt;
mod complete;
mod gate;
mod look;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

pub use adopt::{adopt, install};
pub use complete::{Plan, complete, fetch_member, read_blob};
pub use schedule::{poll, warm_up};

use super::origin::OriginError;
use super::repo::Repo;
use super::server::Server;
use crate::catalog::{IngestError, TrustError, Unit, UnitKey};
use crate::io::clock;
use crate::io::fetch::FetchError;
use crate::model::RepoPath;

/// How long the client that makes us look waits, where there is a generation to serve.
const CURRENT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a client waits for its package list to be read.
const LEARN_PATIENCE: Duration = Duration::from_secs(5);

/// Why a unit has no new generation.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error("{0} is not at the origin")]
    NotFound(String),
    #[error("the origin has none of the lists that its Release names, such as {0}")]
    Incomplete(String),
    #[error("{0} changes while it is being read")]
    Changing(String),
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("{path}: {source}")]
    Member { path: RepoPath, source: FetchError },
    #[error("the server stops")]
    Stopping,
    #[error("internal: {0}")]
    Internal(String),
}

impl RefreshError {
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Looks at the origin unless that was done within `max_age`. Concurrent calls for one unit share a look.
pub async fn refresh(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    max_age: Duration,
) -> Result<(), RefreshError> {
    let lock = repo.with_unit(key, |state| state.refreshing.clone());
    let _held = lock.lock().await;
    if let Some(known) = known(repo, key, max_age) {
        return known;
    }
    let current = repo.snapshot().unit(key).cloned();
    // The process that takes over looks itself; what this one found could not be written down.
    if server.db.is_closed() {
        let gone = || RefreshError::Internal("another process is taking over".to_owned());
        return current.map(drop).ok_or_else(gone);
    }
    let outcome = match look::look(server, repo, key, current.as_ref()).await {
        // Nothing is wrong with the generation that clients see.
        Err(RefreshError::Stopping) => return Ok(()),
        outcome => outcome,
    };
    let problem = outcome.as_ref().err().map(ToString::to_string);
    let before = repo.with_unit(key, |state| {
        state.looked = Some(clock::now());
        state.is_missing = matches!(outcome, Err(RefreshError::NotFound(_)));
        std::mem::replace(&mut state.problem, problem.clone())
    });
    report(repo, key, current.as_deref(), problem.as_deref(), before.as_deref());
    outcome
}

/// What the last look found, if it is not older than `max_age`.
fn known(repo: &Repo, key: &UnitKey, max_age: Duration) -> Option<Result<(), RefreshError>> {
    let has_current = repo.snapshot().unit(key).is_some();
    repo.with_unit(key, |state| {
        let now = clock::now();
        // A clock that was set back says nothing about how long ago that was.
        let looked = state.looked.filter(|looked| *looked <= now && now.since(*looked) < max_age);
        looked.map(|_| match &state.problem {
            Some(_) if state.is_missing && !has_current => Err(RefreshError::NotFound(key.to_string())),
            Some(problem) if !has_current => Err(RefreshError::Internal(problem.clone())),
            _ => Ok(()),
        })
    })
}

/// Says what is new about how the origin is doing: an outage of hours is a line, not one every minute.
fn report(repo: &Repo, key: &UnitKey, current: Option<&Unit>, problem: Option<&str>, before: Option<&str>) {
    let is_missing = repo.with_unit(key, |state| state.is_missing);
    let repo = repo.config.name.as_str();
    match (problem, current) {
        (Some(error), Some(current)) if before != Some(error) => {
            let generation = current.generation;
            tracing::warn!(repo, unit = %key, generation, error, "keeping the last good generation");
        }
        (Some(error), None) if is_missing => tracing::debug!(repo, unit = %key, error, "no such unit"),
        (Some(error), None) if before != Some(error) => {
            tracing::warn!(repo, unit = %key, error, "not adopted, and there is no earlier generation");
        }
        (None, _) if before.is_some() => tracing::info!(repo, unit = %key, "the origin is well again"),
        _ => {}
    }
}

/// How a look at the origin ended, as far as the caller waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    Current,
    /// The origin says that there is no such unit.
    Missing,
    /// It failed, or goes on: nothing can be said.
    Unsettled,
}

impl Looked {
    fn of(outcome: &Result<(), RefreshError>) -> Self {
        match outcome {
            Ok(()) => Self::Current,
            Err(RefreshError::NotFound(_)) => Self::Missing,
            Err(_) => Self::Unsettled,
        }
    }
}

/// [`refresh`], waited for until `patience` ends. The look itself goes on whatever the client does.
pub async fn refresh_within(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    max_age: Duration,
    patience: Duration,
) -> Looked {
    let has_current = repo.snapshot().unit(key).is_some();
    // The usual case costs no task.
    if let Some(known) = known(repo, key, max_age) {
        return Looked::of(&known);
    }
    // Somebody looks already: what is served is good enough until that is done.
    if has_current && is_looking(repo, key) {
        return Looked::Current;
    }
    let patience = if has_current { patience.min(CURRENT_PATIENCE) } else { patience };
    look_for(server, repo, key, max_age, patience).await
}

/// Looks in a task of its own, waited for until `patience` ends.
async fn look_for(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    max_age: Duration,
    patience: Duration,
) -> Looked {
    let is_new = repo.snapshot().unit(key).is_none();
    let permit = repo.discoveries.clone().try_acquire_owned();
    if is_new && permit.is_err() {
        return Looked::Unsettled;
    }
    let (server, index, key) = (server.clone(), repo.index, key.clone());
    let look = tokio::spawn(async move {
        let _permit = permit.ok().filter(|_| is_new);
        refresh(&server, &server.repos[index], &key, max_age).await
    });
    match tokio::time::timeout(patience, look).await {
        Ok(Ok(outcome)) => Looked::of(&outcome),
        _ => Looked::Unsettled,
    }
}

fn is_looking(repo: &Repo, key: &UnitKey) -> bool {
    repo.with_unit(key, |state| state.refreshing.try_lock().is_err())
}

/// Reads a family that a client asked for, by making the current generation again with it. A client that has
/// its list soon asks for packages, so it waits for this, but not long.
pub async fn learn(server: &Arc<Server>, repo: &Repo, unit: &Arc<Unit>, stem: &str) {
    if repo.with_unit(&unit.key, |state| state.learned.insert(stem.to_owned())) {
        look_for(server, repo, &unit.key, Duration::ZERO, LEARN_PATIENCE).await;
    }
}
