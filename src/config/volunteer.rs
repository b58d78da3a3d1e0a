//! The configuration of `manyhands volunteer`: a file, flags, or both; a flag wins.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use super::networks::networks_of;
use super::{ConfigError, absolute, base_url, from_toml, own};
use crate::formats::control::{MAX_DONATE, MIN_DONATE};
use crate::model::{Rate, Size, VolunteerId};

/// A validated volunteer configuration.
#[derive(Clone, Debug)]
pub struct VolunteerConfig {
    /// Base URL of the server.
    pub server: String,
    /// Where clients reach this volunteer. Default `0.0.0.0:8090`.
    pub listen: SocketAddr,
    /// Address of its status API. Default: none. It asks for no password: keep it off public networks.
    pub admin: Option<SocketAddr>,
    /// The blob store.
    pub store: PathBuf,
    /// Maximum bytes kept in the store; adopted trees do not count. Default 100 GiB.
    pub max_size: Size,
    /// Bytes of the file system that stay free. Default 1 GiB.
    pub min_free: Size,
    /// How often, in days, every stored package is reread; 0 is never. Default 30.
    pub scrub_days: u32,
    /// Upload rate given to clients, across all downloads: 128 KiB/s to 100 Gbit/s. Default 50 MiB/s.
    pub donate: Rate,
    /// Existing mirror trees that are served in place.
    pub adopt: Vec<PathBuf>,
    /// The token, or the file that holds it; without either, `token` in the store folder.
    pub token: Option<String>,
    pub token_file: Option<PathBuf>,
    /// The name shown to operators. Default: the host name and a random suffix, kept in the store.
    pub id: Option<VolunteerId>,
    /// Base URL that clients can reach, where it differs from what the server sees.
    pub advertise: Option<String>,
    /// Most connections at a time. Default 1000.
    pub max_connections: usize,
    /// The only networks whose clients are served; empty, the default, is all.
    pub clients: Vec<IpNet>,
    /// This machine comes and goes: only clients that can turn elsewhere are sent here. Default false.
    pub volatile: bool,
}

/// The same, as written: every key optional. Flags fill one of these, the file another.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolunteerOptions {
    pub server: Option<String>,
    pub listen: Option<String>,
    pub admin: Option<String>,
    pub store: Option<PathBuf>,
    pub max_size: Option<Size>,
    pub min_free: Option<Size>,
    pub scrub_days: Option<u32>,
    pub donate: Option<Rate>,
    #[serde(default)]
    pub adopt: Vec<PathBuf>,
    pub token: Option<String>,
    pub token_file: Option<PathBuf>,
    pub id: Option<VolunteerId>,
    pub advertise: Option<String>,
    pub max_connections: Option<usize>,
    pub clients: Option<Vec<String>>,
    pub volatile: Option<bool>,
}

impl VolunteerOptions {
    /// Whether a file is for a volunteer rather than for a server, whose keys are all in tables.
    pub fn describes(text: &str) -> Result<bool, ConfigError> {
        let table: toml::Table = from_toml(text)?;
        Ok(!table.is_empty() && table.values().all(|value| !value.is_table()) && !table.contains_key("repo"))
    }

    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(toml::from_str(text)?)
    }

    /// These options, and `base` where they are silent.
    pub fn over(self, base: Self) -> Self {
        Self {
            server: self.server.or(base.server),
            listen: self.listen.or(base.listen),
            admin: self.admin.or(base.admin),
            store: self.store.or(base.store),
            max_size: self.max_size.or(base.max_size),
            min_free: self.min_free.or(base.min_free),
            scrub_days: self.scrub_days.or(base.scrub_days),
            donate: self.donate.or(base.donate),
            adopt: if self.adopt.is_empty() { base.adopt } else { self.adopt },
            token: self.token.or(base.token),
            token_file: self.token_file.or(base.token_file),
            id: self.id.or(base.id),
            advertise: self.advertise.or(base.advertise),
            max_connections: self.max_connections.or(base.max_connections),
            clients: self.clients.or(base.clients),
            volatile: self.volatile.or(base.volatile),
        }
    }

    /// Where the status of a volunteer with these options is.
    pub fn admin_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        self.admin.as_deref().map(|admin| address("admin", admin, "127.0.0.1:8091")).transpose()
    }

    pub fn validate(self) -> Result<VolunteerConfig, ConfigError> {
        let missing = |key: &str, flag: &str| {
            ConfigError::value(key, format!("missing: set it in the file or with {flag}"))
        };
        let admin = self.admin_address()?;
        let server = self.server.ok_or_else(|| missing("server", "--server http://mirror.example:8080"))?;
        let listen = address("listen", self.listen.as_deref().unwrap_or("0.0.0.0:8090"), "0.0.0.0:8090")?;
        let donate = self.donate.unwrap_or(Rate(50 << 20));
        if donate < MIN_DONATE {
            return Err(ConfigError::value(
                "donate",
                format!(
                    "{donate} ({}) is too little to serve a package; set at least 128KiB/s, or 1.1Mbit/s",
                    donate.in_bits()
                ),
            ));
        }
        if donate > MAX_DONATE {
            return Err(ConfigError::value(
                "donate",
                format!("{} is more than servers accept; set at most 100Gbit/s", donate.in_bits()),
            ));
        }
        absolute("adopt", "tree", &self.adopt)?;
        if let Some(admin) = admin {
            own::check_admin("admin", admin, &[listen])?;
        }
        Ok(VolunteerConfig {
            server: base_url("server", &server)?,
            listen,
            admin,
            store: self.store.ok_or_else(|| missing("store", "--store DIR"))?,
            max_size: self.max_size.unwrap_or(Size(100 << 30)),
            min_free: self.min_free.unwrap_or(Size(1 << 30)),
            scrub_days: self.scrub_days.unwrap_or(30),
            donate,
            adopt: self.adopt,
            token: self.token,
            token_file: self.token_file,
            id: self.id,
            advertise: self.advertise.map(|url| base_url("advertise", &url)).transpose()?,
            max_connections: self.max_connections.unwrap_or(1000).max(1),
            clients: self.clients.map_or(Ok(Vec::new()), |clients| networks_of("clients", &clients))?,
            volatile: self.volatile.unwrap_or(false),
        })
    }
}

fn address(key: &str, text: &str, example: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = || ConfigError::value(key, format!("{text:?} is not ADDRESS:PORT, for example {example}"));
    text.parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let file = VolunteerOptions::parse(
            "server='http://m.example:8080'\nlisten='0.0.0.0:8090'\nstore='/s'\nmax_size='500GiB'\ndonate='50MiB/s'\nadopt=['/srv/mirror/debian']",
        )
        .expect("the contract of the design");
        let flags = VolunteerOptions { donate: Some(Rate(4 << 20)), ..Default::default() };
        let config = flags.over(file).validate().expect("complete");
        assert_eq!((config.donate, config.max_size), (Rate(4 << 20), Size(500 << 30)));
        assert_eq!(config.adopt, [PathBuf::from("/srv/mirror/debian")]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("store='/s'", "server"),
            ("server='http://m'", "store"),
            ("server='m:8080'\nstore='/s'", "http://"),
            ("server='http://m'\nstore='/s'\ndonate='1KiB/s'", "donate"),
            ("server='http://m'\nstore='/s'\ndonate='101Gbit/s'", "at most 100Gbit/s"),
            ("server='http://m'\nstore='/s'\nadopt=['x']", "absolute"),
            ("server='http://m'\nstore='/s'\nlisten='x'", "ADDRESS:PORT"),
            ("server='http://m'\nstore='/s'\nadmin='8091'", "admin: \"8091\" is not ADDRESS:PORT"),
            ("server='http://m'\nstore='/s'\nadmin='127.0.0.1:8090'", "taken by listen (0.0.0.0:8090)"),
        ] {
            let options = VolunteerOptions::parse(text).expect("well-formed");
            let error = options.validate().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(VolunteerOptions::parse("sever='x'").is_err());
    }
}
