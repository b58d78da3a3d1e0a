//! The direct URL held back from clients that were given a metalink just now.

use std::net::IpAddr;
use std::time::Duration;

use moka::sync::Cache;

use crate::io::clock;
use crate::model::{Blob, BlobId, Time};

/// How long after a metalink its client's direct URL is held back: this, and as long as the file takes at 4 MiB/s.
/// Most packages have come from volunteers by then. Not longer, because it is lost where all of them are gone.
const COURTESY: Duration = Duration::from_secs(1);

const COURTESY_RATE: u64 = 4 << 20;

const MAX_COURTESY: Duration = Duration::from_secs(15);

/// Maximum number of clients and blobs remembered.
const MAX_COURTESIES: u64 = 100_000;

/// Who was given a metalink just now, of what, and until when that is. libzypp takes all of its URLs at once, so that the direct one
/// would carry a good part of every package: it waits, and finds itself unwanted unless volunteers fail.
#[derive(Debug)]
pub struct Courtesy(Cache<(IpAddr, BlobId), Time>);

impl Default for Courtesy {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_COURTESIES).time_to_live(MAX_COURTESY).build())
    }
}

impl Courtesy {
    pub fn begin(&self, client: IpAddr, blob: Blob) {
        let courtesy = (COURTESY + Duration::from_secs(blob.size / COURTESY_RATE)).min(MAX_COURTESY);
        self.0.insert((client, blob.id), clock::now() + courtesy);
    }

    /// Returns when volunteers have had their time.
    pub async fn wait(&self, client: IpAddr, blob: BlobId) {
        if let Some(end) = self.0.get(&(client, blob)) {
            // A clock that was set back must not make it longer.
            tokio::time::sleep(end.since(clock::now()).min(MAX_COURTESY)).await;
        }
    }
}
