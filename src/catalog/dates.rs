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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use super::*;
    use crate::catalog::{Draft, PathTableBuilder, RootFile, UnitKey, UnitKind};
    use crate::model::{Algorithm, Expected, RepoPath};

    fn digest(n: u8) -> Digest {
        Digest::new(Algorithm::Sha256, &[n; 32])
    }

    /// A suite whose Release has this date, if any, and these packages.
    fn unit(suite: &str, date: Option<&str>, text: &str, packages: &[(&str, u8)], adopted_secs: u64) -> Unit {
        let date = date.map(|date| format!("Date: {date}\n")).unwrap_or_default();
        let release = format!("Origin: {text}\n{date}SHA256:\n {} 5 main/x\n", "0".repeat(64));
        let key = UnitKey { kind: UnitKind::Suite, dir: format!("dists/{suite}") };
        let path = RepoPath::new(&format!("dists/{suite}/Release")).expect("valid");
        let draft = Draft::new(key, vec![RootFile::new(path, release.into())]).expect("valid");
        let mut table = PathTableBuilder::default();
        for (path, n) in packages {
            table.push(path, Expected { digest: digest(*n), size: Some(1) });
        }
        Unit { packages: table.build(), ..draft.finish(1, adopted_secs) }
    }

    /// What the server does with a new generation.
    fn adopt(snapshot: Snapshot, mut unit: Unit) -> Snapshot {
        let diff = snapshot.unit(&unit.key).map(|before| Diff::between(&before.packages, &unit.packages));
        unit.dates = Arc::new(Dates::next(&snapshot, &unit, diff.as_ref()));
        let generations: VecDeque<_> = snapshot.succession(Arc::new(unit));
        snapshot.adopt(generations)
    }

    /// 1 November 2025, 12:00.
    const NOON: u64 = 1_761_998_400;
    const AT_NOON: Option<&str> = Some("Sat, 01 Nov 2025 12:00:00 UTC");
    const LATER: Option<&str> = Some("Sat, 01 Nov 2025 13:00:00 UTC");

    #[test]
    fn metadata_has_its_date_unless_that_goes_back() {
        let mut snapshot = Snapshot::default();
        for (date, text, adopted_secs, want) in [
            (AT_NOON, "a", NOON + 500, NOON),
            // The same files, with another list read.
            (AT_NOON, "a", NOON + 600, NOON),
            (AT_NOON, "b", NOON + 700, NOON + 700),
            (AT_NOON, "c", NOON + 700, NOON + 701),
            (LATER, "d", NOON + 5000, NOON + 3600),
            // From the future, and without a date.
            (Some("Sat, 01 Nov 2025 20:00:00 UTC"), "e", NOON + 6000, NOON + 6000),
            (None, "f", NOON + 6100, NOON + 6100),
            // A clock that was set back.
            (None, "g", NOON, NOON + 6101),
        ] {
            snapshot = adopt(snapshot, unit("s", date, text, &[], adopted_secs));
            let unit = snapshot.units().next().expect("adopted");
            assert_eq!(unit.modified().secs, want, "{text}");
            assert_eq!(unit.modified().unchanged_since, Some(adopted_secs.max(want)), "{text}");
        }
        let key = UnitKey { kind: UnitKind::Suite, dir: "dists/s".to_owned() };
        let earlier = snapshot.generations(&key).nth(1).expect("retained");
        assert_eq!(earlier.modified().unchanged_since, None, "a copy of a later date is no copy of this");
    }

    /// A suite and the packages of its next generation; then a content of p, and its date in seconds after noon.
    type Step = (&'static str, &'static [(&'static str, u8)], u8, Option<u64>);

    #[test]
    fn packages_get_a_date_when_their_path_gets_other_bytes() {
        let mut snapshot = Snapshot::default();
        let steps: [Step; 8] = [
            ("s", &[("p", 1), ("q", 9)], 1, None),
            ("s", &[("p", 2), ("q", 9)], 2, Some(1)),
            ("s", &[("p", 2), ("q", 9), ("r", 3)], 2, Some(1)),
            // Another suite that has the same bytes, then stays behind.
            ("t", &[("p", 2)], 2, Some(1)),
            ("s", &[("p", 4)], 4, Some(4)),
            ("s", &[("q", 9)], 4, Some(4)),
            // Came back after what the other suite still has, and as another.
            ("s", &[("p", 4)], 4, Some(6)),
            ("s", &[("p", 5)], 5, Some(7)),
        ];
        for (secs, (suite, packages, n, want)) in steps.into_iter().enumerate() {
            let unit = unit(suite, None, &format!("{secs}"), packages, NOON + secs as u64);
            snapshot = adopt(snapshot, unit);
            let found = snapshot.modified_secs("p", &digest(n));
            assert_eq!(found, want.map(|secs| NOON + secs), "step {secs}");
            assert_eq!(snapshot.modified_secs("q", &digest(9)), None, "step {secs}");
        }
        assert_eq!(snapshot.modified_secs("p", &digest(2)), Some(NOON + 1), "what the other suite still has");
        // New in the other suite, while this one has other bytes under the path.
        snapshot = adopt(snapshot, unit("t", None, "t", &[("p", 2), ("r", 8)], NOON + 7));
        assert_eq!(snapshot.modified_secs("r", &digest(8)), Some(NOON + 7));
    }

    #[test]
    fn too_many_dates_become_one() {
        let replaced = |n: u64| (format!("p{n}"), Replaced { mark: mark(&digest(n as u8)), secs: NOON + n });
        let dates = Dates { replaced: (0..8).map(replaced).collect(), ..Dates::default() };
        let mut limited = dates.clone();
        limited.limit(8, |_| false);
        assert_eq!(limited, dates);
        limited.limit(4, |path| path < "p4");
        assert_eq!((limited.replaced.len(), limited.others_secs), (4, None));
        let mut limited = dates;
        limited.limit(4, |_| true);
        assert_eq!((limited.replaced.len(), limited.others_secs), (0, Some(NOON + 7)));
        assert_eq!(limited.of("p1", &digest(1), || true), Some(NOON + 7));
        assert_eq!(limited.of("p1", &digest(2), || false), None);
        assert_eq!(limited.last("new"), Some(NOON + 7));
    }
}
