//! What changed between two generations of a unit: for the log, for placement, for those who copy.

use std::cmp::Ordering;

use super::builder::PathTableBuilder;
use super::table::PathTable;
use crate::model::Expected;

/// Files of one package looked through for a predecessor: archives that keep every version have hundreds.
const MAX_VERSIONS: usize = 256;

/// Paths in path order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub new: Vec<NewPath>,
    /// The same path with other bytes.
    pub changed: Vec<String>,
    pub gone: Vec<String>,
}

/// A path that the older generation does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPath {
    pub path: String,
    pub expected: Expected,
    /// The highest earlier version of the same package for the same architecture, in the same folder.
    pub predecessor: Option<String>,
}

impl Diff {
    pub fn between(old: &PathTable, new: &PathTable) -> Self {
        let mut diff = Self::default();
        merge(old, new, |path, before, after| match (before, after) {
            (Some(before), Some(after)) if before == after => {}
            (Some(_), Some(_)) => diff.changed.push(path.to_owned()),
            (Some(_), None) => diff.gone.push(path.to_owned()),
            (None, Some(expected)) => {
                let predecessor = predecessor(old, path);
                diff.new.push(NewPath { path: path.to_owned(), expected, predecessor });
            }
            (None, None) => {}
        });
        diff
    }
}

/// The entries of `old` that `new` does not have, or has with other bytes.
pub fn minus(old: &PathTable, new: &PathTable) -> PathTable {
    let mut left = PathTableBuilder::default();
    merge(old, new, |path, before, after| {
        if let Some(expected) = before.filter(|_| before != after) {
            left.push(path, expected);
        }
    });
    left.build()
}

/// Calls `each` for every path of either table, in path order.
fn merge(old: &PathTable, new: &PathTable, mut each: impl FnMut(&str, Option<Expected>, Option<Expected>)) {
    let (mut olds, mut news) = (old.cursor(), new.cursor());
    let (mut before, mut after) = (olds.next(), news.next());
    loop {
        let order = match (&before, &after) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let path = if order == Ordering::Greater { &after } else { &before };
        let path = path.map_or("", |(path, _)| path);
        each(
            path,
            before.filter(|_| order != Ordering::Greater).map(|(_, expected)| expected),
            after.filter(|_| order != Ordering::Less).map(|(_, expected)| expected),
        );
        if order != Ordering::Greater {
            before = olds.next();
        }
        if order != Ordering::Less {
            after = news.next();
        }
    }
}

fn predecessor(old: &PathTable, path: &str) -> Option<String> {
    let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
    let package = PackageFile::of(file)?;
    let at = path.len() - file.len() + package.name.len();
    let mut best: Option<(String, String)> = None;
    old.for_each_below(&path[..at], MAX_VERSIONS, |other, _| {
        let (other_dir, other_file) = other.rsplit_once('/').unwrap_or(("", other));
        let Some(found) = PackageFile::of(other_file) else { return };
        let is_same = other_dir == dir && (found.name, found.kind) == (package.name, package.kind);
        let is_better = best.as_ref().is_none_or(|(_, best)| compare_versions(found.version, best).is_gt());
        if is_same && compare_versions(found.version, package.version).is_lt() && is_better {
            best = Some((other.to_owned(), found.version.to_owned()));
        }
    });
    best.map(|(path, _)| path)
}

/// What a package's file name says.
#[derive(Debug, PartialEq, Eq)]
struct PackageFile<'a> {
    name: &'a str,
    version: &'a str,
    /// Architecture and suffix.
    kind: &'a str,
}

impl<'a> PackageFile<'a> {
    /// `name_version_architecture.deb`, `name-version-release.architecture.rpm`.
    fn of(file: &'a str) -> Option<Self> {
        if file.ends_with(".rpm") {
            let (rest, _) = file.rsplit_once('.')?;
            let (stem, _) = rest.rsplit_once('.')?;
            let (before, _) = stem.rsplit_once('-')?;
            let (name, _) = before.rsplit_once('-')?;
            return Some(Self { name, version: &stem[name.len() + 1..], kind: &file[stem.len()..] });
        }
        let (name, rest) = file.split_once('_')?;
        let (version, _) = rest.rsplit_once('_')?;
        Some(Self { name, version, kind: &rest[version.len()..] })
    }
}

/// Digits by value, the rest by character, `~` before everything: Debian's order (deb-version(7)), close
/// enough to rpm's for finding the version before.
fn compare_versions(mut a: &str, mut b: &str) -> Ordering {
    let head =
        |text: &str, digits: bool| text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let weight = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => c as i64,
        Some(c) => c as i64 + 256,
    };
    while !(a.is_empty() && b.is_empty()) {
        let (text_a, text_b) = (head(a, false), head(b, false));
        let (mut left, mut right) = (a[..text_a].chars(), b[..text_b].chars());
        loop {
            let (l, r) = (left.next(), right.next());
            let order = weight(l).cmp(&weight(r));
            if order.is_ne() {
                return order;
            }
            if l.is_none() && r.is_none() {
                break;
            }
        }
        (a, b) = (&a[text_a..], &b[text_b..]);
        let (digits_a, digits_b) = (head(a, true), head(b, true));
        let (left, right) = (a[..digits_a].trim_start_matches('0'), b[..digits_b].trim_start_matches('0'));
        let order = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
        if order.is_ne() {
            return order;
        }
        (a, b) = (&a[digits_a..], &b[digits_b..]);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Algorithm, Digest};
    use proptest::prelude::*;

    fn table(paths: &[(&str, u8)]) -> PathTable {
        let mut builder = PathTableBuilder::default();
        for (path, n) in paths {
            let digest = Digest::new(Algorithm::Sha256, &[*n; 32]);
            builder.push(path, Expected { digest, size: Some(1) });
        }
        builder.build()
    }

    #[test]
    fn new_versions_find_their_predecessor() {
        let old = table(&[
            ("pool/h/hello_2.9-1_amd64.deb", 1),
            ("pool/h/hello_2.10-1_amd64.deb", 2),
            ("pool/h/hello_2.10-1_arm64.deb", 3),
            ("pool/h/hello_3.0~rc1-1_amd64.deb", 4),
            ("p/kernel-6.1.0-2.x86_64.rpm", 5),
            ("p/kernel-core-6.1.0-3.x86_64.rpm", 6),
            ("stays", 7),
            ("changes", 8),
        ]);
        let new = table(&[
            ("pool/h/hello_3.0~rc1-1_amd64.deb", 4),
            ("pool/h/hello_2.10-2_amd64.deb", 10),
            ("pool/h/hello_3.0-1_amd64.deb", 11),
            ("pool/n/new_1_amd64.deb", 12),
            ("p/kernel-6.1.0-10.x86_64.rpm", 13),
            ("stays", 7),
            ("changes", 9),
        ]);
        let diff = Diff::between(&old, &new);
        let found: Vec<_> =
            diff.new.iter().map(|new| (new.path.as_str(), new.predecessor.as_deref())).collect();
        assert_eq!(
            found,
            [
                ("p/kernel-6.1.0-10.x86_64.rpm", Some("p/kernel-6.1.0-2.x86_64.rpm")),
                ("pool/h/hello_2.10-2_amd64.deb", Some("pool/h/hello_2.10-1_amd64.deb")),
                ("pool/h/hello_3.0-1_amd64.deb", Some("pool/h/hello_3.0~rc1-1_amd64.deb")),
                ("pool/n/new_1_amd64.deb", None),
            ]
        );
        assert_eq!(diff.changed, ["changes"]);
        assert_eq!(diff.gone.len(), 5);
    }

    #[test]
    fn versions_have_the_order_of_debian() {
        for (less, greater) in [
            ("1.9", "1.10"),
            ("1.0~rc1", "1.0"),
            ("1.0", "1.0a"),
            ("1.0-1", "1.0-1+b1"),
            ("1.0-1", "1.0.1-1"),
            ("09", "10"),
            ("", "1"),
        ] {
            assert_eq!(compare_versions(less, greater), Ordering::Less, "{less} {greater}");
            assert_eq!(compare_versions(greater, less), Ordering::Greater, "{greater} {less}");
        }
        assert_eq!(compare_versions("1.02", "1.2"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn what_is_left_and_what_is_newer_make_the_whole(
            old in prop::collection::btree_map("[a-c/]{1,4}", 0u8..4, 0..40),
            new in prop::collection::btree_map("[a-c/]{1,4}", 0u8..4, 0..40),
        ) {
            let tabled = |map: &std::collections::BTreeMap<String, u8>| {
                table(&map.iter().map(|(path, n)| (path.as_str(), *n)).collect::<Vec<_>>())
            };
            let (old_table, new_table) = (tabled(&old), tabled(&new));
            let left = minus(&old_table, &new_table);
            let diff = Diff::between(&old_table, &new_table);
            prop_assert_eq!(left.len(), diff.gone.len() + diff.changed.len());
            for path in old.keys() {
                let is_same = old.get(path) == new.get(path);
                prop_assert_eq!(left.get(path), old_table.get(path).filter(|_| !is_same));
            }
            let is_new = |path: &&String| !old.contains_key(*path);
            prop_assert_eq!(diff.new.len(), new.keys().filter(is_new).count());
        }
    }
}
