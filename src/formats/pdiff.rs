//! The `Index` in `Packages.diff/` and its like: the patches that lead from older versions of an index to
//! the current one (Debian's RepositoryFormat, "indices acquisition via PDiffs"; apt's `ParseDiffIndex`).
//!
//! Deliberately reads neither `-Current` nor `-History`: those describe the index, not files beside this one.

use super::deb822::{self, Stanza};
use super::entry::{Entry, FormatError, PREFERENCE, Skipped};
use super::release::digest_line;
use crate::model::{Algorithm, Expected};

const FORMAT: &str = "diff index";

/// What lists files, without the algorithm: patches as they are downloaded (`NAME.gz`), and decompressed
/// (`NAME`), which few servers have. An archive that merges patches keeps the single ones as `X-Unmerged`.
const SECTIONS: [(&str, &str); 4] =
    [("", "-Download"), ("", "-Patches"), ("X-Unmerged-", "-Download"), ("X-Unmerged-", "-Patches")];

/// Calls `each` for every patch, compressed and decompressed. Paths are relative to the folder of the
/// Index. Of each section the one with the best algorithm (SHA256, SHA512, SHA1) counts. Bad lines are
/// skipped and counted. Like apt it reads the first stanza only.
///
/// # Errors
/// If the document does not begin like deb822, or has none of the sections.
pub fn pdiff_index(bytes: &[u8], each: &mut dyn FnMut(Entry<'_>)) -> Result<Skipped, FormatError> {
    deb822::require_field(FORMAT, bytes)?;
    let mut skipped = Skipped::default();
    let mut known = false;
    if let Some(stanza) = deb822::stanzas(bytes).next() {
        for section in SECTIONS {
            known |= read_section(&stanza, section, each, &mut skipped);
        }
    }
    if known {
        return Ok(skipped);
    }
    let problem = "neither SHA256-Download nor SHA256-Patches nor their like".into();
    Err(FormatError::Line { format: FORMAT, line: 1, problem })
}

/// Whether the stanza has the section.
fn read_section(
    stanza: &Stanza<'_>,
    (prefix, suffix): (&str, &str),
    each: &mut dyn FnMut(Entry<'_>),
    skipped: &mut Skipped,
) -> bool {
    let get = |algorithm| {
        let name = format!("{prefix}{}{suffix}", field_name(algorithm));
        stanza.get(&name).map(|field| (algorithm, field))
    };
    let Some((algorithm, field)) = PREFERENCE.into_iter().find_map(get) else { return false };
    for (line, text) in field.lines() {
        match digest_line(algorithm, text) {
            Ok((digest, size, path)) => {
                each(Entry { path, expected: Expected { digest, size: Some(size) }, package: None });
            }
            Err(problem) => skipped.note(|| format!("line {line}: {problem}")),
        }
    }
    true
}

fn field_name(algorithm: Algorithm) -> String {
    algorithm.name().to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An archive that merges: from each known state one patch leads to the current one.
    fn sample() -> String {
        let (a, b) = ("a".repeat(40), "b".repeat(64));
        format!(
            "SHA1-Current: {a} 13565060\nSHA256-Current: {b} 13565060\n\
             SHA1-History:\n {a} 13564022 2026-01-01-0203.43\n\
             SHA256-History:\n {b} 13564022 2026-01-01-0203.43\n {b} 13565058 2026-01-02-0800.11\n\
             SHA1-Patches:\n {a}     584 T-2026-01-02-0800.11-F-2026-01-01-0203.43\n\
             SHA256-Patches:\n {b} 6093711 T-2026-01-02-0800.11-F-2026-01-01-0203.43\n \
             {b}     584 T-2026-01-02-0800.11-F-2026-01-02-0800.11\n\
             SHA1-Download:\n {a}  387469 GONE_WITH_THE_WIND\n\
             SHA256-Download:\n {b}  387492 T-2026-01-02-0800.11-F-2026-01-01-0203.43.gz\n \
             {b}     271 T-2026-01-02-0800.11-F-2026-01-02-0800.11.gz\n\
             X-Unmerged-SHA256-History:\n {b} 13565058 2026-01-02-0800.11\n\
             X-Unmerged-SHA256-Patches:\n {b} 584 2026-01-02-0800.11\n\
             X-Unmerged-SHA256-Download:\n {b} 271 2026-01-02-0800.11.gz\n\
             X-Patch-Precedence: merged\n\
             Canonical-Path: dists/sid/main/binary-amd64/Packages\nCanonical-Name: Packages\n"
        )
    }

    fn run(text: &str) -> (Vec<String>, Skipped) {
        let mut seen = Vec::new();
        let skipped = pdiff_index(text.as_bytes(), &mut |entry| {
            let algorithm = entry.expected.digest.algorithm();
            seen.push(format!("{} {} {algorithm}", entry.path, entry.expected.size.unwrap_or_default()));
        });
        (seen, skipped.expect("a diff index"))
    }

    #[test]
    fn a_debian_index() {
        let want = [
            "T-2026-01-02-0800.11-F-2026-01-01-0203.43.gz 387492 sha256",
            "T-2026-01-02-0800.11-F-2026-01-02-0800.11.gz 271 sha256",
            "T-2026-01-02-0800.11-F-2026-01-01-0203.43 6093711 sha256",
            "T-2026-01-02-0800.11-F-2026-01-02-0800.11 584 sha256",
            "2026-01-02-0800.11.gz 271 sha256",
            "2026-01-02-0800.11 584 sha256",
        ];
        let (seen, skipped) = run(&sample());
        assert_eq!((seen.as_slice(), skipped), (want.map(str::to_owned).as_slice(), Skipped::default()));
    }

    #[test]
    fn an_old_index_has_sha1_and_no_downloads() {
        let a = "a".repeat(40);
        let old = format!("SHA1-Current: {a} 10\nSHA1-History:\n {a} 9 2009\nSHA1-Patches:\n {a} 5 2009\n");
        assert_eq!(run(&old), (vec!["2009 5 sha1".to_owned()], Skipped::default()));
        assert_eq!(run(&old.replace('\n', "\r\n")).0, ["2009 5 sha1"]);
    }

    #[test]
    fn flaws_are_counted() {
        for (from, to, want) in [
            (
                " 584 T-",
                " -584 T-",
                "line 12: T-2026-01-02-0800.11-F-2026-01-02-0800.11: its size is no number",
            ),
            ("-2026-01-02-0800.11.gz\nX", "-2026 01 02.gz\nX", "line 17: "),
        ] {
            let text = sample().replacen(from, to, 2);
            assert_ne!(text, sample(), "{from}");
            let (seen, skipped) = run(&text);
            assert_eq!((seen.len(), skipped.count), (5, 1), "{to}");
            let first = skipped.first.expect("a reason");
            assert!(first.starts_with(want), "{first}");
        }
    }

    #[test]
    fn other_documents_are_errors() {
        for text in
            ["", "<html>\n", "Package: hello\n", &sample().replace("-Download", "").replace("-Patches", "")]
        {
            assert!(pdiff_index(text.as_bytes(), &mut |_| ()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = pdiff_index(&bytes, &mut |_| ());
            let _ = pdiff_index(&[b"SHA256-Download:\n ", bytes.as_slice()].concat(), &mut |_| ());
        }

        #[test]
        fn any_damage(at in 0usize..3000, byte: u8) {
            let mut bytes = sample().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let mut count = 0;
            let _ = pdiff_index(&bytes, &mut |_| count += 1);
            prop_assert!(count <= 7);
        }
    }
}
