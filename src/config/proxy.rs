//! The `[proxy]` table: to which hosts clients may open tunnels.

use std::net::SocketAddr;

use serde::Deserialize;

use super::ConfigError;
use crate::formats::authority::Authority;

/// What the server does for clients that use it as their proxy, besides its repositories.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    /// Where CONNECT may lead. Default: nowhere.
    pub connect: Vec<ConnectRule>,
}

/// One place, or all hosts below a domain at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRule {
    host: String,
    port: u16,
    /// Written `*.HOST`: what is below the domain, not the domain itself.
    is_domain: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawProxy {
    connect: Vec<String>,
}

impl ProxyConfig {
    pub(super) fn from_raw(raw: &RawProxy) -> Result<Self, ConfigError> {
        let connect = raw.connect.iter().map(|text| ConnectRule::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { connect })
    }

    /// Whether CONNECT may lead to this host and port.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        self.connect.iter().any(|rule| rule.matches(host, port))
    }

    /// Whether the list names this very address: a name that leads to it is not enough.
    pub fn names(&self, address: SocketAddr) -> bool {
        let host = address.ip().to_canonical().to_string();
        self.connect.iter().any(|rule| !rule.is_domain && rule.matches(&host, address.port()))
    }
}

impl ConnectRule {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let (is_domain, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let authority = Authority::parse(rest);
        let is_address = authority.as_ref().is_some_and(|authority| authority.address().is_some());
        match authority {
            Some(Authority { host, port: Some(port) }) if port != 0 && !(is_domain && is_address) => {
                Ok(Self { host, port, is_domain })
            }
            _ => {
                let problem =
                    format!("{text:?} is not HOST:PORT or *.DOMAIN:PORT, for example \"host.example:443\"");
                Err(ConfigError::value("proxy.connect", problem))
            }
        }
    }

    fn matches(&self, host: &str, port: u16) -> bool {
        let is_host = match (self.is_domain, host.strip_suffix(self.host.as_str())) {
            (true, Some(below)) => below.len() > 1 && below.ends_with('.'),
            (false, Some(below)) => below.is_empty(),
            (_, None) => false,
        };
        is_host && port == self.port
    }
}

impl std::fmt::Display for ConnectRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authority = Authority { host: self.host.clone(), port: Some(self.port) };
        write!(f, "{}{authority}", if self.is_domain { "*." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rules: &[&str]) -> Result<ProxyConfig, ConfigError> {
        ProxyConfig::from_raw(&RawProxy { connect: rules.iter().map(|&rule| rule.to_owned()).collect() })
    }

    #[test]
    fn rules_match_hosts_and_ports() {
        let rules = ["Host.example:443", "*.wild.example:8443", "10.0.0.1:443", "[::1]:443"];
        let config = config(&rules).expect("valid");
        for (host, port, want) in [
            ("host.example", 443, true),
            ("host.example", 80, false),
            ("a.host.example", 443, false),
            ("ahost.example", 443, false),
            ("a.wild.example", 8443, true),
            ("a.b.wild.example", 8443, true),
            ("wild.example", 8443, false),
            (".wild.example", 8443, false),
            ("notwild.example", 8443, false),
            ("10.0.0.1", 443, true),
            ("::1", 443, true),
            ("::2", 443, false),
        ] {
            assert_eq!(config.allows(host, port), want, "{host} {port}");
        }
        let names = |address: &str| config.names(address.parse().expect("an address"));
        assert!(names("10.0.0.1:443") && names("[::ffff:10.0.0.1]:443") && names("[::1]:443"));
        assert!(!names("10.0.0.1:80") && !names("10.0.0.2:443"));
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["host.example", "*:443", "*", "*.10.0.0.1:443", "a.*.example:443", "host.example:0", ""]
        {
            let error = config(&[text]).expect_err(text).to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }
}
