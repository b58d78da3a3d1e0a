//! L1: configuration. TOML text and flags in, validated values per role out.
//!
//! Every key is in these structs with its default; unknown keys are errors. Nothing here touches the file
//! system: roles read the file and hand over its text.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::formats::credentials::{hidden, hidden_value};

mod access;
mod failover;
mod hint;
mod networks;
mod own;
mod profile;
mod proxy;
mod serve;
mod volunteer;

pub use access::{Access, ClientFiles};
pub use failover::FailoverConfig;
pub use networks::{NetworkRule, Networks, contain};
pub use profile::{Layout, Profile, Profiles};
pub use proxy::{ConnectRule, ProxyConfig};
pub use serve::{CacheConfig, Named, Origin, RepoConfig, ServeConfig};
pub use volunteer::{VolunteerConfig, VolunteerOptions};

/// An error in a configuration, explained to the person who wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    #[error("{key}: {problem}")]
    Value { key: String, problem: String },
}

impl ConfigError {
    fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { key: key.into(), problem: problem.into() }
    }
}

/// A path, or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a path or a list of paths")]
    enum Paths {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(deserializer)? {
        Paths::One(path) => Vec::from([path]),
        Paths::Many(paths) => paths,
    })
}

/// A time as people write it: `90s`, `2m`, `1h`.
fn duration(key: &str, text: &str) -> Result<Duration, ConfigError> {
    let wrong = || ConfigError::value(key, format!("{text:?} is not a duration: write 90s, 2m or 1h"));
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// What a relative path means depends on where a daemon was started.
fn absolute(key: &str, what: &str, paths: &[PathBuf]) -> Result<(), ConfigError> {
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => {
            let problem = format!("{what} {:?} must be an absolute path", path.display());
            Err(ConfigError::value(key, problem))
        }
        None => Ok(()),
    }
}

/// Reads TOML that may have passwords in its URLs: errors are reported without them.
fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| match toml::from_str::<T>(&hidden(text)) {
        Err(shown) => shown.into(),
        // What is wrong is in the hidden part.
        Ok(_) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
            let line = before.matches('\n').count() + 1;
            ConfigError::value(format!("line {line}"), "this is not valid TOML, where it may have a password")
        }
    })
}

/// Checks an `http://` or `https://` base URL and takes its trailing slash away.
fn base_url(key: &str, text: &str) -> Result<String, ConfigError> {
    let shown = hidden_value(text);
    let not_a_url = |e| ConfigError::value(key, format!("{shown:?} is not a URL ({e})"));
    let uri: http::Uri = text.parse().map_err(not_a_url)?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.authority().is_some_and(|a| !a.host().is_empty()) => {}
        _ => {
            let problem = format!("{shown:?} must begin with http:// or https:// and name a host");
            return Err(ConfigError::value(key, problem));
        }
    }
    if uri.query().is_some() {
        return Err(ConfigError::value(key, format!("{shown:?} must not have a query")));
    }
    Ok(text.trim_end_matches('/').to_owned())
}
