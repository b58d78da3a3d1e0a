//! The control connection: hello, announcement of what the server does not know, then heartbeats, changes and
//! orders until it breaks; then again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::LINGER;
use super::edge::Edge;
use super::orders::Orders;
use crate::formats::control::{
    Hello, HoldingsChange, MAX_HOLDINGS, MAX_MESSAGE, PROTOCOL, Report, SESSION_PATH, ToServer, ToVolunteer,
    Welcome, encode_holdings,
};
use crate::io::clock;
use crate::io::shutdown::Shutdown;
use crate::io::upstream::explain;
use crate::model::{BlobId, Notice};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// First and longest pause before connecting again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The same if the server refuses this volunteer: that will not change soon.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// After a session of this length, the next pause is short again.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// A server that is silent for this long is gone, or the path to it is.
const SILENCE: Duration = Duration::from_secs(30);
/// How long to wait for the server's farewell.
const FAREWELL: Duration = Duration::from_secs(2);
/// Outcomes of orders on their way to the server.
const OUTCOMES: usize = 256;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The server does not want this volunteer.
#[derive(Debug, thiserror::Error)]
#[error("refused: {0}")]
struct Refused(String);

/// Keeps a session with the server until the shutdown begins.
pub async fn keep(edge: Arc<Edge>, mut shutdown: Shutdown) {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(clock::now().as_nanos());
    let mut pause = FIRST_PAUSE;
    // Since when there is no session in which clients could be sent here.
    let mut away_since = Instant::now();
    let stop = |away_since: Instant| {
        if away_since.elapsed() > LINGER {
            edge.nobody_comes.notify_one();
        }
    };
    while !shutdown.has_begun() {
        // Only one process of a volunteer talks with the server.
        tokio::select! {
            () = edge.let_go_is(false) => {}
            _ = shutdown.begun() => return stop(away_since),
        }
        let started = Instant::now();
        let ended = session(&edge, &mut shutdown, &mut away_since).await;
        edge.told.parted(ended.as_ref().err().map(|e| format!("{e:#}")));
        if shutdown.has_begun() {
            return;
        }
        if started.elapsed() > GOOD_SESSION {
            pause = FIRST_PAUSE;
        }
        if ended.as_ref().is_err_and(|e| e.is::<Refused>()) {
            pause = REFUSED_PAUSE;
        }
        // Half to once and a half: a restarted server is not met by everybody at once.
        let wait = pause.mul_f64(rng.random_range(0.5..1.5));
        if let Err(e) = ended {
            tracing::warn!(
                error = format!("{e:#}"),
                retry_in_secs = wait.as_secs_f32(),
                "no session with the server"
            );
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = shutdown.begun() => return stop(away_since),
        }
    }
}

async fn session(edge: &Arc<Edge>, shutdown: &mut Shutdown, away_since: &mut Instant) -> anyhow::Result<()> {
    let mut socket = connect(edge).await?;
    send(&mut socket, &ToServer::Hello(hello(edge))).await?;
    let welcome = match next(&mut socket).await? {
        ToVolunteer::Welcome(welcome) => welcome,
        ToVolunteer::Refused { reason } => return Err(Refused(reason).into()),
        _ => bail!("the server did not begin with a welcome"),
    };
    let key: BlobId = welcome.key.parse().context("the server's key is unreadable")?;
    edge.set_key(key.0, welcome.now_secs);
    // It says so if it wants another.
    edge.shaper.set_usual_sync_share();
    let (told, announced) = introduce(edge, &mut socket, welcome.announce_from).await?;
    tracing::info!(server = edge.config.server, holdings = edge.totals().0, announced, "joined");
    edge.told.joined();
    let ended = run(edge, Session { socket, told }, &welcome, shutdown).await;
    *away_since = Instant::now();
    ended
}

/// Announces what has changed since the server last knew, or everything. Returns the number up to which it knows the
/// journal then, and how many digests that took.
async fn introduce(edge: &Edge, socket: &mut Socket, known_to: Option<u64>) -> anyhow::Result<(u64, usize)> {
    let changes = known_to.and_then(|number| Some((number, edge.journal.since(number)?)));
    let (told, announced) = match changes {
        Some((number, changes)) => {
            tell(socket, &changes).await?;
            (number + changes.len() as u64, changes.len())
        }
        None => {
            // First the number: what changes meanwhile is told again.
            let number = edge.journal.span().next;
            let all = edge.holdings();
            announce(socket, HoldingsChange::Add, &all).await?;
            (number, all.len())
        }
    };
    report(edge, socket, told).await?;
    Ok((told, announced))
}

async fn report(edge: &Edge, socket: &mut Socket, told: u64) -> anyhow::Result<()> {
    send(socket, &ToServer::Report(Report { announced: Some(told), ..edge.report() })).await
}

async fn connect(edge: &Edge) -> anyhow::Result<Socket> {
    let url = format!("{}{SESSION_PATH}", edge.config.server.replacen("http", "ws", 1));
    let mut request = url.as_str().into_client_request().with_context(|| format!("{url} is not a URL"))?;
    let bearer =
        format!("Bearer {}", edge.token).parse().context("the token has characters that are not allowed")?;
    request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
    let limits =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let connecting = connect_async_with_config(request, Some(limits), true);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(WsError::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            let mut why = format!("{} ({})", String::from_utf8_lossy(body).trim(), response.status());
            if response.status() == StatusCode::NOT_FOUND {
                why.push_str(": is this the URL of a manyhands server?");
            }
            // What is wrong at the server may be over soon.
            if response.status().is_client_error() {
                return Err(Refused(why).into());
            }
            bail!("the server cannot accept it now: {why}");
        }
        // This error's text names its cause already.
        Ok(Err(e)) => Err(anyhow!("cannot connect to {url}: {}", explain(e.to_string()))),
        Err(_) => bail!("cannot connect to {url} within {} s", CONNECT_TIMEOUT.as_secs()),
    }
}

fn hello(edge: &Edge) -> Hello {
    let config = &edge.config;
    // An address given to listen on is the one to send clients to; a wildcard says nothing.
    let bound = (!edge.address.ip().is_unspecified()).then(|| format!("http://{}", edge.address));
    Hello {
        protocol: PROTOCOL,
        id: edge.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        advertise: config.advertise.clone().or(bound),
        port: edge.address.port(),
        donate: config.donate,
        max_size: config.max_size,
        clients: config.clients.clone(),
        instance: edge.instance,
        volatile: config.volatile,
        journal: Some(edge.journal.span()),
    }
}

async fn send(socket: &mut Socket, message: &ToServer) -> anyhow::Result<()> {
    socket.send(Message::text(serde_json::to_string(message)?)).await.map_err(|e| lost(&e))
}

async fn next(socket: &mut Socket) -> anyhow::Result<ToVolunteer> {
    let received =
        tokio::time::timeout(CONNECT_TIMEOUT, socket.next()).await.context("the server does not answer")?;
    match received {
        Some(Ok(Message::Text(text))) => {
            serde_json::from_str(&text).context("the server sent an unreadable message")
        }
        Some(Err(e)) => Err(lost(&e)),
        _ => bail!("the server ended the connection"),
    }
}

async fn announce(socket: &mut Socket, change: HoldingsChange, blobs: &[BlobId]) -> anyhow::Result<()> {
    for slice in blobs.chunks(MAX_HOLDINGS) {
        socket.feed(Message::binary(encode_holdings(change, slice))).await.map_err(|e| lost(&e))?;
    }
    socket.flush().await.map_err(|e| lost(&e))
}

fn lost(error: &WsError) -> anyhow::Error {
    anyhow!("connection lost: {error}")
}

/// Announces changes in order, runs of one kind together.
async fn tell(socket: &mut Socket, changes: &[(HoldingsChange, BlobId)]) -> anyhow::Result<()> {
    for run in changes.chunk_by(|a, b| a.0 == b.0) {
        let blobs: Vec<BlobId> = run.iter().map(|(_, blob)| *blob).collect();
        announce(socket, run[0].0, &blobs).await?;
    }
    Ok(())
}

/// A session that has begun.
struct Session {
    socket: Socket,
    /// Changes before this number have been announced.
    told: u64,
}

impl Session {
    async fn tell_changes(&mut self, edge: &Edge) -> anyhow::Result<()> {
        let changes = edge.journal.since(self.told).context("too much has changed at once")?;
        self.told += changes.len() as u64;
        tell(&mut self.socket, &changes).await
    }
}

async fn run(
    edge: &Arc<Edge>,
    mut session: Session,
    welcome: &Welcome,
    shutdown: &mut Shutdown,
) -> anyhow::Result<()> {
    let mut heartbeat = tokio::time::interval(Duration::from_secs(welcome.heartbeat_secs.clamp(1, 60)));
    let (outcomes, mut ended) = mpsc::channel::<ToServer>(OUTCOMES);
    let orders = Orders::new(edge.clone(), outcomes);
    let mut deadline = Instant::now() + SILENCE;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => bail!("the server has been silent for {} s", SILENCE.as_secs()),
            received = session.socket.next() => { deadline = Instant::now() + SILENCE; match received {
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(ToVolunteer::Fetch(order)) => orders.fetch(order),
                    Ok(ToVolunteer::Drop { blob }) => orders.let_go(blob),
                    Ok(ToVolunteer::SyncShare { percent }) => edge.shaper.set_sync_share(percent),
                    Ok(ToVolunteer::Refused { reason }) => return Err(Refused(reason).into()),
                    Ok(ToVolunteer::Standing { problem }) => tell_standing(edge, problem.as_deref()),
                    Ok(ToVolunteer::Welcome(_) | ToVolunteer::Farewell { .. }) => {}
                    // A newer server may say more than we understand.
                    Err(_) => if let Ok(Notice::Seen(seen)) = serde_json::from_str(&text) { edge.told.seen(seen) },
                },
                Some(Ok(Message::Close(_))) | None => bail!("the server ended the connection"),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(lost(&e)),
            } }
            _ = heartbeat.tick() => {
                session.tell_changes(edge).await?;
                report(edge, &mut session.socket, session.told).await?;
                // Its pong shows that the server is there: a lost network tells nobody.
                session.socket.send(Message::Ping(Bytes::new())).await.map_err(|e| lost(&e))?;
            }
            () = edge.journal.woken.notified() => session.tell_changes(edge).await?,
            Some(outcome) = ended.recv() => {
                session.tell_changes(edge).await?;
                send(&mut session.socket, &outcome).await?;
            }
            _ = shutdown.begun() => return leave(edge, session.socket).await,
            () = edge.let_go_is(true) => return leave(edge, session.socket).await,
        }
    }
}

/// Logs the result of the server's test of this volunteer, for its administrator.
fn tell_standing(edge: &Edge, problem: Option<&str>) {
    match problem {
        None => tracing::info!("the server's test succeeded: it sends clients here"),
        Some(problem) => tracing::warn!(
            address = edge.config.advertise.as_deref().unwrap_or(""), listen = %edge.address, problem,
            "the server sends no clients here: its test of this volunteer failed. Behind a firewall or NAT, \
             open or forward the port, and set advertise to the URL that clients can reach"
        ),
    }
}

/// Says that this volunteer leaves, and learns whether clients may still be on their way here.
async fn leave(edge: &Edge, mut socket: Socket) -> anyhow::Result<()> {
    send(&mut socket, &ToServer::Leaving).await?;
    let farewell = async {
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            if let Ok(ToVolunteer::Farewell { last_redirect_secs_ago }) = serde_json::from_str(&text) {
                let nobody_comes = last_redirect_secs_ago.is_none_or(|secs| secs > LINGER.as_secs());
                return nobody_comes.then(|| edge.nobody_comes.notify_one());
            }
        }
        None
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
    // The server has what it needs; how the connection ends does not matter.
    let _ = socket.close(None).await;
    Ok(())
}
