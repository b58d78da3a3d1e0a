//! Files that no metadata names, as they are at the upstream. Those of trees are for [`learnt`], those that were passed
//! through before for [`passed`].

use std::sync::Arc;

use futures_util::stream;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use super::learnt;
use super::passed::{self, Learner};
use crate::formats::conditions::{self, Modified, Validators, Verdict};
use crate::io::body::Body;
use crate::io::clock;
use crate::io::respond::{content_type, plain};
use crate::io::upstream::{Reply, UpstreamError};
use crate::model::RepoPath;
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::http::traffic::Kind;
use crate::roles::serve::metadata::origin::{self, TreeFile};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// Maximum bytes of one such file: larger ones belong behind metadata that names them.
const MAX_PASSED: u64 = 16 << 30;

/// Answers with the origin's file, if it has one.
pub async fn answer(server: &Arc<Server>, repo: &Repo, path: &RepoPath, asked: &Asked) -> Response<Body> {
    match repo.tree() {
        Some(_) => learnt::answer(server, repo, path, asked).await,
        None => match passed::answer(server, repo, path, asked).await {
            Some(response) => response,
            None => pass_through(server, repo, path, asked, Kind::Passed).await,
        },
    }
}

/// Opens a file of the repository's tree without blocking the reactor.
pub async fn open_tree_file(repo: &Repo, path: &RepoPath) -> Option<TreeFile> {
    let (tree, path) = (repo.tree()?.to_owned(), path.clone());
    tokio::task::spawn_blocking(move || origin::open_in_tree(&tree, &path)).await.ok().flatten()
}

/// Streams from the first upstream that has the file.
pub async fn pass_through(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
    kind: Kind,
) -> Response<Body> {
    let mut headers = HeaderMap::new();
    for name in passed_on(asked) {
        // nginx, for one, takes a list in several lines for an error.
        let lines: Vec<&[u8]> = asked.headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        if let Some(value) =
            HeaderValue::from_bytes(&lines.join(&b", "[..])).ok().filter(|_| !lines.is_empty())
        {
            headers.insert(name, value);
        }
    }
    let (mut outage, mut forbidden) = (false, false);
    let urls = urls(server, repo, path);
    // Waiting for a pause to end is for the last one, where no other has the file.
    let last = urls.len().saturating_sub(1);
    for (at, url) in urls.into_iter().enumerate() {
        let reply = match at == last {
            true => server.upstream.get_patiently(&url, &headers).await,
            false => server.upstream.get(&url, &headers).await,
        };
        match reply {
            // A part that nobody asked for would be taken for the whole.
            Ok(reply)
                if reply.status == StatusCode::PARTIAL_CONTENT && !headers.contains_key(header::RANGE) =>
            {
                tracing::warn!(url, "the upstream sends only a part of the file");
                outage = true;
            }
            Ok(reply) => {
                let reply = judged(asked, reply);
                let learner = Learner::of(server, repo, path, asked, &url, &reply);
                return stream_reply(
                    server,
                    path,
                    asked,
                    kind,
                    reply,
                    learner.filter(|_| kind == Kind::Passed),
                );
            }
            Err(e) if e.is_not_found() => {}
            Err(UpstreamError::NoSuchPart { content_range, .. }) => {
                return no_such_part(content_range);
            }
            // Object stores say so of what is missing. apt and zypper would repeat what they take for an outage.
            Err(UpstreamError::Status { status: StatusCode::FORBIDDEN, .. }) => forbidden = true,
            // That its host wants a pause was told when it began.
            Err(UpstreamError::Busy { .. }) => outage = true,
            Err(e) => {
                tell_failure(repo, path, &e);
                outage = true;
            }
        }
    }
    if outage {
        plain(StatusCode::BAD_GATEWAY, "the upstream failed; try again")
    } else if forbidden {
        plain(StatusCode::FORBIDDEN, "the upstream refuses this file")
    } else {
        plain(StatusCode::NOT_FOUND, "no such file")
    }
}

/// 416 with the file's length, by which a client knows whether it has all.
fn no_such_part(content_range: Option<HeaderValue>) -> Response<Body> {
    let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE, "the file is not that long");
    response.headers_mut().extend(content_range.map(|value| (header::CONTENT_RANGE, value)));
    response
}

/// An upstream that is down fails every request.
fn tell_failure(repo: &Repo, path: &RepoPath, error: &UpstreamError) {
    let (name, path) = (repo.config.name.as_str(), path.as_str());
    match repo.passing_trouble.may_tell() {
        true => tracing::warn!(repo = name, path, %error, "cannot pass through"),
        false => tracing::debug!(repo = name, path, %error, "cannot pass through either"),
    }
}

/// The fields of the request that the upstream is to see. Ranges are defined for GET alone. Not every upstream
/// knows `If-Match` and `If-Unmodified-Since`: they are judged here, and then the others too, which come after them.
fn passed_on(asked: &Asked) -> impl Iterator<Item = HeaderName> {
    let ranges = [header::RANGE, header::IF_RANGE].into_iter().filter(|_| asked.method == Method::GET);
    let is_ours =
        [header::IF_MATCH, header::IF_UNMODIFIED_SINCE].iter().any(|name| asked.headers.contains_key(name));
    let copies = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE].into_iter().filter(move |_| !is_ours);
    ranges.chain(copies)
}

/// The reply as the request's conditions make it.
fn judged(asked: &Asked, mut reply: Reply) -> Reply {
    if reply.status == StatusCode::NOT_MODIFIED || !conditions::are_in(&asked.headers) {
        return reply;
    }
    let text = |name| reply.headers.get(name).and_then(|value| value.to_str().ok());
    let modified = text(header::LAST_MODIFIED).and_then(conditions::date).map(Modified::at);
    let validators = Validators { etag: text(header::ETAG), modified };
    match conditions::verdict(&asked.headers, validators, clock::now().as_secs()) {
        Verdict::Met => {}
        Verdict::NotModified => reply.status = StatusCode::NOT_MODIFIED,
        Verdict::Failed => reply.status = StatusCode::PRECONDITION_FAILED,
    }
    reply
}

/// Where the upstreams have a path, those that failed recently last.
fn urls(server: &Server, repo: &Repo, path: &RepoPath) -> Vec<String> {
    let bases = repo.upstreams();
    let order = server.upstream.order(bases).into_iter();
    order.map(|index| format!("{}/{}", bases[index], path.to_upstream_url())).collect()
}

fn stream_reply(
    server: &Arc<Server>,
    path: &RepoPath,
    asked: &Asked,
    kind: Kind,
    reply: Reply,
    learner: Option<Learner>,
) -> Response<Body> {
    let has_body = matches!(reply.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    let length = reply.content_length();
    if has_body && length.is_some_and(|length| length > MAX_PASSED) {
        return plain(StatusCode::BAD_GATEWAY, "the upstream's file is too large to pass through");
    }
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = reply.status;
    let of_content = [header::CONTENT_LENGTH, header::CONTENT_RANGE, header::CONTENT_TYPE];
    let of_file = [header::LAST_MODIFIED, header::ETAG, header::ACCEPT_RANGES];
    for name in of_content.into_iter().filter(|_| has_body).chain(of_file) {
        if let Some(value) = reply.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    if has_body {
        let kind_of_content = HeaderValue::from_static(content_type(path.file_name()));
        response.headers_mut().entry(header::CONTENT_TYPE).or_insert(kind_of_content);
    }
    if has_body && asked.method == Method::GET {
        *response.body_mut() = server.traffic.count(kind, body_of(reply, learner));
    }
    response
}

/// The upstream's bytes; `learner` sees them too.
fn body_of(reply: Reply, learner: Option<Learner>) -> Body {
    let begun = (reply, MAX_PASSED, learner);
    Body::stream(stream::try_unfold(begun, |(mut reply, left, mut learner)| async move {
        let Some(chunk) = reply.chunk().await.map_err(std::io::Error::other)? else {
            return Ok(None);
        };
        let left = left.checked_sub(chunk.len() as u64);
        let left = left.ok_or_else(|| std::io::Error::other("longer than what is passed through"))?;
        // Before the last bytes leave: a response of known length may not be asked for its end.
        let learner = learner.take().and_then(|learner| learner.updated(&chunk));
        Ok(Some((chunk, (reply, left, learner))))
    }))
}

/// How long the origin says that a file is.
pub async fn origin_size(server: &Server, repo: &Repo, path: &RepoPath) -> Option<u64> {
    if repo.tree().is_some() {
        return open_tree_file(repo, path).await.map(|found| found.size);
    }
    for url in urls(server, repo, path) {
        if let Ok(reply) = server.upstream.head(&url).await {
            return reply.content_length();
        }
    }
    None
}

/// Whether the origin itself has a file of this name, remembered for some minutes.
pub async fn origin_has(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> bool {
    if repo.tree().is_some() {
        return open_tree_file(repo, path).await.is_some();
    }
    let name = format!("{}/{path}", repo.config.name);
    if let Some(known) = server.has_own_file.get(&name) {
        return known;
    }
    let mut is_unknown = false;
    for url in urls(server, repo, path) {
        match server.upstream.head(&url).await {
            Ok(_) => {
                server.has_own_file.insert(name, true);
                return true;
            }
            Err(e) => is_unknown |= !e.is_not_found(),
        }
    }
    // An outage says nothing about later.
    if !is_unknown {
        server.has_own_file.insert(name, false);
    }
    false
}
