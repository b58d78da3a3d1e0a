//! What is known of members that the origin has wrong: since when, and whether it has them right by now.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::complete::{fetch_member, is_held};
use crate::catalog::{Bounds, Flaw, Unit, UnitKey, UnitKind};
use crate::formats::compress::Compression;
use crate::io::clock;
use crate::io::fetch::FetchError;
use crate::model::{Expected, RepoPath, Time};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// Polls for which a member that clients rely on holds a generation back.
const POLLS: u32 = 3;
/// The same in time: an update of a large mirror takes minutes.
const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(600);
/// Flaws looked at again with one look: each costs a request.
const RETRIES: usize = 8;
/// Flaws remembered of one unit, and listed in its status: more are a broken mirror.
const MAX_FLAWS: usize = 1000;

/// What is remembered of a flaw between looks.
#[derive(Clone, Debug)]
pub struct Known {
    pub since: Time,
    pub reason: String,
    is_list: bool,
    is_final: bool,
    tried: Time,
}

impl Known {
    /// Only another generation can mend it.
    pub fn is_final(&self) -> bool {
        self.is_final
    }
}

/// What a generation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nobody can be asked.
    Never,
    /// What clients rely on, so long.
    ForNeeded(Duration),
    /// Everything, as long as this continues.
    ForAll,
}

impl Waits {
    pub fn bounds(self) -> Bounds {
        let (for_needed, for_all) = match self {
            Self::Never => (Duration::ZERO, false),
            Self::ForNeeded(time) => (time, false),
            Self::ForAll => (Duration::MAX, true),
        };
        Bounds { now: clock::now(), for_needed, for_all }
    }
}

/// How long clients are kept on the generation before for the sake of something that they rely on.
pub fn patience(repo: &Repo) -> Duration {
    (repo.config.poll * POLLS).clamp(SHORTEST, LONGEST)
}

/// Notes what is wrong now, and dates each flaw from when it was first seen, in this generation or an earlier one.
/// What is not among them is right.
pub fn note(repo: &Repo, key: &UnitKey, flaws: &mut [Flaw]) {
    let now = clock::now();
    repo.with_unit(key, |state| {
        let before = std::mem::take(&mut state.flaws);
        for flaw in flaws.iter_mut().take(MAX_FLAWS) {
            // A clock that was set back must not make it wait longer.
            let first = before.get(&flaw.name).map_or(now, |known| known.since.min(now));
            flaw.since = first;
            let Flaw { is_list, is_final, .. } = *flaw;
            let known = Known { since: first, reason: flaw.reason.clone(), is_list, is_final, tried: now };
            state.flaws.insert(flaw.name.clone(), known);
        }
    });
}

/// Says what an adopted generation lacks.
pub fn report(repo: &Repo, key: &UnitKey, flaws: &[Flaw]) {
    let name = repo.config.name.as_str();
    for flaw in flaws.iter().filter(|flaw| flaw.is_needed) {
        tracing::warn!(
            repo = name, unit = %key, member = flaw.name, reason = flaw.reason,
            "adopting without a file that clients use: the origin has had it wrong for too long"
        );
    }
    if let Some(first) = flaws.iter().find(|flaw| !flaw.is_needed) {
        let count = flaws.iter().filter(|flaw| !flaw.is_needed).count();
        tracing::warn!(
            repo = name, unit = %key, count, first = first.name, reason = first.reason,
            "some files at the origin do not match its metadata; only requests for these fail"
        );
    }
}

/// Asks again for some of what the adopted generation lacks, once a poll. A list that can be had now counts as asked
/// for, so that this look reads it.
pub async fn try_again(server: &Arc<Server>, repo: &Repo, unit: &Unit) {
    let now = clock::now();
    // Flaws of one that is held back are found with it.
    let lacking = lacking(server, repo, unit);
    let due = repo.with_unit(&unit.key, |state| {
        let is_due = |known: &Known| {
            !known.is_final && (known.tried > now || now.since(known.tried) >= repo.config.poll)
        };
        let due = state.flaws.iter().filter(|(name, known)| is_due(known) && lacking.contains(*name));
        let mut due: Vec<(Time, String)> = due.map(|(name, known)| (known.tried, name.clone())).collect();
        due.sort();
        due.truncate(RETRIES);
        for (_, name) in &due {
            state.flaws.entry(name.clone()).and_modify(|known| known.tried = now);
        }
        due
    });
    for (_, name) in due {
        let can_be_had = match ask(server, repo, unit, &name).await {
            Ok(can_be_had) => can_be_had,
            // It does not answer: the look itself says so.
            Err(FetchError::Upstream(_)) => return,
            Err(_) => false,
        };
        if can_be_had {
            tracing::info!(repo = repo.config.name, unit = %unit.key, member = name, "the origin has a good file again");
            repo.with_unit(&unit.key, |state| {
                let known = state.flaws.remove(&name);
                if known.is_some_and(|known| known.is_list) && unit.key.kind != UnitKind::RpmMd {
                    state.learned.insert(name);
                }
            });
        }
    }
}

/// Whether the origin has one of the files that a flaw's name stands for.
async fn ask(server: &Arc<Server>, repo: &Repo, unit: &Unit, name: &str) -> Result<bool, FetchError> {
    for (path, expected) in files_of(unit, name) {
        match fetch_member(server, repo, &path, expected, unit.has_by_hash).await {
            Ok(_) => return Ok(true),
            Err(e @ FetchError::Upstream(_)) => return Err(e),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// Names of flaws that the adopted generation has.
fn lacking(server: &Server, repo: &Repo, unit: &Unit) -> BTreeSet<String> {
    let known = repo.unit_state(&unit.key).flaws;
    let is_lacking = |name: &String, known: &Known| match known.is_list {
        true => unit.absent.contains(name),
        false => !is_held(server, unit, name),
    };
    known.into_iter().filter(|(name, known)| is_lacking(name, known)).map(|(name, _)| name).collect()
}

/// Forgets flaws of a generation that was held back and is gone.
pub fn keep_those_of(server: &Server, repo: &Repo, unit: &Unit) {
    let lacking = lacking(server, repo, unit);
    repo.with_unit(&unit.key, |state| state.flaws.retain(|name, _| lacking.contains(name)));
}

/// The files, any of which will do, that a flaw's name stands for in this generation.
fn files_of(unit: &Unit, name: &str) -> Vec<(RepoPath, Expected)> {
    let of_kind = unit.kinds.iter().filter(|(_, kind)| *kind == name).map(|(path, _)| path.clone());
    let file = |name: String| Some((RepoPath::new(&name).ok()?, unit.members.get(&name)?));
    of_kind.chain(Compression::names(name)).filter_map(file).collect()
}
