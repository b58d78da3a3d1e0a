//! Which blob is a file whose metadata gives no SHA-256? Only its bytes tell; they are hashed once.
//!
//! Files from upstreams are hashed as they arrive. Those of local trees are hashed here: in the background
//! when their metadata is adopted, and at once when a client asks for one before its turn.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::origin;
use super::repo::Repo;
use super::server::Server;
use crate::catalog::Unit;
use crate::io::hasher;
use crate::model::{Blob, BlobId, Digests, Expected, RepoPath};

/// Hashes a file and remembers its digests, if it is what its metadata says. Blocks.
pub fn hash_file(server: &Server, file: &Path, expected: &Expected) -> anyhow::Result<(Digests, u64)> {
    let algorithm = expected.digest.algorithm();
    let (hashes, size) = File::open(file).and_then(|file| hasher::hash_file_with(&file, algorithm))?;
    let digests = hashes.digests;
    let digest = digests.get(algorithm);
    ensure!(digest == expected.digest, "its digest is {digest} instead of {}", expected.digest);
    server.db.put_hashes(&hashes).context("its digests are not remembered")?;
    Ok((digests, size))
}

/// Learns about one file that a client asked for, and then has copies made.
pub fn learn_one(server: &Arc<Server>, file: PathBuf, expected: Expected) {
    if !server.hashing.entry(expected.digest).or_insert(()).is_fresh() {
        return;
    }
    let server = server.clone();
    tokio::task::spawn_blocking(move || match hash_file(&server, &file, &expected) {
        Ok((digests, size)) => server.place(Blob { id: BlobId(digests.sha256), size }),
        Err(e) => {
            tracing::warn!(file = %file.display(), error = %e, "the tree's file is not what its metadata says")
        }
    });
}

/// Learns about every file of a generation in a local tree, one after the other. Blocks; returns how many
/// were hashed.
pub fn learn_all(server: &Server, repo: &Repo, unit: &Unit) -> u64 {
    let Some(tree) = repo.tree() else { return 0 };
    let mut hashed = 0;
    let mut files = unit.packages.cursor();
    while let Some((path, expected)) = files.next() {
        // Nothing is known then, and nothing learned.
        if server.db.is_closed() {
            break;
        }
        if server.packages.resolve(&expected).is_some() {
            continue;
        }
        let found = RepoPath::new(path).ok().and_then(|path| origin::open_in_tree(tree, &path));
        match found.map(|found| hash_file(server, &found.path, &expected)) {
            Some(Ok(_)) => hashed += 1,
            Some(Err(e)) => tracing::warn!(path, error = %e, "the tree's file is not what its metadata says"),
            // Metadata may name files that the tree does not keep.
            None => {}
        }
    }
    hashed
}
