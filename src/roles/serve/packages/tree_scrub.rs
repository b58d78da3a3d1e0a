//! Upkeep of what is known of local trees: it is written down every few seconds, files that are gone are forgotten
//! once a day, and every package file is reread in the time that `scrub_days` says, and so is what no metadata
//! names and was read once. A disk changes bytes without a trace; whatever is then wrong is no longer served.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::learnt::{self, Step, Unnamed};
use super::tree;
use crate::catalog::Unit;
use crate::io::scrub::{CHUNK, LONGEST_REST, rest};
use crate::io::tree_hashes::Known;
use crate::model::{BlobId, RepoPath};
use crate::roles::serve::state::Server;

/// How often what was read is written down: what a crash makes us reread.
const SAVE_PERIOD: Duration = Duration::from_secs(5);
/// How often files are looked for that are gone.
const CLEAN_PERIOD: Duration = Duration::from_secs(86_400);
/// How long files that no metadata names wait for the metadata that says so.
const WARM_PATIENCE: Duration = Duration::from_secs(600);
/// How long no pass over what no metadata names begins: each looks at all files that were ever read.
const BETWEEN_PASSES: Duration = Duration::from_secs(3600);
const STEP_PAUSE: Duration = Duration::from_millis(10);
/// Paths passed over before others get their turn.
const YIELD_AFTER: u64 = 4096;

/// Starts the upkeep, if there are trees.
pub fn keep(server: &Arc<Server>) {
    if server.repos.iter().all(|repo| repo.tree().is_none()) {
        return;
    }
    tokio::spawn(save(server.clone()));
    tokio::spawn(clean(server.clone()));
    if server.config.cache.scrub_days > 0 {
        tokio::spawn(scrub(server.clone(), server.config.cache.scrub_days));
        tokio::spawn(scrub_unnamed(server.clone(), server.config.cache.scrub_days));
    }
}

async fn save(server: Arc<Server>) {
    loop {
        tokio::time::sleep(SAVE_PERIOD).await;
        save_now(&server).await;
    }
}

/// Writes down what was read since the last time.
pub async fn save_now(server: &Arc<Server>) {
    let hashes = server.trees.clone();
    if let Ok(Err(e)) = tokio::task::spawn_blocking(move || hashes.save()).await {
        tracing::warn!(error = %e, "cannot save the digests of local trees");
    }
}

async fn clean(server: Arc<Server>) {
    let trees: Vec<_> = server.repos.iter().filter_map(|repo| repo.tree()?.canonicalize().ok()).collect();
    loop {
        tokio::time::sleep(CLEAN_PERIOD).await;
        let (hashes, trees) = (server.trees.clone(), trees.clone());
        let clean = move || hashes.clean(|path| trees.iter().any(|tree| path.starts_with(tree)));
        match tokio::task::spawn_blocking(clean).await {
            Ok(Ok(forgotten)) if forgotten > 0 => {
                tracing::debug!(forgotten, "files of local trees that are gone or have changed");
            }
            Ok(Err(e)) => tracing::warn!(error = %e, "cannot forget files of local trees that are gone"),
            _ => {}
        }
    }
}

async fn scrub(server: Arc<Server>, days: u32) {
    // Restarts must not mean that the same files are read again and others never.
    let mut skip = somewhere(packages(&server).await.0);
    loop {
        let (_, bytes) = packages(&server).await;
        for index in 0..server.repos.len() {
            let units: Vec<Arc<Unit>> = match server.repos[index].tree() {
                Some(_) => server.repos[index].snapshot().units().cloned().collect(),
                None => Vec::new(),
            };
            for unit in units {
                let mut files = unit.packages.cursor();
                while let Some((path, _)) = files.next() {
                    if skip > 0 {
                        skip -= 1;
                        if skip.is_multiple_of(YIELD_AFTER) {
                            tokio::task::yield_now().await;
                        }
                        continue;
                    }
                    let pause = |len| rest(usize::try_from(len).unwrap_or(CHUNK), bytes, days);
                    read(&server, index, path, CHUNK as u64, pause).await;
                }
            }
        }
        skip = 0;
        // Where there is nothing to read.
        tokio::time::sleep(LONGEST_REST).await;
    }
}

/// Number and bytes of the packages of all trees. There can be millions: not on a thread that answers.
async fn packages(server: &Arc<Server>) -> (u64, u64) {
    let server = server.clone();
    let count = move || {
        let (mut count, mut bytes) = (0, 0);
        for repo in server.repos.iter().filter(|repo| repo.tree().is_some()) {
            for unit in repo.snapshot().units() {
                unit.packages.for_each(|_, expected| {
                    count += 1;
                    bytes += expected.size.unwrap_or(0);
                });
            }
        }
        (count, bytes)
    };
    tokio::task::spawn_blocking(count).await.unwrap_or_default()
}

/// Reads again what no metadata names.
async fn scrub_unnamed(server: Arc<Server>, days: u32) {
    // What metadata names is known only then.
    for repo in server.repos.iter().filter(|repo| repo.tree().is_some()) {
        repo.wait_warm(WARM_PATIENCE).await;
    }
    let mut skip = None;
    loop {
        let (count, bytes) = count_unnamed(&server).await;
        let mut left = skip.take().unwrap_or_else(|| somewhere(count));
        skip = Some(0);
        let mut last = None;
        while let Some(Step { last: Some(next), files }) = unnamed_after(&server, last.take()).await {
            last = Some(next);
            for file in files {
                if left > 0 {
                    left -= 1;
                    continue;
                }
                let pause = |len| rest(usize::try_from(len).unwrap_or(CHUNK), bytes, days);
                read_unnamed(&server, &file, pause).await;
            }
        }
        tokio::time::sleep(BETWEEN_PASSES).await;
    }
}

async fn unnamed_after(server: &Arc<Server>, last: Option<PathBuf>) -> Option<Step> {
    // There can be millions, and nobody waits for them.
    tokio::time::sleep(STEP_PAUSE).await;
    let server = server.clone();
    let look = move || learnt::unnamed_after(&server, last.as_deref());
    match tokio::task::spawn_blocking(look).await.ok()? {
        Ok(step) => Some(step),
        Err(e) => {
            tracing::warn!(error = %e, "cannot reread files of local trees that no metadata names");
            None
        }
    }
}

/// Number and bytes of the files that were read and that no metadata names.
async fn count_unnamed(server: &Arc<Server>) -> (u64, u64) {
    let (mut count, mut bytes, mut last) = (0, 0, None);
    while let Some(Step { last: Some(next), files }) = unnamed_after(server, last.take()).await {
        last = Some(next);
        count += files.len() as u64;
        bytes += files.iter().map(|file| file.fingerprint.size).sum::<u64>();
    }
    (count, bytes)
}

/// Reads such a file, if nothing has touched it since it was read, and withdraws it if it is not what it was.
async fn read_unnamed(server: &Arc<Server>, file: &Unnamed, pause: impl Fn(u64) -> Duration) {
    let repo = &server.repos[file.repo];
    let Some((opened, Some(before))) = tree::open(server, repo, &file.path).await else { return };
    let Ok(known) = server.trees.read_again(&opened, CHUNK as u64, pause).await else { return };
    let [before, found] = [before, known].map(|known| BlobId(known.digests.sha256));
    let expected = server.learnt.withdrawn.expected(&opened.path, &opened.fingerprint).unwrap_or(before);
    let is_new = expected == before;
    let (own, path, fingerprint) = (server.clone(), opened.path.clone(), opened.fingerprint);
    let note = move || match found == expected {
        true => own.learnt.withdrawn.remove(&path),
        false => own.learnt.withdrawn.put(&path, fingerprint, expected),
    };
    if let Ok(Err(e)) = tokio::task::spawn_blocking(note).await {
        tracing::warn!(error = %e, "cannot save which files of local trees are wrong");
    }
    if found != expected && is_new {
        server.learnt.forget(expected);
        let (repo, file) = (repo.config.name.as_str(), opened.path.display());
        let (expected, found) = (expected.digest(), found.digest());
        tracing::warn!(
            repo, %file, %expected, %found,
            "a file of the tree was altered, though its date is the same: it is not served. \
             Check the disk, or replace the file"
        );
    }
}

fn somewhere(count: u64) -> u64 {
    let mut seed = [0; 16];
    // Without randomness the first pass begins at the beginning.
    let is_seeded = getrandom::fill(&mut seed).is_ok();
    if is_seeded && count > 0 { Pcg64Mcg::from_seed(seed).random_range(0..count) } else { 0 }
}

/// Reads a package's file whether it is known or not, `turn` bytes at a time with a pause after each, and tells what
/// is wrong. None if there is no such file, or it cannot be read: metadata may name files that the tree does not keep.
pub async fn read(
    server: &Arc<Server>,
    repo: usize,
    path: &str,
    turn: u64,
    pause: impl Fn(u64) -> Duration,
) -> Option<Known> {
    let path = RepoPath::new(path).ok()?;
    let (opened, before) = tree::open(server, &server.repos[repo], &path).await?;
    let known = server.trees.read_again(&opened, turn, pause).await.ok()?;
    if before.is_some_and(|before| before.digests != known.digests) {
        tracing::warn!(
            repo = server.repos[repo].config.name, file = %opened.path.display(),
            "a file of the tree has different bytes, though its date is the same: check the disk"
        );
    }
    tree::check(server, &server.repos[repo], &path, &opened, &known);
    Some(known)
}
