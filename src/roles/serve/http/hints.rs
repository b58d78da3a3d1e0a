//! How to point clients here: for each unit of a repository the list that gives them a second URL, and the base
//! URL, which is the simplest. Ready to paste.

use crate::catalog::{Unit, UnitKind};
use crate::roles::serve::metadata::repo::Repo;

/// Units shown per repository; an archive of images can have hundreds.
const MAX_UNITS: usize = 8;

/// Lines for what is loaded; for what the configuration names if nothing is yet.
pub fn of_repo(repo: &Repo, url: &str) -> Vec<String> {
    let base = format!("{url}/{}", repo.config.name);
    let snapshot = repo.snapshot();
    let list = format!("mirror+{url}/mirrors/{}.txt", repo.config.name);
    let units = snapshot.units().take(MAX_UNITS);
    let mut lines: Vec<String> = units.flat_map(|unit| of_unit(unit, &base, &list)).collect();
    let more = snapshot.units().count().saturating_sub(MAX_UNITS);
    if more > 0 {
        lines.push(format!("... and {more} more; `manyhands status` lists them"));
    }
    if lines.is_empty() {
        lines.push(repo.config.client_hint(url));
    }
    lines
}

fn of_unit(unit: &Unit, base: &str, list: &str) -> Vec<String> {
    let below = |dir: &str| if dir.is_empty() { base.to_owned() } else { format!("{base}/{dir}") };
    let key = &unit.key;
    let apt = |dir: &str, rest: &str| {
        let plain = format!("apt, base URL: deb {} {rest}", below(dir));
        // apt's list is of the whole repository.
        let listed = dir.is_empty().then(|| format!("apt: deb {list} {rest}"));
        listed.into_iter().chain([plain]).collect()
    };
    match key.kind {
        UnitKind::Suite => {
            let suite = key.dir.rsplit_once("dists/").map_or(key.dir.as_str(), |(_, suite)| suite);
            apt(key.package_base(), format!("{suite} {}", unit.components.join(" ")).trim_end())
        }
        UnitKind::Flat => apt(&key.dir, "./"),
        UnitKind::RpmMd => {
            let url = below(&key.dir);
            vec![
                format!("dnf, zypper: mirrorlist={url}/?mirrorlist"),
                format!("dnf, zypper, base URL: baseurl={url}"),
            ]
        }
        UnitKind::Checksums => vec![format!("wget, curl: {}/", below(&key.dir))],
    }
}
