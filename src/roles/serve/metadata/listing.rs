//! Listings of directories, for people and crawlers: of a tree what is on disk, of upstreams what metadata names.
//!
//! A name that begins with a dot is not listed, as nginx has it; it is served all the same. A symbolic link is
//! listed as what it points to, unless it leads out of the tree, or to a directory that the path has already
//! come through: a crawler would go round and round. Sizes and dates are those that the files are served with.
//!
//! An upstream is not asked. Of members, those that Release files list and archives do not keep are left out.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::listing_cache::Listings;
use super::repo::Repo;
use crate::catalog::{Named, PathTable, Snapshot, Unit};
use crate::formats::compress::Compression;
use crate::formats::directory::{self, Entry};
use crate::io::body::Body;
use crate::io::respond::plain;
use crate::model::{Expected, RepoPath};
use crate::roles::serve::http::request::Asked;
use crate::roles::serve::http::traffic::Kind;
use crate::roles::serve::state::Server;

/// Entries of one page: ten times what the largest directories of distributions have.
const MAX_ENTRIES: usize = 200_000;
/// How long a request waits for its turn to read one.
const PATIENCE: Duration = Duration::from_secs(10);
/// A page of more bytes than this counts against `MAX_LARGE`.
const LARGE: usize = 256 << 10;

/// What archives keep of an index in place of the plain one.
const COMPRESSED: [&str; 4] = [".gz", ".xz", ".zst", ".bz2"];

/// The text of a page, and its share of the memory for large ones until the last reader is done.
struct Page {
    text: String,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// The page of a directory; of the repository itself if `dir` is `None`.
pub async fn answer(
    server: &Arc<Server>,
    repo: &Repo,
    dir: Option<&RepoPath>,
    asked: &Asked,
) -> Response<Body> {
    if !repo.config.autoindex {
        return plain(StatusCode::NOT_FOUND, "directories of this repository are not listed");
    }
    let key = (repo.index, dir.cloned());
    if let Some(page) = server.listings.pages.get(&key) {
        return response(server, page, asked);
    }
    repo.wait_warm(PATIENCE).await;
    let Ok(Ok(_reader)) = tokio::time::timeout(PATIENCE, server.listings.readers.acquire()).await else {
        return busy();
    };
    let making = server.clone();
    let make = move || {
        // Whoever asks for the same one meanwhile waits for this page.
        making.listings.pages.try_get_with(key.clone(), || page(&making, key.0, key.1.as_ref()))
    };
    match tokio::task::spawn_blocking(make).await {
        Ok(Ok(page)) => response(server, page, asked),
        Ok(Err(problem)) if *problem == Unlisted::NoDirectory => {
            plain(StatusCode::NOT_FOUND, "no such directory")
        }
        Ok(Err(_)) | Err(_) => busy(),
    }
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unlisted {
    NoDirectory,
    NoMemory,
}

/// Makes a page. Blocks.
fn page(server: &Server, repo: usize, dir: Option<&RepoPath>) -> Result<Bytes, Unlisted> {
    let repo = &server.repos[repo];
    let mut entries = entries(server, repo, dir).ok_or(Unlisted::NoDirectory)?;
    let note = match entries.len() {
        MAX_ENTRIES.. => format!("There are more than the {MAX_ENTRIES} entries that are listed."),
        _ => String::new(),
    };
    directory::sort(&mut entries);
    let title = format!("/{}/{}", repo.config.name, dir.map(|dir| format!("{dir}/")).unwrap_or_default());
    server.listings.share(directory::page(&title, dir.is_none(), &entries, &note)).ok_or(Unlisted::NoMemory)
}

/// Whether the origin has a directory of this name, which is to be asked for with a final slash.
pub async fn is_directory(repo: &Repo, path: &RepoPath) -> bool {
    if !repo.config.autoindex {
        return false;
    }
    let Some(tree) = repo.tree().map(Path::to_owned) else {
        return names_below(repo, &format!("{path}/"));
    };
    let path = path.clone();
    let look = move || Dir::open(&tree, Some(&path)).is_some();
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}

/// Sends a client to the same path with a slash behind it, however it came here.
pub fn with_slash(path: &str) -> Response<Body> {
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, "this is a directory");
    let last = path.rsplit('/').next().unwrap_or("");
    if let Ok(location) = HeaderValue::from_str(&format!("./{last}/")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

impl Listings {
    /// `None` if there is no memory left for a page of this length.
    fn share(&self, text: String) -> Option<Bytes> {
        let share = match u32::try_from(text.len() >> 10) {
            Ok(kib) if text.len() > LARGE => Some(self.large.clone().try_acquire_many_owned(kib).ok()?),
            Ok(_) => None,
            Err(_) => return None,
        };
        Some(Bytes::from_owner(Page { text, _share: share }))
    }
}

/// No date and no tag, as nginx has it: `wget -N` asks for the page again each time.
fn response(server: &Server, page: Bytes, asked: &Asked) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if asked.method == Method::GET {
        *response.body_mut() = server.traffic.count(Kind::Metadata, Body::full(page));
    }
    response
}

fn busy() -> Response<Body> {
    let mut response =
        plain(StatusCode::SERVICE_UNAVAILABLE, "too many directories are being listed; try again soon");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// The entries of a directory; `None` if there is none of this name.
fn entries(server: &Server, repo: &Repo, dir: Option<&RepoPath>) -> Option<Vec<Entry>> {
    if let Some(tree) = repo.tree() {
        return Some(Dir::open(tree, dir)?.entries(&repo.snapshot()));
    }
    let named = named_in(server, repo, dir);
    (!named.is_empty() || dir.is_none()).then_some(named)
}

/// A directory of a tree.
struct Dir<'a> {
    path: Option<&'a RepoPath>,
    /// Where the tree really is.
    root: PathBuf,
    /// Where each directory on the way really is, this one last.
    way: Vec<PathBuf>,
}

impl<'a> Dir<'a> {
    /// `None` if there is no directory of this name within the tree. Blocks, as all of this.
    fn open(tree: &Path, path: Option<&'a RepoPath>) -> Option<Self> {
        let root = tree.canonicalize().ok()?;
        let mut way = vec![root.clone()];
        let mut here = root.clone();
        for segment in path.iter().flat_map(|path| path.as_str().split('/')) {
            here.push(segment);
            let real = here.canonicalize().ok().filter(|real| real.starts_with(&root))?;
            way.push(real);
        }
        way.last()?.is_dir().then_some(Self { path, root, way })
    }

    fn entries(&self, snapshot: &Snapshot) -> Vec<Entry> {
        let Some(found) = self.way.last().and_then(|real| fs::read_dir(real).ok()) else { return Vec::new() };
        found.flatten().filter_map(|found| self.entry(&found, snapshot)).take(MAX_ENTRIES).collect()
    }

    fn entry(&self, found: &DirEntry, snapshot: &Snapshot) -> Option<Entry> {
        let name = found.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
        let path = RepoPath::new(&name).ok()?;
        let path = self.path.map_or(path.clone(), |dir| path.under(dir.as_str()));
        let meta = self.metadata(found)?;
        let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let on_disk = Entry {
            name,
            is_dir: meta.is_dir(),
            size: meta.is_file().then_some(meta.len()),
            modified_secs: modified.map(|since| since.as_secs()),
        };
        Some(if on_disk.is_dir { on_disk } else { as_served(on_disk, &path, snapshot) })
    }

    /// Of what a link points to; `None` for what is not listed.
    fn metadata(&self, found: &DirEntry) -> Option<Metadata> {
        let meta = found.metadata().ok()?;
        if !meta.is_symlink() {
            return (meta.is_file() || meta.is_dir()).then_some(meta);
        }
        let real = found.path().canonicalize().ok().filter(|real| real.starts_with(&self.root))?;
        let meta = fs::metadata(&real).ok()?;
        (meta.is_file() || (meta.is_dir() && !self.way.contains(&real))).then_some(meta)
    }
}

/// A file on disk with the size and date that it is served with: those of the generation that names it.
fn as_served(on_disk: Entry, path: &RepoPath, snapshot: &Snapshot) -> Entry {
    let Entry { name, size, modified_secs, .. } = on_disk;
    let (size, modified_secs) = match snapshot.resolve(path) {
        Named::Root { unit, root } => (Some(root.blob.size), Some(unit.modified().secs)),
        Named::Member { unit, expected, .. } => (expected.size.or(size), Some(unit.modified().secs)),
        Named::Package { expected } => {
            let dated = snapshot.modified_secs(path.as_str(), &expected.digest);
            (expected.size.or(size), dated.or_else(|| package_date(&expected)).or(modified_secs))
        }
        Named::Unlisted { .. } | Named::Unknown => (size, modified_secs),
    };
    Entry { name, is_dir: false, size, modified_secs }
}

fn package_date(expected: &Expected) -> Option<u64> {
    expected.blob_id().map(|id| id.last_modified_secs())
}

/// Whether metadata names anything in a directory, which has its final slash.
fn names_below(repo: &Repo, dir: &str) -> bool {
    let has_any = |table: &PathTable| {
        let mut has = false;
        table.for_each_in(dir, 1, |_, _| has = true);
        has
    };
    repo.snapshot().units().any(|unit| {
        let has_root = unit.roots.keys().any(|root| root.as_str().starts_with(dir));
        has_root || has_any(&unit.packages) || has_any(&unit.members)
    })
}

/// What metadata names in a directory.
fn named_in(server: &Server, repo: &Repo, dir: Option<&RepoPath>) -> Vec<Entry> {
    let mut named =
        NamedIn { dir: dir.map(|dir| format!("{dir}/")).unwrap_or_default(), ..NamedIn::default() };
    for unit in repo.snapshot().units() {
        named.add_unit(server, unit);
    }
    named.entries.into_values().take(MAX_ENTRIES).collect()
}

/// What units name in one directory, by name and whether it is a directory.
#[derive(Default)]
struct NamedIn {
    /// Empty, or with a final slash.
    dir: String,
    entries: BTreeMap<(String, bool), Entry>,
}

impl NamedIn {
    fn add_unit(&mut self, server: &Server, unit: &Unit) {
        let date = unit.modified().secs;
        for (path, root) in &unit.roots {
            if let Some(rest) = path.as_str().strip_prefix(&self.dir) {
                let name = rest.split('/').next().unwrap_or(rest);
                self.add(name, (name == rest).then_some(root.blob.size).map(Some), date);
            }
        }
        let dir = self.dir.clone();
        unit.packages.for_each_in(&dir, MAX_ENTRIES, |name, file| {
            let replaced = |e: &Expected| unit.package_modified_secs(&format!("{dir}{name}"), &e.digest);
            let dated = file.as_ref().and_then(|e| replaced(e).or_else(|| package_date(e)));
            let date = dated.unwrap_or(date);
            self.add(name, file.map(|expected| expected.size), date);
        });
        unit.members.for_each_in(&dir, MAX_ENTRIES, |name, file| match file {
            Some(expected) if !is_kept_there(server, unit, &format!("{dir}{name}"), &expected) => {}
            file => self.add(name, file.map(|expected| expected.size), date),
        });
    }

    /// `size` is `None` for a directory.
    fn add(&mut self, name: &str, size: Option<Option<u64>>, date: u64) {
        if name.is_empty() || name.starts_with('.') {
            return;
        }
        let is_dir = size.is_none();
        let entry = self.entries.entry((name.to_owned(), is_dir)).or_insert_with(|| Entry {
            name: name.to_owned(),
            is_dir,
            size: size.flatten(),
            modified_secs: None,
        });
        entry.modified_secs = entry.modified_secs.max(Some(date));
    }
}

/// Whether an origin is likely to have a member. Release files list indexes without compression too, and those of
/// components that are empty; few archives keep the former, and none the latter.
fn is_kept_there(server: &Server, unit: &Unit, path: &str, expected: &Expected) -> bool {
    if server.metadata.resolve(expected).and_then(|id| server.metadata.store.size_of(id)).is_some() {
        return true;
    }
    let (stem, compression) = Compression::strip(path);
    let has_another =
        || COMPRESSED.iter().any(|suffix| unit.members.get(&format!("{path}{suffix}")).is_some());
    !unit.absent.contains(stem) && (compression != Compression::None || !has_another())
}
