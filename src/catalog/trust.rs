//! Whether a new generation may follow the current one: signatures and dates.
//!
//! Clients check all of this again by themselves; here it decides what is not even offered to them, so that
//! a stale or forged mirror costs a warning in the log and nobody's update.

use super::draft::RootFile;
use super::unit::{Unit, UnitKey, UnitKind};
use crate::formats::openpgp::{self, Keyring, SignatureError};
use crate::model::RepoPath;

/// A Release from further in the future than this is refused: apt refuses from 10 s on, but by its own
/// clock, and this machine's may be the one that is wrong.
const MAX_FUTURE_SECS: u64 = 86_400;

/// Root files and the signatures beside them.
const PAIRS: [(&str, &str); 2] = [("Release", "Release.gpg"), ("repomd.xml", "repomd.xml.asc")];

/// The root files that are left of a generation when a signature beside one of them is that of another: whoever
/// needs it does without, rather than everybody.
pub fn without_stale(mut roots: Vec<RootFile>) -> Vec<RootFile> {
    let has_inline = roots.iter().any(|root| root.path.file_name() == "InRelease");
    roots.retain(|root| match root.path.file_name() {
        "Release" => !has_inline,
        "Release.gpg" | "repomd.xml.asc" => false,
        _ => true,
    });
    roots
}

/// Whether apt reads the signature beside a Release at all: not beside an InRelease.
fn is_read(signature: &RootFile, roots: &[RootFile]) -> bool {
    let is_inline = |root: &RootFile| root.path.file_name() == "InRelease";
    signature.path.file_name() != "Release.gpg" || !roots.iter().any(is_inline)
}

/// What a repository demands of its metadata.
#[derive(Debug, Default)]
pub struct Trust {
    /// Root files of suites and rpm-md repositories must be signed by one of these keys.
    pub keyring: Option<Keyring>,
    /// Whether an expired generation is refused while there is one that has not expired.
    pub check_valid_until: bool,
}

/// Why metadata is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("{unit}: not signed, and a keyring is configured")]
    Unsigned { unit: String },
    #[error("{path}: {source}")]
    Signature { path: RepoPath, source: SignatureError },
    #[error("{path}: {source}")]
    Frame { path: RepoPath, source: SignatureError },
    #[error("{path} is a signature of something other than the file beside it")]
    StaleSignature { path: RepoPath },
    #[error("{path}: damaged: its signature is for a different text")]
    Damaged { path: RepoPath },
    #[error("{unit}: expired at {until_secs} (Valid-Until, seconds since 1970)")]
    Expired { unit: String, until_secs: u64 },
    #[error("{unit}: its Valid-Until '{text}' is not a date that apt can read")]
    UnreadableExpiry { unit: String, text: String },
    #[error("{unit}: its Date, {date_secs} in seconds since 1970, is far ahead of this machine's clock")]
    Future { unit: String, date_secs: u64 },
    #[error("{unit}: older than what is served, by {by_secs} s (Date)")]
    Older { unit: String, by_secs: u64 },
}

impl Trust {
    /// Whether what is served of a unit has expired.
    pub fn is_expired(&self, unit: &Unit, now_secs: u64) -> bool {
        self.check_valid_until && unit.valid_until.is_some_and(|until| until < now_secs)
    }

    /// Whether a `Valid-Until` that apt cannot read may be.
    pub fn check_expiry(&self, key: &UnitKey, unreadable: Option<&str>) -> Result<(), TrustError> {
        match unreadable.filter(|_| self.check_valid_until) {
            Some(text) => Err(TrustError::UnreadableExpiry { unit: key.to_string(), text: text.to_owned() }),
            None => Ok(()),
        }
    }

    /// Whether nothing better can be shown than what clients refuse for its dates: then they judge it themselves.
    pub fn has_nothing_to_keep(&self, current: Option<&Unit>, now_secs: u64) -> bool {
        current.is_none_or(|current| self.is_expired(current, now_secs))
    }

    /// Whether a generation with these dates may follow.
    pub fn check_dates(
        &self,
        key: &UnitKey,
        (date, valid_until): (Option<u64>, Option<u64>),
        current: Option<&Unit>,
        now_secs: u64,
    ) -> Result<(), TrustError> {
        let unit = || key.to_string();
        let served = current.and_then(|current| current.date);
        if let (Some(served), Some(date)) = (served, date)
            && date < served
        {
            return Err(TrustError::Older { unit: unit(), by_secs: served - date });
        }
        if let Some(until) = valid_until.filter(|until| self.check_valid_until && *until < now_secs) {
            return Err(TrustError::Expired { unit: unit(), until_secs: until });
        }
        if let Some(date) = date.filter(|date| *date > now_secs + MAX_FUTURE_SECS) {
            return Err(TrustError::Future { unit: unit(), date_secs: date });
        }
        Ok(())
    }

    /// The root files without a Release.gpg that apt would refuse, where it reads InRelease and never that one.
    pub fn without_unread(&self, mut roots: Vec<RootFile>, now_secs: u64) -> Vec<RootFile> {
        let release = roots.iter().find(|root| root.path.file_name() == "Release").cloned();
        let has_inline = roots.iter().any(|root| root.path.file_name() == "InRelease");
        roots.retain(|root| {
            if !has_inline || root.path.file_name() != "Release.gpg" {
                return true;
            }
            let signature = &root.root.bytes;
            let is_refused = |keyring: &Keyring, text: &RootFile| {
                // A stale one is a sign of an update under way.
                openpgp::detached_fits(&text.root.bytes, signature)
                    && keyring.verify_release(&text.root.bytes, signature, now_secs).is_err()
            };
            let refused = self.keyring.as_ref().zip(release.as_ref());
            openpgp::check_release_gpg(signature).is_ok()
                && !refused.is_some_and(|(key, text)| is_refused(key, text))
        });
        roots
    }

    /// Whether the root files are signed as demanded: each that a client may take alone. Checksum files are
    /// not looked at: their signatures have no fixed names.
    pub fn check_signatures(
        &self,
        key: &UnitKey,
        roots: &[RootFile],
        now_secs: u64,
    ) -> Result<(), TrustError> {
        let find = |name: &str| roots.iter().find(|root| root.path.file_name() == name);
        if let Some(inline) =
            find("InRelease").filter(|inline| !openpgp::clearsigned_fits(&inline.root.bytes))
        {
            return Err(TrustError::Damaged { path: inline.path.clone() });
        }
        for (name, signature) in PAIRS {
            if let (Some(text), Some(signature)) = (find(name), find(signature)) {
                if !openpgp::detached_fits(&text.root.bytes, &signature.root.bytes) {
                    return Err(TrustError::StaleSignature { path: signature.path.clone() });
                }
                if name == "Release" && is_read(signature, roots) {
                    let checked = openpgp::check_release_gpg(&signature.root.bytes);
                    checked.map_err(|source| TrustError::Frame { path: signature.path.clone(), source })?;
                }
            }
        }
        let Some(keyring) = self.keyring.as_ref().filter(|_| key.kind != UnitKind::Checksums) else {
            return Ok(());
        };
        let mut signed = 0;
        if let Some(inline) = find("InRelease") {
            let verified = keyring.verify_clearsigned(&inline.root.bytes, now_secs);
            verified.map_err(|source| TrustError::Signature { path: inline.path.clone(), source })?;
            signed += 1;
        }
        for (name, signature) in PAIRS {
            if let (Some(text), Some(signature)) = (find(name), find(signature)) {
                let (text, bytes) = (&text.root.bytes, &signature.root.bytes);
                let verified = match key.kind {
                    UnitKind::RpmMd => keyring.verify_detached(text, bytes, now_secs),
                    _ => keyring.verify_release(text, bytes, now_secs),
                };
                verified.map_err(|source| TrustError::Signature { path: signature.path.clone(), source })?;
                signed += 1;
            }
        }
        if signed == 0 { Err(TrustError::Unsigned { unit: key.to_string() }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Draft;

    const NOW: u64 = 1_800_000_000;

    fn key() -> UnitKey {
        UnitKey { kind: UnitKind::Suite, dir: "dists/a".to_owned() }
    }

    fn served(date: &str) -> Unit {
        let text = format!("Suite: a\nDate: {date}\nSHA256:\n");
        let path = RepoPath::new("dists/a/Release").expect("valid");
        Draft::new(key(), vec![RootFile::new(path, text.into())]).expect("valid").finish(1, NOW)
    }

    #[test]
    fn dates_go_forward_and_end() {
        let strict = Trust { check_valid_until: true, ..Trust::default() };
        let lax = Trust::default();
        let current = served("Fri, 15 Jan 2027 08:00:00 UTC");
        let date = current.date.expect("read");
        let check = |trust: &Trust, dates, current| match trust.check_dates(&key(), dates, current, NOW) {
            Ok(()) => "ok",
            Err(TrustError::Expired { .. }) => "expired",
            Err(TrustError::Future { .. }) => "future",
            Err(TrustError::Older { .. }) => "older",
            Err(_) => "signature",
        };
        for (trust, dates, current, want) in [
            (&strict, (None, None), None, "ok"),
            (&strict, (Some(date), Some(NOW + 1)), Some(&current), "ok"),
            (&strict, (Some(date), Some(NOW - 1)), Some(&current), "expired"),
            (&lax, (Some(date), Some(NOW - 1)), Some(&current), "ok"),
            (&strict, (Some(date - 1), None), Some(&current), "older"),
            (&strict, (Some(date - 1), None), None, "ok"),
            (&strict, (None, None), Some(&current), "ok"),
            (&strict, (Some(NOW + 2 * MAX_FUTURE_SECS), None), None, "future"),
        ] {
            assert_eq!(check(trust, dates, current), want, "{dates:?}");
        }
    }
}
