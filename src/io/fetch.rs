//! Pulling a blob from upstream into the store: one fetch per blob however many ask, and everyone who asks
//! streams what has arrived.
//!
//! The fetch is its own task: a client that leaves ends nothing. The last byte is held back until the whole
//! is verified, so bytes that turn out wrong reach clients as a broken connection, never as a whole file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http::header::HeaderMap;
use tokio::sync::{Semaphore, mpsc, watch};

use super::body::{Body, read_at};
use super::db::Db;
use super::store::{BlobStore, Committed, Incoming, VerifyError};
use super::upstream::{Reply, Upstream, UpstreamError};
use crate::model::{Blob, BlobId, Digest, Expected};

/// Fetches at a time from one host; more wait. A host that hangs holds up its own files, nobody else's.
const PER_HOST: usize = 32;
/// Fetches running or waiting. Beyond it a file is passed through without being kept.
const MAX_FLIGHTS: usize = 1024;
/// Chunks between network and disk: bounds memory to some MiB per fetch.
const QUEUE: usize = 16;
/// Most bytes taken for a file whose metadata gives no size, if the upstream gives none either.
const UNSIZED_LIMIT: u64 = 64 << 30;
const READ_CHUNK: u64 = 128 << 10;

/// Why a blob could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no upstream has it")]
    NotFound,
    #[error("{0}")]
    Upstream(UpstreamError),
    #[error("{url}: {problem}")]
    Wrong { url: String, problem: String },
    #[error("the store cannot take it: {0}")]
    Store(String),
}

/// Where to ask, in order.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub urls: Vec<String>,
    pub headers: HeaderMap,
}

#[derive(Clone, Debug)]
enum State {
    Starting,
    /// Bytes that may be read, and the size of the whole if it is known.
    Running {
        available: u64,
        size: Option<u64>,
    },
    Done(Blob),
    Failed(FetchError),
}

/// A fetch under way.
#[derive(Clone, Debug)]
pub struct Flight {
    file: Arc<File>,
    state: watch::Receiver<State>,
}

impl Flight {
    /// Waits until bytes come; the size of the whole, or an error while nothing was sent yet.
    pub async fn size(&mut self) -> Result<u64, FetchError> {
        let known = |state: &State| match state {
            State::Starting | State::Running { size: None, .. } => None,
            State::Running { size: Some(size), .. } => Some(Ok(*size)),
            State::Done(blob) => Some(Ok(blob.size)),
            State::Failed(e) => Some(Err(e.clone())),
        };
        let state = self.state.wait_for(|state| known(state).is_some()).await;
        state.ok().and_then(|state| known(&state)).unwrap_or_else(|| Err(aborted()))
    }

    /// Waits for the end.
    pub async fn finished(&mut self) -> Result<Blob, FetchError> {
        let ended = |state: &State| matches!(state, State::Done(_) | State::Failed(_));
        match self.state.wait_for(ended).await.as_deref() {
            Ok(State::Done(blob)) => Ok(*blob),
            Ok(State::Failed(e)) => Err(e.clone()),
            _ => Err(aborted()),
        }
    }

    /// The bytes of `range` as they arrive.
    pub fn body(self, range: Range<u64>) -> Body {
        Body::stream(stream::try_unfold((self, range), |(mut flight, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let available = flight.available(range.start).await?;
            let len = (available.min(range.end) - range.start).min(READ_CHUNK);
            let bytes = read_at(flight.file.clone(), range.start, len).await?;
            Ok(Some((bytes, (flight, range.start + len..range.end))))
        }))
    }

    /// Waits until there is more than `position`.
    async fn available(&mut self, position: u64) -> io::Result<u64> {
        let more = |state: &State| match state {
            State::Running { available, .. } if *available > position => Some(Ok(*available)),
            State::Starting | State::Running { .. } => None,
            State::Done(blob) => Some(Ok(blob.size)),
            State::Failed(e) => Some(Err(io::Error::other(e.clone()))),
        };
        let state = self.state.wait_for(|state| more(state).is_some()).await;
        state.ok().and_then(|state| more(&state)).unwrap_or_else(|| Err(io::Error::other(aborted())))
    }
}

fn aborted() -> FetchError {
    FetchError::Store("the fetch was ended".to_owned())
}

/// What a look-up found.
#[derive(Debug)]
pub enum Content {
    Held { file: Arc<File>, blob: Blob },
    Arriving(Flight),
}

/// Told of every commit, with what it evicted, before anyone who waits for the blob. Must not block long.
pub struct OnCommit(pub Box<dyn Fn(&Committed) + Send + Sync>);

impl std::fmt::Debug for OnCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnCommit")
    }
}

impl OnCommit {
    pub fn ignore() -> Self {
        Self(Box::new(|_| ()))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Fetcher {
    pub store: Arc<BlobStore>,
    pub db: Arc<Db>,
    upstream: Upstream,
    flights: Mutex<HashMap<Digest, Flight>>,
    /// By host; there are as many as the configuration names.
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    fetches: AtomicU64,
    bytes: AtomicU64,
    on_commit: OnCommit,
}

impl Fetcher {
    pub fn new(store: Arc<BlobStore>, db: Arc<Db>, upstream: Upstream, on_commit: OnCommit) -> Arc<Self> {
        Arc::new(Self {
            store,
            db,
            upstream,
            flights: Mutex::default(),
            hosts: Mutex::default(),
            fetches: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            on_commit,
        })
    }

    /// Fetches started, and bytes received.
    pub fn totals(&self) -> (u64, u64) {
        (self.fetches.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Which blob metadata means: by its SHA-256, or by an alias that was learned from real bytes.
    pub fn resolve(&self, expected: &Expected) -> Option<BlobId> {
        expected.blob_id().or_else(|| self.db.alias(&expected.digest).ok().flatten())
    }

    /// The blob from the store, if it is held.
    pub fn held(&self, expected: &Expected) -> Option<Content> {
        let id = self.resolve(expected)?;
        let (file, size) = self.store.open_blob(id)?;
        Some(Content::Held { file: Arc::new(file), blob: Blob { id, size } })
    }

    /// The blob from the store, or from a fetch that runs or starts now.
    pub fn get(self: &Arc<Self>, expected: Expected, source: Source) -> Result<Content, FetchError> {
        if let Some(content) = self.held(&expected) {
            return Ok(content);
        }
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&expected.digest) {
            return Ok(Content::Arriving(flight.clone()));
        }
        if flights.len() >= MAX_FLIGHTS {
            return Err(FetchError::Store("too many fetches are under way".to_owned()));
        }
        // It may have been committed between the look above and this lock.
        if let Some(content) = self.held(&expected) {
            return Ok(content);
        }
        let store_error = |e: io::Error| FetchError::Store(e.to_string());
        let incoming = self.store.incoming(expected).map_err(store_error)?;
        let file = Arc::new(incoming.reader().map_err(store_error)?);
        let (sender, state) = watch::channel(State::Starting);
        let flight = Flight { file, state };
        flights.insert(expected.digest, flight.clone());
        drop(flights);
        let fetcher = self.clone();
        tokio::spawn(async move {
            let outcome = fetcher.run(incoming, expected, &source, &sender).await;
            fetcher.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&expected.digest);
            sender.send_replace(match outcome {
                Ok(blob) => State::Done(blob),
                Err(e) => {
                    tracing::warn!(digest = %expected.digest, error = %e, "fetch failed");
                    State::Failed(e)
                }
            });
        });
        Ok(Content::Arriving(flight))
    }

    fn host(&self, source: &Source) -> Arc<Semaphore> {
        let first = source.urls.first().and_then(|url| url.parse::<http::Uri>().ok());
        let name = first.and_then(|uri| uri.authority().map(ToString::to_string)).unwrap_or_default();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(name).or_insert_with(|| Arc::new(Semaphore::new(PER_HOST))).clone()
    }

    /// Like [`Self::get`], but waits until the blob is whole.
    pub async fn get_whole(self: &Arc<Self>, expected: Expected, source: Source) -> Result<Blob, FetchError> {
        match self.get(expected, source)? {
            Content::Held { blob, .. } => Ok(blob),
            Content::Arriving(mut flight) => flight.finished().await,
        }
    }

    async fn run(
        self: &Arc<Self>,
        incoming: Incoming,
        expected: Expected,
        source: &Source,
        state: &watch::Sender<State>,
    ) -> Result<Blob, FetchError> {
        let _permit = self.host(source).acquire_owned().await.map_err(|_| aborted())?;
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let reply = self.ask(source, &expected).await?;
        let url = reply.url.clone();
        let size = expected.size.or(reply.content_length());
        state.send_replace(State::Running { available: 0, size });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (fetcher, progress) = (self.clone(), state.clone());
        let writer = tokio::task::spawn_blocking(move || fetcher.write(incoming, size, receiver, &progress));
        let received = self.receive(reply, sender).await;
        let written = writer.await.map_err(|e| FetchError::Store(e.to_string()))?;
        // An upstream that broke off is the cause of the short file that the writer then sees.
        received?;
        let committed = written.map_err(|e| match e {
            VerifyError::Io(e) => FetchError::Store(e.to_string()),
            wrong => FetchError::Wrong { url, problem: wrong.to_string() },
        })?;
        (self.on_commit.0)(&committed);
        Ok(committed.blob)
    }

    /// The first upstream that has the file, with the right length if it says one.
    async fn ask(&self, source: &Source, expected: &Expected) -> Result<Reply, FetchError> {
        let mut last = FetchError::NotFound;
        for url in &source.urls {
            match self.upstream.get(url, &source.headers).await {
                Ok(reply) => match (expected.size, reply.content_length()) {
                    (Some(want), Some(got)) if want != got => {
                        let problem = format!("{got} bytes instead of {want}");
                        last = FetchError::Wrong { url: url.clone(), problem };
                    }
                    _ => return Ok(reply),
                },
                // One upstream's "not found" does not hide another's failure.
                Err(e) if e.is_not_found() => {}
                Err(e) => last = FetchError::Upstream(e),
            }
        }
        Err(last)
    }

    async fn receive(&self, mut reply: Reply, sender: mpsc::Sender<Bytes>) -> Result<(), FetchError> {
        while let Some(chunk) = reply.chunk().await.map_err(FetchError::Upstream)? {
            self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if sender.send(chunk).await.is_err() {
                // The writer stopped: its own result says why.
                break;
            }
        }
        Ok(())
    }

    /// Runs on a thread that may block: hashing and writing.
    fn write(
        &self,
        mut incoming: Incoming,
        size: Option<u64>,
        mut chunks: mpsc::Receiver<Bytes>,
        state: &watch::Sender<State>,
    ) -> Result<Committed, VerifyError> {
        let limit = size.unwrap_or(UNSIZED_LIMIT);
        while let Some(chunk) = chunks.blocking_recv() {
            if incoming.written() + chunk.len() as u64 > limit {
                return Err(VerifyError::TooLong { size: limit });
            }
            incoming.write(&chunk)?;
            let available = incoming.written().min(limit.saturating_sub(1));
            state.send_replace(State::Running { available, size });
        }
        let committed = self.store.commit(incoming.verify()?)?;
        if let Err(e) = self.db.put_digests(&committed.digests) {
            tracing::warn!(blob = %committed.blob.id, error = %e, "digests are not remembered");
        }
        Ok(committed)
    }

    /// Takes a local file into the store, verified like any other. Blocks.
    pub fn ingest_file(&self, expected: Expected, path: &std::path::Path) -> Result<Committed, VerifyError> {
        let mut input = File::open(path)?;
        let mut incoming = self.store.incoming(expected)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match io::Read::read(&mut input, &mut buffer)? {
                0 => break,
                n => incoming.write(&buffer[..n])?,
            }
        }
        let committed = self.store.commit(incoming.verify()?)?;
        if let Err(e) = self.db.put_digests(&committed.digests) {
            tracing::warn!(blob = %committed.blob.id, error = %e, "digests are not remembered");
        }
        Ok(committed)
    }
}
