//! Release and InRelease: the signed root of an apt suite (Debian's RepositoryFormat, "Release" files).
//!
//! All digests of a member are kept, weak ones too, since clients ask for `by-hash/<any of them>/<hex>`;
//! only a member that some SHA names is kept at all. Deliberately checks neither signature nor dates:
//! whether a suite has expired is a question for whoever has a clock.

use std::collections::BTreeMap;

use super::clearsign;
use super::deb822::{self, Field, Stanza};
use super::entry::{FormatError, MAX_VALUE, Skipped, decimal, excerpt};
use crate::model::{Algorithm, Digest, Expected, RepoPath};

const FORMAT: &str = "Release";

/// The sections with digests, best first. MD5 is last: it only adds names to members that a SHA vouches for.
const SECTIONS: [(&str, Algorithm); 4] = [
    ("SHA256", Algorithm::Sha256),
    ("SHA512", Algorithm::Sha512),
    ("SHA1", Algorithm::Sha1),
    ("MD5Sum", Algorithm::Md5),
];

/// Most components, and most architectures: Debian has 4 and about 20. A word takes 20 times the room that
/// it has in the text.
const MAX_WORDS: usize = 1000;

/// What a suite has, in one stanza.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    pub suite: Option<String>,
    pub codename: Option<String>,
    pub components: Vec<String>,
    pub architectures: Vec<String>,
    /// Seconds since 1970.
    pub date: Option<u64>,
    /// Seconds since 1970.
    pub valid_until: Option<u64>,
    pub acquire_by_hash: bool,
    /// Packages of architecture `all` stand in the lists of every architecture, and clients read no list of
    /// their own for them: `all` is not among the architectures, or `No-Support-for-Architecture-all: Packages`
    /// says so (apt's debmetaindex).
    pub no_list_for_all: bool,
    /// Relative to the folder of the Release file. Servers lack some of them (uncompressed ones above all).
    pub members: BTreeMap<RepoPath, Member>,
    /// Members that were left out: bad path, size or digest, sizes that disagree, MD5 alone.
    pub skipped: Skipped,
}

/// One index of the suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub size: u64,
    /// Never empty. Best first: SHA256, SHA512, SHA1, MD5.
    pub digests: Vec<Digest>,
}

impl Member {
    /// The size and the best digest.
    ///
    /// # Panics
    /// If `digests` is empty, which no parsed member is.
    pub fn expected(&self) -> Expected {
        Expected { digest: self.digests[0], size: Some(self.size) }
    }
}

impl Release {
    /// Reads a Release, or an InRelease with its frame.
    ///
    /// # Errors
    /// If the frame is broken, the text is not deb822, or a date cannot be read. Flaws of single members
    /// are counted in `skipped`.
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
            date: date(&stanza, "Date")?,
            valid_until: date(&stanza, "Valid-Until")?,
            acquire_by_hash: stanza.get("Acquire-By-Hash").is_some_and(is_yes),
            no_list_for_all: stanza
                .get("No-Support-for-Architecture-all")
                .and_then(|field| field.text())
                .is_some_and(|kinds| kinds.split_ascii_whitespace().any(|kind| kind == "Packages")),
            ..Self::default()
        };
        release.no_list_for_all |=
            !release.architectures.is_empty() && !release.architectures.iter().any(|name| name == "all");
        for (name, algorithm) in SECTIONS {
            if let Some(section) = stanza.get(name) {
                release.read_section(algorithm, section);
            }
        }
        Ok(release)
    }

    /// The size and the best digest of a member.
    pub fn expected(&self, member: &str) -> Option<Expected> {
        self.members.get(member).map(Member::expected)
    }

    fn read_section(&mut self, algorithm: Algorithm, section: Field<'_>) {
        for (line, text) in section.lines() {
            if let Err(problem) = self.read_member(algorithm, text) {
                self.skipped.note(|| format!("line {line}: {problem}"));
            }
        }
    }

    fn read_member(&mut self, algorithm: Algorithm, line: &[u8]) -> Result<(), String> {
        let (digest, size, path) = digest_line(algorithm, line)?;
        let path = RepoPath::new(path).map_err(|error| format!("{}: {error}", excerpt(path)))?;
        match self.members.get_mut(&path) {
            Some(member) if member.size != size => Err(format!("{path}: its sizes disagree")),
            Some(member) => member.add(digest).ok_or_else(|| format!("{path}: its digests disagree")),
            None if algorithm.may_verify() => {
                self.members.insert(path, Member { size, digests: Vec::from([digest]) });
                Ok(())
            }
            None => Err(format!("{path}: only {algorithm} names it")),
        }
    }
}

impl Member {
    /// Adds a digest, unless the member has another one of that algorithm.
    fn add(&mut self, digest: Digest) -> Option<()> {
        match self.digests.iter().find(|known| known.algorithm() == digest.algorithm()) {
            Some(known) => (*known == digest).then_some(()),
            None => {
                // Two digests are usual; the growth of `push` would make room for four.
                self.digests.reserve_exact(1);
                self.digests.push(digest);
                Some(())
            }
        }
    }
}

/// `digest size path`, separated by blanks: the lines of Release and of the checksums in Sources.
pub(super) fn digest_line(algorithm: Algorithm, line: &[u8]) -> Result<(Digest, u64, &str), String> {
    let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    let mut words = text.split_ascii_whitespace();
    let (Some(hex), Some(size), Some(path), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(format!("{:?} is not 'digest size name'", excerpt(text)));
    };
    if path.len() > MAX_VALUE {
        return Err(format!("{}: the name is too long", excerpt(path)));
    }
    let size = decimal(size).ok_or_else(|| format!("{}: its size is no number", excerpt(path)))?;
    let digest = Digest::from_hex(algorithm, hex).map_err(|error| error.to_string())?;
    Ok((digest, size, path))
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

/// An unreadable date is an error and not an absent one: an expiry must not vanish.
fn date(stanza: &Stanza<'_>, name: &str) -> Result<Option<u64>, FormatError> {
    let Some(field) = stanza.get(name) else { return Ok(None) };
    match field.text().and_then(seconds) {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(FormatError::Line {
            format: FORMAT,
            line: field.line,
            problem: format!("{name} is no date like 'Sat, 10 Feb 2024 11:07:25 UTC'").into(),
        }),
    }
}

/// RFC 5322 as apt reads it: the zone must be UTC, under one of its names. The day's name is not checked.
fn seconds(text: &str) -> Option<u64> {
    const ZONES: [&str; 5] = ["UTC", "GMT", "Z", "+0000", "-0000"];
    let (time, zone) = text.rsplit_once(' ')?;
    if !ZONES.contains(&zone) {
        return None;
    }
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let timestamp = parser.parse_timestamp(format!("{time} +0000")).ok()?;
    u64::try_from(timestamp.as_second()).ok()
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
        ];
        assert_eq!(shown, want);
        assert_eq!(release.skipped.count, 1);
        assert_eq!(release.skipped.first.as_deref(), Some("line 16: weak/only: only md5 names it"));
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
            (format!("{a} 1"), &format!("line 4: {:?} is not 'digest size name'", format!("{a} 1"))),
            (format!("{a} 2 kept"), "line 4: kept: its sizes disagree"),
            (format!("{b} 1 kept"), "line 4: kept: its digests disagree"),
        ] {
            let text = format!("Suite: x\nSHA256:\n {a} 1 kept\n {line}\n");
            let release = Release::parse(text.as_bytes()).expect("good");
            assert_eq!(release.members.keys().map(RepoPath::as_str).collect::<Vec<_>>(), ["kept"], "{line}");
            assert_eq!(release.skipped, Skipped { count: 1, first: Some(want.to_owned()) }, "{line}");
        }
    }

    #[test]
    fn dates() {
        for (text, want) in [
            ("Sat, 10 Feb 2024 11:07:25 UTC", Some(1_707_563_245)),
            ("Sat, 10 Feb 2024 11:07:25 +0000", Some(1_707_563_245)),
            ("Sat,  3 Feb 2024 11:07:25 GMT", Some(1_706_958_445)),
            ("Mon, 10 Feb 2024 11:07:25 Z", Some(1_707_563_245)),
            ("Sat, 10 Feb 2024 11:07:25 CET", None),
            ("Sat, 10 Feb 2024 11:07:25 +0100", None),
            ("Sat, 10 Feb 1924 11:07:25 UTC", None),
            ("Sat, 30 Feb 2024 11:07:25 UTC", None),
            ("2024-02-10", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), want, "{text:?}");
        }
        let error = Release::parse(b"Suite: x\nValid-Until: never\n").expect_err("no date");
        assert!(error.to_string().starts_with("Release, line 2: Valid-Until is no date"), "{error}");
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

        #[test]
        fn any_date(text in "[A-Z]?[a-z]{0,3},? ?[0-9]{0,3} [A-Z]?[a-z]{0,3} [0-9]{0,6} [0-9:]{0,12} (UTC|[+-]0000|é)?") {
            let _ = seconds(&text);
        }
    }
}
