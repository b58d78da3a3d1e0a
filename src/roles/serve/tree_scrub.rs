//! Upkeep of what is known of local trees: it is written down every few seconds, files that are gone are forgotten
//! once a day, and every package file is read again in the time that `scrub_days` says. A disk changes bytes without
//! a trace; whatever is then wrong is no longer served.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::server::Server;
use super::tree;
use crate::catalog::Unit;
use crate::io::scrub::{CHUNK, LONGEST_REST, rest};
use crate::io::tree_hashes::Known;
use crate::model::RepoPath;

/// How often what was read is written down: what a crash makes us read again.
const SAVE_PERIOD: Duration = Duration::from_secs(5);
/// How often files are looked for that are gone.
const CLEAN_PERIOD: Duration = Duration::from_secs(86_400);
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
        tracing::warn!(error = %e, "what was read of local trees is not remembered");
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
            Ok(Err(e)) => tracing::warn!(error = %e, "files of local trees that are gone are not forgotten"),
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
            "a file of the tree has other bytes than before, though its date is the same: check the disk"
        );
    }
    tree::check(server, &server.repos[repo], &path, &opened, &known);
    Some(known)
}
