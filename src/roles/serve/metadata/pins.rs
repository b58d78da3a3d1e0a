//! Which generation each client is in the middle of reading.
//!
//! A client that has just read `Release` continues with `Release.gpg` and `main/binary-amd64/Packages.xz`, names
//! that are the same in every generation. If the next one is adopted in between, it must still get those of
//! the one that it began with. Names that hold a digest need none of this.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use moka::sync::Cache;

use super::repo::Repo;
use crate::catalog::{Unit, UnitKey};
use crate::model::RepoPath;
use crate::roles::serve::http::request::Asked;

/// Readers remembered.
const MAX_READERS: u64 = 200_000;
/// From a generation's first file on: apt fetches its lists within this on any usable line. Whoever asks later
/// without reading the first file again gets the current generation.
const READING: Duration = Duration::from_secs(300);

/// A metalink is followed at once. Short, because other clients at the address that use a list get an earlier
/// generation so long.
const PROMISE: Duration = Duration::from_secs(30);

/// A connection, or with port 0 an address. apt has one connection to a server, so that its own is known even
/// where many share an address. dnf has several and wget a new one for each file: for them, the last
/// generation that anyone at the address began with is the best guess.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reader {
    client: IpAddr,
    port: u16,
    repo: usize,
    unit: UnitKey,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Pins {
    begun: Cache<Reader, u64>,
    promised: Cache<Reader, u64>,
}

impl Default for Pins {
    fn default() -> Self {
        let readers = |time| Cache::builder().max_capacity(MAX_READERS).time_to_live(time).build();
        Self { begun: readers(READING), promised: readers(PROMISE) }
    }
}

impl Pins {
    /// Notes that a client got the file of a unit that it reads first.
    pub fn begin(&self, asked: &Asked, repo: &Repo, unit: &Unit) {
        for port in [asked.port, 0] {
            self.begun.insert(reader(asked, port, repo, &unit.key), unit.generation);
        }
    }

    /// Notes that a metalink has told a client the digests of this generation's first file.
    pub fn promise(&self, asked: &Asked, repo: &Repo, unit: &Unit) {
        self.promised.insert(reader(asked, 0, repo, &unit.key), unit.generation);
    }

    /// The generation whose first file a client is about to fetch, having its digests.
    pub fn promised(&self, asked: &Asked, repo: &Repo, key: &UnitKey) -> Option<Arc<Unit>> {
        let generation = self.promised.get(&reader(asked, 0, repo, key))?;
        repo.snapshot().generation(key, generation).cloned()
    }

    /// The earlier generation that a client is reading, if `path` belongs to it and to the current one.
    pub fn earlier(&self, asked: &Asked, repo: &Repo, path: &RepoPath) -> Option<Arc<Unit>> {
        let snapshot = repo.snapshot();
        let current = snapshot.units().find(|unit| unit.covers(path))?;
        let of = |port| self.begun.get(&reader(asked, port, repo, &current.key));
        let own = has_one_connection(asked).then(|| of(asked.port)).flatten();
        let generation = own.or_else(|| of(0))?;
        if generation == current.generation {
            return None;
        }
        snapshot.generation(&current.key, generation).cloned()
    }
}

fn reader(asked: &Asked, port: u16, repo: &Repo, unit: &UnitKey) -> Reader {
    Reader { client: asked.client, port, repo: repo.index, unit: unit.clone() }
}

fn has_one_connection(asked: &Asked) -> bool {
    asked.header(header::USER_AGENT).is_some_and(|agent| agent.starts_with("Debian APT-HTTP"))
}

/// Whether clients read this file first, and all others of its generation after it.
pub fn is_first(path: &RepoPath) -> bool {
    matches!(path.file_name(), "InRelease" | "Release" | "repomd.xml")
}
