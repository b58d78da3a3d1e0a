//! Why clients refuse a generation although every file is what its metadata says.

use std::collections::BTreeMap;

use super::unit::Unit;
use crate::model::RepoPath;

pub(super) const NO_PRIMARY: &str = "repomd.xml lists no primary, without which dnf refuses it";
pub(super) const NO_SUM: &str = "primary has no checksum, without which zypper refuses it";
const WEAK: &str = "nothing but MD5 and SHA-1 is listed, which apt takes for unsigned";

/// What was found while a generation was read.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// All of them refuse it.
    whole: Option<String>,
    /// apt does, unless it is told to trust everything.
    is_weak: bool,
    /// Some do that others do not.
    disputed: Option<String>,
    /// apt refuses these lists, by their paths without compression suffix, and with them all that it has.
    lists: BTreeMap<String, String>,
}

impl Refusals {
    pub(super) fn note(&mut self, problem: impl FnOnce() -> String) {
        self.whole.get_or_insert_with(problem);
    }

    pub(super) fn note_weak(&mut self) {
        self.is_weak = true;
    }

    pub(super) fn note_disputed(&mut self, problem: impl FnOnce() -> String) {
        self.disputed.get_or_insert_with(problem);
    }

    /// Where repomd.xml says that primary is: dnf makes no folder but `repodata`, zypper reads nothing outside of it.
    pub(super) fn note_place(&mut self, primary: &RepoPath, base: &str) {
        let below = primary.as_str().strip_prefix(base).unwrap_or(primary.as_str());
        match below.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
            ["repodata", _] => {}
            ["repodata", ..] => {
                self.note_disputed(|| format!("{primary}: dnf refuses a list in such a folder"))
            }
            [_] => self.note_disputed(|| format!("{primary}: zypper refuses a list outside of repodata")),
            _ => self.note(|| format!("{primary} is outside of repodata")),
        }
    }

    pub(super) fn note_list(&mut self, stem: &str, problem: String) {
        self.lists.insert(stem.to_owned(), problem);
    }

    pub(super) fn of_list(&self, stem: &str) -> Option<&str> {
        self.lists.get(stem).map(String::as_str)
    }

    pub(super) fn is_any(&self) -> bool {
        self.whole.is_some() || self.is_weak || self.disputed.is_some()
    }

    /// Why it must not follow `current`. What some clients take counts until `settle`: they must not wait for the
    /// others for ever.
    pub(super) fn objection(&self, current: &Unit, settle: bool) -> Option<String> {
        // Nothing is lost where they refuse that one, too.
        if current.is_refused {
            return None;
        }
        let weak = self.is_weak.then(|| WEAK.to_owned());
        let disputed = self.disputed.clone().filter(|_| !settle);
        self.whole.clone().or(weak).or(disputed)
    }

    /// The lists, and warnings of what all clients of a kind refuse where there was nothing to keep instead.
    pub(super) fn into_warnings(self) -> (BTreeMap<String, String>, Vec<String>) {
        let lists = self.lists.iter().map(|(list, problem)| format!("{list}: {problem}"));
        let warnings = self.whole.into_iter().chain(lists);
        let warnings = warnings.map(|problem| format!("{problem}: clients refuse it")).collect();
        (self.lists, warnings)
    }
}
