//! How a repository's upstreams are reached: with whose name, with which certificates, and where they may lead.

use std::path::PathBuf;

use super::serve::{Origin, RepoConfig};
use super::{ConfigError, absolute, base_url};
use crate::formats::authority::Authority;
use crate::formats::credentials::{Credentials, hidden_value, is_sealed, split_url};

/// What a repository's table says of access to its upstreams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// From the URL of the upstream at the same place.
    pub credentials: Vec<Option<Credentials>>,
    /// A file with credentials, as apt_auth.conf(5) has them or in one line. Default: none.
    pub credentials_file: Option<PathBuf>,
    /// PEM files with which this server identifies itself. Default: none.
    pub client: Option<ClientFiles>,
    /// Certificate authorities of the upstreams, in PEM, in place of the system's. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Hosts of our own network that the upstreams may redirect to. Default: none.
    pub redirect_to: Vec<Authority>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The keys as they stand in the file.
#[derive(Debug, Default)]
pub(super) struct RawAccess {
    pub credentials_file: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub redirect_to: Vec<String>,
}

impl Access {
    /// Of upstreams; their base URLs come back without user names and passwords.
    pub(super) fn of_upstreams(
        key: &str,
        raw: RawAccess,
        urls: &[String],
    ) -> Result<(Vec<String>, Self), ConfigError> {
        let (mut bases, mut credentials) = (Vec::new(), Vec::new());
        for url in urls {
            let (base, own) = upstream(key, url)?;
            bases.push(base);
            credentials.push(own);
        }
        let files = [&raw.credentials_file, &raw.client_cert, &raw.client_key, &raw.ca_file];
        let names = ["credentials_file", "client_cert", "client_key", "ca_file"];
        for (name, file) in names.into_iter().zip(files) {
            absolute(key, name, file.as_slice())?;
        }
        let client = match (raw.client_cert, raw.client_key) {
            (Some(cert), Some(key)) => Some(ClientFiles { cert, key }),
            (None, None) => None,
            _ => return Err(ConfigError::value(key, "client_cert and client_key must be set together")),
        };
        let has_tls = bases.iter().any(|base| base.starts_with("https://"));
        if (client.is_some() || raw.ca_file.is_some()) && !has_tls {
            let problem = "client_cert and ca_file are for https, and no upstream begins with https://";
            return Err(ConfigError::value(key, problem));
        }
        let redirect_to = raw.redirect_to.iter().map(|text| place(key, text)).collect::<Result<_, _>>()?;
        let (credentials_file, ca_file) = (raw.credentials_file, raw.ca_file);
        Ok((bases, Self { credentials, credentials_file, client, ca_file, redirect_to }))
    }

    /// Of a local tree: nothing is asked for anywhere.
    pub(super) fn of_tree(key: &str, raw: &RawAccess) -> Result<Self, ConfigError> {
        let files = [&raw.credentials_file, &raw.client_cert, &raw.client_key, &raw.ca_file];
        if files.iter().any(|file| file.is_some()) || !raw.redirect_to.is_empty() {
            let problem = "credentials_file, client_cert, client_key, ca_file and redirect_to are for upstreams, but this is a tree";
            return Err(ConfigError::value(key, problem));
        }
        Ok(Self::default())
    }

    /// All that an upstream would see of who asks.
    fn identity(&self, index: usize) -> impl PartialEq {
        let own = self.credentials.get(index).cloned().flatten();
        (own, self.credentials_file.clone(), self.client.clone(), self.ca_file.clone())
    }
}

/// Where the files come from, and how upstreams are reached.
pub(super) fn origin(
    key: &str,
    distro: &str,
    tree: Option<PathBuf>,
    upstream: &[String],
    access: RawAccess,
) -> Result<(Origin, Access), ConfigError> {
    if let Some(tree) = tree {
        absolute(key, "tree", std::slice::from_ref(&tree))?;
        return Ok((Origin::Tree(tree), Access::of_tree(key, &access)?));
    }
    if upstream.is_empty() {
        let problem = format!(
            "profile {distro:?} has no default upstream: add upstream = [\"http://...\"] or tree = \"/path\""
        );
        return Err(ConfigError::value(key, problem));
    }
    let (bases, access) = Access::of_upstreams(key, access, upstream)?;
    Ok((Origin::Upstream(bases), access))
}

/// One URL is asked with one identity, whichever repository it is for.
pub(super) fn check_shared(repos: &[RepoConfig]) -> Result<(), ConfigError> {
    let mut seen = Vec::new();
    for repo in repos {
        let Origin::Upstream(bases) = &repo.origin else { continue };
        for (index, base) in bases.iter().enumerate() {
            let identity = repo.access.identity(index);
            if seen.iter().any(|(other, known)| *other == base && *known != identity) {
                let problem =
                    format!("upstream {base:?} has other credentials or certificates elsewhere in this file");
                return Err(ConfigError::value(format!("repo {:?}", repo.name), problem));
            }
            seen.push((base, identity));
        }
    }
    Ok(())
}

/// A base URL without its user information, and that.
fn upstream(key: &str, text: &str) -> Result<(String, Option<Credentials>), ConfigError> {
    let (clean, userinfo) = split_url(text);
    let base = base_url(key, &clean)?;
    let shown = hidden_value(text);
    let (authority, path) =
        base.split_once("://").map_or(("", ""), |(_, rest)| rest.split_once('/').unwrap_or((rest, "")));
    if path.contains('@') || Authority::parse(authority).is_none() {
        let problem = format!(
            "upstream {shown:?} must name a host and perhaps a port; write / in a password as %2F, @ in a path as %40"
        );
        return Err(ConfigError::value(key, problem));
    }
    let Some(userinfo) = userinfo else { return Ok((base, None)) };
    if !is_sealed(&base) {
        let problem = format!(
            "upstream {shown:?} would send its password in the clear: use https, or, if you trust the network, \
             a credentials_file with `machine http://HOST login USER password PASSWORD`"
        );
        return Err(ConfigError::value(key, problem));
    }
    let credentials = Credentials::from_userinfo(userinfo);
    let credentials = credentials.map_err(|e| ConfigError::value(key, format!("upstream {shown:?}: {e}")))?;
    Ok((base, Some(credentials)))
}

fn place(key: &str, text: &str) -> Result<Authority, ConfigError> {
    Authority::parse(text).ok_or_else(|| {
        let problem = format!("redirect_to {:?} is not HOST or HOST:PORT", hidden_value(text));
        ConfigError::value(key, problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Profiles, ServeConfig};

    fn parse(tables: &[&str]) -> Result<ServeConfig, ConfigError> {
        let table = |(number, lines): (usize, &&str)| {
            format!("[[repo]]\nname='r{number}'\ndistro='generic-deb'\n{lines}\n")
        };
        let text: String = tables.iter().enumerate().map(table).collect();
        ServeConfig::parse(&text, &Profiles::built_in()?)
    }

    #[test]
    fn urls_are_cleaned_and_passwords_kept_apart() {
        let tables = [
            "upstream=['https://me:s3cr3t@h.example/x/', 'http://h2.example']\nredirect_to=['10.0.0.7:9000', 'b']",
        ];
        let config = parse(&tables).expect("valid");
        let repo = &config.repos[0];
        assert_eq!(
            repo.origin,
            Origin::Upstream(vec!["https://h.example/x".into(), "http://h2.example".into()])
        );
        let own = Credentials::new("me", "s3cr3t").expect("sendable");
        assert_eq!(repo.access.credentials, [Some(own), None]);
        let places = repo.access.redirect_to.iter().map(ToString::to_string);
        assert_eq!(places.collect::<Vec<_>>(), ["10.0.0.7:9000", "b"]);
        assert!(!format!("{config:?}").contains("s3cr3t"));
    }

    #[test]
    fn mistakes_are_named() {
        let https = "upstream=['https://h.example/x']";
        let files = "client_cert='/c'\nclient_key='/k'";
        for (lines, word) in [
            ("tree='/x'\nredirect_to=['a']", "this is a tree"),
            ("tree='/x'\nca_file='/a'", "this is a tree"),
            (&format!("upstream=['http://h.example/x']\n{files}"), "https"),
            (&format!("{https}\nclient_key='/k'"), "must be set together"),
            (&format!("{https}\nclient_cert='c'\nclient_key='/k'"), "absolute"),
            (&format!("{https}\ncredentials_file='c'"), "absolute"),
            (&format!("{https}\nredirect_to=['http://a/']"), "HOST:PORT"),
            (&format!("{https}\nredirect_to=['a:b@c']"), "HOST:PORT"),
            ("upstream=['http://me:s3cr3t@h.example/x']", "in the clear"),
            ("upstream=['https://me:s3cr%zz%ff@h.example/x']", "UTF-8"),
        ] {
            let error = parse(&[lines]).expect_err(lines).to_string();
            assert!(error.contains(word) && !error.contains("s3cr"), "{lines}: {error}");
        }
    }

    #[test]
    fn one_url_has_one_identity() {
        let plain = "upstream=['https://h.example/x']";
        let named = "upstream=['https://me:s3cr3t@h.example/x']";
        assert!(parse(&[plain, plain]).is_ok() && parse(&[named, named]).is_ok());
        assert!(parse(&[named, "upstream=['https://h.example/y']"]).is_ok());
        let error = parse(&[plain, named]).expect_err("two identities").to_string();
        assert!(error.contains("elsewhere") && !error.contains("s3cr3t"), "{error}");
    }
}
