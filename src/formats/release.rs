//! Release and InRelease: the signed root of an apt suite (Debian's RepositoryFormat, "Release" files).
//!
//! All digests of a member are kept, weak ones too: apt compares each of them, and clients ask for
//! `by-hash/<any of them>/<hex>`. Deliberately checks neither signature nor dates:
//! whether a suite has expired is a question for whoever has a clock.

use std::collections::BTreeMap;

use super::apt_date;
use super::clearsign;
use super::deb822::{self, Field, Stanza};
use super::entry::{FormatError, MAX_VALUE, Skipped, decimal, excerpt, lower_digest};
use crate::model::{Algorithm, Digest, Expected, ParseDigestError, PathError, RepoPath};

const FORMAT: &str = "Release";

/// The sections with digests, in apt's order (HashString::SupportedHashes): the first size of a member counts.
const SECTIONS: [(&str, Algorithm); 4] = [
    ("SHA512", Algorithm::Sha512),
    ("SHA256", Algorithm::Sha256),
    ("SHA1", Algorithm::Sha1),
    ("MD5Sum", Algorithm::Md5),
];

/// Most components, and most architectures: Debian has 4 and about 20. A word takes 20 times the room that
/// it has in the text.
const MAX_WORDS: usize = 1000;

/// Most files of a suite. Debian lists 3000; a line of 6 bytes takes 100 in memory.
const MAX_MEMBERS: usize = 500_000;

/// What a suite has, in one stanza.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    pub suite: Option<String>,
    pub codename: Option<String>,
    pub components: Vec<String>,
    pub architectures: Vec<String>,
    /// Seconds since 1970. One that apt cannot read counts as none.
    pub date: Option<u64>,
    /// Seconds since 1970. Absent, too, where it is before 1970: apt takes that for "never".
    pub valid_until: Option<u64>,
    /// `Date` or `Valid-Until` where apt cannot read them, with the text.
    pub unreadable: BTreeMap<&'static str, String>,
    pub acquire_by_hash: bool,
    /// Packages of architecture `all` stand in the lists of every architecture, and clients read no list of
    /// their own for them: `all` is not among the architectures, or `No-Support-for-Architecture-all: Packages`
    /// says so (apt's debmetaindex).
    pub no_list_for_all: bool,
    /// Relative to the folder of the Release file. Servers lack some of them (uncompressed ones above all).
    pub members: BTreeMap<RepoPath, Member>,
    /// Lines that were left out: no path, no size, a digest or a size that an earlier line has otherwise.
    pub skipped: Skipped,
}

/// One index of the suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub size: u64,
    /// SHA512, SHA256, SHA1, MD5.
    pub digests: Vec<Digest>,
    /// A digest is listed that no file can have: apt refuses whatever comes.
    pub malformed: Option<Algorithm>,
}

impl Member {
    /// The size and the digest to verify it by, SHA-256 if there is one; `None` where only MD5 is listed.
    pub fn expected(&self) -> Option<Expected> {
        let verifying = || self.digests.iter().filter(|digest| digest.algorithm().may_verify());
        let sha256 = verifying().find(|digest| digest.algorithm() == Algorithm::Sha256);
        let digest = *sha256.or_else(|| verifying().next())?;
        Some(Expected { digest, size: Some(self.size) })
    }
}

impl Release {
    /// Reads a Release, or an InRelease with its frame.
    ///
    /// # Errors
    /// If the frame is broken or the text is not deb822. Flaws of single lines are counted in `skipped`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let text = clearsign::cleartext(bytes)?;
        deb822::require_field(FORMAT, &text)?;
        let Some(stanza) = deb822::stanzas(&text).next() else {
            return Err(FormatError::Line { format: FORMAT, line: 1, problem: "the file is empty".into() });
        };
        let mut release = Self {
            suite: word(&stanza, "Suite"),
            codename: word(&stanza, "Codename"),
            components: words(&stanza, "Components"),
            architectures: words(&stanza, "Architectures"),
            acquire_by_hash: stanza.get("Acquire-By-Hash").is_some_and(is_yes),
            no_list_for_all: stanza
                .get("No-Support-for-Architecture-all")
                .and_then(|field| field.text())
                .is_some_and(|kinds| kinds.split_ascii_whitespace().any(|kind| kind == "Packages")),
            ..Self::default()
        };
        release.no_list_for_all |=
            !release.architectures.is_empty() && !release.architectures.iter().any(|name| name == "all");
        release.date = release.read_date(&stanza, "Date").map(|secs| u64::try_from(secs).unwrap_or(0));
        let until = release.read_date(&stanza, "Valid-Until");
        release.valid_until = until.and_then(|secs| u64::try_from(secs).ok()).filter(|secs| *secs > 0);
        for (name, algorithm) in SECTIONS {
            if let Some(section) = stanza.get(name) {
                release.read_section(algorithm, section);
            }
        }
        Ok(release)
    }

    /// The size and the best digest of a member.
    pub fn expected(&self, member: &str) -> Option<Expected> {
        self.members.get(member).and_then(Member::expected)
    }

    /// Whether SHA-256 or better names anything: apt takes no other Release for signed.
    pub fn is_strong(&self) -> bool {
        let mut digests = self.members.values().flat_map(|member| &member.digests);
        digests.any(|digest| digest.algorithm() >= Algorithm::Sha256)
    }

    /// Seconds since 1970. An empty field is none.
    fn read_date(&mut self, stanza: &Stanza<'_>, name: &'static str) -> Option<i64> {
        let text = stanza.get(name)?.text().unwrap_or("(not UTF-8)");
        let seconds = apt_date::seconds(text);
        if seconds.is_none() && !text.is_empty() {
            self.unreadable.insert(name, excerpt(text));
        }
        seconds
    }

    fn read_section(&mut self, algorithm: Algorithm, section: Field<'_>) {
        for (line, text) in section.lines() {
            let words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
            if words < 3 {
                let text = String::from_utf8_lossy(text);
                let problem = || format!("line {line}: {:?} is not 'digest size name'", excerpt(&text));
                // apt then takes the whole file for one without digests.
                self.skipped.note_fatal(problem);
            } else if let Err(problem) = self.read_member(algorithm, text) {
                self.skipped.note(|| format!("line {line}: {problem}"));
            }
        }
    }

    fn read_member(&mut self, algorithm: Algorithm, line: &[u8]) -> Result<(), LineError> {
        let (hex, size, written) = words_of_line(line)?;
        let path = RepoPath::new(written)
            .map_err(|problem| LineError::BadPath { path: excerpt(written), problem })?;
        if path.as_str() != written {
            return Err(LineError::NotAsListed { path: excerpt(written) });
        }
        if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&path) {
            return Err(LineError::TooMany { path });
        }
        let new = || Member { size, digests: Vec::new(), malformed: None };
        let member = self.members.entry(path.clone()).or_insert_with(new);
        let is_added = match lower_digest(algorithm, hex) {
            Some(digest) => member.add(digest),
            None if member.has(algorithm) => false,
            None => {
                member.malformed.get_or_insert(algorithm);
                return Err(LineError::MalformedDigest { path, algorithm });
            }
        };
        match is_added {
            false => Err(LineError::OtherDigest { path }),
            true if member.size != size => Err(LineError::OtherSize { path }),
            true => Ok(()),
        }
    }
}

impl Member {
    /// Whether an earlier line gives one of that algorithm, good or bad: it is what apt goes by.
    fn has(&self, algorithm: Algorithm) -> bool {
        self.malformed == Some(algorithm) || self.digests.iter().any(|known| known.algorithm() == algorithm)
    }

    /// Adds a digest, unless the member has one of that algorithm; then says whether it is the same.
    fn add(&mut self, digest: Digest) -> bool {
        if self.has(digest.algorithm()) {
            return self.digests.contains(&digest);
        }
        // Two digests are usual; the growth of `push` would make room for four.
        self.digests.reserve_exact(1);
        self.digests.push(digest);
        true
    }
}

/// Why a line of digests names no file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("the line is not UTF-8")]
    NotUtf8,
    #[error("{text:?} is not 'digest size name'")]
    OtherWords { text: String },
    #[error("{path}: the name is too long")]
    LongName { path: String },
    #[error("{path}: its size is no number")]
    BadSize { path: String },
    #[error("{path}: {problem}")]
    BadPath { path: String, problem: PathError },
    #[error("{path}: apt asks for names as they are listed, without './' or '//'")]
    NotAsListed { path: String },
    #[error("{path}: one file too many")]
    TooMany { path: RepoPath },
    #[error("{path}: its {algorithm} is no digest")]
    MalformedDigest { path: RepoPath, algorithm: Algorithm },
    #[error("{path}: its digests disagree")]
    OtherDigest { path: RepoPath },
    #[error("{path}: its sizes disagree")]
    OtherSize { path: RepoPath },
    #[error(transparent)]
    BadDigest(#[from] ParseDigestError),
}

/// `digest size path`, separated by blanks: the lines of Release and of the checksums in Sources.
pub(super) fn digest_line(algorithm: Algorithm, line: &[u8]) -> Result<(Digest, u64, &str), LineError> {
    let (hex, size, path) = words_of_line(line)?;
    Ok((Digest::from_hex(algorithm, hex)?, size, path))
}

/// The same with the digest as it is written.
fn words_of_line(line: &[u8]) -> Result<(&str, u64, &str), LineError> {
    let text = std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)?;
    let mut words = text.split_ascii_whitespace();
    let (Some(hex), Some(size), Some(path), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(LineError::OtherWords { text: excerpt(text) });
    };
    if path.len() > MAX_VALUE {
        return Err(LineError::LongName { path: excerpt(path) });
    }
    let size = decimal(size).ok_or_else(|| LineError::BadSize { path: excerpt(path) })?;
    Ok((hex, size, path))
}

fn word(stanza: &Stanza<'_>, name: &str) -> Option<String> {
    let text = stanza.get(name)?.text()?;
    (1..=MAX_VALUE).contains(&text.len()).then(|| text.to_owned())
}

fn words(stanza: &Stanza<'_>, name: &str) -> Vec<String> {
    let text = stanza.get(name).and_then(|field| field.text()).unwrap_or_default();
    let kept = text.split_ascii_whitespace().filter(|word| word.len() <= MAX_VALUE).take(MAX_WORDS);
    kept.map(str::to_owned).collect()
}

/// What apt takes for true (StringToBool).
fn is_yes(field: Field<'_>) -> bool {
    let text = field.text().unwrap_or_default();
    ["yes", "true", "with", "on", "enable", "1"].iter().any(|yes| text.eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> String {
        let (md5, sha1, sha256) = ("1".repeat(32), "2".repeat(40), "3".repeat(64));
        format!(
            "Origin: Debian\nLabel: Debian\nSuite: stable\nVersion: 12.5\nCodename: bookworm\n\
             Changelogs: https://metadata.example/changelogs/@CHANGEPATH@_changelog\n\
             Date: Sat, 10 Feb 2024 11:07:25 UTC\nValid-Until: Sat, 17 Feb 2024 11:07:25 UTC\n\
             Acquire-By-Hash: yes\nNo-Support-for-Architecture-all: Packages\n\
             Architectures: all amd64 arm64\nComponents: main contrib non-free-firmware\n\
             Description: Debian 12.5 Released 10 February 2024\n\
             MD5Sum:\n {md5}  1484483 main/binary-amd64/Packages.xz\n {md5} 30 weak/only\n\
             SHA1:\n {sha1} 12 old/sha1-only\n\
             SHA256:\n {sha256} 1484483 main/binary-amd64/Packages.xz\n \
             {sha256}   738242 contrib/Contents-all\n"
        )
    }

    #[test]
    fn a_debian_release() {
        let release = Release::parse(sample().as_bytes()).expect("good");
        assert_eq!(release.suite.as_deref(), Some("stable"));
        assert_eq!(release.codename.as_deref(), Some("bookworm"));
        assert_eq!(release.components, ["main", "contrib", "non-free-firmware"]);
        assert_eq!(release.architectures, ["all", "amd64", "arm64"]);
        assert_eq!((release.date, release.valid_until), (Some(1_707_563_245), Some(1_708_168_045)));
        assert!(release.acquire_by_hash);
        let shown: Vec<String> = release
            .members
            .iter()
            .map(|(path, member)| {
                let algorithms: Vec<_> = member.digests.iter().map(|d| d.algorithm().name()).collect();
                format!("{path} {} {}", member.size, algorithms.join(","))
            })
            .collect();
        let want = [
            "contrib/Contents-all 738242 sha256",
            "main/binary-amd64/Packages.xz 1484483 sha256,md5",
            "old/sha1-only 12 sha1",
            "weak/only 30 md5",
        ];
        assert_eq!(shown, want);
        assert_eq!(release.skipped.count, 0);
        assert_eq!(release.expected("weak/only"), None);
        let expected = release.expected("old/sha1-only").expect("a member");
        assert_eq!((expected.digest.algorithm(), expected.size), (Algorithm::Sha1, Some(12)));
    }

    #[test]
    fn an_inrelease_reads_as_its_release() {
        let framed = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{}-----BEGIN PGP SIGNATURE-----\n\nabcd\n\
             -----END PGP SIGNATURE-----\n",
            sample()
        );
        let (framed, plain) = (Release::parse(framed.as_bytes()), Release::parse(sample().as_bytes()));
        assert_eq!(framed.expect("framed"), plain.expect("plain"));
    }

    #[test]
    fn bad_members_are_skipped() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        for (line, want) in [
            (format!("{a} 1 ../../etc/passwd"), "line 4: ../../etc/passwd: the path has a '..' segment"),
            (format!("{a} 1 /etc/passwd"), "line 4: /etc/passwd: the path is absolute"),
            (format!("{a} x f"), "line 4: f: its size is no number"),
            (format!("{a} 2 kept"), "line 4: kept: its sizes disagree"),
            (format!("{b} 1 kept"), "line 4: kept: its digests disagree"),
        ] {
            let text = format!("Suite: x\nSHA256:\n {a} 1 kept\n {line}\n");
            let release = Release::parse(text.as_bytes()).expect("good");
            assert_eq!(release.members.keys().map(RepoPath::as_str).collect::<Vec<_>>(), ["kept"], "{line}");
            assert_eq!(
                release.skipped,
                Skipped { count: 1, first: Some(want.to_owned()), fatal: None },
                "{line}"
            );
        }
    }

    #[test]
    fn a_short_line_is_fatal() {
        let a = "a".repeat(64);
        for line in [a.clone(), format!("{a} 1"), "main/else".to_owned()] {
            let text = format!("Suite: x\nSHA256:\n {a} 1 kept\n {line}\n");
            let release = Release::parse(text.as_bytes()).expect("good");
            let want = format!("line 4: {line:?} is not 'digest size name'");
            assert_eq!(release.skipped.fatal, Some(want), "{line}");
        }
    }

    #[test]
    fn names_are_taken_as_they_are_written() {
        let a = "a".repeat(64);
        let text = format!("Suite: x\nSHA256:\n {a} 1 ./dot\n {a} 1 a//b\n {a} 1 kept\n");
        let release = Release::parse(text.as_bytes()).expect("good");
        assert_eq!(release.members.keys().map(RepoPath::as_str).collect::<Vec<_>>(), ["kept"]);
        assert_eq!((release.skipped.count, release.skipped.fatal), (2, None));
    }

    #[test]
    fn dates_that_apt_forgives() {
        for (field, date, until, unreadable) in [
            ("Date: Sat, 10 Feb 2024 11:07:25 UTC", Some(1_707_563_245), None, false),
            ("Valid-Until: Sat, 10 Feb 2024 1:07:25 UTC", None, Some(1_707_527_245), false),
            ("Date: Sat, 10 Feb 2024 11:07:25 CET", None, None, true),
            ("Valid-Until: never", None, None, true),
            ("Date: Saturday, 10-Feb-24 11:07:25 GMT", Some(0), None, false),
            ("Valid-Until: Saturday, 10-Feb-24 11:07:25 GMT", None, None, false),
            ("Date:\nValid-Until: ", None, None, false),
        ] {
            let release = Release::parse(format!("Suite: x\n{field}\n").as_bytes()).expect("good");
            assert_eq!((release.date, release.valid_until), (date, until), "{field}");
            assert_eq!(release.unreadable.len(), usize::from(unreadable), "{field}");
        }
    }

    /// Each was given to apt 2.6: it goes by the first line of an algorithm, and by the first size.
    #[test]
    fn what_apt_makes_of_several_lines() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let (md5, sha512) = ("c".repeat(32), "d".repeat(128));
        for (text, want) in [
            (format!("SHA256:\n {a} 1 f\n {b} 1 f\n"), "1 sha256:aa"),
            (format!("SHA256:\n {b} 1 f\n {a} 1 f\n"), "1 sha256:bb"),
            (format!("SHA256:\n {a} 1 f\n cut 1 f\n"), "1 sha256:aa"),
            (format!("SHA256:\n cut 1 f\n {a} 1 f\n"), "1 malformed sha256"),
            (format!("SHA256:\n {a} 1 f\nMD5Sum:\n {md5} 2 f\n"), "1 sha256:aa md5:cc"),
            (format!("MD5Sum:\n {md5} 2 f\nSHA512:\n {sha512} 1 f\n"), "1 sha512:dd md5:cc"),
            (format!("SHA256:\n {a} 1 f\nMD5Sum:\n {} 1 f\n", &md5[1..]), "1 sha256:aa malformed md5"),
            (
                format!("SHA256:\n {} 1 f\nSHA512:\n {sha512} 1 f\n", a.to_uppercase()),
                "1 sha512:dd malformed sha256",
            ),
            (format!("MD5Sum:\n {md5} 1 f\n"), "1 md5:cc"),
        ] {
            let release = Release::parse(text.as_bytes()).expect("good");
            let member = release.members.get("f").expect("listed");
            let digests = member
                .digests
                .iter()
                .map(|digest| format!(" {}:{}", digest.algorithm(), &digest.to_hex()[..2]));
            let malformed = member.malformed.map(|algorithm| format!(" malformed {algorithm}"));
            let shown =
                format!("{}{}{}", member.size, digests.collect::<String>(), malformed.unwrap_or_default());
            assert_eq!(shown, want, "{text}");
            assert_eq!(member.expected().is_some(), want.contains(" sha256:") || want.contains("sha512:"));
            assert_eq!(release.is_strong(), member.expected().is_some());
        }
    }

    #[test]
    fn other_documents_are_errors() {
        for text in ["", "\n\n", "<html>\n", "-----BEGIN PGP SIGNED MESSAGE-----\n\nSuite: x\n"] {
            assert!(Release::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Release::parse(&bytes);
            let _ = Release::parse(&[b"SHA256:\n ", bytes.as_slice()].concat());
        }
    }
}
