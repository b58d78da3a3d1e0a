//! The control API: volunteers' sessions, and questions about files in bulk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::session;
use crate::formats::control::{
    LOOKUP_PATH, LocalFile, LookupReply, LookupRequest, MATCH_PATH, MAX_BATCH, MAX_MESSAGE, MatchReply,
    MatchRequest, SESSION_PATH, TreeFile, Verdict,
};
use crate::io::tokens::Token;
use crate::model::{Algorithm, BlobId, Digest, Expected, RepoPath};
use crate::roles::serve::state::Server;

/// A refusal in words, with its status.
type Refusal = (StatusCode, &'static str);

/// All routes below `/_mh/`.
pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route(SESSION_PATH, get(open_session))
        .route(MATCH_PATH, post(match_files))
        .route(LOOKUP_PATH, post(lookup))
        .layer(DefaultBodyLimit::max(MAX_MESSAGE))
        .with_state(server)
}

async fn open_session(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let token = match token(&server, &headers).await {
        Ok(token) => token,
        Err(refusal) => {
            tracing::warn!(%peer, reason = refusal.1, "refused a volunteer");
            return refusal.into_response();
        }
    };
    upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_upgrade(move |socket| session::run(server, socket, peer, token))
}

/// The valid token of a request.
async fn token(server: &Arc<Server>, headers: &HeaderMap) -> Result<Token, Refusal> {
    let text = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
    let Some(text) = text.map(str::to_owned) else {
        return Err((
            StatusCode::UNAUTHORIZED,
            "a token is required: `manyhands token issue` on the server issues one",
        ));
    };
    let tokens = server.tokens.clone();
    let checked = tokio::task::spawn_blocking(move || tokens.check(&text)).await;
    match checked {
        Ok(Ok(Some(token))) => Ok(token),
        Ok(Ok(None)) => Err((
            StatusCode::FORBIDDEN,
            "the token is unknown or revoked: get a new one from the server's administrator",
        )),
        Ok(Err(e)) => {
            tracing::error!(error = %e, "cannot read the token file");
            Err((StatusCode::SERVICE_UNAVAILABLE, "the server cannot check tokens at the moment"))
        }
        Err(_) => Err((StatusCode::SERVICE_UNAVAILABLE, "the server cannot check tokens at the moment")),
    }
}

/// Which files of a volunteer's tree the catalog knows, by path and size.
async fn match_files(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    Json(request): Json<MatchRequest>,
) -> Result<Json<MatchReply>, Refusal> {
    token(&server, &headers).await?;
    check_batch(request.files.len())?;
    let blobs = move || request.files.iter().map(|file| match_file(&server, file)).collect();
    let blobs = tokio::task::spawn_blocking(blobs)
        .await
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "failed"))?;
    Ok(Json(MatchReply { blobs }))
}

fn check_batch(files: usize) -> Result<(), Refusal> {
    if files > MAX_BATCH {
        Err((StatusCode::PAYLOAD_TOO_LARGE, "too many files in one request"))
    } else {
        Ok(())
    }
}

/// A tree may be one repository or hold several, each under its name.
fn match_file(server: &Server, file: &TreeFile) -> Option<BlobId> {
    let path = RepoPath::new(&file.path).ok()?;
    let (first, rest) = path.as_str().split_once('/').unwrap_or((path.as_str(), ""));
    server.repos.iter().find_map(|repo| {
        let snapshot = repo.snapshot();
        let named = (repo.config.name == first).then(|| snapshot.alternatives(rest)).flatten();
        let alternatives = snapshot.alternatives(path.as_str()).or(named)?;
        // Checksum files give no sizes; the volunteer hashes what matches anyway.
        alternatives.of_size(file.size)?.iter().find_map(|expected| server.packages.resolve(expected))
    })
}

/// What is known of local files: for `manyhands verify`.
async fn lookup(
    State(server): State<Arc<Server>>,
    Json(request): Json<LookupRequest>,
) -> Result<Json<LookupReply>, Refusal> {
    check_batch(request.files.len())?;
    // One scan of the catalog at a time: anyone may ask. The scan keeps its permit when its client leaves.
    let Ok(only) = server.lookups.clone().try_acquire_owned() else {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "another check is running; try again"));
    };
    let scan = move || {
        let _only = only;
        look_up(&server, &request.files)
    };
    let files =
        tokio::task::spawn_blocking(scan).await.map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "failed"))?;
    Ok(Json(LookupReply { files }))
}

/// One pass over the catalog, whatever the number of files.
fn look_up(server: &Server, files: &[LocalFile]) -> Vec<Verdict> {
    let (by_digest, by_name) = (index_digests(files), index_names(files));
    let mut verdicts = vec![Verdict::Unknown; files.len()];
    for repo in &server.repos {
        let snapshot = repo.snapshot().clone();
        let mut each = |path: &str, expected: Expected| {
            let full = || format!("{}/{path}", repo.config.name);
            let is_size = |file: &LocalFile| expected.size.is_none_or(|size| size == file.size);
            let same = by_digest.get(&expected.digest).into_iter().flatten();
            for &index in same.filter(|&&index| is_size(&files[index])) {
                if !matches!(verdicts[index], Verdict::Good { .. }) {
                    verdicts[index] = Verdict::Good { path: full() };
                }
            }
            let name = path.rsplit('/').next().unwrap_or(path);
            for &index in by_name.get(name).into_iter().flatten() {
                if verdicts[index] == Verdict::Unknown {
                    let (expected, size) = (expected.digest.to_string(), expected.size);
                    verdicts[index] = Verdict::Differs { path: full(), expected, size };
                }
            }
        };
        snapshot.retained().for_each(|unit| unit.packages.for_each(&mut each));
    }
    verdicts
}

/// Files by each digest that metadata may name them with. Several files may have the same bytes.
fn index_digests(files: &[LocalFile]) -> BTreeMap<Digest, Vec<usize>> {
    let mut index: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        let others = [(Algorithm::Sha1, &file.sha1), (Algorithm::Sha512, &file.sha512)];
        let others = others.into_iter().filter_map(|(algorithm, hex)| Digest::from_hex(algorithm, hex).ok());
        for digest in others.chain([file.sha256.digest()]) {
            index.entry(digest).or_default().push(at);
        }
    }
    index
}

/// Files by the names under which an archive may publish them.
fn index_names(files: &[LocalFile]) -> BTreeMap<String, Vec<usize>> {
    let mut index: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        for name in [Some(file.name.clone()), without_epoch(&file.name)].into_iter().flatten() {
            index.entry(name).or_default().push(at);
        }
    }
    index
}

/// apt keeps `hello_1%3a2.0-1_amd64.deb` of what the archive calls `hello_2.0-1_amd64.deb`.
fn without_epoch(local: &str) -> Option<String> {
    let (package, rest) = local.split_once('_')?;
    let (_, rest) = rest.split_once("%3a")?;
    Some(format!("{package}_{rest}"))
}
