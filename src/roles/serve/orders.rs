//! Carries out the policy's orders: tells volunteers what to fetch, where from, and what to drop.

use std::sync::Arc;
use std::time::Duration;

use super::server::Server;
use crate::formats::control::{MAX_SOURCES, PeerSource, ToVolunteer};
use crate::formats::ticket;
use crate::io::clock;
use crate::model::{Blob, Size, encode_path};
use crate::policy::{Event, NodeNo, Order, Params, Task};

/// How often the policy is asked for the share of their lines that volunteers give each other.
const SHARE_EVERY: Duration = Duration::from_secs(2);
/// A smaller share is sent after it has been requested this often: a second's pause is not the end.
const IS_OVER: u32 = 15;

/// Sends orders to volunteers. An order that reaches no volunteer has failed.
pub fn send(server: &Server, orders: &[Order]) {
    for order in orders {
        let Order { node, epoch, blob, .. } = *order;
        // A full or closed outbox loses the order.
        let is_sent = message(server, order).is_some_and(|message| server.tell(node, epoch, message));
        if !is_sent {
            let lost = Event::OrderEnded { node, epoch, blob: blob.id, failed: true };
            server.policy(|policy| policy.handle(lost, clock::now()));
        }
    }
}

fn message(server: &Server, order: &Order) -> Option<ToVolunteer> {
    let blob = order.blob;
    match &order.task {
        Task::Fetch { peers } => {
            // What no catalog names has no name to be fetched by.
            let found = server.find(blob.id);
            let (repo, path, _) = found.first()?;
            let sources = sources(server, blob, path.file_name(), peers);
            let (name, path) = (repo.config.name.as_str(), path.as_str());
            tracing::debug!(repo = name, path, size = %Size(blob.size), peers = sources.len(), "ordered a copy");
            let file_name = found.first()?.1.file_name().to_owned();
            Some(ToVolunteer::Fetch { blob, file_name, sources })
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
        let (id, base_url, key) = server.address_of(*node)?;
        Some(PeerSource { id, url: format!("{base_url}{}", key.sign(blob, expiry, &name)) })
    };
    peers.iter().filter_map(source).take(MAX_SOURCES).collect()
}

/// Tells volunteers when the policy wants them to help each other more, or no longer; ends with the process.
pub async fn keep_share(server: Arc<Server>) {
    let mut tick = tokio::time::interval(SHARE_EVERY);
    let mut told = Params::default().sync_share;
    let mut asked_for_less = 0;
    loop {
        tick.tick().await;
        let share = server.policy(|policy| policy.tracker().sync_share());
        asked_for_less = if share < told { asked_for_less + 1 } else { 0 };
        if share > told || asked_for_less >= IS_OVER {
            (told, asked_for_less) = (share, 0);
            let percent = (share * 100.0).round() as u8;
            tracing::info!(percent, "limit of copies between volunteers while clients download");
            server.set_sync_share(percent);
        }
    }
}
