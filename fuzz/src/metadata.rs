//! Metadata documents: entries are bounded, name a digest that proves something, and do not outnumber the
//! digests in the text.

use std::io::{BufReader, Read};

use manyhands::formats::checksums::checksum_file;
use manyhands::formats::compress::{Compression, reader};
use manyhands::formats::packages::packages;
use manyhands::formats::pdiff::pdiff_index;
use manyhands::formats::prestodelta::prestodelta;
use manyhands::formats::primary::primary;
use manyhands::formats::release::Release;
use manyhands::formats::repomd::Repomd;
use manyhands::formats::sources::sources;
use manyhands::formats::treeinfo::treeinfo;
use manyhands::formats::{Entry, FormatError, Skipped, clearsign, deb822};

use super::first_part;

/// The longest path that a parser gives: a `Directory` and a name of PATH_MAX each.
const MAX_PATH: usize = 2 * 4096 + 1;
/// An epoch, a version and a release.
const MAX_TEXT: usize = 3 * 4096 + 2;
/// The longest reason for passing something over.
const MAX_REASON: usize = 8192;
/// Decompressed bytes read of one input.
const LIMIT: u64 = 1 << 20;

/// Runs a parser over a document of `len` bytes, if that is known; the number of its entries.
fn entries(
    name: &str,
    len: Option<usize>,
    read: impl FnOnce(&mut dyn FnMut(Entry<'_>)) -> Result<Skipped, FormatError>,
) -> usize {
    let mut count = 0;
    let read = read(&mut |entry| {
        count += 1;
        assert!(entry.path.len() <= MAX_PATH, "{name}: a path of {} bytes", entry.path.len());
        assert!(entry.expected.digest.algorithm().may_verify(), "{name}: a weak digest");
        let texts = entry.package.map(|package| [package.name, package.version, package.architecture]);
        assert!(texts.iter().flatten().all(|text| text.len() <= MAX_TEXT), "{name}: endless text");
    });
    // The shortest digest that counts has 40 digits, and no digest makes two entries.
    assert!(len.is_none_or(|len| count * 40 <= len), "{name}: {count} entries in {len:?} bytes");
    let reason = match &read {
        Ok(skipped) => {
            assert_eq!(skipped.first.is_some(), skipped.count > 0, "{name}");
            skipped.first.clone().unwrap_or_default()
        }
        Err(error) => error.to_string(),
    };
    assert!(reason.len() <= MAX_REASON, "{name}: a reason of {} bytes", reason.len());
    if read.is_ok() { count } else { 0 }
}

/// A Release or an InRelease.
pub fn release(data: &[u8]) -> usize {
    let mut lines = 1;
    for stanza in deb822::stanzas(data) {
        assert!(stanza.line() >= lines);
        for field in stanza.fields().flatten() {
            assert!(field.line >= lines && !field.name.contains([':', '\n', ' ']), "{field:?}");
            lines = field.line;
            for (line, text) in field.lines() {
                assert!(line >= lines && !text.is_empty() && !text.contains(&b'\n'), "{field:?}");
            }
        }
    }
    if let Ok(Some(signed)) = clearsign::split(data) {
        assert!(signed.text.len() + signed.signature.len() < data.len());
        // What was taken out is no frame again, or its reader would see another text than its verifier.
        assert!(!matches!(clearsign::split(&signed.text), Ok(Some(_))), "a frame in a frame");
    }
    let Ok(release) = Release::parse(data) else { return 0 };
    // The shortest line: a digest that is none, a size, a name and the blanks between.
    assert!(release.members.len() * 6 <= data.len(), "{} members", release.members.len());
    assert!(release.components.len() <= 1000 && release.architectures.len() <= 1000);
    for member in release.members.values() {
        assert!(member.expected().is_none_or(|expected| expected.digest.algorithm().may_verify()));
        let mut known: Vec<_> = member.digests.iter().map(|digest| digest.algorithm()).collect();
        known.dedup();
        assert_eq!(known.len(), member.digests.len(), "an algorithm twice");
    }
    release.members.len()
}

/// Packages, Sources or the Index of a `.diff` folder.
pub fn deb_indexes(data: &[u8]) -> usize {
    let len = Some(data.len());
    let packages = entries("Packages", len, |each| packages(data, each));
    let sources = entries("Sources", len, |each| sources(data, each));
    let patches = entries("diff index", len, |each| pdiff_index(data, each));
    packages + sources + patches
}

/// repomd.xml, primary.xml or prestodelta.xml, plain or compressed.
pub fn rpm_indexes(data: &[u8]) -> usize {
    let kind = match data {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0xfd, b'7', ..] => Compression::Xz,
        [b'B', b'Z', b'h', ..] => Compression::Bzip2,
        [0x28, 0xb5, ..] => Compression::Zstd,
        _ => Compression::None,
    };
    let len = (kind == Compression::None).then_some(data.len());
    let open = || BufReader::with_capacity(64, reader(kind, Box::new(data)).take(LIMIT));
    let primary = entries("primary", len, |each| primary(open(), each));
    let deltas = entries("prestodelta", len, |each| prestodelta(open(), each));
    let Ok(repomd) = Repomd::parse(data) else { return primary + deltas };
    assert!(repomd.records.len() * 40 <= data.len(), "{} records", repomd.records.len());
    for record in &repomd.records {
        assert!(!record.kind.is_empty() && record.kind.len() <= 4096 && record.location.len() <= 4096);
        assert!(record.base.as_ref().is_none_or(|base| !base.is_empty()));
    }
    primary + deltas + repomd.records.len()
}

/// The name of a checksum file, a separator, and its text; without a separator a treeinfo.
pub fn checksums(data: &[u8]) -> usize {
    let len = Some(data.len());
    match first_part(data) {
        (text, None) => entries("treeinfo", len, |each| treeinfo(text, each)),
        (name, Some(text)) => {
            let name = String::from_utf8_lossy(name);
            entries("checksum file", len, |each| checksum_file(&name, text, each))
        }
    }
}
