//! Lists of URLs, for clients that take more than one: should the first lead to a volunteer that is gone, the
//! client continues with the next.
//!
//! | who | asks for | gets |
//! |---|---|---|
//! | apt, `mirror+http:` | `/mirrors/debian.txt` | the redirecting URL with priority 1, the direct one with 2 |
//! | dnf, zypper, `mirrorlist=` | `/fedora/os/?mirrorlist` | the same two, one a line |
//! | dnf, zypper, `metalink=` | `/fedora/os/?metalink` | Metalink 3 of `repomd.xml` with the same two |
//! | download managers, people | `PATH.meta4`, `PATH.metalink`, `PATH.mirrorlist` | what [`super::mirrors`] says of one file |
//! | zypper with a base URL, aria2 | a package, accepting Metalink 4 | volunteers as the policy ranks them, the direct URL last |
//!
//! The redirecting URLs begin with `/listed/`, by which the server knows that the client has the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Method, Response, StatusCode, header};

use crate::catalog::{Root, Unit, UnitKey, UnitKind};
use crate::config::Layout;
use crate::formats::metalink::{self, File, Version};
use crate::io::body::Body;
use crate::io::hasher::Hasher;
use crate::io::respond::plain;
use crate::model::{Blob, Digests, PathError, RepoPath, encode_path};
use crate::roles::serve::http::reply::{made, own_url};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::http::traffic::Kind;
use crate::roles::serve::metadata::answer::{self, PATIENCE};
use crate::roles::serve::metadata::refresh;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// libzypp fetches from the first five URLs at a time. The direct one must be among them: it takes up to three
/// minutes until another is taken in place of one that is silent.
const MAX_VOLUNTEERS: usize = 4;

/// Bytes of a file for each volunteer in its metalink. libzypp has URLs that find nothing left to do fetch what
/// the others are at: with four pieces for each of them that is little more than the file.
const BYTES_EACH: u64 = 1 << 20;

/// Earlier generations in a metalink of `repomd.xml`: a client that has an older one fetches it again anyway.
const MAX_EARLIER: usize = 8;

/// What a query asks for in place of a directory or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    MirrorList,
    Metalink,
    Meta4,
}

impl Wanted {
    /// `?mirrorlist`, `?metalink=1&countme=3`: the first name that is known; all else does not matter.
    pub fn of(query: Option<&str>) -> Option<Self> {
        query?.split('&').find_map(|part| match part.split_once('=').map_or(part, |(name, _)| name) {
            "mirrorlist" => Some(Self::MirrorList),
            "metalink" => Some(Self::Metalink),
            "meta4" => Some(Self::Meta4),
            _ => None,
        })
    }
}

/// `/mirrors/NAME.txt`.
pub fn of_repo(server: &Server, file: &str, asked: &Asked) -> Response<Body> {
    match file.strip_suffix(".txt").and_then(|name| server.repo(name)) {
        Some(repo) => apt_list(server, repo, asked),
        None => {
            let names: Vec<String> =
                server.repos.iter().map(|repo| format!("/mirrors/{}.txt", repo.config.name)).collect();
            plain(StatusCode::NOT_FOUND, format!("no such list; there are: {}", names.join(" ")))
        }
    }
}

/// A directory of a repository with such a query; `None` if the path is served whatever the query.
pub async fn of_directory(
    server: &Arc<Server>,
    repo: &Repo,
    encoded: &str,
    wanted: Wanted,
    asked: &Asked,
) -> Option<Response<Body>> {
    // Who asks for a direct URL, or through us as a proxy, is not to be sent elsewhere.
    if asked.direct {
        return None;
    }
    let dir = match RepoPath::from_url(encoded) {
        Ok(path) => Some(path),
        Err(PathError::Empty) => None,
        Err(e) => return Some(plain(StatusCode::NOT_FOUND, e.to_string())),
    };
    match (repo.config.profile.layout, wanted) {
        (Layout::Deb, Wanted::MirrorList) if dir.is_none() => Some(apt_list(server, repo, asked)),
        (_, Wanted::Meta4) => None,
        (Layout::RpmMd, _) if dir.as_ref().is_some_and(|dir| is_file(repo, dir)) => None,
        (Layout::RpmMd, Wanted::MirrorList) => {
            let [listed, direct] = both(server, repo, dir.as_ref(), asked);
            Some(made(server, asked, "mirrorlist.txt", format!("{listed}\n{direct}\n")))
        }
        (Layout::RpmMd, Wanted::Metalink) => Some(of_repomd(server, repo, dir.as_ref(), asked).await),
        _ => None,
    }
}

/// sources.list's `mirror+http:`: lines of URL, tab, options (apt-transport-mirror(1)).
fn apt_list(server: &Server, repo: &Repo, asked: &Asked) -> Response<Body> {
    let [listed, direct] = both(server, repo, None, asked);
    let text = format!("{listed}\tpriority:1\n{direct}\tpriority:2\n");
    made(server, asked, "mirrors.txt", text)
}

/// The redirecting URL of a directory and its direct one, with a final slash.
fn both(server: &Server, repo: &Repo, dir: Option<&RepoPath>, asked: &Asked) -> [String; 2] {
    let (own, name) = (own_url(server, asked), &repo.config.name);
    let dir = dir.map(|dir| dir.to_url() + "/").unwrap_or_default();
    ["listed", "direct"].map(|route| format!("{own}/{route}/{name}/{dir}"))
}

/// Whether the path is that of a file, as far as is known without asking anyone.
fn is_file(repo: &Repo, path: &RepoPath) -> bool {
    let profile = &repo.config.profile;
    UnitKey::of_root(path, profile).is_some()
        || profile.is_package_name(path.file_name())
        || crate::roles::serve::metadata::repo::is_named(repo, path)
}

/// Metalink 3 of the current `repomd.xml`, all of it from one snapshot.
pub async fn of_repomd(
    server: &Arc<Server>,
    repo: &Repo,
    dir: Option<&RepoPath>,
    asked: &Asked,
) -> Response<Body> {
    let key = UnitKey { kind: UnitKind::RpmMd, dir: dir.map(ToString::to_string).unwrap_or_default() };
    let looked = refresh::refresh_within(server, repo, &key, repo.fresh_for(), PATIENCE).await;
    let generations: Vec<Arc<Unit>> = repo.snapshot().generations(&key).cloned().collect();
    let Some(current) = generations.first() else { return answer::absent(repo, &key, looked) };
    // The client fetches the file by the digests that it is given here, whatever is adopted in between.
    server.pins.promise(asked, repo, current);
    let shared = server.clone();
    let described = tokio::task::spawn_blocking(move || versions(&shared, &generations)).await;
    let Some((current, earlier)) = described.as_deref().ok().and_then(<[_]>::split_first) else {
        return answer::absent(repo, &key, looked);
    };
    let preferences = [100, 1];
    let urls: Vec<(String, u8)> = both(server, repo, dir, asked)
        .into_iter()
        .map(|base| base + "repodata/repomd.xml")
        .zip(preferences)
        .collect();
    made(server, asked, "repomd.xml.metalink", metalink::repomd(current, earlier, &urls))
}

/// The `repomd.xml` of each generation, once. Blocks.
fn versions(server: &Server, generations: &[Arc<Unit>]) -> Vec<Version> {
    let mut seen = BTreeSet::new();
    let repomd = |unit: &Arc<Unit>| {
        let (_, root) = unit.roots.iter().find(|(path, _)| path.file_name() == "repomd.xml")?;
        seen.insert(root.blob.id).then(|| Version {
            date: unit.modified().secs,
            size: root.blob.size,
            digests: digests(server, root),
        })
    };
    generations.iter().filter_map(repomd).take(1 + MAX_EARLIER).collect()
}

/// Remembered, or from the bytes.
fn digests(server: &Server, root: &Root) -> Digests {
    if let Ok(Some(digests)) = server.db.digests(root.blob.id) {
        return digests;
    }
    let mut hasher = Hasher::default();
    hasher.update(&root.bytes);
    let hashes = hasher.finish();
    if let Err(e) = server.db.put_hashes(&hashes) {
        tracing::debug!(error = %e, "cannot save digests");
    }
    hashes.digests
}

/// Whether a client accepts a metalink in place of a package. One that asks for a part has its metalink already.
pub fn is_wanted(asked: &Asked) -> bool {
    asked.kind == Kind::Package
        && !asked.headers.contains_key(header::RANGE)
        && asked.header(header::ACCEPT).is_some_and(metalink::is_accepted)
}

/// How many URLs of volunteers a metalink has.
pub fn volunteers_for(size: u64) -> usize {
    usize::try_from(size.div_ceil(BYTES_EACH)).map_or(MAX_VOLUNTEERS, |count| count.clamp(1, MAX_VOLUNTEERS))
}

/// Metalink 4 of a package: the volunteers' signed URLs, then the direct one.
pub fn of_package(
    server: &Server,
    repo: &Repo,
    path: &RepoPath,
    blob: Blob,
    mut urls: Vec<String>,
    asked: &Asked,
) -> Response<Body> {
    urls.push(format!("{}/direct/{}/{}", own_url(server, asked), repo.config.name, path.to_url()));
    let pieces = server.db.pieces(blob).ok().flatten();
    let (name, pieces) = (path.file_name(), pieces.as_ref());
    let file = File { name, size: blob.size, sha256: blob.id, digests: None, pieces, urls: &urls };
    let text = metalink::file(&file);
    let mut response = plain(StatusCode::OK, text);
    let kind = header::HeaderValue::from_static(metalink::V4);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    // aria2 would save the metalink under the package's own name.
    let disposition = format!("attachment; filename=\"{}.meta4\"", encode_path(name));
    if let Ok(disposition) = disposition.try_into() {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    if asked.method == Method::GET {
        server.courtesy.begin(asked.client, blob);
    } else {
        *response.body_mut() = Body::Empty;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        for (query, want) in [
            ("mirrorlist", Some(Wanted::MirrorList)),
            ("mirrorlist=1", Some(Wanted::MirrorList)),
            ("countme=4&mirrorlist&repo=x", Some(Wanted::MirrorList)),
            ("metalink&mirrorlist", Some(Wanted::Metalink)),
            ("metalink=", Some(Wanted::Metalink)),
            ("x&meta4", Some(Wanted::Meta4)),
            ("mirrorlists", None),
            ("MIRRORLIST", None),
            ("x=mirrorlist", None),
            ("&&=&%6detalink", None),
            ("", None),
        ] {
            assert_eq!(Wanted::of(Some(query)), want, "{query}");
        }
        assert_eq!(Wanted::of(None), None);
    }
}
