//! `.treeinfo` of an installable rpm tree: the digests of its boot files (productmd's "Treeinfo file
//! format").
//!
//! An INI file as Python's configparser reads it. Deliberately reads `[checksums]` only: the other sections
//! name files as well, but prove nothing about them.

use super::entry::{Entry, FormatError, MAX_VALUE, Skipped, digest, excerpt};
use crate::model::{Algorithm, Digest, Expected};

const FORMAT: &str = "treeinfo";

/// Calls `each` for every line `path = algorithm:digest` of `[checksums]`. Paths are relative to the folder
/// of the file, and may lead to metadata (`repodata/repomd.xml`). Lines that are something else, and digests
/// that prove nothing, are skipped and counted.
///
/// # Errors
/// If the text has no section at all, or has lines before the first.
pub fn treeinfo(bytes: &[u8], each: &mut dyn FnMut(Entry<'_>)) -> Result<Skipped, FormatError> {
    let mut skipped = Skipped::default();
    let mut section: Option<&[u8]> = None;
    for (number, line) in (1..).zip(bytes.split(|&c| c == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") {
            continue;
        }
        if let Some(name) = line.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
            section = Some(name);
            continue;
        }
        match section {
            None => {
                let problem = "a line stands before the first section".into();
                return Err(FormatError::Line { format: FORMAT, line: number, problem });
            }
            Some(b"checksums") => match checksum(line) {
                Ok((path, digest)) => {
                    each(Entry { path, expected: Expected { digest, size: None }, package: None });
                }
                Err(problem) => skipped.note(|| format!("line {number}: {problem}")),
            },
            Some(_) => {}
        }
    }
    if section.is_none() {
        let problem = "there is no section".into();
        return Err(FormatError::Line { format: FORMAT, line: 1, problem });
    }
    Ok(skipped)
}

/// Why a line of the section `checksums` names no file.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the line is not UTF-8")]
    NotUtf8,
    #[error("{text:?} is not 'path = algorithm:digest'")]
    OtherForm { text: String },
    #[error("{path:?} is no usable path")]
    BadPath { path: String },
    #[error("{path}: no usable digest")]
    BadDigest { path: String },
}

/// `images/boot.iso = sha256:56af...`
fn checksum(line: &[u8]) -> Result<(&str, Digest), LineError> {
    let text = std::str::from_utf8(line).map_err(|_| LineError::NotUtf8)?;
    let parts = text.split_once('=').and_then(|(path, value)| Some((path, value.split_once(':')?)));
    let Some((path, (name, hex))) = parts.map(|(path, value)| (path.trim_end(), value)) else {
        return Err(LineError::OtherForm { text: excerpt(text) });
    };
    if !(1..=MAX_VALUE).contains(&path.len()) {
        return Err(LineError::BadPath { path: excerpt(path) });
    }
    let algorithm = Algorithm::from_name(name.trim());
    let digest = algorithm.and_then(|algorithm| digest(algorithm, hex.trim()));
    digest.map(|digest| (path, digest)).ok_or_else(|| LineError::BadDigest { path: excerpt(path) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> String {
        let (a, b) = ("a".repeat(64), "b".repeat(40));
        format!(
            "[checksums]\nimages/boot.iso = sha256:{a}\nimages/pxeboot/initrd.img = sha256:{a}\n\
             images/pxeboot/vmlinuz=sha1:{b}\nrepodata/repomd.xml = sha256:{a}\n\n\
             [general]\n; WARNING.0 = This section provides compatibility with pre-productmd treeinfos.\n\
             # another\narch = x86_64\nfamily = Fedora\nversion = 43\n\n\
             [header]\ntype = productmd.treeinfo\nversion = 1.2\n\n\
             [images-x86_64]\nboot.iso = images/boot.iso\nkernel = images/pxeboot/vmlinuz\n\n\
             [tree]\narch = x86_64\nbuild_timestamp = 1760000000\nplatforms = x86_64,xen\n"
        )
    }

    fn run(text: &str) -> (Vec<String>, Skipped) {
        let mut seen = Vec::new();
        let skipped = treeinfo(text.as_bytes(), &mut |entry| {
            seen.push(format!("{} {}", entry.path, entry.expected.digest.algorithm()));
        });
        (seen, skipped.expect("an INI file"))
    }

    #[test]
    fn a_fedora_tree() {
        let want = [
            "images/boot.iso sha256",
            "images/pxeboot/initrd.img sha256",
            "images/pxeboot/vmlinuz sha1",
            "repodata/repomd.xml sha256",
        ]
        .map(str::to_owned);
        for text in [sample(), sample().replace('\n', "\r\n")] {
            let (seen, skipped) = run(&text);
            assert_eq!((seen.as_slice(), skipped), (want.as_slice(), Skipped::default()));
        }
        assert_eq!(run("[general]\narch = x86_64\n"), (vec![], Skipped::default()));
    }

    #[test]
    fn flaws_are_counted() {
        let a = "a".repeat(64);
        for (line, want) in [
            (format!("x = md5:{}", "a".repeat(32)), "line 2: x: no usable digest"),
            (format!("x = sha384:{a}"), "line 2: x: no usable digest"),
            (format!("x = sha256:{}", &a[1..]), "line 2: x: no usable digest"),
            ("x = sha256:".into(), "line 2: x: no usable digest"),
            (format!(" = sha256:{a}"), "line 2: \"\" is no usable path"),
            ("x = y".into(), "line 2: \"x = y\" is not 'path = algorithm:digest'"),
            ("x:y".into(), "line 2: \"x:y\" is not 'path = algorithm:digest'"),
            ("[x".into(), "line 2: \"[x\" is not 'path = algorithm:digest'"),
        ] {
            let (seen, skipped) = run(&format!("[checksums]\n{line}\ngood = sha256:{a}\n"));
            assert_eq!(seen, ["good sha256"], "{line}");
            assert_eq!(skipped, Skipped { count: 1, first: Some(want.into()), fatal: None }, "{line}");
        }
    }

    #[test]
    fn other_documents_are_errors() {
        for text in ["", "\n\n", "# only a comment\n", "<html>\n[checksums]\n", "a = b\n[checksums]\n"] {
            assert!(treeinfo(text.as_bytes(), &mut |_| ()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = treeinfo(&bytes, &mut |_| ());
            let _ = treeinfo(&[b"[checksums]\n", bytes.as_slice()].concat(), &mut |_| ());
        }

        #[test]
        fn any_damage(at in 0usize..1000, byte: u8) {
            let mut bytes = sample().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let mut count = 0;
            let _ = treeinfo(&bytes, &mut |_| count += 1);
            prop_assert!(count <= 4);
        }
    }
}
