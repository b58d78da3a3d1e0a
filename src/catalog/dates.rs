//! When the files of a generation were changed last: what `Last-Modified` says of them.
//!
//! For one path the date grows with every change, because apt asks for metadata by `If-Modified-Since` alone and
//! `wget -N` keeps the newer file. Metadata has the date that its Release says, or that of its adoption where
//! the other would not be later than the one before. A package has the date that its bytes give, which lies in
//! the past, until its path gets other bytes: from then on that of the adoption that brought them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::diff::Diff;
use super::snapshot::Snapshot;
use super::unit::Unit;
use crate::model::Digest;

/// Paths of one unit that have a date of their own. Good archives replace none. One that replaces more has all
/// its paths share a date.
const MAX_REPLACED: usize = 4096;

/// See the module's documentation. Seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dates {
    pub metadata_secs: u64,
    /// Packages that came in place of others. Those that the unit no longer names stay known: the same path may
    /// come back, or another unit may name it.
    replaced: BTreeMap<String, Replaced>,
    /// Where more were replaced than are kept, the date of all others.
    others_secs: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Replaced {
    /// Tells the contents of one path apart: the first bytes of their digest.
    mark: u64,
    secs: u64,
}

impl Dates {
    /// Of a unit's first generation. A date in the future is none (RFC 9110 section 8.8.2.1).
    pub fn first(date: Option<u64>, adopted_secs: u64) -> Self {
        Self { metadata_secs: date.unwrap_or(adopted_secs).min(adopted_secs), ..Self::default() }
    }

    /// Of a generation about to be adopted, given what it changes.
    pub fn next(snapshot: &Snapshot, unit: &Unit, diff: Option<&Diff>) -> Self {
        let first = Self::first(unit.date, unit.adopted_secs);
        let (Some(before), Some(diff)) = (snapshot.unit(&unit.key), diff) else { return first };
        let mut dates = Self::clone(&before.dates);
        let was_secs = dates.metadata_secs;
        if before.roots != unit.roots {
            let adopted_secs = unit.adopted_secs.max(was_secs + 1);
            dates.metadata_secs =
                if first.metadata_secs > was_secs { first.metadata_secs } else { adopted_secs };
        }
        for path in &diff.changed {
            if let Some(expected) = unit.packages.get(path) {
                dates.replace(snapshot, path, &expected.digest, unit.adopted_secs);
            }
        }
        for new in &diff.new {
            if snapshot.had_other(&new.path, &new.expected.digest) {
                dates.replace(snapshot, &new.path, &new.expected.digest, unit.adopted_secs);
            }
        }
        dates.limit(MAX_REPLACED, |path| unit.packages.get(path).is_some());
        dates
    }

    fn replace(&mut self, snapshot: &Snapshot, path: &str, digest: &Digest, now_secs: u64) {
        let before = snapshot.retained().filter_map(|unit| unit.dates.last(path)).max();
        let secs = before.map_or(now_secs, |before| now_secs.max(before + 1));
        self.replaced.insert(path.to_owned(), Replaced { mark: mark(digest), secs });
    }

    /// Gives up dates of paths that are gone, then the difference between the others.
    fn limit(&mut self, max: usize, is_named: impl Fn(&str) -> bool) {
        if self.replaced.len() > max {
            self.replaced.retain(|path, _| is_named(path));
        }
        if self.replaced.len() > max {
            let latest = self.replaced.values().map(|replaced| replaced.secs).max();
            self.others_secs = self.others_secs.max(latest);
            self.replaced.clear();
        }
    }

    /// The date of a path with these contents, where it is not the one that they give; `is_named` says whether
    /// the unit names the path so.
    pub(super) fn of(&self, path: &str, digest: &Digest, is_named: impl FnOnce() -> bool) -> Option<u64> {
        let own = self.replaced.get(path).filter(|replaced| replaced.mark == mark(digest));
        match own {
            Some(replaced) => Some(replaced.secs),
            None => self.others_secs.filter(|_| is_named()),
        }
    }

    /// Whether the path is known with other contents.
    pub(super) fn has_other(&self, path: &str, digest: &Digest) -> bool {
        self.replaced.get(path).is_some_and(|replaced| replaced.mark != mark(digest))
    }

    /// The last date of a path, whatever its contents.
    fn last(&self, path: &str) -> Option<u64> {
        self.replaced.get(path).map(|replaced| replaced.secs).max(self.others_secs)
    }
}

fn mark(digest: &Digest) -> u64 {
    let (head, _) = digest.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*head)
}
