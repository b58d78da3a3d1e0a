//! Looking at the origin: is there a new generation of a unit, and if so is it whole?
//!
//! Root files first, then every wanted member, each verified against the root files; only then is the
//! generation adopted, in one step. Anything that does not fit together leaves the last good one in place.

use std::sync::Arc;
use std::time::Duration;

use super::aliases;
use super::origin::{self, OriginError};
use super::records;
use super::repo::Repo;
use super::server::Server;
use crate::catalog::{
    CatalogStats, Draft, IngestError, RootFile, Step, Unit, UnitKey, UnitKind, by_hash_path,
};
use crate::config::Origin;
use crate::io::clock;
use crate::io::fetch::{Content, FetchError};
use crate::model::{Blob, Digest, Expected, RepoPath};

/// Attempts to catch an upstream between two of its own updates.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a client waits for its package list to be read.
const LEARN_PATIENCE: Duration = Duration::from_secs(5);

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
    #[error("{path}: {source}")]
    Member { path: RepoPath, source: FetchError },
    #[error("internal: {0}")]
    Internal(String),
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
    let state = repo.unit_state(key);
    let current = repo.snapshot().unit(key).cloned();
    if state.looked.is_some_and(|looked| clock::now().since(looked) < max_age) {
        return match (current, state.problem) {
            (None, Some(_)) if state.is_missing => Err(RefreshError::NotFound(key.to_string())),
            (None, Some(problem)) => Err(RefreshError::Internal(problem)),
            _ => Ok(()),
        };
    }
    let outcome = look(server, repo, key, current.as_ref()).await;
    repo.with_unit(key, |state| {
        state.looked = Some(clock::now());
        state.problem = outcome.as_ref().err().map(ToString::to_string);
        state.is_missing = matches!(outcome, Err(RefreshError::NotFound(_)));
    });
    match &outcome {
        Err(e) if current.is_some() => {
            tracing::warn!(repo = repo.config.name, unit = %key, error = %e, "keeping the last good generation");
        }
        Err(e) => tracing::debug!(repo = repo.config.name, unit = %key, error = %e, "no such unit"),
        Ok(()) => {}
    }
    outcome
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

/// [`refresh`], waited for until `patience` ends. The look itself goes on whatever the client does.
pub async fn refresh_within(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    max_age: Duration,
    patience: Duration,
) -> Looked {
    let (server, index, key) = (server.clone(), repo.index, key.clone());
    let look = tokio::spawn(async move { refresh(&server, &server.repos[index], &key, max_age).await });
    match tokio::time::timeout(patience, look).await {
        Ok(Ok(Ok(()))) => Looked::Current,
        Ok(Ok(Err(RefreshError::NotFound(_)))) => Looked::Missing,
        _ => Looked::Unsettled,
    }
}

/// Reads a family that a client asked for, by making the current generation again with it. A client that has
/// its list soon asks for packages, so it waits for this, but not long.
pub async fn learn(server: &Arc<Server>, repo: &Repo, unit: &Arc<Unit>, stem: &str) {
    if repo.with_unit(&unit.key, |state| state.learned.insert(stem.to_owned())) {
        refresh_within(server, repo, &unit.key, Duration::ZERO, LEARN_PATIENCE).await;
    }
}

async fn look(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    current: Option<&Arc<Unit>>,
) -> Result<(), RefreshError> {
    let mut attempt = 0;
    loop {
        let base = attempt as usize % repo.upstreams().len().max(1);
        let tried = look_once(server, repo, key, current, base).await;
        attempt += 1;
        match tried {
            Err(RefreshError::NotFound(what)) if attempt as usize >= repo.upstreams().len() => {
                return Err(RefreshError::NotFound(what));
            }
            Err(_) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
}

async fn look_once(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    current: Option<&Arc<Unit>>,
    base: usize,
) -> Result<(), RefreshError> {
    let roots = fetch_roots(server, repo, key, base).await?;
    if roots.is_empty() {
        return Err(RefreshError::NotFound(key.to_string()));
    }
    let draft = Draft::new(key.clone(), roots.clone())?;
    let wanted = draft.wanted(&repo.warm(key));
    let is_same = current.is_some_and(|unit| {
        unit.roots.len() == roots.len()
            && roots.iter().all(|root| unit.roots.get(&root.path) == Some(&root.root))
            && wanted.iter().all(|step| unit.stems.contains(&step.stem) || unit.absent.contains(&step.stem))
    });
    if is_same {
        return Ok(());
    }
    // Several files make one generation: an update in between shows in a second reading.
    if roots.len() > 1 && fetch_roots(server, repo, key, base).await? != roots {
        return Err(RefreshError::Changing(key.to_string()));
    }
    let generation = current.map_or(1, |unit| unit.generation + 1);
    let plan = Plan { wanted, current, generation, adopted_secs: clock::now().as_secs() };
    let unit = complete(server, repo, draft, plan).await?;
    records::remember(server, repo, &unit)?;
    adopt(server, repo, unit);
    Ok(())
}

async fn fetch_roots(
    server: &Server,
    repo: &Repo,
    key: &UnitKey,
    base: usize,
) -> Result<Vec<RootFile>, RefreshError> {
    let mut roots = Vec::new();
    for (path, must_exist) in root_paths(repo, key) {
        let read = origin::read_root(&repo.config.origin, &server.upstream, base, &path).await?;
        match read {
            Some(bytes) => roots.push(RootFile::new(path, bytes)),
            None if must_exist => return Err(RefreshError::NotFound(path.to_string())),
            None => {}
        }
    }
    Ok(roots)
}

fn root_paths(repo: &Repo, key: &UnitKey) -> Vec<(RepoPath, bool)> {
    if key.kind != UnitKind::Checksums {
        let valid = |(path, must): (String, bool)| RepoPath::new(&path).ok().map(|path| (path, must));
        return key.roots().into_iter().filter_map(valid).collect();
    }
    let names: Vec<RepoPath> = match repo.tree() {
        Some(tree) => origin::checksum_files_in(tree, &key.dir, &repo.config.profile),
        None => {
            // Names with a wildcard become known when a client asks for one.
            let learned = repo.unit_state(key).learned;
            let plain = repo.config.profile.checksum_files.iter().filter(|name| !name.contains('*'));
            let names = plain.chain(&learned).filter_map(|name| RepoPath::new(name).ok());
            names.map(|name| name.under(&key.dir)).collect()
        }
    };
    names.into_iter().map(|path| (path, false)).collect()
}

/// What it takes to make a generation of a draft.
pub struct Plan<'a> {
    pub wanted: Vec<Step>,
    pub current: Option<&'a Arc<Unit>>,
    pub generation: u64,
    pub adopted_secs: u64,
}

/// Fetches and reads what the draft wants; parsing runs on a thread that may block.
pub async fn complete(
    server: &Arc<Server>,
    repo: &Repo,
    mut draft: Draft,
    plan: Plan<'_>,
) -> Result<Unit, RefreshError> {
    let families = plan.wanted.len();
    let mut missing = Vec::new();
    for step in plan.wanted {
        let (path, blob) = match fetch_step(server, repo, &step, draft.has_by_hash()).await {
            Ok(found) => found,
            // A mirror may carry only some of the architectures that its signed Release lists.
            // One that was there a generation ago is being replaced: then this is no whole generation.
            Err(RefreshError::Member { source: FetchError::NotFound, .. })
                if !plan.current.is_some_and(|unit| unit.stems.contains(&step.stem)) =>
            {
                missing.push(step);
                continue;
            }
            Err(e) => return Err(e),
        };
        let store = server.metadata.store.clone();
        let read = move || {
            let bytes =
                read_blob(&store, blob).ok_or_else(|| RefreshError::Internal(format!("{path} is gone")))?;
            draft.read(&step.stem, &path, &bytes)?;
            Ok::<_, RefreshError>(draft)
        };
        draft =
            tokio::task::spawn_blocking(read).await.map_err(|e| RefreshError::Internal(e.to_string()))??;
    }
    if let Some(step) = missing.first() {
        if missing.len() == families {
            return Err(RefreshError::NotFound(step.stem.clone()));
        }
        let (repo, first) = (repo.config.name.as_str(), step.stem.as_str());
        tracing::info!(
            repo,
            missing = missing.len(),
            families,
            first,
            "the origin lacks package lists that its Release names"
        );
    }
    draft.lacks(missing.into_iter().map(|step| step.stem));
    let Plan { generation, adopted_secs, .. } = plan;
    let finish = move || draft.finish(generation, adopted_secs);
    tokio::task::spawn_blocking(finish).await.map_err(|e| RefreshError::Internal(e.to_string()))
}

pub fn read_blob(store: &crate::io::store::BlobStore, blob: Blob) -> Option<Vec<u8>> {
    use std::io::Read;
    let (mut file, size) = store.open_blob(blob.id)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The first of a family's members that can be had.
async fn fetch_step(
    server: &Arc<Server>,
    repo: &Repo,
    step: &Step,
    by_hash: bool,
) -> Result<(RepoPath, Blob), RefreshError> {
    let mut last = None;
    // What is held already comes first: a client has just asked for it, or a restart finds it.
    let (held, others): (Vec<_>, Vec<_>) =
        step.choices.iter().partition(|(_, expected)| server.metadata.held(expected).is_some());
    for (path, expected) in held.into_iter().chain(others) {
        match fetch_member(server, repo, path, *expected, by_hash).await {
            Ok(blob) => return Ok((path.clone(), blob)),
            // The best choice's error says most, unless it was only that the file does not exist.
            Err(e) if last.is_none() || matches!(last, Some((_, FetchError::NotFound))) => {
                last = Some((path, e))
            }
            Err(_) => {}
        }
    }
    let Some((path, source)) = last else {
        return Err(RefreshError::Internal(format!("{} has no members", step.stem)));
    };
    Err(RefreshError::Member { path: path.clone(), source })
}

/// A member of a generation, into the metadata store.
pub async fn fetch_member(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    expected: Expected,
    by_hash: bool,
) -> Result<Blob, FetchError> {
    match &repo.config.origin {
        Origin::Upstream(bases) => {
            let by_hash = by_hash_path(path, &expected).filter(|_| by_hash);
            server.metadata.get_whole(expected, origin::source(bases, path, by_hash.as_ref())).await
        }
        Origin::Tree(tree) => {
            if let Some(Content::Held { blob, .. }) = server.metadata.held(&expected) {
                return Ok(blob);
            }
            let (tree, path, fetcher) = (tree.clone(), path.clone(), server.metadata.clone());
            let ingest = move || {
                let found = origin::open_in_tree(&tree, &path).ok_or(FetchError::NotFound)?;
                let wrong = |e: crate::io::store::VerifyError| FetchError::Wrong {
                    url: found.path.display().to_string(),
                    problem: e.to_string(),
                };
                fetcher.ingest_file(expected, &found.path).map(|committed| committed.blob).map_err(wrong)
            };
            tokio::task::spawn_blocking(ingest)
                .await
                .unwrap_or_else(|e| Err(FetchError::Store(e.to_string())))
        }
    }
}

pub fn adopt(server: &Arc<Server>, repo: &Repo, unit: Unit) {
    let (name, key, paths) = (repo.config.name.as_str(), &unit.key, unit.packages.len());
    tracing::info!(repo = name, unit = %key, generation = unit.generation, paths, "adopted");
    if unit.skipped > 0 {
        let first = unit.first_skipped.as_deref().unwrap_or("");
        tracing::warn!(repo = name, unit = %key, skipped = unit.skipped, first, "unusable entries in the metadata");
    }
    let unit = Arc::new(unit);
    repo.adopt(unit.clone(), clock::now());
    let (server, name) = (server.clone(), name.to_owned());
    tokio::task::spawn_blocking(move || {
        count(&server);
        let hashed = server.repo(&name).map_or(0, |repo| aliases::learn_all(&server, repo, &unit));
        if hashed > 0 {
            tracing::info!(repo = name, unit = %unit.key, hashed, "read files whose metadata gives no SHA-256");
            count(&server);
        }
    });
}

/// Counts names and blobs again, for the status.
fn count(server: &Server) {
    let snapshots: Vec<_> = server.repos.iter().map(|repo| repo.snapshot().clone()).collect();
    let canonical = |digest: &Digest| {
        let expected = Expected { digest: *digest, size: None };
        server.packages.resolve(&expected).map_or(*digest, |id| id.digest())
    };
    let stats = CatalogStats::of(snapshots.iter().map(AsRef::as_ref), canonical);
    *server.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = stats;
}

/// Reads what the configuration names and, in a tree, everything that is there. Returns when done.
pub async fn warm_up(server: &Arc<Server>, repo: &Repo) {
    let config = &repo.config;
    let mut keys: Vec<UnitKey> = Vec::new();
    if let Origin::Tree(tree) = &config.origin {
        let (tree, profile) = (tree.clone(), config.profile.clone());
        let find = move || {
            let roots = origin::find_roots(&tree, |path| UnitKey::of_root(path, &profile).is_some());
            let mut keys: Vec<UnitKey> =
                roots.iter().filter_map(|path| UnitKey::of_root(path, &profile)).collect();
            keys.dedup();
            keys
        };
        keys = tokio::task::spawn_blocking(find).await.unwrap_or_default();
    } else {
        keys.extend(
            config.profile.suites.iter().map(|suite| UnitKey::of_suite(suite, config.profile.layout)),
        );
        keys.extend(repo.snapshot().units().map(|unit| unit.key.clone()));
    }
    keys.sort();
    keys.dedup();
    if keys.is_empty() && repo.tree().is_some() {
        tracing::warn!(repo = config.name, "the tree holds no metadata; is the path right?");
    }
    for key in keys {
        if let Err(e) = refresh(server, repo, &key, Duration::from_secs(1)).await {
            tracing::warn!(repo = config.name, unit = %key, error = %e, "cannot be read now; clients may still ask for it");
        }
    }
    repo.set_warm();
}

/// Looks at every known unit from time to time; ends with the process.
pub async fn poll(server: Arc<Server>, index: usize) {
    let repo = &server.repos[index];
    loop {
        // Up to a tenth later, so that many servers do not ask one upstream in step.
        let jitter = clock::now().as_nanos() % 100;
        tokio::time::sleep(repo.config.poll.mul_f64(1.0 + jitter as f64 / 1000.0)).await;
        let keys: Vec<UnitKey> = repo.snapshot().units().map(|unit| unit.key.clone()).collect();
        for key in keys {
            // The outcome is in the log and in the status.
            let _ = refresh(&server, repo, &key, repo.fresh_for()).await;
        }
    }
}
