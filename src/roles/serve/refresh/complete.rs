//! From a draft to a whole generation: every wanted member fetched, verified and read.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::RefreshError;
use crate::catalog::{Draft, Step, Unit, by_hash_path};
use crate::config::Origin;
use crate::io::fetch::{Content, FetchError};
use crate::io::store::{BlobStore, VerifyError};
use crate::model::{Blob, Expected, RepoPath, Size};
use crate::roles::serve::origin;
use crate::roles::serve::repo::Repo;
use crate::roles::serve::server::Server;

/// Members of one generation fetched at a time: hides latency, spares the upstream.
const PARALLEL: usize = 4;
/// Largest package list read, compressed or not: it is read in memory. The largest known have some 100 MB.
const MAX_LIST: u64 = 512 << 20;

/// What it takes to make a generation of a draft.
pub struct Plan<'a> {
    pub wanted: Vec<Step>,
    /// Other members to have at hand when the generation is adopted: clients will ask for them, and the
    /// origin may have replaced them by then.
    pub held: Vec<(RepoPath, Expected)>,
    pub current: Option<&'a Arc<Unit>>,
    /// Take what there is: the origin has been like this for long, or there is nothing to fall back on.
    pub settle: bool,
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
    let Plan { wanted, held, current, settle, generation, adopted_secs } = plan;
    let families = wanted.len();
    let mut missing = Vec::new();
    let by_hash = draft.has_by_hash();
    let kinds = draft.kinds().clone();
    let was_held = |path: &RepoPath| {
        let name = kinds.get(path.as_str()).map_or(path.as_str(), String::as_str);
        let expected = current.and_then(|unit| unit.member_called(name));
        expected.is_some_and(|expected| server.metadata.held(&expected).is_some())
    };
    let must_have = |path: &RepoPath| !settle && (current.is_none() || was_held(path));
    let fetch = |step: Step| async move {
        let fetched = fetch_step(server, repo, &step, by_hash, must_have).await;
        (step, fetched)
    };
    let mut fetched = std::pin::pin!(stream::iter(wanted).map(fetch).buffered(PARALLEL));
    while let Some((step, fetched)) = fetched.next().await {
        let (path, blob) = match fetched {
            Ok(found) => found,
            // A mirror may carry only some of the architectures that its signed Release lists.
            // One that was there a generation ago is being replaced: then this is no whole generation.
            Err(RefreshError::Member { source: FetchError::NotFound, .. })
                if settle || current.is_some_and(|unit| !unit.stems.contains(&step.stem)) =>
            {
                missing.push(step);
                continue;
            }
            Err(e) => return Err(e),
        };
        let store = server.metadata.store.clone();
        let _turn = server.parsing.acquire().await.map_err(RefreshError::internal)?;
        let read = move || {
            let bytes =
                read_blob(&store, blob).ok_or_else(|| RefreshError::Internal(format!("{path} is gone")))?;
            draft.read(&step.stem, &path, &bytes)?;
            Ok::<_, RefreshError>(draft)
        };
        draft = tokio::task::spawn_blocking(read).await.map_err(RefreshError::internal)??;
    }
    if let Some(step) = missing.first() {
        if missing.len() == families {
            return Err(RefreshError::Incomplete(step.stem.clone()));
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
    // Whoever asks for one of them and gets it makes us read it then.
    repo.with_unit(&draft.key().clone(), |state| {
        state.learned.retain(|stem| missing.iter().all(|step| step.stem != *stem));
    });
    draft.lacks(missing.into_iter().map(|step| step.stem));
    hold(server, repo, held, by_hash, must_have).await?;
    let finish = move || draft.finish(generation, adopted_secs);
    tokio::task::spawn_blocking(finish).await.map_err(RefreshError::internal)
}

pub fn read_blob(store: &BlobStore, blob: Blob) -> Option<Vec<u8>> {
    use std::io::Read;
    let (mut file, size) = store.open_blob(blob.id)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The first of a family's members that can be had. `must_have` says of a path that going on without it
/// would leave clients in the lurch who are used to it.
async fn fetch_step(
    server: &Arc<Server>,
    repo: &Repo,
    step: &Step,
    by_hash: bool,
    must_have: impl Fn(&RepoPath) -> bool,
) -> Result<(RepoPath, Blob), RefreshError> {
    let mut last = None;
    // What is held already comes first: a client has just asked for it, or a restart finds it.
    let (held, others): (Vec<_>, Vec<_>) =
        step.choices.iter().partition(|(_, expected)| server.metadata.held(expected).is_some());
    for (path, expected) in held.into_iter().chain(others) {
        if expected.size.is_none_or(|size| size > MAX_LIST) {
            let problem = format!("a package list of more than {} is not read", Size(MAX_LIST));
            last = Some((path, FetchError::Wrong { url: path.to_string(), problem }));
            continue;
        }
        match fetch_member(server, repo, path, *expected, by_hash).await {
            Ok(blob) => return Ok((path.clone(), blob)),
            Err(source) if must_have(path) => {
                return Err(RefreshError::Member { path: path.clone(), source });
            }
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

/// Fetches members that nobody reads here, some at a time.
async fn hold(
    server: &Arc<Server>,
    repo: &Repo,
    members: Vec<(RepoPath, Expected)>,
    by_hash: bool,
    must_have: impl Fn(&RepoPath) -> bool,
) -> Result<(), RefreshError> {
    let fetch = |(path, expected): (RepoPath, Expected)| async move {
        let fetched = fetch_member(server, repo, &path, expected, by_hash).await;
        fetched.map_err(|source| RefreshError::Member { path, source })
    };
    let mut fetched = std::pin::pin!(stream::iter(members).map(fetch).buffered(PARALLEL));
    while let Some(member) = fetched.next().await {
        match member {
            Err(RefreshError::Member { path, source }) if must_have(&path) => {
                return Err(RefreshError::Member { path, source });
            }
            // Release files list more than archives keep.
            Err(e) => tracing::debug!(repo = repo.config.name, error = %e, "a member cannot be had"),
            Ok(_) => {}
        }
    }
    Ok(())
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
                let wrong = |e: VerifyError| FetchError::Wrong {
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
