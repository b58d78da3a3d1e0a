//! The configuration of `manyhands serve`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::access::{self, Access, RawAccess, check_shared};
use super::failover::{FailoverConfig, RawFailover};
use super::networks::{Networks, RawNetwork, RawVolunteer};
use super::proxy::{ProxyConfig, RawProxy};
use super::{
    ConfigError, Layout, Profile, Profiles, absolute, base_url, duration, from_toml, one_or_many, own,
};
use crate::formats::authority::Authority;
use crate::formats::credentials::hidden_value;
use crate::model::{Rate, RepoPath, Size};

/// A validated server configuration.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Addresses for package clients and volunteers. Default: every IPv4 and IPv6 address, port 8080.
    pub listen: Vec<SocketAddr>,
    /// Address of the status API. Default `127.0.0.1:8081`; keep it off public networks.
    pub admin: SocketAddr,
    /// Where the server keeps its database, metadata and cache. Default `/var/lib/manyhands`.
    pub state_dir: PathBuf,
    /// Base URL under which clients reach this server; shown in hints. Default from `listen`.
    pub public_url: Option<String>,
    /// Combined-format access log. Default: none.
    pub access_log: Option<PathBuf>,
    /// What the server's own line carries; decides when it counts as busy. Default 1 Gbit/s.
    pub uplink: Rate,
    /// No redirect to a volunteer that takes more than this many times as long as an idle server. Default 2.
    pub patience: f64,
    /// What such a redirect leaves each client at least. Default 1 MiB/s.
    pub min_share: Rate,
    /// Most connections at a time. Default 20000.
    pub max_connections: usize,
    /// The zone that the server's own DNS answers for. Default: none.
    pub failover: Option<FailoverConfig>,
    pub cache: CacheConfig,
    pub proxy: ProxyConfig,
    pub networks: Networks,
    pub repos: Vec<RepoConfig>,
}

/// The cache of packages from upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Maximum bytes kept, arriving ones included. Default 200 GiB.
    pub max_size: Size,
    /// Bytes of the file system that stay free. Default 1 GiB.
    pub min_free: Size,
    /// How often, in days, every kept package is reread and compared with its digest; 0 is never. Default 30.
    pub scrub_days: u32,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { max_size: Size(200 << 30), min_free: Size(1 << 30), scrub_days: 30 }
    }
}

/// One mounted repository.
#[derive(Clone, Debug)]
pub struct RepoConfig {
    /// Served under `/<name>/`.
    pub name: String,
    pub distro: String,
    pub profile: Profile,
    /// Which of the profile's values this configuration gives itself: of its own choice, not of a default.
    pub named: Named,
    pub origin: Origin,
    pub access: Access,
    /// Base URLs without a final slash under which clients know it, besides the upstreams. Default: none.
    pub aliases: Vec<String>,
    /// How often metadata is checked without anyone asking. Default 5 min.
    pub poll: Duration,
    /// Files of OpenPGP keys that sign the metadata. Default: the profile's; empty means that signatures are
    /// not checked.
    pub keyring: Vec<PathBuf>,
    /// deb: whether a suite whose `Valid-Until` has passed is refused. Default: the profile's, true.
    pub check_valid_until: bool,
    /// How long a new generation may wait until volunteers hold those of its files that many will want; zero is not
    /// at all. Default 2 min. At most [`MAX_GATE`].
    pub publish_gate: Duration,
    /// Whether directories are listed. Default true.
    pub autoindex: bool,
}

/// See [`RepoConfig::named`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    pub suites: bool,
    pub components: bool,
    pub architectures: bool,
}

/// Longest time that clients may be kept from a new generation.
pub const MAX_GATE: Duration = Duration::from_secs(3600);

/// Where a repository's files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Tree(PathBuf),
    /// Base URLs without a final slash, tried in order.
    Upstream(Vec<String>),
}

// Without `Debug`, like its parts: URLs of upstreams may have passwords.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    server: RawServer,
    #[serde(default)]
    cache: CacheConfig,
    #[serde(default)]
    proxy: RawProxy,
    #[serde(default, rename = "network")]
    networks: Vec<RawNetwork>,
    #[serde(default, rename = "volunteer")]
    volunteers: Vec<RawVolunteer>,
    #[serde(default, rename = "repo")]
    repos: Vec<RawRepo>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawServer {
    listen: Vec<String>,
    admin: String,
    state_dir: PathBuf,
    public_url: Option<String>,
    access_log: Option<PathBuf>,
    uplink: Rate,
    patience: f64,
    min_share: Rate,
    max_connections: usize,
    distros_dir: Option<PathBuf>,
    failover_zone: Option<String>,
    dns_listen: Vec<String>,
    failover_addresses: Vec<String>,
    failover_port: Option<u16>,
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            listen: vec!["0.0.0.0:8080".to_owned(), "[::]:8080".to_owned()],
            admin: "127.0.0.1:8081".to_owned(),
            state_dir: "/var/lib/manyhands".into(),
            public_url: None,
            access_log: None,
            uplink: Rate(125_000_000),
            patience: 2.0,
            min_share: Rate(1 << 20),
            max_connections: 20_000,
            distros_dir: None,
            failover_zone: None,
            dns_listen: Vec::new(),
            failover_addresses: Vec::new(),
            failover_port: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRepo {
    name: String,
    distro: String,
    #[serde(default)]
    upstream: Vec<String>,
    tree: Option<PathBuf>,
    #[serde(default)]
    aliases: Vec<String>,
    suites: Option<Vec<String>>,
    components: Option<Vec<String>>,
    architectures: Option<Vec<String>>,
    poll_secs: Option<u64>,
    keyring: Option<Keyring>,
    check_valid_until: Option<bool>,
    publish_gate: Option<String>,
    credentials_file: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    redirect_to: Vec<String>,
    autoindex: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Keyring(#[serde(deserialize_with = "one_or_many")] Vec<PathBuf>);

impl ServeConfig {
    /// The folder with the administrator's own profiles, which the caller reads before [`Self::parse`].
    pub fn distros_dir(text: &str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(from_toml::<RawFile>(text)?.server.distros_dir)
    }

    pub fn parse(text: &str, profiles: &Profiles) -> Result<Self, ConfigError> {
        let RawFile { server, cache, proxy, networks, volunteers, repos } = from_toml(text)?;
        let listen =
            server.listen.iter().map(|a| address("server.listen", a)).collect::<Result<Vec<_>, _>>()?;
        if listen.is_empty() {
            return Err(ConfigError::value(
                "server.listen",
                "name at least one address, for example [\"0.0.0.0:8080\"]",
            ));
        }
        if repos.is_empty() {
            return Err(ConfigError::value(
                "repo",
                "there is nothing to serve: add a [[repo]] with name, distro and upstream or tree",
            ));
        }
        let repos: Vec<RepoConfig> =
            repos.into_iter().map(|raw| RepoConfig::from_raw(raw, profiles)).collect::<Result<_, _>>()?;
        let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for repo in &repos {
            if !names.insert(&repo.name) {
                return Err(ConfigError::value(format!("repo {:?}", repo.name), "this name is used twice"));
            }
            if let Some(alias) = repo.aliases.iter().find(|alias| taken.contains(alias)) {
                let problem = format!("the alias {alias:?} is another repository's");
                return Err(ConfigError::value(format!("repo {:?}", repo.name), problem));
            }
            taken.extend(&repo.aliases);
        }
        check_shared(&repos)?;
        let failover = RawFailover {
            zone: server.failover_zone,
            dns_listen: server.dns_listen,
            addresses: server.failover_addresses,
            port: server.failover_port,
        };
        if !(server.patience.is_finite() && server.patience >= 1.0) {
            return Err(ConfigError::value("server.patience", "must be a number of 1 or more"));
        }
        let admin = address("server.admin", &server.admin)?;
        let public_url = server.public_url.map(|url| base_url("server.public_url", &url)).transpose()?;
        own::check_admin("server.admin", admin, &listen)?;
        own::check_upstreams(&repos, &listen, public_url.as_deref())?;
        Ok(Self {
            failover: FailoverConfig::from_raw(failover, &listen)?,
            listen,
            admin,
            state_dir: server.state_dir,
            public_url,
            access_log: server.access_log,
            uplink: server.uplink,
            patience: server.patience,
            min_share: server.min_share,
            max_connections: server.max_connections.max(1),
            cache,
            proxy: ProxyConfig::from_raw(&proxy)?,
            networks: Networks::from_raw(networks, volunteers)?,
            repos,
        })
    }

    /// The URL that startup hints show.
    pub fn shown_url(&self) -> String {
        self.public_url.clone().unwrap_or_else(|| {
            let address = self.listen[0];
            if address.ip().is_unspecified() {
                format!("http://<this host>:{}", address.port())
            } else {
                format!("http://{address}")
            }
        })
    }
}

impl RepoConfig {
    fn from_raw(raw: RawRepo, profiles: &Profiles) -> Result<Self, ConfigError> {
        let key = format!("repo {:?}", raw.name);
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'+');
        // A leading underscore and these are the server's own routes.
        let reserved = ["b", "direct", "listed", "mirrors"];
        if raw.name.is_empty()
            || !raw.name.bytes().all(plain)
            || raw.name.starts_with('.')
            || reserved.contains(&raw.name.as_str())
        {
            let problem = "a name is a URL segment of letters, digits, '-', '.', '+', and not b, direct, listed or mirrors";
            return Err(ConfigError::value(key, problem));
        }
        let mut profile =
            profiles.get(&raw.distro).map_err(|e| ConfigError::value(&key, e.to_string()))?.clone();
        let upstream = if raw.upstream.is_empty() { profile.upstream.clone() } else { raw.upstream };
        let raw_access = RawAccess {
            credentials_file: raw.credentials_file,
            client_cert: raw.client_cert,
            client_key: raw.client_key,
            ca_file: raw.ca_file,
            redirect_to: raw.redirect_to,
        };
        let (origin, access) = access::origin(&key, &raw.distro, raw.tree, &upstream, raw_access)?;
        let aliases = raw.aliases.iter().map(|url| alias(&key, url)).collect::<Result<_, _>>()?;
        let named = Named {
            suites: raw.suites.is_some(),
            components: raw.components.is_some(),
            architectures: raw.architectures.is_some(),
        };
        profile.suites = raw.suites.unwrap_or(profile.suites);
        profile.components = raw.components.unwrap_or(profile.components);
        profile.architectures = raw.architectures.unwrap_or(profile.architectures);
        for suite in &profile.suites {
            let is_root = matches!(suite.as_str(), "" | "." | "./" | "/");
            if !is_root && let Err(e) = RepoPath::new(suite) {
                return Err(ConfigError::value(key, format!("suite {suite:?}: {e}")));
            }
        }
        let keyring = raw.keyring.map_or_else(|| profile.keyring.clone(), |keyring| keyring.0);
        absolute(&key, "keyring", &keyring)?;
        if !keyring.is_empty() && profile.layout == Layout::Files {
            let problem = "signatures of checksum files are not checked: leave keyring out";
            return Err(ConfigError::value(key, problem));
        }
        Ok(Self {
            name: raw.name,
            distro: raw.distro,
            origin,
            access,
            aliases,
            poll: poll(&key, raw.poll_secs)?,
            publish_gate: publish_gate(&key, raw.publish_gate.as_deref())?,
            keyring,
            check_valid_until: raw.check_valid_until.unwrap_or(profile.check_valid_until),
            autoindex: raw.autoindex.unwrap_or(true),
            profile,
            named,
        })
    }

    /// Whether new generations of a unit become visible at once, whatever `publish_gate` says.
    pub fn is_ungated(&self, unit: &str) -> bool {
        self.profile.is_ungated(unit)
    }
}

/// A base URL that requests can be compared with.
fn alias(key: &str, text: &str) -> Result<String, ConfigError> {
    let url = base_url(key, text)?;
    let authority = url.split('/').nth(2).and_then(Authority::parse);
    authority.map(|_| url).ok_or_else(|| {
        ConfigError::value(
            key,
            format!("the alias {:?} must have a plain host, without a user", hidden_value(text)),
        )
    })
}

pub(super) fn address(key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| {
        ConfigError::value(
            key,
            format!("{text:?} is not ADDRESS:PORT, for example 0.0.0.0:8080 or [::]:8080"),
        )
    })
}

fn poll(key: &str, secs: Option<u64>) -> Result<Duration, ConfigError> {
    match secs.unwrap_or(300) {
        0 => Err(ConfigError::value(format!("{key} poll_secs"), "at least 1 second; the default is 300")),
        secs => Ok(Duration::from_secs(secs)),
    }
}

fn publish_gate(key: &str, text: Option<&str>) -> Result<Duration, ConfigError> {
    let gate = duration(&format!("{key} publish_gate"), text.unwrap_or("2m"))?;
    if gate > MAX_GATE {
        return Err(ConfigError::value(format!("{key} publish_gate"), "must be at most one hour"));
    }
    Ok(gate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServeConfig, ConfigError> {
        ServeConfig::parse(text, &Profiles::built_in()?)
    }

    #[test]
    fn the_contract_of_the_design_parses() {
        let config = parse(
            r#"
            [server]
            listen     = ["0.0.0.0:8080"]
            admin      = "127.0.0.1:8081"
            state_dir  = "/var/lib/manyhands"
            public_url = "http://mirror.example:8080/"
            [cache]
            max_size = "200GiB"
            min_free = "5GiB"
            [[repo]]
            name     = "debian"
            distro   = "generic-deb"
            upstream = ["http://upstream.example/debian/"]
            [[repo]]
            name = "local"
            distro = "generic-rpm"
            tree = "/srv/mirror"
            "#,
        )
        .expect("valid");
        assert_eq!(config.public_url.as_deref(), Some("http://mirror.example:8080"));
        let cache = CacheConfig { max_size: Size(200 << 30), min_free: Size(5 << 30), scrub_days: 30 };
        assert_eq!(config.cache, cache);
        assert_eq!(config.repos[0].origin, Origin::Upstream(vec!["http://upstream.example/debian".into()]));
        assert_eq!(config.repos[1].origin, Origin::Tree("/srv/mirror".into()));
        assert!(config.repos.iter().all(|repo| repo.autoindex), "mirrors list their directories");
    }

    #[test]
    fn the_configuration_wins_over_the_profile() {
        let mut profiles = Profiles::built_in().expect("valid");
        let profile = "description='x'\nlayout='deb'\nkeyring='/p.gpg'\ncheck_valid_until=false";
        profiles.add("x", profile).expect("valid");
        for (distro, keys, want) in [
            ("generic-deb", "", (&[][..], true)),
            ("generic-deb", "keyring=['/a.gpg','/b.asc']", (&["/a.gpg", "/b.asc"], true)),
            ("generic-deb", "check_valid_until=false", (&[], false)),
            ("x", "", (&["/p.gpg"], false)),
            ("x", "keyring='/r.gpg'\ncheck_valid_until=true", (&["/r.gpg"], true)),
            ("x", "keyring=[]", (&[], false)),
        ] {
            let text = format!("[[repo]]\nname='x'\ndistro='{distro}'\ntree='/x'\n{keys}");
            let repo = &ServeConfig::parse(&text, &profiles).expect(&text).repos[0];
            let paths: Vec<PathBuf> = want.0.iter().map(PathBuf::from).collect();
            assert_eq!((&repo.keyring, repo.check_valid_until), (&paths, want.1), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let repo = "[[repo]]\nname='x'\ndistro='generic-deb'\n";
        for (text, word) in [
            (String::new(), "nothing to serve"),
            ("[server]\nlisten_on=['1']".into(), "listen_on"),
            (format!("[server]\nlisten=['8080']\n{repo}tree='/x'"), "ADDRESS:PORT"),
            (repo.into(), "upstream"),
            (format!("{repo}tree='rel'"), "absolute"),
            (format!("{repo}tree='/x'\nkeyring='rel.gpg'"), "keyring \"rel.gpg\" must be an absolute path"),
            (
                "[[repo]]\nname='x'\ndistro='generic-files'\ntree='/x'\nkeyring='/a'".into(),
                "leave keyring out",
            ),
            (format!("{repo}tree='/x'\nkeyring=['/a', 1]"), "a path or a list of paths"),
            (format!("{repo}upstream=['ftp://x/']"), "http://"),
            (format!("{repo}tree='/x'\n{repo}tree='/y'"), "twice"),
            (format!("{repo}tree='/x'\nsuites=['../x']"), "'..'"),
            ("[[repo]]\nname='a/b'\ndistro='generic-deb'\ntree='/x'".into(), "segment"),
            ("[[repo]]\nname='direct'\ndistro='generic-deb'\ntree='/x'".into(), "segment"),
            ("[[repo]]\nname='a'\ndistro='nosuch'\ntree='/x'".into(), "nosuch"),
            (format!("{repo}tree='/x'\naliases=['ftp://deb.example/x']"), "http://"),
            (format!("{repo}tree='/x'\naliases=['http://me@deb.example/x']"), "user"),
            (
                format!(
                    "{repo}tree='/x'\naliases=['http://a.example']\n{}tree='/x'\naliases=['http://a.example/']",
                    repo.replace("'x'", "'y'")
                ),
                "another repository's",
            ),
            (format!("[proxy]\nconnect=['*:443']\n{repo}tree='/x'"), "*.DOMAIN:PORT"),
            ("[cache]\nmax_size='lots'".into(), "lots"),
            (format!("{repo}tree='/x'\npublish_gate='soon'"), "90s, 2m or 1h"),
            (format!("{repo}tree='/x'\npublish_gate='2h'"), "one hour"),
            (format!("{repo}tree='/x'\npoll_secs=0"), "at least 1 second"),
        ] {
            let error = parse(&text).expect_err(&text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
