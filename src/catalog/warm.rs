//! Which package lists of a suite are read when its metadata is, and which of them clients rely on.
//!
//! More is read than anybody relies on: everything in a local tree, the lists for installers. What clients
//! rely on holds a new generation back when the origin has it wrong; the rest never does.

use std::collections::BTreeSet;

use super::unit::{UnitKey, UnitKind};
use crate::formats::compress::Compression;
use crate::model::RepoPath;

/// Which package lists of a suite to read.
#[derive(Clone, Debug, Default)]
pub struct Warm {
    /// Empty means all.
    pub components: Vec<String>,
    /// Empty means all; `all` is always meant.
    pub architectures: Vec<String>,
    pub sources: bool,
    /// Families that clients asked for: member paths without compression suffix, relative to the unit.
    pub learned: BTreeSet<String>,
}

impl Warm {
    /// Whether the list of this family is read. `no_list_for_all`: clients read no list of their own for
    /// packages of architecture `all`.
    pub(super) fn wants(&self, key: &UnitKey, stem: &str, no_list_for_all: bool) -> bool {
        if key.kind == UnitKind::Flat || self.learned.contains(stem) {
            return true;
        }
        match List::of(key, stem) {
            Some(List { component, architecture: Some(name), .. }) => {
                let is_for_all = name == "all" && !no_list_for_all;
                has(&self.components, &component) && (is_for_all || has(&self.architectures, name))
            }
            Some(List { component, architecture: None, .. }) => {
                self.sources && has(&self.components, &component)
            }
            None => false,
        }
    }

    /// Whether this family has the English descriptions of a component whose lists are read.
    pub(super) fn has_description(&self, key: &UnitKey, stem: &str) -> bool {
        let relative = stem.strip_prefix(key.dir.as_str()).unwrap_or(stem).trim_start_matches('/');
        let component = relative.strip_suffix("/i18n/Translation-en");
        key.kind == UnitKind::Suite && component.is_some_and(|component| has(&self.components, component))
    }

    /// Whether the configuration names both component and architecture of this list. Lists for installers
    /// are named by no metadata.
    fn names(&self, key: &UnitKey, stem: &str) -> bool {
        List::of(key, stem).is_some_and(|list| {
            let is_named = |name| self.architectures.iter().any(|own| own == name);
            !list.is_for_installer
                && self.components.contains(&list.component)
                && list.architecture.is_some_and(is_named)
        })
    }
}

/// Whether a suite that is said to have these components and architectures (none: it says nothing) has this list.
pub(super) fn is_said(key: &UnitKey, stem: &str, components: &[String], architectures: &[String]) -> bool {
    key.kind == UnitKind::Flat
        || List::of(key, stem).is_some_and(|list| {
            let is_one = |name| name == "all" || has(architectures, name);
            has(components, &list.component) && list.architecture.is_none_or(is_one)
        })
}

fn has(list: &[String], item: &str) -> bool {
    list.is_empty() || list.iter().any(|own| own == item)
}

/// A package list of a suite, by its place.
#[derive(Debug, PartialEq, Eq)]
struct List<'a> {
    component: String,
    /// None for source packages.
    architecture: Option<&'a str>,
    is_for_installer: bool,
}

impl<'a> List<'a> {
    /// `COMPONENT[/debian-installer]/binary-ARCHITECTURE/Packages`, `COMPONENT/source/Sources`.
    fn of(key: &UnitKey, stem: &'a str) -> Option<Self> {
        let relative = stem.strip_prefix(key.dir.as_str()).unwrap_or(stem).trim_start_matches('/');
        let mut segments: Vec<&str> = relative.split('/').collect();
        let name = segments.pop()?;
        let folder = segments.pop().unwrap_or("");
        let is_for_installer = segments.last() == Some(&"debian-installer");
        if is_for_installer {
            segments.pop();
        }
        let architecture = match (name, folder.strip_prefix("binary-")) {
            ("Packages", Some(architecture)) => Some(architecture),
            ("Sources", None) => None,
            _ => return None,
        };
        Some(Self { component: segments.join("/"), architecture, is_for_installer })
    }
}

/// What clients of a unit rely on: the lists that its configuration names, and what they asked for.
#[derive(Clone, Debug, Default)]
pub struct Needed {
    pub warm: Warm,
    /// Members as [`Unit::member_name`](super::Unit::member_name) calls them.
    pub asked: BTreeSet<String>,
}

impl Needed {
    /// Whether clients rely on a package list, given without compression suffix.
    pub fn has_list(&self, key: &UnitKey, stem: &str) -> bool {
        let is_of_list = |name: &String| Compression::strip(name).0 == stem;
        match key.kind {
            // Nothing works without it.
            UnitKind::RpmMd => true,
            UnitKind::Suite | UnitKind::Flat | UnitKind::Checksums => {
                self.warm.learned.contains(stem)
                    || self.warm.names(key, stem)
                    || self.asked.iter().any(is_of_list)
            }
        }
    }

    /// Whether clients rely on a member, by its name in every generation: they asked for it, or it is of a kind that
    /// stock dnf or zypper read of every repository and cannot do without.
    pub fn has_member(&self, key: &UnitKey, name: &str) -> bool {
        let is_stock = matches!(name, "filelists" | "updateinfo" | "group" | "group_gz" | "modules");
        self.asked.contains(name) || (key.kind == UnitKind::RpmMd && is_stock)
    }
}

/// The family of a list: its path without compression suffix.
pub fn stem_of(path: &RepoPath) -> &str {
    Compression::strip(path.as_str()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> UnitKey {
        UnitKey { kind: UnitKind::Suite, dir: "dists/a".to_owned() }
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn more_is_read_than_relied_on() {
        let all = Warm { sources: true, ..Warm::default() };
        let named = Warm { components: list(&["main"]), architectures: list(&["amd64"]), ..Warm::default() };
        let open = Warm { architectures: list(&["amd64"]), ..Warm::default() };
        for (stem, warm, is_read, is_relied_on) in [
            ("dists/a/main/binary-amd64/Packages", &all, true, false),
            ("dists/a/main/source/Sources", &all, true, false),
            ("dists/a/main/binary-amd64/Packages", &named, true, true),
            ("dists/a/main/binary-all/Packages", &named, true, false),
            ("dists/a/main/binary-arm64/Packages", &named, false, false),
            ("dists/a/contrib/binary-amd64/Packages", &named, false, false),
            ("dists/a/main/debian-installer/binary-amd64/Packages", &named, true, false),
            ("dists/a/main/source/Sources", &named, false, false),
            ("dists/a/contrib/binary-amd64/Packages", &open, true, false),
            ("dists/a/main/i18n/Translation-en", &all, false, false),
        ] {
            assert_eq!(warm.wants(&key(), stem, false), is_read, "{stem}");
            let needed = Needed { warm: warm.clone(), ..Needed::default() };
            assert_eq!(needed.has_list(&key(), stem), is_relied_on, "{stem}");
        }
    }

    #[test]
    fn what_clients_ask_for_is_relied_on() {
        let stem = "dists/a/main/binary-arm64/Packages";
        let asked = [format!("{stem}.xz"), "dists/a/main/i18n/Translation-de.xz".to_owned()].into();
        let needed = Needed { asked, ..Needed::default() };
        assert!(needed.has_list(&key(), stem));
        assert!(!needed.has_list(&key(), "dists/a/main/binary-armhf/Packages"));
        assert!(needed.has_member(&key(), "dists/a/main/i18n/Translation-de.xz"));
        let rpm = UnitKey { kind: UnitKind::RpmMd, dir: String::new() };
        assert!(needed.has_member(&rpm, "updateinfo") && !needed.has_member(&rpm, "other"));
    }
}
