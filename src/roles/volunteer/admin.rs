//! The admin address of a volunteer: its status, and nothing else. The network has no part in it.

use std::future::ready;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::edge::Edge;
use super::http::is_overloaded;
use super::told::Words;
use crate::formats::status::STATUS_PATH;
use crate::io::body::Body;
use crate::io::listen::Bounds;
use crate::io::respond::plain;
use crate::io::shaper::Class;
use crate::io::shutdown::Shutdown;
use crate::io::{clock, listen};
use crate::model::{EdgeStatus, Seen};

/// Connections at a time.
const CONNECTIONS: usize = 16;

/// Serves until the volunteer is closed.
pub async fn serve(edge: Arc<Edge>, listeners: Vec<TcpListener>, closed: Shutdown) {
    let answer = move |request: Request<Incoming>, _| ready(answer(&edge, &request));
    listen::serve(listeners, Bounds::of_server(CONNECTIONS), answer, closed).await;
}

/// Answers one request.
fn answer(edge: &Arc<Edge>, request: &Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, STATUS_PATH) => match serde_json::to_string(&status(edge)) {
            Ok(json) => {
                let mut response = plain(StatusCode::OK, json);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        },
        (&Method::GET, "/") => {
            plain(StatusCode::OK, "manyhands volunteer: GET /api/v1/status, or run `manyhands status`")
        }
        _ => plain(StatusCode::NOT_FOUND, "this is a volunteer: only its status is available here"),
    }
}

fn status(edge: &Edge) -> EdgeStatus {
    let (report, words) = (edge.report(), edge.told.words());
    let joined_unix_secs = words.joined.map(|joined| joined.as_secs());
    let orders = words.orders.clone();
    let (seen, gets_clients) = standing(edge, words);
    EdgeStatus {
        id: edge.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_secs: clock::now().since(edge.started).as_secs(),
        server: edge.config.server.clone(),
        listen: edge.address.to_string(),
        advertise: edge.config.advertise.clone(),
        joined_unix_secs,
        state: seen.state,
        gets_clients,
        problem: seen.problem,
        limits: seen.limits,
        holdings: report.holdings,
        store_bytes: report.store_bytes,
        max_size: edge.fetcher.store.max_bytes(),
        adopted_holdings: report.adopted,
        trees: edge.trees(),
        orders,
        uploads: u64::from(report.uploads),
        sync_uploads: report.sync_uploads.len() as u64,
        rate: edge.meter.rate().0,
        donate: edge.config.donate.0,
        served_bytes: report.served_bytes,
        served_requests: report.served_requests,
        returned_requests: report.returned_requests,
        sync_bytes: report.sync_bytes,
        peer_bytes: report.peer_bytes,
        fetched_bytes: report.fetched_bytes,
    }
}

/// What the server says, unless more is known here. It is unknown whether clients come until the server says so.
fn standing(edge: &Edge, words: Words) -> (Seen, Option<bool>) {
    let own =
        |state: &str, problem: Option<String>| Seen { state: state.to_owned(), problem, ..Seen::default() };
    if edge.is_draining() {
        return (
            own("draining", Some("it is stopping: new requests are sent back to the server".to_owned())),
            Some(false),
        );
    }
    match words {
        Words { joined: None, problem, .. } => {
            let problem = problem.unwrap_or_else(|| "it has not reached the server yet".to_owned());
            (own("not joined", Some(problem)), Some(false))
        }
        Words { seen: None, .. } => (own("joined", None), None),
        Words { seen: Some(seen), .. } if seen.gets_clients && is_overloaded(edge, Class::Client) => {
            let problem = "`donate` is used up: further requests are sent back to the server";
            (Seen { state: "full".to_owned(), problem: Some(problem.to_owned()), ..seen }, Some(true))
        }
        Words { seen: Some(seen), .. } => {
            let gets_clients = seen.gets_clients;
            (seen, Some(gets_clients))
        }
    }
}
