//! Adoption of an existing mirror tree: its files are matched with the server's catalog by path and size,
//! verified by their SHA-256, and then served where they stand. Nothing is copied, moved or changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::edge::{Adopted, Edge, fingerprint, modified_nanos};
use crate::formats::control::{MATCH_PATH, MAX_BATCH, MAX_MESSAGE, MatchReply, MatchRequest, TreeFile};
use crate::io::{confined, regular};
use crate::model::{BlobId, TreeStatus};

/// How often trees are looked through for new files.
const RESCAN: Duration = Duration::from_secs(600);
/// Early on, and after failures, more often: the server may not have read its metadata yet.
const FIRST_RESCAN: Duration = Duration::from_secs(5);
/// Files adopted in one step: what a crash makes us hash again.
const STEP: usize = 64;

/// Adopts the configured trees, now and whenever they have new files; ends with the process.
pub async fn keep(edge: Arc<Edge>) {
    let mut pause = FIRST_RESCAN;
    loop {
        pause = (pause * 2).min(RESCAN);
        for tree in edge.config.adopt.clone() {
            let path = tree.display().to_string();
            let found = match adopt(&edge, &tree).await {
                Ok(found) => found,
                Err(e) => {
                    tracing::warn!(tree = path, error = format!("{e:#}"), "not adopted now; trying again");
                    pause = FIRST_RESCAN;
                    edge.note_tree(
                        &tree,
                        TreeStatus { path, problem: Some(format!("{e:#}")), ..TreeStatus::default() },
                    );
                    continue;
                }
            };
            if found.new > 0 {
                tracing::info!(tree = path, adopted = found.new, "adopted");
            }
            let Found { files, adopted, .. } = found;
            let is_news =
                edge.note_tree(&tree, TreeStatus { path: path.clone(), files, adopted, problem: None });
            if is_news && found.is_doubtful() {
                tracing::warn!(
                    tree = path,
                    "adopted {adopted} of {files} files: is this the root of the repository, and does the server serve \
                     that one?"
                );
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// What a pass over a tree found.
#[derive(Clone, Copy, Debug)]
struct Found {
    files: u64,
    /// Those that are served, and those of them that were not before.
    adopted: u64,
    new: u64,
}

impl Found {
    /// A mirror has lists and images beside its packages, which are not adopted; but packages are most of its files.
    fn is_doubtful(self) -> bool {
        self.files > 0 && self.adopted < self.files / 10 + 1
    }
}

/// One pass over a tree.
async fn adopt(edge: &Arc<Edge>, tree: &Path) -> anyhow::Result<Found> {
    let (own, root) = (edge.clone(), tree.to_owned());
    let (files, known) = tokio::task::spawn_blocking(move || list(&own, &root)).await??;
    let (total, mut seen, mut adopted) = (files.len(), 0, 0);
    for batch in files.chunks(MAX_BATCH) {
        let matched = matching(edge, batch).await?;
        for step in matched.chunks(STEP) {
            let (own, root, step) = (edge.clone(), tree.to_owned(), step.to_vec());
            adopted += tokio::task::spawn_blocking(move || verify(&own, &root, &step)).await??;
        }
        seen += batch.len();
        tracing::debug!(tree = %tree.display(), seen, total, adopted, "adopting");
    }
    Ok(Found { files: total as u64 + known, adopted: known + adopted, new: adopted })
}

/// Files of the tree that are not adopted yet, and how many others are.
fn list(edge: &Edge, tree: &Path) -> anyhow::Result<(Vec<TreeFile>, u64)> {
    let (mut files, mut known) = (Vec::new(), 0);
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let full = tree.join(&dir);
        let entries = std::fs::read_dir(&full).map_err(|e| confined::explain(&full, e));
        let entries = entries.with_context(|| format!("cannot read {}", full.display()));
        // A folder that vanished or is not readable is skipped; the tree itself must be there.
        let entries = match entries {
            Err(e) if dir.as_os_str().is_empty() => return Err(e),
            Err(_) => continue,
            Ok(entries) => entries,
        };
        for entry in entries.flatten() {
            let path = dir.join(entry.file_name());
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(path),
                Ok(meta) if meta.is_file() && meta.len() > 0 => {
                    let modified = modified_nanos(&meta).unwrap_or(0);
                    if edge.is_adopted(&tree.join(&path), meta.len(), modified) {
                        known += 1;
                        continue;
                    }
                    files.extend(
                        path.to_str().map(|path| TreeFile { path: path.to_owned(), size: meta.len() }),
                    );
                }
                _ => {}
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((files, known))
}

/// Asks the server which of the files its catalog knows.
async fn matching(edge: &Edge, files: &[TreeFile]) -> anyhow::Result<Vec<(TreeFile, BlobId)>> {
    let url = format!("{}{MATCH_PATH}", edge.config.server);
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, format!("Bearer {}", edge.token).parse()?);
    let request = MatchRequest { files: files.to_vec() };
    let reply: MatchReply = edge.upstream.post_json(&url, headers, &request, MAX_MESSAGE as u64).await?;
    anyhow::ensure!(reply.blobs.len() == files.len(), "the server answered for other files than requested");
    Ok(files.iter().cloned().zip(reply.blobs).filter_map(|(file, blob)| Some((file, blob?))).collect())
}

/// Hashes the files and adopts those that are what the catalog says.
fn verify(edge: &Edge, tree: &Path, files: &[(TreeFile, BlobId)]) -> anyhow::Result<u64> {
    let mut good = Vec::new();
    for (file, blob) in files {
        let path = tree.join(&file.path);
        match hash(&path) {
            Ok((id, size, modified_nanos)) if id == *blob => {
                good.push((path, Adopted { blob: id, size, modified_nanos }))
            }
            Ok(_) => {
                tracing::warn!(file = %path.display(), "not adopted: its bytes are not what the server publishes")
            }
            Err(e) => tracing::warn!(file = %path.display(), error = %e, "not adopted: cannot be read"),
        }
    }
    let adopted = good.len() as u64;
    edge.adopt(good)?;
    Ok(adopted)
}

/// SHA-256, size and date; the date is read first, so that a change while hashing shows.
fn hash(path: &Path) -> std::io::Result<(BlobId, u64, u128)> {
    let (mut file, _) = regular::open(path)?;
    let (size, modified) = fingerprint(&file).ok_or_else(|| std::io::Error::other("has no date"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok((BlobId(hasher.finalize().into()), size, modified))
}
