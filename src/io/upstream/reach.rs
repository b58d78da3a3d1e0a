//! Where requests may go: anywhere that the configuration says, but a redirect to another host may not lead
//! into our own network, unless the configuration names that host. An upstream must not make us read from this
//! machine's or its neighbours' services.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use tower::util::ServiceFn;

use super::UpstreamError;
use crate::formats::authority::Authority;
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
                let problem = "redirects into the private network, see `redirect_to`";
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

/// Which hosts a request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// What the configuration names as an upstream.
    Own,
    /// What it names as a place that an upstream may redirect to.
    Named,
    OutsideOnly,
}

/// What a redirect to another host or port may reach, or why it is not followed. `named` may be anywhere.
pub async fn of_redirect(url: &str, to: &Uri, named: &[Authority]) -> Result<Reach, UpstreamError> {
    let place = place_of(to);
    if place.as_ref().is_some_and(|place| named.contains(place)) {
        return Ok(Reach::Named);
    }
    // The rest of the URL may be a secret: object stores sign it.
    let place = place.map(|place| place.to_string()).unwrap_or_default();
    let host = to.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
    let port = to.port_u16().unwrap_or(80);
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|e| UpstreamError::broken(url, format!("redirects to {place}: {e}")))?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    if !addresses.iter().any(|&address| is_inside(address)) {
        return Ok(Reach::OutsideOnly);
    }
    let problem =
        format!("redirects into the private network ({place}): redirect_to = [\"{place}\"] would allow that");
    Err(UpstreamError::broken(url, problem))
}

/// Whether a URL names an address of the local network, rather than a name.
pub fn is_inner_address(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
    host.parse().is_ok_and(|address: IpAddr| is_inside(address.to_canonical()))
}

/// Host and port of a URL.
pub fn place_of(uri: &Uri) -> Option<Authority> {
    let host = uri.host()?;
    Authority::parse(&uri.port_u16().map_or(host.to_owned(), |port| format!("{host}:{port}")))
}

/// The port that a URL means.
pub fn port_of(uri: &Uri) -> Option<u16> {
    uri.port_u16().or(match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    })
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

    #[test]
    fn places_and_ports() {
        let read = |url: &str| {
            let uri: Uri = url.parse().expect("a URL");
            (place_of(&uri).expect("a place").to_string(), port_of(&uri))
        };
        for (url, place, port) in [
            ("https://H.example/x", "h.example", 443),
            ("https://h.example:443/x", "h.example:443", 443),
            ("http://user@[::1]:8080", "[::1]:8080", 8080),
            ("http://h.example", "h.example", 80),
        ] {
            assert_eq!(read(url), (place.to_owned(), Some(port)), "{url}");
        }
    }

    #[tokio::test]
    async fn only_named_hosts_of_our_network_are_reached() {
        let named: Vec<Authority> = ["localhost:9000", "10.0.0.7"]
            .iter()
            .map(|text| Authority::parse(text).expect("a place"))
            .collect();
        let url = "http://upstream.example/x";
        for (to, want) in [
            ("http://localhost:9000/y", Some(Reach::Named)),
            ("http://LOCALHOST:9000/y", Some(Reach::Named)),
            ("http://localhost:9001/y", None),
            ("http://127.0.0.1:9000/y", None),
            ("https://10.0.0.7/y", Some(Reach::Named)),
            ("http://10.0.0.7:8081/y", None),
            ("http://10.0.0.8/y", None),
            ("http://169.254.169.254/y", None),
            ("http://[::1]:9000/y", None),
            ("http://192.0.2.1/y", Some(Reach::OutsideOnly)),
        ] {
            let to: Uri = to.parse().expect("a URL");
            let reach = of_redirect(url, &to, &named).await;
            let told = reach.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert_eq!(reach.ok(), want, "{to}");
            let place = place_of(&to).expect("a place").to_string();
            assert!(want.is_some() || told.contains(&format!("redirect_to = [\"{place}\"]")), "{told}");
        }
    }
}
