//! Lists that nothing proves, because only MD5 names them, or nothing: clients take them, so they are read here, too.
//!
//! What was read is kept under its SHA-256, so that clients get what the generation was made of. Nothing else is made
//! of MD5: a file that it does not fit is refused, as clients do; one that it fits is only what the origin gave.

use std::io::Read;
use std::sync::Arc;

use http::header::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::complete::MAX_LIST;
use crate::catalog::Unproven;
use crate::io::fetch::FetchError;
use crate::io::upstream;
use crate::model::{Blob, BlobId, RepoPath};
use crate::roles::serve::metadata::origin;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// Into the metadata store, from the first origin that gives what clients take.
pub async fn fetch(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    wanted: Unproven,
) -> Result<Blob, FetchError> {
    if repo.tree().is_some() {
        let (bytes, file) = read_in_tree(repo, path).await?;
        return keep(server, bytes, wanted).await?.ok_or_else(|| wrong(file));
    }
    let mut last = FetchError::NotFound;
    for url in origin::source(repo, path, None).urls {
        let reply = match server.upstream.get(&url, &HeaderMap::new()).await {
            Ok(reply) => reply,
            // One upstream's "not found" does not hide another's failure.
            Err(e) if e.is_not_found() => continue,
            Err(e) => {
                last = FetchError::Upstream(e);
                continue;
            }
        };
        let limit = wanted.size.map_or(MAX_LIST, |size| size.min(MAX_LIST));
        match upstream::whole(reply, limit).await {
            Ok(bytes) => match keep(server, bytes.into(), wanted).await? {
                Some(blob) => return Ok(blob),
                None => last = wrong(url),
            },
            Err(e) => last = FetchError::Upstream(e),
        }
    }
    Err(last)
}

/// The bytes of a tree's file, and where that is.
async fn read_in_tree(repo: &Repo, path: &RepoPath) -> Result<(Vec<u8>, String), FetchError> {
    let Some(tree) = repo.tree().map(ToOwned::to_owned) else { return Err(FetchError::NotFound) };
    let path = path.clone();
    let read = move || {
        let found = origin::open_in_tree(&tree, &path).ok_or(FetchError::NotFound)?;
        let mut bytes = Vec::new();
        let read = found.file.take(MAX_LIST).read_to_end(&mut bytes);
        read.map_err(|e| FetchError::Store(e.to_string()))?;
        Ok((bytes, found.path.display().to_string()))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(FetchError::Store(e.to_string())))
}

fn wrong(url: String) -> FetchError {
    FetchError::Wrong { url, problem: "it does not match the metadata".to_owned() }
}

/// Keeps bytes that clients would take; none else.
async fn keep(server: &Arc<Server>, bytes: Vec<u8>, wanted: Unproven) -> Result<Option<Blob>, FetchError> {
    let fetcher = server.metadata.clone();
    let keep = move || {
        if !wanted.is(&bytes) {
            return Ok(None);
        }
        let blob = Blob { id: BlobId(Sha256::digest(&bytes).into()), size: bytes.len() as u64 };
        fetcher.keep(blob, &bytes).map_err(|e| FetchError::Store(e.to_string()))?;
        Ok(Some(blob))
    };
    tokio::task::spawn_blocking(keep).await.unwrap_or_else(|e| Err(FetchError::Store(e.to_string())))
}
