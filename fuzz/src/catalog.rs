//! The catalog: tables and index files of any bytes do no harm, and what a draft makes of any metadata finds
//! every entry that it has.

use std::collections::BTreeSet;

use bytes::Bytes;
use manyhands::catalog::{
    Diff, Draft, PathTable, RootFile, Unit, UnitKey, UnitKind, Warm, decode_unit, encode_unit,
};
use manyhands::model::{Algorithm, Digest, RepoPath};
use sha2::Digest as _;

use super::parts;

const MAGIC: &[u8] = b"manyhands index";

/// The bytes of a table; or an index file without its checksum, which is added, or nothing but its checksum
/// would ever be looked at.
pub fn tables(data: &[u8]) -> usize {
    if !data.starts_with(MAGIC) {
        return PathTable::from_bytes(Bytes::copy_from_slice(data)).map_or(0, |table| {
            look_around(&table);
            1
        });
    }
    assert!(decode_unit(&Bytes::copy_from_slice(data)).is_err(), "without a checksum");
    let summed = [data, sha2::Sha256::digest(data).as_slice()].concat();
    let Ok(unit) = decode_unit(&summed.into()) else { return 0 };
    for table in [&unit.packages, &unit.members] {
        look_around(table);
    }
    for path in unit.roots.keys() {
        unit.covers(path);
        unit.member(path);
        unit.may_hold(path.as_str());
    }
    keeps(&unit);
    1
}

/// Every question that a table answers. It may be damaged, so no answer is wrong; but each must come.
fn look_around(table: &PathTable) {
    let mut paths = vec![String::new(), "pool/main/h/hello.deb".to_owned(), "\u{10ffff}".to_owned()];
    let mut cursor = table.cursor();
    let mut count = 0;
    while let Some((path, expected)) = cursor.next() {
        count += 1;
        if paths.len() < 40 {
            paths.push(path.to_owned());
            table.path_of(&expected.digest);
        }
    }
    assert!(count <= table.len());
    for path in &paths {
        table.get(path);
        table.for_each_below(path, 20, |found, _| assert!(found.starts_with(path.as_str())));
    }
    for algorithm in Algorithm::ALL {
        table.digests(algorithm).for_each(drop);
        for byte in [0, 0x80, 0xff] {
            table.path_of(&Digest::new(algorithm, &vec![byte; algorithm.digest_len()]));
        }
    }
    Diff::between(table, &PathTable::default());
    Diff::between(&PathTable::default(), table);
    Diff::between(table, table);
}

/// A generation is the same after a restart.
fn keeps(unit: &Unit) {
    let file: Bytes = encode_unit(unit).concat().into();
    let read = decode_unit(&file).expect("its own form");
    assert_eq!(encode_unit(&read).concat(), file);
}

/// A letter for the kind of unit, then its root files and the members that it wants, separated. Of a suite
/// the first is InRelease or Release, of checksum files there are only roots.
pub fn draft(data: &[u8]) -> usize {
    let [kind, data @ ..] = data else { return 0 };
    let (kind, dir) = match kind % 4 {
        0 => (UnitKind::Checksums, "images"),
        1 => (UnitKind::Flat, "a/flat"),
        2 => (UnitKind::RpmMd, "os"),
        _ => (UnitKind::Suite, "debian/dists/stable"),
    };
    let mut parts = parts(data).into_iter();
    let key = UnitKey { kind, dir: dir.to_owned() };
    let root = |name: &str, bytes: &[u8]| {
        let path = RepoPath::new(&format!("{dir}/{name}")).expect("a path");
        RootFile::new(path, Bytes::copy_from_slice(bytes))
    };
    let first = parts.next().unwrap_or_default();
    let roots = match kind {
        UnitKind::Suite | UnitKind::Flat if first.starts_with(b"-----") => vec![root("InRelease", first)],
        UnitKind::Suite | UnitKind::Flat => vec![root("Release", first)],
        UnitKind::RpmMd => vec![root("repodata/repomd.xml", first)],
        UnitKind::Checksums => {
            let names = ["SHA256SUMS", "CHECKSUM", ".treeinfo"];
            [first].into_iter().chain(parts.by_ref()).zip(names).map(|(b, name)| root(name, b)).collect()
        }
    };
    let Ok(mut draft) = Draft::new(key, roots) else { return 0 };
    let steps = draft.wanted(&Warm { sources: true, ..Warm::default() });
    let stems: BTreeSet<_> = steps.iter().map(|step| step.stem.clone()).collect();
    assert_eq!(stems.len(), steps.len(), "a family twice");
    for (step, bytes) in steps.iter().zip(parts) {
        let (path, _) = step.choices.first().expect("a choice");
        assert!(path.as_str().starts_with(dir), "{path} is outside of {dir}");
        // What cannot be read is dropped with its draft; here the others are of interest still.
        let _ = draft.read(&step.stem, path, bytes);
    }
    let unit = draft.finish(1, 0);
    finds_itself(&unit.packages);
    finds_itself(&unit.members);
    keeps(&unit);
    unit.packages.len() + unit.members.len()
}

/// Each entry of a table is found by its path and by its digest.
fn finds_itself(table: &PathTable) {
    let (mut count, mut last) = (0, String::new());
    table.for_each(|path, expected| {
        assert!(count == 0 || last.as_str() < path, "{last:?} before {path:?}");
        assert!(path.split('/').all(|segment| !matches!(segment, "" | "." | "..")), "{path:?}");
        assert_eq!(table.get(path), Some(expected), "{path:?}");
        let (first, found) = table.path_of(&expected.digest).expect("a digest of the table");
        assert!(first.as_str() <= path && found.digest == expected.digest, "{path:?}");
        last = path.to_owned();
        count += 1;
    });
    assert_eq!(count, table.len());
    assert!(table.get("").is_none() && table.get("pool").is_none_or(|_| last.as_str() >= "pool"));
    assert_eq!(Diff::between(table, table), Diff::default());
}
