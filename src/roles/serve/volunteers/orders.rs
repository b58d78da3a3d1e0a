//! Carries out the policy's orders: tells volunteers what to fetch, where from, and what to drop.

use std::sync::Arc;
use std::time::Duration;

use crate::formats::control::{FetchOrder, MAX_SOURCES, PeerSource, PieceDigests, ToVolunteer};
use crate::formats::ticket;
use crate::io::clock;
use crate::model::{Blob, BlobId, Pieces, Size, encode_path};
use crate::policy::{Event, NodeNo, Order, Task};
use crate::roles::serve::packages::package;
use crate::roles::serve::state::Server;

/// How often the policy is asked for the share of their lines that volunteers give each other.
const SHARE_EVERY: Duration = Duration::from_secs(2);
/// A smaller share is sent after it has been requested this often: a second's pause is not the end.
const IS_OVER: u32 = 15;

/// An order waits this long for the digests of its file's pieces.
const PIECES_PATIENCE: Duration = Duration::from_secs(15);

/// Sends orders to volunteers. An order that reaches no volunteer has failed.
pub fn send(server: &Arc<Server>, orders: &[Order]) {
    for order in orders {
        match lacks_pieces(server, order) {
            true => drop(tokio::spawn(send_with_pieces(server.clone(), order.clone()))),
            false => give(server, order),
        }
    }
}

fn give(server: &Server, order: &Order) {
    let Order { node, epoch, blob, .. } = *order;
    // A full or closed outbox loses the order.
    let is_sent =
        message(server, order).is_some_and(|message| server.fleet.sessions.tell(node, epoch, message));
    if !is_sent {
        let lost = Event::OrderEnded { node, epoch, blob: blob.id, failed: true };
        server.fleet.handle(lost, clock::now());
    }
}

/// Whether it names a source that is still fetching the file itself, and nothing is known by which to verify what that
/// one passes on.
fn lacks_pieces(server: &Server, order: &Order) -> bool {
    let blob = order.blob;
    let Task::Fetch { peers } = &order.task else { return false };
    !peers.is_empty()
        && !Pieces::is_one(blob.size)
        && matches!(server.db.pieces(blob), Ok(None))
        && holders(server, blob.id, peers).len() < peers.len()
}

/// Those of them that have the whole file.
fn holders(server: &Server, blob: BlobId, peers: &[NodeNo]) -> Vec<NodeNo> {
    let all = server.fleet.holders(blob);
    peers.iter().filter(|peer| all.contains(peer)).copied().collect()
}

/// The server's line is what such an order spares, so it is worth a look at the file here.
async fn send_with_pieces(server: Arc<Server>, order: Order) {
    if tokio::time::timeout(PIECES_PATIENCE, package::read_pieces(&server, order.blob)).await.is_err() {
        tracing::debug!(blob = %order.blob.id, "ordered before the digests of its pieces are known");
    }
    give(&server, &order);
}

fn message(server: &Server, order: &Order) -> Option<ToVolunteer> {
    let blob = order.blob;
    match &order.task {
        Task::Fetch { peers } => {
            // What no catalog names has no name to be fetched by.
            let found = server.find(blob.id);
            let (repo, path, _) = found.first()?;
            let pieces = server.db.pieces(blob).ok().flatten();
            // From one that is still fetching it itself, only what can be verified as it comes.
            let peers = match pieces.is_some() || Pieces::is_one(blob.size) {
                true => peers.clone(),
                false => holders(server, blob.id, peers),
            };
            let sources = sources(server, blob, path.file_name(), &peers);
            let (name, path) = (repo.config.name.as_str(), path.as_str());
            tracing::debug!(repo = name, path, size = %Size(blob.size), peers = sources.len(), "ordered a copy");
            let file_name = found.first()?.1.file_name().to_owned();
            let pieces = pieces.map(PieceDigests::from);
            Some(ToVolunteer::Fetch(FetchOrder { blob, file_name, sources, pieces }))
        }
        Task::Drop => {
            tracing::debug!(blob = %blob.id, size = %Size(blob.size), "ordered a copy to be dropped");
            Some(ToVolunteer::Drop { blob: blob.id })
        }
    }
}

/// Where to ask the peers, each signed with its own key.
fn sources(server: &Server, blob: Blob, file_name: &str, peers: &[NodeNo]) -> Vec<PeerSource> {
    let expiry = clock::now().as_secs() + ticket::LIFETIME_SECS;
    let name = encode_path(file_name);
    let source = |node: &NodeNo| {
        let (id, base_url, key) = server.fleet.address_of(*node)?;
        Some(PeerSource { id, url: format!("{base_url}{}", key.sign(blob, expiry, &name)) })
    };
    peers.iter().filter_map(source).take(MAX_SOURCES).collect()
}

/// Tells volunteers when the policy wants them to help each other more, or no longer; ends with the process.
pub async fn keep_share(server: Arc<Server>) {
    let mut tick = tokio::time::interval(SHARE_EVERY);
    let mut told = server.fleet.params.sync_share;
    let mut asked_for_less = 0;
    loop {
        tick.tick().await;
        let share = server.fleet.sync_share();
        asked_for_less = if share < told { asked_for_less + 1 } else { 0 };
        if share > told || asked_for_less >= IS_OVER {
            (told, asked_for_less) = (share, 0);
            let percent = (share * 100.0).round() as u8;
            tracing::info!(percent, "limit of copies between volunteers while clients download");
            server.fleet.sessions.set_sync_share(percent);
        }
    }
}
