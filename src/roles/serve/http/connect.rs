//! CONNECT: a tunnel to a place that the configuration lists.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::io::body::Body;
use crate::io::respond::plain;
use crate::io::tunnel::{self, DialError};
use crate::roles::serve::state::Server;

/// Connects, then answers 200 and hands the client's connection over to the tunnel.
pub async fn open(
    server: &Arc<Server>,
    request: Request<Incoming>,
    client: IpAddr,
    host: &str,
    port: u16,
) -> Response<Body> {
    let Some(slot) = server.tunnels.enter(client) else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many tunnels are open; try again");
    };
    let remote = match tunnel::dial(host, port, |address| server.config.proxy.names(address)).await {
        Ok(remote) => remote,
        Err(e) => {
            tracing::debug!(%client, host, port, error = %e, "no tunnel");
            let status = match e {
                DialError::Inside => StatusCode::FORBIDDEN,
                DialError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
                DialError::Failed(_) => StatusCode::BAD_GATEWAY,
            };
            return plain(status, format!("no tunnel to {host} port {port}: {e}"));
        }
    };
    tracing::debug!(%client, host, port, "tunnel");
    let traffic = server.traffic.clone();
    tokio::spawn(async move {
        // Fails when the client has gone meanwhile.
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let count = |bytes| {
                traffic.tunnel_bytes.fetch_add(bytes, Relaxed);
            };
            tunnel::relay(TokioIo::new(upgraded), remote, count).await;
        }
        drop(slot);
    });
    Response::new(Body::Empty)
}
