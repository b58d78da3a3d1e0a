//! The status of a volunteer, for people.

use std::fmt::Write as _;

use super::{date, duration};
use crate::model::{EdgeStatus, Rate, Size};

pub(super) fn show(edge: &EdgeStatus) -> String {
    let mut text =
        format!("manyhands {}, volunteer {}, up {}\n", edge.version, edge.id, duration(edge.uptime_secs));
    let clients = match edge.gets_clients {
        Some(true) => "clients are sent here",
        Some(false) => "no clients are sent here",
        None => "the server does not say whether clients are sent here",
    };
    let problem = edge.problem.as_deref().map(|problem| format!(": {problem}")).unwrap_or_default();
    let since = edge.joined_unix_secs.map(|joined| format!(", joined {}", date(joined))).unwrap_or_default();
    let address = edge.advertise.as_deref().unwrap_or(&edge.listen);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "state     {}: {clients}{problem}", edge.state);
    for limit in &edge.limits {
        let _ = writeln!(text, "          only {limit}");
    }
    let _ = writeln!(text, "server    {}{since}", edge.server);
    let _ = writeln!(text, "address   {address}");
    let _ = writeln!(
        text,
        "now       {} of {}: {} downloads of clients, {} of other volunteers",
        Rate(edge.rate),
        Rate(edge.donate),
        edge.uploads,
        edge.sync_uploads
    );
    let _ = writeln!(
        text,
        "sent      {} to clients in {} requests, {} to other volunteers; {} requests sent back to the server",
        Size(edge.served_bytes),
        edge.served_requests,
        Size(edge.sync_bytes),
        edge.returned_requests
    );
    let _ = writeln!(
        text,
        "holds     {} files, {} of them in adopted trees; {} of {} in the store",
        edge.holdings,
        edge.adopted_holdings,
        Size(edge.store_bytes),
        Size(edge.max_size)
    );
    for tree in &edge.trees {
        let problem = tree.problem.as_deref().map(|problem| format!("  ({problem})")).unwrap_or_default();
        let _ = writeln!(
            text,
            "tree      {}: adopted {} of {} files{problem}",
            tree.path, tree.adopted, tree.files
        );
    }
    let orders = &edge.orders;
    let last = orders.last_problem.as_deref().map(|problem| format!(", the last one: {problem}"));
    let _ = writeln!(
        text,
        "orders    {} open, {} done, {} failed{}; fetched {} from other volunteers, {} from the server",
        orders.open,
        orders.done,
        orders.failed,
        last.unwrap_or_default(),
        Size(edge.peer_bytes),
        Size(edge.fetched_bytes)
    );
    text
}
