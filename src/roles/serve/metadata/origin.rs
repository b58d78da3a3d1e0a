//! Where a repository's files come from: a local tree or upstreams, behind one set of questions.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

use super::repo::Repo;
use super::validator::Validator;
use crate::config::{Origin, Profile};
use crate::io::fetch::Source;
use crate::io::regular::{self, Fingerprint};
use crate::io::upstream::{self, Upstream, UpstreamError};
use crate::model::RepoPath;

/// Largest root file taken (InRelease, repomd.xml, checksum files): Debian's are 200 KB.
const MAX_ROOT: u64 = 32 << 20;
/// Directories visited when a tree is searched for units.
const MAX_DIRS: usize = 200_000;

/// A file of a local tree.
#[derive(Debug)]
pub struct TreeFile {
    /// Without symbolic links.
    pub path: PathBuf,
    pub file: File,
    pub size: u64,
    pub fingerprint: Fingerprint,
}

/// Why a root file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("{path}: {source}")]
    Tree { path: PathBuf, source: std::io::Error },
}

/// Opens a regular file of a tree. Symbolic links are followed as long as they stay inside. Blocks on the disk, but
/// on nothing else that may stand there.
pub fn open_in_tree(tree: &Path, path: &RepoPath) -> Option<TreeFile> {
    let tree = tree.canonicalize().ok()?;
    let real = tree.join(path.as_str()).canonicalize().ok()?;
    if !real.starts_with(&tree) {
        return None;
    }
    let (file, meta) = regular::open(&real).ok()?;
    // A folder on the way may have become a link since. Where there is no /proc, that is not looked at.
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if opened.is_ok_and(|opened| !opened.starts_with(&tree)) {
        return None;
    }
    let fingerprint = Fingerprint::of(&meta);
    Some(TreeFile { path: real, file, size: meta.len(), fingerprint })
}

/// Where to fetch a path from: by hash first where the archive offers it, at each upstream in turn.
pub fn source(repo: &Repo, path: &RepoPath, by_hash: Option<&RepoPath>) -> Source {
    let mut urls = Vec::new();
    for base in repo.upstreams() {
        urls.extend(
            by_hash.into_iter().chain([path]).map(|path| format!("{base}/{}", path.to_upstream_url())),
        );
    }
    Source { urls, label: format!("{}/{path}", repo.config.name), ..Source::default() }
}

/// How long none of the upstreams is to be asked, because they said so.
pub fn rest_left(upstream: &Upstream, repo: &Repo) -> Option<Duration> {
    let left: Option<Vec<Duration>> = repo.upstreams().iter().map(|base| upstream.rest_left(base)).collect();
    left?.into_iter().min()
}

/// A root file as the origin has it.
#[derive(Debug)]
pub enum RootRead {
    Missing,
    /// As it was when the validator was given.
    Unchanged,
    Bytes(Bytes, Option<Validator>),
}

/// Reads a root file, conditionally where a validator of the same upstream is at hand.
pub async fn read_root(
    origin: &Origin,
    upstream: &Upstream,
    base: usize,
    path: &RepoPath,
    validator: Option<&Validator>,
) -> Result<RootRead, OriginError> {
    match origin {
        Origin::Tree(tree) => {
            let (tree, path) = (tree.clone(), path.clone());
            let read = move || read_in_tree(&tree, &path);
            let found = tokio::task::spawn_blocking(read).await.unwrap_or(Ok(None))?;
            Ok(found.map_or(RootRead::Missing, |bytes| RootRead::Bytes(bytes, None)))
        }
        Origin::Upstream(bases) => {
            let base = &bases[base.min(bases.len() - 1)];
            let url = format!("{base}/{}", path.to_upstream_url());
            // Another upstream may have it at once; only without one is it worth waiting for this one.
            let has_others = bases.iter().any(|other| other != base && upstream.rest_left(other).is_none());
            read_upstream(upstream, &url, has_others, validator.filter(|validator| validator.url == url))
                .await
        }
    }
}

async fn read_upstream(
    upstream: &Upstream,
    url: &str,
    has_others: bool,
    validator: Option<&Validator>,
) -> Result<RootRead, OriginError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
    if let Some(validator) = validator {
        // RFC 9110 section 13.1.3: the date only counts without a tag.
        match (&validator.etag, &validator.modified) {
            (Some(etag), _) => headers.insert(header::IF_NONE_MATCH, etag.clone()),
            (None, Some(modified)) => headers.insert(header::IF_MODIFIED_SINCE, modified.clone()),
            (None, None) => None,
        };
    }
    let answer = if has_others {
        upstream.get(url, &headers).await
    } else {
        upstream.get_patiently(url, &headers).await
    };
    match answer {
        Ok(reply) if reply.status == StatusCode::NOT_MODIFIED && validator.is_some() => {
            Ok(RootRead::Unchanged)
        }
        Ok(reply) => {
            let validator = Validator::of(url, &reply.headers);
            Ok(RootRead::Bytes(upstream::whole(reply, MAX_ROOT).await?, validator))
        }
        Err(e) if e.is_not_found() => Ok(RootRead::Missing),
        Err(e) => Err(e.into()),
    }
}

fn read_in_tree(tree: &Path, path: &RepoPath) -> Result<Option<Bytes>, OriginError> {
    use std::io::Read;
    let Some(found) = open_in_tree(tree, path) else { return Ok(None) };
    let mut bytes = Vec::new();
    found
        .file
        .take(MAX_ROOT)
        .read_to_end(&mut bytes)
        .map_err(|source| OriginError::Tree { path: found.path, source })?;
    Ok(Some(bytes.into()))
}

/// Every root file below a tree, found by walking its directories. Blocks.
pub fn find_roots(tree: &Path, is_root: impl Fn(&RepoPath) -> bool) -> Vec<RepoPath> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    let mut visited = 0;
    while let Some(dir) = open.pop() {
        visited += 1;
        if visited > MAX_DIRS {
            tracing::warn!(tree = %tree.display(), MAX_DIRS, "the tree has more directories than the server searches");
            break;
        }
        let Ok(entries) = std::fs::read_dir(tree.join(&dir)) else { continue };
        for entry in entries.flatten() {
            let path = dir.join(entry.file_name());
            // Of links only those to files count: a link to a directory could lead in a circle.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && entry.file_name() != "by-hash" => open.push(path),
                Ok(kind) if kind.is_dir() => {}
                _ => found.extend(path.to_str().and_then(|p| RepoPath::new(p).ok()).filter(|p| is_root(p))),
            }
        }
    }
    found.sort();
    found
}

/// Names in one directory of a tree that are checksum files.
pub fn checksum_files_in(tree: &Path, dir: &str, profile: &Profile) -> Vec<RepoPath> {
    let Ok(entries) = std::fs::read_dir(tree.join(dir)) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<RepoPath> = names
        .filter(|name| profile.is_checksum_file(name))
        .filter_map(|name| RepoPath::new(&name).ok())
        .map(|name| name.under(dir))
        .collect();
    found.sort();
    found
}
