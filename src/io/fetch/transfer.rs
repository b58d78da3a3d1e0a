//! The bytes of one file from upstreams: from the first that gives it, and when that breaks off, falls silent
//! or crawls, from where it stopped, there again or at the next.
//!
//! Two upstreams may hold different files of one name; a mixture of them fails the digest at the end.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use http::header::{self, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::super::upstream::health::Outcome;
use super::super::upstream::{Reply, UpstreamError, Waits};
use super::{FetchError, Fetcher, Given, Source};
use crate::model::Alternatives;

/// Continuations of one file. A link that breaks more often is better left to the next request.
const MAX_CONTINUATIONS: u32 = 5;
/// Pause before the first continuation; doubled for each more. Together 3 s: a server that restarts is back.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// What gives less than this, over this much waiting, is left for another URL, if there is one.
const CRAWL_RATE: u64 = 4 << 10;
const CRAWL_WINDOW: Duration = Duration::from_secs(30);
/// The same for other volunteers: clients wait for the copy. One that gives the least rate and has clients sends
/// others a fifth of it, 26 KB/s.
const PEER_CRAWL_RATE: u64 = 16 << 10;
const PEER_CRAWL_WINDOW: Duration = Duration::from_secs(10);
/// Longest silence of one in mid-file.
const PEER_SILENCE: Duration = Duration::from_secs(10);
/// How long a host's other fetches are waited for, if another host may have the file, and if none.
const SHORT_WAIT: Duration = Duration::from_secs(5);
const LONG_WAIT: Duration = Duration::from_secs(20);

/// A reply with which the file continues.
pub(super) struct Opened {
    pub(super) reply: Reply,
    /// Bytes that come first and have arrived already.
    skip: u64,
    /// Of the host's fetches at a time. Other volunteers have none: orders are bounded already.
    _permit: Option<OwnedSemaphorePermit>,
}

/// See the module's documentation.
pub(super) struct Transfer<'a> {
    fetcher: &'a Fetcher,
    source: &'a Source,
    wanted: Alternatives,
    /// Indexes of the URLs in the order of asking.
    order: Vec<usize>,
    /// Place in the order; goes round.
    at: usize,
    /// Asked again where it broke off, and got nothing since.
    is_again: bool,
    /// Bytes received.
    position: u64,
    size: Option<u64>,
    /// Indexes of the URLs that gave bytes.
    used: Vec<usize>,
    /// For upstreams that name a time to come back.
    waits: Waits,
}

/// Why a reply is not one to the request.
#[derive(Debug, thiserror::Error)]
enum ReplyError {
    #[error("{got} bytes instead of {size}")]
    OtherSize { got: u64, size: u64 },
    #[error("{got} bytes, which is the size of no file of this name")]
    SizeOfNone { got: u64 },
    #[error("sent another range than asked for")]
    OtherPart,
    #[error("unexpected {status}")]
    OtherStatus { status: StatusCode },
}

/// How a reply ended.
enum Ended {
    Whole,
    /// The writer stopped: its own result says why.
    Unwanted,
    Broken(UpstreamError),
    Crawling(UpstreamError),
}

impl<'a> Transfer<'a> {
    pub(super) fn new(fetcher: &'a Fetcher, source: &'a Source, wanted: Alternatives) -> Self {
        let mut order = fetcher.upstream.order(&source.urls);
        order.sort_by_key(|&index| fetcher.is_bad(&wanted, &source.urls[index]));
        Self {
            fetcher,
            source,
            order,
            at: 0,
            is_again: false,
            position: 0,
            size: wanted.size(),
            wanted,
            used: Vec::new(),
            waits: Waits::default(),
        }
    }

    fn url(&self) -> &'a str {
        self.order.get(self.at).map_or("", |&index| &self.source.urls[index])
    }

    fn is_peer(&self) -> bool {
        self.order.get(self.at).is_some_and(|&index| index < self.source.peers)
    }

    fn next_url(&mut self) {
        self.at = (self.at + 1) % self.order.len().max(1);
        self.is_again = false;
    }

    /// The size of the whole, if metadata or an upstream said it.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// What gave the bytes so far.
    pub(super) fn used(&self) -> impl Iterator<Item = &'a str> {
        self.used.iter().map(|&index| self.source.urls[index].as_str())
    }

    /// What they sent was not the file.
    pub(super) fn were_wrong(&self) {
        self.used().for_each(|url| self.fetcher.remember_bad(&self.wanted, url));
        self.used.iter().for_each(|&index| self.source.told.tell(index, Given::Wrong));
    }

    /// The next upstream that has the file, with the right length if it says one. If none has it now and one has
    /// named a time to come back, that is waited for.
    pub(super) async fn open(&mut self) -> Result<Opened, FetchError> {
        loop {
            match self.open_once().await {
                Err(FetchError::Upstream(e)) if self.waits.wait(&e).await => {}
                opened => return opened,
            }
        }
    }

    async fn open_once(&mut self) -> Result<Opened, FetchError> {
        let mut last = FetchError::NotFound;
        for _ in 0..self.order.len() {
            match self.ask(self.url()).await {
                Ok(opened) => {
                    self.size = self.size.or_else(|| opened.reply.content_length());
                    return Ok(opened);
                }
                // One upstream's "not found" does not hide another's failure.
                Err(FetchError::NotFound) => {}
                // That one of them wants a pause says most: there is something to wait for.
                Err(e) if e.is_busy() || !last.is_busy() => last = e,
                Err(_) => {}
            }
            self.next_url();
        }
        Err(last)
    }

    async fn ask(&self, url: &str) -> Result<Opened, FetchError> {
        let is_peer = self.is_peer();
        let permit = if is_peer { None } else { Some(self.permit(url).await?) };
        let mut headers = if is_peer { &self.source.peer_headers } else { &self.source.headers }.clone();
        if self.position > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={}-", self.position))
        {
            headers.insert(header::RANGE, value);
        }
        let upstream = &self.fetcher.upstream;
        let reply = if is_peer {
            upstream.get_of_peer(url, headers).await
        } else {
            upstream.get(url, &headers).await
        };
        let reply = reply.map_err(|e| match e {
            e if e.is_not_found() => FetchError::NotFound,
            e => FetchError::Upstream(e),
        })?;
        match self.offset(&reply) {
            Ok(offset) => Ok(Opened { reply, skip: self.position - offset, _permit: permit }),
            Err(problem) => {
                self.fetcher.remember_bad(&self.wanted, url);
                Err(FetchError::Wrong { url: url.to_owned(), problem: problem.to_string() })
            }
        }
    }

    async fn permit(&self, url: &str) -> Result<OwnedSemaphorePermit, FetchError> {
        let wait = if self.order.len() > 1 { SHORT_WAIT } else { LONG_WAIT };
        let permit = tokio::time::timeout(wait, self.fetcher.host(url).acquire_owned()).await;
        let permit =
            permit.map_err(|_| FetchError::Store("too many fetches from its upstream".to_owned()))?;
        permit.map_err(|_| FetchError::aborted())
    }

    /// Where in the file the reply begins: at its beginning or where we are.
    fn offset(&self, reply: &Reply) -> Result<u64, ReplyError> {
        match (reply.status, self.size) {
            (StatusCode::OK, Some(size)) => match reply.content_length() {
                Some(got) if got != size => Err(ReplyError::OtherSize { got, size }),
                _ => Ok(0),
            },
            (StatusCode::OK, None) => match reply.content_length() {
                Some(got) if self.wanted.of_size(got).is_none() => Err(ReplyError::SizeOfNone { got }),
                _ => Ok(0),
            },
            (StatusCode::PARTIAL_CONTENT, size) if self.position > 0 => {
                let range = reply.headers.get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
                match range.and_then(parse_content_range) {
                    Some((first, total)) if first == self.position && size.is_none_or(|s| s == total) => {
                        Ok(first)
                    }
                    _ => Err(ReplyError::OtherPart),
                }
            }
            (status, _) => Err(ReplyError::OtherStatus { status }),
        }
    }

    /// Everything from `opened` to the end of the file.
    pub(super) async fn pull(
        &mut self,
        mut opened: Opened,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), FetchError> {
        let mut continuations = 0;
        loop {
            let may_leave = self.order.len() > 1 && continuations < MAX_CONTINUATIONS;
            let (error, leave) = match self.drain(&mut opened, sender, may_leave).await {
                Ended::Unwanted => return Ok(()),
                Ended::Whole => {
                    self.fetcher.upstream.report(self.url(), Outcome::Answered);
                    return Ok(());
                }
                Ended::Broken(e) => (e, self.is_again || self.is_peer()),
                Ended::Crawling(e) => (e, true),
            };
            drop(opened);
            self.fetcher.upstream.report(self.url(), Outcome::Failed(None));
            if leave {
                self.next_url();
            } else {
                self.is_again = true;
            }
            opened = loop {
                if continuations == MAX_CONTINUATIONS {
                    return Err(FetchError::Upstream(error));
                }
                tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(continuations)).await;
                continuations += 1;
                if let Ok(opened) = self.open().await {
                    break opened;
                }
            };
            tracing::debug!(%error, url = self.url(), position = self.position, "continued");
        }
    }

    /// Hands a reply's bytes on until it ends.
    async fn drain(&mut self, opened: &mut Opened, sender: &mpsc::Sender<Bytes>, may_leave: bool) -> Ended {
        let index = self.order.get(self.at).copied().unwrap_or_default();
        let mut pace = if self.is_peer() { Pace::of_peer() } else { Pace::of_upstream() };
        loop {
            let begin = Instant::now();
            let mut chunk = match self.chunk(opened).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if opened.skip > 0 || self.size.is_some_and(|size| self.position < size) => {
                    return Ended::Broken(self.broken(&format!("ended after {} bytes", self.position)));
                }
                Ok(None) => return Ended::Whole,
                // All came: how the connection ended does not matter.
                Err(_) if opened.skip == 0 && self.size == Some(self.position) => return Ended::Whole,
                Err(e @ UpstreamError::Silent { .. }) => return Ended::Crawling(e),
                Err(e) => return Ended::Broken(e),
            };
            self.fetcher.count_bytes(chunk.len() as u64);
            self.source.told.tell(index, Given::Bytes(chunk.len() as u64));
            let is_crawling = pace.is_crawling(chunk.len() as u64, begin.elapsed());
            let known = usize::try_from(opened.skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
            chunk.advance(known);
            opened.skip -= known as u64;
            if !chunk.is_empty() {
                self.position += chunk.len() as u64;
                self.is_again = false;
                if !self.used.contains(&index) {
                    self.used.push(index);
                }
                if sender.send(chunk).await.is_err() {
                    return Ended::Unwanted;
                }
            }
            let is_whole = self.size == Some(self.position);
            if is_crawling && may_leave && !is_whole {
                return Ended::Crawling(self.broken("crawls"));
            }
        }
    }

    async fn chunk(&self, opened: &mut Opened) -> Result<Option<Bytes>, UpstreamError> {
        if !self.is_peer() {
            return opened.reply.chunk().await;
        }
        let chunk = tokio::time::timeout(PEER_SILENCE, opened.reply.chunk()).await;
        chunk.unwrap_or_else(|_| Err(UpstreamError::Silent { url: self.url().to_owned() }))
    }

    fn broken(&self, problem: &str) -> UpstreamError {
        UpstreamError::Broken { url: self.url().to_owned(), problem: problem.to_owned() }
    }
}

/// The pace of an upstream: only what we wait for it counts, not what our own disk takes.
struct Pace {
    rate: u64,
    window: Duration,
    bytes: u64,
    waited: Duration,
}

impl Pace {
    fn of_upstream() -> Self {
        Self { rate: CRAWL_RATE, window: CRAWL_WINDOW, bytes: 0, waited: Duration::ZERO }
    }

    fn of_peer() -> Self {
        Self { rate: PEER_CRAWL_RATE, window: PEER_CRAWL_WINDOW, ..Self::of_upstream() }
    }

    fn is_crawling(&mut self, bytes: u64, waited: Duration) -> bool {
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < self.window {
            return false;
        }
        let is_crawling = self.bytes < self.rate * self.waited.as_secs();
        (self.bytes, self.waited) = (0, Duration::ZERO);
        is_crawling
    }
}

/// First byte and whole size of `bytes 5-9/10` (RFC 9110 section 14.4).
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (text, want) in [
            ("bytes 5-9/10", Some((5, 10))),
            ("bytes 0-0/1", Some((0, 1))),
            ("bytes 5-9/*", None),
            ("bytes */10", None),
            ("pages 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(text), want, "{text}");
        }
    }

    #[test]
    fn crawling_is_measured_over_half_a_minute_of_waiting() {
        let mut pace = Pace::of_upstream();
        for _ in 0..29 {
            assert!(!pace.is_crawling(1, Duration::from_secs(1)));
        }
        assert!(pace.is_crawling(1, Duration::from_secs(1)));
        for _ in 0..100 {
            assert!(!pace.is_crawling(CRAWL_RATE, Duration::from_secs(1)), "just fast enough");
        }
        assert!(!pace.is_crawling(0, Duration::from_millis(1)));
    }
}
