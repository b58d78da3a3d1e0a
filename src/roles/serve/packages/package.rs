//! Packages: a redirect to the volunteer that the policy chooses, else the bytes from tree, cache or upstream.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderMap, Method, Response, header};

use super::{alternatives, lists, passthrough, representation, tree};
use crate::catalog::Package;
use crate::config::Origin;
use crate::formats::control::SYNC_HEADER;
use crate::formats::range;
use crate::formats::ticket::{self, Key, SyncProof};
use crate::io::body::Body;
use crate::io::clock;
use crate::io::fetch::{Content, FetchError, Flight, Source};
use crate::io::hasher;
use crate::io::respond;
use crate::model::{Algorithm, Alternatives, Blob, BlobId, Digests, Expected, RepoPath, encode_path};
use crate::policy::Request;
use crate::roles::serve::http::reply::{fetch_failed, made};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::http::traffic::Kind;
use crate::roles::serve::metadata::origin;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;
use crate::roles::serve::volunteers::fleet::Choice;
use crate::roles::serve::volunteers::{dispatch, failover};

/// How long an origin may take to say how long a file is.
const SIZE_PATIENCE: Duration = Duration::from_secs(2);

/// Maximum number of further holders that a redirect names.
const MAX_DUPLICATES: usize = 3;

/// Whether a request by hash comes from a volunteer that fetches: it signs with its own key. Anybody may send the
/// header, so what has not its form, or is too old, costs no lock.
pub fn kind_of(server: &Server, headers: &HeaderMap) -> Kind {
    let proof = headers.get(SYNC_HEADER).and_then(|value| SyncProof::parse(value.to_str().ok()?));
    let is_valid = proof.is_some_and(|proof| {
        !proof.ticket.is_expired(clock::now().as_secs())
            && server.fleet.key_of(&proof.id).is_some_and(|key| key.verifies(&proof.ticket, 0))
    });
    if is_valid { Kind::Sync } else { Kind::Package }
}

/// A package that a client wants.
#[derive(Debug)]
pub struct Sought<'a> {
    pub repo: &'a Repo,
    pub path: &'a RepoPath,
    /// Several as long as nobody knows which of them the path means.
    pub wanted: Alternatives,
    /// It was requested by its hash: no other file of that path will do.
    pub by_hash: bool,
}

/// Answers a request for a package of the snapshot.
pub async fn answer(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    named: Package,
    asked: &Asked,
) -> Response<Body> {
    let wanted = alternatives::of_path(server, repo, path, named).await;
    answer_sought(server, &Sought { repo, path, wanted, by_hash: false }, asked).await
}

/// Answers a request for a certain file, by a path that it has.
pub async fn answer_blob(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    expected: Expected,
    asked: &Asked,
) -> Response<Body> {
    answer_sought(server, &Sought { repo, path, wanted: expected.into(), by_hash: true }, asked).await
}

async fn answer_sought(server: &Arc<Server>, sought: &Sought<'_>, asked: &Asked) -> Response<Body> {
    let Sought { repo, path, .. } = *sought;
    let blob = match sought.wanted.only() {
        Some(expected) => known_blob(server, repo, path, &expected).await,
        None => None,
    };
    if let Some(blob) = blob
        && let Some(response) = elsewhere(server, sought, blob, asked).await
    {
        return response;
    }
    here(server, sought, blob, asked).await
}

/// Answers from this server.
pub async fn here(
    server: &Arc<Server>,
    sought: &Sought<'_>,
    blob: Option<Blob>,
    asked: &Asked,
) -> Response<Body> {
    let Sought { repo, path, .. } = *sought;
    if let (Some(blob), &Method::HEAD) = (blob, &asked.method) {
        // Nothing is fetched for those who only look. A tree's file must be right even for them.
        if repo.tree().is_some() {
            return serve(server, sought, asked).await;
        }
        let what = representation::of_blob(server, repo, path, &sought.wanted.first(), blob, asked);
        return respond::respond(&asked.method, &asked.headers, &what, |_| Body::Empty);
    }
    serves(server, blob, asked).await;
    serve(server, sought, asked).await
}

/// Answers that need no bytes from here: to conditions, or a redirect.
pub async fn elsewhere(
    server: &Arc<Server>,
    sought: &Sought<'_>,
    blob: Blob,
    asked: &Asked,
) -> Option<Response<Body>> {
    let Sought { repo, path, .. } = *sought;
    let meant = sought.wanted.first();
    if let Some(response) = representation::settled(repo, path, &meant, blob, asked) {
        return Some(response);
    }
    if asked.direct || !is_checkable(server, sought, blob, asked).await {
        return None;
    }
    redirect(server, repo, path, &meant, blob, asked)
}

/// Before a client gets bytes from here: volunteers may be sending them already, or may have failed it.
pub async fn serves(server: &Server, blob: Option<Blob>, asked: &Asked) {
    if let (Some(blob), true) = (blob, asked.direct) {
        server.courtesy.wait(asked.client, blob.id).await;
    }
    if asked.kind == Kind::Package {
        server.traffic.served_requests.fetch_add(1, Relaxed);
        if let (true, Some(blob)) = (asked.direct, blob) {
            server.fleet.came_back(asked.asker(), blob, clock::now());
        }
    }
}

/// Whether a client that is to have a metalink can be told the digests of pieces. Without them libzypp does
/// not notice wrong bytes before it is too late to fetch others: such a client is served here, once.
async fn is_checkable(server: &Arc<Server>, sought: &Sought<'_>, blob: Blob, asked: &Asked) -> bool {
    let are_known = || matches!(server.db.pieces(blob), Ok(Some(_)));
    if asked.method == Method::HEAD || !lists::is_wanted(asked) || are_known() {
        return true;
    }
    // One at a time; meanwhile, and after a failure for a while, the server serves.
    if !server.hashing.entry(blob.id.digest()).or_insert(()).is_fresh() {
        return false;
    }
    hash_here(server, sought, blob).await && are_known()
}

/// Reads the file for all its digests, where it is in the cache or in the repository's tree.
async fn hash_here(server: &Arc<Server>, sought: &Sought<'_>, blob: Blob) -> bool {
    match (server.packages.held(&blob.into()), sought.repo.tree()) {
        (Some(Content::Held { file, .. }), _) => hash_held(server, file).await.is_ok(),
        (_, Some(_)) => tree::digests(server, sought).await.is_ok(),
        _ => false,
    }
}

/// Sees to it that the digests of a file's pieces are known, if the file is here or on its way here.
pub async fn read_pieces(server: &Arc<Server>, blob: Blob) {
    if let Some(flight) = server.packages.arriving(blob.id) {
        // Kept files are hashed as they come.
        let _ = flight.finished().await;
    } else if let Some((repo, path, expected)) = server.find(blob.id).first() {
        // A cached file is read once, whatever comes of it; a tree's reading is joined.
        let is_cached = server.packages.held(&blob.into()).is_some();
        if is_cached && !server.hashing.entry(blob.id.digest()).or_insert(()).is_fresh() {
            return;
        }
        let sought = Sought { repo, path, wanted: (*expected).into(), by_hash: false };
        hash_here(server, &sought, blob).await;
    }
}

/// The blob that metadata means, as far as that is known without reading bytes. Checksum files give no
/// sizes: the origin is asked, rarely, and what it says is believed for choosing only, never for verifying.
pub async fn known_blob(server: &Server, repo: &Repo, path: &RepoPath, expected: &Expected) -> Option<Blob> {
    let id = server.packages.resolve(expected)?;
    let held = expected.size.or_else(|| server.packages.store.size_of(id));
    let size = match (held, server.sizes.get(&expected.digest)) {
        (Some(size), _) => Some(size),
        (None, Some(told)) => told,
        (None, None) => {
            let told =
                tokio::time::timeout(SIZE_PATIENCE, passthrough::origin_size(server, repo, path)).await;
            let told = told.ok().flatten();
            server.sizes.insert(expected.digest, told);
            told
        }
    };
    Some(Blob { id, size: size? })
}

/// A request as the policy sees it.
pub fn request(server: &Server, blob: Blob, len: u64, asked: &Asked) -> Request {
    Request {
        blob,
        len,
        origin_load: server.traffic.load(server.config.uplink),
        client: asked.asker(),
        can_return: asked.is_listed
            || lists::is_wanted(asked)
            || server.failover.as_ref().is_some_and(|failover| failover.covers(asked))
            || comes_back(asked.user_agent()),
        is_sent_back: asked.is_sent_back,
        is_segment: range::is_segment(asked.header(header::RANGE), blob.size),
    }
}

/// Whether a client asks here again when what a redirect led to fails: librepo does, up to four times. apt
/// tries the volunteer again and again, zypper gives up, wget ends (measured).
fn comes_back(user_agent: &str) -> bool {
    ["libdnf", "librepo", "dnf"].iter().any(|name| user_agent.starts_with(name))
}

/// Whether a client may read `Link: rel=duplicate`. Package managers do not, and they are the many: looking for
/// other holders takes longer than the choice of one.
fn reads_duplicates(user_agent: &str) -> bool {
    const IGNORE_THEM: [&str; 8] =
        ["Debian APT", "apt", "libdnf", "librepo", "dnf", "ZYpp", "urlgrabber", "PackageKit"];
    !IGNORE_THEM.iter().any(|name| user_agent.starts_with(name))
}

fn redirect(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    expected: &Expected,
    blob: Blob,
    asked: &Asked,
) -> Option<Response<Body>> {
    let len = match asked.method {
        Method::GET => range::requested_len(asked.header(header::RANGE), blob.size),
        _ => 0,
    };
    let request = request(server, blob, len, asked);
    let Choice::Volunteer { node, base_url, signer } =
        dispatch::choose(server, &request, &repo.config.name, path.as_str())
    else {
        return None;
    };
    // Popular where it is served from, and so worth keeping here for when that goes away.
    server.packages.store.touch(blob.id);
    server.traffic.redirects.fetch_add(1, Relaxed);
    server.traffic.redirected_bytes.fetch_add(len, Relaxed);
    let expiry = clock::now().as_secs() + ticket::LIFETIME_SECS;
    let name = encode_path(path.file_name());
    let modified_secs = representation::modified_secs(repo, path, expected, asked);
    let url = |base_url: &str, key: &Key| {
        format!("{base_url}{}", key.sign_dated(blob, modified_secs, expiry, &name))
    };
    let first =
        url(failover::location_base(server.failover.as_ref(), node, &base_url, &signer, asked), &signer.key);
    let others = |count| {
        let others = server.fleet.others(&request, &base_url, count).into_iter();
        others.map(|(base_url, key)| url(&base_url, &key))
    };
    let mut response = if lists::is_wanted(asked) {
        let urls = std::iter::once(first).chain(others(lists::volunteers_for(blob.size) - 1)).collect();
        lists::of_package(server, repo, path, blob, urls, asked)
    } else {
        let mut response = respond::redirect(&first);
        respond::digest_headers(response.headers_mut(), blob.id, None);
        // RFC 6249 has it for those who can take another when the first fails.
        if asked.method == Method::HEAD || reads_duplicates(asked.user_agent()) {
            others(MAX_DUPLICATES).for_each(|url| respond::duplicate(response.headers_mut(), &url));
        }
        response
    };
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Accept"));
    Some(response)
}

async fn serve(server: &Arc<Server>, sought: &Sought<'_>, asked: &Asked) -> Response<Body> {
    let held = sought.wanted.only().and_then(|expected| server.packages.held(&expected));
    match (held, &sought.repo.config.origin) {
        (Some(Content::Held { file, blob }), _) => held_response(server, sought, file, blob, asked),
        (_, Origin::Tree(_)) => tree::answer(server, sought, asked).await,
        (_, Origin::Upstream(_)) => from_upstream(server, sought, asked).await,
    }
}

async fn from_upstream(server: &Arc<Server>, sought: &Sought<'_>, asked: &Asked) -> Response<Body> {
    let Sought { repo, path, .. } = *sought;
    let mut failed = None;
    // What no mirror has may be there as the file of another generation: that is asked for the second time.
    for _ in 0..2 {
        let (content, wanted) = match alternatives::content(server, sought) {
            Ok(found) => found,
            Err(e) => return not_kept(server, repo, path, &e, asked).await,
        };
        let mut flight = match content {
            Content::Held { file, blob } => return held_response(server, sought, file, blob, asked),
            Content::Arriving(flight) => flight,
        };
        match flight.size().await {
            Ok(size) => return arriving(server, sought, &wanted, size, flight, asked),
            Err(e @ FetchError::Store(_)) => return not_kept(server, repo, path, &e, asked).await,
            Err(e) => {
                if let Some((_, Content::Held { file, blob })) = alternatives::newest_held(server, &wanted) {
                    return held_response(server, sought, file, blob, asked);
                }
                let is_final = !matches!(e, FetchError::Wrong { .. }) || wanted.only().is_none();
                failed = Some(e);
                if is_final || !alternatives::has_others(server, sought) {
                    break;
                }
            }
        }
    }
    fetch_failed(repo, &failed.unwrap_or(FetchError::NotFound))
}

/// The upstream's bytes as they are, since they cannot be kept. The fetcher's log says why, now and then.
async fn not_kept(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    error: &FetchError,
    asked: &Asked,
) -> Response<Body> {
    tracing::debug!(path = path.as_str(), %error, "passing through without keeping");
    passthrough::pass_through(server, repo, path, asked, asked.kind).await
}

fn held_response(
    server: &Arc<Server>,
    sought: &Sought<'_>,
    file: Arc<File>,
    blob: Blob,
    asked: &Asked,
) -> Response<Body> {
    let Sought { repo, path, wanted, .. } = sought;
    let meant = representation::meant(server, wanted, blob);
    let what = representation::of_blob(server, repo, path, &meant, blob, asked);
    let store = server.packages.store.clone();
    let open = move |part| {
        let store = store.clone();
        Body::file(file.clone(), part, None).watched(move |e| store.read_failed(blob.id, e))
    };
    let response = respond::respond(&asked.method, &asked.headers, &what, open);
    counted(server, Some(blob.id), response, asked)
}

/// Counts an answer with a package; of which blob, if that is known.
pub fn counted(
    server: &Server,
    blob: Option<BlobId>,
    response: Response<Body>,
    asked: &Asked,
) -> Response<Body> {
    let response = response.map(|body| server.traffic.count(asked.kind, body));
    server.downloads.follow(asked.kind, blob, response)
}

fn arriving(
    server: &Arc<Server>,
    sought: &Sought<'_>,
    wanted: &Alternatives,
    size: u64,
    flight: Flight,
    asked: &Asked,
) -> Response<Body> {
    let what = representation::of_expected(server, sought.repo, sought.path, wanted, size, asked);
    let open = move |part| flight.clone().body(part, None);
    let response = respond::respond(&asked.method, &asked.headers, &what, open);
    let blob = sought.wanted.only().and_then(|expected| server.packages.resolve(&expected));
    counted(server, blob, response, asked)
}

/// Where to fetch a package: at its repository, then at others that publish the same bytes.
pub fn sources(server: &Server, repo: &Repo, path: &RepoPath, expected: &Expected) -> Source {
    let mut source = origin::source(repo, path, None);
    for (other, path, _) in expected.blob_id().map(|id| server.find(id)).unwrap_or_default() {
        let more = origin::source(other, &path, None).urls;
        source.urls.extend(more.into_iter().filter(|_| other.config.name != repo.config.name));
    }
    source
}

/// `PATH.sha256` and its kind, for packages whose origin has no such file itself.
pub async fn manifest(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
) -> Option<Response<Body>> {
    let (stem, suffix) = path.as_str().rsplit_once('.')?;
    let algorithm = Algorithm::PUBLISHED.into_iter().find(|algorithm| algorithm.name() == suffix)?;
    let named = repo.snapshot().find_package(stem)?;
    let package = RepoPath::new(stem).ok()?;
    if passthrough::origin_has(server, repo, path).await {
        return None;
    }
    let wanted = alternatives::of_path(server, repo, &package, named).await;
    let sought = Sought { repo, path: &package, wanted, by_hash: false };
    Some(match digests(server, &sought).await {
        Ok(digests) => {
            let text = respond::manifest(&digests, algorithm, package.file_name());
            made(server, asked, path.file_name(), text)
        }
        Err(e) => fetch_failed(repo, &e),
    })
}

/// All digests of a package: remembered, or from its bytes.
pub async fn digests(server: &Arc<Server>, sought: &Sought<'_>) -> Result<Digests, FetchError> {
    if let Origin::Tree(_) = &sought.repo.config.origin {
        return tree::digests(server, sought).await;
    }
    let remembered = |id: BlobId| server.db.digests(id).ok().flatten();
    let id = sought.wanted.only().and_then(|expected| server.packages.resolve(&expected));
    if let Some(digests) = id.and_then(remembered) {
        return Ok(digests);
    }
    let (file, blob) = match alternatives::content(server, sought)? {
        (Content::Held { file, blob }, _) => (file, blob),
        (Content::Arriving(flight), wanted) => match flight.finished().await {
            Ok(found) => found,
            // Other sources may have it.
            Err(FetchError::Wrong { .. }) => {
                let source = sources(server, sought.repo, sought.path, &wanted.first());
                server.packages.get_open(wanted, source).await?
            }
            Err(e) => return Err(e),
        },
    };
    match remembered(blob.id) {
        Some(digests) => Ok(digests),
        // Held, but a crash lost what was known of it.
        None => hash_held(server, file).await,
    }
}

async fn hash_held(server: &Arc<Server>, file: Arc<File>) -> Result<Digests, FetchError> {
    let server = server.clone();
    let hash = move || {
        let store = |e: &dyn std::fmt::Display| FetchError::Store(e.to_string());
        let (hashes, _) = hasher::hash_file(&file).map_err(|e| store(&e))?;
        server.db.put_hashes(&hashes).map_err(|e| store(&e))?;
        Ok(hashes.digests)
    };
    tokio::task::spawn_blocking(hash).await.unwrap_or_else(|e| Err(FetchError::Store(e.to_string())))
}
