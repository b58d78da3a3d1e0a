//! How a volunteer is seen: in words for whoever runs it, and in numbers for the server's status.

use crate::config::Networks;
use crate::formats::status::VolunteerStatus;
use crate::model::{Seen, Time};
use crate::policy::{Node, NodeState, Params};

/// How a volunteer is seen, in words for its administrator.
pub fn seen(node: &Node, networks: &Networks, params: &Params, now: Time) -> Seen {
    let state = node.state(params, now);
    let gets_clients = state == NodeState::Up;
    let problem = match state {
        NodeState::Up => None,
        NodeState::Testing => Some("whether clients can reach it is being tested".to_owned()),
        _ => node.standing.problem.clone(),
    };
    let limits = [
        (node.is_local, "clients on the server's own machine: its address is a loopback one"),
        (!node.clients.is_empty(), "clients of the networks that it names itself"),
        (networks.limit(&node.id), "clients of the networks that the server's configuration names for it"),
        (
            node.standing.is_volatile(params, node.connected, now),
            "clients that can turn elsewhere: it recently left without notice, or is declared volatile",
        ),
    ];
    let limits = limits.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text.to_owned()).collect();
    Seen { state: state.name().to_owned(), gets_clients, problem, limits }
}

/// A volunteer as the status API shows it.
pub fn volunteer(node: &Node, params: &Params, now: Time) -> VolunteerStatus {
    VolunteerStatus {
        id: node.id.clone(),
        address: node.base_url.to_string(),
        state: node.state(params, now).name().to_owned(),
        holdings: node.holdings,
        orders: node.open_orders() as u64,
        uploads: node.load.uploads,
        in_flight: node.in_flight() as u64,
        rate: node.rate() as u64,
        donate: node.donate.0,
        served_bytes: node.load.served_bytes,
        tested_bytes: node.tested_bytes,
        served_requests: node.load.served_requests,
        redirected_bytes: node.redirected_bytes,
        last_report_unix_secs: node.last_seen.as_secs(),
        problem: node.standing.problem.clone(),
        is_volatile: node.standing.is_volatile(params, node.connected, now),
        complaints: node.standing.complaints,
        sync_bytes: node.load.sync_bytes,
        sync_uploads: node.load.syncs.len() as u64,
        peer_bytes: node.load.peer_bytes,
        fetched_bytes: node.load.fetched_bytes,
        store_bytes: node.load.store_bytes,
        max_size: node.max_size.0,
        adopted_holdings: node.load.adopted,
    }
}
