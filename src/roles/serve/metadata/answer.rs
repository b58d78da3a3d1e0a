//! Metadata: always from here, always of the adopted generation.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};

use super::refresh::{self, Looked};
use super::repo::{Repo, is_named};
use super::{nested, pins};
use crate::catalog::{Named, Root, Unit, UnitKey, UnitKind, by_hash_path};
use crate::formats::compress::Compression;
use crate::io::body::Body;
use crate::io::clock;
use crate::io::fetch::FetchError;
use crate::io::respond::{Representation, plain, respond, try_again};
use crate::model::{Blob, Expected, RepoPath};
use crate::roles::serve::http::reply::fetch_failed;
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::http::traffic::Kind;
use crate::roles::serve::packages::passthrough;
use crate::roles::serve::state::Server;

/// A client waits this long at most for a look at the origin before it gets the last good generation.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A client waits this long for a member that is not here yet, less than apt's and dnf's 30 s; the fetch continues.
const MEMBER_PATIENCE: Duration = Duration::from_secs(25);
/// When to ask again for what an update or an outage keeps back.
const WAIT_SECS: u64 = 5;
/// A member may be removed to make room between its coming and its being opened; not again and again.
const OPEN_TRIES: usize = 3;

/// Answers if the path is metadata of a unit, known or now found; `None` if it is something else.
pub async fn answer(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
) -> Option<Response<Body>> {
    let root_of = UnitKey::of_root(path, &repo.config.profile);
    let is_first = root_of.is_some() && pins::is_first(path);
    if let Some(key) = root_of.as_ref().filter(|_| is_first && asked.is_listed)
        && let Some(unit) = server.pins.promised(asked, repo, key)
        && let Some(root) = unit.roots.get(path)
    {
        server.pins.begin(asked, repo, &unit);
        return Some(root_response(server, path, &unit, root, asked));
    }
    if !is_first && let Some(unit) = server.pins.earlier(asked, repo, path) {
        if let Some(root) = unit.roots.get(path) {
            return Some(root_response(server, path, &unit, root, asked));
        }
        if let Some((canonical, expected)) = unit.member(path) {
            return Some(member_response(server, repo, path, &unit, &canonical, expected, asked).await);
        }
    }
    let looked = match &root_of {
        Some(key) => look(server, repo, key, path).await,
        None if !is_named(repo, path) => find_unit(server, repo, path).await,
        None => Looked::Current,
    };
    match (Found::of(repo, path), root_of) {
        (Found::Root { unit, root }, _) => {
            if is_first {
                server.pins.begin(asked, repo, &unit);
            }
            Some(root_response(server, path, &unit, &root, asked))
        }
        (Found::Member { unit, path: canonical, expected }, _) => {
            Some(member_response(server, repo, path, &unit, &canonical, expected, asked).await)
        }
        (Found::Package(expected), _) => {
            let named = repo.snapshot().find_package(path.as_str()).unwrap_or(expected.into());
            Some(crate::roles::serve::packages::package::answer(server, repo, path, named, asked).await)
        }
        // A tree's root file that was not adopted is not shown either: its generation is not whole. Checksum
        // files that cannot be read stand for themselves.
        (Found::Nothing, Some(key)) if repo.tree().is_none() || key.kind != UnitKind::Checksums => {
            Some(absent(repo, &key, looked))
        }
        (Found::Nothing, _) => {
            let named = nested::answer(server, repo, path, asked).await;
            // Whatever the origin has under this name, nothing could say whether it is right.
            named.or_else(|| no_unit(repo, looked))
        }
    }
}

/// What the snapshot says of a path, without borrowing it over an await.
enum Found {
    Root { unit: Arc<Unit>, root: Root },
    Member { unit: Arc<Unit>, path: RepoPath, expected: Expected },
    Package(Expected),
    Nothing,
}

impl Found {
    fn of(repo: &Repo, path: &RepoPath) -> Self {
        match repo.snapshot().resolve(path) {
            Named::Root { unit, root } => Self::Root { unit: unit.clone(), root: root.clone() },
            Named::Member { unit, path, expected } => {
                Self::Member { unit: unit.clone(), path: path.clone(), expected }
            }
            Named::Package { expected } => Self::Package(expected),
            Named::Unlisted { .. } | Named::Unknown => Self::Nothing,
        }
    }
}

/// A root file was asked for: is it still the newest?
async fn look(server: &Arc<Server>, repo: &Repo, key: &UnitKey, path: &RepoPath) -> Looked {
    if key.kind != UnitKind::Checksums || repo.tree().is_some() {
        return refresh::refresh_within(server, repo, key, repo.fresh_for(), PATIENCE).await;
    }
    // Checksum files have names that nobody lists: each is tried once, then remembered for some minutes.
    let is_root = || repo.snapshot().unit(key).is_some_and(|unit| unit.roots.contains_key(path));
    let name = format!("{}/{path}", repo.config.name);
    let is_new = !is_root() && server.has_own_file.get(&name) != Some(false);
    let max_age = if is_new { Duration::ZERO } else { repo.fresh_for() };
    if is_new {
        repo.with_unit(key, |state| state.learned.insert(path.file_name().to_owned()));
    }
    let looked = refresh::refresh_within(server, repo, key, max_age, PATIENCE).await;
    if is_new && !is_root() {
        repo.with_unit(key, |state| state.learned.remove(path.file_name()));
        if matches!(looked, Looked::Current | Looked::Missing) {
            server.has_own_file.insert(name, false);
        }
    }
    looked
}

/// No unit names the path: perhaps it belongs to one that nobody asked for yet. [`Looked::Passing`] or
/// [`Looked::Refused`] if there may be one and it cannot be read now.
async fn find_unit(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> Looked {
    let profile = &repo.config.profile;
    let mut candidates = UnitKey::candidates(path, profile.layout);
    // A flat repository's files may have any names: its directory must be known beforehand.
    let suites = profile.suites.iter().map(|suite| UnitKey::of_suite(suite, profile.layout));
    candidates.extend(suites.filter(|key| key.kind == UnitKind::Flat && is_in(path, &key.dir)));
    if candidates.is_empty() && !profile.is_package_name(path.file_name()) {
        let dir = path.parent().unwrap_or("").to_owned();
        candidates.push(UnitKey { kind: UnitKind::Checksums, dir });
        // An rpm-md repository's treeinfo is beside its `repodata/`, above the boot files that it lists.
        let above = |dir: &String| is_in(path, dir);
        let units: Vec<UnitKey> = repo.snapshot().units().map(|unit| unit.key.clone()).collect();
        let dirs = units.into_iter().filter(|key| key.kind == UnitKind::RpmMd).map(|key| key.dir);
        candidates.extend(dirs.filter(above).map(|dir| UnitKey { kind: UnitKind::Checksums, dir }));
    }
    let mut found = Looked::Missing;
    for key in candidates {
        let is_loaded = repo.snapshot().unit(&key).is_some();
        let looked = || refresh::refresh_within(server, repo, &key, Duration::from_secs(60), PATIENCE);
        if is_loaded {
            return Looked::Current;
        }
        match looked().await {
            Looked::Current => return Looked::Current,
            // Checksum files are guesses: most directories have none.
            failed @ (Looked::Passing | Looked::Down | Looked::Refused)
                if key.kind != UnitKind::Checksums =>
            {
                found = failed
            }
            Looked::Passing | Looked::Down | Looked::Refused | Looked::Missing => {}
        }
    }
    found
}

fn is_in(path: &RepoPath, dir: &str) -> bool {
    dir.is_empty() || path.as_str().strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// A root file that cannot be served: 404 only if it does not exist, as far as anyone knows.
pub fn absent(repo: &Repo, key: &UnitKey, looked: Looked) -> Response<Body> {
    let answer = if repo.snapshot().unit(key).is_some() { None } else { no_unit(repo, looked) };
    answer.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "the origin has no such file"))
}

/// The answer where a unit cannot be read. Clients that get 503 wait and repeat: it is said only where that helps.
fn no_unit(repo: &Repo, looked: Looked) -> Option<Response<Body>> {
    match looked {
        Looked::Current | Looked::Missing => None,
        Looked::Passing => Some(try_again(
            "the origin does not answer or is being updated, and there is no earlier generation; try again",
            WAIT_SECS,
        )),
        Looked::Down => Some(plain(
            StatusCode::BAD_GATEWAY,
            "the origin does not answer, and there is no earlier generation; the server's log says why",
        )),
        Looked::Refused => Some(plain(
            repo.status_of_damage(),
            "the origin has no usable metadata here, and there is no earlier generation; the server's log says why",
        )),
    }
}

fn root_response(
    server: &Server,
    path: &RepoPath,
    unit: &Unit,
    root: &Root,
    asked: &Asked,
) -> Response<Body> {
    let what = Representation::of_metadata(root.blob, path.file_name(), unit.modified());
    let response = respond(&asked.method, &asked.headers, &what, Body::slices(root.bytes.clone()));
    response.map(|body| server.traffic.count(Kind::Metadata, body))
}

/// A file of a generation, named as `path` and asked for as that or by hash.
pub async fn member_response(
    server: &Arc<Server>,
    repo: &Repo,
    asked_path: &RepoPath,
    unit: &Arc<Unit>,
    path: &RepoPath,
    expected: Expected,
    asked: &Asked,
) -> Response<Body> {
    let (blob, file) = match open_member(server, repo, unit, path, expected).await {
        Ok(found) => found,
        // A full disk is no reason for clients to go without.
        Err(FetchError::Store(e)) if repo.tree().is_none() => {
            tracing::debug!(path = path.as_str(), error = e, "passing through without keeping");
            let by_hash = by_hash_path(path, &expected).filter(|_| unit.has_by_hash);
            let path = by_hash.as_ref().unwrap_or(path);
            return passthrough::pass_through(server, repo, path, asked, Kind::Metadata).await;
        }
        Err(e) => {
            // Release files list uncompressed members that archives do not keep: no reason to alarm anyone.
            tracing::debug!(path = path.as_str(), error = %e, "a member is unavailable");
            return fetch_failed(repo, &e);
        }
    };
    if unit.members.get(path.as_str()).is_some() {
        repo.note_asked(unit, path, clock::now().as_secs());
    }
    let (stem, _) = Compression::strip(path.as_str());
    let is_index = matches!(stem.rsplit('/').next(), Some("Packages" | "Sources"));
    if is_index && !unit.stems.contains(stem) {
        refresh::learn(server, repo, unit, stem).await;
    }
    let is_by_hash = asked_path != path;
    let name = path.file_name();
    let what = if is_by_hash {
        Representation::of_blob(blob, name, None)
    } else {
        Representation::of_metadata(blob, name, unit.modified())
    };
    let (file, store) = (Arc::new(file), server.metadata.store.clone());
    let open = move |part| {
        let store = store.clone();
        Body::file(file.clone(), part, None).watched(move |e| store.read_failed(blob.id, e))
    };
    let response = respond(&asked.method, &asked.headers, &what, open);
    response.map(|body| server.traffic.count(Kind::Metadata, body))
}

/// A member of the generation, fetched if need be and open for reading.
async fn open_member(
    server: &Arc<Server>,
    repo: &Repo,
    unit: &Unit,
    path: &RepoPath,
    expected: Expected,
) -> Result<(Blob, File), FetchError> {
    let open = async {
        for _ in 0..OPEN_TRIES {
            let blob = refresh::fetch_member(server, repo, path, expected, unit.has_by_hash).await?;
            if let Some((file, _)) = server.metadata.store.open_blob(blob.id) {
                return Ok((blob, file));
            }
        }
        Err(FetchError::Store("it is removed as soon as it arrives".to_owned()))
    };
    tokio::time::timeout(MEMBER_PATIENCE, open).await.unwrap_or(Err(FetchError::Late))
}
