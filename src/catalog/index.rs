//! The index file of one generation: everything a [`Unit`] is, so that a restart reads it in one go instead
//! of decompressing and parsing the metadata again.
//!
//! A line with the version, the length of a JSON head, the head, the root files, the tables as they are in
//! memory, and at last the SHA-256 of everything before. A file that is not exactly this is refused, and
//! the generation is made from its metadata again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::dates::Dates;
use super::table::PathTable;
use super::unit::{Root, Unit, UnitKey};
use crate::model::RepoPath;

/// Changes whenever the format of head or tables does.
const MAGIC: &[u8] = b"manyhands index 2\n";
const SUM: usize = 32;

/// Why a file is not an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    #[error("not an index of this version")]
    Version,
    #[error("damaged")]
    Damaged,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    key: UnitKey,
    generation: u64,
    is_retired: bool,
    is_refused: bool,
    /// Absent in older files.
    #[serde(default)]
    refused_lists: BTreeSet<String>,
    kinds: BTreeMap<String, String>,
    has_by_hash: bool,
    stems: BTreeSet<String>,
    absent: BTreeSet<String>,
    skipped: u64,
    first_skipped: Option<String>,
    warnings: Vec<String>,
    components: Vec<String>,
    date: Option<u64>,
    valid_until: Option<u64>,
    adopted_secs: u64,
    /// Absent in older files.
    #[serde(default)]
    dates: Option<Dates>,
    /// Path and length of each root file.
    roots: Vec<(String, usize)>,
    /// Lengths of the tables: packages, members, members by other digests.
    tables: Vec<usize>,
}

/// The file's parts, in order: written one after the other they are what [`decode`] takes.
pub fn encode(unit: &Unit) -> Vec<Bytes> {
    let tables = || [&unit.packages, &unit.members].into_iter().chain(&unit.other_digests);
    let head = Head {
        key: unit.key.clone(),
        generation: unit.generation,
        is_retired: unit.is_retired,
        is_refused: unit.is_refused,
        refused_lists: unit.refused_lists.clone(),
        kinds: unit.kinds.clone(),
        has_by_hash: unit.has_by_hash,
        stems: unit.stems.clone(),
        absent: unit.absent.clone(),
        skipped: unit.skipped,
        first_skipped: unit.first_skipped.clone(),
        warnings: unit.warnings.clone(),
        components: unit.components.clone(),
        date: unit.date,
        valid_until: unit.valid_until,
        adopted_secs: unit.adopted_secs,
        dates: Some(Dates::clone(&unit.dates)),
        roots: unit.roots.iter().map(|(path, root)| (path.to_string(), root.bytes.len())).collect(),
        tables: tables().map(|table| table.as_bytes().len()).collect(),
    };
    // Strings, numbers and lists of them always have a JSON form.
    let json = serde_json::to_vec(&head).unwrap_or_default();
    let mut start = MAGIC.to_vec();
    start.extend_from_slice(&(json.len() as u64).to_le_bytes());
    start.extend_from_slice(&json);
    let mut parts = vec![Bytes::from(start)];
    parts.extend(unit.roots.values().map(|root| root.bytes.clone()));
    parts.extend(tables().map(|table| table.as_bytes().clone()));
    let mut sum = Sha256::new();
    parts.iter().for_each(|part| sum.update(part));
    parts.push(Bytes::copy_from_slice(&sum.finalize()));
    parts
}

/// Reads a file back. The unit's tables and root files share the buffer.
pub fn decode(file: &Bytes) -> Result<Unit, IndexError> {
    if !file.starts_with(MAGIC) {
        return Err(IndexError::Version);
    }
    let content = file.len().checked_sub(SUM).ok_or(IndexError::Damaged)?;
    if Sha256::digest(&file[..content])[..] != file[content..] {
        return Err(IndexError::Damaged);
    }
    let mut rest = file.slice(MAGIC.len()..content);
    parts(&mut rest).filter(|_| rest.is_empty()).ok_or(IndexError::Damaged)
}

fn parts(rest: &mut Bytes) -> Option<Unit> {
    let mut take = |len: usize| (len <= rest.len()).then(|| rest.split_to(len));
    let head_len = u64::from_le_bytes(take(8)?.as_ref().try_into().ok()?);
    let head: Head = serde_json::from_slice(&take(usize::try_from(head_len).ok()?)?).ok()?;
    let mut roots = BTreeMap::new();
    for (path, len) in head.roots {
        roots.insert(RepoPath::new(&path).ok()?, Root::new(take(len)?));
    }
    let mut tables = Vec::with_capacity(head.tables.len().min(8));
    for len in head.tables {
        tables.push(PathTable::from_bytes(take(len)?)?);
    }
    let mut tables = tables.into_iter();
    Some(Unit {
        key: head.key,
        generation: head.generation,
        roots,
        packages: tables.next()?,
        members: tables.next()?,
        other_digests: tables.collect(),
        is_retired: head.is_retired,
        is_refused: head.is_refused,
        refused_lists: head.refused_lists,
        kinds: head.kinds,
        has_by_hash: head.has_by_hash,
        stems: head.stems,
        absent: head.absent,
        skipped: head.skipped,
        first_skipped: head.first_skipped,
        warnings: head.warnings,
        components: head.components,
        date: head.date,
        valid_until: head.valid_until,
        adopted_secs: head.adopted_secs,
        dates: Arc::new(head.dates.unwrap_or_else(|| Dates::first(head.date, head.adopted_secs))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Draft, RootFile, UnitKind};

    fn unit() -> Unit {
        let release = "Origin: x\nAcquire-By-Hash: yes\nMD5Sum:\n 00000000000000000000000000000001 5 main/x\n\
             SHA256:\n 0000000000000000000000000000000000000000000000000000000000000002 5 main/x\n";
        let key = UnitKey { kind: UnitKind::Suite, dir: "dists/a".to_owned() };
        let path = RepoPath::new("dists/a/Release").expect("valid");
        Draft::new(key, vec![RootFile::new(path, release.into())]).expect("valid").finish(7, 99)
    }

    #[test]
    fn comes_back_whole() {
        let unit = unit();
        let file = Bytes::from(encode(&unit).concat());
        let again = decode(&file).expect("own file");
        assert_eq!((again.generation, again.adopted_secs, again.has_by_hash), (7, 99, true));
        assert_eq!((&again.key, &again.roots), (&unit.key, &unit.roots));
        for path in ["main/x", "main/by-hash/MD5Sum/00000000000000000000000000000001"] {
            let path = RepoPath::new(path).expect("valid").under("dists/a");
            assert_eq!(again.member(&path), unit.member(&path));
            assert!(again.member(&path).is_some(), "{path}");
        }
    }

    #[test]
    fn damage_is_refused() {
        let file = encode(&unit()).concat();
        for at in [0, 20, 40, file.len() / 2, file.len() - 1] {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(decode(&bad.into()).is_err(), "byte {at}");
        }
        assert_eq!(decode(&file[..file.len() - 1].to_vec().into()).err(), Some(IndexError::Damaged));
        assert_eq!(decode(&Bytes::new()).err(), Some(IndexError::Version));
    }
}
