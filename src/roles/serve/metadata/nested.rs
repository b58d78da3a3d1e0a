//! Files that a member names: the patches of a diff index, the images of an installer's checksum file, the
//! deltas of a prestodelta. Verified like everything else, one step further from the root file.

use std::io::BufReader;
use std::sync::Arc;
use std::time::Duration;

use http::Response;

use super::repo::Repo;
use super::{answer, refresh};
use crate::catalog::{PathTable, PathTableBuilder, Unit, UnitKind, by_hash_digest};
use crate::formats::compress::{self, Compression};
use crate::formats::{Entry, checksums, pdiff, prestodelta};
use crate::io::body::Body;
use crate::io::fetch::FetchError;
use crate::model::{Expected, RepoPath};
use crate::roles::serve::http::reply;
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::packages::{learnt, package};
use crate::roles::serve::state::Server;

/// Checksum files of installers, best first.
const CHECKSUM_FILES: [&str; 2] = ["SHA256SUMS", "SHA512SUMS"];
/// How long a client waits for such an index, less than apt's and dnf's 30 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that such an index may decompress to: Debian's largest diff index has 50 KB, prestodelta some MB.
const MAX_OPEN: u64 = 64 << 20;

/// How the files that an index names are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    DiffIndex,
    Checksums,
    Prestodelta,
}

/// A member that may name the file asked for.
#[derive(Debug)]
struct Index {
    kind: Kind,
    path: RepoPath,
    expected: Expected,
    /// What its paths are relative to.
    base: String,
}

/// What a path must be by a member that can be read now. Failures are for [`answer`] to tell.
pub async fn expected(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> Option<Expected> {
    let units: Vec<Arc<Unit>> = repo.snapshot().retained().cloned().collect();
    for unit in units {
        let Some(index) = index_for(&unit, path) else { continue };
        let read = tokio::time::timeout(PATIENCE, read(server, repo, &unit, &index)).await;
        if let Ok(Ok(table)) = read
            && let Some((_, expected)) = find(&table, path)
        {
            return Some(expected);
        }
    }
    None
}

/// Answers if a member of a retained generation names the path.
pub async fn answer(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
) -> Option<Response<Body>> {
    let units: Vec<Arc<Unit>> = repo.snapshot().retained().cloned().collect();
    let mut failure = None;
    for unit in units {
        let Some(index) = index_for(&unit, path) else { continue };
        let read = tokio::time::timeout(PATIENCE, read(server, repo, &unit, &index)).await;
        let table = match read.unwrap_or_else(|_| Err(FetchError::Late)) {
            Ok(table) => table,
            Err(e) => {
                tracing::debug!(path = index.path.as_str(), error = %e, "an index is unavailable");
                failure.get_or_insert(e);
                continue;
            }
        };
        let Some((canonical, expected)) = find(&table, path) else { continue };
        return Some(match index.kind {
            Kind::DiffIndex => {
                answer::member_response(server, repo, path, &unit, &canonical, expected, asked).await
            }
            Kind::Checksums | Kind::Prestodelta => {
                learnt::note(server, repo, path, &expected).await;
                package::answer(server, repo, path, expected.into(), asked).await
            }
        });
    }
    // Something names it, or does not: what nobody verified is not passed on in its place.
    failure.map(|e| reply::fetch_failed(repo, &e))
}

fn find(table: &PathTable, path: &RepoPath) -> Option<(RepoPath, Expected)> {
    if let Some(expected) = table.get(path.as_str()) {
        return Some((path.clone(), expected));
    }
    let (path, expected) = table.path_of(&by_hash_digest(path)?)?;
    Some((RepoPath::new(&path).ok()?, expected))
}

fn index_for(unit: &Unit, path: &RepoPath) -> Option<Index> {
    let dir = &unit.key.dir;
    if !dir.is_empty() && !path.as_str().strip_prefix(dir.as_str())?.starts_with('/') {
        return None;
    }
    let member = |kind, path: &str, base: &str| {
        let expected = unit.members.get(path)?;
        Some(Index { kind, path: RepoPath::new(path).ok()?, expected, base: base.to_owned() })
    };
    match unit.key.kind {
        UnitKind::Suite => {
            let parent = path.parent()?;
            let folder = parent.split("/by-hash/").next().unwrap_or(parent);
            if folder.ends_with(".diff") {
                return member(Kind::DiffIndex, &format!("{folder}/Index"), folder);
            }
            let dirs = std::iter::successors(Some(parent), |dir| dir.rsplit_once('/').map(|(up, _)| up))
                .take_while(|up| up.len() > dir.len());
            dirs.flat_map(|dir| CHECKSUM_FILES.map(|name| (dir, format!("{dir}/{name}"))))
                .find_map(|(dir, path)| member(Kind::Checksums, &path, dir))
        }
        UnitKind::RpmMd if path.file_name().ends_with(".drpm") => {
            let mut found = None;
            unit.members.for_each(|path, _| {
                if path.rsplit('/').next().is_some_and(|name| name.contains("prestodelta")) {
                    found.get_or_insert(path.to_owned());
                }
            });
            member(Kind::Prestodelta, &found?, dir)
        }
        UnitKind::RpmMd | UnitKind::Flat | UnitKind::Checksums => None,
    }
}

/// The files that an index names; remembered by the index's own digest.
async fn read(
    server: &Arc<Server>,
    repo: &Repo,
    unit: &Unit,
    index: &Index,
) -> Result<Arc<PathTable>, FetchError> {
    let digest = index.expected.digest;
    if let Some(known) = server.nested.get(&digest) {
        return Ok(known);
    }
    if let Some(failed) = server.not_nested.get(&digest) {
        return Err(failed);
    }
    let table = read_new(server, repo, unit, index).await;
    match &table {
        Ok(table) => server.nested.insert(digest, table.clone()),
        Err(e) => server.not_nested.insert(digest, e.clone()),
    }
    table
}

async fn read_new(
    server: &Arc<Server>,
    repo: &Repo,
    unit: &Unit,
    index: &Index,
) -> Result<Arc<PathTable>, FetchError> {
    let blob = refresh::fetch_member(server, repo, &index.path, index.expected, unit.has_by_hash).await?;
    let (store, kind, path) = (server.metadata.store.clone(), index.kind, index.path.clone());
    let base = index.base.clone();
    let parse = move || table(kind, &path, &base, &refresh::read_blob(&store, blob)?);
    let table = tokio::task::spawn_blocking(parse).await.ok().flatten();
    let unreadable =
        || FetchError::Wrong { url: index.path.to_string(), problem: "it cannot be read".to_owned() };
    table.map(Arc::new).ok_or_else(unreadable)
}

fn table(kind: Kind, path: &RepoPath, base: &str, bytes: &[u8]) -> Option<PathTable> {
    let mut builder = PathTableBuilder::default();
    let mut take = |entry: Entry<'_>| {
        if let Ok(path) = RepoPath::new(entry.path) {
            builder.push(path.under(base).as_str(), entry.expected);
        }
    };
    let read = match kind {
        Kind::DiffIndex => pdiff::pdiff_index(bytes, &mut take),
        Kind::Checksums => checksums::checksum_file(path.file_name(), bytes, &mut take),
        Kind::Prestodelta => {
            let open = compress::reader(Compression::of(path.as_str()), Box::new(bytes));
            prestodelta::prestodelta(BufReader::new(std::io::Read::take(open, MAX_OPEN)), &mut take)
        }
    };
    match read {
        Ok(_) => Some(builder.build()),
        Err(e) => {
            tracing::warn!(path = path.as_str(), error = %e, "an index cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Draft, RootFile, UnitKey};

    #[test]
    fn the_nearest_index_names_a_file() {
        let line = |path: &str| format!(" {} 5 {path}\n", "00".repeat(32));
        let members =
            ["main/binary-amd64/Packages.diff/Index", "main/installer-amd64/current/images/SHA256SUMS"];
        let text = format!("SHA256:\n{}", members.map(line).concat());
        let key = UnitKey { kind: UnitKind::Suite, dir: "dists/a".to_owned() };
        let path = RepoPath::new("dists/a/Release").expect("valid");
        let unit = Draft::new(key, vec![RootFile::new(path, text.into())]).expect("valid").finish(1, 1);
        let find = |path: &str| {
            let path = RepoPath::new(path).expect("valid").under("dists/a");
            index_for(&unit, &path)
                .map(|index| (index.kind, index.path.as_str()["dists/a/".len()..].to_owned()))
        };
        let diff = Some((Kind::DiffIndex, members[0].to_owned()));
        let images = Some((Kind::Checksums, members[1].to_owned()));
        assert_eq!(find("main/binary-amd64/Packages.diff/T-2026.gz"), diff);
        assert_eq!(find("main/binary-amd64/Packages.diff/by-hash/SHA256/00"), diff);
        assert_eq!(find("main/installer-amd64/current/images/netboot/debian-installer/amd64/linux"), images);
        assert_eq!(find("main/installer-amd64/other/x"), None);
        assert_eq!(find("main/binary-arm64/Packages.diff/T-2026.gz"), None);
        let outside = RepoPath::new("pool/main/installer-amd64/current/images/x").expect("valid");
        assert!(index_for(&unit, &outside).is_none());
    }
}
