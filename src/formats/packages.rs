//! Packages: the binary packages of one component and architecture (deb822(5), Debian's
//! RepositoryFormat, "Packages" indices).
//!
//! The hot parser: a large archive has 50 MB of this, so one pass over borrowed bytes, nothing is allocated
//! for a good stanza. Deliberately reads only what tells the file: dependencies are the client's affair.

use super::deb822::{self, Field, Stanza};
use super::entry::{Entry, FormatError, MAX_VALUE, Package, Skipped, decimal, lower_digest};
use crate::model::{Algorithm, Digest, Expected};

const FORMAT: &str = "Packages";

/// Calls `each` for every package. Paths are relative to the root of the repository. Stanzas that name no
/// file, size or digest that proves anything (SHA256, else SHA512, else SHA1) are skipped and counted, and those
/// with a digest that cannot be right: apt compares each. For a stanza without a name apt refuses the whole list.
///
/// # Errors
/// If the document does not begin like deb822.
pub fn packages(bytes: &[u8], each: &mut dyn FnMut(Entry<'_>)) -> Result<Skipped, FormatError> {
    deb822::require_field(FORMAT, bytes)?;
    let mut skipped = Skipped::default();
    for stanza in deb822::stanzas(bytes) {
        let read = Draft::read(&stanza);
        let has_name = match &read {
            Ok(draft) => text(draft.name).is_some(),
            Err(_) => has_name(&stanza),
        };
        if !has_name {
            skipped.note_fatal(|| format!("line {}: an entry without Package", stanza.line()));
        }
        match read.and_then(|draft| draft.entry()) {
            Ok(entry) => each(entry),
            Err(problem) => skipped.note(|| format!("line {}: {problem}", stanza.line())),
        }
    }
    Ok(skipped)
}

/// The fields of one stanza that matter; the first of a name counts.
#[derive(Default)]
struct Draft<'a> {
    name: Option<Field<'a>>,
    version: Option<Field<'a>>,
    architecture: Option<Field<'a>>,
    filename: Option<Field<'a>>,
    size: Option<Field<'a>>,
    md5: Option<Field<'a>>,
    sha1: Option<Field<'a>>,
    sha256: Option<Field<'a>>,
    sha512: Option<Field<'a>>,
}

impl<'a> Draft<'a> {
    fn read(stanza: &Stanza<'a>) -> Result<Self, &'static str> {
        let mut draft = Self::default();
        for field in stanza.fields() {
            let field = field.map_err(|_| "a line is not 'Field: value'")?;
            if let Some(slot) = draft.slot(field.name) {
                slot.get_or_insert(field);
            }
        }
        Ok(draft)
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Field<'a>>> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("Size") => Some(&mut self.size),
            4 if is("SHA1") => Some(&mut self.sha1),
            6 if is("MD5sum") => Some(&mut self.md5),
            6 if is("SHA256") => Some(&mut self.sha256),
            6 if is("SHA512") => Some(&mut self.sha512),
            7 if is("Package") => Some(&mut self.name),
            7 if is("Version") => Some(&mut self.version),
            8 if is("Filename") => Some(&mut self.filename),
            12 if is("Architecture") => Some(&mut self.architecture),
            _ => None,
        }
    }

    fn entry(&self) -> Result<Entry<'a>, &'static str> {
        let path = text(self.filename).ok_or("no usable Filename")?;
        let size = text(self.size).and_then(decimal).ok_or("no usable Size")?;
        let digest = self.digest()?.ok_or("no SHA256, SHA512 or SHA1")?;
        Ok(Entry { path, expected: Expected { digest, size: Some(size) }, package: self.package() })
    }

    /// The best digest that is there. An empty field is none.
    fn digest(&self) -> Result<Option<Digest>, &'static str> {
        let listed = [
            (Algorithm::Sha256, self.sha256),
            (Algorithm::Sha512, self.sha512),
            (Algorithm::Sha1, self.sha1),
            (Algorithm::Md5, self.md5),
        ];
        let mut best = None;
        for (algorithm, field) in listed {
            let Some(hex) = field.and_then(|field| field.text()).filter(|hex| !hex.is_empty()) else {
                continue;
            };
            let digest = lower_digest(algorithm, hex).ok_or("a digest that cannot be right")?;
            best = best.or(Some(digest).filter(|_| algorithm.may_verify()));
        }
        Ok(best)
    }

    fn package(&self) -> Option<Package<'a>> {
        Some(Package {
            name: text(self.name)?,
            version: text(self.version)?,
            architecture: text(self.architecture)?,
        })
    }
}

/// Whether apt finds a name in a stanza with a line that is no field: it takes that line and the next for one.
fn has_name(stanza: &Stanza<'_>) -> bool {
    let mut is_taken = false;
    for field in stanza.fields() {
        match field {
            Ok(field) if field.name.eq_ignore_ascii_case("Package") && !is_taken => {
                return text(Some(field)).is_some();
            }
            field => is_taken = field.is_err(),
        }
    }
    false
}

fn text(field: Option<Field<'_>>) -> Option<&str> {
    field.and_then(|field| field.text()).filter(|text| (1..=MAX_VALUE).contains(&text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELLO: &str = "\
Package: hello
Version: 2.10-3
Installed-Size: 284
Maintainer: Santiago Vila <sanvila@debian.org>
Architecture: amd64
Depends: libc6 (>= 2.34)
Description: example package based on GNU hello
 The GNU hello program produces a familiar, friendly greeting.
 .
 Size: 1
Homepage: https://www.gnu.org/software/hello/
Description-md5: b20bbeb2ab8a0e5a47ee1ea3d46eb6bf
Section: devel
Filename: pool/main/h/hello/hello_2.10-3_amd64.deb
Size: 53080
MD5sum: 6a8a6b4b4a0a7a1a2c3d4e5f60718293
SHA256: 85e3b0cd1bcf0ae0bf63d30be0bd2c2be0d7e7df4b2ea2ba2b6e9a58a2fc7ba6
";

    /// `path size algorithm:first digits name version architecture`, and what was skipped.
    fn run(text: &[u8]) -> (Vec<String>, Skipped) {
        let mut seen = Vec::new();
        let skipped = packages(text, &mut |entry| {
            let package = entry.package.map(|p| format!(" {} {} {}", p.name, p.version, p.architecture));
            let size = entry.expected.size.unwrap_or_default();
            let digest = entry.expected.digest.to_string();
            let shown = &digest[..digest.find(':').expect("a colon") + 5];
            seen.push(format!("{} {size} {shown}{}", entry.path, package.unwrap_or_default()));
        });
        (seen, skipped.expect("deb822"))
    }

    #[test]
    fn a_debian_stanza() {
        let (seen, skipped) = run(HELLO.as_bytes());
        assert_eq!(seen, ["pool/main/h/hello/hello_2.10-3_amd64.deb 53080 sha256:85e3 hello 2.10-3 amd64"]);
        assert_eq!(skipped, Skipped::default());
    }

    #[test]
    fn order_case_and_line_ends_do_not_matter() {
        let turned: String = HELLO.lines().map(|l| format!("{l}\r\n")).collect();
        let two = format!("\n\n{turned}\r\n{}", HELLO.replace("SHA256", "sha256").trim_end());
        let (seen, skipped) = run(two.as_bytes());
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], seen[1]);
        assert_eq!(skipped.count, 0);
    }

    #[test]
    fn the_best_digest_counts() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(64), "c".repeat(128));
        for (digests, want) in [
            (format!("SHA1: {a}\nSHA512: {c}\nSHA256: {b}\n"), "f 1 sha256:bbbb"),
            (format!("SHA1: {a}\nSHA512: {c}\n"), "f 1 sha512:cccc"),
            (format!("SHA1: {a}\nSHA256:\n"), "f 1 sha1:aaaa"),
        ] {
            let (seen, skipped) = run(format!("Package: p\nFilename: f\nSize: 1\n{digests}").as_bytes());
            assert_eq!((seen, skipped.count), (vec![want.to_owned()], 0), "{digests}");
        }
    }

    #[test]
    fn flawed_stanzas_are_skipped_and_counted() {
        const WRONG: &str = "line 1: a digest that cannot be right";
        let sha = format!("SHA256: {}\n", "0".repeat(64));
        let size = "Filename: f\nSize: 1\n";
        for (text, want) in [
            (format!("Size: 1\n{sha}"), "line 1: no usable Filename"),
            (format!("Filename:\nSize: 1\n{sha}"), "line 1: no usable Filename"),
            (format!("Filename: f\n{sha}"), "line 1: no usable Size"),
            (format!("Filename: f\nSize: -1\n{sha}"), "line 1: no usable Size"),
            (format!("Filename: f\nSize: 18446744073709551616\n{sha}"), "line 1: no usable Size"),
            (format!("{size}MD5sum: {}\n", "0".repeat(32)), "line 1: no SHA256, SHA512 or SHA1"),
            (format!("{size}SHA1: {}\nSHA256: short\n", "0".repeat(40)), WRONG),
            (format!("{size}SHA256: {}\n", "A".repeat(64)), WRONG),
            (format!("{size}{sha}MD5sum: {}\n", "0".repeat(31)), WRONG),
            (format!("{size}{sha}SHA512: {}\n", "z".repeat(128)), WRONG),
            (format!("{size}{sha}oops\n"), "line 1: a line is not 'Field: value'"),
        ] {
            let (seen, skipped) = run(format!("Package: p\n{text}\n{HELLO}").as_bytes());
            assert_eq!((seen.len(), skipped.count), (1, 1), "{text}");
            assert_eq!(skipped.first.as_deref(), Some(want), "{text}");
        }
        let latin1 = [b"Package: p\nFilename: caf\xe9\nSize: 1\n", sha.as_bytes()].concat();
        assert_eq!(run(&latin1).1.count, 1);
    }

    /// Each was given to apt 2.6.
    #[test]
    fn apt_refuses_a_list_with_a_stanza_without_a_name() {
        for (stanza, want) in [
            ("Package: p\nVersion: 1\n", None),
            ("Package: p\nwhat is this\nVersion: 1\n", None),
            ("Version: 1\n", Some("line 1: an entry without Package")),
            ("Package:\nVersion: 1\n", Some("line 1: an entry without Package")),
            ("what is this\nPackage: p\nVersion: 1\n", Some("line 1: an entry without Package")),
        ] {
            let mut text = format!("{stanza}\n{HELLO}");
            // The document itself must begin with a field.
            if stanza.starts_with("what") {
                text = format!("{HELLO}\n{text}");
            }
            let (_, skipped) = run(text.as_bytes());
            let fatal = skipped.fatal.map(|fatal| fatal.replace("line 19", "line 1"));
            assert_eq!(fatal.as_deref(), want, "{stanza}");
        }
    }

    #[test]
    fn a_page_of_another_kind_is_an_error() {
        assert!(packages(b"<!DOCTYPE html>\n", &mut |_| ()).is_err());
        assert_eq!(run(b""), (vec![], Skipped::default()));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = packages(&bytes, &mut |_| ());
        }

        #[test]
        fn round_trip(files in proptest::collection::vec(
            ("[a-z][a-z0-9+./~-]{0,20}", any::<u64>(), any::<[u8; 32]>()), 0..8))
        {
            let digest = |bytes: &[u8; 32]| Digest::new(Algorithm::Sha256, bytes);
            let text: String = files.iter()
                .map(|(f, s, d)| (f, s, digest(d).to_hex()))
                .map(|(f, s, hex)| format!("Package: p\nFilename: {f}\nDescription: x\n y\nSize: {s}\nSHA256: {hex}\n\n"))
                .collect();
            let mut back = Vec::new();
            let skipped = packages(text.as_bytes(), &mut |e| back.push((e.path.to_owned(), e.expected)));
            prop_assert_eq!(skipped.expect("deb822"), Skipped::default());
            let want: Vec<_> = files.iter()
                .map(|(f, s, d)| (f.clone(), Expected { digest: digest(d), size: Some(*s) })).collect();
            prop_assert_eq!(back, want);
        }
    }
}
