//! Every suite of the machine's own Debian mirror through the built-in profiles, beside the same straight: all that
//! apt can be told to read, and a package of each.
//!
//! Runs in CI (`CI=true`) and with `MANYHANDS_REAL=1`. The mirror is read from the machine's apt sources when the
//! test runs; without one, or where it does not answer, the test says so and passes.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::sources::{Source, is_wanted, machine_sources};
use support::strictness::TARGETS;
use support::{Apt, Scratch, Server, ServerConfig, run, run_ok};

/// For lists of a whole suite over the real network.
const LONG: Duration = Duration::from_secs(600);
/// What the mirror may have besides the suites that the machine uses and the profiles read; named as `unstable` it
/// would be the same once more.
const UNSTABLE: &str = "sid";

/// An archive of the machine, with the built-in profile that is for it.
struct Archive {
    profile: &'static str,
    source: Source,
    suites: Vec<String>,
}

/// The first lines of a suite's InRelease, if the archive has that suite.
fn in_release(url: &str, suite: &str) -> Option<String> {
    let url = format!("{url}/dists/{suite}/InRelease");
    let mut curl = Command::new("curl");
    let (status, out, _) = run(curl.args(["-fsSL", "--max-time", "30", &url]), Duration::from_secs(60));
    status.success().then_some(out)
}

/// The profile for an archive, by what it says of itself.
fn profile_of(in_release: &str) -> Option<(&'static str, &'static str)> {
    let has = |line: &str| in_release.lines().any(|l| l == line);
    match () {
        () if !has("Origin: Debian") => None,
        () if has("Label: Debian") => Some(("debian", include_str!("../distros/debian.toml"))),
        () if has("Label: Debian-Security") => {
            Some(("debian-security", include_str!("../distros/debian-security.toml")))
        }
        () => None,
    }
}

/// The archives of this machine, each with all suites that it has of those that there may be.
fn archives() -> Vec<Archive> {
    let mut archives: Vec<Archive> = Vec::new();
    let sources = machine_sources();
    for source in &sources {
        if archives.iter().any(|known| known.source.url == source.url) {
            continue;
        }
        let Some(text) = in_release(&source.url, &source.suite) else { continue };
        let Some((profile, toml)) = profile_of(&text) else { continue };
        let table: toml::Table = toml.parse().expect("a built-in profile");
        let read = table["suites"].as_array().expect("it has suites").iter();
        let read: Vec<String> = read.map(|suite| suite.as_str().expect("a name").to_owned()).collect();
        let releases = read.iter().filter(|suite| !suite.contains('-'));
        let backports = releases.map(|release| format!("{release}-backports"));
        let own = sources.iter().filter(|other| other.url == source.url).map(|other| other.suite.clone());
        let candidates: BTreeSet<String> =
            own.chain(backports).chain([UNSTABLE.to_owned()]).chain(read.iter().cloned()).collect();
        let suites =
            candidates.into_iter().filter(|suite| in_release(&source.url, suite).is_some()).collect();
        archives.push(Archive { profile, source: source.clone(), suites });
    }
    archives
}

/// What apt made of a suite.
#[derive(Debug)]
struct Seen {
    update: Option<i32>,
    complaints: Vec<String>,
    lists: BTreeSet<String>,
}

impl Seen {
    /// Whether both are the same for a user. How a list failed may be told in other words.
    fn is_like(&self, other: &Self) -> bool {
        let has = |seen: &Self, letter| seen.complaints.iter().any(|line| line.starts_with(letter));
        let kinds = |seen: &Self| ["W:", "E:"].map(|letter| has(seen, letter));
        self.update == other.update && self.lists == other.lists && kinds(self) == kinds(other)
    }
}

/// What a client reads: as apt has it by itself, or all that it can be told to read.
#[derive(Clone, Copy, Debug)]
enum Reading {
    Usual,
    All,
}

fn client(scratch: &Scratch, name: &str, url: &str, suite: &str, source: &Source, reading: Reading) -> Apt {
    let signed = source.keyring.as_ref().map_or(String::new(), |path| format!(" signed-by={path}"));
    let line = |kind| format!("{kind} [arch=amd64{signed}] {url} {suite} main");
    // Packed as they come: unpacking the lists of a whole archive takes longer than loading them.
    let packed = "Acquire::GzipIndexes \"true\";";
    let root = scratch.dir(name);
    match reading {
        Reading::Usual => {
            let apt = Apt::new(&root, &[line("deb")]);
            apt.configure(packed);
            apt
        }
        Reading::All => {
            let apt = Apt::new(&root, &[line("deb"), line("deb-src")]);
            let languages = "Acquire::Languages { \"en\"; \"de\"; \"fr\"; };";
            apt.configure(&format!("{packed}\n{languages}\n{TARGETS}"));
            apt
        }
    }
}

fn update(apt: &Apt, scratch: &Scratch, name: &str) -> Seen {
    let (status, _, err) = run(apt.command("apt-get").arg("update"), LONG);
    let is_complaint = |line: &&str| line.starts_with("W:") || line.starts_with("E:");
    let complaints = err.lines().filter(is_complaint).map(str::to_owned);
    let files = fs::read_dir(scratch.path(name).join("lists")).expect("apt has a folder for lists");
    let names = files.map(|file| file.expect("an entry").file_name().to_string_lossy().into_owned());
    let lists = names.filter_map(|name| name.split_once("_dists_").map(|(_, rest)| rest.to_owned()));
    Seen { update: status.code(), complaints: complaints.collect(), lists: lists.collect() }
}

/// The smallest package that apt knows, as `NAME=VERSION`.
fn smallest(apt: &Apt) -> Option<String> {
    let available = run_ok(apt.command("apt-cache").arg("dumpavail"));
    let entry = |stanza: &str| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let size: u64 = field("Size:")?.parse().ok()?;
        Some((size, format!("{}={}", field("Package:")?, field("Version:")?)))
    };
    available.split("\n\n").filter_map(entry).min().map(|(_, package)| package)
}

/// Reads a suite both ways and downloads a package; what differs.
fn compare(
    scratch: &Scratch,
    archive: &Archive,
    suite: &str,
    through: &str,
    reading: Reading,
) -> Vec<String> {
    let Archive { profile, source, .. } = archive;
    let begin = Instant::now();
    let what = format!("{profile} {suite} {reading:?}");
    let ways = [("straight", source.url.as_str()), ("through", through)];
    let names = ways.map(|(way, _)| format!("{profile}-{suite}-{reading:?}-{way}"));
    let clients = [0, 1].map(|way| client(scratch, &names[way], ways[way].1, suite, source, reading));
    let [want, got] = [0, 1].map(|way| update(&clients[way], scratch, &names[way]));
    println!("{what}: {} lists, {:?}, {:.0?}", want.lists.len(), want.update, begin.elapsed());
    let mut differences = Vec::new();
    if !want.is_like(&got) {
        differences.push(format!("{what}: straight {want:?}\n    through {got:?}"));
    }
    if let Some(package) = smallest(&clients[0]) {
        let [want, got] = clients.map(|apt| apt.try_get(&["download", &package]));
        if want.is_ok() != got.is_ok() {
            differences.push(format!("{what}: {package}: straight {want:?}\n    through {got:?}"));
        }
    }
    // Lists of a whole archive are large.
    names.iter().for_each(|name| drop(fs::remove_dir_all(scratch.path(name))));
    differences
}

#[test]
fn every_suite_of_the_machines_mirror_is_as_it_is_straight() {
    if !is_wanted() {
        return;
    }
    let archives = archives();
    if archives.is_empty() {
        println!("skipped: no Debian archive among this machine's apt sources answers");
        return;
    }
    let scratch = Scratch::new();
    let mut config = ServerConfig::default();
    for Archive { profile, source, .. } in &archives {
        config = config.upstream(profile, profile, &source.url, "");
    }
    let server = Server::start(&scratch, &config);
    let mut differences = Vec::new();
    for archive in &archives {
        for suite in &archive.suites {
            for reading in [Reading::Usual, Reading::All] {
                let through = server.url(archive.profile);
                differences.extend(compare(&scratch, archive, suite, &through, reading));
            }
        }
    }
    assert!(differences.is_empty(), "not as straight:\n{}", differences.join("\n"));
}
