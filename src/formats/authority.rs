//! `host:port` as URLs and `Host` headers write it (RFC 3986 section 3.2, RFC 9110 section 7.2).
//!
//! Two spellings of one place are equal here: case, a final dot, forms of an IPv6 literal, and the default
//! ports of http and https, because clients know an archive under either scheme. User names are refused:
//! RFC 9110 section 4.2.4 calls them an error.

use std::net::{IpAddr, Ipv6Addr};

/// Longest host name (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 255;

/// Host and port. `Eq` is by place: ports 80 and 443 equal none.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Lower case, without a final dot; an IPv6 literal without its brackets and zone.
    pub host: String,
    pub port: Option<u16>,
}

impl Authority {
    /// `None` for everything that is not plainly a host and perhaps a port.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(literal) => {
                let (literal, port) = literal.split_once(']')?;
                let (address, _zone) = literal.split_once('%').unwrap_or((literal, ""));
                (address.parse::<Ipv6Addr>().ok()?.to_string(), port.strip_prefix(':').or(empty(port))?)
            }
            None => {
                let (name, port) = text.split_once(':').unwrap_or((text, ""));
                (name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(), port)
            }
        };
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':');
        // Of two final dots one is an empty label, which no name has.
        if host.is_empty() || host.ends_with('.') || host.len() > MAX_HOST || !host.bytes().all(is_plain) {
            return None;
        }
        // `u16::parse` takes a sign.
        let is_number = port.bytes().all(|c| c.is_ascii_digit());
        let port = if port.is_empty() { None } else { Some(port.parse().ok().filter(|_| is_number)?) };
        Some(Self { host, port })
    }

    /// The host, where it is an address and no name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    fn place(&self) -> (&str, Option<u16>) {
        (&self.host, self.port.filter(|port| !matches!(port, 80 | 443)))
    }
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Authority {}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]", self.host) } else { f.write_str(&self.host) }?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn empty(text: &str) -> Option<&str> {
    text.is_empty().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (text, want) in [
            ("deb.example", Some("deb.example")),
            ("DEB.Example.", Some("deb.example")),
            ("deb.example:", Some("deb.example")),
            ("deb.example:8080", Some("deb.example:8080")),
            ("my_host", Some("my_host")),
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("[2001:DB8:0::1]", Some("[2001:db8::1]")),
            ("[fe80::1%25eth0]:3142", Some("[fe80::1]:3142")),
            ("", None),
            (".", None),
            ("deb.example..", None),
            (":80", None),
            ("user@deb.example", None),
            ("user:pass@deb.example", None),
            ("deb.example:+80", None),
            ("deb.example:65536", None),
            ("deb.example:80:80", None),
            ("deb.example/x", None),
            ("deb example", None),
            ("deb,example", None),
            ("[::1", None),
            ("[::1]80", None),
            ("[nonsense]", None),
            ("::1", None),
        ] {
            let found = Authority::parse(text).map(|authority| authority.to_string());
            assert_eq!(found.as_deref(), want, "{text:?}");
        }
        assert_eq!(Authority::parse(&"a".repeat(256)), None);
    }

    #[test]
    fn default_ports_are_one_place() {
        let parse = |text| Authority::parse(text).expect("valid");
        assert_eq!(parse("a.example"), parse("A.example:80"));
        assert_eq!(parse("a.example:443"), parse("a.example:80"));
        assert_ne!(parse("a.example:8080"), parse("a.example"));
        assert_ne!(parse("a.example"), parse("b.example"));
    }
}
