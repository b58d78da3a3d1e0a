//! Carries the policy's orders out: tells volunteers what to fetch and from whom, and what to let go.

use std::time::Duration;

use super::server::Server;
use crate::formats::control::{MAX_SOURCES, PeerSource, ToVolunteer};
use crate::formats::ticket;
use crate::io::clock;
use crate::model::{Blob, Size, encode_path};
use crate::policy::{Event, NodeNo, Order, Params, Task};

/// How often the server looks how busy it is, for the share of their lines that volunteers give each other.
const SHARE_EVERY: Duration = Duration::from_secs(2);
/// The server is no longer nearly full below this part of what made it that.
const IS_OVER: f64 = 0.9;

/// Tells volunteers what is ordered of them. An order that reaches nobody has failed.
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
            tracing::debug!(blob = %blob.id, size = %Size(blob.size), "ordered a copy to be let go");
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

/// Lets volunteers help each other more while the server is nearly full; ends with the process.
pub async fn keep_share(server: std::sync::Arc<Server>) {
    let mut tick = tokio::time::interval(SHARE_EVERY);
    let params = Params::default();
    let mut is_busy = false;
    loop {
        tick.tick().await;
        let load = server.traffic.load(server.config.uplink);
        let now = load >= params.origin_load * if is_busy { IS_OVER } else { 1.0 };
        if now != is_busy {
            is_busy = now;
            let share = if is_busy { params.sync_share_busy } else { params.sync_share };
            let percent = (share * 100.0) as u8;
            tracing::info!(load_percent = (load * 100.0) as u64, percent, "volunteers' share for each other");
            server.set_sync_share(percent);
        }
    }
}
