//! From the entries of a list to the table of packages: which paths may stand there.

use super::builder::PathTableBuilder;
use crate::formats::{Entry, Skipped};
use crate::model::RepoPath;

/// Validates the paths of entries and puts them into the table.
pub(super) struct Sink<'a> {
    base: &'a str,
    is_flat: bool,
    table: &'a mut PathTableBuilder,
    pub(super) skipped: Skipped,
}

impl<'a> Sink<'a> {
    pub(super) fn new(base: &'a str, is_flat: bool, table: &'a mut PathTableBuilder) -> Self {
        Self { base, is_flat, table, skipped: Skipped::default() }
    }

    pub(super) fn take(&mut self, entry: &Entry<'_>) {
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
pub(super) fn is_reserved(path: &str) -> bool {
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
