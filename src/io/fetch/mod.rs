//! Pulling a blob from upstream into the store: one fetch per blob however many ask, and everyone who asks
//! streams what has arrived.
//!
//! The fetch is its own task: a client that leaves ends nothing, and neither does an upstream that breaks off
//! while another one (or itself, a moment later) continues ([`transfer`]). The last byte is held back until the
//! whole is verified, so bytes that turn out wrong reach clients as a broken connection, never as a whole
//! file; their source is asked last for a while.

mod flight;
mod transfer;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use moka::sync::Cache;
use tokio::sync::{Semaphore, mpsc, watch};

pub use self::flight::Flight;
use self::flight::{READ_CHUNK, State};
use self::transfer::Transfer;
use super::db::Db;
use super::hush::Hush;
use super::regular;
use super::store::{BlobStore, Committed, Incoming, VerifyError};
use super::upstream::health::host_of;
use super::upstream::{Upstream, UpstreamError};
use crate::model::{Alternatives, Blob, BlobId, Digest, Expected};

/// Fetches at a time from one host; more wait. A host that hangs holds up its own files, nobody else's.
const PER_HOST: usize = 32;
/// Fetches running or waiting. Beyond it a file is passed through without being kept.
const MAX_FLIGHTS: usize = 1024;
/// Chunks between network and disk: bounds memory to some MiB per fetch.
const QUEUE: usize = 16;
/// Maximum bytes taken for a file whose metadata gives no size, if the upstream gives none either.
const UNSIZED_LIMIT: u64 = 64 << 30;
/// How long it is remembered that a URL gave wrong bytes, and for how many.
const BAD_FOR: Duration = Duration::from_secs(600);
const BAD_URLS: u64 = 4096;

/// Why a blob could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no upstream has it")]
    NotFound,
    #[error("{0}")]
    Upstream(UpstreamError),
    #[error("{url}: {problem}")]
    Wrong { url: String, problem: String },
    /// Upstreams may have it, but it cannot be kept now.
    #[error("it takes too long to arrive; the fetch continues")]
    Late,
    #[error("the store cannot keep it: {0}")]
    Store(String),
}

impl FetchError {
    fn aborted() -> Self {
        Self::Store("the fetch was cancelled".to_owned())
    }

    fn store(error: impl std::fmt::Display) -> Self {
        Self::Store(error.to_string())
    }

    /// Whether an upstream has named a time to come back.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Upstream(UpstreamError::Busy { .. }))
    }
}

/// Where to ask, in order.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub urls: Vec<String>,
    /// What is fetched, for the log: repository and path, or a blob.
    pub label: String,
    pub headers: HeaderMap,
    /// The first so many URLs are other volunteers', whom nobody vouches for: they are sent `peer_headers` alone, a
    /// redirect of theirs is not followed, and one that is slow is left sooner.
    pub peers: usize,
    pub peer_headers: HeaderMap,
    pub told: OnGiven,
    pub readable: Readable,
    /// Maximum bytes taken where neither metadata nor the upstream gives a size; [`UNSIZED_LIMIT`] if not set.
    pub unsized_limit: Option<u64>,
}

/// What may be read of a file while the rest is still on its way.
#[derive(Clone, Debug, Default)]
pub enum Readable {
    /// All that has arrived: whoever sends it is trusted to send what they should.
    #[default]
    Arrived,
    /// Pieces that have these SHA-256 digests.
    Pieces(Arc<[[u8; 32]]>),
    /// Nothing.
    Nothing,
}

/// What a URL of a source gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Bytes(u64),
    /// Its bytes were, or were part of, a wrong file.
    Wrong,
}

/// Called with what each URL gives, by its index; not for a fetch that somebody else had begun.
#[derive(Clone, Default)]
pub struct OnGiven(pub Option<Arc<GivenFn>>);

type GivenFn = dyn Fn(usize, Given) + Send + Sync;

impl OnGiven {
    fn tell(&self, index: usize, given: Given) {
        if let Some(told) = &self.0 {
            told(index, given);
        }
    }
}

impl std::fmt::Debug for OnGiven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnGiven")
    }
}

/// What a look-up found.
#[derive(Debug)]
pub enum Content {
    Held { file: Arc<File>, blob: Blob },
    Arriving(Flight),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Fetcher {
    pub store: Arc<BlobStore>,
    pub db: Arc<Db>,
    upstream: Upstream,
    /// By the digests that will do.
    flights: Mutex<HashMap<Vec<Digest>, Flight>>,
    /// By host; there are as many as the configuration names.
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// URLs that gave wrong bytes.
    bad: Cache<(Digest, String), ()>,
    fetches: AtomicU64,
    bytes: AtomicU64,
    /// A store that takes nothing, and upstreams that do not answer.
    store_trouble: Hush,
    upstream_trouble: Hush,
}

impl Fetcher {
    pub fn new(store: Arc<BlobStore>, db: Arc<Db>, upstream: Upstream) -> Arc<Self> {
        Arc::new(Self {
            store,
            db,
            upstream,
            flights: Mutex::default(),
            hosts: Mutex::default(),
            bad: Cache::builder().max_capacity(BAD_URLS).time_to_live(BAD_FOR).build(),
            fetches: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            store_trouble: Hush::default(),
            upstream_trouble: Hush::default(),
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
        // Metadata that gives the digest of one file and the size of another means neither. Whether the kept
        // file is what its name says is for the scrub to find out, not for metadata that anyone may write.
        if expected.size.is_some_and(|wanted| wanted != size) {
            return None;
        }
        Some(Content::Held { file: Arc::new(file), blob: Blob { id, size } })
    }

    /// The blob from the store, or from a fetch that runs or starts now. Of several alternatives only the source
    /// can tell which it has: they are fetched even if one of them is held.
    pub fn get(
        self: &Arc<Self>,
        wanted: impl Into<Alternatives>,
        source: Source,
    ) -> Result<Content, FetchError> {
        let wanted = wanted.into();
        let held = || wanted.only().and_then(|expected| self.held(&expected));
        if let Some(content) = held() {
            return Ok(content);
        }
        let key: Vec<Digest> = wanted.iter().map(|expected| expected.digest).collect();
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return Ok(Content::Arriving(flight.clone()));
        }
        if flights.len() >= MAX_FLIGHTS {
            let error = FetchError::Store("too many fetches are running".to_owned());
            self.tell_failure(&source.label, &wanted, &error);
            return Err(error);
        }
        // It may have been committed between the look above and this lock.
        if let Some(content) = held() {
            return Ok(content);
        }
        let (sender, state) = watch::channel(State::Starting);
        let is_readable = !matches!(source.readable, Readable::Nothing);
        let flight = Flight { state, wanted: wanted.size(), is_readable };
        flights.insert(key.clone(), flight.clone());
        drop(flights);
        let fetcher = self.clone();
        tokio::spawn(async move {
            let outcome = fetcher.run(&wanted, &source, &sender).await;
            fetcher.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_replace(match outcome {
                Ok((file, blob)) => State::Done { file, blob },
                Err(e) => {
                    fetcher.tell_failure(&source.label, &wanted, &e);
                    State::Failed(e)
                }
            });
        });
        Ok(Content::Arriving(flight))
    }

    /// A fetch of this blob that runs.
    pub fn arriving(&self, blob: BlobId) -> Option<Flight> {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(&vec![blob.digest()]).cloned()
    }

    /// A store that accepts nothing fails every fetch, an upstream that is down most: logged once a minute.
    /// That a file does not exist is an ordinary answer, and a host's pause was logged when it began.
    fn tell_failure(&self, file: &str, wanted: &Alternatives, error: &FetchError) {
        let digest = wanted;
        let is_to_be_told = match error {
            FetchError::NotFound => false,
            _ if error.is_busy() => false,
            FetchError::Store(_) => self.store_trouble.may_tell(),
            FetchError::Upstream(_) => self.upstream_trouble.may_tell(),
            _ => true,
        };
        match is_to_be_told {
            true => tracing::warn!(file, %digest, %error, "fetch failed"),
            false => tracing::debug!(file, %digest, %error, "fetch failed; ordinary, or already reported"),
        }
    }

    fn host(&self, url: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(host_of(url)).or_insert_with(|| Arc::new(Semaphore::new(PER_HOST))).clone()
    }

    fn count_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether a URL recently had none of these.
    fn is_bad(&self, wanted: &Alternatives, url: &str) -> bool {
        wanted.iter().all(|expected| self.bad.contains_key(&(expected.digest, url.to_owned())))
    }

    fn remember_bad(&self, wanted: &Alternatives, url: &str) {
        wanted.iter().for_each(|expected| self.bad.insert((expected.digest, url.to_owned()), ()));
    }

    /// Whether every URL of a source recently had another file.
    pub fn is_bad_everywhere(&self, expected: Expected, source: &Source) -> bool {
        source.urls.iter().all(|url| self.is_bad(&expected.into(), url))
    }

    /// Like [`Self::get`], but waits until the blob is whole. The file stays readable even if the blob is
    /// removed to make room. After wrong bytes the other URLs are tried.
    pub async fn get_open(
        self: &Arc<Self>,
        wanted: impl Into<Alternatives>,
        source: Source,
    ) -> Result<(Arc<File>, Blob), FetchError> {
        let wanted = wanted.into();
        let mut tries = source.urls.len();
        loop {
            let ended = match self.get(wanted.clone(), source.clone())? {
                Content::Held { file, blob } => return Ok((file, blob)),
                Content::Arriving(flight) => flight.finished().await,
            };
            tries = tries.saturating_sub(1);
            match ended {
                Err(FetchError::Wrong { .. })
                    if tries > 0 && source.urls.iter().any(|url| !self.is_bad(&wanted, url)) => {}
                ended => return ended,
            }
        }
    }

    /// The same for callers that open it later themselves, or never.
    pub async fn get_whole(
        self: &Arc<Self>,
        wanted: impl Into<Alternatives>,
        source: Source,
    ) -> Result<Blob, FetchError> {
        self.get_open(wanted, source).await.map(|(_, blob)| blob)
    }

    async fn run(
        self: &Arc<Self>,
        wanted: &Alternatives,
        source: &Source,
        state: &watch::Sender<State>,
    ) -> Result<(Arc<File>, Blob), FetchError> {
        // What cannot be kept is not fetched to be thrown away.
        let (store, own) = (self.store.clone(), wanted.clone());
        let begun = blocking(move || {
            let incoming = store.begin(own)?;
            let file = incoming.reader()?;
            Ok::<_, VerifyError>((incoming, Arc::new(file)))
        });
        let (mut incoming, file) = begun.await?.map_err(FetchError::store)?;
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let mut transfer = Transfer::new(self, source, wanted.clone());
        let opened = transfer.open().await?;
        let size = transfer.size();
        // Several files may be meant, and this is one that is held: there is nothing to fetch.
        if wanted.only().is_none()
            && let Some(only) = size.and_then(|size| wanted.of_size(size)?.only())
            && let Some(Content::Held { file, blob }) = self.held(&only)
        {
            return Ok((file, blob));
        }
        let most = source.unsized_limit.unwrap_or(UNSIZED_LIMIT);
        if let (Some(size), None) = (size.filter(|size| *size > most), wanted.max_size()) {
            let (url, problem) = (transfer.used().collect(), format!("{size} bytes are more than is taken"));
            return Err(FetchError::Wrong { url, problem });
        }
        // Others make room only once an upstream has said that it has the file, and with this length.
        if let Some(size) = size {
            let begun = blocking(move || incoming.expect_len(size).map(|()| incoming));
            incoming = begun.await?.map_err(FetchError::store)?;
        }
        if let Readable::Pieces(sha256) = &source.readable {
            incoming.expect_pieces(sha256.clone());
        }
        let running = move |file, available| State::Running { file, available, size };
        state.send_replace(running(file.clone(), 0));
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (fetcher, progress, read) = (self.clone(), state.clone(), file.clone());
        let limit = size.or(wanted.max_size()).unwrap_or(most);
        let publish = move |available| _ = progress.send_replace(running(read.clone(), available));
        let readable = source.readable.clone();
        let writer =
            tokio::spawn(blocking(move || fetcher.write(incoming, limit, receiver, &readable, publish)));
        let received = transfer.pull(opened, &sender).await;
        drop(sender);
        let written = writer.await.map_err(FetchError::store)??;
        // An upstream that broke off is the cause of the short file that the writer then sees.
        received?;
        let committed = written.map_err(|e| match e {
            VerifyError::Store(e) => FetchError::store(e),
            wrong => {
                transfer.were_wrong();
                let urls: Vec<&str> = transfer.used().collect();
                FetchError::Wrong { url: urls.join(" and "), problem: wrong.to_string() }
            }
        })?;
        Ok((file, committed.blob))
    }

    /// Runs on a thread that may block: hashing and writing. `publish` is told how much may be read.
    fn write(
        &self,
        mut incoming: Incoming,
        limit: u64,
        mut chunks: mpsc::Receiver<Bytes>,
        readable: &Readable,
        publish: impl Fn(u64),
    ) -> Result<Committed, VerifyError> {
        let mut published = 0;
        while let Some(chunk) = chunks.blocking_recv() {
            if incoming.written() + chunk.len() as u64 > limit {
                return Err(VerifyError::TooLong { size: limit });
            }
            incoming.write(&chunk)?;
            let available = match readable {
                Readable::Arrived => incoming.written().min(limit.saturating_sub(1)),
                Readable::Pieces(_) => incoming.verified().min(limit.saturating_sub(1)),
                Readable::Nothing => 0,
            };
            // Everyone who waits wakes up and reads: rather a few times for much than for every packet.
            if chunks.is_empty() || available - published >= READ_CHUNK {
                publish(available);
                published = available;
            }
        }
        self.commit(incoming)
    }

    fn commit(&self, incoming: Incoming) -> Result<Committed, VerifyError> {
        let committed = self.store.commit(incoming.verify()?)?;
        if let Err(e) = self.db.put_hashes(&committed.hashes) {
            tracing::warn!(blob = %committed.blob.id, error = %e, "cannot save digests");
        }
        Ok(committed)
    }

    /// Takes bytes into the store that are there already. Blocks.
    pub fn keep(&self, blob: Blob, bytes: &[u8]) -> Result<Committed, VerifyError> {
        let mut incoming = self.store.incoming(blob.into())?;
        incoming.write(bytes)?;
        self.commit(incoming)
    }

    /// Takes a local file into the store, verified like any other. Blocks.
    pub fn ingest_file(&self, expected: Expected, path: &std::path::Path) -> Result<Committed, VerifyError> {
        let (mut input, _) = regular::open(path)?;
        let mut incoming = self.store.incoming(expected)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match io::Read::read(&mut input, &mut buffer)? {
                0 => break,
                n => incoming.write(&buffer[..n])?,
            }
        }
        self.commit(incoming)
    }
}

/// Runs what blocks on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(FetchError::store)
}

#[cfg(test)]
mod readable_tests;
