//! Real input: the machine's own Debian mirror as upstream, real packages, a real debootstrap.
//!
//! Runs in CI (`CI=true`) and with `MANYHANDS_REAL=1`. The upstream is read from the machine's apt sources
//! when the test runs; without one, or where it does not answer, the tests say so and pass.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::sources::{Source, deb822_sources, is_debian_release, is_wanted, list_sources, machine_sources};
use support::{Apt, Scratch, Server, ServerConfig, Status, Volunteer, poll, run, run_ok, sha256_file};

/// Packages to download: at least this many.
const PACKAGES: usize = 60;
/// Sizes of the packages that are picked: above what the server sends itself, small enough for a test.
const SIZES: std::ops::RangeInclusive<u64> = (40 << 10)..=(300 << 10);
const OFFLOAD: f64 = 0.95;
/// For downloads over the real network.
const LONG: Duration = Duration::from_secs(900);

/// Why a test does not run here, or what it runs with.
fn source() -> Option<Source> {
    if !is_wanted() {
        return None;
    }
    let candidates: Vec<Source> =
        machine_sources().into_iter().filter(|source| !source.suite.contains(['-', '/'])).collect();
    let found = candidates.iter().find(|source| is_debian_release(source)).cloned();
    if found.is_none() {
        println!("skipped: no Debian release among this machine's {} apt sources answers", candidates.len());
    }
    found
}

fn architecture() -> String {
    run_ok(Command::new("dpkg").arg("--print-architecture")).trim().to_owned()
}

/// The keyring of the source, or Debian's own.
fn keyring(source: &Source) -> Option<String> {
    let usual = "/usr/share/keyrings/debian-archive-keyring.gpg";
    source.keyring.clone().or_else(|| Path::new(usual).exists().then(|| usual.to_owned()))
}

fn start(scratch: &Scratch, source: &Source) -> (Server, Vec<Volunteer>) {
    let more = format!(
        "suites = [{:?}]\ncomponents = [\"main\"]\narchitectures = [{:?}]",
        source.suite,
        architecture()
    );
    let server =
        Server::start(scratch, &ServerConfig::default().upstream("debian", "debian", &source.url, &more));
    let volunteers = Volunteer::join_all(scratch, &server, 3);
    (server, volunteers)
}

fn client(scratch: &Scratch, name: &str, server: &Server, source: &Source) -> Apt {
    let signed = keyring(source).map_or(String::new(), |path| format!("[signed-by={path}] "));
    let line = format!("deb {signed}{} {} main", server.url("debian"), source.suite);
    let apt = Apt::new(&scratch.dir(name), &[line]);
    let begin = Instant::now();
    apt.update();
    println!("{name}: apt-get update took {:.1} s", begin.elapsed().as_secs_f64());
    apt
}

/// Packages spread evenly over the archive: `name=version` to the SHA-256 that apt knows.
fn pick(apt: &Apt) -> BTreeMap<String, String> {
    let available = run_ok(apt.command("apt-cache").arg("dumpavail"));
    let mut fitting = BTreeMap::new();
    for stanza in available.split("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let (Some(name), Some(version)) = (field("Package:"), field("Version:")) else { continue };
        let size: u64 = field("Size:").and_then(|size| size.parse().ok()).unwrap_or(0);
        if SIZES.contains(&size)
            && let Some(sha256) = field("SHA256:")
        {
            fitting.insert(format!("{name}={version}"), sha256.to_owned());
        }
    }
    assert!(fitting.len() >= PACKAGES, "only {} packages fit", fitting.len());
    let step = fitting.len() / PACKAGES;
    fitting.into_iter().step_by(step).take(PACKAGES).collect()
}

/// Downloads them, compares each with apt's SHA-256, and returns the number of bytes.
fn download(apt: &Apt, picked: &BTreeMap<String, String>) -> u64 {
    let begin = Instant::now();
    let arguments = ["download"].into_iter().chain(picked.keys().map(String::as_str));
    apt.get(&arguments.collect::<Vec<_>>());
    let files: Vec<PathBuf> = support::package_files(&apt.downloads());
    let got: BTreeSet<String> = files.iter().map(|path| sha256_file(path)).collect();
    let wanted: BTreeSet<String> = picked.values().cloned().collect();
    assert_eq!(got, wanted, "every file is the upstream's");
    let bytes = files.iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
    println!("{} packages, {bytes} bytes in {:.1} s", files.len(), begin.elapsed().as_secs_f64());
    bytes
}

#[test]
fn real_packages_come_from_volunteers_for_the_second_client() {
    let Some(source) = source() else { return };
    let scratch = Scratch::new();
    let (server, volunteers) = start(&scratch, &source);
    let first = client(&scratch, "first", &server, &source);
    let picked = pick(&first);
    download(&first, &picked);

    let wanted: BTreeSet<&String> = picked.values().collect();
    let placed = poll(Duration::from_secs(120), || {
        let held: BTreeSet<String> = volunteers.iter().flat_map(|v| v.options.stored()).collect();
        (wanted.iter().all(|sha256| held.contains(*sha256)) && server.status().is_placed()).then_some(())
    });
    assert!(placed.is_some(), "not every package is on a volunteer\n{}", server.status().pretty());

    let second = client(&scratch, "second", &server, &source);
    let before = server.wait_reports();
    let bytes = download(&second, &picked);
    let carried = |after: &Status| after.sum("served_bytes") - before.sum("served_bytes");
    let after = server.wait_within("volunteers report what they carried", Duration::from_secs(15), |after| {
        carried(after) as f64 >= bytes as f64 * OFFLOAD
    });
    let grown = |field: &str| after.offload(field) - before.offload(field);
    let (redirected, served) = (grown("redirected_bytes"), grown("served_bytes"));
    println!(
        "volunteers carried {} of {bytes} bytes; server: {redirected} redirected, {served} served",
        carried(&after)
    );
    assert!(redirected as f64 >= OFFLOAD * (redirected + served) as f64, "{}", after.pretty());
}

#[test]
fn debootstrap_makes_a_minimal_system() {
    let Some(source) = source() else { return };
    if run_ok(Command::new("id").arg("-u")).trim() != "0" {
        println!("skipped: debootstrap needs root");
        return;
    }
    let scratch = Scratch::new();
    let (server, _volunteers) = start(&scratch, &source);
    let target = scratch.dir("system");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--include=ca-certificates"]).env("LC_ALL", "C");
    if let Some(keyring) = keyring(&source) {
        command.arg(format!("--keyring={keyring}"));
    }
    command.arg(&source.suite).arg(&target).arg(server.url("debian"));
    let begin = Instant::now();
    let (status, out, err) = run(&mut command, LONG);
    let log = fs::read_to_string(target.join("debootstrap/debootstrap.log")).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(20).collect();
    assert!(status.success(), "{status}\n{out}\n{err}\n{tail:?}");
    println!("debootstrap took {:.0} s", begin.elapsed().as_secs_f64());
    assert!(out.contains("Base system installed successfully"), "{out}");
    let version = fs::read_to_string(target.join("etc/debian_version")).expect("the system has a version");
    assert!(!version.trim().is_empty());
    let installed = run_ok(
        Command::new("dpkg-query").arg(format!("--admindir={}/var/lib/dpkg", target.display())).arg("-W"),
    );
    assert!(installed.lines().count() > 50, "{installed}");
}

#[test]
fn apt_sources_are_read_in_both_forms() {
    let list = "# deb http://no.example/ x main\ndeb [arch=amd64 signed-by=/k.gpg] http://a.example/debian/ stable main contrib\n\
                deb http://a.example/debian stable-updates main\ndeb cdrom:[x]/ stable main\ndeb http://b.example ./\n";
    let found = list_sources(list);
    assert_eq!(found.iter().map(|s| s.suite.as_str()).collect::<Vec<_>>(), ["stable", "stable-updates"]);
    assert_eq!((found[0].url.as_str(), found[0].suite.as_str()), ("http://a.example/debian", "stable"));
    assert_eq!(found[0].keyring.as_deref(), Some("/k.gpg"));
    let stanzas = "Types: deb deb-src\nURIs: https://a.example/debian\nSuites: one one-updates two\nComponents: main\n\
                   Signed-By: /k.gpg\n\nTypes: deb-src\nURIs: http://b.example/\nSuites: one\nComponents: main\n";
    let found = deb822_sources(stanzas);
    assert_eq!(found.iter().map(|s| s.suite.as_str()).collect::<Vec<_>>(), ["one", "one-updates", "two"]);
    assert!(found.iter().all(|s| s.url == "https://a.example/debian" && s.keyring.is_some()));
}
