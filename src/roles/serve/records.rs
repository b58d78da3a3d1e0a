//! What survives a restart: the database names each unit's root files, the metadata store holds them and the
//! members, and both together make the generation again without asking anyone.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::refresh::{Plan, RefreshError, adopt, complete, read_blob};
use super::repo::Repo;
use super::server::Server;
use crate::catalog::{Draft, RootFile, Step, Unit, UnitKey};
use crate::model::{Blob, BlobId, RepoPath};

/// Kind of the database's records of units.
const RECORD: &str = "unit";

/// What the database keeps of a unit, so that a restart needs no upstream.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    repo: String,
    key: UnitKey,
    generation: u64,
    roots: Vec<(String, BlobId, u64)>,
    learned: Vec<String>,
    #[serde(default)]
    adopted_secs: u64,
}

/// Writes down what a restart needs: the root files as blobs, and their names.
pub fn remember(server: &Server, repo: &Repo, unit: &Unit) -> Result<(), RefreshError> {
    let internal = |e: &dyn std::fmt::Display| RefreshError::Internal(e.to_string());
    let store = &server.metadata.store;
    for root in unit.roots.values() {
        if store.size_of(root.blob.id).is_none() {
            let mut incoming = store.incoming(root.blob.into()).map_err(|e| internal(&e))?;
            incoming.write(&root.bytes).map_err(|e| internal(&e))?;
            let verified = incoming.verify().map_err(|e| internal(&e))?;
            store.commit(verified).map_err(|e| internal(&e))?;
        }
    }
    let record = Record {
        repo: repo.config.name.clone(),
        key: unit.key.clone(),
        generation: unit.generation,
        adopted_secs: unit.adopted_secs,
        roots: unit
            .roots
            .iter()
            .map(|(path, root)| (path.to_string(), root.blob.id, root.blob.size))
            .collect(),
        learned: repo.unit_state(&unit.key).learned.into_iter().collect(),
    };
    let name = format!("{} {:?} {}", record.repo, record.key.kind, record.key.dir);
    let json = serde_json::to_vec(&record).map_err(|e| internal(&e))?;
    server.db.put_records(RECORD, [(name.as_str(), Some(json))]).map_err(|e| internal(&e))
}

/// Brings back the generations that were current before a restart, from the metadata store alone.
pub async fn restore(server: &Arc<Server>) {
    let records = server.db.records(RECORD).unwrap_or_default();
    for (name, json) in records {
        let Ok(record) = serde_json::from_slice::<Record>(&json) else { continue };
        let Some(repo) = server.repo(&record.repo) else { continue };
        let (unit, generation) = (record.key.clone(), record.generation);
        match restore_one(server, repo, record).await {
            Ok(()) => tracing::debug!(repo = repo.config.name, %unit, generation, "restored"),
            Err(e) => {
                tracing::warn!(record = name, error = %e, "not restored; it will be read from the origin")
            }
        }
    }
}

async fn restore_one(server: &Arc<Server>, repo: &Repo, record: Record) -> Result<(), RefreshError> {
    repo.with_unit(&record.key, |state| state.learned.extend(record.learned));
    let mut roots = Vec::new();
    for (path, id, size) in record.roots {
        let bytes = read_blob(&server.metadata.store, Blob { id, size });
        let (Ok(path), Some(bytes)) = (RepoPath::new(&path), bytes) else {
            return Err(RefreshError::Internal(format!("{path} is not in the store")));
        };
        roots.push(RootFile::new(path, Bytes::from(bytes)));
    }
    let draft = Draft::new(record.key.clone(), roots)?;
    let wanted = draft.wanted(&repo.warm(&record.key));
    let held = |step: &Step| step.choices.iter().any(|(_, e)| server.metadata.held(e).is_some());
    if !wanted.iter().all(held) {
        return Err(RefreshError::Internal("a package list is not in the store".to_owned()));
    }
    let Record { generation, adopted_secs, .. } = record;
    let unit =
        complete(server, repo, draft, Plan { wanted, current: None, generation, adopted_secs }).await?;
    adopt(server, repo, unit);
    Ok(())
}
