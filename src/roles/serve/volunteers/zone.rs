//! The failover zone at work: who is sent to a volunteer by its name in the zone, what the zone's DNS knows of
//! volunteers, and the requests of clients that failed over to this server.
//!
//! apt asks for the SRV records of a name without a port: it tries the volunteer, then the port of this
//! server that the records name. Where /etc/services is missing it asks for none and comes to port 80 here
//! at once, however well the volunteer is. Such a client is served, remembered, and given host and port from
//! then on, which means without failover. To take another for one would cost it just that, so what counts is
//! certainty:
//!
//! - the volunteer is well, and the client was sent to it by name within the last minute, and
//! - either nobody has asked for the volunteer's SRV records since before that,
//! - or the client came to port 80, although it had asked for the package at the port that the SRV records
//!   name: it can reach that port, and who follows the records tries it first.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Response, StatusCode};
use tokio::sync::oneshot;

use super::enrolment;
use super::failover::Failover;
use crate::formats::ticket::Ticket;
use crate::formats::zone::Place;
use crate::io::body::Body;
use crate::io::clock;
use crate::io::dns::Sockets;
use crate::io::respond::plain;
use crate::io::tunnel::site;
use crate::model::VolunteerId;
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::packages::by_hash::by_hash;
use crate::roles::serve::packages::package;
use crate::roles::serve::state::Server;

/// Answers what a volunteer was to serve. The client is here already: a ticket that has expired is as good.
pub async fn answer(server: &Arc<Server>, id: &VolunteerId, path: &str, asked: &Asked) -> Response<Body> {
    let Some(ticket) = Ticket::parse(path) else {
        return plain(
            StatusCode::NOT_FOUND,
            "only what this server signed is served under a volunteer's name",
        );
    };
    match is_signed(server, id, &ticket).await {
        None => return plain(StatusCode::NOT_FOUND, "no repository names this blob"),
        Some(false) if server.db.is_closed() => {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "this server is being restarted; try again");
        }
        Some(false) => return plain(StatusCode::FORBIDDEN, "this server did not sign this request"),
        Some(true) => {}
    }
    tracing::debug!(volunteer = %id, blob = %ticket.blob, client = %asked.client, "failed over to this server");
    server.traffic.failovers.fetch_add(1, Relaxed);
    learn(server, id, asked);
    by_hash(server, &ticket.place(), asked).await
}

/// Whether the ticket is one of this volunteer's; `None` if nobody knows its blob.
async fn is_signed(server: &Server, id: &VolunteerId, ticket: &Ticket<'_>) -> Option<bool> {
    // While another process takes over, the database is its own.
    let key = server.fleet.key_of(id).or_else(|| enrolment::enrolled_key(server, id).map(Arc::new));
    let mut is_known = false;
    for (repo, path, expected) in server.find(ticket.blob) {
        let Some(blob) = package::known_blob(server, repo, &path, &expected).await else { continue };
        is_known = true;
        if key.as_ref().is_some_and(|key| key.verifies(ticket, blob.size)) {
            return Some(true);
        }
    }
    is_known.then_some(false)
}

/// Remembers a client that came here for no other reason than that it follows no SRV records.
fn learn(server: &Server, id: &VolunteerId, asked: &Asked) {
    let Some(failover) = &server.failover else { return };
    let Some(node) = server.fleet.find_up(id, clock::now()) else { return };
    let client = site(asked.client);
    let asked_at = failover.sent.get(&(client, node));
    let was_followed = failover.followed.contains_key(&node);
    if is_plain(asked_at, asked.local_port, failover.zone.port(), was_followed) {
        tracing::debug!(%client, "follows no SRV records: gets host and port from now on");
        failover.plain.insert(client, ());
    }
}

/// See the module's documentation. `asked_at` is the port of the request that was redirected, `came_to` that
/// of this one, `service` that of the SRV records.
fn is_plain(asked_at: Option<u16>, came_to: u16, service: u16, was_followed: bool) -> bool {
    match asked_at {
        None => false,
        Some(_) if !was_followed => true,
        Some(asked_at) => asked_at == service && came_to == 80 && service != 80,
    }
}

/// Binds the addresses of the zone's DNS, if there is one.
pub fn bind(server: &Server) -> std::io::Result<Option<Sockets>> {
    let Some(config) = &server.config.failover else { return Ok(None) };
    let sockets = Sockets::bind(&config.dns_listen)?;
    let all: Vec<String> = sockets.local_addresses()?.iter().map(ToString::to_string).collect();
    if let Some(problem) = config.problem() {
        tracing::warn!("{problem}");
    }
    tracing::info!(zone = config.zone.name(), dns = all.join(","), "answering for the failover zone");
    Ok(Some(sockets))
}

/// Answers DNS until it is dropped, or another process does; where there is no zone it does nothing.
pub async fn serve(
    server: Arc<Server>,
    sockets: Option<Sockets>,
    superseded: oneshot::Receiver<()>,
) -> Infallible {
    if let Some(sockets) = sockets {
        let answer = move |message: &[u8], transport| {
            let failover = server.failover.as_ref()?;
            failover.zone.answer(message, transport, |id| place(&server, failover, id))
        };
        tokio::select! {
            () = sockets.serve(answer) => {}
            Ok(()) = superseded => {}
        }
    }
    std::future::pending().await
}

/// The place of a volunteer that is well.
fn place(server: &Server, failover: &Failover, id: &VolunteerId) -> Option<Place> {
    // A server that stops has ended all sessions, and the volunteers are what still serves.
    let stops = server.shutdown.has_begun();
    let (no, base_url) = server.fleet.find_address(id, stops, clock::now())?;
    // Asked again so soon: a client may have come back from a volunteer that did not serve it. Should it come
    // a third time, as apt does, the answer knows.
    if base_url.is_some() && failover.followed.contains_key(&no) {
        server.fleet.hasten(no);
    }
    failover.followed.insert(no, ());
    tracing::debug!(volunteer = %id, is_well = base_url.is_some(), "a client follows its SRV records");
    Place::of(&base_url?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_certainly_follows_no_records_is_plain() {
        for (asked_at, came_to, service, was_followed, want) in [
            // Not sent by name lately.
            (None, 80, 8080, false, false),
            // Nobody asked for SRV records.
            (Some(8080), 80, 8080, false, true),
            (Some(80), 80, 80, false, true),
            // Somebody did, and this client passed by the port that they name.
            (Some(8080), 80, 8080, true, true),
            // It came to that port: the volunteer has failed for it.
            (Some(8080), 8080, 8080, true, false),
            (Some(80), 8080, 8080, true, false),
            // It may be one that reaches port 80 only.
            (Some(80), 80, 8080, true, false),
            (Some(80), 80, 80, true, false),
            // A port that leads here from elsewhere.
            (Some(8080), 8081, 8080, true, false),
        ] {
            let found = is_plain(asked_at, came_to, service, was_followed);
            assert_eq!(found, want, "{asked_at:?} {came_to} {service} {was_followed}");
        }
    }
}
