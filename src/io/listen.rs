//! Listening sockets and the HTTP/1.1 connection loop.
//!
//! Bounded: connections, header size and time, time without progress in sending. A transient accept error
//! (out of descriptors) pauses accepting, it never ends the daemon.

use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::body::Body;
use super::patience::{Patience, Watched};
use super::respond::plain;
use super::shutdown::Shutdown;

/// Connections that the kernel holds for us while we are busy.
const BACKLOG: i32 = 4096;
/// A client that has not sent its headers in this time is cut off; idle kept-alive connections too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest request head: apt's and dnf's are below 1 KiB, zchunk's with 256 ranges below 8 KiB.
const MAX_HEAD: usize = 16 << 10;
/// Longest request target: a path of 4096 bytes (limits.h: PATH_MAX), percent-encoded throughout.
const MAX_TARGET: usize = 12 << 10;
/// Maximum bytes read of a head: enough to tell those whose target is too long so (hyper takes 64 KiB at most).
const MAX_READ: usize = 72 << 10;
/// A client that acknowledges nothing for this long is gone (TCP_USER_TIMEOUT, tcp(7)).
const SEND_TIMEOUT: Duration = Duration::from_secs(120);
/// A connection without a request is kept for this long after the shutdown began: the request may be on its way
/// already, and ending the connection would fail it.
const UNREAD: Duration = Duration::from_secs(1);
/// A client of the server that takes less is stalled, or means harm.
const LAST_RESORT: Patience = Patience { bytes_per_sec: 1000, time: Duration::from_secs(60), unsent: None };
/// Pause after an accept error that is not the connection's own.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub peer: SocketAddr,
    /// The address of ours that the peer connected to.
    pub local: SocketAddr,
}

/// Binds an address; an IPv6 one for IPv6 only, so that both families can use one port.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let bound = || {
        let socket = unbound(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bound().map_err(|e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

/// A socket for an address of its family.
pub fn unbound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// The addresses really bound, for people and tests.
pub fn local_addresses(listeners: &[TcpListener]) -> io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// What connections may take.
#[derive(Clone)]
pub struct Bounds {
    pub connections: usize,
    pub patience: Patience,
    /// Called for each client that read too slowly.
    pub cut_off: Arc<dyn Fn(SocketAddr) + Send + Sync>,
}

impl std::fmt::Debug for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bounds({}, {:?})", self.connections, self.patience)
    }
}

impl Bounds {
    /// A server tolerates slow clients: they have nowhere else to go.
    pub fn of_server(connections: usize) -> Self {
        Self { connections, patience: LAST_RESORT, cut_off: Arc::new(|_| ()) }
    }
}

/// Serves until the shutdown begins, then lets running responses end within its time.
pub async fn serve<S, F>(listeners: Vec<TcpListener>, bounds: Bounds, service: S, mut shutdown: Shutdown)
where
    S: Fn(Request<Incoming>, Ends) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let mut loops = tokio::task::JoinSet::new();
    for listener in listeners {
        let (permits, bounds) = (permits.clone(), bounds.clone());
        loops.spawn(accept_loop(listener, permits, bounds, service.clone(), shutdown.clone()));
    }
    while loops.join_next().await.is_some() {}
    // Every connection holds a permit: all of them back means that the drain is complete.
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    let drain = shutdown.begun().await;
    let _ = tokio::time::timeout(drain, permits.acquire_many(all)).await;
}

async fn accept_loop<S, F>(
    listener: TcpListener,
    permits: Arc<Semaphore>,
    bounds: Bounds,
    service: S,
    mut shutdown: Shutdown,
) where
    S: Fn(Request<Incoming>, Ends) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.begun() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) if is_of_connection(&e) => continue,
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without an address it has already ended.
        let Ok(local) = stream.local_addr() else { continue };
        prepare(&stream);
        if let Some(bytes) = bounds.patience.unsent {
            let _ = SockRef::from(&stream).set_tcp_notsent_lowat(bytes);
        }
        let (service, shutdown, bounds) = (service.clone(), shutdown.clone(), bounds.clone());
        tokio::spawn(async move {
            let (stream, progress) = Watched::new(stream);
            tokio::select! {
                () = connection(stream, Ends { peer, local }, service, shutdown) => {}
                () = progress.is_over(bounds.patience) => {
                    tracing::debug!(%peer, "cut off: the client reads too slowly");
                    (bounds.cut_off)(peer);
                }
            }
            drop(permit);
        });
    }
}

/// One client's connection; after the shutdown begins it ends with the running response, or the next one.
async fn connection<S, F>(stream: Watched<TcpStream>, ends: Ends, service: S, mut shutdown: Shutdown)
where
    S: Fn(Request<Incoming>, Ends) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let ending = shutdown.clone();
    let answer = service_fn(move |request| {
        let response = match oversize(&request) {
            Some(status) => Either::Left(ready(plain(status, "the request is too large"))),
            None => Either::Right(service(request, ends)),
        };
        let ending = ending.clone();
        async move {
            let mut response = response.await;
            // An upgraded connection has its own meaning of this header.
            if ending.has_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    // No `pipeline_flush`: it would hold an answer back while the next pipelined request is being worked on.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_READ)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = shutdown.begun() => match tokio::time::timeout(UNREAD, connection.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        },
    };
    if let Err(e) = ended {
        tracing::trace!(peer = %ends.peer, error = %e, "connection ended");
    }
}

/// Why a request's head is too large to be answered (RFC 9110 section 15.5.15, RFC 6585 section 5).
fn oversize<T>(request: &Request<T>) -> Option<StatusCode> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if target > MAX_TARGET {
        return Some(StatusCode::URI_TOO_LONG);
    }
    (target + fields > MAX_HEAD).then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
}

/// What every connection of ours is set to.
pub fn prepare(stream: &TcpStream) {
    // Failing to set an option costs speed, not correctness.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(SEND_TIMEOUT));
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
