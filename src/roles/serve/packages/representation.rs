//! A package as HTTP shows it: its validators and digests, the same here and at every volunteer.

use http::{HeaderValue, Response, header};

use crate::io::body::Body;
use crate::io::respond::{self, Representation};
use crate::model::{Alternatives, Blob, BlobId, Expected, RepoPath};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::metadata::repo::Repo;
use crate::roles::serve::state::Server;

/// A package whose bytes are known.
pub fn of_blob<'a>(
    server: &Server,
    repo: &Repo,
    path: &'a RepoPath,
    expected: &Expected,
    blob: Blob,
    asked: &Asked,
) -> Representation<'a> {
    let digests = server.db.digests(blob.id).ok().flatten();
    let what = Representation::of_blob(blob, path.file_name(), digests);
    what.dated(modified_secs(repo, path, expected, asked))
}

/// A package whose SHA-256 nobody knows yet.
pub fn unhashed<'a>(
    repo: &Repo,
    path: &'a RepoPath,
    expected: &Expected,
    size: u64,
    asked: &Asked,
) -> Representation<'a> {
    let what = Representation::unhashed(stand_in(expected), size, path.file_name());
    what.dated(modified_secs(repo, path, expected, asked))
}

/// A package that is still on its way: its bytes will be one of these.
pub fn of_expected<'a>(
    server: &Server,
    repo: &Repo,
    path: &'a RepoPath,
    wanted: &Alternatives,
    size: u64,
    asked: &Asked,
) -> Representation<'a> {
    let of_size = wanted.of_size(size).unwrap_or_else(|| wanted.clone());
    let first = of_size.first();
    match of_size.only().and_then(|expected| expected.blob_id()) {
        Some(id) => of_blob(server, repo, path, &first, Blob { id, size }, asked),
        None => unhashed(repo, path, &first, size, asked),
    }
}

/// Which of several the metadata means by these bytes.
pub fn meant(server: &Server, wanted: &Alternatives, blob: Blob) -> Expected {
    let is_it = |expected: &&Expected| server.packages.resolve(expected) == Some(blob.id);
    wanted.iter().find(is_it).copied().unwrap_or_else(|| blob.into())
}

/// `Last-Modified`, where it is not the one that the bytes give: a URL by hash says it itself.
pub fn modified_secs(repo: &Repo, path: &RepoPath, expected: &Expected, asked: &Asked) -> Option<u64> {
    asked.modified_secs.or_else(|| repo.snapshot().modified_secs(path.as_str(), &expected.digest))
}

/// What conditions call for before anything is read or redirected: 304 or 412.
pub fn settled(
    repo: &Repo,
    path: &RepoPath,
    expected: &Expected,
    blob: Blob,
    asked: &Asked,
) -> Option<Response<Body>> {
    if !respond::has_conditions(&asked.headers) {
        return None;
    }
    let what = Representation::of_blob(blob, path.file_name(), None);
    let what = what.dated(modified_secs(repo, path, expected, asked));
    let mut response = respond::precondition(&asked.headers, &what)?;
    if !asked.direct {
        // As the redirect in its place would have.
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    }
    Some(response)
}

/// Something that changes when the bytes do, until they were hashed.
fn stand_in(expected: &Expected) -> BlobId {
    let mut id = [0; 32];
    let digest = expected.digest.as_bytes();
    let len = digest.len().min(id.len());
    id[..len].copy_from_slice(&digest[..len]);
    BlobId(id)
}
