//! What is remembered of clients for the failover zone: who is sent to a volunteer by its name in the zone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use moka::sync::Cache;

use super::fleet::Signer;
use crate::formats::zone::Zone;
use crate::io::tunnel::site;
use crate::model::VolunteerId;
use crate::policy::NodeNo;
use crate::roles::serve::http::request::Asked;

/// How apt's requests begin their User-Agent; no other client follows SRV records.
const APT: &str = "Debian APT-HTTP";

/// Clients remembered.
const MAX_CLIENTS: u64 = 100_000;

/// How long a client that follows no SRV records is remembered.
const PLAIN: Duration = Duration::from_secs(24 * 3600);

/// How long a redirect explains why a client comes. Covers apt's 30 s for a volunteer that is silent.
const SENT: Duration = Duration::from_secs(60);

/// How long an SRV question may be what led a client here: longer than [`SENT`], for resolvers that keep
/// answers longer than they should.
const FOLLOWED: Duration = Duration::from_secs(120);

/// The zone, and what is remembered about clients.
#[derive(Debug)]
pub struct Failover {
    pub(super) zone: Zone,
    /// Clients sent to a volunteer by name, with the port of ours that they had asked at.
    pub(super) sent: Cache<(IpAddr, NodeNo), u16>,
    /// Volunteers whose SRV records somebody asked for.
    pub(super) followed: Cache<NodeNo, ()>,
    /// Clients that follow no SRV records.
    pub(super) plain: Cache<IpAddr, ()>,
}

impl Failover {
    pub fn new(zone: Zone) -> Self {
        Self {
            zone,
            sent: Cache::builder().max_capacity(MAX_CLIENTS).time_to_live(SENT).build(),
            followed: Cache::builder().max_capacity(MAX_CLIENTS).time_to_live(FOLLOWED).build(),
            plain: Cache::builder().max_capacity(MAX_CLIENTS).time_to_live(PLAIN).build(),
        }
    }

    /// Whether a client is sent by name. One that follows no SRV records and is not yet known comes here anyway.
    pub fn covers(&self, asked: &Asked) -> bool {
        let is_apt = asked.header(header::USER_AGENT).is_some_and(|agent| agent.starts_with(APT));
        is_apt && !self.plain.contains_key(&site(asked.client))
    }

    /// The base URL of a volunteer's name, without a port; `None` where only its own URL leads to it.
    pub fn named_url(&self, id: &VolunteerId, base_url: &str) -> Option<Arc<str>> {
        self.zone.host_of(id, base_url).map(|host| format!("http://{host}").into())
    }
}

/// Where a client is sent for a volunteer: by name where it falls over by itself, else to host and port.
pub fn location_base<'a>(
    failover: Option<&Failover>,
    node: NodeNo,
    base_url: &'a str,
    signer: &'a Signer,
    asked: &Asked,
) -> &'a str {
    match (failover, &signer.named_url) {
        (Some(failover), Some(named_url)) if failover.covers(asked) => {
            failover.sent.insert((site(asked.client), node), asked.local_port);
            named_url
        }
        _ => base_url,
    }
}
