//! What the answering parts need of a request.

use std::net::IpAddr;

use http::{HeaderMap, Method, header};

use super::traffic::Kind;
use crate::io::listen::Ends;
use crate::policy::Asker;

/// The parts of a request that handlers need.
#[derive(Clone, Debug)]
pub struct Asked {
    pub client: IpAddr,
    /// The client's end of the connection.
    pub port: u16,
    /// This server's end.
    pub local_port: u16,
    pub method: Method,
    pub headers: HeaderMap,
    /// Never redirect: `/direct/`, and ways in from which a redirect leads nowhere.
    pub direct: bool,
    /// The URL came from a list of ours: should a redirect fail, the client continues with another URL.
    pub is_listed: bool,
    /// A volunteer sent the client here, to be redirected again.
    pub is_sent_back: bool,
    /// `Last-Modified` in seconds since 1970, where the URL settles it.
    pub modified_secs: Option<u64>,
    /// Whom the bytes are for: a client, or a volunteer that fetches on order.
    pub kind: Kind,
}

impl Asked {
    pub fn new(Ends { peer, local }: Ends, method: Method, headers: HeaderMap, direct: bool) -> Self {
        let (client, port) = (peer.ip().to_canonical(), peer.port());
        Self {
            client,
            port,
            local_port: local.port(),
            method,
            headers,
            direct,
            is_listed: false,
            is_sent_back: false,
            modified_secs: None,
            kind: Kind::Package,
        }
    }

    pub fn user_agent(&self) -> &str {
        self.header(header::USER_AGENT).unwrap_or("")
    }

    pub fn asker(&self) -> Asker {
        Asker::new(self.client, self.user_agent())
    }

    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
