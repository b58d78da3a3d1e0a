//! What a volunteer sends: the uploads that run, and the bytes that went, to clients and to other volunteers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::returners::Returners;
use crate::formats::control::{MAX_UPLOADS, Report};
use crate::io::endings::Endings;
use crate::io::shaper::Class;
use crate::model::{Blob, BlobId};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Uploads {
    state: Mutex<State>,
    next: AtomicU64,
    served_bytes: AtomicU64,
    served_requests: AtomicU64,
    sync_bytes: AtomicU64,
    ended: Notify,
    endings: Endings,
}

/// By the order of their beginning, with what is left of each.
type Running = BTreeMap<u64, (BlobId, Arc<AtomicU64>)>;

#[derive(Debug, Default)]
struct State {
    clients: Running,
    sync: Running,
}

impl State {
    fn of(&mut self, class: Class) -> &mut Running {
        match class {
            Class::Client => &mut self.clients,
            Class::Sync => &mut self.sync,
        }
    }
}

/// One running upload; dropped with the response's body, however that ends.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    class: Class,
    number: u64,
    remaining: Arc<AtomicU64>,
    len: u64,
    since: Instant,
    blob: BlobId,
    client: IpAddr,
    returners: Arc<Returners>,
}

impl Upload {
    /// Counts bytes as they leave.
    pub fn sent(&self, bytes: u64) {
        let counter = match self.class {
            Class::Client => &self.uploads.served_bytes,
            Class::Sync => &self.uploads.sync_bytes,
        };
        counter.fetch_add(bytes, Relaxed);
        self.remaining.fetch_sub(bytes.min(self.remaining.load(Relaxed)), Relaxed);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        match (self.class, self.remaining.load(Relaxed)) {
            // Another volunteer goes on elsewhere by itself.
            (Class::Sync, _) => {}
            (Class::Client, 0) => self.uploads.endings.add(self.blob, self.len, self.since.elapsed()),
            (Class::Client, _) => self.returners.broke_off(self.client, self.blob),
        }
        self.uploads.lock().of(self.class).remove(&self.number);
        self.uploads.ended.notify_waiters();
    }
}

impl Uploads {
    /// Books an upload of `len` bytes.
    pub fn start(
        self: &Arc<Self>,
        class: Class,
        blob: BlobId,
        client: IpAddr,
        len: u64,
        returners: Arc<Returners>,
    ) -> Upload {
        let remaining = Arc::new(AtomicU64::new(len));
        let number = self.next.fetch_add(1, Relaxed);
        if class == Class::Client {
            self.served_requests.fetch_add(1, Relaxed);
        }
        self.lock().of(class).insert(number, (blob, remaining.clone()));
        let since = Instant::now();
        Upload { uploads: self.clone(), class, number, remaining, len, since, blob, client, returners }
    }

    /// Uploads that run.
    pub fn running(&self, class: Class) -> usize {
        self.lock().of(class).len()
    }

    /// Whether anybody is being sent this blob.
    pub fn is_sending(&self, blob: BlobId) -> bool {
        let state = self.lock();
        state.clients.values().chain(state.sync.values()).any(|(sent, _)| *sent == blob)
    }

    /// Completes when no client downloads.
    pub async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if self.running(Class::Client) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// The part of a heartbeat that is known here.
    pub fn report(&self) -> Report {
        let left = |running: &Running| {
            let one = |(blob, left): &(BlobId, Arc<AtomicU64>)| Blob { id: *blob, size: left.load(Relaxed) };
            running.values().take(MAX_UPLOADS).map(one).collect()
        };
        let state = self.lock();
        Report {
            uploads: u32::try_from(state.clients.len()).unwrap_or(u32::MAX),
            remaining: left(&state.clients),
            served_bytes: self.served_bytes.load(Relaxed),
            served_requests: self.served_requests.load(Relaxed),
            sync_bytes: self.sync_bytes.load(Relaxed),
            sync_uploads: left(&state.sync),
            ended: self.endings.take(),
            ..Report::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
