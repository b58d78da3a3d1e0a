//! The HTTP(S) client towards upstreams and, from a volunteer, towards the server.
//!
//! Tolerates what real mirrors do: no Last-Modified, no ETag, redirects. Bounded: connect and answer times,
//! silence within a body, redirects, sizes. What fails again and again is asked after the others ([`health`]),
//! what asks for a pause has it ([`waits`]). Single upstreams may know us by name or certificate ([`site`]).

mod connections;
pub mod health;
mod reach;
mod site;
mod waits;

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::connections::{ClientPem, TlsError, explain};
use self::connections::{Connections, IDLE_CONNECTIONS};
use self::health::{Health, Outcome};
use self::reach::Reach;
pub use self::site::{Lines, Site, Sites};
pub use self::waits::Waits;

/// From request to response head.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// Longest silence within a body. Clients give up after 30 s (apt, dnf): what continues elsewhere must begin before.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// From request to response head of another volunteer, the connection included.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 5;
const USER_AGENT: &str = concat!("manyhands/", env!("CARGO_PKG_VERSION"));

/// Why an upstream gave nothing usable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("{url}: not found")]
    NotFound { url: String },
    #[error("{url}: answered {status}")]
    Status { url: String, status: StatusCode },
    /// It has the file, and not the part that was asked for; with its `Content-Range`.
    #[error("{url}: does not have this range")]
    NoSuchPart { url: String, content_range: Option<HeaderValue> },
    #[error("{url}: went silent in the middle of the file")]
    Silent { url: String },
    #[error("{url}: {problem}")]
    Broken { url: String, problem: String },
    #[error("{url}: longer than {limit} bytes")]
    TooLong { url: String, limit: u64 },
    /// Its host has named a time before which it is not asked.
    #[error("{url}: its host asks for a pause")]
    Busy { url: String, pause: Duration },
}

impl UpstreamError {
    fn broken(url: &str, problem: impl std::fmt::Display) -> Self {
        Self::Broken { url: url.to_owned(), problem: problem.to_string() }
    }

    /// Whether the upstream said that the file does not exist, rather than failing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// A response whose body is still to come.
#[derive(Debug)]
pub struct Reply {
    pub url: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

impl Reply {
    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let frame = tokio::time::timeout(SILENCE_TIMEOUT, self.body.frame());
            match frame.await {
                Err(_) => return Err(UpstreamError::Silent { url: self.url.clone() }),
                Ok(None) => return Ok(None),
                Ok(Some(Err(e))) => return Err(UpstreamError::broken(&self.url, chain(&e))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    pub fn content_length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

/// See the module's documentation. Cheap to clone; connections are kept and shared.
#[derive(Clone, Debug)]
pub struct Upstream {
    anywhere: Connections,
    /// For what redirects name.
    outside: Connections,
    /// A connection of its own for each request.
    fresh: Connections,
    sites: Sites,
    health: Health,
}

impl Upstream {
    /// A client that trusts the system's certificate authorities, and that no site knows.
    pub fn new() -> Result<Self, TlsError> {
        Self::with_sites(Sites::default())
    }

    /// The same towards everything but these.
    pub fn with_sites(sites: Sites) -> Result<Self, TlsError> {
        let tls = connections::tls(None, None)?;
        Ok(Self {
            anywhere: connections::pool(reach::anywhere(), tls.clone(), IDLE_CONNECTIONS),
            outside: connections::pool(reach::outside_only(), tls.clone(), IDLE_CONNECTIONS),
            fresh: connections::pool(reach::anywhere(), tls, 0),
            sites,
            health: Health::default(),
        })
    }

    /// How long the host of `url` is not to be asked, because it said so.
    pub fn rest_left(&self, url: &str) -> Option<Duration> {
        self.health.rest_left(url)
    }

    /// Indexes of `urls` in the order in which to ask: those whose host failed recently come last.
    pub fn order(&self, urls: &[String]) -> Vec<usize> {
        self.health.order(urls)
    }

    /// Counts how asking `url` ended. The methods here count what they see themselves: failures to answer,
    /// and whole answers where they read them. The reader of a [`Reply`] reports how that went.
    pub fn report(&self, url: &str, outcome: Outcome) {
        self.health.report(url, outcome);
    }

    /// GET, following redirects; any other status than 200, 206 and 304 is an error.
    pub async fn get(&self, url: &str, headers: &HeaderMap) -> Result<Reply, UpstreamError> {
        self.send(&Method::GET, url, headers).await
    }

    /// The same, but waits for a host that names a time to come back, if that is not too long.
    pub async fn get_patiently(&self, url: &str, headers: &HeaderMap) -> Result<Reply, UpstreamError> {
        let mut waits = Waits::default();
        loop {
            match self.get(url, headers).await {
                Err(e) if waits.wait(&e).await => {}
                answered => return answered,
            }
        }
    }

    /// GET as a stranger would: over a new connection, with these headers alone. Whatever the answer is, a
    /// redirect too, is the answer.
    pub async fn probe(&self, url: &str, headers: HeaderMap) -> Result<Reply, UpstreamError> {
        let mut request =
            Request::get(url).body(Full::default()).map_err(|e| UpstreamError::broken(url, e))?;
        *request.headers_mut() = headers;
        let response =
            self.fresh.request(request).await.map_err(|e| UpstreamError::broken(url, explain(chain(&e))))?;
        let (parts, body) = response.into_parts();
        Ok(Reply { url: url.to_owned(), status: parts.status, headers: parts.headers, body })
    }

    /// GET from another volunteer. If it does not have the file it redirects to our server, and a stranger anywhere
    /// else: that is not followed, and means that it does not have the file.
    pub async fn get_of_peer(&self, url: &str, headers: HeaderMap) -> Result<Reply, UpstreamError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = url.parse().map_err(|e| UpstreamError::broken(url, e))?;
        *request.headers_mut() = headers;
        let exchange = self.exchange(url, request, &self.anywhere);
        let answered = tokio::time::timeout(PEER_TIMEOUT, exchange).await;
        let answered = answered.unwrap_or_else(|_| Err(UpstreamError::broken(url, "does not answer")));
        let reply = answered.inspect_err(|_| self.report(url, Outcome::Failed(None)))?;
        match reply.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(reply),
            _ => Err(UpstreamError::NotFound { url: url.to_owned() }),
        }
    }

    /// The same without a body.
    pub async fn head(&self, url: &str) -> Result<Reply, UpstreamError> {
        self.send(&Method::HEAD, url, &HeaderMap::new()).await
    }

    async fn send(&self, method: &Method, url: &str, headers: &HeaderMap) -> Result<Reply, UpstreamError> {
        let site = self.sites.of(url);
        if let Some(pause) = site.and_then(|_| self.rest_left(url)) {
            return Err(UpstreamError::Busy { url: url.to_owned(), pause });
        }
        let mut at: Uri = url.parse().map_err(|e| UpstreamError::broken(url, e))?;
        let mut own = headers.clone();
        if let Some(authorization) = site.and_then(|site| site.authorization.clone()) {
            own.insert(header::AUTHORIZATION, authorization);
        }
        let mut reach = Reach::Own;
        for _ in 0..=MAX_REDIRECTS {
            let reply = self.once(method, url, &at, &own, self.line(site, reach)).await;
            let mut reply = reply.inspect_err(|_| self.report(url, Outcome::Failed(None)))?;
            // A proxy before the origin says so; it is checked here like all else, and apt takes it.
            if reply.status == StatusCode::NON_AUTHORITATIVE_INFORMATION {
                reply.status = StatusCode::OK;
            }
            match reply.status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => return Ok(reply),
                StatusCode::NOT_FOUND | StatusCode::GONE => {
                    self.report(url, Outcome::Answered);
                    return Err(UpstreamError::NotFound { url: url.into() });
                }
                status if status.is_redirection() => {
                    let next = target(url, &at, &reply.headers)?;
                    if reach::place_of(&next) != reach::place_of(&at) {
                        let named = site.map_or(&[][..], |site| &site.leads_to);
                        let allowed = reach::of_redirect(url, &next, named).await?;
                        // What was outside once does not lead back in. Of names the resolver sees to that.
                        if reach == Reach::OutsideOnly && reach::is_inner_address(&next) {
                            return Err(UpstreamError::broken(
                                url,
                                "redirects out of the private network and back",
                            ));
                        }
                        reach = if reach == Reach::OutsideOnly { reach } else { allowed };
                        own = for_another_host(&own);
                    } else if next.scheme() != at.scheme() || reach::port_of(&next) != reach::port_of(&at) {
                        own.remove(header::AUTHORIZATION);
                    }
                    at = next;
                }
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    let content_range = reply.headers.get(header::CONTENT_RANGE).cloned();
                    return Err(UpstreamError::NoSuchPart { url: url.into(), content_range });
                }
                status => return Err(self.refused(url, status, &reply.headers)),
            }
        }
        Err(UpstreamError::broken(url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The connections that reach so far and no farther.
    fn line<'a>(&'a self, site: Option<&'a Site>, reach: Reach) -> &'a Connections {
        let lines = site.and_then(|site| site.lines.as_ref());
        match (reach, lines) {
            (Reach::Own, Some(lines)) => &lines.own,
            (Reach::Named, Some(lines)) => &lines.led,
            (Reach::Own | Reach::Named, None) => &self.anywhere,
            (Reach::OutsideOnly, _) => &self.outside,
        }
    }

    /// Counts an answer that gives nothing. Configured upstreams that ask for a pause get it: 429 is about who asks, and
    /// for the whole host, with a time or without; 503 with a time is about the file (RFC 6585 section 4, RFC 9110
    /// section 15.6.4). What another server of ours says is for its clients.
    fn refused(&self, url: &str, status: StatusCode, headers: &HeaderMap) -> UpstreamError {
        let is_limit = status == StatusCode::TOO_MANY_REQUESTS;
        let asked = health::retry_after(headers, SystemTime::now());
        let names_time = status == StatusCode::SERVICE_UNAVAILABLE && asked.is_some();
        if self.sites.of(url).is_some() && is_limit {
            return UpstreamError::Busy { url: url.to_owned(), pause: self.health.rest(url, asked) };
        }
        if let Some(asked) = asked.filter(|_| self.sites.of(url).is_some() && names_time) {
            return UpstreamError::Busy { url: url.to_owned(), pause: self.health.rest_of(url, asked) };
        }
        if status.is_server_error() || is_limit {
            self.report(url, Outcome::Failed(asked));
        }
        UpstreamError::Status { url: url.to_owned(), status }
    }

    /// POST of a JSON value; the answer as JSON, whatever its length up to `limit`.
    pub async fn post_json<Q: Serialize, A: DeserializeOwned>(
        &self,
        url: &str,
        mut headers: HeaderMap,
        question: &Q,
        limit: u64,
    ) -> Result<A, UpstreamError> {
        let json = serde_json::to_vec(question).map_err(|e| UpstreamError::broken(url, e))?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut request =
            Request::post(url).body(Full::from(json)).map_err(|e| UpstreamError::broken(url, e))?;
        *request.headers_mut() = headers;
        let reply = self.exchange(url, request, &self.anywhere).await?;
        if reply.status != StatusCode::OK {
            return Err(UpstreamError::Status { url: url.to_owned(), status: reply.status });
        }
        let bytes = whole(reply, limit).await?;
        serde_json::from_slice(&bytes).map_err(|e| UpstreamError::broken(url, e))
    }

    async fn once(
        &self,
        method: &Method,
        url: &str,
        at: &Uri,
        headers: &HeaderMap,
        line: &Connections,
    ) -> Result<Reply, UpstreamError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = at.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        self.exchange(url, request, line).await
    }

    async fn exchange(
        &self,
        url: &str,
        mut request: Request<Full<Bytes>>,
        line: &Connections,
    ) -> Result<Reply, UpstreamError> {
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, line.request(request)).await;
        let response = answer
            .map_err(|_| {
                UpstreamError::broken(url, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))
            })?
            .map_err(|e| UpstreamError::broken(url, explain(chain(&e))))?;
        let (parts, body) = response.into_parts();
        Ok(Reply { url: url.to_owned(), status: parts.status, headers: parts.headers, body })
    }

    /// A whole small file in memory.
    pub async fn get_bytes(
        &self,
        url: &str,
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<Bytes, UpstreamError> {
        let bytes = whole(self.get(url, headers).await?, limit).await;
        match &bytes {
            Err(UpstreamError::Broken { .. } | UpstreamError::Silent { .. }) => {
                self.report(url, Outcome::Failed(None))
            }
            _ => self.report(url, Outcome::Answered),
        }
        bytes
    }
}

/// The whole of a small file in memory.
pub async fn whole(mut reply: Reply, limit: u64) -> Result<Bytes, UpstreamError> {
    let declared = reply.content_length();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = reply.chunk().await? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(UpstreamError::TooLong { url: reply.url, limit });
        }
        bytes.extend_from_slice(&chunk);
    }
    match declared {
        Some(length) if length != bytes.len() as u64 => Err(UpstreamError::broken(&reply.url, "ended early")),
        _ => Ok(bytes.freeze()),
    }
}

/// Where a redirect points to; only http and https are followed.
fn target(url: &str, at: &Uri, headers: &HeaderMap) -> Result<Uri, UpstreamError> {
    let broken = |problem: &str| UpstreamError::broken(url, problem);
    let location = headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
    let location = location.ok_or_else(|| broken("redirects to nowhere"))?;
    let text = match (at.scheme_str(), at.authority()) {
        (Some(scheme), Some(authority)) if location.starts_with('/') && !location.starts_with("//") => {
            format!("{scheme}://{authority}{location}")
        }
        _ => location.to_owned(),
    };
    let uri: Uri = text.parse().map_err(|_| broken("redirects to something that is not a URL"))?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok(uri),
        _ => Err(broken("redirects to something other than http or https")),
    }
}

/// What is for this upstream is not for another host; the part asked for is, unless it hangs on a condition.
fn for_another_host(headers: &HeaderMap) -> HeaderMap {
    let range = headers.get(header::RANGE).filter(|_| !headers.contains_key(header::IF_RANGE));
    range.map(|value| (header::RANGE, value.clone())).into_iter().collect()
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one request so, or never; the URL.
    async fn answering(answer: Option<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/b/x", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            match answer {
                Some(answer) => socket.write_all(answer.as_bytes()).await.expect("it reads"),
                None => std::future::pending().await,
            }
        });
        url
    }

    #[tokio::test]
    async fn a_peer_leads_nowhere_else() {
        let upstream = Upstream::new().expect("a client");
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let to = elsewhere.local_addr().expect("bound");
        let ask = async |answer: String| {
            upstream.get_of_peer(&answering(Some(answer)).await, HeaderMap::new()).await
        };
        let empty = "Content-Length: 0\r\n\r\n";
        for status in ["302 Found", "307 Temporary Redirect", "403 Forbidden", "404 Not Found", "503 Busy"] {
            let answer = format!("HTTP/1.1 {status}\r\nLocation: http://{to}/\r\n{empty}");
            assert!(ask(answer).await.is_err_and(|e| e.is_not_found()), "{status}");
        }
        let followed = tokio::time::timeout(Duration::from_millis(1), elsewhere.accept()).await;
        assert!(followed.is_err(), "somebody came");
        let good = ask("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned()).await.expect("an answer");
        assert_eq!(whole(good, 10).await.expect("all of it"), "hi");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_is_left() {
        let upstream = Upstream::new().expect("a client");
        let url = answering(None).await;
        let begin = tokio::time::Instant::now();
        let asked = upstream.get_of_peer(&url, HeaderMap::new()).await;
        assert!(asked.is_err_and(|e| !e.is_not_found()));
        assert!(begin.elapsed() <= PEER_TIMEOUT + Duration::from_millis(10), "{:?}", begin.elapsed());
    }
}
