//! Every kind of list that apt may be told to fetch, of the machine's own Debian archives, with signatures
//! checked on the way.
//!
//! Runs in CI (`CI=true`) and with `MANYHANDS_REAL=1`; fetches some 100 MB. Where no Debian archive answers it
//! says so and passes.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::sources::{Source, machine_sources};
use support::{Apt, Scratch, Server, ServerConfig, get, run, run_ok, sha256_file};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// More than this is not what this test may cost.
const MAX_BYTES: u64 = 250_000_000;

/// What apt-file and the software centres add to apt's own lists.
const TARGETS: &str = r#"
Acquire::Languages { "en"; "de"; };
Acquire::IndexTargets::deb::Contents-deb {
  MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)"; ShortDescription "Contents-$(ARCHITECTURE)";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents (deb)"; KeepCompressed "true";
  KeepCompressedAs "gz";
};
Acquire::IndexTargets::deb::DEP-11 {
  MetaKey "$(COMPONENT)/dep11/Components-$(NATIVE_ARCHITECTURE).yml"; ShortDescription "Components";
  Description "$(RELEASE)/$(COMPONENT) $(NATIVE_ARCHITECTURE) DEP-11 Metadata"; KeepCompressed "true";
  KeepCompressedAs "gz";
};
Acquire::IndexTargets::deb::DEP-11-icons {
  MetaKey "$(COMPONENT)/dep11/icons-48x48.tar"; ShortDescription "icons-48x48";
  Description "$(RELEASE)/$(COMPONENT) DEP-11 48x48 Icons"; KeepCompressed "true"; KeepCompressedAs "gz";
};
"#;

/// Whether an archive has the lists that a suite's InRelease names, by hash or by name: caches on the way may
/// have some of them from long ago.
fn is_coherent(url: &str, suite: &str, in_release: &str) -> bool {
    let architecture = run_ok(Command::new("dpkg").arg("--print-architecture")).trim().to_owned();
    let list = format!("binary-{architecture}/Packages.xz");
    let scratch = Scratch::new();
    let has = |url: String, sha256: &str| {
        let file = scratch.path("list");
        let mut curl = Command::new("curl");
        let (status, ..) =
            run(curl.args(["-fsSL", "--max-time", "60", &url, "-o"]).arg(&file), Duration::from_secs(90));
        status.success() && sha256_file(&file) == sha256
    };
    named(in_release).iter().filter(|(path, _)| path.starts_with("main/") && path.ends_with(&list)).all(
        |(path, sha256)| {
            let (dir, _) = path.rsplit_once('/').expect("a folder");
            let base = format!("{url}/dists/{suite}");
            let is_there = has(format!("{base}/{dir}/by-hash/SHA256/{sha256}"), sha256)
                || has(format!("{base}/{path}"), sha256);
            if !is_there {
                println!(
                    "left out: {suite}, whose {path} is not what its InRelease names, nor there by hash"
                );
            }
            is_there
        },
    )
}

/// Suites of Debian by the archive that has them.
fn archives() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Source { url, suite, .. } in machine_sources() {
        let mut curl = Command::new("curl");
        let release = format!("{url}/dists/{suite}/InRelease");
        let (status, out, _) =
            run(curl.args(["-fsSL", "--max-time", "30", &release]), Duration::from_secs(60));
        let is_debian = status.success() && out.lines().any(|line| line == "Origin: Debian");
        if is_debian && is_coherent(&url, &suite, &out) {
            found.entry(url).or_default().insert(suite);
        }
    }
    found
}

/// SHA-256 by path, as an InRelease has them.
fn named(in_release: &str) -> BTreeMap<String, String> {
    let (_, section) = in_release.split_once("\nSHA256:\n").expect("SHA256");
    let lines = section.lines().take_while(|line| line.starts_with(' '));
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[2].to_owned(), words[0].to_owned())
    };
    lines.map(entry).collect()
}

/// How many lists there are of each kind, and their bytes: every one is what the InRelease of its suite says.
fn check_lists(
    lists: &Path,
    suite: &str,
    named: &BTreeMap<String, String>,
) -> BTreeMap<String, (usize, u64)> {
    let mut kinds: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let mark = format!("_dists_{}_", suite.replace('/', "_"));
    let names: BTreeMap<String, &String> =
        named.iter().map(|(path, sha)| (path.replace('/', "_"), sha)).collect();
    for path in fs::read_dir(lists).expect("lists").map(|entry| entry.expect("an entry").path()) {
        let file = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let Some((_, name)) = file.split_once(&mark).filter(|(_, name)| *name != "InRelease") else {
            continue;
        };
        let wanted = names.get(name).unwrap_or_else(|| panic!("{suite} names no {name}"));
        assert_eq!(&sha256_file(&path), *wanted, "{file}");
        let kind = name.split('_').next_back().and_then(|last| last.split(['-', '.']).next()).unwrap_or(name);
        let (count, bytes) = kinds.entry(kind.to_owned()).or_default();
        *count += 1;
        *bytes += fs::metadata(&path).expect("a list").len();
    }
    kinds
}

#[test]
fn every_list_of_the_real_archive_passes_through_and_verifies() {
    if !["CI", "MANYHANDS_REAL"].iter().any(|name| std::env::var(name).is_ok_and(|v| v == "true" || v == "1"))
    {
        println!("skipped: set MANYHANDS_REAL=1 to use this machine's own Debian mirror");
        return;
    }
    let archives = if Path::new(KEYRING).exists() { archives() } else { BTreeMap::new() };
    if archives.is_empty() {
        println!("skipped: no Debian archive among this machine's apt sources answers, or no {KEYRING}");
        return;
    }
    let scratch = Scratch::new();
    let architecture = run_ok(Command::new("dpkg").arg("--print-architecture")).trim().to_owned();
    let mut config = ServerConfig::default();
    for (index, (url, suites)) in archives.iter().enumerate() {
        let suites: Vec<&String> = suites.iter().collect();
        let more = format!(
            "suites = {suites:?}\ncomponents = [\"main\"]\narchitectures = [{architecture:?}]\nkeyring = {KEYRING:?}"
        );
        config = config.upstream(&format!("d{index}"), "debian", url, &more);
    }
    let server = Server::start(&scratch, &config);
    let mut sources = Vec::new();
    for (index, suites) in archives.values().enumerate() {
        for (suite, kind) in suites.iter().flat_map(|suite| ["deb", "deb-src"].map(|kind| (suite, kind))) {
            let base = server.url(&format!("d{index}"));
            sources.push(format!("{kind} [arch={architecture} signed-by={KEYRING}] {base} {suite} main"));
        }
    }
    let apt = Apt::new(&scratch.dir("apt"), &sources);
    apt.configure(TARGETS);
    let begin = Instant::now();
    let out = apt.get(&["update"]);
    let took = begin.elapsed().as_secs_f64();

    let mut all = BTreeSet::new();
    for (index, suites) in archives.values().enumerate() {
        for suite in suites {
            let in_release =
                get(&server.url(&format!("d{index}/dists/{suite}/InRelease"))).expect(200).text();
            let kinds = check_lists(&scratch.path("apt/lists"), suite, &named(&in_release));
            println!("{suite}: {kinds:?} (files, bytes)");
            all.extend(kinds.into_keys());
        }
    }
    for kind in ["Packages", "Sources", "Translation", "Contents", "Components", "icons"] {
        assert!(all.contains(kind), "no {kind} among {all:?}\n{out}");
    }
    let sent = server.status().offload("metadata_bytes");
    println!("apt-get update took {took:.1} s; {sent} bytes of metadata were sent");
    assert!(sent < MAX_BYTES, "{sent} bytes");
}
