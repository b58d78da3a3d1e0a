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
use super::error::IngestError;
use super::members::{Member, Unproven, open_limit};
use super::refusals::{self, Refusals};
use super::sink::{Sink, is_reserved};
use super::table::PathTable;
use super::unit::{Root, Unit, UnitKey, UnitKind};
use super::warm::{self, Warm};
use crate::formats::compress::{self, Compression};
use crate::formats::release::Release;
use crate::formats::repomd::Repomd;
use crate::formats::{self, Entry, FormatError, Skipped, checksums, clearsign, treeinfo};
use crate::model::{Algorithm, Expected, RepoPath};

/// Warnings kept of one generation: one of each kind says enough.
const MAX_WARNINGS: usize = 16;

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

/// What a draft still needs: one member of a family, any of which will do, best first.
#[derive(Clone, Debug)]
pub struct Step {
    pub stem: String,
    pub choices: Vec<(RepoPath, Expected)>,
    /// Where there is no choice: a file that nothing proves, which clients take nevertheless.
    pub unproven: Option<(RepoPath, Unproven)>,
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
    has_by_hash: bool,
    no_list_for_all: bool,
    components: Vec<String>,
    skipped: Skipped,
    warnings: Vec<String>,
    refusals: Refusals,
    /// What the suite is said to have; apt passes over lists of others.
    architectures: Vec<String>,
    date: Option<u64>,
    valid_until: Option<u64>,
    unreadable_until: Option<String>,
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
            has_by_hash: false,
            no_list_for_all: false,
            components: Vec::new(),
            skipped: Skipped::default(),
            warnings: Vec::new(),
            refusals: Refusals::default(),
            architectures: Vec::new(),
            date: None,
            valid_until: None,
            unreadable_until: None,
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
            let text = clearsign::release_text(&root.root.bytes).map_err(|e| format_error(&root.path, e))?;
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
        if !release.is_strong() {
            self.refusals.note_weak();
        }
        let file = &roots[0].path;
        for (field, text) in &release.unreadable {
            self.warnings
                .push(format!("{file}: {field} '{text}' is not a date that apt can read; it counts as none"));
        }
        // Of what is not signed apt checks nothing but a date that it can read.
        let is_signed = roots.iter().any(|root| root.path.file_name() != "Release");
        self.unreadable_until = release.unreadable.get("Valid-Until").filter(|_| is_signed).cloned();
        self.has_by_hash = release.acquire_by_hash;
        self.no_list_for_all = release.no_list_for_all;
        self.components = release.components;
        self.architectures = release.architectures;
        for (path, listed) in release.members {
            let path = path.under(self.key.member_base());
            self.members.insert(path, Member::of_release(listed));
        }
        self.merge(release.skipped);
        Ok(())
    }

    fn read_repomd(&mut self, roots: &[RootFile]) -> Result<(), IngestError> {
        let missing = || IngestError::NoRepomd { dir: self.key.to_string() };
        let root = roots.iter().find(|root| root.path.file_name() == "repomd.xml").ok_or_else(missing)?;
        let repomd = Repomd::parse(&root.root.bytes).map_err(|e| format_error(&root.path, e))?;
        for record in repomd.records {
            let path = match RepoPath::new(&record.location) {
                Ok(path) if record.base.is_none() => path.under(self.key.member_base()),
                Ok(_) => {
                    self.skipped.note(|| format!("record {:?} is elsewhere (xml:base)", record.kind));
                    continue;
                }
                Err(e) => {
                    self.skipped.note(|| format!("location {:?}: {e}", record.location));
                    continue;
                }
            };
            if record.kind == "primary" {
                self.refusals.note_place(&path, self.key.member_base());
                self.stems.insert(path.to_string());
            }
            self.members.insert(path.clone(), Member::of_record(&record));
            self.kinds.insert(path.to_string(), record.kind);
        }
        if self.stems.is_empty() {
            self.refusals.note_disputed(|| refusals::NO_PRIMARY.to_owned());
        }
        self.merge(repomd.skipped);
        Ok(())
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
            self.merge(read.map_err(|e| format_error(&root.path, e))?);
            self.merge(bad);
        }
        Ok(())
    }

    /// The package lists to read before the draft may be finished.
    pub fn wanted(&self, warm: &Warm) -> Vec<Step> {
        if self.key.kind == UnitKind::RpmMd {
            let member = |path: &String| self.members.get_key_value(path.as_str());
            let step = |path: &String| Some(step(path, vec![member(path)?]));
            return self.stems.iter().filter_map(step).collect();
        }
        self.families(|stem| is_index(stem) && warm.wants(&self.key, stem, self.no_list_for_all))
    }

    /// Members that apt asks for unless it is told otherwise, to have at hand where the origin has them.
    pub fn usual(&self, warm: &Warm) -> Vec<Step> {
        self.families(|stem| warm.has_description(&self.key, stem))
    }

    fn families(&self, is_one: impl Fn(&str) -> bool) -> Vec<Step> {
        let mut families: BTreeMap<&str, Vec<(&RepoPath, &Member)>> = BTreeMap::new();
        for (path, member) in &self.members {
            let (stem, _) = Compression::strip(path.as_str());
            if is_one(stem) {
                families.entry(stem).or_default().push((path, member));
            }
        }
        let mut steps = Vec::with_capacity(families.len());
        for (stem, mut choices) in families {
            choices.sort_by_key(|(path, _)| preference(Compression::of(path.as_str())));
            steps.push(step(stem, choices));
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
        held.filter_map(|(path, member)| Some((path.clone(), member.expected?))).collect()
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

    /// A `Valid-Until` that apt refuses, because it cannot read it.
    pub fn unreadable_until(&self) -> Option<&str> {
        self.unreadable_until.as_deref()
    }

    /// Notes families that the origin does not have.
    pub fn lacks(&mut self, stems: impl Iterator<Item = String>) {
        self.absent.extend(stems);
    }

    /// Takes the bytes of a wanted member, verified as far as they can be.
    ///
    /// # Errors
    /// If they are not what clients take for it, or cannot be read.
    pub fn read(&mut self, stem: &str, path: &RepoPath, bytes: &[u8]) -> Result<(), IngestError> {
        let member = self.members.get(path);
        if let Some(problem) = member.and_then(|member| member.flaw(bytes)) {
            return Err(IngestError::Member { path: path.to_string(), problem });
        }
        if member.is_some_and(|member| member.digests.is_empty()) {
            self.refusals.note_disputed(|| refusals::NO_SUM.to_owned());
        }
        if let Some(problem) = member.and_then(|member| member.objection(bytes)) {
            self.refusals.note_disputed(|| format!("{path}: {problem}"));
        }
        let before = self.packages.mark();
        let mut read = match self.read_list(stem, path, bytes) {
            Ok(skipped) => skipped,
            Err(e) => {
                self.packages.rewind(before);
                return Err(e);
            }
        };
        // Who does not ask for this list is served: only rpm-md has no other.
        if self.key.kind != UnitKind::RpmMd
            && let Some(problem) = read.fatal.take()
        {
            self.refusals.note_list(stem, problem);
        }
        self.merge(read);
        if let Some(member) = self.members.get_mut(path).filter(|member| member.expected.is_none()) {
            member.pin(bytes);
            self.warn(|| {
                format!("{path}: nothing but MD5 or a size names it: read and passed on unverified")
            });
        }
        self.stems.insert(stem.to_owned());
        Ok(())
    }

    fn read_list(&mut self, stem: &str, path: &RepoPath, bytes: &[u8]) -> Result<Skipped, IngestError> {
        let compression = Compression::of(path.as_str());
        let limit = open_limit(bytes.len() as u64);
        let base = self.package_base(stem);
        let mut sink = Sink::new(&base, self.key.kind == UnitKind::Flat, &mut self.packages);
        let mut read = if self.key.kind == UnitKind::RpmMd {
            // What repomd.xml says of the decompressed file no client looks at.
            let input = std::io::Read::take(compress::reader(compression, Box::new(bytes)), limit);
            formats::primary::primary(BufReader::with_capacity(1 << 16, input), &mut |e| sink.take(&e))
        } else {
            let text = compress::decompress(compression, bytes, limit).map_err(|e| format_error(path, e))?;
            let plain = self.members.get(stem).filter(|_| stem != path.as_str());
            if let Some(problem) = plain.and_then(|plain| plain.flaw(&text)) {
                return Err(IngestError::Opened { path: path.to_string(), problem });
            }
            if stem.ends_with("Sources") {
                formats::sources::sources(&text, &mut |e| sink.take(&e))
            } else {
                formats::packages::packages(&text, &mut |e| sink.take(&e))
            }
        }
        .map_err(|e| format_error(path, e))?;
        read.merge(sink.skipped);
        Ok(read)
    }

    fn merge(&mut self, skipped: Skipped) {
        if let Some(fatal) = &skipped.fatal {
            self.refusals.note(|| fatal.clone());
        }
        self.skipped.merge(skipped);
    }

    fn warn(&mut self, text: impl FnOnce() -> String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(text());
        }
    }

    /// What of it clients would refuse that take `current` now, although every file is right.
    pub fn objection(&self, current: &Unit, settle: bool) -> Option<String> {
        if current.roots == self.roots {
            return None;
        }
        self.refusals.objection(current, settle)
    }

    /// Why apt refuses a list that was read, with all others.
    pub fn refusal_of(&self, stem: &str) -> Option<&str> {
        self.refusals.of_list(stem)
    }

    /// Whether apt asks in vain for a list that an earlier generation had: it passes over those of components and
    /// architectures that the suite is not said to have.
    pub fn misses(&self, stem: &str) -> bool {
        let is_listed = || Compression::names(stem).any(|name| self.members.contains_key(name.as_str()));
        let is_unread = self.no_list_for_all && stem.ends_with("/binary-all/Packages");
        is_index(stem)
            && !is_unread
            && warm::is_said(&self.key, stem, &self.components, &self.architectures)
            && !is_listed()
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

    fn warn_of_what_passes(&mut self) {
        let unproven = self.members.iter().filter(|(_, member)| member.expected.is_none());
        if let Some((first, _)) = unproven.clone().next() {
            let count = unproven.count();
            let text = format!(
                "{count} files have no digest that proves anything, such as {first}: passed on unverified"
            );
            self.warn(|| text);
        }
    }

    /// The members that this algorithm names besides their main digest.
    fn members_by(&self, algorithm: Algorithm) -> PathTable {
        let mut table = PathTableBuilder::default();
        for (path, Member { expected, digests, .. }) in &self.members {
            if let Some(digest) = digests.iter().find(|digest| digest.algorithm() == algorithm)
                && let Some(expected) = expected.filter(|expected| *digest != expected.digest)
            {
                table.push(path.as_str(), Expected { digest: *digest, size: expected.size });
            }
        }
        table.build()
    }

    pub fn finish(mut self, generation: u64, adopted_secs: u64) -> Unit {
        let is_refused = self.refusals.is_any();
        let (refused_lists, refused) = std::mem::take(&mut self.refusals).into_warnings();
        refused.into_iter().for_each(|text| self.warn(|| text));
        self.warn_of_what_passes();
        let other_digests = Algorithm::ALL
            .into_iter()
            .map(|algorithm| self.members_by(algorithm))
            .filter(|table| !table.is_empty())
            .collect();
        let mut members = PathTableBuilder::default();
        for (path, member) in &self.members {
            if let Some(expected) = member.expected {
                members.push(path.as_str(), expected);
            }
        }
        Unit {
            key: self.key,
            generation,
            roots: self.roots,
            members: members.build(),
            kinds: self.kinds,
            other_digests,
            is_retired: false,
            is_refused,
            refused_lists: refused_lists.into_keys().collect(),
            has_by_hash: self.has_by_hash,
            components: self.components,
            skipped: self.skipped.count + self.packages.overflow(),
            first_skipped: self.skipped.first,
            warnings: self.warnings,
            packages: self.packages.build(),
            stems: self.stems,
            absent: self.absent,
            date: self.date,
            valid_until: self.valid_until,
            dates: Arc::new(Dates::first(self.date, adopted_secs)),
            adopted_secs,
        }
    }
}

/// The files of a family that prove something, best first, or the best of those that do not.
fn step(stem: &str, members: Vec<(&RepoPath, &Member)>) -> Step {
    let proven = |(path, member): &(&RepoPath, &Member)| Some(((*path).clone(), member.expected?));
    let choices: Vec<_> = members.iter().filter_map(proven).collect();
    let first = members.first().filter(|_| choices.is_empty());
    let unproven = first.map(|(path, member)| ((*path).clone(), member.unproven()));
    Step { stem: stem.to_owned(), choices, unproven }
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
