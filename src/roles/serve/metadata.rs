//! Metadata: always from here, always of the adopted generation.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};

use super::http::{Asked, is_named};
use super::package::fetch_failed;
use super::refresh;
use super::repo::Repo;
use super::server::Server;
use super::traffic::Kind;
use crate::catalog::{Named, Root, Unit, UnitKey, UnitKind};
use crate::formats::compress::Compression;
use crate::io::body::Body;
use crate::io::respond::{Representation, plain, respond};
use crate::model::{Expected, RepoPath};

/// A client waits this long at most for a look at the origin before it gets the last good generation.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers if the path is metadata of a unit, known or now found; `None` if it is something else.
pub async fn answer(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
) -> Option<Response<Body>> {
    let root_of = UnitKey::of_root(path, &repo.config.profile);
    match &root_of {
        Some(key) => look(server, repo, key, path).await,
        None if !is_named(repo, path) => find_unit(server, repo, path).await,
        None => {}
    }
    let found = Found::of(repo, path);
    match found {
        Found::Root(root) => Some(root_response(server, path, root, asked)),
        Found::Member { unit, path: canonical, expected } => {
            Some(member_response(server, repo, path, &unit, &canonical, expected, asked).await)
        }
        Found::Package(_) | Found::Nothing if root_of.is_some() && repo.tree().is_none() => {
            Some(outage(repo, root_of))
        }
        Found::Package(expected) => Some(super::package::answer(server, repo, path, expected, asked).await),
        Found::Nothing => None,
    }
}

/// What the snapshot says of a path, without borrowing it over an await.
enum Found {
    Root(Root),
    Member { unit: Arc<Unit>, path: RepoPath, expected: Expected },
    Package(Expected),
    Nothing,
}

impl Found {
    fn of(repo: &Repo, path: &RepoPath) -> Self {
        match repo.snapshot().resolve(path) {
            Named::Root { root } => Self::Root(root.clone()),
            Named::Member { unit, path, expected } => {
                Self::Member { unit: unit.clone(), path: path.clone(), expected }
            }
            Named::Package { expected } => Self::Package(expected),
            Named::Unlisted { .. } | Named::Unknown => Self::Nothing,
        }
    }
}

/// A root file was asked for: is it still the newest?
async fn look(server: &Arc<Server>, repo: &Repo, key: &UnitKey, path: &RepoPath) {
    if key.kind == UnitKind::Checksums {
        repo.with_unit(key, |state| {
            if state.learned.len() < 64 && state.learned.insert(path.file_name().to_owned()) {
                state.looked = None;
            }
        });
    }
    let refreshed = refresh::refresh(server, repo, key, repo.fresh_for());
    // The outcome is logged and kept in the unit's state; the snapshot says what can be served.
    let _ = tokio::time::timeout(PATIENCE, refreshed).await;
}

/// No unit names the path: perhaps it belongs to one that nobody asked for yet.
async fn find_unit(server: &Arc<Server>, repo: &Repo, path: &RepoPath) {
    let profile = &repo.config.profile;
    let mut candidates = UnitKey::candidates(path, profile.layout);
    if candidates.is_empty() && !profile.is_package_name(path.file_name()) {
        let dir = path.parent().unwrap_or("").to_owned();
        candidates.push(UnitKey { kind: UnitKind::Checksums, dir });
    }
    for key in candidates {
        let is_loaded = repo.snapshot().unit(&key).is_some();
        if is_loaded {
            return;
        }
        let refreshed = refresh::refresh(server, repo, &key, Duration::from_secs(60));
        if matches!(tokio::time::timeout(PATIENCE, refreshed).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// A root file that cannot be served: 404 only if the origin said that it does not exist.
fn outage(repo: &Repo, key: Option<UnitKey>) -> Response<Body> {
    let problem = key.and_then(|key| repo.unit_state(&key).problem);
    match problem {
        Some(problem) if !problem.ends_with("is not at the origin") => plain(
            StatusCode::BAD_GATEWAY,
            "the upstream failed and there is no earlier generation; try again",
        ),
        _ => plain(StatusCode::NOT_FOUND, "the origin has no such file"),
    }
}

fn root_response(server: &Server, path: &RepoPath, root: Root, asked: &Asked) -> Response<Body> {
    let what =
        Representation { blob: root.blob, file_name: path.file_name(), digests: None, must_revalidate: true };
    respond(&asked.method, &asked.headers, &what, |part| {
        let bytes = root.bytes.slice(part.start as usize..part.end as usize);
        server.traffic.count(Kind::Metadata, Body::full(bytes))
    })
}

async fn member_response(
    server: &Arc<Server>,
    repo: &Repo,
    asked_path: &RepoPath,
    unit: &Arc<Unit>,
    path: &RepoPath,
    expected: Expected,
    asked: &Asked,
) -> Response<Body> {
    let blob = match refresh::fetch_member(server, repo, path, expected, unit.has_by_hash).await {
        Ok(blob) => blob,
        Err(e) => {
            // Release files list uncompressed members that archives do not keep: no reason to alarm anyone.
            tracing::debug!(path = path.as_str(), error = %e, "a member cannot be had");
            return fetch_failed(&e);
        }
    };
    let (stem, _) = Compression::strip(path.as_str());
    let is_index = matches!(stem.rsplit('/').next(), Some("Packages" | "Sources"));
    if is_index && !unit.stems.contains(stem) {
        refresh::learn(server, repo, unit, stem).await;
    }
    let Some((file, size)) = server.metadata.store.open_blob(blob.id) else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the file has just been replaced; try again");
    };
    debug_assert_eq!(size, blob.size);
    let is_by_hash = asked_path != path;
    let what =
        Representation { blob, file_name: path.file_name(), digests: None, must_revalidate: !is_by_hash };
    let (traffic, file) = (server.traffic.clone(), Arc::new(file));
    respond(&asked.method, &asked.headers, &what, move |part| {
        traffic.count(Kind::Metadata, Body::file(file, part, None))
    })
}
