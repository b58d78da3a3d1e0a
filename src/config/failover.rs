//! The failover keys of `[server]`: the zone that this server's own DNS answers for.

use std::net::{IpAddr, SocketAddr};

use super::ConfigError;
use crate::formats::zone::{MAX_ADDRESSES, Zone};

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// A server with a zone of its own.
#[derive(Clone, Debug)]
pub struct FailoverConfig {
    pub zone: Zone,
    /// Where DNS is answered, by UDP and TCP.
    pub dns_listen: Vec<SocketAddr>,
    has_port_80: bool,
}

/// The keys as they stand in the file.
#[derive(Debug)]
pub(super) struct RawFailover {
    pub zone: Option<String>,
    pub dns_listen: Vec<String>,
    pub addresses: Vec<String>,
    pub port: Option<u16>,
}

impl FailoverConfig {
    /// `None` without a zone. `listen` gives what is not said.
    pub(super) fn from_raw(raw: RawFailover, listen: &[SocketAddr]) -> Result<Option<Self>, ConfigError> {
        let Some(name) = raw.zone else {
            return match (raw.dns_listen.is_empty(), raw.addresses.is_empty(), raw.port) {
                (true, true, None) => Ok(None),
                _ => Err(ConfigError::value(
                    "server.failover_zone",
                    "dns_listen, failover_addresses and failover_port are for a failover_zone: name one, \
                     for example \"v.mirror.example\", or leave them out",
                )),
            };
        };
        let addresses = addresses(&raw.addresses, listen)?;
        let port = raw.port.unwrap_or(listen[0].port());
        if port == 0 {
            let problem = "set the port at which clients reach this server, for example 8080";
            return Err(ConfigError::value("server.failover_port", problem));
        }
        let mut dns_listen = Vec::new();
        for text in &raw.dns_listen {
            dns_listen.push(super::serve::address("server.dns_listen", text)?);
        }
        if dns_listen.is_empty() {
            dns_listen.extend(addresses.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)));
        }
        let zone = Zone::new(&name, addresses, port)
            .map_err(|e| ConfigError::value("server.failover_zone", e.to_string()))?;
        let has_port_80 = listen.iter().any(|address| address.port() == 80);
        Ok(Some(Self { zone, dns_listen, has_port_80 }))
    }

    /// A probable mistake, unless something in front of the server makes up for it.
    pub fn problem(&self) -> Option<&'static str> {
        (!self.has_port_80).then_some(
            "listen has no port 80: a client without /etc/services goes there and finds nobody, unless \
             another port of this server is forwarded from it",
        )
    }
}

/// The addresses of this server: those said, else those it listens on.
fn addresses(said: &[String], listen: &[SocketAddr]) -> Result<Vec<IpAddr>, ConfigError> {
    let wrong = |problem: String| ConfigError::value("server.failover_addresses", problem);
    let mut all: Vec<IpAddr> = Vec::new();
    for text in said {
        let parsed = text.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        let address = parsed.ok_or_else(|| {
            wrong(format!("{text:?} is not a host address, for example \"192.0.2.1\" or \"2001:db8::1\""))
        })?;
        all.push(address.to_canonical());
    }
    if said.is_empty() {
        all.extend(listen.iter().map(|a| a.ip().to_canonical()).filter(|ip| !ip.is_unspecified()));
    }
    all.sort_unstable();
    all.dedup();
    match all.len() {
        0 => Err(wrong(
            "listen names no address of this server: say at which clients reach it, for example \
             [\"192.0.2.1\", \"2001:db8::1\"]"
                .to_owned(),
        )),
        1..=MAX_ADDRESSES => Ok(all),
        more => Err(wrong(format!("{more} are too many; the limit is {MAX_ADDRESSES}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Profiles, ServeConfig};

    fn parse(lines: &str) -> Result<Option<FailoverConfig>, String> {
        let text = format!("[server]\n{lines}\n[[repo]]\nname='x'\ndistro='generic-deb'\ntree='/x'\n");
        let config = ServeConfig::parse(&text, &Profiles::built_in().expect("valid"));
        config.map(|config| config.failover).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_said_follows_from_listen() {
        assert!(parse("").expect("valid").is_none());
        for (lines, addresses, port, dns) in [
            (
                "listen=['192.0.2.1:8080','192.0.2.1:80','[2001:db8::1]:80']",
                "192.0.2.1 2001:db8::1",
                8080,
                "192.0.2.1:53 [2001:db8::1]:53",
            ),
            (
                "failover_addresses=['2001:db8::1','192.0.2.1']\nfailover_port=81",
                "192.0.2.1 2001:db8::1",
                81,
                "192.0.2.1:53 [2001:db8::1]:53",
            ),
            (
                "failover_addresses=['192.0.2.1']\ndns_listen=['10.0.0.1:5353']",
                "192.0.2.1",
                8080,
                "10.0.0.1:5353",
            ),
        ] {
            let found = parse(&format!("failover_zone='V.example.'\n{lines}")).expect(lines).expect("a zone");
            let words = |all: Vec<String>| all.join(" ");
            assert_eq!(found.zone.name(), "v.example");
            assert_eq!(words(found.zone.addresses().iter().map(ToString::to_string).collect()), addresses);
            assert_eq!(found.zone.port(), port);
            assert_eq!(words(found.dns_listen.iter().map(ToString::to_string).collect()), dns);
            assert_eq!(found.problem().is_none(), lines.contains(":80'"), "{lines}");
        }
    }

    #[test]
    fn mistakes_say_what_to_do() {
        for (lines, word) in [
            ("dns_listen=['0.0.0.0:53']", "for a failover_zone"),
            ("failover_addresses=['192.0.2.1']", "for a failover_zone"),
            ("failover_port=80", "for a failover_zone"),
            ("failover_zone='v.example'", "failover_addresses: listen names no address"),
            ("failover_zone='v.example'\nfailover_addresses=['0.0.0.0']", "not a host address"),
            ("failover_zone='v.example'\nfailover_addresses=['mirror.example']", "not a host address"),
            ("failover_zone='v example'\nfailover_addresses=['192.0.2.1']", "is not a zone"),
            (
                "failover_zone='v.example'\nfailover_addresses=['192.0.2.1']\ndns_listen=['53']",
                "ADDRESS:PORT",
            ),
            ("failover_zone='v.example'\nlisten=['192.0.2.1:0']", "failover_port: set the port"),
            (
                "failover_zone='v.example'\nfailover_addresses=['192.0.2.1','192.0.2.2','192.0.2.3','192.0.2.4',\
                 '192.0.2.5','192.0.2.6','192.0.2.7','192.0.2.8','192.0.2.9']",
                "too many",
            ),
        ] {
            let error = parse(lines).expect_err(lines);
            assert!(error.contains(word), "{lines}: {error}");
        }
    }
}
