//! Metalinks: a file's size, digests and URLs in one XML document. Written only, never read.
//!
//! Two versions, because their readers know only one each. Version 4 (RFC 5854) is what libzypp and aria2 take
//! in place of a package. Version 3 (Metalink 3.0, 2007) is what older download managers take, and with the `mm0:`
//! names of MirrorManager what dnf's `metalink=` takes for `repomd.xml`. No white space stands around values (RFC 5854 section 2).

use std::fmt::Write;

use quick_xml::escape::escape;

use crate::model::{Algorithm, BlobId, Digest, Digests, Pieces};

/// The media type of version 3.
pub const V3: &str = "application/metalink+xml";
/// The media type of version 4.
pub const V4: &str = "application/metalink4+xml";

/// By the names of IANA's registry, as RFC 5854 section 4.2.8 wants them; MD4 has none.
const OTHER_ALGORITHMS: [(&str, Algorithm); 3] =
    [("sha-512", Algorithm::Sha512), ("sha-1", Algorithm::Sha1), ("md5", Algorithm::Md5)];

/// What of `repomd.xml` dnf accepts.
const REPOMD_ALGORITHMS: [Algorithm; 4] =
    [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512];

const HEAD_V3: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metalink xmlns=\"http://www.metalinker.org/\" \
    version=\"3.0\" type=\"dynamic\" xmlns:mm0=\"http://fedorahosted.org/mirrormanager\">\n<files>\n";

/// One file and where it is.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    pub name: &'a str,
    pub size: u64,
    pub sha256: BlobId,
    /// All digests, where they are known.
    pub digests: Option<&'a Digests>,
    /// Of this very size.
    pub pieces: Option<&'a Pieces>,
    /// Best first.
    pub urls: &'a [String],
}

/// One generation of a `repomd.xml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Seconds since 1970.
    pub date: u64,
    pub size: u64,
    pub digests: Digests,
}

/// A file as Metalink 4.
pub fn file(file: &File<'_>) -> String {
    let mut out = String::with_capacity(1024 + file.pieces.map_or(0, |pieces| 128 * pieces.sha256.len()));
    // libzypp looks for the root element with this attribute first, behind the declaration.
    out.push_str(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">\n",
    );
    let File { name, size, .. } = file;
    let _ = writeln!(out, "<file name=\"{}\">\n<size>{size}</size>", text(name));
    hash(&mut out, "sha-256", &file.sha256.digest());
    if let Some(digests) = file.digests {
        for (kind, algorithm) in OTHER_ALGORITHMS {
            hash(&mut out, kind, &digests.get(algorithm));
        }
    }
    if let Some(Pieces { len, sha1, sha256 }) = file.pieces {
        // Both of the same length: libzypp takes that of the first for all.
        for (kind, algorithm) in [("sha-256", Algorithm::Sha256), ("sha-1", Algorithm::Sha1)] {
            let _ = writeln!(out, "<pieces length=\"{len}\" type=\"{kind}\">");
            for place in 0..sha256.len() {
                let bytes = if algorithm == Algorithm::Sha1 { &sha1[place][..] } else { &sha256[place] };
                let _ = writeln!(out, "<hash>{}</hash>", Digest::new(algorithm, bytes).to_hex());
            }
            out.push_str("</pieces>\n");
        }
    }
    for (place, url) in file.urls.iter().enumerate() {
        let _ = writeln!(out, "<url priority=\"{}\">{}</url>", place + 1, text(url));
    }
    out.push_str("</file>\n</metalink>\n");
    out
}

/// A file as Metalink 3. Pieces are by SHA-1, the only kind that its readers know.
pub fn file_v3(file: &File<'_>) -> String {
    let mut out = String::from(HEAD_V3);
    let File { name, size, sha256, .. } = file;
    let _ = writeln!(out, "<file name=\"{}\">\n<size>{size}</size>\n<verification>", text(name));
    match file.digests {
        Some(digests) => {
            for algorithm in REPOMD_ALGORITHMS {
                hash(&mut out, algorithm.name(), &digests.get(algorithm));
            }
        }
        None => hash(&mut out, Algorithm::Sha256.name(), &sha256.digest()),
    }
    if let Some(Pieces { len, sha1, .. }) = file.pieces {
        let _ = writeln!(out, "<pieces length=\"{len}\" type=\"sha1\">");
        for (place, piece) in sha1.iter().enumerate() {
            let digest = Digest::new(Algorithm::Sha1, piece);
            let _ = writeln!(out, "<hash piece=\"{place}\">{}</hash>", digest.to_hex());
        }
        out.push_str("</pieces>\n");
    }
    out.push_str("</verification>\n<resources>\n");
    for (url, preference) in file.urls.iter().zip((1..=100).rev()) {
        resource(&mut out, url, preference);
    }
    out.push_str("</resources>\n</file>\n</files>\n</metalink>\n");
    out
}

/// A `repomd.xml` as Metalink 3: the current one, earlier ones that clients may also meet, and its URLs with
/// their preference, 100 being the best.
pub fn repomd(current: &Version, earlier: &[Version], urls: &[(String, u8)]) -> String {
    let mut out = String::from(HEAD_V3);
    out.push_str("<file name=\"repomd.xml\">\n");
    version(&mut out, current);
    if !earlier.is_empty() {
        out.push_str("<mm0:alternates>\n");
        for earlier in earlier {
            out.push_str("<mm0:alternate>\n");
            version(&mut out, earlier);
            out.push_str("</mm0:alternate>\n");
        }
        out.push_str("</mm0:alternates>\n");
    }
    out.push_str("<resources>\n");
    for (url, preference) in urls {
        resource(&mut out, url, *preference);
    }
    out.push_str("</resources>\n</file>\n</files>\n</metalink>\n");
    out
}

/// 100 is the best preference.
fn resource(out: &mut String, url: &str, preference: u8) {
    let scheme = text(url.split(':').next().unwrap_or("http"));
    let _ = writeln!(
        out,
        "<url protocol=\"{scheme}\" type=\"{scheme}\" preference=\"{preference}\">{}</url>",
        text(url)
    );
}

fn version(out: &mut String, version: &Version) {
    let Version { date, size, digests } = version;
    let _ = writeln!(out, "<mm0:timestamp>{date}</mm0:timestamp>\n<size>{size}</size>\n<verification>");
    for algorithm in REPOMD_ALGORITHMS {
        hash(out, algorithm.name(), &digests.get(algorithm));
    }
    out.push_str("</verification>\n");
}

fn hash(out: &mut String, kind: &str, digest: &Digest) {
    let _ = writeln!(out, "<hash type=\"{kind}\">{}</hash>", digest.to_hex());
}

/// Escaped, and without what XML 1.0 section 2.2 cannot hold in any form or reads as white space.
fn text(text: &str) -> String {
    let is_char = |c: &char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let kept: String = text.chars().filter(is_char).collect();
    escape(&kept).into_owned()
}

/// Whether an `Accept` header names Metalink 4; `*/*` does not.
pub fn is_accepted(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_v4 = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(V4));
        // RFC 9110 section 12.4.2: weight 0 is "not acceptable".
        let is_refused = |part: &str| {
            let weight = part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            weight.is_some_and(|(_, weight)| weight.trim().parse() == Ok(0.0))
        };
        is_v4 && !parts.any(is_refused)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::xml::{Cursor, Step};
    use super::*;

    /// Every element with text or an attribute, in order: path, attributes, text.
    fn read(document: &str, attributes: &[&str]) -> Vec<(String, String, String)> {
        let mut cursor = Cursor::new("metalink", "metalink", document.as_bytes());
        let (mut path, mut found, mut own): (Vec<String>, Vec<_>, _) =
            (Vec::new(), Vec::new(), String::new());
        loop {
            match cursor.next().expect("well-formed") {
                Step::Open(_, tag) => {
                    // These documents' only prefix is mm0.
                    path.push(tag.name().trim_start_matches("mm0:").to_owned());
                    let value = |name: &&str| {
                        let value = tag.attribute(name).expect("sound attributes")?;
                        Some(format!("{name}={value}"))
                    };
                    let values: Vec<String> = attributes.iter().filter_map(value).collect();
                    found.push((path.join("/"), values.join(" "), String::new()));
                    own.clear();
                }
                Step::Text(text) => own.push_str(&text),
                Step::Close(_) => {
                    let here = path.join("/");
                    let last = found.iter_mut().rev().find(|(path, ..)| *path == here).expect("was opened");
                    if !own.trim().is_empty() {
                        last.2 = std::mem::take(&mut own);
                    }
                    path.pop();
                }
                Step::Other => {}
                Step::End => {
                    return found.into_iter().filter(|(_, a, t)| !a.is_empty() || !t.is_empty()).collect();
                }
            }
        }
    }

    fn row(path: &str, attributes: &str, text: &str) -> (String, String, String) {
        (format!("metalink/{path}"), attributes.to_owned(), text.to_owned())
    }

    #[test]
    fn a_package_as_rfc_5854_has_it() {
        let pieces = Pieces { len: 262_144, sha1: vec![[1; 20], [2; 20]], sha256: vec![[3; 32], [4; 32]] };
        let urls = ["http://a.example/b/1-2/x?a=1&b=2".to_owned(), "http://b.example/%22x".to_owned()];
        let document = file(&File {
            name: "a<b>&\"c\".rpm",
            size: 300_000,
            sha256: BlobId([9; 32]),
            digests: None,
            pieces: Some(&pieces),
            urls: &urls,
        });
        let first = document.lines().nth(1);
        assert_eq!(
            first,
            Some("<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">"),
            "as libzypp looks for it"
        );
        let want = [
            row("file", "name=a<b>&\"c\".rpm", ""),
            row("file/size", "", "300000"),
            row("file/hash", "type=sha-256", &"09".repeat(32)),
            row("file/pieces", "type=sha-256 length=262144", ""),
            row("file/pieces/hash", "", &"03".repeat(32)),
            row("file/pieces/hash", "", &"04".repeat(32)),
            row("file/pieces", "type=sha-1 length=262144", ""),
            row("file/pieces/hash", "", &"01".repeat(20)),
            row("file/pieces/hash", "", &"02".repeat(20)),
            row("file/url", "priority=1", &urls[0]),
            row("file/url", "priority=2", &urls[1]),
        ];
        assert_eq!(read(&document, &["name", "type", "length", "priority"]), want);
    }

    #[test]
    fn all_digests_in_both_versions() {
        let pieces = Pieces { len: 262_144, sha1: vec![[1; 20], [2; 20]], sha256: vec![[3; 32], [4; 32]] };
        let digests = Digests {
            md4: [1; 16],
            md5: [5; 16],
            sha1: [6; 20],
            sha256: [9; 32],
            sha512: [7; 64],
            also: None,
        };
        let urls = ["http://a.example/x".to_owned(), "https://b.example/x".to_owned()];
        let what = File {
            name: "x.rpm",
            size: 300_000,
            sha256: BlobId([9; 32]),
            digests: Some(&digests),
            pieces: Some(&pieces),
            urls: &urls,
        };
        let hashes = [("sha-256", "09", 32), ("sha-512", "07", 64), ("sha-1", "06", 20), ("md5", "05", 16)];
        let want =
            hashes.map(|(kind, byte, len)| row("file/hash", &format!("type={kind}"), &byte.repeat(len)));
        assert_eq!(read(&file(&what), &["type"])[1..5], want);

        let rows = read(&file_v3(&what), &["name", "type", "length", "piece", "preference"]);
        let mut want = vec![row("files/file", "name=x.rpm", ""), row("files/file/size", "", "300000")];
        for (kind, byte, len) in
            [("md5", "05", 16), ("sha1", "06", 20), ("sha256", "09", 32), ("sha512", "07", 64)]
        {
            want.push(row("files/file/verification/hash", &format!("type={kind}"), &byte.repeat(len)));
        }
        want.push(row("files/file/verification/pieces", "type=sha1 length=262144", ""));
        want.push(row("files/file/verification/pieces/hash", "piece=0", &"01".repeat(20)));
        want.push(row("files/file/verification/pieces/hash", "piece=1", &"02".repeat(20)));
        want.push(row("files/file/resources/url", "type=http preference=100", &urls[0]));
        want.push(row("files/file/resources/url", "type=https preference=99", &urls[1]));
        assert_eq!(rows[1..], want);
    }

    #[test]
    fn a_repomd_as_dnf_reads_it() {
        let digests = |n| Digests {
            md4: [n; 16],
            md5: [n; 16],
            sha1: [n; 20],
            sha256: [n; 32],
            sha512: [n; 64],
            also: None,
        };
        let version =
            |n| Version { date: u64::from(n) * 100, size: u64::from(n) * 1000, digests: digests(n) };
        let urls = [
            ("http://a.example/listed/x/repodata/repomd.xml".to_owned(), 100),
            ("https://a&b".to_owned(), 1),
        ];
        let document = repomd(&version(3), &[version(2), version(1)], &urls);
        let rows = read(&document, &["name", "type", "protocol", "preference"]);
        let mut want = vec![
            ("metalink".to_owned(), "type=dynamic".to_owned(), String::new()),
            row("files/file", "name=repomd.xml", ""),
        ];
        for (n, base) in [
            (3_u8, "files/file"),
            (2, "files/file/alternates/alternate"),
            (1, "files/file/alternates/alternate"),
        ] {
            let (date, size) = (format!("{n}00"), format!("{n}000"));
            want.push(row(&format!("{base}/timestamp"), "", &date));
            want.push(row(&format!("{base}/size"), "", &size));
            for (kind, len) in [("md5", 16), ("sha1", 20), ("sha256", 32), ("sha512", 64)] {
                let hex = format!("{n:02x}").repeat(len);
                want.push(row(&format!("{base}/verification/hash"), &format!("type={kind}"), &hex));
            }
        }
        want.push(row("files/file/resources/url", "type=http protocol=http preference=100", &urls[0].0));
        want.push(row("files/file/resources/url", "type=https protocol=https preference=1", &urls[1].0));
        assert_eq!(rows, want);
        // librepo compares full names.
        for name in ["<mm0:timestamp>", "<mm0:alternates>", "<mm0:alternate>"] {
            assert!(document.contains(name), "{name}");
        }
        assert!(!repomd(&version(1), &[], &urls).contains("alternates"));
    }

    #[test]
    fn who_accepts_version_4() {
        for (accept, want) in [
            ("*/*, application/metalink+xml, application/metalink4+xml", true),
            ("*/*,application/metalink4+xml,application/metalink+xml", true),
            ("application/METALINK4+xml;q=0.5", true),
            ("application/metalink4+xml; q=0", false),
            ("application/metalink4+xml;Q=0.000", false),
            ("application/metalink+xml", false),
            ("text/application/metalink4+xml", false),
            ("application/metalink4+xmlx", false),
            ("application/*", false),
            ("*/*", false),
            ("", false),
            (",;q,=;", false),
        ] {
            assert_eq!(is_accepted(accept), want, "{accept}");
        }
    }

    proptest! {
        /// Whatever stands in names and URLs: the document is well-formed and gives them back.
        #[test]
        fn any_text_comes_back(name in "\\PC{1,20}", url in "\\PC{1,40}", control in "[\\x00-\\x1f\u{fffe}\u{ffff}]{0,3}") {
            let spoiled = format!("{control}{name}");
            let urls = [url.clone()];
            let document = file(&File { name: &spoiled, size: 1, sha256: BlobId([0; 32]), digests: None, pieces: None, urls: &urls });
            let rows = read(&document, &["name"]);
            prop_assert_eq!(&rows[0].1, &format!("name={name}"));
            let found = &rows.last().expect("a URL").2;
            prop_assert!(url.trim().is_empty() || *found == url);
        }

        #[test]
        fn any_accept_is_read(accept in "\\PC{0,60}") {
            is_accepted(&accept);
        }
    }
}
