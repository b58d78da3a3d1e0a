//! One look at the origin: the root files, whether they are new, whole and to be trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::complete::{Plan, complete};
use super::flawed::{self, Waits};
use super::{Looked, RefreshError, adopt};
use crate::catalog::{Draft, IngestError, RootFile, TrustError, Unit, UnitKey, UnitKind, without_stale};
use crate::io::clock;
use crate::io::upstream::UpstreamError;
use crate::model::{BlobId, RepoPath};
use crate::roles::serve::metadata::origin::{self, OriginError, RootRead};
use crate::roles::serve::metadata::repo::{Partial, Repo};
use crate::roles::serve::metadata::validator::Validator;
use crate::roles::serve::state::Server;

/// Attempts to catch an upstream between two of its own updates.
const ATTEMPTS: usize = 3;
const FIRST_ATTEMPTS: usize = 12;
const PAUSE: Duration = Duration::from_millis(500);
/// Without a generation to fall back on, one that stands still for so long is taken as it is: many mirrors
/// carry only some of the architectures that their Release lists.
const SETTLE_FIRST_AFTER: Duration = Duration::from_secs(3);

/// The root files of a unit as one upstream has them now.
#[derive(Debug, Default)]
struct Roots {
    files: Vec<RootFile>,
    /// Why a file that may be missing was not given.
    forbidden: Option<RefreshError>,
    validators: BTreeMap<RepoPath, Validator>,
}

/// How often to try within one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tries {
    /// Once, at each upstream: others wait for this look to end.
    Once,
    /// As often as it may take to catch an origin between two of its own updates.
    Several,
}

/// Tries upstreams in order, more than once each if it takes that to find a whole generation.
pub async fn look(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    current: Option<&Arc<Unit>>,
    tries: Tries,
) -> Result<(), RefreshError> {
    let bases = order(server, repo);
    let look = Look { server, repo, key, current };
    let mut missing = 0;
    let mut attempt = 0;
    loop {
        let turn = Turn {
            base: bases[attempt % bases.len()],
            is_last_base: attempt + 1 >= bases.len(),
            is_last: attempt + 1 >= ATTEMPTS.max(bases.len()),
        };
        let tried = look.once(turn).await;
        attempt += 1;
        let Err(e) = tried else { return Ok(()) };
        let is_missing = matches!(e, RefreshError::NotFound(_));
        missing += usize::from(is_missing);
        // Missing only if every upstream says so, and no other failed.
        let is_known_missing = is_missing && attempt >= bases.len() && missing == attempt;
        // What is to be waited for was waited for already, unless it is too long.
        let is_busy = e.is_busy() && attempt >= bases.len();
        let most = if tries == Tries::Once { 1 } else { look.attempts(&e) };
        if is_known_missing || is_busy || attempt >= most.max(bases.len()) {
            return Err(e);
        }
        tracing::debug!(repo = repo.config.name, unit = %key, attempt, error = %e, "trying again");
        // Another upstream may be whole at once; the same one needs time.
        if attempt >= bases.len() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Positions of the upstreams, those that failed recently last. A tree counts as one.
fn order(server: &Server, repo: &Repo) -> Vec<usize> {
    match repo.upstreams() {
        [] => vec![0],
        urls => server.upstream.order(urls),
    }
}

/// One attempt of several.
#[derive(Clone, Copy, Debug)]
struct Turn {
    base: usize,
    /// Every upstream was asked, this one the last.
    is_last_base: bool,
    /// There will be no further attempt soon.
    is_last: bool,
}

/// What is looked at.
struct Look<'a> {
    server: &'a Arc<Server>,
    repo: &'a Repo,
    key: &'a UnitKey,
    current: Option<&'a Arc<Unit>>,
}

impl Look<'_> {
    /// How often to try. Without a generation to fall back on, an update that is under way is worth waiting for.
    fn attempts(&self, error: &RefreshError) -> usize {
        let trouble = self.repo.with_unit(self.key, |state| state.trouble.clone());
        match (self.current, trouble) {
            (Some(_), _) => ATTEMPTS,
            (None, Some(trouble)) if Looked::of(Some(&trouble)) == Looked::Refused => 1,
            (None, _) if error.is_of_update() => FIRST_ATTEMPTS,
            (None, _) => ATTEMPTS,
        }
    }

    /// What a generation is to wait for.
    fn waits(&self, first: BlobId, is_last: bool) -> Waits {
        let is_time = if self.current.is_some() { is_last } else { self.is_partial_for_long(first) };
        if is_time { Waits::ForNeeded(flawed::patience(self.repo)) } else { Waits::ForAll }
    }

    async fn once(&self, turn: Turn) -> Result<(), RefreshError> {
        let Self { server, repo, key, current } = *self;
        if let Some(unit) = current {
            flawed::try_again(server, repo, unit).await;
        }
        let reader = Reader { server, repo, key, current, base: turn.base };
        let Some(Roots { files: roots, forbidden, validators }) = reader.read_new().await? else {
            repo.with_unit(key, |state| state.partial = None);
            self.forget_flaws();
            return Ok(());
        };
        let Some(first) = roots.first().map(|root| root.root.blob.id) else {
            return Err(forbidden.unwrap_or_else(|| RefreshError::NotFound(key.to_string())));
        };
        let now_secs = clock::now().as_secs();
        let settle = self.is_partial_for_long(first);
        // What the generation before had comes last in many an update: a detached signature, mostly.
        let is_there = |path: &RepoPath| roots.iter().any(|root| root.path == *path);
        if !settle && current.is_some_and(|unit| unit.roots.keys().any(|path| !is_there(path))) {
            self.note_partial(first);
            return Err(RefreshError::Changing(key.to_string()));
        }
        let read = roots.clone();
        let judged = judge(server, repo, key, roots, now_secs, settle).await;
        let (draft, roots) = judged.inspect_err(|_| self.note_partial(first))?;
        let wanted = draft.wanted(&repo.warm(key));
        let learned = repo.with_unit(key, |state| state.learned.clone());
        let has_all = |unit: &Arc<Unit>| wanted.iter().all(|step| has_read(unit, &step.stem, &learned));
        if current.is_some_and(|unit| is_of(unit, &roots) && has_all(unit)) {
            repo.with_unit(key, |state| {
                state.validators = validators;
                state.is_checked = true;
                state.partial = None;
            });
            self.forget_flaws();
            return Ok(());
        }
        self.check_dates(&draft, turn, now_secs)?;
        // Several files make one generation: an update in between shows in a second reading.
        if reader.read_all().await?.files != read {
            return Err(RefreshError::Changing(key.to_string()));
        }
        let plan = Plan {
            wanted,
            held: draft.to_hold(&repo.asked(key, now_secs)),
            usual: draft.usual(&repo.warm(key)),
            current,
            needed: repo.needed(key, now_secs),
            waits: self.waits(first, turn.is_last),
            settle,
            generation: current.map_or(1, |unit| unit.generation + 1),
            adopted_secs: now_secs,
        };
        let unit = complete(server, repo, draft, plan).await.inspect_err(|_| self.note_partial(first))?;
        adopt(server, repo, unit).await?;
        repo.with_unit(key, |state| {
            state.validators = validators;
            state.is_checked = true;
            state.partial = None;
        });
        Ok(())
    }

    /// Whether the dates let it follow. What apt would refuse is passed on all the same where neither the generation
    /// before nor another upstream is better: apt itself says what is wrong, and a client that does not check is served.
    fn check_dates(&self, draft: &Draft, turn: Turn, now_secs: u64) -> Result<(), TrustError> {
        let Self { repo, key, .. } = *self;
        let current = self.current.map(AsRef::as_ref);
        let trust = &repo.trust;
        let checked = trust.check_expiry(key, draft.unreadable_until());
        match checked.and_then(|()| trust.check_dates(key, draft.dates(), current, now_secs)) {
            Err(e @ TrustError::Older { .. }) => Err(e),
            Err(error) if turn.is_last_base && trust.has_nothing_to_keep(current, now_secs) => {
                let (repo, unit) = (repo.config.name.as_str(), key.to_string());
                tracing::warn!(repo, unit, %error, "passed on to clients, which may refuse it: there is nothing better");
                Ok(())
            }
            checked => checked,
        }
    }

    /// The origin has the adopted generation: flaws of another one that was held back are over.
    fn forget_flaws(&self) {
        if let Some(unit) = self.current {
            flawed::keep_those_of(self.server, self.repo, unit);
        }
    }

    /// Notes since when the origin has been between two generations.
    fn note_partial(&self, first: BlobId) {
        let now = clock::now();
        self.repo.with_unit(self.key, |state| {
            let always_since = state.partial.map_or(now, |partial| partial.always_since);
            let is_same = |partial: &Partial| partial.first == first;
            let since = state.partial.filter(is_same).map_or(now, |partial| partial.since);
            state.partial = Some(Partial { first, since, always_since });
        });
    }

    /// Whether it has been like that for so long that it is no update: with a generation to fall back on, whatever
    /// else was published meanwhile; without one, with these very root files.
    fn is_partial_for_long(&self, first: BlobId) -> bool {
        let Some(partial) = self.repo.unit_state(self.key).partial else { return false };
        let (since, patience) = match self.current {
            Some(_) => (partial.always_since, flawed::patience(self.repo)),
            None => (partial.since, SETTLE_FIRST_AFTER),
        };
        let now = clock::now();
        (self.current.is_some() || partial.first == first) && since <= now && now.since(since) >= patience
    }
}

/// Checks signatures and reads the root files: some milliseconds, for a thread that may block. Returns those
/// that count, too.
async fn judge(
    server: &Arc<Server>,
    repo: &Repo,
    key: &UnitKey,
    mut roots: Vec<RootFile>,
    now_secs: u64,
    settle: bool,
) -> Result<(Draft, Vec<RootFile>), RefreshError> {
    let (server, index, key) = (server.clone(), repo.index, key.clone());
    let has_current = repo.snapshot().unit(&key).is_some();
    let judge = move || {
        let trust = &server.repos[index].trust;
        roots = trust.without_unread(roots, now_secs);
        match trust.check_signatures(&key, &roots, now_secs) {
            // Some mirrors leave an old Release.gpg behind: nobody gets it from here.
            Err(e @ (TrustError::StaleSignature { .. } | TrustError::Frame { .. }))
                if settle && (!has_current || matches!(e, TrustError::StaleSignature { .. })) =>
            {
                roots = without_stale(roots);
                trust.check_signatures(&key, &roots, now_secs)?;
            }
            checked => checked?,
        }
        let draft = match Draft::new(key.clone(), roots.clone()) {
            // Or an old Release beside an InRelease.
            Err(IngestError::Mixed { .. }) if settle => {
                roots = without_stale(roots);
                Draft::new(key, roots.clone())?
            }
            draft => draft?,
        };
        Ok((draft, roots))
    };
    tokio::task::spawn_blocking(judge).await.map_err(RefreshError::internal)?
}

/// What was absent counts as read, until a client got it nevertheless.
fn has_read(unit: &Unit, stem: &str, learned: &BTreeSet<String>) -> bool {
    unit.stems.contains(stem) || (unit.absent.contains(stem) && !learned.contains(stem))
}

fn is_of(unit: &Unit, roots: &[RootFile]) -> bool {
    unit.roots.len() == roots.len() && roots.iter().all(|root| unit.roots.get(&root.path) == Some(&root.root))
}

/// Reads the root files of one unit at one upstream.
struct Reader<'a> {
    server: &'a Server,
    repo: &'a Repo,
    key: &'a UnitKey,
    current: Option<&'a Arc<Unit>>,
    base: usize,
}

impl Reader<'_> {
    /// The root files; `None` if the first of them, which stands for all, is the one already adopted and
    /// nothing more is to be learned from its generation.
    async fn read_new(&self) -> Result<Option<Roots>, RefreshError> {
        let known = self.repo.unit_state(self.key).validators;
        let mut roots = Roots::default();
        for (path, must_exist) in root_paths(self.repo, self.key) {
            let is_first = roots.files.is_empty();
            self.read_one(&mut roots, path, must_exist, &known).await?;
            if let (true, Some(first), Some(unit)) = (is_first, roots.files.first(), self.current)
                && self.key.kind != UnitKind::Checksums
                && unit.roots.get(&first.path) == Some(&first.root)
                && self.is_learned(unit)
            {
                return Ok(None);
            }
        }
        Ok(Some(roots))
    }

    /// All root files, whatever is known of them.
    async fn read_all(&self) -> Result<Roots, RefreshError> {
        let mut roots = Roots::default();
        for (path, must_exist) in root_paths(self.repo, self.key) {
            self.read_one(&mut roots, path, must_exist, &BTreeMap::new()).await?;
        }
        Ok(roots)
    }

    async fn read_one(
        &self,
        roots: &mut Roots,
        path: RepoPath,
        must_exist: bool,
        known: &BTreeMap<RepoPath, Validator>,
    ) -> Result<(), RefreshError> {
        let adopted = self.current.and_then(|unit| unit.roots.get(&path));
        // Without the adopted bytes at hand "unchanged" would be no answer.
        let validator = adopted.and_then(|_| known.get(&path));
        let origin = &self.repo.config.origin;
        let read = origin::read_root(origin, &self.server.upstream, self.base, &path, validator).await;
        let read = match read {
            // Object stores say "forbidden" for what does not exist; of what was there it is a failure.
            Err(e) if is_forbidden(&e) && !must_exist && adopted.is_none() => {
                roots.forbidden = Some(e.into());
                RootRead::Missing
            }
            read => read?,
        };
        match (read, adopted, validator) {
            (RootRead::Bytes(bytes, validator), _, _) => {
                roots.validators.extend(validator.map(|validator| (path.clone(), validator)));
                roots.files.push(RootFile::new(path, bytes));
            }
            (RootRead::Unchanged, Some(root), Some(validator)) => {
                roots.validators.insert(path.clone(), validator.clone());
                roots.files.push(RootFile { path, root: root.clone() });
            }
            (RootRead::Unchanged, ..) => return Err(RefreshError::Internal(format!("{path}: 304 unasked"))),
            (RootRead::Missing, ..) if must_exist => return Err(RefreshError::NotFound(path.to_string())),
            (RootRead::Missing, ..) => {}
        }
        Ok(())
    }

    /// Whether the unit has read every family that the configuration wants and clients asked for since.
    fn is_learned(&self, unit: &Unit) -> bool {
        let is_read = |stem: &String| unit.stems.contains(stem);
        self.repo.with_unit(self.key, |state| state.is_checked && state.learned.iter().all(is_read))
    }
}

fn is_forbidden(error: &OriginError) -> bool {
    let forbidden = [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED];
    matches!(error, OriginError::Upstream(UpstreamError::Status { status, .. }) if forbidden.contains(status))
}

fn root_paths(repo: &Repo, key: &UnitKey) -> Vec<(RepoPath, bool)> {
    if key.kind != UnitKind::Checksums {
        let valid = |(path, must): (String, bool)| RepoPath::new(&path).ok().map(|path| (path, must));
        return key.roots().into_iter().filter_map(valid).collect();
    }
    let names: Vec<RepoPath> = match repo.tree() {
        Some(tree) => origin::checksum_files_in(tree, &key.dir, &repo.config.profile),
        None => {
            // Names with a wildcard become known when a client asks for one.
            let learned = repo.unit_state(key).learned;
            let plain = repo.config.profile.checksum_files.iter().filter(|name| !name.contains('*'));
            let names = plain.chain(&learned).filter_map(|name| RepoPath::new(name).ok());
            names.map(|name| name.under(&key.dir)).collect()
        }
    };
    names.into_iter().map(|path| (path, false)).collect()
}
