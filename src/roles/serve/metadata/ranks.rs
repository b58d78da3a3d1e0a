//! Which kept blobs a retained generation names: what none names goes first when a store needs room, and
//! metadata that one names never goes.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Unit;
use crate::io::store::Rank;
use crate::model::{BlobId, Digest, Digests};
use crate::roles::serve::state::Server;

/// After a change of the catalog others follow: one pass over the stores for all of them.
const SETTLE: Duration = Duration::from_secs(20);
/// There are many packages, and few lose their name at a time: every this many passes.
const PACKAGES_EVERY: u64 = 30;

/// Sorts both stores' blobs again after every change of the catalog; ends with the process.
pub async fn keep(server: Arc<Server>) {
    let (mut seen, mut seen_by_packages) = (None, None);
    for round in 0_u64.. {
        let version = Some(server.catalog_version());
        let (metadata, packages) =
            (seen != version, round.is_multiple_of(PACKAGES_EVERY) && seen_by_packages != version);
        let ranking = server.clone();
        let rank = move || {
            if metadata {
                rank_metadata(&ranking);
            }
            if packages {
                rank_packages(&ranking);
            }
        };
        // It is only ended by the end of the program.
        let _ = tokio::task::spawn_blocking(rank).await;
        seen = version;
        if packages {
            seen_by_packages = version;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

fn rank_packages(server: &Server) {
    server.packages.store.rank(|id| if server.find(id).is_empty() { Rank::Unnamed } else { Rank::Named });
}

fn rank_metadata(server: &Server) {
    let snapshots: Vec<_> = server.repos.iter().map(|repo| repo.snapshot().clone()).collect();
    let units: Vec<&Arc<Unit>> = snapshots.iter().flat_map(|snapshot| snapshot.retained()).collect();
    server.metadata.store.rank(|id| {
        let digests = digests(server, id);
        if units.iter().any(|unit| names(unit, id, &digests)) { Rank::Pinned } else { Rank::Unnamed }
    });
}

/// Every digest with which metadata may name a blob.
fn digests(server: &Server, id: BlobId) -> Vec<Digest> {
    let known = server.db.digests(id).ok().flatten();
    known.iter().flat_map(Digests::aliases).chain([id.digest()]).collect()
}

fn names(unit: &Unit, id: BlobId, digests: &[Digest]) -> bool {
    unit.roots.values().any(|root| root.blob.id == id)
        || digests.iter().any(|digest| unit.members.path_of(digest).is_some())
}
