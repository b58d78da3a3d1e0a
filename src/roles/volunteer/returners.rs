//! Clients that did not get their file here. A client that returns is sent to the server: apt
//! asks the same volunteer again and again, and what broke the first time may well break once more.

use std::net::IpAddr;
use std::time::Duration;

use moka::sync::Cache;

use crate::model::BlobId;

/// Covers the retries of apt with their pauses, and its 30 s of waiting before one.
const MEMORY: Duration = Duration::from_secs(90);
/// About 100 bytes each.
const MAX_REMEMBERED: u64 = 20_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct Returners {
    /// Whose download ended early.
    broken: Cache<(IpAddr, BlobId), ()>,
    /// Whose line from here carries next to nothing, and how often that showed: many may stand behind one
    /// address, one of them slow.
    slow: Cache<IpAddr, u32>,
}

impl Returners {
    pub fn new() -> Self {
        Self {
            broken: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(MEMORY).build(),
            slow: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(MEMORY).build(),
        }
    }

    pub fn broke_off(&self, client: IpAddr, blob: BlobId) {
        self.broken.insert((client, blob), ());
    }

    pub fn is_slow(&self, client: IpAddr) {
        self.slow.insert(client, self.slow.get(&client).unwrap_or(0) + 1);
    }

    /// Whether the server is the better place for this client's download.
    pub fn knows(&self, client: IpAddr, blob: BlobId) -> bool {
        self.broken.contains_key(&(client, blob)) || self.slow.get(&client) > Some(1)
    }
}
