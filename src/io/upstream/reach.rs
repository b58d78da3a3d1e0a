//! Where requests may go: anywhere that the configuration says, but a redirect to another host may not lead
//! into our own network, unless it begins there. An upstream must not make us read from this machine's or
//! its neighbours' services.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use tower::util::ServiceFn;

use super::UpstreamError;
use crate::io::inside::is_inside;

type Found = io::Result<std::vec::IntoIter<SocketAddr>>;
type Resolving = Pin<Box<dyn Future<Output = Found> + Send>>;
/// Finds the addresses that a connection then goes to.
pub type Resolver = ServiceFn<fn(Name) -> Resolving>;

/// For what the configuration names.
pub fn anywhere() -> Resolver {
    tower::service_fn(|name| Box::pin(async move { Ok(look_up(&name).await?.into_iter()) }))
}

/// For what a redirect names. It looks at the very addresses that are connected to: a name that means another
/// address a moment later (DNS rebinding) gains nothing.
pub fn outside_only() -> Resolver {
    tower::service_fn(|name| {
        Box::pin(async move {
            let mut found = look_up(&name).await?;
            found.retain(|address| !is_inside(address.ip().to_canonical()));
            if found.is_empty() {
                let problem = "redirects into the local network";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
            }
            Ok(found.into_iter())
        })
    })
}

async fn look_up(name: &Name) -> io::Result<Vec<SocketAddr>> {
    // The connector puts the port in.
    Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect())
}

/// Whom a followed redirect may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Anywhere,
    OutsideOnly,
}

/// What a redirect from one host to another may reach, or why it is not followed.
pub async fn of_redirect(url: &str, from: &Uri, to: &Uri) -> Result<Reach, UpstreamError> {
    let inside = async |uri: &Uri| {
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(80);
        let found = tokio::net::lookup_host((host, port)).await.map_err(|e| UpstreamError::broken(url, e))?;
        let addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
        Ok::<_, UpstreamError>((addresses.iter().any(|&address| is_inside(address)), addresses))
    };
    let (to_inside, to_addresses) = inside(to).await?;
    if !to_inside {
        return Ok(Reach::OutsideOnly);
    }
    // Another port of the same machine is another service, such as our own status API.
    let (from_inside, from_addresses) = inside(from).await?;
    let is_loopback = to_addresses.iter().any(IpAddr::is_loopback) && to_addresses != from_addresses;
    if from_inside && !is_loopback && from.port() == to.port() {
        return Ok(Reach::Anywhere);
    }
    Err(UpstreamError::broken(
        url,
        format!("redirects into the local network ({})", to.authority().map_or("", |a| a.as_str())),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_address_connected_to_is_what_counts() {
        use tower::ServiceExt;
        let name = || "localhost".parse::<Name>().expect("a name");
        assert!(anywhere().oneshot(name()).await.is_ok_and(|found| found.len() > 0));
        let refused = outside_only().oneshot(name()).await.expect_err("loopback");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
