//! Which blob is a file whose metadata gives no SHA-256? Only its bytes tell; they are read once.
//!
//! Files from upstreams are hashed as they arrive. Those of local trees are read here, in the background when their
//! metadata is adopted; one that a client asks for before its turn is read at once ([`tree`](super::tree)).

use std::sync::Arc;
use std::time::Duration;

use super::tree_scrub;
use crate::catalog::Unit;
use crate::roles::serve::state::Server;

/// Bytes read at a time; requests take their turns in between.
const TURN: u64 = 4 << 20;

/// Learns about every file of a generation in a local tree, one after the other; returns how many were read.
pub async fn learn_all(server: &Arc<Server>, repo: usize, unit: &Unit) -> u64 {
    if server.repos[repo].tree().is_none() {
        return 0;
    }
    let mut read = 0;
    let mut files = unit.packages.cursor();
    while let Some((path, expected)) = files.next() {
        // Nothing is known then, and nothing learned.
        if server.db.is_closed() {
            break;
        }
        if server.packages.resolve(&expected).is_none() {
            let no_pause = |_| Duration::ZERO;
            read += u64::from(tree_scrub::read(server, repo, path, TURN, no_pause).await.is_some());
        }
    }
    read
}
