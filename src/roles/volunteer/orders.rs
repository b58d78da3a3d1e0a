//! Orders of the server: fetch a blob from other volunteers or from the server, or drop one.
//!
//! Fetched bytes are verified like everything that enters a store. Sources of wrong bytes are only named to the server,
//! which finds out itself whether that is so.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use tokio::sync::{Semaphore, mpsc};

use super::edge::Edge;
use crate::formats::control::{
    FetchOrder, HoldingsChange, MAX_FETCHES, MAX_SOURCE_URL, MAX_SOURCES, PieceDigests, SYNC_HEADER, ToServer,
};
use crate::io::fetch::{FetchError, Given, OnGiven, Readable, Source};
use crate::model::{Blob, BlobId, VolunteerId, encode_path};

/// How long the proof is valid that this volunteer fetches on order: trying others first may take minutes.
const PROOF_SECS: u64 = 3600;

/// The orders of one session.
#[derive(Clone, Debug)]
pub struct Orders {
    edge: Arc<Edge>,
    permits: Arc<Semaphore>,
    /// Where outcomes go.
    outcomes: mpsc::Sender<ToServer>,
}

impl Orders {
    pub fn new(edge: Arc<Edge>, outcomes: mpsc::Sender<ToServer>) -> Self {
        Self { edge, permits: Arc::new(Semaphore::new(MAX_FETCHES)), outcomes }
    }

    /// Fetches a blob in a task of its own.
    pub fn fetch(&self, order: FetchOrder) {
        let orders = self.clone();
        orders.edge.told.ordered();
        tokio::spawn(async move {
            let Ok(_permit) = orders.permits.acquire().await else { return };
            let (blob, file) = (order.blob, order.file_name.clone());
            let (fetched, bad) = fetch(&orders.edge, order).await;
            tracing::debug!(file, ok = fetched.is_ok(), bad = bad.len(), "order ended");
            orders.done(blob.id, fetched.err().map(|e| e.to_string()), bad).await;
        });
    }

    /// Removes a blob from the store in a task of its own.
    pub fn let_go(&self, blob: BlobId) {
        let orders = self.clone();
        orders.edge.told.ordered();
        tokio::spawn(async move {
            let edge = orders.edge.clone();
            let removing = tokio::task::spawn_blocking(move || {
                !edge.uploads.is_sending(blob) && edge.fetcher.store.remove(blob)
            });
            let is_gone = removing.await.unwrap_or(false);
            // The server counts it as gone since it gave the order.
            if orders.edge.holds(blob) {
                orders.edge.journal.push(HoldingsChange::Add, [blob]);
            }
            orders
                .done(blob, (!is_gone).then(|| "it is in use, or not in the store".to_owned()), Vec::new())
                .await;
        });
    }

    async fn done(&self, blob: BlobId, error: Option<String>, bad: Vec<VolunteerId>) {
        self.edge.told.carried_out(error.as_deref());
        // The session may have ended meanwhile; the next one announces what is held.
        let _ = self.outcomes.send(ToServer::Done { blob, error, bad }).await;
    }
}

/// Fetches a blob; also returns which sources sent wrong bytes.
async fn fetch(edge: &Arc<Edge>, order: FetchOrder) -> (Result<Blob, FetchError>, Vec<VolunteerId>) {
    let FetchOrder { blob, file_name, mut sources, pieces } = order;
    sources.retain(|source| source.url.len() <= MAX_SOURCE_URL && source.id != edge.id);
    sources.truncate(MAX_SOURCES);
    let name = encode_path(&file_name.replace('/', "_"));
    let direct = format!("{}/direct/_blob/{}/{name}", edge.config.server, blob.id);
    let bad = Arc::new(Mutex::new(BTreeSet::new()));
    let source = Source {
        urls: sources.iter().map(|source| source.url.clone()).chain([direct.clone()]).collect(),
        label: file_name,
        headers: sync_header(edge, blob, &name),
        peers: sources.len(),
        peer_headers: header(edge.id.as_str()),
        told: on_given(edge, sources.len(), bad.clone()),
        readable: readable(blob, !sources.is_empty(), pieces),
        ..Source::default()
    };
    let server_alone = Source {
        urls: vec![direct],
        peers: 0,
        told: on_given(edge, 0, Arc::default()),
        readable: Readable::Arrived,
        ..source.clone()
    };
    let mut fetched = edge.fetcher.get_whole(blob, source).await;
    // One that begins a file wrongly and leaves the rest to the server makes that look bad too.
    if !sources.is_empty() && matches!(fetched, Err(FetchError::Wrong { .. })) {
        fetched = edge.fetcher.get_whole(blob, server_alone).await;
    }
    let bad = bad.lock().unwrap_or_else(PoisonError::into_inner);
    (fetched, bad.iter().map(|&index| sources[index].id.clone()).collect())
}

/// What may be passed on before all of it is there. The server is trusted, as everything that it says is; another
/// volunteer's word would make each of those that fetch from it spoil downloads in its stead.
fn readable(blob: Blob, has_peers: bool, pieces: Option<PieceDigests>) -> Readable {
    match pieces.and_then(|pieces| pieces.of_size(blob.size)) {
        _ if !has_peers => Readable::Arrived,
        Some(sha256) => Readable::Pieces(sha256.into()),
        None => Readable::Nothing,
    }
}

/// Counts the bytes, and notes which of the first `peers` URLs sent wrong ones.
fn on_given(edge: &Arc<Edge>, peers: usize, bad: Arc<Mutex<BTreeSet<usize>>>) -> OnGiven {
    let edge = edge.clone();
    OnGiven(Some(Arc::new(move |index, given| match given {
        Given::Bytes(bytes) if index < peers => _ = edge.peer_bytes.fetch_add(bytes, Relaxed),
        Given::Bytes(bytes) => _ = edge.fetched_bytes.fetch_add(bytes, Relaxed),
        Given::Wrong if index < peers => {
            bad.lock().unwrap_or_else(PoisonError::into_inner).insert(index);
        }
        Given::Wrong => {}
    })))
}

/// Proves to the server that this volunteer fetches on its order.
fn sync_header(edge: &Edge, blob: Blob, name: &str) -> HeaderMap {
    let Some(key) = edge.key() else { return HeaderMap::new() };
    let proof = Blob { size: 0, ..blob };
    let signed = key.sign(proof, edge.server_now_secs() + PROOF_SECS, name);
    header(&format!("{} {signed}", edge.id))
}

fn header(text: &str) -> HeaderMap {
    let value = text.parse().ok().map(|value| (http::HeaderName::from_static(SYNC_HEADER), value));
    value.into_iter().collect()
}
