//! The server's own addresses: they must not use the same port, and the server must not be an upstream of its
//! own.

use std::net::SocketAddr;

use super::ConfigError;
use super::serve::{Origin, RepoConfig};
use crate::formats::authority::Authority;

/// Whether two listening sockets would be one place. A wildcard address of IPv6 does not take IPv4: sockets here are
/// of one family.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let is_everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    // Port 0 is any free one.
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || is_everywhere)
}

/// The status is not for package clients.
pub(super) fn check_admin(key: &str, admin: SocketAddr, listen: &[SocketAddr]) -> Result<(), ConfigError> {
    match listen.iter().find(|address| collide(admin, **address)) {
        Some(address) => {
            let problem = format!("{admin} is taken by listen ({address}): give the status API another port");
            Err(ConfigError::value(key, problem))
        }
        None => Ok(()),
    }
}

/// A server that asks itself answers nothing.
pub(super) fn check_upstreams(
    repos: &[RepoConfig],
    listen: &[SocketAddr],
    public_url: Option<&str>,
) -> Result<(), ConfigError> {
    for repo in repos {
        let Origin::Upstream(urls) = &repo.origin else { continue };
        let is_own = |url: &&String| {
            authority(url).is_some_and(|place| is_here(&place, url, listen))
                || public_url.is_some_and(|public| is_below(url, public, repos))
        };
        if let Some(url) = urls.iter().find(is_own) {
            let problem = format!(
                "the upstream {url} is this server itself: name the archive that it should mirror, or a tree"
            );
            return Err(ConfigError::value(format!("repo {:?}", repo.name), problem));
        }
    }
    Ok(())
}

fn authority(url: &str) -> Option<Authority> {
    url.split('/').nth(2).and_then(Authority::parse)
}

/// Whether a URL is one of the repositories below the public URL. A reverse proxy may have other trees on that host.
fn is_below(url: &str, public: &str, repos: &[RepoConfig]) -> bool {
    let path = |url: &str| url.splitn(4, '/').nth(3).unwrap_or("").trim_end_matches('/').to_owned();
    let (asked, own) = (path(url), path(public));
    let Some(rest) = asked.strip_prefix(&own).filter(|_| authority(url) == authority(public)) else {
        return false;
    };
    let name = rest.trim_start_matches('/').split('/').next().unwrap_or("");
    repos.iter().any(|repo| repo.name == name || repo.aliases.iter().any(|alias| alias == name))
}

/// Whether a listening socket of this server is at that place.
fn is_here(place: &Authority, url: &str, listen: &[SocketAddr]) -> bool {
    let port = place.port.unwrap_or(if url.starts_with("https:") { 443 } else { 80 });
    let is_loopback =
        place.host == "localhost" || place.address().is_some_and(|address| address.is_loopback());
    listen.iter().any(|socket| {
        let is_it = place.address() == Some(socket.ip().to_canonical());
        let is_everywhere = socket.ip().is_unspecified() && is_loopback;
        let is_named = socket.ip().is_loopback() && place.host == "localhost";
        socket.port() == port && (is_it || is_everywhere || is_named)
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Profiles, ServeConfig};

    #[test]
    fn a_server_does_not_get_in_its_own_way() {
        let parse = |server: &str, upstream: &str| {
            let repo = format!("[[repo]]\nname='x'\ndistro='generic-deb'\nupstream=['{upstream}']");
            let text = format!("[server]\n{server}\n{repo}");
            ServeConfig::parse(&text, &Profiles::built_in().expect("valid"))
                .map(drop)
                .map_err(|e| e.to_string())
        };
        let far = "http://archive.example/debian";
        for (server, upstream, word) in [
            ("admin='127.0.0.1:8080'", far, "server.admin: 127.0.0.1:8080 is taken by listen (0.0.0.0:8080)"),
            ("listen=['192.0.2.1:80']\nadmin='192.0.2.1:80'", far, "taken by listen"),
            ("listen=['192.0.2.1:80']\nadmin='0.0.0.0:80'", far, "taken by listen"),
            ("", "http://localhost:8080/debian", "is this server itself"),
            ("", "http://127.0.0.1:8080/debian", "is this server itself"),
            ("", "http://[::1]:8080/", "is this server itself"),
            ("listen=['127.0.0.1:80']", "http://localhost/debian", "is this server itself"),
            ("listen=['192.0.2.1:80']", "http://192.0.2.1/debian", "is this server itself"),
            ("public_url='http://mirror.example'", "http://Mirror.example/x", "is this server itself"),
            ("public_url='http://mirror.example/m/'", "http://mirror.example/m/x/", "is this server itself"),
        ] {
            let error = parse(server, upstream).expect_err(server);
            assert!(error.contains(word), "{server}, {upstream}: {error}");
        }
        for (server, upstream) in [
            ("", far),
            ("listen=['127.0.0.1:0']\nadmin='127.0.0.1:0'", "http://127.0.0.1:8080/debian"),
            ("listen=['192.0.2.1:8080']", "http://127.0.0.1:8080/debian"),
            ("listen=['192.0.2.1:80']\nadmin='127.0.0.1:80'", "http://192.0.2.1:8080/debian"),
            ("", "http://127.0.0.1/debian"),
            ("public_url='http://mirror.example'", "http://mirror.example/debian"),
            ("public_url='http://mirror.example/m'", "http://mirror.example/x"),
            ("public_url='http://mirror.example:8080'", "http://mirror.example:8081/debian"),
        ] {
            assert_eq!(parse(server, upstream), Ok(()), "{server}, {upstream}");
        }
    }
}
