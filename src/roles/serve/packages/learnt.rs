//! Files of local trees that no list of packages has: images, keys, a README, deltas, what symbolic links lead to.
//! One is read in the background when it is first asked for, and sent as it is meanwhile. Once its digest is known it
//! is redirected like a package, for as long as nothing has touched it: that is looked at with every request.
//!
//! Volunteers ask for bytes by their hash, and no catalog says where these are: the places of those that were asked
//! for recently are kept here. Whoever comes by hash is only given what still has it.
//!
//! A file that has other bytes than when it was read first, though nothing has touched it, is not served any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode, header};

use super::package::{self, Sought};
use super::{passed, representation, tree};
use crate::catalog::UnitKey;
use crate::formats::compress::Compression;
use crate::formats::conditions::Modified;
use crate::io::body::Body;
use crate::io::db::DbError;
use crate::io::regular::Fingerprint;
use crate::io::respond::{Representation, plain, respond};
use crate::io::tree_hashes::{Known, Opened};
use crate::model::{Blob, BlobId, Expected, RepoPath};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::http::traffic::Kind;
use crate::roles::serve::metadata::nested;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;
use crate::roles::serve::volunteers::dispatch;

/// How long the places of before the start wait for the metadata, which says what is not among them.
const WARM_PATIENCE: Duration = Duration::from_secs(600);
/// Files looked at in one step when they are recalled.
const STEP: usize = 1000;
const STEP_PAUSE: Duration = Duration::from_millis(10);
/// Below `dists/` there is metadata, but for what is in such folders: boot files and upgraders.
const BESIDE_METADATA: [&str; 4] = ["installer-", "dist-upgrader-", "uefi", "signed"];
/// Lists whose generation does not name them. Compressed or not.
const LISTS: [&str; 4] = ["Packages", "Sources", "Release", "InRelease"];
const LISTS_BEGIN: [&str; 2] = ["Contents-", "Translation-"];

/// Answers with a file of the repository's tree that no metadata names.
pub async fn answer(server: &Arc<Server>, repo: &Repo, path: &RepoPath, asked: &Asked) -> Response<Body> {
    let Some((opened, known)) = tree::open(server, repo, path).await else {
        return plain(StatusCode::NOT_FOUND, "no such file");
    };
    if server.learnt.withdrawn.has(&opened.path, &opened.fingerprint) {
        return plain(repo.status_of_damage(), "the tree's file was altered");
    }
    if !may_be_elsewhere(server, repo, path, opened.fingerprint.size) {
        return as_it_is(server, path, opened, asked);
    }
    match known {
        // Whoever has its tag of before goes on with that.
        Some(known) if tags_are(asked, blob_of(&known).id) => {
            answer_known(server, repo, path, opened, &known, asked).await
        }
        Some(_) => as_it_is(server, path, opened, asked),
        None => {
            // Who only looks is no reason to read gigabytes.
            if asked.method == Method::GET {
                learn(server, repo, path, &opened);
            }
            as_it_is(server, path, opened, asked)
        }
    }
}

/// Notes where a file is that no list of packages has, but an index among the metadata, so that volunteers can be
/// told to fetch it.
pub async fn note(server: &Server, repo: &Repo, path: &RepoPath, expected: &Expected) {
    if let Some(blob) = package::known_blob(server, repo, path, expected).await {
        server.learnt.put_large(repo, path, blob);
    }
}

/// Whether a place that only is known from here can have the blob still. Trees are looked at when they are read.
pub async fn may_have(server: &Arc<Server>, repo: &Repo, path: &RepoPath, id: BlobId) -> bool {
    if !server.learnt.has(id, repo, path) {
        return false;
    }
    if repo.tree().is_some() || server.packages.store.size_of(id).is_some() {
        return true;
    }
    if passed::still_has(server, repo, path, id).await {
        return true;
    }
    let named = nested::expected(server, repo, path).await;
    let is_named = named.is_some_and(|named| server.packages.resolve(&named) == Some(id));
    if !is_named {
        server.learnt.forget(id);
    }
    is_named
}

/// Whether the entity tags that a request names, if any, are those of a blob.
pub fn tags_are(asked: &Asked, id: BlobId) -> bool {
    let names = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_RANGE];
    let mut tags = names.into_iter().filter_map(|name| asked.header(name)).filter(|tags| tags.contains('"'));
    tags.all(|tags| tags.contains(&id.etag()))
}

/// What is known about a file that no metadata names, and its date.
pub async fn known(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> Option<(Blob, u64)> {
    if repo.tree().is_none() {
        return passed::known(server, repo, path).await;
    }
    let (opened, known) = tree::open(server, repo, path).await?;
    let blob = blob_of(&known?);
    let is_wrong = server.learnt.withdrawn.has(&opened.path, &opened.fingerprint);
    (!is_wrong && may_be_elsewhere(server, repo, path, blob.size)).then(|| {
        server.learnt.put(repo, path, blob);
        (blob, modified_secs(&opened))
    })
}

async fn answer_known(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    opened: Opened,
    known: &Known,
    asked: &Asked,
) -> Response<Body> {
    let blob = blob_of(known);
    server.learnt.put(repo, path, blob);
    // The tree's date, here and at every volunteer.
    let asked = &Asked { modified_secs: Some(modified_secs(&opened)), ..asked.clone() };
    let sought = Sought { repo, path, wanted: Expected::from(blob).into(), by_hash: true };
    if let Some(response) = package::elsewhere(server, &sought, blob, asked).await {
        return response;
    }
    if asked.method == Method::GET {
        package::serves(server, Some(blob), asked).await;
    }
    let what = representation::of_blob(server, repo, path, &blob.into(), blob, asked);
    let what = Representation { must_revalidate: true, ..what };
    let response = respond(&asked.method, &asked.headers, &what, move |part| opened.body(part));
    response.map(|body| server.traffic.count(asked.kind, body))
}

fn as_it_is(server: &Arc<Server>, path: &RepoPath, opened: Opened, asked: &Asked) -> Response<Body> {
    let what = Representation {
        modified: Modified::at(modified_secs(&opened)),
        must_revalidate: true,
        ..Representation::unhashed(stand_in(&opened), opened.fingerprint.size, path.file_name())
    };
    let open = move |part| Body::file(opened.file.clone(), part, None);
    let response = respond(&asked.method, &asked.headers, &what, open);
    response.map(|body| server.traffic.count(Kind::Passed, body))
}

/// A stand-in for the digest of a file that nobody hashed: changes when the file does.
fn stand_in(opened: &Opened) -> BlobId {
    let Opened { path, fingerprint, .. } = opened;
    let text = format!("{} {} {}", path.display(), fingerprint.size, fingerprint.modified);
    crate::catalog::Root::new(text.into()).blob.id
}

fn blob_of(known: &Known) -> Blob {
    Blob { id: BlobId(known.digests.sha256), size: known.fingerprint.size }
}

fn modified_secs(opened: &Opened) -> u64 {
    u64::try_from(opened.fingerprint.modified / 1_000_000_000).unwrap_or(0)
}

/// Reads a file for the next who asks, unless others are being read.
fn learn(server: &Arc<Server>, repo: &Repo, path: &RepoPath, opened: &Opened) {
    let Ok(turn) = server.learnt.readings.clone().try_acquire_owned() else { return };
    let reading = match server.trees.read(opened) {
        Ok(reading) if reading.is_new => reading,
        _ => return,
    };
    let (server, index, path) = (server.clone(), repo.index, path.clone());
    tokio::spawn(async move {
        // What cannot be read is told to whoever asks for it.
        if let Ok(known) = reading.finished().await {
            let blob = blob_of(&known);
            server.learnt.put(&server.repos[index], &path, blob);
            dispatch::place(&server, blob);
        }
        drop(turn);
    });
}

/// Whether volunteers may serve a file that no list of packages has.
pub fn may_be_elsewhere(server: &Server, repo: &Repo, path: &RepoPath, size: u64) -> bool {
    size >= server.learnt.smallest && !is_metadata(repo, path)
}

/// Whether a path is metadata, though the adopted generation does not name it: that never comes from a volunteer.
fn is_metadata(repo: &Repo, path: &RepoPath) -> bool {
    let profile = &repo.config.profile;
    let (stem, _) = Compression::strip(path.file_name());
    let is_list = LISTS.contains(&stem) || LISTS_BEGIN.iter().any(|begin| stem.starts_with(begin));
    let is_beside = |part: &str| BESIDE_METADATA.iter().any(|begin| part.starts_with(begin));
    is_list
        || profile.is_checksum_file(path.file_name())
        || UnitKey::of_root(path, profile).is_some()
        || (!UnitKey::candidates(path, profile.layout).is_empty() && !path.as_str().split('/').any(is_beside))
}

/// Finds the places again that were known before the start, so that volunteers' copies of them stay worth something.
pub async fn recall(server: Arc<Server>) {
    for repo in server.repos.iter().filter(|repo| repo.tree().is_some()) {
        repo.wait_warm(WARM_PATIENCE).await;
    }
    let (mut last, mut files) = (None, 0);
    loop {
        let own = server.clone();
        match tokio::task::spawn_blocking(move || recall_step(&own, last.as_deref())).await {
            Ok(Ok((Some(file), found))) => (last, files) = (Some(file), files + found),
            Ok(Ok((None, _))) => break,
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "cannot load what was known of files that no metadata names");
                break;
            }
            Err(_) => break,
        }
        // There can be millions, and nobody waits for them.
        tokio::time::sleep(STEP_PAUSE).await;
    }
    tracing::debug!(files, "loaded files of local trees that no metadata names");
}

/// Looks at the next files that were ever read, and returns the last of them and how many are to be found again.
fn recall_step(server: &Server, last: Option<&Path>) -> Result<(Option<PathBuf>, usize), DbError> {
    let Step { last, files } = unnamed_after(server, last)?;
    let mut found = 0;
    for Unnamed { repo, path, file, fingerprint } in &files {
        if !server.learnt.withdrawn.has(file, fingerprint)
            && let Some((_, id)) = server.db.tree_file(file)?
        {
            server.learnt.put(&server.repos[*repo], path, Blob { id, size: fingerprint.size });
            found += 1;
        }
    }
    Ok((last, found))
}

/// A file of a tree that was read and that no metadata names.
#[derive(Debug)]
pub struct Unnamed {
    /// The repository's number.
    pub repo: usize,
    pub path: RepoPath,
    pub file: PathBuf,
    pub fingerprint: Fingerprint,
}

/// Some of all files that were ever read.
#[derive(Debug, Default)]
pub struct Step {
    /// The last that was looked at; none at the end.
    pub last: Option<PathBuf>,
    pub files: Vec<Unnamed>,
}

/// Looks at the next files that were ever read, in the order of their paths. Blocks.
pub fn unnamed_after(server: &Server, last: Option<&Path>) -> Result<Step, DbError> {
    let trees: Vec<(PathBuf, &Repo)> =
        server.repos.iter().filter_map(|repo| Some((repo.tree()?.canonicalize().ok()?, repo))).collect();
    let mut step = Step::default();
    for (file, fingerprint) in server.db.tree_files_after(last, STEP)? {
        for (tree, repo) in &trees {
            let path = file.strip_prefix(tree).ok().and_then(|path| RepoPath::new(path.to_str()?).ok());
            let Some(path) = path else { continue };
            let is_named = repo.snapshot().find_package(path.as_str()).is_some();
            if !is_named && may_be_elsewhere(server, repo, &path, fingerprint.size) {
                step.files.push(Unnamed { repo: repo.index, path, file: file.clone(), fingerprint });
            }
        }
        step.last = Some(file);
    }
    Ok(step)
}
