//! The deb archives that this machine's own apt uses.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::run;

/// One Debian archive that this machine's apt uses.
#[derive(Clone, Debug)]
pub struct Source {
    pub url: String,
    pub suite: String,
    pub keyring: Option<String>,
}

/// Whether tests may use the real network; says so if not.
pub fn is_wanted() -> bool {
    let set = ["CI", "MANYHANDS_REAL"].map(|name| std::env::var(name).unwrap_or_default());
    let is_wanted = set.iter().any(|value| value == "true" || value == "1");
    if !is_wanted {
        println!("skipped: set MANYHANDS_REAL=1 to use this machine's own Debian mirror");
    }
    is_wanted
}

/// The mirror of Debian that this machine uses, if tests may use it and it answers; says so if not.
pub fn debian_mirror() -> Option<String> {
    let candidates: Vec<Source> = if is_wanted() { machine_sources() } else { return None };
    let is_release = |source: &&Source| !source.suite.contains(['-', '/']) && is_debian_release(source);
    let found = candidates.iter().find(is_release).map(|source| source.url.clone());
    if found.is_none() {
        println!("skipped: no Debian release among this machine's {} apt sources answers", candidates.len());
    }
    found
}

/// Whether the archive answers and is a Debian release, and not an update of one or somebody's own.
pub fn is_debian_release(source: &Source) -> bool {
    let url = format!("{}/dists/{}/InRelease", source.url, source.suite);
    let mut curl = Command::new("curl");
    let (status, out, _) = run(curl.args(["-fsSL", "--max-time", "30", &url]), Duration::from_secs(60));
    let has = |line: &str| out.lines().any(|l| l == line);
    status.success() && has("Origin: Debian") && has("Label: Debian")
}

/// All of them that have the component main.
pub fn machine_sources() -> Vec<Source> {
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let is_deb822 = path.extension().is_some_and(|e| e == "sources");
        if is_deb822 { deb822_sources(&text) } else { list_sources(&text) }
    };
    apt_files().iter().flat_map(read).collect()
}

fn apt_files() -> Vec<PathBuf> {
    let parts =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        parts.filter(|p| p.extension().is_some_and(|e| e == "list" || e == "sources")).collect();
    files.push(PathBuf::from("/etc/apt/sources.list"));
    files.sort();
    files
}

/// Lines of sources.list(5): `deb [signed-by=...] URL SUITE COMPONENT...`.
pub fn list_sources(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let (options, rest) = match rest.trim().strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').unwrap_or((bracketed, "")),
            None => ("", rest),
        };
        let keyring =
            options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(str::to_owned);
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [url, suite, components @ ..] = words.as_slice() {
            found.extend(usable(url, suite, components, keyring.as_ref()));
        }
    }
    found
}

/// Stanzas of deb822-style sources.
pub fn deb822_sources(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let line = stanza
                .lines()
                .find(|line| line.to_lowercase().starts_with(&format!("{}:", name.to_lowercase())));
            line.map_or("", |line| line.split_once(':').map_or("", |(_, value)| value.trim()))
        };
        if !field("Types").split_whitespace().any(|t| t == "deb") || field("Enabled") == "no" {
            continue;
        }
        let components: Vec<&str> = field("Components").split_whitespace().collect();
        let keyring = Some(field("Signed-By").to_owned()).filter(|path| path.starts_with('/'));
        for url in field("URIs").split_whitespace() {
            for suite in field("Suites").split_whitespace() {
                found.extend(usable(url, suite, &components, keyring.as_ref()));
            }
        }
    }
    found
}

fn usable(url: &str, suite: &str, components: &[&str], keyring: Option<&String>) -> Option<Source> {
    let is_web = url.starts_with("http://") || url.starts_with("https://");
    (is_web && components.contains(&"main") && !suite.ends_with('/')).then(|| Source {
        url: url.trim_end_matches('/').to_owned(),
        suite: suite.to_owned(),
        keyring: keyring.cloned(),
    })
}
