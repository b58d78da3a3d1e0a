//! Unmodified clients against the real binary: apt-get, dnf, zypper, wget and curl update from and install
//! packages of every committed repository, with signature checking on, into private roots.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    Apt, DEADLINE, Dnf, Scratch, Server, ServerConfig, Status, Volunteer, Zypper, copy_tree, overlay_tree,
    poll, run_ok, sha256_file, test_key, test_repos, wait_for,
};

/// Packages smaller than this the server may send itself (DESIGN.md section 7).
const SMALL: u64 = 32 << 10;
/// The share of package bytes that must come from volunteers in the second round. The rest: all clients are one
/// machine here, and where distributions share a package it asks for the same bytes again.
const OFFLOAD: f64 = 0.9;

/// All repositories of one generation. Some say which suites they have, others are learned from requests.
fn all_repos(tree: &Path) -> ServerConfig {
    ServerConfig::default()
        .tree("alder", "generic-deb", &tree.join("alder"), "suites = [\"stable\", \"testing\"]")
        .tree("birch", "generic-deb", &tree.join("birch"), "")
        .tree("flat", "generic-deb", &tree.join("flat"), "")
        .tree("cedar", "generic-rpm", &tree.join("cedar"), "suites = [\"os\", \"updates\"]")
        .tree("dogwood", "generic-rpm", &tree.join("dogwood"), "")
        .tree("elder", "generic-rpm", &tree.join("elder"), "")
        .tree("images", "generic-files", &tree.join("images"), "")
}

fn apt_source(server: &Server, rest: &str) -> String {
    format!("deb [signed-by={}] {}", test_key().display(), server.url(rest))
}

/// The repositories as dnf and zypper know them.
fn rpm_repos(server: &Server) -> Vec<Vec<(&'static str, String)>> {
    vec![
        vec![("os", server.url("cedar/os")), ("updates", server.url("cedar/updates"))],
        vec![("dogwood", server.url("dogwood"))],
        vec![("elder", server.url("elder"))],
    ]
}

/// Every client once, from nothing; all package files they fetched.
fn round(server: &Server, folder: &Path) -> Vec<PathBuf> {
    let mut fetched = Vec::new();
    for (name, source) in [
        ("alder-stable", "alder stable main contrib"),
        ("alder-testing", "alder testing main contrib"),
        ("birch", "birch focus universe"),
        ("flat", "flat ./"),
    ] {
        let line = apt_source(server, source);
        let mut lines = vec![line.clone()];
        if name == "alder-stable" {
            lines.push(line.replacen("deb ", "deb-src ", 1));
        }
        let apt = Apt::new(&folder.join(name), &lines);
        // They stand for as many machines: one that asks for the same file again is served by the server.
        let round = folder.file_name().unwrap_or_default().display();
        apt.configure(&format!("Acquire::http::User-Agent \"Debian APT-HTTP/1.3 ({round}-{name})\";"));
        apt.install_all();
        if name == "alder-stable" {
            apt.get(&["source", "--download-only", "hands-tools"]);
            fetched.extend(files_in(&apt.downloads()));
        }
        fetched.extend(some(name, apt.archives()));
    }
    for (number, repos) in rpm_repos(server).iter().enumerate() {
        let dnf = Dnf::new(&folder.join(format!("dnf{number}")), repos);
        dnf.install_all();
        fetched.extend(some("dnf", dnf.archives()));
        let zypper = Zypper::new(&folder.join(format!("zypper{number}")), repos);
        zypper.install_all();
        fetched.extend(some("zypper", zypper.archives()));
        assert_eq!(dnf.installed(), zypper.installed(), "both install everything of {repos:?}");
    }
    fetched.extend(images(server, &folder.join("images")));
    fetched
}

/// wget and curl fetch an image folder and check it as people do.
fn images(server: &Server, folder: &Path) -> Vec<PathBuf> {
    let names = ["SHA256SUMS", "demo-image.iso", "demo-cloud.raw", "demo-netboot.img"];
    for program in ["wget", "curl"] {
        let folder = folder.join(program);
        fs::create_dir_all(&folder).expect("the scratch folder is writable");
        for name in names {
            let url = server.url(&format!("images/8.1/{name}"));
            let mut command = Command::new(program);
            match program {
                "wget" => command.args(["-q", "-t", "2", &url]),
                _ => command.args(["-fsSL", "-O", &url]),
            };
            run_ok(command.current_dir(&folder));
        }
        run_ok(Command::new("sha256sum").args(["--strict", "-c", "SHA256SUMS"]).current_dir(&folder));
    }
    let is_package = |p: &PathBuf| !p.ends_with("SHA256SUMS");
    let both = ["wget", "curl"].map(|program| files_in(&folder.join(program)));
    both.into_iter().flatten().filter(is_package).collect()
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder").map(|e| e.expect("an entry").path());
    entries.filter(|path| path.is_file()).collect()
}

fn some(client: &str, files: Vec<PathBuf>) -> Vec<PathBuf> {
    assert!(!files.is_empty(), "{client} kept no package");
    files
}

fn size(path: &PathBuf) -> u64 {
    fs::metadata(path).expect("a file has a size").len()
}

/// Waits until every large package that clients fetched lies on some volunteer.
fn wait_placed(server: &Server, volunteers: &[Volunteer], fetched: &[PathBuf]) {
    let large = fetched.iter().filter(|path| size(path) >= SMALL);
    let wanted: BTreeMap<String, &PathBuf> = large.map(|path| (sha256_file(path), path)).collect();
    let missing = || {
        let held: BTreeSet<String> = volunteers.iter().flat_map(|v| v.options.stored()).collect();
        wanted.iter().filter(|(sha256, _)| !held.contains(*sha256)).map(|(_, path)| *path).collect::<Vec<_>>()
    };
    let done = poll(DEADLINE, || (missing().is_empty() && server.status().is_placed()).then_some(()));
    assert!(done.is_some(), "on no volunteer: {:#?}\n{}", missing(), server.status().pretty());
}

#[test]
fn in_the_second_round_volunteers_carry_the_packages_of_every_client() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &all_repos(&test_repos("t0")));
    let volunteers = Volunteer::join_all(&scratch, &server, 3);

    let fetched = round(&server, &scratch.dir("first"));
    wait_placed(&server, &volunteers, &fetched);

    // Until then who asks for the same file again is taken for one that did not get it.
    let first = Instant::now();
    wait_for("a minute passes", 2 * DEADLINE, || first.elapsed() > Duration::from_secs(61));
    let before = server.wait_reports();
    let fetched = round(&server, &scratch.dir("second"));
    let client_bytes: u64 = fetched.iter().map(size).sum();
    assert!(client_bytes > 10_000_000, "the clients fetched only {client_bytes} bytes");
    let wanted = (client_bytes as f64 * OFFLOAD) as u64;

    // The volunteers' own counters arrive with their next heartbeat.
    let carried = |after: &Status| after.sum("served_bytes") - before.sum("served_bytes");
    let after = server.wait_within(
        &format!("volunteers report {wanted} of {client_bytes} bytes; before: {}", before.pretty()),
        Duration::from_secs(15),
        |after| carried(after) >= wanted,
    );
    assert!(
        // A client that tries a download again is no fault; counting everything twice would be.
        carried(&after) <= client_bytes + client_bytes / 4,
        "volunteers report {} bytes, the clients fetched {client_bytes}",
        carried(&after)
    );

    let grown = |field: &str| after.offload(field) - before.offload(field);
    let (redirected, served) = (grown("redirected_bytes"), grown("served_bytes"));
    let ratio = redirected as f64 / (redirected + served) as f64;
    assert!(ratio >= OFFLOAD, "server's counters: {redirected} redirected, {served} served");
    let counted = redirected + served;
    assert!(
        counted.abs_diff(client_bytes) <= client_bytes / 20,
        "the server counts {counted} package bytes, the clients {client_bytes}"
    );
    assert!(
        volunteers.iter().all(|v| after.of(v.id(), "served_bytes") > 0),
        "all take part: {}",
        after.pretty()
    );

    for mut volunteer in volunteers {
        volunteer.process.terminate();
    }
    let mut server = server;
    server.process.terminate();
}

#[test]
fn apt_follows_a_release_that_appears_while_it_updates() {
    let scratch = Scratch::new();
    let tree = scratch.path("alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    let config = ServerConfig::default().tree("alder", "generic-deb", &tree, "suites = [\"stable\"]");
    let server = Server::start(&scratch, &config);
    let _volunteers = Volunteer::join_all(&scratch, &server, 2);

    let apt = Apt::new(&scratch.dir("apt"), &[apt_source(&server, "alder stable main contrib")]);
    apt.install_all();
    assert_eq!(apt.installed().get("hands-data").map(String::as_str), Some("1.0-1"));

    std::thread::scope(|scope| {
        scope.spawn(|| overlay_tree(&test_repos("t1").join("alder"), &tree));
        // Every single update must be clean, whatever the mirror script is doing.
        let seen = poll(DEADLINE, || {
            apt.update();
            apt.names().contains(&"hands-new".to_owned()).then_some(())
        });
        assert!(seen.is_some(), "the new release never appears");
    });
    apt.get(&["dist-upgrade"]);
    apt.get(&["install", "hands-new"]);
    let installed = apt.installed();
    for (name, version) in [("hands-data", "1.0-2"), ("hands-tools", "1.0-2"), ("hands-new", "1.0-1")] {
        assert_eq!(installed.get(name).map(String::as_str), Some(version), "{installed:?}");
    }

    // Who has not updated yet may still get a package of the old release, but never other bytes.
    let gone = "pool/main/h/hands-data/hands-data_1.0-1_all.deb";
    let (answer, _) = support::fetch_following(&server.url(&format!("alder/{gone}")), &[]);
    let old = sha256_file(&test_repos("t0").join("alder").join(gone));
    assert!(answer.status == 404 || (answer.status == 200 && support::sha256_hex(&answer.body) == old));
    let never = server.url("alder/pool/main/h/hands-data/hands-data_0.9-1_all.deb");
    assert_eq!(support::get(&never).status, 404);
}

#[test]
fn dnf_and_zypper_follow_a_release_that_appears_while_they_refresh() {
    let scratch = Scratch::new();
    let tree = scratch.path("rpm");
    let names = ["cedar", "dogwood", "elder"];
    let config = names.iter().fold(ServerConfig::default(), |config, name| {
        copy_tree(&test_repos("t0").join(name), &tree.join(name));
        config.tree(name, "generic-rpm", &tree.join(name), "")
    });
    let server = Server::start(&scratch, &config);
    let _volunteers = Volunteer::join_all(&scratch, &server, 2);

    let repos: Vec<(&str, String)> = rpm_repos(&server).concat();
    let dnf = Dnf::new(&scratch.dir("dnf"), &repos[..2]);
    let zypper = Zypper::new(&scratch.dir("zypper"), &repos[2..]);
    dnf.install_all();
    zypper.install_all();
    let old = (dnf.installed(), zypper.installed());

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for name in names {
                overlay_tree(&test_repos("t1").join(name), &tree.join(name));
            }
        });
        let seen = poll(DEADLINE, || {
            let found = dnf.run(&["-q", "--refresh", "repoquery", "hands-new"]);
            (!found.trim().is_empty()).then_some(())
        });
        assert!(seen.is_some(), "dnf never sees the new release");
        let seen = poll(DEADLINE, || {
            zypper.run(&["refresh"]);
            let found = zypper.command().args(["search", "--match-exact", "hands-new"]).output();
            found.expect("zypper runs").status.success().then_some(())
        });
        assert!(seen.is_some(), "zypper never sees the new release");
    });
    dnf.run(&["--refresh", "upgrade"]);
    dnf.run(&["install", "hands-new"]);
    zypper.run(&["update", "--no-recommends"]);
    zypper.run(&["install", "--no-recommends", "hands-new"]);
    for (before, after) in [(&old.0, dnf.installed()), (&old.1, zypper.installed())] {
        assert!(after.contains_key("hands-new"), "{after:?}");
        let newer = before.iter().any(|(name, version)| after.get(name).is_some_and(|now| now != version));
        assert!(newer, "nothing was upgraded: {before:?} -> {after:?}");
    }
}

#[test]
fn clients_install_when_no_volunteer_is_there_and_when_all_have_left() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &all_repos(&test_repos("t0")));
    let source = apt_source(&server, "birch focus universe");
    Apt::new(&scratch.dir("alone"), std::slice::from_ref(&source)).install_all();

    let volunteers = Volunteer::join_all(&scratch, &server, 2);
    let apt = Apt::new(&scratch.dir("with"), std::slice::from_ref(&source));
    apt.install_all();
    wait_placed(&server, &volunteers, &apt.archives());
    for mut volunteer in volunteers {
        volunteer.process.terminate();
    }
    server.wait_until("no volunteer is up", |status| status.volunteers().iter().all(|v| v["state"] != "up"));
    Apt::new(&scratch.dir("without"), &[source]).install_all();
}
