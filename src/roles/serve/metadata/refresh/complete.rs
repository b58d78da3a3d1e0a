//! From a draft to a whole generation: its members fetched, verified and read, and a judgement of those that the
//! origin has wrong ([`obstacle`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::flawed::{self, Waits};
use super::{RefreshError, unproven};
use crate::catalog::{
    Draft, Flaw, IngestError, Needed, Step, Unit, UnitKey, UnitKind, Whole, by_hash_path, obstacle, stem_of,
};
use crate::config::Origin;
use crate::io::clock;
use crate::io::fetch::{Content, FetchError, Source};
use crate::io::store::{BlobStore, VerifyError};
use crate::model::{Blob, Expected, RepoPath, Size};
use crate::roles::serve::metadata::origin;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// Members of one generation fetched at a time: hides latency, spares the upstream.
const PARALLEL: usize = 4;
/// Largest package list read, compressed or not: it is read in memory. The largest known have some 100 MB.
pub(super) const MAX_LIST: u64 = 512 << 20;
/// Largest member taken whose metadata gives no size: lists of all files, the largest of which have some 300 MB.
const MAX_UNSIZED: u64 = 2 << 30;
/// Members that may fail because the origin does not answer before the rest is left for another time: each
/// costs seconds.
const MAX_UNANSWERED: usize = 8;

/// What it takes to make a generation of a draft.
pub struct Plan<'a> {
    pub wanted: Vec<Step>,
    /// Other members to have at hand when the generation is adopted: clients will ask for them, and the
    /// origin may have replaced them by then.
    pub held: Vec<(RepoPath, Expected)>,
    /// The same, of which any of a family will do and none is missed.
    pub usual: Vec<Step>,
    pub current: Option<&'a Arc<Unit>>,
    pub needed: Needed,
    pub waits: Waits,
    /// The origin has been like this for so long that what only some clients refuse is no reason.
    pub settle: bool,
    pub generation: u64,
    pub adopted_secs: u64,
}

/// Fetches and reads what the draft wants; parsing runs on a thread that may block.
pub async fn complete(
    server: &Arc<Server>,
    repo: &Repo,
    draft: Draft,
    plan: Plan<'_>,
) -> Result<Unit, RefreshError> {
    let Plan { wanted, held, usual, current, needed, waits, settle, generation, adopted_secs } = plan;
    let key = draft.key().clone();
    let mut work = Work {
        server,
        repo,
        current,
        by_hash: draft.has_by_hash(),
        kinds: draft.kinds().clone(),
        key,
        needed,
        whole: Whole::default(),
        flaws: Vec::new(),
        failures: Vec::new(),
    };
    let mut draft = work.read_lists(draft, wanted).await?;
    work.look_for_lost(&draft)?;
    work.hold(held).await?;
    work.hold_usual(usual).await;
    let Work { key, whole, mut flaws, mut failures, .. } = work;
    flawed::note(repo, &key, &mut flaws);
    if let Some(at) = obstacle(&flaws, whole, waits.bounds()) {
        return Err(failures.swap_remove(at));
    }
    if let Some(problem) = current.and_then(|current| draft.objection(current, settle)) {
        return Err(IngestError::Refused { problem }.into());
    }
    flawed::report(repo, &key, &flaws);
    // Whoever asks for one of them and gets it makes us read it then.
    let lists = flaws.into_iter().filter(|flaw| flaw.is_list).map(|flaw| flaw.name);
    let lists: BTreeSet<String> = lists.filter(|stem| draft.refusal_of(stem).is_none()).collect();
    repo.with_unit(&key, |state| state.learned.retain(|stem| !lists.contains(stem)));
    draft.lacks(lists.into_iter());
    let finish = move || draft.finish(generation, adopted_secs);
    tokio::task::spawn_blocking(finish).await.map_err(RefreshError::internal)
}

/// The making of one generation.
struct Work<'a> {
    server: &'a Arc<Server>,
    repo: &'a Repo,
    current: Option<&'a Arc<Unit>>,
    by_hash: bool,
    kinds: BTreeMap<String, String>,
    key: UnitKey,
    needed: Needed,
    whole: Whole,
    flaws: Vec<Flaw>,
    /// Of each flaw, at the same place.
    failures: Vec<RefreshError>,
}

impl Work<'_> {
    async fn read_lists(&mut self, mut draft: Draft, wanted: Vec<Step>) -> Result<Draft, RefreshError> {
        let (server, repo, by_hash) = (self.server, self.repo, self.by_hash);
        let fetch = |step: Step| async move {
            let fetched = fetch_step(server, repo, &step, by_hash).await;
            (step.stem, fetched)
        };
        let mut fetched = std::pin::pin!(stream::iter(wanted).map(fetch).buffered(PARALLEL));
        while let Some((stem, fetched)) = fetched.next().await {
            let (path, blob) = match fetched {
                Ok(found) => found,
                Err(error) => {
                    self.list_failed(&stem, error)?;
                    continue;
                }
            };
            let store = server.metadata.store.clone();
            let _turn = server.parsing.acquire().await.map_err(RefreshError::internal)?;
            let (list, file, before) = (stem.clone(), path.clone(), draft.entries());
            let read = move || {
                let read = match read_blob(&store, blob) {
                    Some(bytes) => draft.read(&list, &file, &bytes).map_err(RefreshError::from),
                    None => Err(RefreshError::Internal(format!("{file} is gone"))),
                };
                (draft, read)
            };
            let read = tokio::task::spawn_blocking(read).await.map_err(RefreshError::internal)?;
            draft = read.0;
            match read.1 {
                Ok(()) if self.is_lost(&draft, &stem) => {
                    let problem = format!("{stem}: {}", draft.refusal_of(&stem).unwrap_or_default());
                    self.list_lost(&stem, problem)?;
                }
                // Empty ones of source packages are usual, and equal in all generations: they say nothing.
                Ok(()) if draft.entries() == before && !stem.ends_with("/Packages") => {}
                Ok(()) => {
                    self.whole.lists += 1;
                    self.whole.needed_lists += usize::from(self.needed.has_list(&self.key, &stem));
                }
                Err(error) => self.list_failed(&stem, error)?,
            }
        }
        Ok(draft)
    }

    /// Whether apt refuses a list that was read, and took it in the generation before.
    fn is_lost(&self, draft: &Draft, stem: &str) -> bool {
        draft.refusal_of(stem).is_some() && self.current.is_some_and(|current| had(current, stem))
    }

    /// Lists that the generation before had, and that clients would miss.
    fn look_for_lost(&mut self, draft: &Draft) -> Result<(), RefreshError> {
        let Some(current) = self.current else { return Ok(()) };
        for stem in current.stems.iter().filter(|stem| had(current, stem) && draft.misses(stem)) {
            self.list_lost(stem, format!("{stem} is not listed any more, or not so that apt finds it"))?;
        }
        Ok(())
    }

    fn list_lost(&mut self, stem: &str, problem: String) -> Result<(), RefreshError> {
        let is_needed = self.needed.has_list(&self.key, stem);
        let name = self.name_of(stem).to_owned();
        self.failed(name, true, is_needed, IngestError::Refused { problem }.into())
    }

    fn list_failed(&mut self, stem: &str, error: RefreshError) -> Result<(), RefreshError> {
        // A list that is too large to be read here reaches clients all the same. One that they had is more likely
        // to have a wrong size than to have grown so much.
        let is_readable = !matches!(error, RefreshError::TooLarge { .. });
        let had_it = self.current.is_some_and(|current| had(current, stem));
        let is_needed = (is_readable || had_it) && self.needed.has_list(&self.key, stem);
        let was_whole = match self.current {
            Some(current) => current.stems.contains(stem) || self.kinds.contains_key(stem),
            // A mirror may carry only some of the architectures that its signed Release lists.
            None => !error.is_missing_member(),
        };
        let name = self.name_of(stem).to_owned();
        self.failed(name, true, is_needed && was_whole, error)
    }

    fn failed(
        &mut self,
        name: String,
        is_list: bool,
        is_needed: bool,
        error: RefreshError,
    ) -> Result<(), RefreshError> {
        // Our own trouble says nothing of the origin.
        if error.is_ours() {
            return Err(error);
        }
        let (reason, is_final) = (error.to_string(), error.is_final());
        self.flaws.push(Flaw { name, is_list, is_needed, since: clock::now(), reason, is_final });
        self.failures.push(error);
        if self.failures.iter().filter(|error| error.is_unanswered_member()).count() < MAX_UNANSWERED {
            return Ok(());
        }
        flawed::note(self.repo, &self.key, &mut self.flaws);
        Err(self.failures.swap_remove(self.failures.len() - 1))
    }

    /// What a member is called in every generation.
    fn name_of<'a>(&'a self, path: &'a str) -> &'a str {
        self.kinds.get(path).map_or(path, String::as_str)
    }

    async fn hold_usual(&self, usual: Vec<Step>) {
        let (server, repo, by_hash) = (self.server, self.repo, self.by_hash);
        let fetch = |step: Step| async move {
            // Whoever asks for it is told.
            let _ = fetch_step(server, repo, &step, by_hash).await;
        };
        stream::iter(usual).map(fetch).buffer_unordered(PARALLEL).for_each(|()| async {}).await;
    }

    /// Fetches members that nobody reads here, some at a time.
    async fn hold(&mut self, members: Vec<(RepoPath, Expected)>) -> Result<(), RefreshError> {
        let (server, repo, by_hash) = (self.server, self.repo, self.by_hash);
        let fetch = |(path, expected): (RepoPath, Expected)| async move {
            let fetched = fetch_member(server, repo, &path, expected, by_hash).await;
            (path, fetched)
        };
        let mut fetched = std::pin::pin!(stream::iter(members).map(fetch).buffered(PARALLEL));
        while let Some((path, member)) = fetched.next().await {
            let Err(source) = member else { continue };
            let name = self.name_of(path.as_str()).to_owned();
            // The same file again, with what was found wrong with it.
            let is_known = |flaw: &Flaw| flaw.is_list && (flaw.name == stem_of(&path) || flaw.name == name);
            if self.flaws.iter().any(is_known) {
                continue;
            }
            let error = RefreshError::Member { path, source };
            let was_held = match self.current {
                Some(current) => is_held(self.server, current, &name),
                // Nobody has had it from here, and zypper works without one that dnf needs.
                None if self.key.kind == UnitKind::RpmMd => false,
                None => !error.is_missing_member(),
            };
            self.failed(name.clone(), false, self.needed.has_member(&self.key, &name) && was_held, error)?;
        }
        Ok(())
    }
}

/// Whether clients could read a list of this generation.
fn had(current: &Unit, stem: &str) -> bool {
    current.stems.contains(stem) && !current.refused_lists.contains(stem)
}

/// Whether a member of this generation is here, whole.
pub fn is_held(server: &Server, current: &Unit, name: &str) -> bool {
    let expected = current.member_called(name);
    expected.is_some_and(|expected| server.metadata.held(&expected).is_some())
}

pub fn read_blob(store: &BlobStore, blob: Blob) -> Option<Vec<u8>> {
    use std::io::Read;
    let (mut file, size) = store.open_blob(blob.id)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The first of a family's members that can be had.
async fn fetch_step(
    server: &Arc<Server>,
    repo: &Repo,
    step: &Step,
    by_hash: bool,
) -> Result<(RepoPath, Blob), RefreshError> {
    if let Some((path, wanted)) = &step.unproven {
        let fetched = unproven::fetch(server, repo, path, *wanted).await;
        let failed = |source| RefreshError::Member { path: path.clone(), source };
        return fetched.map(|blob| (path.clone(), blob)).map_err(failed);
    }
    let mut last: Option<RefreshError> = None;
    // What is held already comes first: a client has just asked for it, or a restart finds it.
    let (held, others): (Vec<_>, Vec<_>) =
        step.choices.iter().partition(|(_, expected)| server.metadata.held(expected).is_some());
    for (path, expected) in held.into_iter().chain(others) {
        let too_large = || RefreshError::TooLarge { path: path.clone(), limit: Size(MAX_LIST) };
        let error = if expected.size.is_some_and(|size| size > MAX_LIST) {
            too_large()
        } else {
            match fetch_member(server, repo, path, *expected, by_hash).await {
                Ok(blob) if blob.size > MAX_LIST => too_large(),
                Ok(blob) => return Ok((path.clone(), blob)),
                Err(source) => RefreshError::Member { path: path.clone(), source },
            }
        };
        // The best choice's error says most, unless it was only that the file does not exist.
        if last.as_ref().is_none_or(RefreshError::is_missing_member) {
            last = Some(error);
        }
    }
    Err(last.unwrap_or_else(|| RefreshError::Internal(format!("{} has no members", step.stem))))
}

/// A member of a generation, into the metadata store.
pub async fn fetch_member(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    expected: Expected,
    by_hash: bool,
) -> Result<Blob, FetchError> {
    match &repo.config.origin {
        Origin::Upstream(_) => {
            let by_hash = by_hash_path(path, &expected).filter(|_| by_hash);
            let source = origin::source(repo, path, by_hash.as_ref());
            let source = Source { unsized_limit: Some(MAX_UNSIZED), ..source };
            server.metadata.get_whole(expected, source).await
        }
        Origin::Tree(tree) => {
            if let Some(Content::Held { blob, .. }) = server.metadata.held(&expected) {
                return Ok(blob);
            }
            let paths: Vec<RepoPath> =
                std::iter::once(path.clone()).chain(by_hash_path(path, &expected)).collect();
            let (tree, fetcher) = (tree.clone(), server.metadata.clone());
            let ingest = move || {
                let mut last = FetchError::NotFound;
                for path in paths {
                    let Some(found) = origin::open_in_tree(&tree, &path) else { continue };
                    match fetcher.ingest_file(expected, &found.path) {
                        Ok(committed) => return Ok(committed.blob),
                        Err(VerifyError::Store(e)) => return Err(FetchError::Store(e.to_string())),
                        Err(e) => {
                            let url = found.path.display().to_string();
                            last = FetchError::Wrong { url, problem: e.to_string() };
                        }
                    }
                }
                Err(last)
            };
            tokio::task::spawn_blocking(ingest)
                .await
                .unwrap_or_else(|e| Err(FetchError::Store(e.to_string())))
        }
    }
}
