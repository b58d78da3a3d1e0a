//! All parsers against damage: valid documents with pieces cut, doubled, moved and replaced, and documents
//! whose lines have no end. None may panic, invent entries, or give values without bound.

use std::fmt;

use proptest::prelude::*;

use super::control::{self, MatchRequest, ToServer, ToVolunteer};
use super::entry::MAX_VALUE;
use super::ticket::{Key, Ticket};
use super::*;
use crate::model::{Blob, BlobId, Expected};

type Each<'a> = &'a mut dyn FnMut(Entry<'_>);
type Read = fn(&[u8], Each<'_>) -> Result<Skipped, FormatError>;

/// A format: its name, a parser, a valid document.
struct Format(&'static str, Read, String);

fn formats() -> [Format; 8] {
    let (a, b) = ("a".repeat(40), "b".repeat(64));
    let hello = "hello_2.10-3";
    [
        Format(
            "Packages",
            packages::packages,
            format!(
                "Package: hello\nVersion: 2.10-3\nArchitecture: amd64\nDescription: x\n y\n\
                 Filename: pool/h/{hello}.deb\nSize: 53080\nSHA1: {a}\nSHA256: {b}\n\n"
            )
            .repeat(2),
        ),
        Format(
            "Sources",
            sources::sources,
            format!(
                "Package: hello\nVersion: 2.10-3\nDirectory: pool/h\nChecksums-Sha256:\n {b} 1183 {hello}.dsc\n \
                 {b} 725946 {hello}.tar.gz\n\n"
            )
            .repeat(2),
        ),
        Format(
            "diff index",
            pdiff::pdiff_index,
            format!(
                "SHA256-Current: {b} 10\nSHA1-Download:\n {a} 5 1.gz\nSHA256-Download:\n {b} 5 1.gz\n {b} 6 2.gz\n\
                 SHA256-Patches:\n {b} 7 1\n {b} 8 2\n"
            ),
        ),
        Format(
            "checksum file",
            |bytes, each| checksums::checksum_file("CHECKSUM", bytes, each),
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# a.iso: 99 bytes\nSHA256 (a.iso) = {b}\n\
                 {a} *b\\nc\n\\{b}  d\\\\e\n- -x\n-----BEGIN PGP SIGNATURE-----\n\nabcd\n\
                 -----END PGP SIGNATURE-----\n"
            ),
        ),
        Format(
            "treeinfo",
            treeinfo::treeinfo,
            format!("; x\n[checksums]\nimages/boot.iso = sha256:{b}\nx=sha1:{a}\n[general]\narch = x86_64\n"),
        ),
        Format(
            "primary",
            |bytes, each| primary::primary(bytes, each),
            format!(
                "<?xml version='1.0'?>\n<metadata><package type='rpm'><name>h&amp;&#101;</name><arch>x</arch>\
                 <version epoch='0' ver='2' rel='4'/><checksum type='sha256'>{b}</checksum><!-- c -->\
                 <size package='74283'/><location href='P/h.rpm'/><format><name>x</name></format></package>\
                 </metadata>\n"
            ),
        ),
        Format(
            "prestodelta",
            |bytes, each| prestodelta::prestodelta(bytes, each),
            format!(
                "<prestodelta><newpackage name='a'><delta><filename>d/a.drpm</filename><size>5</size>\
                 <checksum type='sha256'><![CDATA[{b}]]></checksum></delta></newpackage></prestodelta>"
            ),
        ),
        Format("Release and repomd", read_roots, {
            format!("Suite: x\nComponents: a b\nDate: Sat, 10 Feb 2024 11:07:25 UTC\nSHA256:\n {b} 1 a\n {b} 2 b\n")
                + &format!(
                    "<repomd><revision>1</revision><data type='p'><checksum type='sha'>{a}</checksum>\
                     <location href='r/p' xml:base=''/><size>5</size></data></repomd>"
                )
        }),
    ]
}

/// Both kinds of root; what they keep becomes entries.
fn read_roots(bytes: &[u8], each: Each<'_>) -> Result<Skipped, FormatError> {
    let split = bytes.iter().position(|&c| c == b'<').unwrap_or(bytes.len());
    let repomd = repomd::Repomd::parse(&bytes[split..]);
    for record in repomd.iter().flat_map(|repomd| &repomd.records) {
        assert!(record.kind.len() <= MAX_VALUE);
        if let Some(digest) = record.digest.filter(|digest| digest.algorithm().may_verify()) {
            let expected = Expected { digest, size: record.size };
            each(Entry { path: &record.location, expected, package: None });
        }
    }
    let release = release::Release::parse(&bytes[..split])?;
    for (path, member) in &release.members {
        if let Some(expected) = member.expected() {
            each(Entry { path: path.as_str(), expected, package: None });
        }
    }
    assert!(release.components.len() <= 1000 && release.suite.is_none_or(|suite| suite.len() <= MAX_VALUE));
    Ok(release.skipped)
}

/// Reads a document and checks what it gave; the number of entries, or `None` if it was refused.
fn entries(Format(name, read, _): &Format, bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    let read = read(bytes, &mut |entry| {
        count += 1;
        assert!(entry.path.len() <= 2 * MAX_VALUE + 1, "{name}: a path of {} bytes", entry.path.len());
        assert!(entry.expected.digest.algorithm().may_verify(), "{name}: a weak digest");
        let texts =
            entry.package.map_or([""; 3], |package| [package.name, package.version, package.architecture]);
        assert!(texts.iter().all(|text| text.len() <= 3 * MAX_VALUE), "{name}: endless text");
    });
    // Each entry has a digest of its own, of at least 40 digits.
    assert!(count * 40 <= bytes.len(), "{name}: {count} entries in {} bytes", bytes.len());
    let reason = match &read {
        Ok(skipped) => skipped.first.clone().unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    assert!(reason.len() <= 2 * MAX_VALUE, "{name}: a reason of {} bytes", reason.len());
    read.is_ok().then_some(count)
}

/// What parsers stumble over.
const TOKENS: [&[u8]; 26] = [
    b"\0",
    b"\r",
    b"\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u{2028}é".as_bytes(),
    b"18446744073709551616",
    b"-1",
    b" ",
    b"#",
    b":",
    b"=",
    b"(",
    b"\\",
    b"../../etc/passwd",
    b"&#0;",
    b"&x;",
    b"<!DOCTYPE a>",
    b"<![CDATA[",
    b"<!--",
    b"<a>",
    b"</a>",
    b"-----BEGIN PGP SIGNED MESSAGE-----\n\n",
    &[b'x'; MAX_VALUE + 1],
];

/// One change of a document; positions are taken modulo its length.
#[derive(Clone)]
enum Edit {
    Insert { at: usize, token: usize },
    Replace { at: usize, byte: u8 },
    Remove { at: usize, len: usize },
    Copy { from: usize, len: usize, to: usize },
    Cut { at: usize },
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Insert { at, token } => write!(f, "insert {:?} at {at}", TOKENS[*token].escape_ascii()),
            Self::Replace { at, byte } => write!(f, "{byte:#x} at {at}"),
            Self::Remove { at, len } => write!(f, "remove {len} at {at}"),
            Self::Copy { from, len, to } => write!(f, "copy {len} from {from} to {to}"),
            Self::Cut { at } => write!(f, "cut at {at}"),
        }
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: usize| at % (bytes.len() + 1);
        let span = |at: usize, len: usize| place(at)..(place(at) + len).min(bytes.len());
        match *self {
            Self::Insert { at, token } => drop(bytes.splice(span(at, 0), TOKENS[token].iter().copied())),
            Self::Replace { at, byte } => drop(bytes.splice(span(at, 1), [byte])),
            Self::Remove { at, len } => drop(bytes.splice(span(at, len), [])),
            Self::Copy { from, len, to } => {
                let copy = bytes[span(from, len)].to_vec();
                drop(bytes.splice(span(to, 0), copy));
            }
            Self::Cut { at } => bytes.truncate(place(at)),
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let (at, len) = (0usize..4000, 0usize..300);
    let edit = prop_oneof![
        4 => (at.clone(), 0..TOKENS.len()).prop_map(|(at, token)| Edit::Insert { at, token }),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace { at, byte }),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Remove { at, len }),
        2 => (at.clone(), len, at.clone()).prop_map(|(from, len, to)| Edit::Copy { from, len, to }),
        1 => at.prop_map(|at| Edit::Cut { at }),
    ];
    proptest::collection::vec(edit, 1..6)
}

fn damaged(document: &str, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = document.as_bytes().to_vec();
    edits.iter().for_each(|edit| edit.apply(&mut bytes));
    bytes
}

#[test]
fn the_documents_are_valid() {
    let found = formats().map(|format| entries(&format, format.2.as_bytes()));
    assert_eq!(found, [2, 4, 4, 3, 2, 1, 1, 3].map(Some));
}

#[test]
fn lines_without_end() {
    const LEN: usize = 64 << 10;
    for format in formats() {
        let Format(_, _, document) = &format;
        for token in TOKENS {
            let run = token.repeat(LEN / token.len());
            for at in [0, document.len() / 3, document.len() / 2, document.len()] {
                let (head, tail) = document.as_bytes().split_at(at);
                entries(&format, &[head, &run, tail].concat());
                // The same after every kind of opening.
                entries(&format, &[head, b"\nDirectory: ", &run, b"\nx: ", &run, tail].concat());
            }
        }
    }
}

#[test]
fn a_long_directory_is_not_joined_to_every_file() {
    let (directory, line) = ("d".repeat(4 << 20), format!(" {} 1 f\n", "b".repeat(64)));
    let text = format!("Directory: {directory}\nChecksums-Sha256:\n{}", line.repeat(50_000));
    let skipped = sources::sources(text.as_bytes(), &mut |_| panic!("an entry")).expect("deb822");
    assert_eq!(skipped, Skipped { count: 1, first: Some("line 1: no usable Directory".into()), fatal: None });
}

#[test]
fn many_words_are_not_all_kept() {
    let text = format!("Suite: x\nComponents: {}\nSHA256:\n", "a ".repeat(1 << 20));
    let release = release::Release::parse(text.as_bytes()).expect("good");
    assert_eq!(release.components.len(), 1000);
}

#[test]
fn many_empty_streams_do_not_exhaust_the_stack() {
    use compress::{Compression, decompress};
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x03\0\0\0\0\0\0\0\0\0".repeat(200_000);
    assert_eq!(decompress(Compression::Gzip, &gzip, 10).expect("empty"), b"");
    let bzip2 = b"BZh1\x17\x72\x45\x38\x50\x90\0\0\0\0".repeat(2000);
    assert_eq!(decompress(Compression::Bzip2, &bzip2, 10).expect("empty"), b"");
    let zstd = b"\x28\xb5\x2f\xfd\x20\0\x01\0\0".repeat(200_000);
    assert_eq!(decompress(Compression::Zstd, &zstd, 10).expect("empty"), b"");
}

proptest! {
    #[test]
    fn damaged_documents(edits in edits()) {
        for format in formats() {
            entries(&format, &damaged(&format.2, &edits));
        }
    }

    #[test]
    fn documents_of_other_kinds(edits in edits(), other in 0usize..8) {
        let bytes = damaged(&formats()[other].2, &edits);
        for format in formats() {
            entries(&format, &bytes);
        }
    }

    #[test]
    fn damaged_messages(edits in edits()) {
        let report = control::Report { remaining: vec![Blob { id: BlobId([7; 32]), size: 5 }], ..Default::default() };
        let welcome = control::Welcome { key: "00".repeat(32), now_secs: 1, heartbeat_secs: 5, announce_from: Some(7) };
        let json = serde_json::to_string(&ToServer::Report(report)).expect("serialises")
            + &serde_json::to_string(&ToVolunteer::Welcome(welcome)).expect("serialises");
        let bytes = damaged(&json, &edits);
        for start in [0, bytes.len() / 3, bytes.len() / 2] {
            let _ = serde_json::from_slice::<ToServer>(&bytes[start..]);
            let _ = serde_json::from_slice::<ToVolunteer>(&bytes[start..]);
            let _ = serde_json::from_slice::<MatchRequest>(&bytes[start..]);
            let _ = serde_json::from_slice::<status::Status>(&bytes[start..]);
        }
    }

    #[test]
    fn holdings(kind in 0u8..4, blobs in proptest::collection::vec(any::<[u8; 32]>(), 0..9), rest in 0usize..3) {
        let bytes = [vec![kind], blobs.concat(), vec![7; rest]].concat();
        let read = control::decode_holdings(&bytes).map(|(change, blobs)| (change, blobs.collect::<Vec<_>>()));
        prop_assert_eq!(read.is_some(), matches!(kind, 1 | 2) && rest == 0);
        if let Some((change, blobs)) = read {
            prop_assert_eq!(control::encode_holdings(change, &blobs), bytes);
        }
    }

    #[test]
    fn a_damaged_ticket_is_refused(edits in edits()) {
        let blob = Blob { id: BlobId([7; 32]), size: 4096 };
        let key = Key::new(&[1; 32]);
        let path = key.sign(blob, 1_800_000_000, "a.deb");
        let good = Ticket::parse(&path).expect("own form");
        let bytes = damaged(&path, &edits);
        let text = String::from_utf8_lossy(&bytes);
        if let Some(ticket) = Ticket::parse(&text) {
            // The name is not signed, and digits may be written in either case.
            let signed = |ticket: &Ticket<'_>| (ticket.blob, ticket.modified_secs, ticket.expiry);
            let same = signed(&ticket) == signed(&good);
            prop_assert!(same || !key.verifies(&ticket, blob.size), "{text}");
        }
    }

    #[test]
    fn a_log_line_is_one_line(target in "\\PC{0,20}|[\\x00-\\x7f]{0,20}", agent: String, unix_secs: u64) {
        let mut out = String::new();
        let client = std::net::Ipv4Addr::LOCALHOST.into();
        let line = access_log::Line {
            client, unix_secs, method: "GET", target: &target, status: 200, bytes: u64::MAX,
            referer: None, user_agent: Some(&agent),
        };
        line.write(&mut out);
        prop_assert_eq!(out.lines().count(), 1);
        prop_assert!(out.ends_with("\"\n") && !out.trim_end_matches('\n').contains(char::is_control));
    }
}
