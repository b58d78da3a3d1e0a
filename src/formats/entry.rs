//! What every metadata parser gives: entries, what it passed over, and the one error type.
//!
//! An [`Entry`] borrows from the parser's input and lives for one call, so that an index of a million
//! packages costs no allocation here. How many entries a document may have is the caller's affair: the
//! parsers keep none. Paths are carried as written; [`RepoPath`](crate::model::RepoPath) judges them.

use std::borrow::Cow;
use std::io;

use crate::model::{Algorithm, Digest, Expected};

/// One file that metadata promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As the metadata writes it, relative to whatever the format says; not validated.
    pub path: &'a str,
    pub expected: Expected,
    /// Absent where the format describes plain files.
    pub package: Option<Package<'a>>,
}

/// Which package a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package<'a> {
    pub name: &'a str,
    /// rpm: `epoch:version-release`, the epoch left out if it is 0.
    pub version: &'a str,
    /// `source` for the files of a source package.
    pub architecture: &'a str,
}

/// What a parser passed over, and the first reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    pub count: u64,
    pub first: Option<String>,
    /// What makes every client refuse the whole document.
    pub fatal: Option<String>,
}

impl Skipped {
    /// Counts one; the reason is only made if it is the first.
    pub fn note(&mut self, reason: impl FnOnce() -> String) {
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(reason);
    }

    /// The same for what clients do not pass over.
    pub fn note_fatal(&mut self, reason: impl FnOnce() -> String) {
        self.count = self.count.saturating_add(1);
        if self.fatal.is_none() {
            let reason = reason();
            self.first.get_or_insert_with(|| reason.clone());
            self.fatal = Some(reason);
        }
    }

    /// Adds what another parser passed over.
    pub fn merge(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.take().or(other.first);
        self.fatal = self.fatal.take().or(other.fatal);
    }
}

/// Why a document cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A text format; lines count from 1.
    #[error("{format}, line {line}: {problem}")]
    Line { format: &'static str, line: u64, problem: Cow<'static, str> },
    /// A format without lines; offsets count from 0, after decompression.
    #[error("{format}, byte {offset}: {problem}")]
    Byte { format: &'static str, offset: u64, problem: Cow<'static, str> },
    /// The input itself broke off or could not be decompressed.
    #[error("{format} cannot be read")]
    Read { format: &'static str, source: io::Error },
    #[error("{format} data has more than {limit} bytes after decompression")]
    TooLarge { format: &'static str, limit: u64 },
}

/// The digests that may verify a file, in the order in which they are looked for.
pub(super) const PREFERENCE: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Sha1];

/// Longest value that a parser keeps, joins to others or shows in a reason. Most are paths, and PATH_MAX of
/// Linux is 4096.
pub(super) const MAX_VALUE: usize = 4096;

/// The number of bytes of a file: digits only, no sign, no overflow.
pub(super) fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A digest in hexadecimal, if that algorithm proves anything.
pub(super) fn digest(algorithm: Algorithm, hex: &str) -> Option<Digest> {
    algorithm.may_verify().then(|| Digest::from_hex(algorithm, hex).ok()).flatten()
}

/// The types of checksums in rpm-md (libsolv's solv_chksum_str2type); a repository with any other is refused.
pub(super) fn rpm_algorithm(name: &str) -> Option<Algorithm> {
    let known = ["md5", "sha", "sha1", "sha224", "sha256", "sha384", "sha512"];
    known.iter().any(|known| name.eq_ignore_ascii_case(known)).then(|| Algorithm::from_name(name)).flatten()
}

/// A digest as apt and librepo compare it: as text, so that capitals are another one.
pub(super) fn lower_digest(algorithm: Algorithm, hex: &str) -> Option<Digest> {
    let has_capitals = hex.bytes().any(|c| c.is_ascii_uppercase());
    Digest::from_hex(algorithm, hex).ok().filter(|_| !has_capitals)
}

/// The start of a hostile text, fit for an error message.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_that_fit() {
        for (text, want) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("+1", None),
            ("-1", None),
            ("", None),
            ("1 ", None),
            ("1e3", None),
        ] {
            assert_eq!(decimal(text), want, "{text:?}");
        }
    }

    #[test]
    fn only_the_first_reason_is_kept() {
        let mut skipped = Skipped::default();
        skipped.note(|| "one".into());
        skipped.note(|| unreachable!("the second reason is not made"));
        assert_eq!(skipped, Skipped { count: 2, first: Some("one".into()), fatal: None });
    }

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(excerpt("a\u{1b}[1m\n"), "a\\u{1b}[1m\\n");
        assert_eq!(excerpt(&"é".repeat(1000)), format!("{}...", "é".repeat(80)));
    }

    #[test]
    fn weak_digests_are_refused() {
        assert_eq!(digest(Algorithm::Md5, &"0".repeat(32)), None);
        assert!(digest(Algorithm::Sha1, &"0".repeat(40)).is_some());
    }
}
