//! Files of upstreams that no metadata names. One is passed through as the upstream has it, and hashed on the way.
//! When it has come whole, it is kept, redirected and verified like a package, for as long as the upstream says that
//! it is the same: it is asked every few seconds while clients ask. Where it gives no dates, or its file is new,
//! nothing would tell a change, and the file is passed through each time.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode, header};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::http::Asked;
use super::learnt;
use super::origin::Validator;
use super::package::{self, Sought};
use super::repo::Repo;
use super::server::Server;
use crate::formats::conditions;
use crate::io::body::Body;
use crate::io::upstream::Reply;
use crate::model::{Blob, BlobId, Expected, RepoPath};

/// Memory for files: some 30,000.
const MEMORY: u64 = 16 << 20;
/// What a file takes besides its path, which it has twice, and its upstream's tag and date.
const RECORD: usize = 400;
/// For how long what an upstream has said of a file holds.
const HOLDS: Duration = Duration::from_secs(3);
/// How long an upstream may take to say so; after that the file is passed through.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub struct Passed(Cache<(usize, RepoPath), Arc<Record>>);

/// A file as it was passed through.
#[derive(Debug)]
struct Record {
    blob: Blob,
    /// `Last-Modified` as the upstream gave it.
    modified_secs: u64,
    validator: Validator,
    /// When the upstream was asked last, and whether it said that it is the same.
    asked: Mutex<(Instant, bool)>,
}

impl Default for Passed {
    fn default() -> Self {
        let weight = |(_, path): &(usize, RepoPath), _: &Arc<Record>| {
            u32::try_from(2 * path.as_str().len() + RECORD).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(MEMORY).weigher(weight);
        Self(cache.eviction_policy(EvictionPolicy::lru()).build())
    }
}

/// Answers like for a package, if the file is known and still the same; a redirect or bytes.
pub async fn answer(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
) -> Option<Response<Body>> {
    let record = server.learnt.passed.0.get(&(repo.index, path.clone()))?;
    // What it has of the file it has from the upstream, by whose tag it asks.
    if !learnt::tags_are(asked, record.blob.id) || !is_same(server, repo, path, &record).await {
        return None;
    }
    server.learnt.put(repo, path, record.blob);
    let asked = &Asked { modified_secs: Some(record.modified_secs), ..asked.clone() };
    let sought = Sought { repo, path, wanted: Expected::from(record.blob).into(), by_hash: true };
    if let Some(response) = package::elsewhere(server, &sought, record.blob, asked).await {
        return Some(response);
    }
    if is_part(asked) && server.packages.store.size_of(record.blob.id).is_none() {
        return None;
    }
    let response = package::here(server, &sought, Some(record.blob), asked).await;
    if response.status() == StatusCode::NOT_FOUND || response.status().is_server_error() {
        // It has changed in this moment, or cannot be had twice.
        forget(server, repo, path, record.blob.id);
        return None;
    }
    Some(response)
}

/// Whether a part is wanted, which the upstream gives sooner than the whole. Whoever goes on with a part that it has
/// from here asks by our tag.
fn is_part(asked: &Asked) -> bool {
    asked.headers.contains_key(header::RANGE) && !asked.headers.contains_key(header::IF_RANGE)
}

/// What a path has now, if that is known, and its date.
pub async fn known(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> Option<(Blob, u64)> {
    let record = server.learnt.passed.0.get(&(repo.index, path.clone()))?;
    let is_same = is_same(server, repo, path, &record).await;
    is_same.then(|| {
        server.learnt.put(repo, path, record.blob);
        (record.blob, record.modified_secs)
    })
}

/// Whether a path still has a blob that was passed through.
pub async fn still_has(server: &Arc<Server>, repo: &Repo, path: &RepoPath, id: BlobId) -> bool {
    let record = server.learnt.passed.0.get(&(repo.index, path.clone()));
    match record.filter(|record| record.blob.id == id) {
        Some(record) => is_same(server, repo, path, &record).await,
        None => false,
    }
}

async fn is_same(server: &Arc<Server>, repo: &Repo, path: &RepoPath, record: &Record) -> bool {
    // One asks for all who wait.
    let mut asked = record.asked.lock().await;
    let (at, was_same) = *asked;
    if at.elapsed() < HOLDS {
        return was_same;
    }
    let begun = Instant::now();
    let reply = tokio::time::timeout(PATIENCE, server.upstream.head(record.validator.url())).await;
    *asked = match reply {
        Ok(Ok(reply)) => {
            let is_same = record.validator.fits(&reply.headers)
                && reply.content_length().is_none_or(|length| length == record.blob.size);
            (begun, is_same)
        }
        Ok(Err(e)) if e.is_not_found() => (begun, false),
        // Whoever passes it through sees what is wrong. It may be the same again later.
        Ok(Err(_)) | Err(_) => {
            *asked = (Instant::now(), false);
            return false;
        }
    };
    if !asked.1 {
        forget(server, repo, path, record.blob.id);
    }
    asked.1
}

fn forget(server: &Server, repo: &Repo, path: &RepoPath, id: BlobId) {
    server.learnt.passed.0.invalidate(&(repo.index, path.clone()));
    if server.learnt.has(id, repo, path) {
        server.learnt.forget(id);
    }
}

/// Hashes a file that is passed through.
pub struct Learner {
    server: Arc<Server>,
    repo: usize,
    path: RepoPath,
    modified_secs: u64,
    validator: Validator,
    begun: Instant,
    size: u64,
    seen: u64,
    hasher: Sha256,
}

impl Learner {
    /// For a reply that is a whole file of which a change will be noticed.
    pub fn of(
        server: &Arc<Server>,
        repo: &Repo,
        path: &RepoPath,
        asked: &Asked,
        url: &str,
        reply: &Reply,
    ) -> Option<Self> {
        let size = reply.content_length()?;
        let is_whole = asked.method == Method::GET && reply.status == StatusCode::OK;
        if !is_whole || !may_be_kept(&reply.headers) || !learnt::may_be_elsewhere(server, repo, path, size) {
            return None;
        }
        let modified = reply.headers.get(header::LAST_MODIFIED)?.to_str().ok()?;
        Some(Self {
            server: server.clone(),
            repo: repo.index,
            path: path.clone(),
            modified_secs: conditions::date(modified)?,
            validator: Validator::of(url, &reply.headers)?,
            begun: Instant::now(),
            size,
            seen: 0,
            hasher: Sha256::new(),
        })
    }

    /// With the next bytes; none when all have come.
    pub fn updated(mut self, bytes: &[u8]) -> Option<Self> {
        self.hasher.update(bytes);
        self.seen += bytes.len() as u64;
        if self.seen < self.size {
            return Some(self);
        }
        self.finish();
        None
    }

    fn finish(self) {
        let Self { server, repo, path, modified_secs, validator, begun, size, seen, hasher } = self;
        if seen != size {
            return;
        }
        let blob = Blob { id: BlobId(hasher.finalize().into()), size };
        let record = Record { blob, modified_secs, validator, asked: Mutex::new((begun, true)) };
        server.learnt.put(&server.repos[repo], &path, blob);
        server.learnt.passed.0.insert((repo, path), Arc::new(record));
        server.place(blob);
    }
}

/// Whether a reply is a file as it is, and for everybody.
fn may_be_kept(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map_or("", |value| value.to_str().unwrap_or(""));
    let is_private = ["no-store", "private"].iter().any(|word| text(header::CACHE_CONTROL).contains(word));
    let is_weak = text(header::ETAG).starts_with("W/");
    !is_private && !is_weak && !headers.contains_key(header::CONTENT_ENCODING)
}
