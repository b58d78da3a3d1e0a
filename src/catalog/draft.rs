//! How raw metadata becomes a generation: a draft says which members it needs, reads them, is finished.
//!
//! Pure: the caller fetches and verifies bytes against the [`Expected`] that the draft gives, and hands them
//! back. A draft that cannot be completed is dropped; nothing of it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::sync::Arc;

use bytes::Bytes;

use super::builder::PathTableBuilder;
use super::dates::Dates;
use super::opened::Opened;
use super::table::PathTable;
use super::unit::{Root, Unit, UnitKey, UnitKind};
use super::warm::Warm;
use crate::formats::compress::{self, Compression};
use crate::formats::release::Release;
use crate::formats::repomd::Repomd;
use crate::formats::{self, Entry, FormatError, Skipped, checksums, clearsign, treeinfo};
use crate::model::{Algorithm, Digest, Expected, RepoPath};

/// A root file as fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFile {
    pub path: RepoPath,
    pub root: Root,
}

impl RootFile {
    pub fn new(path: RepoPath, bytes: Bytes) -> Self {
        Self { path, root: Root::new(bytes) }
    }
}

/// A file that the root file names, with everything known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    expected: Expected,
    /// Every digest listed, for `by-hash` look-ups.
    digests: Vec<Digest>,
}

/// Why metadata is refused. The unit's last good generation stays.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("{path}: {source}")]
    Format { path: String, source: FormatError },
    #[error("{path}: what it decompresses to is not what the metadata says")]
    Opened { path: String },
    #[error("{dir}: neither InRelease nor Release is there")]
    NoRelease { dir: String },
    #[error("{dir}: InRelease and Release are of different generations")]
    Mixed { dir: String },
    #[error("{dir}: repomd.xml is missing or lists no primary")]
    NoPrimary { dir: String },
    #[error("{dir}: no checksum file is there")]
    NoChecksums { dir: String },
}

/// What a draft still needs: one member of a family, any of which will do, best first.
#[derive(Clone, Debug)]
pub struct Step {
    pub stem: String,
    pub choices: Vec<(RepoPath, Expected)>,
}

/// A generation in the making.
#[derive(Debug)]
pub struct Draft {
    key: UnitKey,
    roots: BTreeMap<RepoPath, Root>,
    members: BTreeMap<RepoPath, Member>,
    /// rpm-md: what kind of metadata each member is.
    kinds: BTreeMap<String, String>,
    packages: PathTableBuilder,
    stems: BTreeSet<String>,
    absent: BTreeSet<String>,
    /// rpm-md: what members decompress to, where the metadata says.
    open: BTreeMap<RepoPath, Expected>,
    has_by_hash: bool,
    no_list_for_all: bool,
    components: Vec<String>,
    skipped: Skipped,
    date: Option<u64>,
    valid_until: Option<u64>,
}

impl Draft {
    /// Reads the root files of a unit.
    pub fn new(key: UnitKey, roots: Vec<RootFile>) -> Result<Self, IngestError> {
        let mut draft = Self {
            key,
            roots: BTreeMap::new(),
            members: BTreeMap::new(),
            kinds: BTreeMap::new(),
            packages: PathTableBuilder::default(),
            stems: BTreeSet::new(),
            absent: BTreeSet::new(),
            open: BTreeMap::new(),
            has_by_hash: false,
            no_list_for_all: false,
            components: Vec::new(),
            skipped: Skipped::default(),
            date: None,
            valid_until: None,
        };
        match draft.key.kind {
            UnitKind::Suite | UnitKind::Flat => draft.read_release(&roots)?,
            UnitKind::RpmMd => draft.read_repomd(&roots)?,
            UnitKind::Checksums => draft.read_checksums(&roots)?,
        }
        draft.roots = roots.into_iter().map(|root| (root.path, root.root)).collect();
        Ok(draft)
    }

    fn read_release(&mut self, roots: &[RootFile]) -> Result<(), IngestError> {
        let find = |name: &str| roots.iter().find(|root| root.path.file_name() == name);
        let parse = |root: &RootFile| {
            let text = clearsign::cleartext(&root.root.bytes).map_err(|e| format_error(&root.path, e))?;
            Release::parse(&text).map_err(|e| format_error(&root.path, e))
        };
        let dir = || self.key.to_string();
        let release = match (find("InRelease"), find("Release")) {
            (Some(signed), Some(plain)) => {
                let (signed, plain) = (parse(signed)?, parse(plain)?);
                if signed != plain {
                    return Err(IngestError::Mixed { dir: dir() });
                }
                signed
            }
            (Some(only), None) | (None, Some(only)) => parse(only)?,
            (None, None) => return Err(IngestError::NoRelease { dir: dir() }),
        };
        (self.date, self.valid_until) = (release.date, release.valid_until);
        self.has_by_hash = release.acquire_by_hash;
        self.no_list_for_all = release.no_list_for_all;
        self.components = release.components;
        for (path, listed) in release.members {
            let path = path.under(self.key.member_base());
            self.members.insert(path, Member { expected: listed.expected(), digests: listed.digests });
        }
        Ok(())
    }

    fn read_repomd(&mut self, roots: &[RootFile]) -> Result<(), IngestError> {
        let no_primary = || IngestError::NoPrimary { dir: self.key.to_string() };
        let root = roots.iter().find(|root| root.path.file_name() == "repomd.xml").ok_or_else(no_primary)?;
        let repomd = Repomd::parse(&root.root.bytes).map_err(|e| format_error(&root.path, e))?;
        for record in repomd.records.iter().filter(|record| record.base.is_none()) {
            let Ok(path) = RepoPath::new(&record.location) else {
                self.skipped.note(|| format!("location {:?}", record.location));
                continue;
            };
            let path = path.under(self.key.member_base());
            if record.kind == "primary" {
                self.stems.insert(path.to_string());
            }
            if let Some(open) = record.open {
                self.open.insert(path.clone(), open);
            }
            self.kinds.insert(path.to_string(), record.kind.clone());
            let digests = vec![record.expected.digest];
            self.members.insert(path, Member { expected: record.expected, digests });
        }
        if self.stems.is_empty() { Err(no_primary()) } else { Ok(()) }
    }

    fn read_checksums(&mut self, roots: &[RootFile]) -> Result<(), IngestError> {
        if roots.is_empty() {
            return Err(IngestError::NoChecksums { dir: self.key.to_string() });
        }
        // Strongest name last in the alphabet of SHA256SUMS < SHA512SUMS, but SHA-256 identifies, so the
        // order of names is right: the first entry of a path is kept.
        let mut sorted: Vec<&RootFile> = roots.iter().collect();
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
        for root in sorted {
            let base = root.path.parent().unwrap_or("");
            let mut sink = Sink::new(base, false, &mut self.packages);
            let mut take = |e: Entry<'_>| {
                // A checksum file may list a whole tree.
                if !is_reserved(e.path) {
                    sink.take(&e);
                }
            };
            let read = match root.path.file_name() {
                ".treeinfo" | "treeinfo" => treeinfo::treeinfo(&root.root.bytes, &mut take),
                name => checksums::checksum_file(name, &root.root.bytes, &mut take),
            };
            let bad = sink.skipped;
            merge(&mut self.skipped, read.map_err(|e| format_error(&root.path, e))?);
            merge(&mut self.skipped, bad);
        }
        Ok(())
    }

    /// The package lists to read before the draft may be finished.
    pub fn wanted(&self, warm: &Warm) -> Vec<Step> {
        if self.key.kind == UnitKind::RpmMd {
            let choice = |path: &String| {
                let (path, member) = self.members.get_key_value(path.as_str())?;
                Some(Step { stem: path.to_string(), choices: vec![(path.clone(), member.expected)] })
            };
            return self.stems.iter().filter_map(choice).collect();
        }
        let mut families: BTreeMap<&str, Vec<(RepoPath, Expected)>> = BTreeMap::new();
        for (path, member) in &self.members {
            let (stem, _) = Compression::strip(path.as_str());
            if is_index(stem) && warm.wants(&self.key, stem, self.no_list_for_all) {
                families.entry(stem).or_default().push((path.clone(), member.expected));
            }
        }
        let mut steps = Vec::with_capacity(families.len());
        for (stem, mut choices) in families {
            choices.sort_by_key(|(path, _)| preference(Compression::of(path.as_str())));
            steps.push(Step { stem: stem.to_owned(), choices });
        }
        steps
    }

    /// Entries read so far, those of several lists counted each time.
    pub fn entries(&self) -> usize {
        self.packages.len()
    }

    pub fn has_by_hash(&self) -> bool {
        self.has_by_hash
    }

    /// Members besides the package lists that clients will ask for: those they asked for before and, in
    /// rpm-md, all that common clients read.
    pub fn to_hold(&self, asked: &BTreeSet<String>) -> Vec<(RepoPath, Expected)> {
        let is_common = |kind: &str| !(kind.ends_with("_db") || kind.ends_with("_zck") || kind == "other");
        let is_held = |path: &RepoPath| match self.kinds.get(path.as_str()) {
            Some(kind) => is_common(kind) || asked.contains(kind),
            None => asked.contains(path.as_str()),
        };
        let held = self.members.iter().filter(|(path, _)| is_held(path));
        held.map(|(path, member)| (path.clone(), member.expected)).collect()
    }

    pub fn key(&self) -> &UnitKey {
        &self.key
    }

    /// rpm-md: what kind of metadata each member is, by its path.
    pub fn kinds(&self) -> &BTreeMap<String, String> {
        &self.kinds
    }

    /// When its metadata was made, and until when it may be used, where it says.
    pub fn dates(&self) -> (Option<u64>, Option<u64>) {
        (self.date, self.valid_until)
    }

    /// Notes families that the origin does not have.
    pub fn lacks(&mut self, stems: impl Iterator<Item = String>) {
        self.absent.extend(stems);
    }

    /// Takes the verified bytes of a wanted member. After an error nothing of it is kept.
    pub fn read(&mut self, stem: &str, path: &RepoPath, bytes: &[u8]) -> Result<(), IngestError> {
        let before = self.packages.mark();
        let read = self.read_list(stem, path, bytes);
        if read.is_err() {
            self.packages.rewind(before);
        }
        read
    }

    fn read_list(&mut self, stem: &str, path: &RepoPath, bytes: &[u8]) -> Result<(), IngestError> {
        let compression = Compression::of(path.as_str());
        let limit = self.open_limit(stem, path, bytes.len() as u64);
        let base = self.package_base(stem);
        let open = self.opened(stem, path);
        let wrong = || IngestError::Opened { path: path.to_string() };
        let mut sink = Sink::new(&base, self.key.kind == UnitKind::Flat, &mut self.packages);
        let read = if self.key.kind == UnitKind::RpmMd {
            let input = std::io::Read::take(compress::reader(compression, Box::new(bytes)), limit);
            let mut input = Opened::new(input, open.as_ref());
            let buffered = BufReader::with_capacity(1 << 16, &mut input);
            let read = formats::primary::primary(buffered, &mut |e| sink.take(&e));
            if read.is_ok() && open.is_some_and(|open| !input.is(&open).unwrap_or(false)) {
                return Err(wrong());
            }
            read
        } else {
            let text = compress::decompress(compression, bytes, limit).map_err(|e| format_error(path, e))?;
            if open.is_some_and(|open| !Opened::new(&text[..], Some(&open)).is(&open).unwrap_or(false)) {
                return Err(wrong());
            }
            if stem.ends_with("Sources") {
                formats::sources::sources(&text, &mut |e| sink.take(&e))
            } else {
                formats::packages::packages(&text, &mut |e| sink.take(&e))
            }
        };
        let bad = sink.skipped;
        merge(&mut self.skipped, read.map_err(|e| format_error(path, e))?);
        merge(&mut self.skipped, bad);
        self.stems.insert(stem.to_owned());
        Ok(())
    }

    /// What the metadata says of a member once it is decompressed.
    fn opened(&self, stem: &str, path: &RepoPath) -> Option<Expected> {
        let plain = || self.members.get(stem).filter(|_| stem != path.as_str()).map(|member| member.expected);
        self.open.get(path).copied().or_else(plain)
    }

    /// Bytes that a member may decompress to: what the metadata declares, else a generous ratio.
    fn open_limit(&self, stem: &str, path: &RepoPath, compressed: u64) -> u64 {
        /// Package lists compress to about a fifth; 200 leaves room for repetitive ones.
        const RATIO: u64 = 200;
        /// The largest lists known are some hundred MB.
        const MAX_OPEN: u64 = 1 << 30;
        const FLOOR: u64 = 16 << 20;
        let declared = self.opened(stem, path).and_then(|open| open.size);
        // A declared size is believed only as far as a compressed file of this length can reach.
        let reachable = compressed.saturating_mul(RATIO).clamp(FLOOR, MAX_OPEN);
        declared.map_or(reachable, |declared| declared.min(reachable))
    }

    /// A flat repository's paths are relative to the URL in the client's sources list, which may be the
    /// unit's directory or one above it; the paths themselves tell which.
    fn package_base(&self, stem: &str) -> String {
        match self.key.kind {
            UnitKind::Checksums | UnitKind::Flat => {
                RepoPath::new(stem).ok().and_then(|p| p.parent().map(str::to_owned)).unwrap_or_default()
            }
            UnitKind::Suite | UnitKind::RpmMd => self.key.package_base().to_owned(),
        }
    }

    /// The members that this algorithm names besides their main digest.
    fn members_by(&self, algorithm: Algorithm) -> PathTable {
        let mut table = PathTableBuilder::default();
        for (path, Member { expected, digests }) in &self.members {
            if let Some(digest) = digests.iter().find(|digest| digest.algorithm() == algorithm)
                && *digest != expected.digest
            {
                table.push(path.as_str(), Expected { digest: *digest, size: expected.size });
            }
        }
        table.build()
    }

    pub fn finish(self, generation: u64, adopted_secs: u64) -> Unit {
        let other_digests = Algorithm::ALL
            .into_iter()
            .map(|algorithm| self.members_by(algorithm))
            .filter(|table| !table.is_empty())
            .collect();
        let mut members = PathTableBuilder::default();
        for (path, member) in &self.members {
            members.push(path.as_str(), member.expected);
        }
        Unit {
            key: self.key,
            generation,
            roots: self.roots,
            members: members.build(),
            kinds: self.kinds,
            other_digests,
            is_retired: false,
            has_by_hash: self.has_by_hash,
            components: self.components,
            skipped: self.skipped.count + self.packages.overflow(),
            first_skipped: self.skipped.first,
            packages: self.packages.build(),
            stems: self.stems,
            absent: self.absent,
            date: self.date,
            valid_until: self.valid_until,
            adopted_secs,
            dates: Arc::new(Dates::first(self.date, adopted_secs)),
        }
    }
}

/// Validates the paths of entries and puts them into the table.
struct Sink<'a> {
    base: &'a str,
    is_flat: bool,
    table: &'a mut PathTableBuilder,
    skipped: Skipped,
}

impl<'a> Sink<'a> {
    fn new(base: &'a str, is_flat: bool, table: &'a mut PathTableBuilder) -> Self {
        Self { base, is_flat, table, skipped: Skipped::default() }
    }

    fn take(&mut self, entry: &Entry<'_>) {
        match RepoPath::new(entry.path) {
            Ok(path) if is_reserved(path.as_str()) => {
                self.skipped.note(|| format!("{:?} is a name of metadata", entry.path));
            }
            Ok(path) if self.is_flat => self.table.push(place(self.base, &path).as_str(), entry.expected),
            Ok(path) => self.table.push(path.under(self.base).as_str(), entry.expected),
            Err(e) => self.skipped.note(|| format!("{:?}: {e}", entry.path)),
        }
    }
}

/// `base/path`, where the end of `base` and the start of `path` are not repeated: in a flat repository at
/// `a/flat`, `flat/x.deb` and `x.deb` are the same file.
fn place(base: &str, path: &RepoPath) -> RepoPath {
    let mut tail = base;
    while !tail.is_empty() {
        if path.as_str().strip_prefix(tail).is_some_and(|rest| rest.starts_with('/')) {
            let head = base[..base.len() - tail.len()].trim_end_matches('/');
            return path.under(head);
        }
        tail = tail.split_once('/').map_or("", |(_, rest)| rest);
    }
    path.under(base)
}

/// Names under which only metadata is served, whatever a list of packages says: a package there would stand
/// in the place of what clients check everything against.
fn is_reserved(path: &str) -> bool {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_package =
        [".deb", ".udeb", ".ddeb", ".dsc", ".diff.gz", ".rpm", ".drpm"].iter().any(|end| name.ends_with(end))
            || name.contains(".tar.");
    let is_root = matches!(
        name,
        "InRelease" | "Release" | "Release.gpg" | "repomd.xml" | "repomd.xml.asc" | "repomd.xml.key"
    );
    is_root || (!is_package && dir.split('/').any(|segment| matches!(segment, "repodata" | "dists")))
}

fn is_index(stem: &str) -> bool {
    matches!(stem.rsplit('/').next(), Some("Packages" | "Sources"))
}

/// Smallest transfer first.
fn preference(compression: Compression) -> u8 {
    match compression {
        Compression::Xz => 0,
        Compression::Zstd => 1,
        Compression::Lzma => 2,
        Compression::Bzip2 => 3,
        Compression::Gzip => 4,
        Compression::None => 5,
    }
}

fn format_error(path: &RepoPath, source: FormatError) -> IngestError {
    IngestError::Format { path: path.to_string(), source }
}

fn merge(into: &mut Skipped, from: Skipped) {
    into.count += from.count;
    if into.first.is_none() {
        into.first = from.first;
    }
}
