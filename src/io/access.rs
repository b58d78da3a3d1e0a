//! Credentials, client certificates and authorities from disk: what a repository's table names becomes the sites
//! that the client for upstreams knows.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::confined;
use super::upstream::{ClientPem, Lines, Site, TlsError};
use crate::config::{Access, Origin, RepoConfig};
use crate::formats::authority::Authority;
use crate::formats::credentials::{Credentials, CredentialsError, CredentialsFile, is_sealed};
use crate::formats::validity;
use crate::model::Time;

/// Longest file read here: a list of all the world's authorities has some 200 KB.
const MAX_FILE: u64 = 4 << 20;
/// Permission of others to read (inode(7)).
const OTHERS_READ: u32 = 0o004;

/// Why a repository's upstreams cannot be reached as its table says.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("cannot read {key} {path}")]
    Read { key: &'static str, path: PathBuf, source: io::Error },
    #[error("{key} {path} is longer than {MAX_FILE} bytes")]
    TooLong { key: &'static str, path: PathBuf },
    #[error("credentials_file {path}: {source}")]
    Credentials { path: PathBuf, source: CredentialsError },
    #[error(
        "credentials_file {path} has no entry for an upstream of this repository; an entry without a protocol is for https"
    )]
    NoEntry { path: PathBuf },
    #[error(
        "credentials_file {path} has only USER:PASSWORD, but the upstreams are on several hosts: write `machine HOST login USER password PASSWORD`"
    )]
    ManyHosts { path: PathBuf },
    #[error(
        "credentials_file {path} would send its password to {url} in the clear: use https, or, if you trust the network, write `machine http://HOST login USER password PASSWORD`"
    )]
    InTheClear { path: PathBuf, url: String },
    #[error("{}: {source}", paths(.access))]
    Tls { access: Box<Access>, source: TlsError },
}

/// The files of a TLS identity, for an error.
fn paths(access: &Access) -> String {
    let client = access.client.iter().flat_map(|client| [&client.cert, &client.key]);
    let all: Vec<String> =
        access.ca_file.iter().chain(client).map(|path| path.display().to_string()).collect();
    all.join(", ")
}

/// A repository's upstreams as the client for them knows them.
#[derive(Debug)]
pub struct Reached {
    pub sites: Vec<Site>,
    /// Whether the site at the same place is shown a name and a password.
    pub has_credentials: Vec<bool>,
    /// What works and should not stay so.
    pub warnings: Vec<String>,
}

/// Reads what the repository's table names. Blocks.
pub fn read(repo: &RepoConfig, now: Time) -> Result<Reached, AccessError> {
    let Origin::Upstream(bases) = &repo.origin else {
        return Ok(Reached { sites: Vec::new(), has_credentials: Vec::new(), warnings: Vec::new() });
    };
    let access = &repo.access;
    let mut warnings = Vec::new();
    let file = access.credentials_file.as_deref().map(|path| credentials_file(path, bases, &mut warnings));
    let file = file.transpose()?;
    let lines = lines(access, now, &mut warnings)?;
    let place = |base: &String| Authority::parse(base.split('/').nth(2).unwrap_or(""));
    let mut leads_to: Vec<Authority> = bases.iter().filter_map(place).collect();
    leads_to.extend(access.redirect_to.iter().cloned());
    let mut reached = Reached { sites: Vec::new(), has_credentials: Vec::new(), warnings };
    for (base, own) in bases.iter().zip(&access.credentials) {
        let credentials: Option<&Credentials> =
            own.as_ref().or_else(|| file.as_ref().and_then(|file| file.find(base)));
        let lines = lines.clone().filter(|_| base.starts_with("https://"));
        let site = Site::new(base, leads_to.clone()).with_credentials(credentials).with_lines(lines);
        reached.sites.push(site);
        reached.has_credentials.push(credentials.is_some());
    }
    Ok(reached)
}

fn credentials_file(
    path: &Path,
    bases: &[String],
    warnings: &mut Vec<String>,
) -> Result<CredentialsFile, AccessError> {
    let bytes = secret("credentials_file", path, warnings)?;
    let path = || path.to_owned();
    let wrong = |source| AccessError::Credentials { path: path(), source };
    let text = String::from_utf8(bytes).map_err(|_| wrong(CredentialsError::NotUtf8))?;
    let file = CredentialsFile::parse(&text).map_err(wrong)?;
    if let CredentialsFile::One(_) = &file {
        if let Some(url) = bases.iter().find(|base| !is_sealed(base)) {
            return Err(AccessError::InTheClear { path: path(), url: url.clone() });
        }
        let host = |base: &String| base.split('/').nth(2).map(str::to_ascii_lowercase);
        if bases.iter().any(|base| host(base) != host(&bases[0])) {
            return Err(AccessError::ManyHosts { path: path() });
        }
    }
    if bases.iter().all(|base| file.find(base).is_none()) {
        return Err(AccessError::NoEntry { path: path() });
    }
    Ok(file)
}

/// Connections of the repository's own, if it has certificates of its own.
fn lines(access: &Access, now: Time, warnings: &mut Vec<String>) -> Result<Option<Lines>, AccessError> {
    if access.ca_file.is_none() && access.client.is_none() {
        return Ok(None);
    }
    let authorities = access.ca_file.as_deref().map(|path| read_file("ca_file", path)).transpose()?;
    let mut client = None;
    if let Some(files) = &access.client {
        let cert = read_file("client_cert", &files.cert)?;
        let key = secret("client_key", &files.key, warnings)?;
        warnings.extend(out_of_date(&files.cert, &cert, now));
        client = Some((cert, key));
    }
    let client = client.as_ref().map(|(cert, key)| ClientPem { cert, key });
    let lines = Lines::new(authorities.as_deref(), client);
    lines.map(Some).map_err(|source| AccessError::Tls { access: Box::new(access.clone()), source })
}

/// What is wrong with the dates of the first certificate, which is the client's own.
fn out_of_date(path: &Path, pem: &[u8], now: Time) -> Option<String> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let validity = validity::of_certificate(&der)?;
    let problem = if now > validity.end {
        "has expired"
    } else if now < validity.begin {
        "is not valid yet"
    } else {
        return None;
    };
    Some(format!("client_cert {} {problem}; upstreams will refuse it", path.display()))
}

fn secret(key: &'static str, path: &Path, warnings: &mut Vec<String>) -> Result<Vec<u8>, AccessError> {
    let bytes = read_file(key, path)?;
    if path.metadata().is_ok_and(|meta| meta.mode() & OTHERS_READ != 0) {
        warnings.push(format!("everyone on this machine can read {key} {}: chmod o-r", path.display()));
    }
    Ok(bytes)
}

fn read_file(key: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    let unreadable = |e| AccessError::Read { key, path: path.to_owned(), source: confined::explain(path, e) };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(AccessError::TooLong { key, path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Profiles, ServeConfig};

    /// A repository with these upstreams and this credentials file.
    fn repo(dir: &Path, upstreams: &str, credentials: &str, mode: u32) -> RepoConfig {
        let path = dir.join("auth");
        fs::write(&path, credentials).expect("a writable folder");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("our own file");
        let text = format!(
            "[[repo]]\nname='x'\ndistro='generic-deb'\nupstream={upstreams}\ncredentials_file='{}'",
            path.display()
        );
        let config = ServeConfig::parse(&text, &Profiles::built_in().expect("valid")).expect("valid");
        config.repos[0].clone()
    }

    #[test]
    fn a_file_of_credentials_is_for_the_upstreams_that_it_names() {
        let dir = tempfile::tempdir().expect("a folder");
        let two = "['https://a.example/x', 'http://b.example/x']";
        let entries =
            "machine b.example login b password s3cr3t\nmachine a.example login a password s3cr3t\n";
        let reached = read(&repo(dir.path(), two, entries, 0o640), Time::from_secs(0)).expect("valid");
        assert_eq!(reached.has_credentials, [true, false], "nothing in the clear");
        assert!(reached.warnings.is_empty(), "{:?}", reached.warnings);
        let reached = read(&repo(dir.path(), two, entries, 0o644), Time::from_secs(0)).expect("valid");
        assert!(reached.warnings[0].contains("everyone"), "{:?}", reached.warnings);
        assert!(!format!("{reached:?}").contains("s3cr3t"));
    }

    #[test]
    fn a_file_of_credentials_that_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for (upstreams, text, word) in [
            ("['https://a.example/x']", "machine b.example login b password s3cr3t", "no entry"),
            ("['http://a.example/x']", "machine a.example login b password s3cr3t", "no entry"),
            ("['http://a.example/x']", "b:s3cr3t", "in the clear"),
            ("['https://a.example', 'https://b.example']", "b:s3cr3t", "several hosts"),
            ("['https://a.example']", "s3cr3t", "neither"),
        ] {
            let error = read(&repo(dir.path(), upstreams, text, 0o600), Time::from_secs(0)).expect_err(word);
            let error = error.to_string();
            assert!(error.contains(word) && !error.contains("s3cr3t"), "{error}");
        }
        let repo = repo(dir.path(), "['https://a.example']", "b:s3cr3t", 0o600);
        fs::remove_file(dir.path().join("auth")).expect("it is there");
        assert!(matches!(read(&repo, Time::from_secs(0)), Err(AccessError::Read { .. })));
    }
}
