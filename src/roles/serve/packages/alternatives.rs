//! Which of several files a path means. Suites that share a pool can name one path with different digests, when
//! one of them is stale; an origin that is being changed can have the file of an older generation still.
//!
//! Only the origin can tell, so it is asked: a fetch takes whichever of the files it gives. What it turned out to
//! be is remembered for a while, and served like any other package. A client whose suite names another file gets
//! what it would get from the origin itself, and finds the mismatch.

use std::sync::Arc;

use super::package::{self, Sought};
use super::tree;
use crate::catalog::Package;
use crate::io::fetch::{Content, FetchError, Flight};
use crate::model::{Alternatives, BlobId, Expected, RepoPath};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// What the file of a path may be: one thing, unless current suites disagree and nobody knows yet which is right.
pub async fn of_path(server: &Arc<Server>, repo: &Repo, path: &RepoPath, package: Package) -> Alternatives {
    if !package.is_disputed {
        return package.expected.into();
    }
    let all = all(server, repo, path).unwrap_or_else(|| package.expected.into());
    if all.only().is_some() {
        return all;
    }
    let known = match repo.tree() {
        Some(_) => tree::known(server, repo, path, &all).await,
        None => server.settled.get(repo, path, &all),
    };
    known.map_or(all, Alternatives::from)
}

/// Everything that metadata says of a path, each file once.
pub fn all(server: &Server, repo: &Repo, path: &RepoPath) -> Option<Alternatives> {
    let all = repo.snapshot().alternatives(path.as_str())?;
    let mut seen: Vec<BlobId> = Vec::new();
    all.filtered(|expected| match server.packages.resolve(expected) {
        // One suite has SHA-512 and the other SHA-256 of the same bytes.
        Some(id) if seen.contains(&id) => false,
        Some(id) => {
            seen.push(id);
            true
        }
        None => true,
    })
}

/// The bytes of a package of upstreams: held, or on their way. Returns what they may turn out to be.
pub fn content(server: &Arc<Server>, sought: &Sought<'_>) -> Result<(Content, Alternatives), FetchError> {
    let Sought { repo, path, wanted, by_hash } = sought;
    if let Some(content) = wanted.only().and_then(|expected| server.packages.held(&expected)) {
        return Ok((content, wanted.clone()));
    }
    let all = if *by_hash { None } else { all(server, repo, path) };
    let mut wanted = match all {
        Some(all) => match server.settled.get(repo, path, &all) {
            Some(settled) => settled.into(),
            None => all,
        },
        None => wanted.clone(),
    };
    let first = wanted.first();
    let source = package::sources(server, repo, path, &first);
    // One mirror that lags must not give the old file while another has the new one.
    let is_disputed = sought.wanted.only().is_none();
    if !is_disputed && source.urls.len() > 1 && !server.packages.is_bad_everywhere(first, &source) {
        wanted = first.into();
    }
    let content = server.packages.get(wanted.clone(), source)?;
    if let (Content::Arriving(flight), None) = (&content, wanted.only()) {
        tokio::spawn(settle(server.clone(), repo.index, (*path).clone(), wanted.clone(), flight.clone()));
    }
    Ok((content, wanted))
}

/// Remembers what a fetch brought.
async fn settle(server: Arc<Server>, repo: usize, path: RepoPath, all: Alternatives, flight: Flight) {
    let settled = match flight.finished().await {
        Ok((_, blob)) => {
            let digests = server.db.digests(blob.id).ok().flatten();
            let by_digests = digests.and_then(|digests| all.matching(&digests, blob.size));
            by_digests.or_else(|| all.iter().find(|expected| expected.blob_id() == Some(blob.id)).copied())
        }
        // Its own trouble says nothing of the origin.
        Err(FetchError::Store(_) | FetchError::Late) => None,
        // What is held has to do while the origin gives nothing.
        Err(_) => newest_held(&server, &all).map(|(expected, _)| expected),
    };
    if let Some(expected) = settled {
        server.settled.put(&server.repos[repo], &path, expected);
    }
}

/// The first that is held.
pub fn newest_held(server: &Server, all: &Alternatives) -> Option<(Expected, Content)> {
    all.iter().find_map(|expected| Some((*expected, server.packages.held(expected)?)))
}

/// Whether metadata has something else to say of a path that will do.
pub fn has_others(server: &Server, sought: &Sought<'_>) -> bool {
    let all = if sought.by_hash { None } else { all(server, sought.repo, sought.path) };
    all.is_some_and(|all| all.only().is_none())
}
