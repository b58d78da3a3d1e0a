//! One file as download managers and people want it described: who has it, its size, its digests.
//!
//! | path | query | form |
//! |---|---|---|
//! | `PATH.meta4` | `?meta4` | Metalink 4 (RFC 5854) |
//! | `PATH.metalink` | `?metalink` | Metalink 3; of `repomd.xml` with its earlier generations, as dnf takes it |
//! | `PATH.mirrorlist` | `?mirrorlist` | one URL a line; a page for browsers |
//!
//! There is one for every file whose digest is known. Volunteers come first, as the policy ranks them, and the direct
//! URL last. Nothing is booked or learnt from such a question: a crawler asks for all of them. Volunteers' URLs
//! are signed for [`ticket::LIFETIME_SECS`]; later a volunteer sends its client back here. A file of the origin
//! that has such a name itself is served instead.

use std::sync::Arc;

use http::{Response, header};
use quick_xml::escape::escape;

use super::lists::{self, Wanted};
use super::package::Sought;
use super::{learnt, package, passthrough, representation};
use crate::catalog::Named;
use crate::formats::metalink::{self, File};
use crate::formats::ticket;
use crate::io::body::Body;
use crate::io::clock;
use crate::io::fetch::FetchError;
use crate::model::{Blob, BlobId, Expected, RepoPath, encode_path};
use crate::roles::serve::http::reply::{fetch_failed, made, own_url};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::metadata::nested;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// Volunteers that one file's description names.
const MAX_VOLUNTEERS: usize = 8;

/// The suffix of a file's name, and what it asks for.
const SUFFIXES: [(&str, Wanted); 3] =
    [(".meta4", Wanted::Meta4), (".metalink", Wanted::Metalink), (".mirrorlist", Wanted::MirrorList)];

/// A file whose digest is known.
struct Known {
    blob: Blob,
    /// Metadata is never elsewhere.
    may_be_held: bool,
    /// `Last-Modified`, where only the tree says it.
    dated: Option<u64>,
}

/// `PATH.meta4` and its kind, for files whose origin has no such file itself.
pub async fn beside_file(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    asked: &Asked,
) -> Option<Response<Body>> {
    let stem = |(suffix, wanted)| Some((path.as_str().strip_suffix(suffix)?, wanted));
    let (stem, wanted) = SUFFIXES.into_iter().find_map(stem)?;
    let file = RepoPath::new(stem).ok().filter(|file| file.as_str() == stem)?;
    let described = of_file(server, repo, &file, wanted, asked).await?;
    (!passthrough::origin_has(server, repo, path).await).then_some(described)
}

/// `PATH?meta4` and its kind; `None` if nothing is known of such a file.
pub async fn of_file(
    server: &Arc<Server>,
    repo: &Repo,
    path: &RepoPath,
    wanted: Wanted,
    asked: &Asked,
) -> Option<Response<Body>> {
    if wanted == Wanted::Metalink
        && let Some(dir) = dir_of_repomd(repo, path)
    {
        return Some(lists::of_repomd(server, repo, dir.as_ref(), asked).await);
    }
    let known = match known(server, repo, path).await {
        Ok(known) => known?,
        Err(e) => return Some(fetch_failed(repo, &e)),
    };
    let urls = urls(server, repo, path, &known, asked);
    Some(match wanted {
        Wanted::MirrorList => list(server, path, &urls, asked),
        Wanted::Metalink | Wanted::Meta4 => as_metalink(server, path, wanted, known.blob, &urls, asked),
    })
}

/// The directory of the unit whose `repomd.xml` this is.
fn dir_of_repomd(repo: &Repo, path: &RepoPath) -> Option<Option<RepoPath>> {
    match repo.snapshot().resolve(path) {
        Named::Root { unit, .. } if path.file_name() == "repomd.xml" => {
            Some(RepoPath::new(&unit.key.dir).ok())
        }
        _ => None,
    }
}

/// What is known about a file; its bytes are read if there is no other way to learn its SHA-256.
async fn known(server: &Arc<Server>, repo: &Repo, path: &RepoPath) -> Result<Option<Known>, FetchError> {
    let metadata = match repo.snapshot().resolve(path) {
        Named::Root { root, .. } => Some(Some(root.blob)),
        Named::Member { expected, .. } => Some(known_member(server, &expected)),
        Named::Package { .. } | Named::Unlisted { .. } | Named::Unknown => None,
    };
    if let Some(blob) = metadata {
        return Ok(blob.map(|blob| Known { blob, may_be_held: false, dated: None }));
    }
    let named = repo.snapshot().package(path.as_str());
    let expected = match named {
        Some(expected) => Some(expected),
        None => nested::expected(server, repo, path).await,
    };
    let Some(expected) = expected else {
        let learnt = learnt::known(server, repo, path).await;
        return Ok(learnt.map(|(blob, dated)| Known { blob, may_be_held: true, dated: Some(dated) }));
    };
    let mut blob = package::known_blob(server, repo, path, &expected).await;
    if blob.is_none() {
        let sought = Sought { repo, path, wanted: expected.into(), by_hash: false };
        let id = BlobId(package::digests(server, &sought).await?.sha256);
        blob = package::known_blob(server, repo, path, &Expected { digest: id.digest(), ..expected }).await;
    }
    Ok(blob.map(|blob| Known { blob, may_be_held: true, dated: None }))
}

fn known_member(server: &Server, expected: &Expected) -> Option<Blob> {
    let id = server.metadata.resolve(expected)?;
    let size = expected.size.or_else(|| server.metadata.store.size_of(id))?;
    Some(Blob { id, size })
}

/// Where the file is, best first. Who asks here directly, or through us as a proxy, is not to be sent elsewhere.
fn urls(server: &Server, repo: &Repo, path: &RepoPath, known: &Known, asked: &Asked) -> Vec<String> {
    let mut urls = Vec::new();
    if known.may_be_held && !asked.direct {
        let request = package::request(server, known.blob, known.blob.size, asked);
        let expiry = clock::now().as_secs() + ticket::LIFETIME_SECS;
        let name = encode_path(path.file_name());
        let named = repo.snapshot().package(path.as_str());
        let dated = named.and_then(|named| representation::modified_secs(repo, path, &named, asked));
        let dated = known.dated.or(dated);
        for (base_url, key) in server.fleet.others(&request, "", MAX_VOLUNTEERS) {
            urls.push(format!("{base_url}{}", key.sign_dated(known.blob, dated, expiry, &name)));
        }
    }
    urls.push(format!("{}/direct/{}/{}", own_url(server, asked), repo.config.name, path.to_url()));
    urls
}

fn as_metalink(
    server: &Server,
    path: &RepoPath,
    wanted: Wanted,
    blob: Blob,
    urls: &[String],
    asked: &Asked,
) -> Response<Body> {
    let digests = server.db.digests(blob.id).ok().flatten();
    let pieces = server.db.pieces(blob).ok().flatten();
    let file = File {
        name: path.file_name(),
        size: blob.size,
        sha256: blob.id,
        digests: digests.as_ref(),
        pieces: pieces.as_ref(),
        urls,
    };
    let (text, suffix) = match wanted {
        Wanted::Meta4 => (metalink::file(&file), ".meta4"),
        Wanted::Metalink | Wanted::MirrorList => (metalink::file_v3(&file), ".metalink"),
    };
    made(server, asked, &format!("{}{suffix}", path.file_name()), text)
}

/// For programs one URL a line, for browsers the same as links.
fn list(server: &Server, path: &RepoPath, urls: &[String], asked: &Asked) -> Response<Body> {
    let is_for_people = asked.header(header::ACCEPT).is_some_and(|accept| accept.contains("text/html"));
    let mut response = if is_for_people {
        let name = escape(path.file_name());
        let links: Vec<String> = urls
            .iter()
            .map(|url| escape(url.as_str()))
            .map(|url| format!("<li><a href=\"{url}\">{url}</a></li>\n"))
            .collect();
        let page = format!(
            "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>Mirrors of {name}</title></head>\n\
             <body>\n<h1>Mirrors of {name}</h1>\n<ul>\n{}</ul>\n</body>\n</html>\n",
            links.concat()
        );
        made(server, asked, "mirrorlist.html", page)
    } else {
        made(server, asked, "list.mirrorlist", urls.join("\n") + "\n")
    };
    response.headers_mut().insert(header::VARY, header::HeaderValue::from_static("Accept"));
    response
}
