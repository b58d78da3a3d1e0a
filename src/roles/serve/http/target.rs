//! What a request asks for, from its first line and `Host` alone. No I/O, so that every way in is a row of a
//! table below.
//!
//! | form | example | means | redirected |
//! |---|---|---|---|
//! | own path | `/debian/...`, `/direct/debian/...` | a repository by its name | yes, no |
//! | from a list | `/listed/debian/...` | the same; the client has the direct URL too | yes |
//! | a list | `/mirrors/debian.txt` | these two URLs, for apt's `mirror+http:` | |
//! | host in the path, as apt-cacher-ng has it | `/deb.example/debian/...`, `/HTTPS///deb.example/debian/...` | a repository by a URL of it | yes |
//! | absolute form: we are the proxy | `http://deb.example/debian/...` | the same | no |
//! | intercepted: another's `Host` | `/debian/...` with `Host: deb.example` | the same | no |
//! | a volunteer's URL, `Host` in the failover zone | `/b/...` with `Host: v1.v.mirror.example` | a blob by its hash | no |
//! | CONNECT | `deb.example:443` | a tunnel, where the configuration lists it | |
//!
//! The URLs of a repository are its upstreams and its `aliases`, whatever their scheme. The longest wins.
//!
//! A client whose proxy we are would ask us for the volunteer's URL too. Of one whose traffic is intercepted
//! nobody knows whether it reaches anything but port 80, or whether the volunteer's port 80 is intercepted
//! as well; apt never comes back from a redirect that leads nowhere. Both get their bytes from here.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use http::{HeaderMap, Method, StatusCode, Uri, Version, header};
use percent_encoding::percent_decode_str;

use crate::config::{Origin, ProxyConfig, ServeConfig};
use crate::formats::authority::Authority;
use crate::formats::zone::Zone;
use crate::model::VolunteerId;

/// URLs that a refusal lists: an archive of many repositories must not make it a page.
const MAX_LISTED: usize = 20;

/// What a request asks for. `rest` is still percent-encoded and has no leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A file of a repository, by its position in the configuration; its front page if `rest` is empty.
    Repo {
        index: usize,
        rest: &'a str,
        direct: bool,
        /// The URL came from a list of ours, so that the client has another.
        listed: bool,
    },
    /// What lists the URLs of a repository for apt: `NAME.txt`.
    MirrorList {
        file: &'a str,
    },
    /// A package by its hash.
    Blob {
        rest: &'a str,
        direct: bool,
    },
    /// What a volunteer would serve, whose client failed over to this server.
    Signed {
        volunteer: VolunteerId,
    },
    Index,
    /// The control API.
    Control,
    /// A tunnel that the configuration allows.
    Connect {
        host: String,
        port: u16,
    },
    Refused {
        status: StatusCode,
        text: Cow<'static, str>,
    },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Door {
    /// The name under which this server is known.
    public: Option<Authority>,
    names: BTreeMap<String, usize>,
    /// By host, the longest path first; of equal ones aliases first, then as configured.
    bases: BTreeMap<String, Vec<Base>>,
    proxy: ProxyConfig,
    /// Whose hosts are this server's and mean volunteers.
    zone: Option<Zone>,
    /// The answer to clients that take this server for an open proxy.
    refusal: String,
}

/// A URL of a repository.
#[derive(Debug)]
struct Base {
    authority: Authority,
    /// Percent-decoded.
    segments: Vec<String>,
    repo: usize,
}

impl Door {
    pub fn new(config: &ServeConfig) -> Self {
        let mut bases = Vec::new();
        for (index, repo) in config.repos.iter().enumerate() {
            bases.extend(repo.aliases.iter().filter_map(|url| Base::of(url, index)));
        }
        for (index, repo) in config.repos.iter().enumerate() {
            if let Origin::Upstream(urls) = &repo.origin {
                bases.extend(urls.iter().filter_map(|url| Base::of(url, index)));
            }
        }
        bases.sort_by_key(|base| Reverse(base.segments.len()));
        let refusal = refusal(&bases);
        let mut by_host = BTreeMap::<String, Vec<Base>>::new();
        for base in bases {
            by_host.entry(base.authority.host.clone()).or_default().push(base);
        }
        let public = config.public_url.as_deref().and_then(|url| Authority::parse(url.split('/').nth(2)?));
        let names = config.repos.iter().enumerate().map(|(index, repo)| (repo.name.clone(), index)).collect();
        let zone = config.failover.as_ref().map(|failover| failover.zone.clone());
        Self { public, names, refusal, bases: by_host, proxy: config.proxy.clone(), zone }
    }

    /// `local` is the address of ours that the client connected to.
    pub fn target<'a>(
        &self,
        method: &Method,
        uri: &'a Uri,
        version: Version,
        headers: &HeaderMap,
        local: SocketAddr,
    ) -> Target<'a> {
        if method == Method::CONNECT {
            return self.tunnel(uri);
        }
        let host = match host(version, headers) {
            Ok(host) => host,
            Err(problem) => return refused(StatusCode::BAD_REQUEST, problem),
        };
        match (uri.scheme_str(), uri.authority()) {
            (None, None) => self.origin_form(uri.path(), host.as_ref(), local),
            // RFC 9112 section 3.2.2: the target counts, not the Host.
            (Some("http" | "https"), Some(authority)) => match Authority::parse(authority.as_str()) {
                Some(authority) => self.absolute_form(uri.path(), &authority, local),
                None => refused(StatusCode::BAD_REQUEST, "the URL must have a plain host, without a user"),
            },
            _ => refused(StatusCode::BAD_REQUEST, "only paths and URLs of http and https are served here"),
        }
    }

    fn origin_form<'a>(&self, path: &'a str, host: Option<&Authority>, local: SocketAddr) -> Target<'a> {
        let volunteer = || self.zone.as_ref()?.volunteer(&host?.host);
        if path.starts_with("/b/")
            && let Some(volunteer) = volunteer()
        {
            return Target::Signed { volunteer };
        }
        let found = match host {
            Some(host) if !self.is_own(host, local) => {
                let intercepted = self.under(host, path).map(Target::unredirected);
                intercepted.or_else(|| self.own(path))
            }
            // An alias may be an old URL of this very server.
            host => self.own(path).or_else(|| self.under(host?, path)),
        };
        found.unwrap_or_else(|| refused(StatusCode::NOT_FOUND, "no such repository"))
    }

    fn absolute_form<'a>(&self, path: &'a str, authority: &Authority, local: SocketAddr) -> Target<'a> {
        let found = if self.is_own(authority, local) {
            self.own(path)
        } else if authority.host == "https" && path.starts_with("///") {
            self.host_in_path(path)
        } else {
            None
        };
        let found = found.or_else(|| self.under(authority, path)).map(Target::unredirected);
        found.unwrap_or_else(|| refused(StatusCode::FORBIDDEN, self.refusal.clone()))
    }

    /// A path as this server shows it.
    fn own<'a>(&self, path: &'a str) -> Option<Target<'a>> {
        if path.starts_with("/_mh/") {
            return Some(Target::Control);
        }
        let below = |prefix| path.strip_prefix(prefix);
        let (direct, listed) = (below("/direct/"), below("/listed/"));
        let path = direct.or(listed).unwrap_or(path);
        let (name, rest) = first_segment(path);
        let found = match self.names.get(name) {
            Some(&index) => Target::repo(index, rest.trim_start_matches('/')),
            None if name == "_blob" => Target::Blob { rest, direct: false },
            None if name == "mirrors" => Target::MirrorList { file: rest.trim_start_matches('/') },
            None if name.is_empty() => Target::Index,
            None if name.eq_ignore_ascii_case("https") && rest.starts_with("//") => {
                let found = self.host_in_path(rest);
                found.unwrap_or_else(|| refused(StatusCode::FORBIDDEN, self.refusal.clone()))
            }
            None => self.host_in_path(path)?,
        };
        Some(match (direct, listed) {
            (Some(_), _) => found.unredirected(),
            (None, Some(_)) => found.listed(),
            (None, None) => found,
        })
    }

    /// `HOST/PATH`, where both are of one of the known URLs.
    fn host_in_path<'a>(&self, path: &'a str) -> Option<Target<'a>> {
        let (host, path) = first_segment(path);
        self.under(&Authority::parse(host)?, path)
    }

    fn under<'a>(&self, authority: &Authority, path: &'a str) -> Option<Target<'a>> {
        let mut here = self.bases.get(&authority.host)?.iter().filter(|base| base.authority == *authority);
        here.find_map(|base| Some(Target::repo(base.repo, base.strip(path)?)))
    }

    fn is_own(&self, authority: &Authority, local: SocketAddr) -> bool {
        let is_here = match authority.address() {
            Some(address) => address == local.ip().to_canonical(),
            None => authority.host == "localhost" && local.ip().to_canonical().is_loopback(),
        };
        self.public.as_ref() == Some(authority) || (is_here && authority.port.unwrap_or(80) == local.port())
    }

    fn tunnel(&self, uri: &Uri) -> Target<'static> {
        let authority = uri.authority().filter(|_| uri.scheme().is_none());
        match authority.and_then(|authority| Authority::parse(authority.as_str())) {
            Some(Authority { host, port: Some(port) }) if self.proxy.allows(&host, port) => {
                Target::Connect { host, port }
            }
            Some(Authority { host, port: Some(port) }) => refused(
                StatusCode::FORBIDDEN,
                format!(
                    "no tunnel to {host} port {port}: write http:// in place of https:// in the client's \
                     configuration, then this server fetches what it serves by https itself; or list \
                     \"HOST:PORT\" under connect in [proxy] of its configuration"
                ),
            ),
            _ => refused(StatusCode::BAD_REQUEST, "CONNECT takes HOST:PORT"),
        }
    }
}

impl<'a> Target<'a> {
    fn repo(index: usize, rest: &'a str) -> Self {
        Self::Repo { index, rest, direct: false, listed: false }
    }

    fn listed(mut self) -> Self {
        if let Self::Repo { listed, .. } = &mut self {
            *listed = true;
        }
        self
    }

    fn unredirected(mut self) -> Self {
        if let Self::Repo { direct, .. } | Self::Blob { direct, .. } = &mut self {
            *direct = true;
        }
        self
    }
}

impl Base {
    /// `None` where no request could be told to mean it.
    fn of(url: &str, repo: usize) -> Option<Self> {
        let (_, url) = url.split_once("://")?;
        let (authority, path) = url.split_once('/').unwrap_or((url, ""));
        let segments = path.split('/').filter(|segment| !segment.is_empty()).map(decoded);
        Some(Self {
            authority: Authority::parse(authority)?,
            segments: segments.collect::<Option<_>>()?,
            repo,
        })
    }

    /// What is left of a path below this one. Segments are compared decoded, because apt encodes more than
    /// people do; an encoded slash stays inside its segment, and `..` equals no segment.
    fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut rest = path;
        for segment in &self.segments {
            let (first, more) = first_segment(rest);
            if decoded(first)? != *segment {
                return None;
            }
            rest = more;
        }
        Some(rest.trim_start_matches('/'))
    }
}

/// The host that the client means. RFC 9112 section 3.2: a request without exactly one sound Host is an
/// error, unless it is of HTTP/1.0.
fn host(version: Version, headers: &HeaderMap) -> Result<Option<Authority>, &'static str> {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err("there is more than one Host"),
        (None, None) if version < Version::HTTP_11 => Ok(None),
        (None, None) => Err("there is no Host"),
        (Some(value), None) if value.is_empty() => Ok(None),
        (Some(value), None) => {
            let host = value.to_str().ok().and_then(Authority::parse);
            host.map(Some).ok_or("the Host is not HOST or HOST:PORT")
        }
    }
}

/// The first segment, after any number of slashes, and what follows the slash behind it.
fn first_segment(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

fn decoded(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    (!matches!(&*text, "." | "..")).then(|| text.into_owned())
}

fn refused(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Target<'static> {
    Target::Refused { status, text: text.into() }
}

fn refusal(bases: &[Base]) -> String {
    let mut text = String::from("this server is a proxy only for the repositories that it serves");
    let listed: Vec<String> =
        bases.iter().map(|b| format!("{}/{}", b.authority, b.segments.join("/"))).collect();
    for (place, url) in listed.iter().take(MAX_LISTED).enumerate() {
        let _ = write!(text, "{} http://{url}", if place == 0 { ":" } else { "," });
    }
    if listed.len() > MAX_LISTED {
        let _ = write!(text, " and {} more", listed.len() - MAX_LISTED);
    }
    text.push_str(
        ". Its administrator adds a URL with aliases of a [[repo]], and this server's own name with public_url",
    );
    text
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
