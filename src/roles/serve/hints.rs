//! How to point clients here: one line per unit of a repository, ready to paste.

use super::repo::Repo;
use crate::catalog::{Unit, UnitKind};

/// Lines shown per repository; an archive of images can have hundreds of units.
const MAX_LINES: usize = 8;

/// Lines for what is loaded; for what the configuration names if nothing is yet.
pub fn of_repo(repo: &Repo, url: &str) -> Vec<String> {
    let base = format!("{url}/{}", repo.config.name);
    let snapshot = repo.snapshot();
    let mut lines: Vec<String> = snapshot.units().take(MAX_LINES).map(|unit| of_unit(unit, &base)).collect();
    let more = snapshot.units().count().saturating_sub(MAX_LINES);
    if more > 0 {
        lines.push(format!("... and {more} more; `manyhands status` lists them"));
    }
    if lines.is_empty() {
        lines.push(repo.config.client_hint(url));
    }
    lines
}

fn of_unit(unit: &Unit, base: &str) -> String {
    let below = |dir: &str| if dir.is_empty() { base.to_owned() } else { format!("{base}/{dir}") };
    let key = &unit.key;
    match key.kind {
        UnitKind::Suite => {
            let suite = key.dir.rsplit_once("dists/").map_or(key.dir.as_str(), |(_, suite)| suite);
            format!("apt: deb {} {suite} {}", below(key.package_base()), unit.components.join(" "))
        }
        UnitKind::Flat => format!("apt: deb {} ./", below(&key.dir)),
        UnitKind::RpmMd => format!("dnf, zypper: baseurl={}", below(&key.dir)),
        UnitKind::Checksums => format!("wget, curl: {}/", below(&key.dir)),
    }
}
