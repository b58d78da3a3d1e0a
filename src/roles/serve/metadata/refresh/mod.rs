//! Looking at the origin: is there a new generation of a unit, and if so is it whole?
//!
//! [`look`] reads the root files and judges them, [`complete`] fetches every wanted member and verifies it
//! against them; only then, and when the [`gate`] is open, is the generation [`adopt`]ed, in one step. Anything that does not fit together
//! leaves the last good one in place. [`schedule`] looks without being asked.

mod adopt;
mod complete;
mod flawed;
mod gate;
mod look;
mod schedule;
mod unproven;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

pub use adopt::{adopt, install};
pub use complete::{Plan, complete, fetch_member, read_blob};
pub use flawed::{Known, Waits};
pub use look::Tries;
pub use schedule::{poll, warm_up};

use crate::catalog::{IngestError, TrustError, Unit, UnitKey};
use crate::io::clock;
use crate::io::fetch::FetchError;
use crate::io::upstream::UpstreamError;
use crate::model::{RepoPath, Size};
use crate::roles::serve::metadata::origin::OriginError;
use crate::roles::serve::metadata::repo::{Repo, Trouble, TroubleKind};
use crate::roles::serve::state::Server;

/// How long the client that makes us look waits, where there is a generation to serve.
const CURRENT_PATIENCE: Duration = Duration::from_secs(3);
/// A client that finds nothing has the origin looked at again if the look that failed is older.
const FAILED_AGE: Duration = Duration::from_secs(2);
/// How long a client waits for its package list to be read.
const LEARN_PATIENCE: Duration = Duration::from_secs(5);
/// How long what may be an update or an outage is taken for one. zypper repeats for as long as it is told that
/// waiting helps, and asks every 30 s.
const PASSES_WITHIN: Duration = Duration::from_secs(15);

/// Why a unit has no new generation.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error("{0} is not at the origin")]
    NotFound(String),
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
    #[error("{path}: package lists of more than {limit} are not read")]
    TooLarge { path: RepoPath, limit: Size },
    #[error("the server is stopping")]
    Stopping,
    #[error("internal: {0}")]
    Internal(String),
}

impl RefreshError {
    /// Whether the upstream has named a time to come back.
    fn is_busy(&self) -> bool {
        matches!(self, Self::Origin(OriginError::Upstream(UpstreamError::Busy { .. })))
            || matches!(self, Self::Member { source, .. } if source.is_busy())
    }

    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    fn kind(&self) -> TroubleKind {
        match self {
            Self::NotFound(_) => TroubleKind::Missing,
            _ if self.is_refusal() => TroubleKind::Refused,
            Self::Origin(_) | Self::Member { source: FetchError::Upstream(_), .. } => TroubleKind::Outage,
            Self::Changing(_)
            | Self::Member { .. }
            | Self::Stopping
            | Self::Internal(_)
            | Self::Trust(TrustError::StaleSignature { .. } | TrustError::Frame { .. })
            | Self::Ingest(IngestError::Mixed { .. }) => TroubleKind::Passing,
            Self::Ingest(_) | Self::Trust(_) | Self::TooLarge { .. } => TroubleKind::Refused,
        }
    }

    /// The origin refuses us, and said nothing of a time when it will not (RFC 9110 section 15.5).
    fn is_refusal(&self) -> bool {
        let Self::Origin(OriginError::Upstream(UpstreamError::Status { status, .. })) = self else {
            return false;
        };
        let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
            .contains(status);
        status.is_client_error() && !passes
    }

    /// The origin does not have a member.
    fn is_missing_member(&self) -> bool {
        matches!(self, Self::Member { source: FetchError::NotFound, .. })
    }

    /// The origin does not answer, or breaks off.
    fn is_unanswered_member(&self) -> bool {
        let Self::Member { source: FetchError::Upstream(error), .. } = self else { return false };
        !matches!(error, UpstreamError::Status { .. } | UpstreamError::NoSuchPart { .. })
    }

    /// What went wrong has nothing to do with the origin.
    fn is_ours(&self) -> bool {
        matches!(self, Self::Member { source: FetchError::Store(_), .. } | Self::Internal(_))
    }

    /// It looks like this while the origin is being updated.
    fn is_of_update(&self) -> bool {
        match self {
            Self::Changing(_)
            | Self::Trust(TrustError::StaleSignature { .. } | TrustError::Frame { .. })
            | Self::Ingest(IngestError::Mixed { .. }) => true,
            Self::Member { source, .. } => matches!(source, FetchError::NotFound | FetchError::Wrong { .. }),
            _ => false,
        }
    }

    /// A member is what the root files name, and of no use.
    fn is_final(&self) -> bool {
        matches!(self, Self::Ingest(_) | Self::TooLarge { .. })
    }
}

/// Looks at the origin unless that was done within `max_age`. Concurrent calls for one unit share a look.
pub async fn refresh(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    max_age: Duration,
    tries: Tries,
) -> Looked {
    let lock = repo.with_unit(key, |state| state.refreshing.clone());
    let _held = lock.lock().await;
    match known(repo, key, max_age) {
        Some(known) => known,
        None => refresh_locked(server, repo, key, tries).await,
    }
}

/// Polls, for the holder of the unit's lock.
async fn refresh_locked(server: &Arc<Server>, repo: &Repo, key: &UnitKey, tries: Tries) -> Looked {
    let current = repo.snapshot().unit(key).cloned();
    let unchanged = if current.is_some() { Looked::Current } else { Looked::Passing };
    // The process that takes over looks itself; what this one found could not be written down.
    if server.db.is_closed() {
        return unchanged;
    }
    let error = match look::look(server, repo, key, current.as_ref(), tries).await {
        Ok(()) => None,
        // Nothing is wrong with the generation that clients see.
        Err(RefreshError::Stopping) => return unchanged,
        Err(error) => Some(error),
    };
    let now = clock::now();
    // A single try is no answer to a client: an update may be under way.
    let is_answer = tries == Tries::Several || !error.as_ref().is_some_and(RefreshError::is_of_update);
    repo.with_unit(key, |state| state.looked = is_answer.then_some(now));
    let (before, is_news) = repo.note_look(key, error.map(|e| (e.kind(), e.to_string())), now);
    let trouble = repo.unit_state(key).trouble;
    match &trouble {
        Some(trouble) => report(repo, key, current.as_deref(), trouble, is_news),
        None if before.is_some_and(|before| !before.told.is_empty()) => {
            tracing::info!(repo = repo.config.name, unit = %key, "the origin has recovered");
        }
        None => {}
    }
    tell_expiry(repo, key);
    Looked::of(trouble.as_ref())
}

/// What the last look found, if it is not older than `max_age`.
fn known(repo: &Repo, key: &UnitKey, max_age: Duration) -> Option<Looked> {
    let has_current = repo.snapshot().unit(key).is_some();
    repo.with_unit(key, |state| {
        let now = clock::now();
        let has_failed =
            state.trouble.as_ref().is_some_and(|t| t.kind != TroubleKind::Missing) && !has_current;
        let max_age = if has_failed { max_age.min(FAILED_AGE) } else { max_age };
        // A clock that was set back says nothing about how long ago that was.
        state.looked.filter(|looked| *looked <= now && now.since(*looked) < max_age)?;
        Some(if has_current { Looked::Current } else { Looked::of(state.trouble.as_ref()) })
    })
}

/// Logs once that clients refuse what is served, because nothing newer has been published.
fn tell_expiry(repo: &Repo, key: &UnitKey) {
    let snapshot = repo.snapshot();
    let Some(unit) = snapshot.unit(key).filter(|unit| repo.trust.is_expired(unit, clock::now().as_secs()))
    else {
        return;
    };
    if repo.with_unit(key, |state| state.told_expiry.replace(unit.generation)) != Some(unit.generation) {
        let (repo, valid_until) = (repo.config.name.as_str(), unit.valid_until);
        tracing::warn!(repo, unit = %key, valid_until, "what is served has expired (Valid-Until), and the origin has nothing newer");
    }
}

/// Says why a unit has no new generation: an outage of hours is a line, not one every minute.
fn report(repo: &Repo, key: &UnitKey, current: Option<&Unit>, trouble: &Trouble, is_news: bool) {
    let (repo, error) = (repo.config.name.as_str(), trouble.text.as_str());
    match (trouble.kind, current) {
        _ if !is_news => tracing::debug!(repo, unit = %key, error, "nothing new in the unit"),
        (_, Some(current)) => {
            let generation = current.generation;
            tracing::warn!(repo, unit = %key, generation, error, "keeping the last good generation");
        }
        (TroubleKind::Missing, None) => {
            tracing::warn!(repo, unit = %key, error, "the origin does not have what `suites` names: check the spelling");
        }
        (_, None) => {
            tracing::warn!(repo, unit = %key, error, "not adopted, and there is no earlier generation")
        }
    }
}

/// How a look at the origin ended, as far as the caller waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    Current,
    /// The origin says that there is no such unit.
    Missing,
    /// It continues, or what went wrong may be over soon.
    Passing,
    /// The origin does not answer, and waiting does not help.
    Down,
    /// The origin has nothing usable, and waiting does not help.
    Refused,
}

impl Looked {
    fn of(trouble: Option<&Trouble>) -> Self {
        match trouble.map(|trouble| (trouble.kind, clock::now().since(trouble.since))) {
            None => Self::Current,
            Some((TroubleKind::Missing, _)) => Self::Missing,
            Some((TroubleKind::Passing | TroubleKind::Outage, lasting)) if lasting < PASSES_WITHIN => {
                Self::Passing
            }
            Some((TroubleKind::Outage, _)) => Self::Down,
            Some((TroubleKind::Passing | TroubleKind::Refused, _)) => Self::Refused,
        }
    }
}

/// [`refresh`], waited for until `patience` ends. The look itself continues whatever the client does.
pub async fn refresh_within(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    max_age: Duration,
    patience: Duration,
) -> Looked {
    let has_current = repo.snapshot().unit(key).is_some();
    // The usual case costs no task. Where there is nothing to serve, a look that goes on may bring it.
    if (has_current || !is_looking(repo, key))
        && let Some(known) = known(repo, key, max_age)
    {
        return known;
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
    let (server, index, key) = (server.clone(), repo.index, key.clone());
    let look = tokio::spawn(async move {
        let repo = &server.repos[index];
        let lock = repo.with_unit(&key, |state| state.refreshing.clone());
        let _held = lock.lock().await;
        if let Some(known) = known(repo, &key, max_age) {
            return known;
        }
        // Only the one who looks counts: the many who wait for one unit ask the upstream for nothing. Nor does one
        // that is known: it takes no turn from those that are not.
        let is_new = repo.snapshot().unit(&key).is_none();
        let permit = is_new.then(|| repo.discoveries.try_acquire());
        match permit {
            Some(Err(_)) => unlooked(repo, &key),
            Some(Ok(_)) | None => refresh_locked(&server, repo, &key, Tries::Several).await,
        }
    });
    match tokio::time::timeout(patience, look).await {
        Ok(Ok(looked)) => looked,
        _ => Looked::Passing,
    }
}

/// What is said of a unit that there is no time to look at.
fn unlooked(repo: &Repo, key: &UnitKey) -> Looked {
    match Looked::of(repo.unit_state(key).trouble.as_ref()) {
        Looked::Refused => Looked::Refused,
        _ => Looked::Passing,
    }
}

fn is_looking(repo: &Repo, key: &UnitKey) -> bool {
    repo.with_unit(key, |state| state.refreshing.try_lock().is_err())
}

/// Reads a family that a client asked for, by making the current generation again with it. A client that has
/// its list soon asks for packages, so it waits for this, but not long.
pub async fn learn(server: &Arc<Server>, repo: &Repo, unit: &Arc<Unit>, stem: &str) {
    let is_new = repo.with_unit(&unit.key, |state| {
        let is_of_no_use = state.flaws.get(stem).is_some_and(Known::is_final);
        !is_of_no_use && state.learned.insert(stem.to_owned())
    });
    if is_new {
        look_for(server, repo, &unit.key, Duration::ZERO, LEARN_PATIENCE).await;
    }
}
