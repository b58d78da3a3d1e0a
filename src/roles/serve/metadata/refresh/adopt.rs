//! A generation that is whole becomes the one that clients see.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{RefreshError, gate};
use crate::catalog::{Dates, Diff, Unit};
use crate::io::clock;
use crate::roles::serve::metadata::records;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::packages::aliases;
use crate::roles::serve::state::Server;

/// Waits until volunteers hold what will be wanted of it, writes down what a restart needs, then makes `unit`
/// current. What takes long comes before or after the one step, and off the threads that answer requests.
pub async fn adopt(server: &Arc<Server>, repo: &Repo, unit: Unit) -> Result<(), RefreshError> {
    let mut unit = Arc::new(unit);
    let before = repo.snapshot().unit(&unit.key).cloned();
    let diff = compare(before.clone(), unit.clone()).await?;
    let passed = match before.as_ref().zip(diff.as_ref()) {
        Some((before, diff)) => Some(gate::wait(server, repo, before, &unit, diff).await?),
        None => None,
    };
    if passed.as_ref().is_some_and(|passed| passed.has_waited) {
        let mut adopted = Unit::clone(&unit);
        adopted.adopted_secs = clock::now().as_secs();
        unit = Arc::new(adopted);
    }
    let (shared, index) = (server.clone(), repo.index);
    let adopt = move || {
        let repo = &shared.repos[index];
        let mut unit = Arc::unwrap_or_clone(unit);
        unit.dates = Arc::new(Dates::next(&repo.snapshot(), &unit, diff.as_deref()));
        let unit = Arc::new(unit);
        log(repo, diff.as_deref(), &unit);
        let generations = repo.snapshot().succession(unit);
        records::remember(&shared, repo, &generations)?;
        install(&shared, repo, generations);
        Ok(())
    };
    let adopted = tokio::task::spawn_blocking(adopt).await.map_err(RefreshError::internal)?;
    drop(passed);
    adopted
}

/// What a generation brings, where there was one before: seconds for millions of paths.
async fn compare(before: Option<Arc<Unit>>, unit: Arc<Unit>) -> Result<Option<Arc<Diff>>, RefreshError> {
    let compare = move || before.map(|before| Arc::new(Diff::between(&before.packages, &unit.packages)));
    tokio::task::spawn_blocking(compare).await.map_err(RefreshError::internal)
}

/// Makes generations visible, then sees to everything that follows from them. Blocks only shortly.
pub fn install(server: &Arc<Server>, repo: &Repo, generations: VecDeque<Arc<Unit>>) {
    let Some(unit) = generations.front().cloned() else { return };
    repo.adopt(&generations);
    server.catalog_changed();
    let (server, index) = (server.clone(), repo.index);
    tokio::task::spawn_blocking(move || {
        let repo = &server.repos[index];
        records::write_indexes(&server, repo, &unit.key);
        tokio::spawn(learn(server, index, unit));
    });
}

async fn learn(server: Arc<Server>, index: usize, unit: Arc<Unit>) {
    let hashed = aliases::learn_all(&server, index, &unit).await;
    if hashed > 0 {
        let name = server.repos[index].config.name.as_str();
        tracing::info!(repo = name, unit = %unit.key, hashed, "read files whose metadata gives no SHA-256");
        server.catalog_changed();
    }
}

fn log(repo: &Repo, diff: Option<&Diff>, unit: &Unit) {
    let (repo, paths) = (repo.config.name.as_str(), unit.packages.len());
    match diff {
        Some(diff) => {
            let updates = diff.new.iter().filter(|new| new.predecessor.is_some()).count();
            tracing::info!(
                repo, unit = %unit.key, generation = unit.generation, paths,
                new = diff.new.len(), updates, changed = diff.changed.len(), gone = diff.gone.len(), "adopted"
            );
            if let Some(first) = diff.changed.first() {
                tracing::warn!(
                    repo, unit = %unit.key, changed = diff.changed.len(), first,
                    "files have new contents under their old names"
                );
            }
        }
        None => tracing::info!(repo, unit = %unit.key, generation = unit.generation, paths, "adopted"),
    }
    if unit.skipped > 0 {
        let first = unit.first_skipped.as_deref().unwrap_or("");
        tracing::warn!(repo, unit = %unit.key, skipped = unit.skipped, first, "unusable entries in the metadata");
    }
    for reason in &unit.warnings {
        tracing::warn!(repo, unit = %unit.key, reason, "odd metadata, served nevertheless");
    }
}
