//! Pools of connections: one resolver, one set of authorities and at most one client certificate each.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::reach::Resolver;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections kept per host while nothing is asked.
pub const IDLE_CONNECTIONS: usize = 32;

pub type Connections = Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// A pool that keeps this many idle connections per host.
pub fn pool(resolver: Resolver, tls: ClientConfig, idle: usize) -> Connections {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let https =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(idle)
        .build(https)
}

/// Whether the system's certificate authorities were looked for and are not there.
static LACKS_AUTHORITIES: AtomicBool = AtomicBool::new(false);

/// Why a request failed, for people: who answers TLS with something else is often meant to be asked without, and an
/// unknown issuer may be everybody's.
pub fn explain(problem: String) -> String {
    // What rustls and tokio-rustls call an answer that is no TLS record, and none at all.
    if ["InvalidContentType", "tls handshake eof"].iter().any(|sign| problem.contains(sign)) {
        return problem
            + ": no TLS came back. If plain HTTP is spoken there, write http:// instead of https://";
    }
    let is_everybodys = LACKS_AUTHORITIES.load(Relaxed) && problem.contains("UnknownIssuer");
    let hint = if is_everybodys {
        ": this system has no certificate authorities; install ca-certificates"
    } else {
        ""
    };
    problem + hint
}

/// Certificates and a key in PEM, as files have them.
#[derive(Clone, Copy, Debug)]
pub struct ClientPem<'a> {
    pub cert: &'a [u8],
    pub key: &'a [u8],
}

/// An error in the contents of a certificate, a key or a list of authorities.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("ca_file: {0}")]
    Authorities(String),
    #[error("client_cert: {0}")]
    Certificate(String),
    #[error("client_key: {0}")]
    Key(String),
    #[error("client_key is not the key of client_cert")]
    NotItsKey,
}

/// How to speak TLS: with whom, by `authorities` in PEM or the system's, and as whom.
pub fn tls(authorities: Option<&[u8]>, client: Option<ClientPem<'_>>) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder();
    let builder = match authorities {
        // Who asks nobody over https needs none, and a small system has none.
        None => builder.clone().with_native_roots().unwrap_or_else(|error| {
            tracing::debug!(%error, "the system's certificate authorities");
            LACKS_AUTHORITIES.store(true, Relaxed);
            builder.with_root_certificates(rustls::RootCertStore::empty())
        }),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(pem).map_err(TlsError::Authorities)? {
                roots.add(certificate).map_err(|e| TlsError::Authorities(e.to_string()))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let Some(client) = client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(client.cert).map_err(TlsError::Certificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(client.key).map_err(|e| TlsError::Key(key_problem(client.key, &e)))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => TlsError::NotItsKey,
        e => TlsError::Certificate(e.to_string()),
    })
}

/// All certificates of a PEM file.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("it contains no PEM certificate".to_owned()),
        all => all.map_err(|e| e.to_string()),
    }
}

/// A locked key is the usual mistake, and the library only says that it finds none.
fn key_problem(pem: &[u8], error: &rustls::pki_types::pem::Error) -> String {
    let is_locked = pem.windows(9).any(|window| window == b"ENCRYPTED");
    if is_locked { "it has a passphrase; store it without one".to_owned() } else { error.to_string() }
}
