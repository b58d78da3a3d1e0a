//! Volunteers' records in the database, so that neither a restart of the server nor one of the
//! volunteer loses them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Time, VolunteerId};
use crate::policy::{Presence, Record};
use crate::roles::serve::state::Server;

/// Kind of the database's records.
const KIND: &str = "standing";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    quarantined_until_secs: Option<u64>,
    vanished_secs: Vec<u64>,
    observed_secs: u64,
    present_secs: u64,
}

/// What is known about a volunteer, and about others with its token if one is given. Blocks.
pub fn load(server: &Server, id: &VolunteerId, token: Option<&str>) -> Record {
    let read = |key: &str| {
        let json = server.db.record(KIND, key).ok().flatten();
        json.and_then(|json| serde_json::from_slice::<Stored>(&json).ok()).unwrap_or_default()
    };
    let stored = read(id.as_str());
    let of_token = token.map(|token| read(&token_key(token))).unwrap_or_default();
    let vanished = |n: usize| stored.vanished_secs.get(n).copied().map(Time::from_secs);
    Record {
        quarantined_until: stored
            .quarantined_until_secs
            .max(of_token.quarantined_until_secs)
            .map(Time::from_secs),
        vanished: [vanished(0), vanished(1)],
        presence: Presence {
            observed: Duration::from_secs(stored.observed_secs.max(stored.present_secs)),
            present: Duration::from_secs(stored.present_secs),
        },
    }
}

/// No volunteer can be called so.
fn token_key(token: &str) -> String {
    format!("token {token}")
}

/// Saves it in the background.
pub fn save(server: &Arc<Server>, id: VolunteerId, record: Record) {
    let server = server.clone();
    let stored = Stored {
        quarantined_until_secs: record.quarantined_until.map(Time::as_secs),
        vanished_secs: record.vanished.into_iter().flatten().map(Time::as_secs).collect(),
        observed_secs: record.presence.observed.as_secs(),
        present_secs: record.presence.present.as_secs(),
    };
    let write = move || {
        let json = serde_json::to_vec(&stored).unwrap_or_default();
        let token = record.quarantined_until.and_then(|_| super::enrolment::enrolled_token(&server, &id));
        let token = token.map(|token| token_key(&token));
        let keys = [Some(id.as_str()), token.as_deref()].into_iter().flatten();
        if let Err(e) = server.db.put_records(KIND, keys.map(|key| (key, Some(json.clone())))) {
            tracing::warn!(volunteer = %id, error = %e, "cannot save its record: a restart would lose it");
        }
    };
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(write);
    }
}
