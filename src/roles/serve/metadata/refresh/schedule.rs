//! Looking without being asked: at startup, and from time to time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::{Looked, Tries, refresh};
use crate::catalog::UnitKey;
use crate::config::Origin;
use crate::io::clock;
use crate::roles::serve::metadata::origin;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// Units looked at together: a new generation may wait for minutes until volunteers hold its hot files.
const PARALLEL: usize = 4;

/// Reads what the configuration names and, in a tree, everything that is there: first what is whole, then what may
/// need time. Returns when done.
pub async fn warm_up(server: &Arc<Server>, repo: &Repo) {
    let config = &repo.config;
    let mut keys: Vec<UnitKey> = Vec::new();
    if let Origin::Tree(tree) = &config.origin {
        let (tree, profile) = (tree.clone(), config.profile.clone());
        let find = move || {
            let roots = origin::find_roots(&tree, |path| UnitKey::of_root(path, &profile).is_some());
            let mut keys: Vec<UnitKey> =
                roots.iter().filter_map(|path| UnitKey::of_root(path, &profile)).collect();
            keys.dedup();
            keys
        };
        keys = tokio::task::spawn_blocking(find).await.unwrap_or_default();
    } else {
        keys.extend(
            config.profile.suites.iter().map(|suite| UnitKey::of_suite(suite, config.profile.layout)),
        );
        keys.extend(repo.snapshot().units().map(|unit| unit.key.clone()));
    }
    keys.sort();
    keys.dedup();
    if keys.is_empty() && repo.tree().is_some() {
        tracing::warn!(repo = config.name, "the tree holds no metadata; is the path right?");
    }
    repo.set_found(&keys);
    // Whoever asks for one makes it be looked at before its turn.
    let look = async |key: UnitKey| {
        let _turn = server.warming.acquire().await;
        (refresh(server, repo, &key, Duration::from_secs(1), Tries::Once).await, key)
    };
    let looked: Vec<(Looked, UnitKey)> =
        stream::iter(keys).map(look).buffer_unordered(PARALLEL).collect().await;
    repo.set_warm();
    // Those that are not whole may be in the middle of an update.
    let passing = looked.into_iter().filter(|(looked, _)| *looked == Looked::Passing).map(|(_, key)| key);
    let look = async |key: UnitKey| {
        refresh(server, repo, &key, Duration::ZERO, Tries::Several).await;
    };
    stream::iter(passing).map(look).buffer_unordered(PARALLEL).for_each(|()| async {}).await;
}

/// Looks at every known unit from time to time; ends with the process.
pub async fn poll(server: Arc<Server>, index: usize) {
    let repo = &server.repos[index];
    loop {
        // Up to a tenth later, so that many servers do not ask one upstream in step.
        let jitter = clock::now().as_nanos() % 100;
        tokio::time::sleep(repo.config.poll.mul_f64(1.0 + jitter as f64 / 1000.0)).await;
        let keys = repo.keys();
        let max_age = repo.fresh_for().min(repo.config.poll / 2);
        let look = async |key: UnitKey| {
            // The outcome is in the log and in the status.
            let _ = refresh(&server, repo, &key, max_age, Tries::Several).await;
        };
        stream::iter(keys).map(look).buffer_unordered(PARALLEL).for_each(|()| async {}).await;
    }
}
