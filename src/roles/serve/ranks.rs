//! Which kept blobs a retained generation names: what none names goes first when a store needs room, and
//! metadata that one names never goes.

use std::sync::Arc;
use std::time::Duration;

use super::server::Server;
use crate::catalog::Unit;
use crate::io::store::Rank;
use crate::model::{Algorithm, BlobId, Digest};

/// After a change of the catalog others follow: one pass over the stores for all of them.
const SETTLE: Duration = Duration::from_secs(20);

/// Sorts both stores' blobs anew after every change of the catalog; ends with the process.
pub async fn keep(server: Arc<Server>) {
    let mut seen = None;
    loop {
        let version = server.catalog_version();
        if seen != Some(version) {
            let ranking = server.clone();
            // It is only ended by the end of the program.
            let _ = tokio::task::spawn_blocking(move || rank(&ranking)).await;
            seen = Some(version);
        }
        tokio::time::sleep(SETTLE).await;
    }
}

fn rank(server: &Server) {
    server.packages.store.rank(|id| if server.find(id).is_empty() { Rank::Unnamed } else { Rank::Named });
    let snapshots: Vec<_> = server.repos.iter().map(|repo| repo.snapshot().clone()).collect();
    let units: Vec<&Arc<Unit>> = snapshots.iter().flat_map(|snapshot| snapshot.retained()).collect();
    server.metadata.store.rank(|id| {
        let digests = digests(server, id);
        if units.iter().any(|unit| names(unit, id, &digests)) { Rank::Pinned } else { Rank::Unnamed }
    });
}

/// Every digest by which metadata may name a blob.
fn digests(server: &Server, id: BlobId) -> Vec<Digest> {
    let known = server.db.digests(id).ok().flatten();
    let others = [Algorithm::Sha512, Algorithm::Sha1].map(|algorithm| known.map(|all| all.get(algorithm)));
    others.into_iter().flatten().chain([id.digest()]).collect()
}

fn names(unit: &Unit, id: BlobId, digests: &[Digest]) -> bool {
    unit.roots.values().any(|root| root.blob.id == id)
        || digests.iter().any(|digest| unit.members.path_of(digest).is_some())
}
