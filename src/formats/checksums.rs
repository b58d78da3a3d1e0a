//! Checksum files: SHA256SUMS, Fedora's CHECKSUM, `image.iso.sha512` and their like, plain or clearsigned.
//!
//! Two kinds of line, as `sha256sum --check` reads them (coreutils manual, "md5sum invocation"):
//! `digest  name` and BSD's `SHA256 (name) = digest`. Fedora's comments `# name: 123 bytes` add sizes.
//! Deliberately takes no digest of 256 or 512 bits for SHA-2 where the file's name says BLAKE2 or SHA-3.

use std::borrow::Cow;

use super::clearsign;
use super::entry::{Entry, FormatError, MAX_VALUE, PREFERENCE, Skipped, decimal, digest, excerpt};
use crate::model::{Algorithm, Digest, Expected};

const FORMAT: &str = "checksum file";

/// Words in the name of a checksum file for algorithms that are not known here, some of which have digests
/// as long as those of SHA-2. `sha3` covers SHA-384 as well.
const FOREIGN: [&str; 5] = ["b2sum", "blake", "sha3", "sha224", "sm3"];

/// Calls `each` for every line. Paths are relative to the folder of the checksum file. Lines of weak or
/// unknown algorithms, and lines of neither kind, are skipped and counted.
///
/// `name` is that of the checksum file; folders before it do not matter. In `digest  name` lines the
/// algorithm is the one of the digest's length, and must fit the algorithm in `name` if there is one.
///
/// # Errors
/// If a signature's frame is broken, or the text has lines and none of them is of either kind.
pub fn checksum_file(
    name: &str,
    bytes: &[u8],
    each: &mut dyn FnMut(Entry<'_>),
) -> Result<Skipped, FormatError> {
    let text = clearsign::cleartext(bytes)?;
    let hint = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let mut skipped = Skipped::default();
    let mut sized = None;
    let mut first_unknown = None;
    let mut known = false;
    for (number, line) in (1..).zip(text.split(|&c| c == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix(b"#") {
            sized = size_comment(comment).or(sized);
            continue;
        }
        let Some(parsed) = std::str::from_utf8(line).ok().and_then(Line::parse) else {
            first_unknown.get_or_insert(number);
            skipped.note(|| format!("line {number}: neither 'digest  name' nor 'SHA256 (name) = digest'"));
            continue;
        };
        known = true;
        match parsed.digest(&hint) {
            Ok(digest) => {
                each(Entry { path: &parsed.name, expected: parsed.expected(digest, sized), package: None })
            }
            Err(problem) => skipped.note(|| format!("line {number}: {}: {problem}", excerpt(&parsed.name))),
        }
    }
    match first_unknown {
        Some(line) if !known => {
            Err(FormatError::Line { format: FORMAT, line, problem: "no line has a digest".into() })
        }
        _ => Ok(skipped),
    }
}

/// A name and a size from the last comment that had both.
type Sized<'a> = Option<(&'a str, u64)>;

/// ` Fedora-Server-dvd-x86_64-43-1.6.iso: 3078422528 bytes`
fn size_comment(comment: &[u8]) -> Sized<'_> {
    let text = std::str::from_utf8(comment).ok()?.trim();
    let (name, size) = text.strip_suffix(" bytes")?.rsplit_once(": ")?;
    Some((name, decimal(size.trim())?))
}

/// A line of either kind.
struct Line<'a> {
    name: Cow<'a, str>,
    hex: &'a str,
    /// BSD lines only.
    algorithm: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (text, escaped) = text.strip_prefix('\\').map_or((text, false), |rest| (rest, true));
        let (algorithm, name, hex) = coreutils(text).or_else(|| bsd(text))?;
        let name = if escaped { unescape(name)? } else { Cow::Borrowed(name) };
        Some(Self { name, hex, algorithm })
    }

    fn digest(&self, hint: &str) -> Result<Digest, &'static str> {
        if self.name.len() > MAX_VALUE {
            return Err("the name is too long");
        }
        let algorithm = match self.algorithm {
            Some(name) => Algorithm::from_name(name.strip_prefix("SHA2-").map_or(name, sha2_name)),
            None => by_length(hint, self.hex.len())?,
        };
        let algorithm = algorithm.ok_or("its algorithm is not known here")?;
        digest(algorithm, self.hex).ok_or("no usable digest")
    }

    fn expected(&self, digest: Digest, sized: Sized<'_>) -> Expected {
        Expected { digest, size: sized.filter(|(name, _)| *name == self.name).map(|(_, size)| size) }
    }
}

/// OpenSSL 3 writes `SHA2-256` for SHA-256.
fn sha2_name(bits: &str) -> &str {
    match bits {
        "256" => "SHA256",
        "512" => "SHA512",
        other => other,
    }
}

/// `digest  name`, `digest *name`, and `digest name` of `md5 -r`.
fn coreutils(text: &str) -> Option<(Option<&str>, &str, &str)> {
    let (hex, name) = text.split_once([' ', '\t'])?;
    let name = name.strip_prefix([' ', '*']).unwrap_or(name);
    (is_hex(hex) && !name.is_empty()).then_some((None, name, hex))
}

/// `SHA256 (name) = digest`; OpenSSL leaves out the blanks before the parenthesis and the equals sign.
fn bsd(text: &str) -> Option<(Option<&str>, &str, &str)> {
    let (head, hex) = text.rsplit_once('=')?;
    let (algorithm, name) = head.trim_end().strip_suffix(')')?.split_once('(')?;
    let (algorithm, hex) = (algorithm.trim_end(), hex.trim());
    let named =
        !algorithm.is_empty() && algorithm.bytes().all(|c| c.is_ascii_alphanumeric() || b"-/".contains(&c));
    (named && is_hex(hex) && !name.is_empty()).then_some((Some(algorithm), name, hex))
}

/// Digests have at least 128 bits in every algorithm that these files use.
fn is_hex(text: &str) -> bool {
    text.len() >= 32 && text.len().is_multiple_of(2) && text.bytes().all(|c| c.is_ascii_hexdigit())
}

fn by_length(hint: &str, digits: usize) -> Result<Option<Algorithm>, &'static str> {
    if FOREIGN.iter().any(|word| hint.contains(word)) {
        return Err("its algorithm is not known here");
    }
    let found = PREFERENCE.into_iter().find(|algorithm| 2 * algorithm.digest_len() == digits);
    let mut named = PREFERENCE.into_iter().filter(|algorithm| hint.contains(algorithm.name())).peekable();
    if named.peek().is_some() && !named.any(|algorithm| Some(algorithm) == found) {
        return Err("its digest is not as long as the file's name says");
    }
    Ok(found)
}

/// coreutils: a line that begins with a backslash writes `\\`, `\n` and `\r` in the name.
fn unescape(name: &str) -> Option<Cow<'_, str>> {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let escape = after.chars().next()?;
        plain.push(match escape {
            '\\' => '\\',
            'n' => '\n',
            'r' => '\r',
            _ => return None,
        });
        rest = &after[1..];
    }
    plain.push_str(rest);
    Some(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(name: &str, text: &str) -> Result<(Vec<String>, Skipped), FormatError> {
        let mut seen = Vec::new();
        let skipped = checksum_file(name, text.as_bytes(), &mut |entry| {
            let size = entry.expected.size.map(|size| format!(" {size}")).unwrap_or_default();
            seen.push(format!("{:?} {}{size}", entry.path, entry.expected.digest.algorithm()));
        })?;
        Ok((seen, skipped))
    }

    #[test]
    fn lines_of_both_kinds() {
        let (a, b, c) = ("a".repeat(40), "B".repeat(64), "c".repeat(128));
        for (file, line, want) in [
            ("SHA256SUMS", format!("{b}  ./netboot/mini.iso"), "\"./netboot/mini.iso\" sha256"),
            (
                "SHA256SUMS",
                format!("{b} *ubuntu-24.04-live-server-amd64.iso"),
                "\"ubuntu-24.04-live-server-amd64.iso\" sha256",
            ),
            ("x.iso.sha512", format!("{c} x.iso"), "\"x.iso\" sha512"),
            ("sha512sum.txt", format!("{c}  a  b"), "\"a  b\" sha512"),
            ("CHECKSUM", format!("{a}  x"), "\"x\" sha1"),
            ("sha1/SHA256SUMS", format!("{b}  x\r"), "\"x\" sha256"),
            ("sha1sum-1.0.tar.gz.sha256", format!("{b}  x"), "\"x\" sha256"),
            ("SHA256SUMS", format!("\\{b}  a\\\\b\\nc\\rd"), "\"a\\\\b\\nc\\rd\" sha256"),
            ("SHA256SUMS", format!("{b}  a\\nb"), "\"a\\\\nb\" sha256"),
            ("CHECKSUM", format!("SHA256 (a (1) = 2.iso) = {b}"), "\"a (1) = 2.iso\" sha256"),
            ("CHECKSUM", format!("SHA512(a)= {c}"), "\"a\" sha512"),
            ("CHECKSUM", format!("SHA2-256(a)= {b}"), "\"a\" sha256"),
            ("CHECKSUM", format!("\\SHA1 (a\\\\b) = {a}"), "\"a\\\\b\" sha1"),
        ] {
            let (seen, skipped) = run(file, &line).expect("readable");
            assert_eq!((seen, skipped), (vec![want.to_owned()], Skipped::default()), "{file}: {line}");
        }
    }

    #[test]
    fn fedora_signs_and_gives_sizes() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n\
             # Fedora-Server-dvd-x86_64-43-1.6.iso: 3078422528 bytes\n\
             SHA256 (Fedora-Server-dvd-x86_64-43-1.6.iso) = {a}\n\
             # Fedora-Server-netinst-x86_64-43-1.6.iso: 99 bytes\nSHA256 (another.iso) = {b}\n\
             -----BEGIN PGP SIGNATURE-----\n\nabcd\n-----END PGP SIGNATURE-----\n"
        );
        let (seen, skipped) = run("Fedora-Server-43-1.6-x86_64-CHECKSUM", &text).expect("readable");
        assert_eq!(
            seen,
            ["\"Fedora-Server-dvd-x86_64-43-1.6.iso\" sha256 3078422528", "\"another.iso\" sha256"]
        );
        assert_eq!(skipped, Skipped::default());
    }

    #[test]
    fn what_proves_nothing_is_skipped() {
        let (md5, sha256, b2) = ("a".repeat(32), "b".repeat(64), "c".repeat(128));
        for (file, line, want) in [
            ("MD5SUMS", format!("{md5}  x"), "line 1: x: its algorithm is not known here"),
            ("CHECKSUM", format!("MD5 (x) = {md5}"), "line 1: x: no usable digest"),
            ("CHECKSUM", format!("SHA512 (x) = {sha256}"), "line 1: x: no usable digest"),
            ("CHECKSUM", format!("SHA3-256 (x) = {sha256}"), "line 1: x: its algorithm is not known here"),
            ("B2SUMS.b2sum", format!("{b2}  x"), "line 1: x: its algorithm is not known here"),
            ("SHA3-256SUMS", format!("{sha256}  x"), "line 1: x: its algorithm is not known here"),
            (
                "SHA512SUMS",
                format!("{sha256}  x"),
                "line 1: x: its digest is not as long as the file's name says",
            ),
            ("SHA384SUMS", format!("{}  x", "d".repeat(96)), "line 1: x: its algorithm is not known here"),
            ("SUMS", format!("{}  x", "d".repeat(96)), "line 1: x: its algorithm is not known here"),
        ] {
            let (seen, skipped) = run(file, &line).expect("readable");
            assert_eq!(
                (seen.len(), skipped),
                (0, Skipped { count: 1, first: Some(want.into()), fatal: None }),
                "{file}: {line}"
            );
        }
        let text = format!("{sha256}  x\nwhat is this\n\\{sha256}  bad\\escape\n");
        let (seen, skipped) = run("SHA256SUMS", &text).expect("readable");
        assert_eq!((seen.len(), skipped.count), (1, 2));
    }

    #[test]
    fn other_documents_are_errors() {
        let error = run("SHA256SUMS", "\n<html>\nnot found\n").expect_err("html");
        assert_eq!(error.to_string(), "checksum file, line 2: no line has a digest");
        assert_eq!(run("SHA256SUMS", "").expect("empty"), (vec![], Skipped::default()));
        assert_eq!(run("SHA256SUMS", "# comment\n").expect("empty"), (vec![], Skipped::default()));
    }

    proptest! {
        #[test]
        fn any_bytes(name in "\\PC{0,20}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = checksum_file(&name, &bytes, &mut |_| ());
        }

        #[test]
        fn any_line(text in "\\\\?([a-f0-9]{40}|SHA1 ?\\(|é)[ *]{0,3}\\PC{0,8}(\\) ?= ?)?([0-9a-f]{40})?") {
            let _ = checksum_file("CHECKSUM", text.as_bytes(), &mut |_| ());
        }

        #[test]
        fn round_trip(names in proptest::collection::vec("[a-z\\\\\n\r é.][ -~]{0,12}", 1..6)) {
            let hex = "1".repeat(64);
            let line = |name: &String| {
                let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
                let mark = if escaped == *name { "" } else { "\\" };
                format!("{mark}{hex}  {escaped}\n")
            };
            let text: String = names.iter().map(line).collect();
            let mut back = Vec::new();
            let mut each = |e: Entry<'_>| back.push(e.path.to_owned());
            checksum_file("SHA256SUMS", text.as_bytes(), &mut each).expect("readable");
            prop_assert_eq!(back, names);
        }
    }
}
