//! One mounted repository at run time: its snapshot and what is known about its units' freshness.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;

use super::refresh::Known;
use super::validator::Validator;
use crate::catalog::{Named, Needed, Snapshot, Trust, Unit, UnitKey, Warm};
use crate::config::{Layout, Origin, RepoConfig};
use crate::io::hush::Hush;
use crate::model::{BlobId, Digest, Expected, RepoPath, Time};

/// A client's request for a root file makes the server look at the origin again if its last look is older.
/// Upstreams are asked rarely: a crowd refreshing must not become our upstream's crowd.
const FRESH_UPSTREAM: Duration = Duration::from_secs(20);
/// A local tree costs one read.
const FRESH_TREE: Duration = Duration::from_secs(2);
/// Units remembered per repository, missing ones included: a client that asks for random suites must not
/// fill our memory.
const MAX_UNITS: usize = 4096;
/// Clients ask for a handful of suites at once.
const DISCOVERIES: usize = 16;
/// Members of one unit that are fetched before clients ask again: clients of many languages and
/// architectures together ask for some hundred.
const MAX_ASKED: usize = 1024;
/// Reasons that are logged for one outage: every poll may have another one.
const MAX_TOLD: usize = 3;
/// A member that nobody has requested for two weeks is fetched only on request.
const ASKED_SECS: u64 = 14 * 86_400;

/// What is known about one unit besides its metadata.
#[derive(Clone, Debug, Default)]
pub struct UnitState {
    /// When the origin was last looked at, and what went wrong.
    pub looked: Option<Time>,
    pub trouble: Option<Trouble>,
    /// A generation of it was adopted.
    is_adopted: bool,
    /// A look since the start has found it current with all that the configuration wants.
    pub is_checked: bool,
    /// Index families that clients asked for.
    pub learned: BTreeSet<String>,
    /// Members that clients asked for, as [`Unit::member_name`] calls them, and when last, in seconds since
    /// 1970: the next generation is adopted with them at hand.
    pub asked: BTreeMap<String, u64>,
    /// The origin is between two generations.
    pub partial: Option<Partial>,
    /// The generation whose expiry was logged.
    pub told_expiry: Option<u64>,
    /// What the origin has wrong, by name.
    pub flaws: BTreeMap<String, Known>,
    /// What the upstream said about the root files of the current generation.
    pub validators: BTreeMap<RepoPath, Validator>,
    /// Generations that have an index file, and whether it is that of a retired one.
    indexed: BTreeMap<u64, bool>,
    /// The next generation is whole: copies of its hot files that it waits for, and until when at the latest.
    pub gate: Option<(u64, Time)>,
    /// Held while the unit is being refreshed.
    pub refreshing: Arc<tokio::sync::Mutex<()>>,
}

/// Why the last look at a unit brought nothing.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub text: String,
    /// When looks began to fail.
    pub since: Time,
    pub kind: TroubleKind,
    /// The reasons that the log has since then, at most [`MAX_TOLD`].
    pub told: BTreeSet<String>,
}

/// What a client may expect of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// The origin does not have the unit.
    Missing,
    /// An update under way looks like this.
    Passing,
    /// The origin does not answer.
    Outage,
    /// What the origin has is of no use, and waiting does not change that.
    Refused,
}

/// A generation that is not whole.
#[derive(Clone, Copy, Debug)]
pub struct Partial {
    /// Its first root file, and since when it has been like that.
    pub first: BlobId,
    pub since: Time,
    /// Since when every look has found one.
    pub always_since: Time,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Repo {
    /// Position in the server's list.
    pub index: usize,
    pub config: RepoConfig,
    pub trust: Trust,
    snapshot: ArcSwap<Snapshot>,
    units: Mutex<BTreeMap<UnitKey, UnitState>>,
    /// Units that the configuration names or the tree has, served or not.
    found: Mutex<BTreeSet<UnitKey>>,
    /// Generations that are whole and not yet visible.
    pending: Mutex<BTreeMap<UnitKey, Arc<Unit>>>,
    is_warm: tokio::sync::watch::Sender<bool>,
    /// Looks at units that are not known yet: whoever asks for random names must not flood the upstream.
    pub discoveries: tokio::sync::Semaphore,
    /// Files that no metadata names cannot be had.
    pub passing_trouble: Hush,
}

impl Repo {
    pub fn new(index: usize, config: RepoConfig, trust: Trust) -> Self {
        let is_warm = tokio::sync::watch::Sender::new(false);
        Self {
            index,
            config,
            trust,
            snapshot: ArcSwap::default(),
            units: Mutex::default(),
            found: Mutex::default(),
            pending: Mutex::default(),
            is_warm,
            discoveries: tokio::sync::Semaphore::new(DISCOVERIES),
            passing_trouble: Hush::default(),
        }
    }

    /// Everything that is read at startup was read.
    pub fn set_warm(&self) {
        self.is_warm.send_replace(true);
    }

    pub fn is_warm(&self) -> bool {
        *self.is_warm.borrow()
    }

    /// Notes that a generation waits to become visible, or no longer.
    pub fn set_pending(&self, key: &UnitKey, unit: Option<Arc<Unit>>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match unit {
            Some(unit) => _ = pending.insert(key.clone(), unit),
            None => _ = pending.remove(key),
        }
    }

    /// Where a blob is in a generation that is not yet visible.
    pub fn pending_path_of(&self, digest: &Digest) -> Option<(String, Expected)> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.values().find_map(|unit| unit.packages.path_of(digest))
    }

    /// Waits until that is so, for a while; true if there was something to wait for.
    pub async fn wait_warm(&self, patience: Duration) -> bool {
        if self.is_warm() {
            return false;
        }
        let mut warm = self.is_warm.subscribe();
        tokio::time::timeout(patience, warm.wait_for(|is_warm| *is_warm)).await.is_ok()
    }

    /// The snapshot that clients see now.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub fn tree(&self) -> Option<&Path> {
        match &self.config.origin {
            Origin::Tree(tree) => Some(tree),
            Origin::Upstream(_) => None,
        }
    }

    pub fn upstreams(&self) -> &[String] {
        match &self.config.origin {
            Origin::Tree(_) => &[],
            Origin::Upstream(urls) => urls,
        }
    }

    /// How old the last look at the origin may be when a client asks.
    pub fn fresh_for(&self) -> Duration {
        if self.tree().is_some() { FRESH_TREE } else { FRESH_UPSTREAM }
    }

    /// Makes generations of one unit the retained ones, the first the current one, in one step.
    pub fn adopt(&self, generations: &VecDeque<Arc<Unit>>) {
        let Some(unit) = generations.front() else { return };
        self.snapshot.rcu(|snapshot| snapshot.adopt(generations.clone()));
        self.with_unit(&unit.key, |state| state.is_adopted = true);
    }

    /// Whether the unit has an index file as it is now.
    pub fn is_indexed(&self, unit: &Unit) -> bool {
        self.unit_state(&unit.key).indexed.get(&unit.generation) == Some(&unit.is_retired)
    }

    pub fn set_indexed(&self, unit: &Unit) {
        self.with_unit(&unit.key, |state| state.indexed.insert(unit.generation, unit.is_retired));
    }

    /// Generations that have an index file and are no longer retained; they count as having none from now on.
    pub fn forget_indexed(&self, key: &UnitKey) -> Vec<u64> {
        let retained: BTreeSet<u64> = self.snapshot().generations(key).map(|unit| unit.generation).collect();
        self.with_unit(key, |state| {
            let gone = state.indexed.keys().filter(|generation| !retained.contains(generation));
            let gone: Vec<u64> = gone.copied().collect();
            state.indexed.retain(|generation, _| retained.contains(generation));
            gone
        })
    }

    /// What is known of a unit; a default for one never seen.
    pub fn unit_state(&self, key: &UnitKey) -> UnitState {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    pub fn with_unit<T>(&self, key: &UnitKey, change: impl FnOnce(&mut UnitState) -> T) -> T {
        let mut units = self.lock();
        if units.len() >= MAX_UNITS && !units.contains_key(key) {
            units.retain(|_, state| state.is_adopted || state.refreshing.try_lock().is_err());
        }
        change(units.entry(key.clone()).or_default())
    }

    /// Notes how a poll ended, in `trouble` or none. An outage is logged once for each of its reasons,
    /// however these alternate. Returns the previous trouble, and whether to log this one.
    pub fn note_look(
        &self,
        key: &UnitKey,
        trouble: Option<(TroubleKind, String)>,
        now: Time,
    ) -> (Option<Trouble>, bool) {
        let known = if trouble.is_some() { self.keys() } else { BTreeSet::new() };
        let is_named = self.is_named(key);
        let mut units = self.lock();
        let before = units.get(key).and_then(|state| state.trouble.clone());
        let Some((kind, text)) = trouble else {
            units.entry(key.clone()).or_default().trouble = None;
            return (before, false);
        };
        let lasting = before.as_ref().filter(|trouble| trouble.kind != TroubleKind::Missing);
        let since = lasting.map_or(now, |trouble| trouble.since.min(now));
        let mut told = before.as_ref().map(|trouble| trouble.told.clone()).unwrap_or_default();
        // What clients ask for may be any name: of all these one line is enough. And where the origin does not answer,
        // it answers for none of its units.
        let is_same = |other: &UnitKey| match known.contains(key) {
            true => kind == TroubleKind::Outage && known.contains(other),
            false => true,
        };
        let is_told = |trouble: &Trouble| trouble.kind == kind && !trouble.told.is_empty();
        let is_told = units.iter().any(|(other, state)| {
            other != key && is_same(other) && state.trouble.as_ref().is_some_and(is_told)
        });
        let is_of_interest = (kind != TroubleKind::Missing || is_named) && told.len() < MAX_TOLD;
        let is_news = is_of_interest && !is_told && told.insert(text.clone());
        units.entry(key.clone()).or_default().trouble = Some(Trouble { text, since, kind, told });
        (before, is_news)
    }

    /// Whether the administrator has named this unit, rather than a profile, a tree or a client.
    pub fn is_named(&self, key: &UnitKey) -> bool {
        let RepoConfig { profile, named, .. } = &self.config;
        named.suites && profile.suites.iter().any(|suite| UnitKey::of_suite(suite, profile.layout) == *key)
    }

    /// Units that are looked at, and others that clients asked for in vain: at most so many of these.
    pub fn shown_keys(&self, most: usize) -> BTreeSet<UnitKey> {
        let mut keys = self.keys();
        let is_failing = |state: &UnitState| {
            state.trouble.as_ref().is_some_and(|trouble| trouble.kind != TroubleKind::Missing)
        };
        let units = self.lock();
        let failing = units.iter().filter(|(key, state)| is_failing(state) && !keys.contains(*key));
        let failing: Vec<UnitKey> = failing.map(|(key, _)| key.clone()).take(most).collect();
        keys.extend(failing);
        keys
    }

    /// What is said of a file that the origin has damaged. zypper repeats 502, 503 and 504 for as long as it gets them
    /// (measured), where the damaged file itself would have ended it: of rpm-md it is 404.
    pub fn status_of_damage(&self) -> StatusCode {
        match self.config.profile.layout {
            Layout::RpmMd => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Notes that a client asked for a member.
    pub fn note_asked(&self, unit: &Unit, path: &RepoPath, now_secs: u64) {
        let name = unit.member_name(path);
        self.with_unit(&unit.key, |state| {
            if state.asked.len() < MAX_ASKED || state.asked.contains_key(name) {
                state.asked.insert(name.to_owned(), now_secs);
            }
        });
    }

    /// Members that clients asked for recently; others are forgotten.
    pub fn asked(&self, key: &UnitKey, now_secs: u64) -> BTreeSet<String> {
        self.with_unit(key, |state| {
            state.asked.retain(|_, last| now_secs.saturating_sub(*last) < ASKED_SECS);
            state.asked.keys().cloned().collect()
        })
    }

    /// Which package lists of a unit are read.
    pub fn warm(&self, key: &UnitKey) -> Warm {
        let profile = &self.config.profile;
        let learned = self.unit_state(key).learned;
        match self.config.origin {
            // A local tree costs no transfer: read everything.
            Origin::Tree(_) => Warm { sources: true, learned, ..Warm::default() },
            Origin::Upstream(_) => Warm {
                components: profile.components.clone(),
                architectures: profile.architectures.clone(),
                sources: false,
                learned,
            },
        }
    }

    /// What clients of a unit rely on.
    pub fn needed(&self, key: &UnitKey, now_secs: u64) -> Needed {
        let profile = &self.config.profile;
        let warm = Warm {
            components: profile.components.clone(),
            architectures: profile.architectures.clone(),
            sources: false,
            learned: self.unit_state(key).learned,
        };
        Needed { warm, asked: self.asked(key, now_secs) }
    }

    /// Units to look at without being asked: those that are served, and those that should be.
    pub fn keys(&self) -> BTreeSet<UnitKey> {
        let served = self.snapshot();
        let served = served.units().map(|unit| unit.key.clone());
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().cloned().chain(served).collect()
    }

    /// Notes units that the configuration names or the tree has.
    pub fn set_found(&self, keys: &[UnitKey]) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        *found = keys.iter().take(MAX_UNITS).cloned().collect();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UnitKey, UnitState>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a path is named by the snapshot, without borrowing it.
pub fn is_named(repo: &Repo, path: &RepoPath) -> bool {
    !matches!(repo.snapshot().resolve(path), Named::Unknown | Named::Unlisted { .. })
}
