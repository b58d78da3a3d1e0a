//! Packages that the server itself is sending: running downloads of each, and how the finished ones fared.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::Response;

use crate::formats::control::Ended;
use crate::io::body::Body;
use crate::io::endings::Endings;
use crate::io::respond::content_length;
use crate::model::BlobId;
use crate::roles::serve::http::traffic::Kind;

/// Shorter ones are over before anybody could count them.
const LEAST: u64 = 64 << 10;
/// Maximum number of different blobs in a report.
const MAX_BLOBS: usize = 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Downloads {
    running: Mutex<BTreeMap<BlobId, u32>>,
    endings: Endings,
}

/// A running download; dropped with the response's body, however that ends.
#[derive(Debug)]
struct Download {
    downloads: Arc<Downloads>,
    blob: BlobId,
    len: u64,
    left: AtomicU64,
    since: Instant,
}

impl Downloads {
    /// Follows the answer to a client, if it brings a package.
    pub fn follow(
        self: &Arc<Self>,
        kind: Kind,
        blob: Option<BlobId>,
        response: Response<Body>,
    ) -> Response<Body> {
        let len = content_length(&response);
        let Some(blob) = blob.filter(|_| kind == Kind::Package && len >= LEAST) else { return response };
        if matches!(response.body(), Body::Empty) {
            return response;
        }
        *self.running().entry(blob).or_default() += 1;
        let (downloads, since) = (self.clone(), Instant::now());
        let download = Download { downloads, blob, len, left: AtomicU64::new(len), since };
        response.map(|body| {
            body.counted(move |bytes| {
                let left = download.left.load(Relaxed);
                download.left.store(left.saturating_sub(bytes), Relaxed);
            })
        })
    }

    /// Those that run, and a sample of those that ended since this was last asked.
    pub fn take(&self) -> (Vec<(BlobId, u32)>, Vec<Ended>) {
        let running = self.running().iter().take(MAX_BLOBS).map(|(blob, count)| (*blob, *count)).collect();
        (running, self.endings.take())
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<BlobId, u32>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut running = self.downloads.running();
        if let Some(count) = running.get_mut(&self.blob) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.blob);
            }
        }
        drop(running);
        if self.left.load(Relaxed) == 0 {
            self.downloads.endings.add(self.blob, self.len, self.since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use http::header;
    use http_body_util::BodyExt;

    use super::*;

    fn answer(downloads: &Arc<Downloads>, kind: Kind, len: u64) -> Response<Body> {
        let body = Body::stream(stream::iter([Ok(Bytes::from(vec![0; len as usize]))]));
        let response = Response::builder().header(header::CONTENT_LENGTH, len).body(body);
        downloads.follow(kind, Some(BlobId([1; 32])), response.expect("valid"))
    }

    #[tokio::test]
    async fn counts_what_runs_and_samples_what_ended() {
        let downloads = Arc::new(Downloads::default());
        let first = answer(&downloads, Kind::Package, LEAST);
        let second = answer(&downloads, Kind::Package, LEAST);
        let _others = (answer(&downloads, Kind::Sync, LEAST), answer(&downloads, Kind::Package, LEAST - 1));
        assert_eq!(downloads.take().0, [(BlobId([1; 32]), 2)]);
        drop(first.into_body().collect().await);
        // This client leaves.
        drop(second);
        let (running, ended) = downloads.take();
        assert!(running.is_empty());
        assert_eq!(ended.iter().map(|ended| ended.blob).collect::<Vec<_>>(), [BlobId([1; 32])]);
        assert!(downloads.take().1.is_empty());
    }
}
