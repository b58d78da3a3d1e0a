//! Whether a local tree has anything of what the configuration names.

use std::path::Path;

use crate::catalog::{UnitKey, UnitKind};
use crate::config::{Profile, RepoConfig};
use crate::formats::clearsign;
use crate::formats::release::Release;
use crate::io::confined;

/// Largest Release file that is read: Debian's are 200 KB.
const MAX_RELEASE: u64 = 32 << 20;

/// What keeps the tree from being of use, and what may be a mistake.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
}

impl Findings {
    /// What the configuration names must be there; what its profile names need not.
    fn note(&mut self, is_named: bool, repo: &RepoConfig, what: String) {
        match is_named {
            true => self.problems.push(format!("repo {:?}: {what}", repo.name)),
            false => self.warnings.push(what),
        }
    }
}

/// Looks for the suites, components and architectures that the configuration or its profile names.
pub(super) fn look(repo: &RepoConfig, tree: &Path) -> Findings {
    let mut findings = Findings::default();
    if let Some(problem) = confined::no_folder(tree) {
        findings.problems.push(format!("repo {:?}: the tree {problem}", repo.name));
        return findings;
    }
    let profile = &repo.profile;
    let key = |suite: &String| UnitKey::of_suite(suite, profile.layout);
    let (present, absent): (Vec<_>, Vec<_>) =
        profile.suites.iter().partition(|suite| has_unit(tree, &key(suite)));
    let list = |suites: &[&String]| suites.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
    if present.is_empty() && !absent.is_empty() {
        let (absent, place) = (list(&absent), place(&key(absent[0])));
        let what =
            format!("{} has none of the suites {absent}: is it the folder with {place}?", tree.display());
        findings.note(repo.named.suites, repo, what);
    } else if !absent.is_empty() {
        findings.warnings.push(format!("the tree does not have {}", list(&absent)));
    }
    for suite in present {
        if let Some(release) = read_release(tree, &key(suite)) {
            look_at_release(&mut findings, repo, suite, &release);
        }
    }
    findings
}

/// Whether the files that start a generation are there. Of checksum files any name will do, so the folder counts.
fn has_unit(tree: &Path, key: &UnitKey) -> bool {
    let is_there = |name: &str| tree.join(&key.dir).join(name).is_file();
    match key.kind {
        UnitKind::Suite => is_there("InRelease") || is_there("Release"),
        // apt takes a flat repository without a Release, if it is told to trust it.
        UnitKind::Flat => {
            ["InRelease", "Release", "Packages", "Packages.gz", "Packages.xz"].into_iter().any(is_there)
        }
        UnitKind::RpmMd => is_there("repodata/repomd.xml"),
        UnitKind::Checksums => tree.join(&key.dir).is_dir(),
    }
}

/// What a unit's folder would hold, for people.
fn place(key: &UnitKey) -> String {
    let file = match key.kind {
        UnitKind::Suite | UnitKind::Flat => "InRelease",
        UnitKind::RpmMd => "repodata/repomd.xml",
        UnitKind::Checksums => "",
    };
    Path::new(&key.dir).join(file).display().to_string()
}

fn read_release(tree: &Path, key: &UnitKey) -> Option<Release> {
    let dir = tree.join(&key.dir);
    let read = |name: &str| {
        let path = dir.join(name);
        let is_small = path.metadata().is_ok_and(|meta| meta.len() <= MAX_RELEASE);
        std::fs::read(path).ok().filter(|_| is_small)
    };
    let bytes = (key.kind == UnitKind::Suite).then(|| read("InRelease").or_else(|| read("Release")))??;
    Release::parse(&clearsign::cleartext(&bytes).ok()?).ok()
}

/// Components and architectures of which the suite has none.
fn look_at_release(findings: &mut Findings, repo: &RepoConfig, suite: &str, release: &Release) {
    let Profile { components, architectures, .. } = &repo.profile;
    for (kind, is_named, wanted, listed) in [
        ("components", repo.named.components, components, &release.components),
        ("architectures", repo.named.architectures, architectures, &release.architectures),
    ] {
        // `all` is for every architecture.
        let has_any = wanted.is_empty() || listed.iter().any(|name| name == "all" || wanted.contains(name));
        if !has_any && !listed.is_empty() {
            let (wanted, listed) = (wanted.join(", "), listed.join(", "));
            let what = format!("{suite} has none of the {kind} {wanted}: it has {listed}");
            findings.note(is_named, repo, what);
        }
    }
}
