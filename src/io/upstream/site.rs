//! What the configuration says of single upstreams: who we are there, and where they may lead.
//!
//! A site is known by its base URL; of several that begin a URL the longest counts. What shows who we are goes to
//! the site's own host and port over its own scheme, never to where it redirects to.

use std::sync::Arc;

use http::header::HeaderValue;

use super::connections::{self, ClientPem, Connections, IDLE_CONNECTIONS, TlsError};
use super::reach;
use crate::formats::authority::Authority;
use crate::formats::credentials::Credentials;

/// One upstream.
#[derive(Clone, Debug)]
pub struct Site {
    /// Without a final slash.
    base: String,
    pub(super) authorization: Option<HeaderValue>,
    /// Hosts that it may redirect to even inside our own network.
    pub(super) leads_to: Vec<Authority>,
    pub(super) lines: Option<Lines>,
}

/// The connections of a repository with certificates of its own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines {
    /// To the upstreams.
    pub(super) own: Connections,
    /// To where they may lead: without the client certificate.
    pub(super) led: Connections,
}

impl Lines {
    /// With these certificate authorities in place of the system's, and this client certificate.
    pub fn new(authorities: Option<&[u8]>, client: Option<ClientPem<'_>>) -> Result<Self, TlsError> {
        let own = connections::tls(authorities, client)?;
        let led = connections::tls(authorities, None)?;
        Ok(Self {
            own: connections::pool(reach::anywhere(), own, IDLE_CONNECTIONS),
            led: connections::pool(reach::anywhere(), led, IDLE_CONNECTIONS),
        })
    }
}

impl Site {
    pub fn new(base: &str, leads_to: Vec<Authority>) -> Self {
        Self { base: base.to_owned(), authorization: None, leads_to, lines: None }
    }

    pub fn with_credentials(mut self, credentials: Option<&Credentials>) -> Self {
        let value = credentials.and_then(|credentials| HeaderValue::from_str(&credentials.basic()).ok());
        self.authorization = value.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        self
    }

    pub fn with_lines(mut self, lines: Option<Lines>) -> Self {
        self.lines = lines;
        self
    }
}

/// All sites. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sites(Arc<[Site]>);

impl Sites {
    /// Of two for one URL, which the configuration gives one identity, each may lead where the other may.
    pub fn new(all: Vec<Site>) -> Self {
        let mut sites: Vec<Site> = Vec::new();
        for site in all {
            match sites.iter_mut().find(|known| known.base == site.base) {
                Some(known) => known.leads_to.extend(site.leads_to),
                None => sites.push(site),
            }
        }
        sites.sort_by_key(|site| std::cmp::Reverse(site.base.len()));
        Self(sites.into())
    }

    /// The site that a URL belongs to.
    pub fn of(&self, url: &str) -> Option<&Site> {
        self.0.iter().find(|site| {
            url.strip_prefix(&site.base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_base_counts() {
        let place = |text: &str| Authority::parse(text).expect("a place");
        let sites = Sites::new(vec![
            Site::new("https://h/a", vec![place("x")]),
            Site::new("https://h/a/b", Vec::new()),
            Site::new("https://h/a", vec![place("y:1")]),
        ]);
        let base = |url: &str| sites.of(url).map(|site| site.base.as_str());
        assert_eq!(base("https://h/a/c"), Some("https://h/a"));
        assert_eq!(base("https://h/a"), Some("https://h/a"));
        assert_eq!(base("https://h/a/b/c"), Some("https://h/a/b"));
        assert_eq!(
            (base("https://h/ab"), base("http://h/a/c"), base("https://h:444/a/c")),
            (None, None, None)
        );
        assert_eq!(sites.of("https://h/a/c").map(|site| site.leads_to.len()), Some(2));
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = Credentials::new("me", "s3cr3t").expect("sendable");
        let site = Site::new("https://h", Vec::new()).with_credentials(Some(&credentials));
        let shown = format!("{site:?}");
        assert!(!shown.contains("s3cr3t") && !shown.contains("Basic"), "{shown}");
    }
}
