//! The public listener: from a request to the part that answers it.
//!
//! [`super::target`] says what a request asks for: a file of a repository, a blob by its hash
//! (`/_blob/...`), the control API (`/_mh/v1/...`), a tunnel, or nothing that is served here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use quick_xml::escape::escape;
use tower::ServiceExt;

use super::reply::{from_axum, own_url};
use super::request::Asked;
use super::target::Target;
use super::{connect, hints};
use crate::formats::access_log::Line;
use crate::formats::authority::Authority;
use crate::io::body::Body;
use crate::io::clock;
use crate::io::listen::Ends;
use crate::io::respond::{content_length, plain};
use crate::model::{PathError, RepoPath};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::metadata::{answer, listing, origin};
use crate::roles::serve::packages::by_hash::by_hash;
use crate::roles::serve::packages::{lists, mirrors, package, passthrough};
use crate::roles::serve::state::Server;
use crate::roles::serve::volunteers::zone;

/// How long a request for an unknown package waits for the metadata that is read at startup. Below apt's 30 s.
const WARM_PATIENCE: Duration = Duration::from_secs(20);

/// Where clients look for a proxy for apt: apt-cacher-ng's port.
const PROXY_PORT: u16 = 3142;

/// Answers one request and logs it.
pub async fn handle(
    server: Arc<Server>,
    control: axum::Router,
    request: Request<Incoming>,
    ends: Ends,
) -> Response<Body> {
    server.traffic.requests.fetch_add(1, Relaxed);
    let logged = server.access.as_ref().map(|_| Logged::of(&request, ends.peer));
    let response = route(&server, control, request, ends).await;
    if let (Some(log), Some(logged)) = (&server.access, logged) {
        log.write(logged.line(&response));
    }
    response
}

async fn route(
    server: &Arc<Server>,
    control: axum::Router,
    request: Request<Incoming>,
    ends: Ends,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    match server.door.target(&parts.method, &parts.uri, parts.version, &parts.headers, ends.local) {
        Target::Refused { status, text } => plain(status, text),
        Target::Control => control_api(control, Request::from_parts(parts, body), ends.peer).await,
        Target::Connect { host, port } => {
            let client = ends.peer.ip().to_canonical();
            connect::open(server, Request::from_parts(parts, body), client, &host, port).await
        }
        _ if !matches!(parts.method, Method::GET | Method::HEAD) => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here");
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            response
        }
        Target::MirrorList { file } => {
            lists::of_repo(server, file, &Asked::new(ends, parts.method, parts.headers, true))
        }
        Target::Repo { index, rest, direct, listed } => {
            let mut asked = Asked::new(ends, parts.method, parts.headers, direct);
            asked.is_listed = listed;
            let repo = &server.repos[index];
            if let Some(list) = lists::Wanted::of(parts.uri.query())
                && let Some(response) = described(server, repo, rest, list, &asked).await
            {
                return response;
            }
            if rest.is_empty() && !repo.config.autoindex {
                return plain(StatusCode::OK, hints::of_repo(repo, &own_url(server, &asked)).join("\n"));
            }
            if rest.is_empty() && !parts.uri.path().ends_with('/') {
                return listing::with_slash(parts.uri.path());
            }
            with_retry_after(server, repo, in_repo(server, repo, rest, &asked).await)
        }
        Target::Blob { rest, direct } => {
            let mut asked = Asked::new(ends, parts.method, parts.headers, direct);
            asked.kind = package::kind_of(server, &asked.headers);
            asked.is_sent_back = true;
            by_hash(server, rest, &asked).await
        }
        Target::Signed { volunteer } => {
            let asked = Asked::new(ends, parts.method, parts.headers, true);
            zone::answer(server, &volunteer, parts.uri.path(), &asked).await
        }
        Target::Index => index(server, &Asked::new(ends, parts.method, parts.headers, true)),
    }
}

/// What a query asks for in place of a file or a directory; `None` if only the path counts.
async fn described(
    server: &Arc<Server>,
    repo: &Repo,
    encoded: &str,
    wanted: lists::Wanted,
    asked: &Asked,
) -> Option<Response<Body>> {
    if let Ok(path) = RepoPath::from_url(encoded)
        && let Some(response) = mirrors::of_file(server, repo, &path, wanted, asked).await
    {
        return Some(response);
    }
    lists::of_directory(server, repo, encoded, wanted, asked).await
}

async fn in_repo(server: &Arc<Server>, repo: &Repo, encoded: &str, asked: &Asked) -> Response<Body> {
    let path = match RepoPath::from_url(encoded) {
        Ok(path) if RepoPath::is_directory_url(encoded) => {
            return listing::answer(server, repo, Some(&path), asked).await;
        }
        Ok(path) => path,
        Err(PathError::Empty) => return listing::answer(server, repo, None, asked).await,
        Err(e) => return plain(StatusCode::NOT_FOUND, e.to_string()),
    };
    // The hot path: a package of the current snapshot.
    if let Some(named) = repo.snapshot().find_package(path.as_str()) {
        return package::answer(server, repo, &path, named, asked).await;
    }
    // Just started: what is being read may name it.
    if repo.config.profile.is_package_name(path.file_name())
        && repo.wait_warm(WARM_PATIENCE).await
        && let Some(named) = repo.snapshot().find_package(path.as_str())
    {
        return package::answer(server, repo, &path, named, asked).await;
    }
    if let Some(response) = answer::answer(server, repo, &path, asked).await {
        return response;
    }
    if let Some(response) = package::manifest(server, repo, &path, asked).await {
        return response;
    }
    if let Some(response) = mirrors::beside_file(server, repo, &path, asked).await {
        return response;
    }
    if listing::is_directory(repo, &path).await {
        return listing::with_slash(encoded);
    }
    passthrough::answer(server, repo, &path, asked).await
}

/// What failed while the upstreams have asked for a pause works again after it: clients are told when.
fn with_retry_after(server: &Server, repo: &Repo, mut response: Response<Body>) -> Response<Body> {
    if matches!(response.status(), StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE)
        && let Some(left) = origin::rest_left(&server.upstream, repo)
    {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(left.as_secs() + 1));
    }
    response
}

fn index(server: &Server, asked: &Asked) -> Response<Body> {
    let url = own_url(server, asked);
    let mut text = String::from("manyhands package mirror\n");
    for repo in &server.repos {
        let (name, description) = (&repo.config.name, &repo.config.profile.description);
        // Names are safe in HTML and in URLs.
        text.push_str(&format!("\n<a href=\"{name}/\">/{name}/</a>  {}\n", escape(description)));
        for hint in hints::of_repo(repo, &url) {
            text.push_str(&format!("    {}\n", escape(&hint)));
        }
    }
    let port = asked.header(header::HOST).and_then(Authority::parse).and_then(|host| host.port);
    let mut response = match port {
        // What apt-cacher-ng answers to `/`, by which auto-apt-proxy knows a proxy for apt.
        Some(PROXY_PORT) => {
            let mut response = plain(StatusCode::NOT_ACCEPTABLE, front_page("Usage information", &text));
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Usage Information"));
            response
        }
        _ => plain(StatusCode::OK, front_page("manyhands package mirror", &text)),
    };
    let kind = header::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn front_page(title: &str, text: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n<body><pre>{text}</pre></body></html>"
    )
}

async fn control_api(control: axum::Router, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
    let Ok(response) = control.oneshot(request).await;
    response.map(from_axum)
}

/// What the access log keeps of a request while it is answered.
struct Logged {
    client: IpAddr,
    method: Method,
    target: String,
    referer: Option<String>,
    user_agent: Option<String>,
}

impl Logged {
    fn of(request: &Request<Incoming>, peer: SocketAddr) -> Self {
        let text =
            |name| request.headers().get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        Self {
            client: peer.ip().to_canonical(),
            method: request.method().clone(),
            target: request.uri().to_string(),
            referer: text(header::REFERER),
            user_agent: text(header::USER_AGENT),
        }
    }

    fn line(&self, response: &Response<Body>) -> String {
        let mut line = String::with_capacity(200);
        Line {
            client: self.client,
            unix_secs: clock::now().as_secs(),
            method: self.method.as_str(),
            target: &self.target,
            status: response.status().as_u16(),
            bytes: content_length(response),
            referer: self.referer.as_deref(),
            user_agent: self.user_agent.as_deref(),
        }
        .write(&mut line);
        line
    }
}
