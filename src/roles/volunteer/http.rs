//! What a volunteer answers: signed requests from its holdings and from what it is fetching, everything else back to
//! the server.

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Response, StatusCode, header};
use tokio::time::Instant;

use super::edge::Edge;
use crate::formats::control::MAX_SYNC_UPLOADS;
use crate::formats::control::{SYNC_HEADER, WHO_PATH};
use crate::formats::ticket::Ticket;
use crate::io::body::Body;
use crate::io::fetch::Flight;
use crate::io::respond::{Representation, content_length, plain, redirect, respond};
use crate::io::shaper::Class;
use crate::model::{Blob, BlobId};

/// How far the server's clock may have been set back since its last welcome.
const CLOCK_SLACK_SECS: u64 = 300;
/// A download that would get less than this, in bytes/s, goes to the server instead.
const MIN_SHARE: u64 = 32 << 10;

/// The server sends order and client at the same time: how much later the order may arrive. It may have to read the file
/// for the digests of its pieces first.
const ORDER_LAG: Duration = Duration::from_secs(1);
/// Pauses between looks for it, the first and the longest: whoever asks for what is not here costs a few looks.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_millis(160);
/// How long to wait for the first bytes of a file that is being fetched; then the client is sent back.
const FIRST_BYTES: Duration = Duration::from_secs(5);
/// Another volunteer considers one dead that does not answer within 5 s.
const FIRST_BYTES_SYNC: Duration = Duration::from_secs(3);

/// Where the bytes come from.
enum Copy {
    Held(Arc<File>),
    Arriving(Flight),
}

/// Answers one request.
pub async fn answer(edge: &Arc<Edge>, request: &Parts, client: IpAddr) -> Response<Body> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = request.uri.path();
    match Ticket::parse(path) {
        Some(ticket) => serve(edge, request, &ticket, client).await,
        None if path.starts_with(WHO_PATH) => who(edge, path),
        None if path == "/" => {
            plain(StatusCode::OK, format!("manyhands volunteer of {}", edge.config.server))
        }
        None => plain(StatusCode::NOT_FOUND, "only what the mirror server signed is served here"),
    }
}

/// Proves to the server that clients reach this volunteer and no other.
fn who(edge: &Edge, path: &str) -> Response<Body> {
    match (edge.key(), path.strip_prefix(WHO_PATH)) {
        (Some(key), Some(nonce)) => plain(StatusCode::OK, key.proof(nonce)),
        _ => plain(StatusCode::NOT_FOUND, "not joined yet"),
    }
}

async fn serve(edge: &Arc<Edge>, request: &Parts, ticket: &Ticket<'_>, client: IpAddr) -> Response<Body> {
    let Some(key) = edge.key() else {
        return send_back(edge, "/direct", ticket, "not joined");
    };
    let Some((copy, size)) = find(edge, ticket.blob).await else {
        return send_back(edge, "/direct", ticket, "not held");
    };
    if !key.verifies(ticket, size) {
        tracing::debug!(blob = %ticket.blob, "wrong signature");
        return plain(StatusCode::FORBIDDEN, "the mirror server did not sign this request");
    }
    if ticket.is_expired(edge.server_now_secs().saturating_sub(CLOCK_SLACK_SECS)) {
        return send_back(edge, "", ticket, "expired");
    }
    // Whether it is a volunteer cannot be told here: who says so gets what clients leave.
    let class = if request.headers.contains_key(SYNC_HEADER) { Class::Sync } else { Class::Client };
    if let Copy::Arriving(flight) = &copy {
        let patience = if class == Class::Sync { FIRST_BYTES_SYNC } else { FIRST_BYTES };
        let begins = tokio::time::timeout(patience, flight.clone().size()).await;
        if !matches!(begins, Ok(Ok(begun)) if begun == size) {
            return send_back(edge, "/direct", ticket, "does not arrive");
        }
    }
    // Asked last: nothing is waited for between these bounds and the upload that they count.
    if edge.is_draining() {
        return send_back(edge, "/direct", ticket, "draining");
    }
    if class == Class::Client && edge.returners.knows(client, ticket.blob) {
        return send_back(edge, "/direct", ticket, "did not get it here before");
    }
    if is_overloaded(edge, class) {
        return send_back(edge, "/direct", ticket, "overloaded");
    }
    let digests = edge.fetcher.db.digests(ticket.blob).ok().flatten();
    let what = Representation::of_blob(Blob { id: ticket.blob, size }, ticket.file_name, digests)
        .dated(ticket.modified_secs);
    let (flow, store, id) = (Arc::new(edge.shaper.flow(class)), edge.fetcher.store.clone(), ticket.blob);
    let open = move |part| match &copy {
        Copy::Held(file) => {
            let store = store.clone();
            Body::file(file.clone(), part, Some(flow.clone())).watched(move |e| store.read_failed(id, e))
        }
        Copy::Arriving(flight) => flight.clone().body(part, Some(flow.clone())),
    };
    let response = respond(&request.method, &request.headers, &what, open);
    if matches!(response.body(), Body::Empty) {
        return response;
    }
    let (len, returners) = (content_length(&response), edge.returners.clone());
    let upload = edge.uploads.start(class, ticket.blob, client, len, returners);
    response.map(|body| body.counted(move |bytes| upload.sent(bytes)))
}

/// The blob and its size: held, or being fetched on an order that has arrived or is about to.
async fn find(edge: &Edge, blob: BlobId) -> Option<(Copy, u64)> {
    let until = Instant::now() + ORDER_LAG;
    let mut pause = FIRST_LOOK;
    loop {
        if let Some((file, size)) = edge.open_blob(blob) {
            return Some((Copy::Held(Arc::new(file)), size));
        }
        if let Some(flight) = edge.fetcher.arriving(blob).filter(Flight::is_readable) {
            let size = flight.wanted_size()?;
            return Some((Copy::Arriving(flight), size));
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// Whether one more upload would get too little, or be one too many.
pub fn is_overloaded(edge: &Edge, class: Class) -> bool {
    let running = edge.uploads.running(class);
    match class {
        Class::Client => edge.config.donate.0 / (running as u64 + 1) < MIN_SHARE,
        Class::Sync => running >= MAX_SYNC_UPLOADS,
    }
}

/// 302 to the server: under `/direct` it serves the file itself, else it decides again.
fn send_back(edge: &Edge, mode: &str, ticket: &Ticket<'_>, reason: &str) -> Response<Body> {
    tracing::debug!(blob = %ticket.blob, reason, "sent back to the server");
    edge.count_returned();
    redirect(&format!("{}{mode}/_blob/{}", edge.config.server, ticket.place()))
}
