//! What survives a restart: the database names each unit's retained generations and their root files, the
//! metadata store holds those and the members, and an index file holds each generation ready to use.
//!
//! An index that is missing, damaged or of other root files is made again from the metadata, without asking
//! anyone.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::refresh::{Plan, RefreshError, Waits, complete, install, read_blob};
use super::repo::Repo;
use crate::catalog::{Dates, Draft, Needed, Root, RootFile, Step, Unit, UnitKey, decode_unit, encode_unit};
use crate::config::Origin;
use crate::model::{Blob, BlobId, RepoPath};
use crate::roles::serve::state::Server;

/// Kind of the database's records of units.
const RECORD: &str = "unit-3";

/// What the database keeps of a unit, so that a restart needs no upstream.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    repo: String,
    key: UnitKey,
    /// Newest first.
    generations: Vec<Generation>,
    learned: Vec<String>,
    asked: Vec<(String, u64)>,
    /// Where it came from.
    origin: Vec<String>,
}

/// The upstreams or the tree, to tell whether the configuration still means the same archive.
fn origin_of(repo: &Repo) -> Vec<String> {
    match &repo.config.origin {
        Origin::Tree(tree) => vec![tree.display().to_string()],
        Origin::Upstream(urls) => urls.clone(),
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Generation {
    generation: u64,
    roots: Vec<(String, BlobId, u64)>,
    /// Families that the origin did not have.
    absent: Vec<String>,
    adopted_secs: u64,
    /// Absent in older records.
    #[serde(default)]
    dates: Option<Dates>,
}

impl Generation {
    fn of(unit: &Unit) -> Self {
        let roots = unit.roots.iter();
        Self {
            generation: unit.generation,
            roots: roots.map(|(path, root)| (path.to_string(), root.blob.id, root.blob.size)).collect(),
            absent: unit.absent.iter().cloned().collect(),
            adopted_secs: unit.adopted_secs,
            dates: Some(Dates::clone(&unit.dates)),
        }
    }

    /// Whether a unit is this generation.
    fn is(&self, unit: &Unit) -> bool {
        let same = |(path, id, _): &(String, BlobId, u64)| {
            unit.roots.get(path.as_str()).is_some_and(|root| root.blob.id == *id)
        };
        unit.generation == self.generation
            && unit.roots.len() == self.roots.len()
            && self.roots.iter().all(same)
    }
}

fn record_name(repo: &str, key: &UnitKey) -> String {
    format!("{repo} {:?} {}", key.kind, key.dir)
}

/// Any directory's name may be longer than a file's: the hash of it is not.
fn index_name(repo: &str, key: &UnitKey, generation: u64) -> String {
    let unit = Root::new(record_name(repo, key).into()).blob.id.to_string();
    format!("{}-{generation}", &unit[..32])
}

/// Writes down what a restart needs: root files as blobs, and the names of generations. Blocks.
pub fn remember(server: &Server, repo: &Repo, generations: &VecDeque<Arc<Unit>>) -> Result<(), RefreshError> {
    let Some(unit) = generations.front() else { return Ok(()) };
    let store = &server.metadata.store;
    for root in unit.roots.values() {
        if store.size_of(root.blob.id).is_none() {
            let mut incoming = store.incoming(root.blob.into()).map_err(RefreshError::internal)?;
            incoming.write(&root.bytes).map_err(RefreshError::internal)?;
            let verified = incoming.verify().map_err(RefreshError::internal)?;
            store.commit(verified).map_err(RefreshError::internal)?;
        }
    }
    let state = repo.unit_state(&unit.key);
    let record = Record {
        repo: repo.config.name.clone(),
        key: unit.key.clone(),
        generations: generations.iter().map(|unit| Generation::of(unit)).collect(),
        learned: state.learned.into_iter().collect(),
        asked: state.asked.into_iter().collect(),
        origin: origin_of(repo),
    };
    let name = record_name(&record.repo, &record.key);
    let json = serde_json::to_vec(&record).map_err(RefreshError::internal)?;
    server.db.put_records(RECORD, [(name.as_str(), Some(json))]).map_err(RefreshError::internal)
}

/// Writes the index files of generations that have none yet or whose tables have changed since. Blocks.
pub fn write_indexes(server: &Server, repo: &Repo, key: &UnitKey) {
    let repo_name = repo.config.name.as_str();
    let indexes = server.indexes.lock().unwrap_or_else(PoisonError::into_inner);
    if indexes.is_left {
        return;
    }
    // What is retained now: an adoption may have followed while this one waited.
    let generations: Vec<Arc<Unit>> = repo.snapshot().generations(key).cloned().collect();
    for unit in generations.iter().filter(|unit| !repo.is_indexed(unit)) {
        let name = index_name(repo_name, &unit.key, unit.generation);
        match indexes.put(&name, &encode_unit(unit)) {
            Ok(()) => repo.set_indexed(unit),
            Err(e) => {
                tracing::warn!(repo = repo_name, unit = %unit.key, error = %e, "cannot save the index: the next start takes longer");
            }
        }
    }
    for gone in repo.forget_indexed(key) {
        indexes.remove(&index_name(repo_name, key, gone));
    }
}

/// Brings back the generations that were retained before a restart.
pub async fn restore(server: &Arc<Server>) {
    let records = server.db.records(RECORD).unwrap_or_default();
    let parse = |(_, json): (String, Vec<u8>)| serde_json::from_slice::<Record>(&json).ok();
    let records: Vec<Record> = records.into_iter().filter_map(parse).collect();
    // First, since what is restored is also written, which must not be taken for what a crash left.
    forget_others(server, &records);
    for record in records {
        let Some(repo) = server.repo(&record.repo) else { continue };
        let (name, unit) = (repo.config.name.as_str(), record.key.clone());
        match restore_unit(server, repo, record).await {
            Ok(generations) => tracing::debug!(repo = name, %unit, generations, "restored"),
            Err(e) => {
                tracing::warn!(repo = name, %unit, error = %e, "not restored; it will be read from the origin");
            }
        }
    }
}

/// Removes index files of generations that will not be restored.
fn forget_others(server: &Server, records: &[Record]) {
    let mut kept = BTreeSet::new();
    for Record { repo, key, generations, .. } in records {
        if server.repo(repo).is_some() {
            kept.extend(generations.iter().map(|old| index_name(repo, key, old.generation)));
        }
    }
    server.indexes.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| kept.contains(name));
}

/// Returns how many generations came back.
async fn restore_unit(server: &Arc<Server>, repo: &Repo, record: Record) -> Result<usize, RefreshError> {
    let Record { key, generations, learned, asked, origin, .. } = record;
    if !origin.iter().any(|own| origin_of(repo).contains(own)) {
        return Err(RefreshError::Internal("the configuration names another origin".to_owned()));
    }
    repo.with_unit(&key, |state| {
        state.learned.extend(learned);
        state.asked.extend(asked);
    });
    let mut restored: VecDeque<Arc<Unit>> = VecDeque::new();
    for generation in generations {
        let unit = match (read_index(server, repo, &key, &generation).await, restored.front()) {
            (Some(unit), None) if !unit.is_retired => unit,
            // A crash came before it was written again.
            (Some(unit), Some(newer)) if !unit.is_retired => unit.retire(newer),
            (Some(unit), Some(_)) => unit,
            (_, None) => rebuild(server, repo, &key, generation).await?,
            (None, Some(newer)) => match rebuild(server, repo, &key, generation).await {
                Ok(unit) => unit.retire(newer),
                // Its members are still found by hash, where the upstream keeps them.
                Err(e) => {
                    tracing::warn!(repo = repo.config.name, unit = %key, error = %e, "dropped an earlier generation");
                    continue;
                }
            },
        };
        // A keyring may be new since; keys that have expired since were good then.
        let roots: Vec<RootFile> = unit
            .roots
            .iter()
            .map(|(path, root)| RootFile { path: path.clone(), root: root.clone() })
            .collect();
        match repo.trust.check_signatures(&key, &roots, unit.adopted_secs) {
            Ok(()) => {}
            Err(e) if restored.is_empty() => return Err(e.into()),
            // Signed by a key that is no longer wanted.
            Err(_) => break,
        }
        restored.push_back(Arc::new(unit));
    }
    let count = restored.len();
    install(server, repo, restored);
    Ok(count)
}

async fn read_index(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    generation: &Generation,
) -> Option<Unit> {
    let name = index_name(&repo.config.name, key, generation.generation);
    let shared = server.clone();
    let read = move || {
        let file = shared.indexes.lock().unwrap_or_else(PoisonError::into_inner).get(&name).ok()?;
        Some(decode_unit(&file))
    };
    match tokio::task::spawn_blocking(read).await.ok().flatten()? {
        Ok(unit) if unit.key == *key && generation.is(&unit) => {
            repo.set_indexed(&unit);
            Some(unit)
        }
        Ok(_) => None,
        Err(e) => {
            tracing::warn!(repo = repo.config.name, unit = %key, error = %e, "an index is unusable and is rebuilt");
            None
        }
    }
}

/// Makes a generation from its metadata again.
async fn rebuild(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    generation: Generation,
) -> Result<Unit, RefreshError> {
    let Generation { generation, roots: names, absent, adopted_secs, dates } = generation;
    let mut roots = Vec::new();
    for (path, id, size) in names {
        let bytes = read_blob(&server.metadata.store, Blob { id, size });
        let (Ok(path), Some(bytes)) = (RepoPath::new(&path), bytes) else {
            return Err(RefreshError::Internal(format!("{path} is not in the store")));
        };
        roots.push(RootFile::new(path, Bytes::from(bytes)));
    }
    let mut draft = Draft::new(key.clone(), roots)?;
    let mut wanted = draft.wanted(&repo.warm(key));
    wanted.retain(|step| !absent.contains(&step.stem));
    draft.lacks(absent.into_iter());
    let held = |step: &Step| step.choices.iter().any(|(_, e)| server.metadata.held(e).is_some());
    if !wanted.iter().all(held) {
        return Err(RefreshError::Internal("a package list is not in the store".to_owned()));
    }
    let (held, usual, waits) = (Vec::new(), Vec::new(), Waits::Never);
    let needed = Needed::default();
    let plan =
        Plan { wanted, held, usual, current: None, needed, waits, settle: true, generation, adopted_secs };
    let mut unit = complete(server, repo, draft, plan).await?;
    if let Some(dates) = dates {
        unit.dates = Arc::new(dates);
    }
    Ok(unit)
}
