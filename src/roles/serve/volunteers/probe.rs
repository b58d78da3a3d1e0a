//! The server's own tests of volunteers: whether clients can reach one at all, and whether it sends what it
//! should, fast enough. When which one is due is the policy's.
//!
//! A test of bytes looks like any client's request. What comes is compared with the server's own copy; where
//! it has none, a small file is fetched whole and hashed, and of a large one only the speed counts.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rand::{RngExt, SeedableRng};
use sha2::Digest;
use tokio::time::Instant;

use super::fleet::Tested;
use crate::formats::control::{ToVolunteer, WHO_PATH};
use crate::formats::ticket;
use crate::io::body::read_at;
use crate::io::clock;
use crate::io::fetch::Content;
use crate::io::hasher;
use crate::io::inside::is_inside;
use crate::io::upstream::{Reply, UpstreamError};
use crate::model::{Blob, BlobId, encode_path};
use crate::policy::{Event, NodeState, Outcome, Probe};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::packages::passthrough;
use crate::roles::serve::state::Server;

/// How often due tests are looked for; doubts are looked into at once.
const TICK: Duration = Duration::from_secs(1);
/// Until the answer begins. Clients wait longer, and should not have to.
const ANSWER: Duration = Duration::from_secs(4);
/// Until it ends; what has arrived by then gives the speed.
const WHOLE: Duration = Duration::from_secs(8);
/// Bytes asked for.
const PART: u64 = 64 << 10;
/// A blob that the server has no copy of is fetched whole up to this.
const MAX_WHOLE: u64 = 4 << 20;
/// How often it is asked who it is, and the pause in between.
const WHO_TRIES: usize = 3;
const WHO_PAUSE: Duration = Duration::from_millis(300);
/// Longest answer to the question who one is.
const MAX_WHO: usize = 256;
/// What the most common client says of itself.
const LOOKS_LIKE: HeaderValue = HeaderValue::from_static("Debian APT-HTTP/1.3 (2.6.1)");

/// Makes the tests that are due, for as long as the server runs.
pub async fn keep(server: Arc<Server>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = server.fleet.tests_wanted() => {}
        }
        for probe in server.fleet.probes(clock::now()) {
            tokio::spawn(one(server.clone(), probe));
        }
    }
}

/// One test, its outcome to the policy, and what changed by it to the log and the volunteer.
async fn one(server: Arc<Server>, probe: Probe) {
    let outcome = match probe.blob {
        None => who(&server, &probe).await,
        Some(blob) => bytes(&server, &probe, blob).await,
    };
    let outcome = outcome.unwrap_or_else(|why| Outcome::Failed { why });
    tracing::debug!(volunteer = %server.fleet.id_of(probe.node), ?outcome, blob = probe.blob.is_some(), "tested");
    let Tested { before, after, record, problem } = server.fleet.probed(&probe, outcome, clock::now());
    let volunteer = server.fleet.id_of(probe.node);
    if let Some(record) = record {
        super::standing::save(&server, volunteer.clone(), record);
    }
    if before == after {
        return;
    }
    let problem = problem.filter(|_| after != NodeState::Up);
    match &problem {
        Some(problem) => {
            tracing::warn!(%volunteer, address = %probe.base_url, state = after.name(), problem, "volunteer gets no clients");
        }
        None => {
            tracing::info!(%volunteer, address = %probe.base_url, state = after.name(), "volunteer tested")
        }
    }
    server.fleet.sessions.tell(probe.node, probe.epoch, ToVolunteer::Standing { problem });
}

/// Whether the volunteer itself answers where clients are sent.
async fn who(server: &Server, probe: &Probe) -> Result<Outcome, String> {
    for _ in 0..WHO_TRIES {
        if answers_itself(server, probe).await? {
            return Ok(Outcome::Reached);
        }
        // It may not have read its welcome yet.
        tokio::time::sleep(WHO_PAUSE).await;
    }
    Err("something else answers there: is the port forwarded to another machine?".to_owned())
}

async fn answers_itself(server: &Server, probe: &Probe) -> Result<bool, String> {
    let key = server.fleet.key(probe.node).ok_or("it has no key")?;
    let nonce = format!("{:032x}", generator()?.random::<u128>());
    let url = format!("{}{WHO_PATH}{nonce}", probe.base_url);
    let mut reply = ask(server, probe, &url, HeaderMap::new()).await?;
    let mut body = BytesMut::new();
    let reading = async {
        while let Some(chunk) = reply.chunk().await.map_err(reason)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_WHO {
                break;
            }
        }
        Ok::<_, String>(())
    };
    tokio::time::timeout(ANSWER, reading).await.map_err(|_| silent())??;
    Ok(reply.status == StatusCode::OK && String::from_utf8_lossy(&body).trim() == key.proof(&nonce))
}

/// Whether it sends a part of a blob as it is.
async fn bytes(server: &Arc<Server>, probe: &Probe, blob: Blob) -> Result<Outcome, String> {
    let key = server.fleet.key(probe.node).ok_or("it has no key")?;
    let found = server.find(blob.id);
    let Some((repo, path, _)) = found.first() else {
        // Nobody is sent there for it any more either.
        return who(server, probe).await;
    };
    let copy = own_copy(server, repo, path, blob).await;
    let part = match &copy {
        None if blob.size <= MAX_WHOLE => 0..blob.size,
        _ => {
            let start = generator()?.random_range(0..=blob.size.saturating_sub(PART));
            start..blob.size.min(start + PART)
        }
    };
    let expiry = clock::now().as_secs() + ticket::LIFETIME_SECS;
    let url = format!("{}{}", probe.base_url, key.sign(blob, expiry, &encode_path(path.file_name())));
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, LOOKS_LIKE);
    let range = HeaderValue::from_str(&format!("bytes={}-{}", part.start, part.end - 1));
    headers.insert(header::RANGE, range.map_err(|e| e.to_string())?);
    let mut reply = ask(server, probe, &url, headers).await?;
    check_head(&reply, blob, &part)?;
    let (got, bytes_per_sec) = read(&mut reply, part.end - part.start).await?;
    let tested = Event::Tested { node: probe.node, epoch: probe.epoch, bytes: got.len() as u64 };
    server.fleet.handle(tested, clock::now());
    let is_whole = got.len() as u64 == part.end - part.start;
    let is_wrong = match copy {
        Some(copy) => {
            // A copy that cannot be read is no volunteer's fault.
            let own = read_at(copy.clone(), part.start, got.len() as u64).await;
            own.is_ok_and(|own| own[..] != got[..]) && is_sound(copy, blob.id).await
        }
        None => is_whole && part == (0..blob.size) && BlobId(sha2::Sha256::digest(&got).into()) != blob.id,
    };
    if is_wrong {
        return Ok(Outcome::Wrong { what: format!("sent wrong bytes of {}", path.as_str()) });
    }
    Ok(Outcome::Good { bytes_per_sec })
}

/// Waits for an answer's head.
async fn ask(server: &Server, probe: &Probe, url: &str, headers: HeaderMap) -> Result<Reply, String> {
    let asking = async {
        may_ask(server, probe).await?;
        server.upstream.probe(url, headers).await.map_err(reason)
    };
    tokio::time::timeout(ANSWER, asking).await.unwrap_or_else(|_| Err(silent()))
}

/// A volunteer outside this server's network must not make it connect to hosts inside: a volunteer
/// can advertise anything.
async fn may_ask(server: &Server, probe: &Probe) -> Result<(), String> {
    let peer = server.fleet.signer(probe.node).ok_or("it has left")?.peer;
    let uri = probe.base_url.parse::<http::Uri>().map_err(|e| e.to_string())?;
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
    let found = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(80))).await;
    for address in found.map_err(|e| format!("its name does not resolve: {e}"))? {
        let ip = address.ip().to_canonical();
        if (ip.is_loopback() && !peer.is_loopback()) || (is_inside(ip) && !is_inside(peer)) {
            return Err(format!(
                "{ip} is an address in the server's own network, but it connects from elsewhere"
            ));
        }
    }
    Ok(())
}

fn silent() -> String {
    format!("no answer within {} s", ANSWER.as_secs())
}

fn reason(error: UpstreamError) -> String {
    match error {
        UpstreamError::Broken { problem, .. } => problem,
        other => other.to_string(),
    }
}

fn check_head(reply: &Reply, blob: Blob, part: &Range<u64>) -> Result<(), String> {
    if reply.status.is_redirection() {
        return Err("redirects clients back for what it should hold".to_owned());
    }
    let is_all = *part == (0..blob.size);
    let expected = format!("bytes {}-{}/{}", part.start, part.end - 1, blob.size);
    let range = reply.headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    match reply.status {
        StatusCode::PARTIAL_CONTENT if range == Some(expected.as_str()) => Ok(()),
        StatusCode::OK if is_all && reply.content_length() == Some(blob.size) => Ok(()),
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            Err("sends another range or size than asked for".to_owned())
        }
        status => Err(format!("answers {status}")),
    }
}

/// Reads a body for a while. Fewer bytes than requested are an error unless time ran out.
async fn read(reply: &mut Reply, len: u64) -> Result<(BytesMut, f64), String> {
    let begin = Instant::now();
    let mut got = BytesMut::new();
    while (got.len() as u64) < len {
        let chunk = match tokio::time::timeout_at(begin + WHOLE, reply.chunk()).await {
            Err(_) if got.is_empty() => return Err(format!("sent nothing within {} s", WHOLE.as_secs())),
            Err(_) => break,
            Ok(chunk) => chunk.map_err(reason)?,
        };
        got.extend_from_slice(&chunk.ok_or("the file ended early")?);
        if got.len() as u64 > len {
            return Err("sent more than it was asked for".to_owned());
        }
    }
    let seconds = begin.elapsed().as_secs_f64().max(1e-3);
    let bytes_per_sec = got.len() as f64 / seconds;
    Ok((got, bytes_per_sec))
}

/// The server's own copy of a blob, if it has one.
async fn own_copy(
    server: &Server,
    repo: &Repo,
    path: &crate::model::RepoPath,
    blob: Blob,
) -> Option<Arc<File>> {
    if let Some(Content::Held { file, .. }) = server.packages.held(&blob.into()) {
        return Some(file);
    }
    let found = passthrough::open_tree_file(repo, path).await?;
    (found.size == blob.size).then(|| Arc::new(found.file))
}

/// Whether the server's own copy is correct: checked before a volunteer is accused.
async fn is_sound(copy: Arc<File>, id: BlobId) -> bool {
    let hash = move || hasher::hash_file(&copy).is_ok_and(|(hashes, _)| BlobId(hashes.digests.sha256) == id);
    tokio::task::spawn_blocking(hash).await.unwrap_or(false)
}

fn generator() -> Result<rand_pcg::Pcg64Mcg, String> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|e| e.to_string())?;
    Ok(rand_pcg::Pcg64Mcg::from_seed(seed))
}
