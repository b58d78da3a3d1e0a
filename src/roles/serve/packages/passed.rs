//! Files of upstreams that no metadata names. One is passed through as the upstream has it, and hashed on the way.
//! When it has come whole, it is kept, redirected and verified like a package, for as long as the upstream says that
//! it is the same: it is asked every few seconds while clients ask. While it does not answer, what the cache has is given.
//! Where it gives no dates, or its file is new, nothing would tell a change, and the file is passed through each time.
//!
//! What is known is written down every few seconds, so that a restart forgets none of it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::learnt;
use super::package::{self, Sought};
use super::passed_files::{Passed, Record, Said};
use crate::formats::conditions;
use crate::io::body::Body;
use crate::io::db::DbError;
use crate::io::upstream::{Reply, UpstreamError};
use crate::model::{Blob, BlobId, Expected, RepoPath};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::metadata::validator::Validator;
use crate::roles::serve::state::Server;
use crate::roles::serve::volunteers::dispatch;

/// For how long what an upstream has said of a file holds.
const HOLDS: Duration = Duration::from_secs(3);
/// How long an upstream may take to say so; after that the file is passed through.
const PATIENCE: Duration = Duration::from_secs(2);
/// Changes kept to be written later, while the database takes none.
const MAX_UNWRITTEN: usize = 10_000;
/// How often what has changed is written down: what a crash forgets is passed through and learnt again.
const SAVE_PERIOD: Duration = Duration::from_secs(5);
/// Kind of the database's records of files.
const KIND: &str = "passed-1";

/// What the database keeps of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    repo: String,
    path: String,
    id: BlobId,
    size: u64,
    modified_secs: u64,
    url: String,
    etag: Option<String>,
    modified: Option<String>,
}

/// Brings back what was known before the start, of upstreams that still are. Blocks.
pub fn restore(server: &Server) -> Result<(), DbError> {
    let mut gone = Vec::new();
    for (name, json) in server.db.records(KIND)? {
        let read = serde_json::from_slice(&json).ok().and_then(|written| read(server, written));
        let Some((repo, path, record)) = read else {
            gone.push(name);
            continue;
        };
        server.learnt.put(repo, &path, record.blob);
        server.learnt.passed.files.insert((repo.index, path), Arc::new(record));
    }
    match gone.is_empty() {
        true => Ok(()),
        false => server.db.put_records(KIND, gone.iter().map(|name| (name.as_str(), None))),
    }
}

fn read(server: &Server, written: Written) -> Option<(&Repo, RepoPath, Record)> {
    let Written { repo, path, id, size, modified_secs, url, etag, modified } = written;
    let (repo, path) = (server.repo(&repo)?, RepoPath::new(&path).ok()?);
    let is_there = |base: &String| url.strip_prefix(base.as_str()).is_some_and(|rest| rest.starts_with('/'));
    if !repo.upstreams().iter().any(is_there) {
        return None;
    }
    let validator = Validator::read(url, [etag.as_deref(), modified.as_deref()])?;
    let asked = tokio::sync::Mutex::default();
    Some((repo, path, Record { blob: Blob { id, size }, modified_secs, validator, asked }))
}

/// Writes down what has changed every few seconds; ends with the process.
pub async fn keep(server: Arc<Server>) {
    loop {
        tokio::time::sleep(SAVE_PERIOD).await;
        save_now(&server).await;
    }
}

/// Writes down what has changed since the last time.
pub async fn save_now(server: &Arc<Server>) {
    let server = server.clone();
    // It is only ended by the end of the program.
    let _ = tokio::task::spawn_blocking(move || save(&server)).await;
}

/// The same at once. Blocks.
pub fn save(server: &Server) {
    let Passed { files, changed } = &server.learnt.passed;
    if server.db.is_closed() {
        return;
    }
    let taken = std::mem::take(&mut *changed.lock().unwrap_or_else(PoisonError::into_inner));
    if taken.is_empty() {
        return;
    }
    let records: Vec<(String, Option<Vec<u8>>)> = taken
        .iter()
        .map(|place| {
            let (repo, path) = (server.repos[place.0].config.name.as_str(), &place.1);
            let written = files.get(place).map(|record| record.written(repo, path));
            (format!("{repo} {path}"), written.and_then(|written| serde_json::to_vec(&written).ok()))
        })
        .collect();
    let records = records.iter().map(|(name, json)| (name.as_str(), json.clone()));
    if let Err(e) = server.db.put_records(KIND, records) {
        tracing::warn!(error = %e, "cannot save what is known of upstreams' files that no metadata names");
        let mut changed = changed.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_UNWRITTEN.saturating_sub(changed.len());
        changed.extend(taken.into_iter().take(room));
    }
}

impl Record {
    fn written(&self, repo: &str, path: &RepoPath) -> Written {
        let [etag, modified] = self.validator.written().map(|text| text.map(str::to_owned));
        Written {
            repo: repo.to_owned(),
            path: path.to_string(),
            id: self.blob.id,
            size: self.blob.size,
            modified_secs: self.modified_secs,
            url: self.validator.url().to_owned(),
            etag,
            modified,
        }
    }
}

/// Answers like for a package, if the file is known and still the same; a redirect or bytes.
pub async fn answer(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
) -> Option<Response<Body>> {
    let record = server.learnt.passed.get(repo, path)?;
    // What it has of the file it has from the upstream, by whose tag it asks.
    if !learnt::tags_are(asked, record.blob.id) || !is_good(server, repo, path, &record).await {
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

/// Whether a part is wanted, which the upstream gives sooner than the whole. Whoever continues with a part that it has
/// from here asks by our tag.
fn is_part(asked: &Asked) -> bool {
    asked.headers.contains_key(header::RANGE) && !asked.headers.contains_key(header::IF_RANGE)
}

/// What a path has now, if that is known, and its date.
pub async fn known(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> Option<(Blob, u64)> {
    let record = server.learnt.passed.get(repo, path)?;
    is_good(server, repo, path, &record).await.then(|| {
        server.learnt.put(repo, path, record.blob);
        (record.blob, record.modified_secs)
    })
}

/// Whether a path still has a blob that was passed through.
pub async fn still_has(server: &Arc<Server>, repo: &Repo, path: &RepoPath, id: BlobId) -> bool {
    match server.learnt.passed.get(repo, path).filter(|record| record.blob.id == id) {
        Some(record) => is_good(server, repo, path, &record).await,
        None => false,
    }
}

/// Whether a file may be given as it is known: it is the same, or nothing says that it is not and the cache has it.
async fn is_good(server: &Arc<Server>, repo: &Repo, path: &RepoPath, record: &Record) -> bool {
    match ask(server, repo, path, record).await {
        Said::Same => true,
        Said::Other => false,
        Said::Nothing => server.packages.store.size_of(record.blob.id).is_some(),
    }
}

async fn ask(server: &Arc<Server>, repo: &Repo, path: &RepoPath, record: &Record) -> Said {
    // One asks for all who wait.
    let mut asked = record.asked.lock().await;
    if let Some((at, said)) = *asked
        && at.elapsed() < HOLDS
    {
        return said;
    }
    let begun = Instant::now();
    let reply = tokio::time::timeout(PATIENCE, server.upstream.head(record.validator.url())).await;
    let (at, said) = match reply {
        Ok(Ok(reply)) => {
            let is_same = record.validator.fits(&reply.headers)
                && reply.content_length().is_none_or(|length| length == record.blob.size);
            (begun, if is_same { Said::Same } else { Said::Other })
        }
        Ok(Err(e)) if e.is_not_found() => (begun, Said::Other),
        Ok(Err(e)) if is_outage(&e) => (Instant::now(), Said::Nothing),
        Err(_) => (Instant::now(), Said::Nothing),
        // Whoever passes it through sees what is wrong. It may be the same again later.
        Ok(Err(_)) => {
            *asked = Some((Instant::now(), Said::Other));
            return Said::Other;
        }
    };
    *asked = Some((at, said));
    if said == Said::Other {
        forget(server, repo, path, record.blob.id);
    }
    said
}

/// Whether an upstream has said nothing about the file.
fn is_outage(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Status { status, .. } => status.is_server_error(),
        UpstreamError::Broken { .. } | UpstreamError::Silent { .. } | UpstreamError::Busy { .. } => true,
        UpstreamError::NotFound { .. } | UpstreamError::NoSuchPart { .. } | UpstreamError::TooLong { .. } => {
            false
        }
    }
}

fn forget(server: &Server, repo: &Repo, path: &RepoPath, id: BlobId) {
    server.learnt.passed.files.invalidate(&(repo.index, path.clone()));
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
        let asked = tokio::sync::Mutex::new(Some((begun, Said::Same)));
        let record = Record { blob, modified_secs, validator, asked };
        server.learnt.put(&server.repos[repo], &path, blob);
        server.learnt.passed.put((repo, path), record);
        dispatch::place(&server, blob);
    }
}

/// Whether a reply is a file as it is, and for everybody.
fn may_be_kept(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map_or("", |value| value.to_str().unwrap_or(""));
    let is_private = ["no-store", "private"].iter().any(|word| text(header::CACHE_CONTROL).contains(word));
    let is_weak = text(header::ETAG).starts_with("W/");
    !is_private && !is_weak && !headers.contains_key(header::CONTENT_ENCODING)
}
