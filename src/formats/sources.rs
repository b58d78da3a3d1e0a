//! Sources: the source packages of one component (dsc(5), Debian's RepositoryFormat, "Sources" indices).
//!
//! Each file of a source package is an entry. Deliberately ignores `Files`, which has MD5 only.

use super::deb822::{self, Stanza};
use super::entry::{Entry, FormatError, MAX_VALUE, PREFERENCE, Package, Skipped};
use super::release::digest_line;
use crate::model::{Algorithm, Expected};

const FORMAT: &str = "Sources";

/// Calls `each` for every file of every source package, with the path `Directory/name` relative to the root
/// of the repository. The best of Checksums-Sha256, -Sha512 and -Sha1 counts for a whole stanza. A stanza
/// without one, and every bad line, is skipped and counted.
///
/// # Errors
/// If the document does not begin like deb822.
pub fn sources(bytes: &[u8], each: &mut dyn FnMut(Entry<'_>)) -> Result<Skipped, FormatError> {
    deb822::require_field(FORMAT, bytes)?;
    let mut skipped = Skipped::default();
    let mut path = String::new();
    for stanza in deb822::stanzas(bytes) {
        if let Err(problem) = read(&stanza, &mut path, each, &mut skipped) {
            skipped.note(|| format!("line {}: {problem}", stanza.line()));
        }
    }
    Ok(skipped)
}

fn read(
    stanza: &Stanza<'_>,
    path: &mut String,
    each: &mut dyn FnMut(Entry<'_>),
    skipped: &mut Skipped,
) -> Result<(), &'static str> {
    let directory = text(stanza, "Directory").ok_or("no usable Directory")?;
    let package = text(stanza, "Package").zip(text(stanza, "Version"));
    let package = package.map(|(name, version)| Package { name, version, architecture: "source" });
    let checksums = |algorithm| stanza.get(section(algorithm)).map(|field| (algorithm, field));
    let Some((algorithm, field)) = PREFERENCE.into_iter().find_map(checksums) else {
        return Err("no Checksums-Sha256, -Sha512 or -Sha1");
    };
    for (line, text) in field.lines() {
        match digest_line(algorithm, text) {
            Ok((digest, size, name)) => {
                join(path, directory, name);
                each(Entry { path, expected: Expected { digest, size: Some(size) }, package });
            }
            Err(problem) => skipped.note(|| format!("line {line}: {problem}")),
        }
    }
    Ok(())
}

fn section(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha512 => "Checksums-Sha512",
        Algorithm::Sha1 => "Checksums-Sha1",
        _ => "Checksums-Sha256",
    }
}

/// Flat repositories write `Directory: .`, which a path may begin with.
fn join(path: &mut String, directory: &str, name: &str) {
    path.clear();
    path.push_str(directory);
    path.push('/');
    path.push_str(name);
}

fn text<'a>(stanza: &Stanza<'a>, name: &str) -> Option<&'a str> {
    stanza.get(name)?.text().filter(|text| (1..=MAX_VALUE).contains(&text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(section: &str, digits: usize) -> String {
        let hex = "7".repeat(digits);
        format!(
            "Package: hello\nFormat: 3.0 (quilt)\nBinary: hello\nArchitecture: any\nVersion: 2.10-3\n\
             Files:\n 00 1183 hello_2.10-3.dsc\nDirectory: pool/main/h/hello\n{section}:\n \
             {hex} 1183 hello_2.10-3.dsc\n {hex} 725946 hello_2.10.orig.tar.gz\n \
             {hex} 12688 hello_2.10-3.debian.tar.xz\n"
        )
    }

    fn run(text: &str) -> (Vec<String>, Skipped) {
        let mut seen = Vec::new();
        let skipped = sources(text.as_bytes(), &mut |entry| {
            let package = entry.package.map(|p| format!("{} {} {}", p.name, p.version, p.architecture));
            let algorithm = entry.expected.digest.algorithm();
            seen.push(format!(
                "{} {algorithm} {} {}",
                entry.path,
                entry.expected.size.unwrap_or_default(),
                package.unwrap_or_default()
            ));
        });
        (seen, skipped.expect("deb822"))
    }

    #[test]
    fn every_file_of_a_source_package() {
        for (section, digits, algorithm) in [
            ("Checksums-Sha256", 64, "sha256"),
            ("checksums-sha512", 128, "sha512"),
            ("Checksums-Sha1", 40, "sha1"),
        ] {
            let (seen, skipped) = run(&sample(section, digits));
            let want = [
                ("hello_2.10-3.dsc", 1183),
                ("hello_2.10.orig.tar.gz", 725_946),
                ("hello_2.10-3.debian.tar.xz", 12_688),
            ]
            .map(|(name, size)| format!("pool/main/h/hello/{name} {algorithm} {size} hello 2.10-3 source"));
            assert_eq!((seen.as_slice(), skipped), (want.as_slice(), Skipped::default()));
        }
    }

    #[test]
    fn sha256_is_preferred() {
        let both = format!("{}Checksums-Sha256:\n {} 5 a\n", sample("Checksums-Sha1", 40), "8".repeat(64));
        assert_eq!(run(&both).0, ["pool/main/h/hello/a sha256 5 hello 2.10-3 source"]);
    }

    #[test]
    fn flaws_are_counted() {
        let good = sample("Checksums-Sha256", 64);
        for (text, kept, want) in [
            (good.replace("Directory", "Dir"), 0, "line 1: no usable Directory"),
            (
                good.replace("Checksums-Sha256", "Checksums-Md5"),
                0,
                "line 1: no Checksums-Sha256, -Sha512 or -Sha1",
            ),
            (
                good.replace(" 1183 hello", " many hello"),
                2,
                "line 10: hello_2.10-3.dsc: its size is no number",
            ),
        ] {
            let (seen, skipped) = run(&text);
            assert_eq!((seen.len(), skipped.count, skipped.first.as_deref()), (kept, 1, Some(want)));
        }
        assert!(sources(b"{}", &mut |_| ()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = sources(&bytes, &mut |_| ());
            let _ = sources(&[b"Directory: d\nChecksums-Sha1:\n ", bytes.as_slice()].concat(), &mut |_| ());
        }
    }
}
