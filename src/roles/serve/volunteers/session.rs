//! One volunteer's control connection, from hello to end. While it lives, the volunteer is up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::enrolment::{Enrolled, enrol};
use super::fleet::Signer;
use super::sessions::{Life, OUTBOX};
use super::standing;
use crate::formats::control::{
    Hello, MAX_DONATE, MAX_ENDED, MAX_NETWORKS, MAX_SOURCES, MAX_UPLOADS, MIN_DONATE, PROTOCOL, Report,
    ToServer, ToVolunteer, Welcome, decode_holdings,
};
use crate::formats::ticket::Key;
use crate::io::clock;
use crate::io::tokens::Token;
use crate::model::{Blob, BlobId, Notice, Seen, VolunteerId};
use crate::policy::{Event, Joined, Load, NodeNo};
use crate::roles::serve::packages::tree;
use crate::roles::serve::state::Server;

/// A volunteer that connects says hello at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A volunteer that does not read a message within this time is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// A live volunteer answers a ping within this time.
const LIFE_SIGN: Duration = Duration::from_secs(2);
/// How often a session checks whether its token was revoked.
const RECHECK: Duration = Duration::from_secs(10);
/// In place of a count that no report has given yet.
const UNTOLD: u64 = u64::MAX;

/// Who the session is with.
#[derive(Debug)]
struct Session {
    server: Arc<Server>,
    id: VolunteerId,
    life: Arc<Life>,
    node: NodeNo,
    epoch: u32,
    token: Token,
    /// What it had fetched from other volunteers at its last report.
    peer_bytes: AtomicU64,
}

impl Session {
    /// Counts what it reports as fetched since; the first report may include earlier sessions.
    fn count_peer_bytes(&self, peer_bytes: u64) {
        let before = self.peer_bytes.swap(peer_bytes, Relaxed);
        if before != UNTOLD {
            self.server.traffic.count_peers(peer_bytes.saturating_sub(before));
        }
    }
}

/// Runs the connection to its end.
pub async fn run(server: Arc<Server>, mut socket: WebSocket, peer: SocketAddr, token: Token) {
    let hello = match hello(&mut socket).await {
        Ok(hello) => hello,
        Err(reason) => return refuse(socket, peer, reason).await,
    };
    let id = hello.id.clone();
    let (session, welcome, orders) = match join(&server, hello, peer, token).await {
        Ok(joined) => joined,
        // Another process is about to serve, and takes it.
        Err(_) if server.db.is_closed() => return,
        Err(reason) => return refuse(socket, peer, reason).await,
    };
    let address = server.fleet.base_url_of(session.node);
    tracing::info!(volunteer = %id, %address, "volunteer joined");
    let reason = match send(&mut socket, &ToVolunteer::Welcome(welcome)).await {
        Ok(()) => serve(&server, &session, &mut socket, orders).await,
        Err(reason) => reason,
    };
    // However it ended, a clean end spares the volunteer a guess.
    let _ = tokio::time::timeout(SEND_TIMEOUT, socket.send(Message::Close(None))).await;
    tracing::info!(volunteer = %id, reason, "volunteer left");
}

impl Drop for Session {
    /// However a session ends, a panic included: no more redirects there.
    fn drop(&mut self) {
        let Self { node, epoch, .. } = *self;
        // What the server's own end did says nothing of the volunteer.
        let clean = self.server.shutdown.has_begun();
        if let Some(record) = self.server.fleet.lost(node, epoch, clean, clock::now()) {
            standing::save(&self.server, self.id.clone(), record);
        }
        self.server.fleet.sessions.detach(node, epoch);
    }
}

async fn refuse(mut socket: WebSocket, peer: SocketAddr, reason: String) {
    tracing::warn!(%peer, reason, "refused a volunteer");
    // The connection ends either way.
    let _ = send(&mut socket, &ToVolunteer::Refused { reason }).await;
}

async fn send(socket: &mut WebSocket, message: &impl Serialize) -> Result<(), String> {
    let json = serde_json::to_string(message).map_err(|e| e.to_string())?;
    let sent = tokio::time::timeout(SEND_TIMEOUT, socket.send(Message::text(json))).await;
    sent.map_err(|_| "it does not read its connection".to_owned())?.map_err(|_| "connection lost".to_owned())
}

async fn hello(socket: &mut WebSocket) -> Result<Hello, String> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, socket.recv()).await;
    let Ok(Some(Ok(Message::Text(text)))) = first else {
        return Err("no hello".to_owned());
    };
    match serde_json::from_str(&text) {
        Ok(ToServer::Hello(hello)) if hello.protocol == PROTOCOL => Ok(hello),
        Ok(ToServer::Hello(hello)) => Err(format!(
            "protocol {} is spoken here, not {}: install the same version on both sides",
            PROTOCOL, hello.protocol
        )),
        Ok(_) => Err("the first message must be a hello".to_owned()),
        Err(e) => Err(format!("not a hello: {e}")),
    }
}

async fn join(
    server: &Arc<Server>,
    hello: Hello,
    peer: SocketAddr,
    token: Token,
) -> Result<(Session, Welcome, mpsc::Receiver<ToVolunteer>), String> {
    if hello.clients.len() > MAX_NETWORKS {
        return Err(format!("it names {} networks; the limit is {MAX_NETWORKS}", hello.clients.len()));
    }
    if hello.donate < MIN_DONATE {
        return Err(format!(
            "it donates {}; at least {MIN_DONATE} is needed to serve a package",
            hello.donate
        ));
    }
    if hello.donate > MAX_DONATE {
        return Err(format!("it donates {}; the limit is {MAX_DONATE}", hello.donate));
    }
    let base_url = base_url(&hello, peer)?;
    let Enrolled { key, is_new } = {
        let (server, id, token) = (server.clone(), hello.id.to_string(), token.clone());
        let enrol = move || enrol(&server, &id, &token);
        tokio::task::spawn_blocking(enrol).await.map_err(|e| e.to_string())??
    };
    let is_local = is_loopback(&base_url);
    if is_local {
        tracing::info!(volunteer = %hello.id, base_url, "on a loopback address: only for clients on this machine");
    }
    let named_url = server.failover.as_ref().and_then(|failover| failover.named_url(&hello.id, &base_url));
    alone(server, &hello, &base_url).await?;
    let record = {
        let (server, id) = (server.clone(), hello.id.clone());
        // A new name makes nobody another.
        let token = is_new.then(|| token.id.clone());
        let load = tokio::task::spawn_blocking(move || standing::load(&server, &id, token.as_deref()));
        load.await.map_err(|e| e.to_string())?
    };
    let Hello { id, donate, max_size, clients, instance, volatile: is_volatile, journal, .. } = hello;
    let joined = Joined {
        id: id.clone(),
        base_url: base_url.into(),
        is_local,
        donate,
        max_size,
        clients,
        instance,
        is_volatile,
        record,
    };
    let (node, epoch) = server.fleet.join(joined, clock::now());
    server.fleet.set_signer(
        node,
        Signer { key: Arc::new(Key::new(&key.0)), named_url, peer: peer.ip().to_canonical() },
    );
    let announce_from = server.fleet.resume(node, epoch, &id, journal);
    let (sender, orders) = mpsc::channel(OUTBOX);
    let life = Arc::<Life>::default();
    server.fleet.sessions.attach(node, epoch, sender, life.clone());
    // Whether clients can reach it is found out before any is sent.
    server.fleet.test_now();
    let peer_bytes = AtomicU64::new(UNTOLD);
    let session = Session { server: server.clone(), id, life, node, epoch, token, peer_bytes };
    let welcome = Welcome {
        key: key.to_string(),
        now_secs: clock::now().as_secs(),
        heartbeat_secs: server.fleet.params.heartbeat.as_secs(),
        announce_from,
    };
    Ok((session, welcome, orders))
}

/// Refuses a second process with the identity of one that still lives. One that was restarted, here or
/// elsewhere, takes its old session's place: nobody answers there any more.
async fn alone(server: &Server, hello: &Hello, base_url: &str) -> Result<(), String> {
    let Some((no, address)) = server.fleet.twin(&hello.id, hello.instance) else { return Ok(()) };
    let Some(life) = server.fleet.sessions.life(no) else { return Ok(()) };
    let heard = life.heard.notified();
    life.asked.notify_one();
    if tokio::time::timeout(LIFE_SIGN, heard).await.is_err() {
        return Ok(());
    }
    tracing::error!(
        volunteer = %hello.id, %address, second = base_url,
        "two processes use one identity: give one of them another id and a store of its own"
    );
    Err(format!(
        "another process, at {address}, already is volunteer {}: a copied store? Give this one another id and \
         an empty store, or stop the other",
        hello.id
    ))
}

/// Where clients are sent: what the volunteer says, else where it connected from.
fn base_url(hello: &Hello, peer: SocketAddr) -> Result<String, String> {
    let Some(advertised) = &hello.advertise else {
        return Ok(format!("http://{}", SocketAddr::new(peer.ip().to_canonical(), hello.port)));
    };
    let is_plain = advertised.len() <= 255 && advertised.bytes().all(|c| c.is_ascii_graphic() && c != b'#');
    match advertised.parse::<http::Uri>() {
        Ok(uri)
            if is_plain && matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none() =>
        {
            Ok(advertised.trim_end_matches('/').to_owned())
        }
        _ => Err(format!("advertise {advertised:?} is not an http or https URL")),
    }
}

fn is_loopback(base_url: &str) -> bool {
    let host = base_url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let host = host.unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Moves messages until one side ends; returns why.
async fn serve(
    server: &Arc<Server>,
    session: &Session,
    socket: &mut WebSocket,
    mut orders: mpsc::Receiver<ToVolunteer>,
) -> String {
    let silence = server.fleet.params.dead_after;
    let mut recheck = tokio::time::interval(RECHECK);
    let mut shutdown = server.shutdown.clone();
    let mut deadline = Instant::now() + silence;
    let mut told = Seen::default();
    loop {
        tokio::select! {
            _ = shutdown.begun() => return "this server stops".to_owned(),
            () = tokio::time::sleep_until(deadline) => return format!("silent for {} s", silence.as_secs()),
            received = socket.recv() => {
                let message = match received {
                    None | Some(Err(_) | Ok(Message::Close(_))) => return "connection lost".to_owned(),
                    Some(Ok(message)) => message,
                };
                deadline = Instant::now() + silence;
                session.life.heard.notify_waiters();
                match received_one(server, session, &message) {
                    Err(reason) => return reason,
                    Ok(Some(answer)) => {
                        // Whether it hears this or not.
                        let _ = send(socket, &answer).await;
                        return "it leaves".to_owned();
                    }
                    Ok(None) => {
                        if let Err(reason) = tell_seen(session, socket, &mut told).await {
                            return reason;
                        }
                    }
                }
            }
            () = session.life.asked.notified() => {
                let ping = tokio::time::timeout(SEND_TIMEOUT, socket.send(Message::Ping(Bytes::new()))).await;
                if !matches!(ping, Ok(Ok(()))) {
                    return "connection lost".to_owned();
                }
            }
            order = orders.recv() => {
                let Some(order) = order else { return "replaced by a newer session".to_owned() };
                if let Err(reason) = send(socket, &order).await {
                    return reason;
                }
            }
            _ = recheck.tick() => {
                if is_revoked(server, &session.token).await {
                    let reason = "its token was revoked".to_owned();
                    // It is out whether it hears this or not.
                    let _ = send(socket, &ToVolunteer::Refused { reason: reason.clone() }).await;
                    return reason;
                }
            }
        }
    }
}

/// Tells the volunteer how it is seen, if that has changed.
async fn tell_seen(session: &Session, socket: &mut WebSocket, told: &mut Seen) -> Result<(), String> {
    let Session { server, node, .. } = session;
    let networks = &server.config.networks;
    let seen = server.fleet.seen(*node, networks, clock::now());
    if seen == *told {
        return Ok(());
    }
    *told = seen.clone();
    send(socket, &Notice::Seen(seen)).await
}

/// Handles one message; returns the last one that the volunteer gets, if it leaves.
fn received_one(
    server: &Arc<Server>,
    session: &Session,
    message: &Message,
) -> Result<Option<ToVolunteer>, String> {
    let Session { node, epoch, .. } = *session;
    let now = clock::now();
    match message {
        Message::Binary(bytes) => {
            let (change, blobs) = decode_holdings(bytes).ok_or("sent unreadable holdings")?;
            let blobs: Vec<BlobId> = blobs.collect();
            server.fleet.handle(Event::Holdings { node, epoch, change, blobs: &blobs }, now);
            Ok(None)
        }
        Message::Text(text) => {
            match serde_json::from_str(text).map_err(|e| format!("sent an unreadable message: {e}"))? {
                ToServer::Report(report) => {
                    let (announced, load) = (report.announced, load(report));
                    session.count_peer_bytes(load.peer_bytes);
                    let reported = Event::Reported { node, epoch, load: &load };
                    let announced = announced.map(|next| Event::Announced { node, epoch, next });
                    server.fleet.handle_all([Some(reported), announced].into_iter().flatten(), now);
                    Ok(None)
                }
                ToServer::Done { blob, error, bad } => {
                    if let Some(error) = &error {
                        tracing::warn!(volunteer = %session.id, %blob, error, "a volunteer could not carry out an order");
                    }
                    let failed = error.is_some();
                    if failed {
                        tokio::spawn(tree::explain_failure(server.clone(), session.id.clone(), blob));
                    }
                    server.fleet.handle(Event::OrderEnded { node, epoch, blob, failed }, now);
                    suspect(server, session, blob, &bad);
                    Ok(None)
                }
                ToServer::Leaving => {
                    let last = server.fleet.leaves(node, epoch, now);
                    let last_redirect_secs_ago = last.map(|last| now.since(last).as_secs());
                    Ok(Some(ToVolunteer::Farewell { last_redirect_secs_ago }))
                }
                ToServer::Hello(_) => Err("said hello twice".to_owned()),
            }
        }
        Message::Close(_) | Message::Ping(_) | Message::Pong(_) => Ok(None),
    }
}

/// A volunteer reports wrong bytes from others. That proves nothing, so they are tested with that blob.
fn suspect(server: &Server, session: &Session, blob: BlobId, bad: &[VolunteerId]) {
    let size = server.find(blob).first().and_then(|(_, _, expected)| expected.size);
    let Some(size) = size.or_else(|| server.packages.store.size_of(blob)) else { return };
    for id in bad.iter().take(MAX_SOURCES) {
        tracing::warn!(volunteer = %session.id, of = %id, %blob, "reports wrong bytes from another volunteer");
        server.fleet.suspect(id, Blob { id: blob, size });
    }
    if !bad.is_empty() {
        server.fleet.test_now();
    }
}

fn load(report: Report) -> Load {
    let Report { mut remaining, sync_uploads: mut syncs, mut ended, .. } = report;
    remaining.truncate(MAX_UPLOADS);
    ended.truncate(MAX_ENDED);
    syncs.truncate(MAX_UPLOADS);
    Load {
        uploads: report.uploads,
        remaining,
        syncs,
        sync_bytes: report.sync_bytes,
        peer_bytes: report.peer_bytes,
        fetched_bytes: report.fetched_bytes,
        served_bytes: report.served_bytes,
        served_requests: report.served_requests,
        store_bytes: report.store_bytes,
        adopted: report.adopted,
        ended,
    }
}

async fn is_revoked(server: &Arc<Server>, token: &Token) -> bool {
    let (tokens, id) = (server.tokens.clone(), token.id.clone());
    let check =
        move || tokens.list().is_ok_and(|all| all.iter().any(|t| t.id == id && t.revoked_secs.is_some()));
    tokio::task::spawn_blocking(check).await.unwrap_or(false)
}
