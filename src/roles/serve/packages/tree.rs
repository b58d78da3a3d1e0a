//! Packages of local trees. Their bytes are read before they are vouched for ([`tree_hashes`]), and what is not the
//! file that metadata names is refused, with one warning that leads to it.
//!
//! A small file is read before it is answered for. A large one is sent while it is read, if the client wants it to
//! its end: the last byte waits for the verdict. Other parts wait for it as a whole.
//!
//! [`tree_hashes`]: crate::io::tree_hashes

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode, header};

use super::package::{self, Sought};
use super::{alternatives, representation};
use crate::formats::range::{self, Answer};
use crate::io::body::Body;
use crate::io::clock;
use crate::io::fetch::FetchError;
use crate::io::respond::{self, Representation, plain};
use crate::io::tree_hashes::{HashError, Known, Opened, Reading};
use crate::model::{Algorithm, Alternatives, Blob, BlobId, Digests, Expected, RepoPath, Time, VolunteerId};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::metadata::origin::{self, TreeFile};
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;
use crate::roles::serve::volunteers::dispatch;

/// Read before it is answered for: some 50 ms, and a wrong one gets its status.
const READ_FIRST: u64 = 8 << 20;
/// How long an answer waits for a file to be read. Clients give up after 30 s (apt, dnf); reading continues.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same for HEAD, which asks for no bytes: then it is told what metadata says.
const HEAD_PATIENCE: Duration = Duration::from_secs(2);
/// A file of another size than its metadata says that changed so recently is being replaced.
const BEING_REPLACED: Duration = Duration::from_secs(600);

/// Why a tree's file is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("the tree does not have this file")]
    Missing,
    /// Requested by hash, and the path has another file that metadata names.
    #[error("the tree has another file of this name")]
    Other,
    #[error("the tree's file does not match its metadata")]
    Wrong,
    #[error("the tree is being changed; try again")]
    Changing,
    #[error("the tree's file cannot be read")]
    Unreadable,
    #[error("the server is still reading this file; try again")]
    Late,
}

impl TreeError {
    fn status(&self, repo: &Repo) -> StatusCode {
        match self {
            Self::Missing | Self::Other => StatusCode::NOT_FOUND,
            Self::Wrong => repo.status_of_damage(),
            Self::Unreadable => StatusCode::BAD_GATEWAY,
            Self::Changing | Self::Late => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn response(&self, repo: &Repo) -> Response<Body> {
        plain(self.status(repo), self.to_string())
    }
}

impl From<HashError> for TreeError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Changing => Self::Changing,
            HashError::Unreadable(_) => Self::Unreadable,
            HashError::Busy => Self::Late,
        }
    }
}

/// A file that must be one of several.
#[derive(Clone, Debug)]
struct Case {
    server: Arc<Server>,
    repo: usize,
    path: RepoPath,
    wanted: Alternatives,
    by_hash: bool,
}

/// Answers with the tree's file.
pub async fn answer(server: &Arc<Server>, sought: &Sought<'_>, asked: &Asked) -> Response<Body> {
    match find(server, sought, asked).await {
        Ok(Found::Verified(opened, known)) => {
            let blob = Blob { id: BlobId(known.digests.sha256), size: known.fingerprint.size };
            let meant = representation::meant(server, &sought.wanted, blob);
            let what = representation::of_blob(server, sought.repo, sought.path, &meant, blob, asked);
            counted(server, sought, &what, asked, move |part| opened.body(part))
        }
        Ok(Found::Reading(opened, reading)) => {
            let size = opened.fingerprint.size;
            let (case, path) = (Case::of(server, sought), opened.path.clone());
            let wanted = case.all();
            let what = representation::of_expected(server, sought.repo, sought.path, &wanted, size, asked);
            let is_right: Arc<dyn Fn(&Known) -> bool + Send + Sync> =
                Arc::new(move |known| case.check(&path, known).is_ok());
            let open = move |part| reading.clone().body(opened.clone(), part, is_right.clone());
            counted(server, sought, &what, asked, open)
        }
        Err(e) => e.response(sought.repo),
    }
}

fn counted(
    server: &Arc<Server>,
    sought: &Sought<'_>,
    what: &Representation<'_>,
    asked: &Asked,
    open: impl FnMut(std::ops::Range<u64>) -> Body + Send + 'static,
) -> Response<Body> {
    let response = respond::respond(&asked.method, &asked.headers, what, open);
    let blob = sought.wanted.only().and_then(|expected| server.packages.resolve(&expected));
    package::counted(server, blob, response, asked)
}

enum Found {
    Verified(Opened, Box<Known>),
    /// To be sent while it is read.
    Reading(Opened, Reading),
}

async fn find(server: &Arc<Server>, sought: &Sought<'_>, asked: &Asked) -> Result<Found, TreeError> {
    let (opened, known) = open(server, sought.repo, sought.path).await.ok_or(TreeError::Missing)?;
    let case = || Case::of(server, sought);
    if let Some(known) = known {
        if sought.wanted.matching(&known.digests, known.fingerprint.size).is_none() {
            case().check(&opened.path, &known)?;
        }
        return Ok(Found::Verified(opened, Box::new(known)));
    }
    case().check_size(&opened)?;
    let reading = case().read(&opened)?;
    if may_stream(asked, opened.fingerprint.size) {
        return Ok(Found::Reading(opened, reading));
    }
    let is_head = asked.method == Method::HEAD;
    let patience = if is_head { HEAD_PATIENCE } else { PATIENCE };
    match wait(reading.clone(), patience).await {
        // As a GET would begin.
        Err(TreeError::Late) if is_head => Ok(Found::Reading(opened, reading)),
        Err(e) => Err(e),
        Ok(known) => {
            case().check(&opened.path, &known)?;
            Ok(Found::Verified(opened, Box::new(known)))
        }
    }
}

async fn wait(reading: Reading, patience: Duration) -> Result<Known, TreeError> {
    let finished = tokio::time::timeout(patience, reading.finished()).await;
    Ok(finished.map_err(|_| TreeError::Late)??)
}

/// Whether what a client wants has the file's last byte, which can be held back.
fn may_stream(asked: &Asked, size: u64) -> bool {
    let has_end = match range::answer(asked.header(header::RANGE), size) {
        Answer::Whole => true,
        Answer::Part(part) => part.end == size,
        Answer::Parts(_) | Answer::Unsatisfiable => false,
    };
    asked.method == Method::GET && size > READ_FIRST && has_end
}

/// Opens a repository's file, and returns what is known about its bytes. The hot path.
pub async fn open(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> Option<(Opened, Option<Known>)> {
    let (tree, hashes) = (repo.tree()?.to_owned(), server.trees.clone());
    let named = repo.snapshot().find_package(path.as_str());
    let algorithm = named.map_or(Algorithm::Sha256, |named| named.expected.digest.algorithm());
    let path = path.clone();
    let open = move || {
        let TreeFile { path, file, fingerprint, .. } = origin::open_in_tree(&tree, &path)?;
        let known = hashes.known(&path, &fingerprint, algorithm);
        Some((Opened { path, file: Arc::new(file), fingerprint, algorithm }, known))
    };
    tokio::task::spawn_blocking(open).await.ok().flatten()
}

/// A tree's file and all its digests, once they are known: for files that no metadata names too.
pub async fn verified(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
) -> Result<(Opened, Known), TreeError> {
    let (opened, known) = open(server, repo, path).await.ok_or(TreeError::Missing)?;
    let known = match known {
        Some(known) => known,
        None => wait(server.trees.read(&opened)?, PATIENCE).await?,
    };
    Ok((opened, known))
}

/// Logs a package's file that was read if it does not match its metadata.
pub fn check(server: &Arc<Server>, repo: &Repo, path: &RepoPath, opened: &Opened, known: &Known) {
    if let Some(wanted) = alternatives::all(server, repo, path) {
        let sought = Sought { repo, path, wanted, by_hash: false };
        let _ = Case::of(server, &sought).check(&opened.path, known);
    }
}

/// Which of several the tree's file is, if that is known or quickly found out.
pub async fn known(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    all: &Alternatives,
) -> Option<Expected> {
    let (opened, known) = open(server, repo, path).await?;
    let known = match known {
        Some(known) => known,
        None if opened.fingerprint.size > READ_FIRST => return None,
        None => wait(server.trees.read(&opened).ok()?, PATIENCE).await.ok()?,
    };
    all.matching(&known.digests, known.fingerprint.size)
}

/// All digests of a package's file.
pub async fn digests(server: &Arc<Server>, sought: &Sought<'_>) -> Result<Digests, FetchError> {
    let digests = async {
        let (opened, known) = verified(server, sought.repo, sought.path).await?;
        Case::of(server, sought).check(&opened.path, &known).map(|()| known.digests)
    };
    digests.await.map_err(|e| match e {
        TreeError::Missing | TreeError::Other => FetchError::NotFound,
        TreeError::Wrong | TreeError::Unreadable => {
            FetchError::Wrong { url: sought.path.to_string(), problem: e.to_string() }
        }
        TreeError::Changing | TreeError::Late => FetchError::Late,
    })
}

impl Case {
    fn of(server: &Arc<Server>, sought: &Sought<'_>) -> Self {
        Self {
            server: server.clone(),
            repo: sought.repo.index,
            path: sought.path.clone(),
            wanted: sought.wanted.clone(),
            by_hash: sought.by_hash,
        }
    }

    fn repo(&self) -> &Repo {
        &self.server.repos[self.repo]
    }

    /// Everything that will do.
    fn all(&self) -> Alternatives {
        let all = alternatives::all(&self.server, self.repo(), &self.path);
        all.filter(|_| !self.by_hash).unwrap_or_else(|| self.wanted.clone())
    }

    /// Reads a file. The result is logged even if its client leaves.
    fn read(&self, opened: &Opened) -> Result<Reading, TreeError> {
        let reading = self.server.trees.read(opened)?;
        if reading.is_new {
            tokio::spawn(self.clone().watch(opened.clone(), reading.clone()));
        }
        Ok(reading)
    }

    async fn watch(self, opened: Opened, reading: Reading) {
        let fingerprint = &opened.fingerprint;
        match reading.finished().await {
            Ok(known) => {
                let is_right = self.check(&opened.path, &known).is_ok();
                // Only now is it known which blob metadata means that gives no SHA-256: copies can be made.
                if is_right && self.wanted.first().blob_id().is_none() {
                    dispatch::place(
                        &self.server,
                        Blob { id: BlobId(known.digests.sha256), size: fingerprint.size },
                    );
                }
            }
            Err(HashError::Unreadable(error)) if self.server.trees.is_news(&opened.path, fingerprint) => {
                tracing::warn!(repo = self.repo().config.name, file = %opened.path.display(), error, "a file of the tree cannot be read");
            }
            Err(_) => {}
        }
    }

    /// Whether a file has a size that will do, before it is read.
    fn check_size(&self, opened: &Opened) -> Result<(), TreeError> {
        let Opened { path, fingerprint, .. } = opened;
        let Some(expected) = self.refused(|wanted| wanted.of_size(fingerprint.size).is_some())? else {
            return Ok(());
        };
        let changed = Time::from_nanos(fingerprint.changed.max(0).cast_unsigned());
        if self.server.trees.is_news(path, fingerprint) {
            let size = expected.first().size.unwrap_or_default();
            tracing::warn!(
                repo = self.repo().config.name, file = %path.display(), expected = size, found = fingerprint.size,
                "a file of the tree does not have the size in its metadata"
            );
        }
        let is_new = clock::now().since(changed) < BEING_REPLACED;
        Err(if is_new { TreeError::Changing } else { TreeError::Wrong })
    }

    /// Whether a file is what it should be. A wrong one is logged once for each change.
    fn check(&self, path: &Path, known: &Known) -> Result<(), TreeError> {
        let Known { fingerprint, digests } = known;
        let Some(expected) = self.refused(|wanted| wanted.matching(digests, fingerprint.size).is_some())?
        else {
            return Ok(());
        };
        if self.server.trees.is_news(path, fingerprint) {
            tell(self.repo(), path, &expected, known);
        }
        Err(TreeError::Wrong)
    }

    /// What a file should have been that is nothing that will do.
    fn refused(&self, will_do: impl Fn(&Alternatives) -> bool) -> Result<Option<Alternatives>, TreeError> {
        if will_do(&self.wanted) {
            return Ok(None);
        }
        // It was seen there once: nobody promised that it stays.
        let id = self.wanted.first().blob_id().filter(|_| self.by_hash);
        if id.is_some_and(|id| self.server.learnt.has(id, self.repo(), &self.path)) {
            return Err(TreeError::Other);
        }
        let named = alternatives::all(&self.server, self.repo(), &self.path);
        match (named.is_some_and(|named| will_do(&named)), self.by_hash) {
            (true, true) => Err(TreeError::Other),
            (true, false) => Ok(None),
            (false, _) => Ok(Some(self.all())),
        }
    }
}

fn tell(repo: &Repo, path: &Path, expected: &Alternatives, known: &Known) {
    let found = known.digests.get(expected.first().digest.algorithm());
    tracing::warn!(
        repo = repo.config.name, file = %path.display(), %expected, %found,
        "a file of the tree does not match its metadata, and is not served. Check the disk, or replace the file"
    );
}

/// Explains the fault in a tree's file that a volunteer was ordered to copy and could not.
pub async fn explain_failure(server: Arc<Server>, volunteer: VolunteerId, blob: BlobId) {
    let places: Vec<(usize, RepoPath, Expected)> = server
        .find(blob)
        .into_iter()
        .filter(|(repo, _, _)| repo.tree().is_some())
        .map(|(repo, path, expected)| (repo.index, path, expected))
        .collect();
    for (index, path, expected) in places {
        let repo = &server.repos[index];
        let sought = Sought { repo, path: &path, wanted: expected.into(), by_hash: true };
        let problem = match open(&server, repo, &path).await {
            None => Some(TreeError::Missing),
            Some((opened, Some(known))) => Case::of(&server, &sought).check(&opened.path, &known).err(),
            // What comes of it is told when it was read.
            Some((opened, None)) => Case::of(&server, &sought).read(&opened).err(),
        };
        if problem.is_some() && server.learnt.has(blob, repo, &path) {
            server.learnt.forget(blob);
            continue;
        }
        if let (Some(problem), Some(tree)) = (problem, repo.tree()) {
            let file = tree.join(path.as_str());
            tracing::warn!(
                %volunteer, repo = repo.config.name, file = %file.display(), %problem,
                "the order could not be carried out because of a file of this server's tree"
            );
        }
    }
}
