//! Who may be which volunteer: the names that tokens have been used under, and the key that each has.

use serde::{Deserialize, Serialize};

use crate::formats::ticket::Key;
use crate::io::tokens::Token;
use crate::model::{BlobId, VolunteerId};
use crate::roles::serve::state::Server;

/// Volunteers' names under one token: a site may give all its machines the same.
const MAX_NAMES: usize = 256;

/// Kind of the database's records of volunteers.
const RECORD: &str = "volunteer";

/// What the database keeps of a volunteer.
#[derive(Debug, Serialize, Deserialize)]
struct Enrolment {
    token: String,
    key: String,
}

/// A volunteer's key, and whether its name was unknown until now.
#[derive(Debug)]
pub struct Enrolled {
    pub key: BlobId,
    pub is_new: bool,
}

/// The key of a volunteer, made at its first joining. A name belongs to the token that first used it, until
/// that token is revoked. (A key has the form of a digest, so it is stored as one.)
pub fn enrol(server: &Server, id: &str, token: &Token) -> Result<Enrolled, String> {
    let broken = |e: &dyn std::fmt::Display| format!("the server cannot enrol volunteers now ({e})");
    let record = server.db.record(RECORD, id).map_err(|e| broken(&e))?;
    let is_new = record.is_none();
    if let Some(known) = record.and_then(|json| serde_json::from_slice::<Enrolment>(&json).ok()) {
        let tokens = server.tokens.list().map_err(|e| broken(&e))?;
        let is_taken =
            known.token != token.id && tokens.iter().any(|t| t.id == known.token && t.revoked_secs.is_none());
        if is_taken {
            return Err(format!(
                "the name {id} belongs to a volunteer with another token: choose another id"
            ));
        }
        if known.token == token.id
            && let Ok(key) = known.key.parse()
        {
            return Ok(Enrolled { key, is_new });
        }
    }
    if is_new {
        let all = server.db.records(RECORD).map_err(|e| broken(&e))?;
        let of_token = |json: &[u8]| {
            serde_json::from_slice::<Enrolment>(json).is_ok_and(|enrolment| enrolment.token == token.id)
        };
        if all.iter().filter(|(_, json)| of_token(json)).count() >= MAX_NAMES {
            return Err(format!("its token has been used under {MAX_NAMES} names already: ask for another"));
        }
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| broken(&e))?;
    let enrolment = Enrolment { token: token.id.clone(), key: BlobId(key).to_string() };
    let json = serde_json::to_vec(&enrolment).map_err(|e| broken(&e))?;
    server.db.put_records(RECORD, [(id, Some(json))]).map_err(|e| broken(&e))?;
    Ok(Enrolled { key: BlobId(key), is_new })
}

/// The token under which a volunteer was last enrolled. Blocks.
pub fn enrolled_token(server: &Server, id: &VolunteerId) -> Option<String> {
    let record = server.db.record(RECORD, id.as_str()).ok()??;
    serde_json::from_slice::<Enrolment>(&record).ok().map(|enrolment| enrolment.token)
}

/// The key that signs a volunteer's URLs, whether or not it is connected.
pub fn enrolled_key(server: &Server, id: &VolunteerId) -> Option<Key> {
    let record = server.db.record(RECORD, id.as_str()).ok()??;
    let enrolment = serde_json::from_slice::<Enrolment>(&record).ok()?;
    enrolment.key.parse::<BlobId>().ok().map(|key| Key::new(&key.0))
}
