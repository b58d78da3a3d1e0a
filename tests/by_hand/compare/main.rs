//! Repositories of others, straight and through a server: `cargo test --test compare -- FOLDER`.
//!
//! Finds every deb and rpm-md repository below the folder, serves all of them by nginx and by one server (over their
//! trees and over their URLs), has stock clients read each, and prints where their exit status or what they know
//! afterwards differs. Signatures are not checked.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use support::{Apt, Dnf, Nginx, Scratch, Server, ServerConfig, Zypper, copy_tree, run_within};

/// A client that has not ended by then waits for ever.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deb,
    Rpm,
}

/// One repository; `suite` is what apt is told.
#[derive(Debug)]
struct Repo {
    name: String,
    root: PathBuf,
    kind: Kind,
    suite: String,
}

/// Below a folder, by the files that clients ask for first.
fn find(folder: &Path, repos: &mut Vec<Repo>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let has_release = |path: &Path| ["InRelease", "Release"].iter().any(|name| path.join(name).is_file());
    let mut add = |kind, suite: &str| {
        let name = format!("r{}", repos.len());
        repos.push(Repo { name, root: folder.to_owned(), kind, suite: suite.to_owned() });
    };
    if folder.join("repodata/repomd.xml").is_file() {
        add(Kind::Rpm, "./");
    }
    if folder.ends_with("dists") {
        return;
    }
    for suite in fs::read_dir(folder.join("dists")).into_iter().flatten().flatten() {
        if has_release(&suite.path()) {
            add(Kind::Deb, &suite.file_name().to_string_lossy());
        }
    }
    if has_release(folder) {
        add(Kind::Deb, "./");
    }
    paths.iter().filter(|path| path.is_dir() && !path.is_symlink()).for_each(|path| find(path, repos));
}

/// Exit status (`None` of one that was ended) and what it printed, in order.
type Seen = (Option<i32>, Vec<String>);

fn run(command: &mut Command) -> Seen {
    let (status, out, _) = run_within(command, LIMIT);
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    lines.sort();
    (status.and_then(|status| status.code()), lines)
}

/// Whether reading the lists succeeds, and what is known then.
fn see(client: &str, repo: &Repo, url: &str) -> (Option<i32>, Seen) {
    let scratch = Scratch::new();
    let root = scratch.dir("client");
    match client {
        "apt" => {
            let components = if repo.suite == "./" { "" } else { "main" };
            let line = format!("deb [trusted=yes] {url} {} {components}", repo.suite);
            let apt = Apt::new(&root, &[line]);
            (run(apt.command("apt-get").arg("update")).0, run(apt.command("apt-cache").arg("pkgnames")))
        }
        "dnf" => {
            let dnf = Dnf::new(&root, &[("repo", url.to_owned())]);
            let command = |what| {
                let mut command = dnf.command();
                command.args(["--setopt=*.gpgcheck=0", "--setopt=*.repo_gpgcheck=0", what]);
                command
            };
            (run(&mut command("makecache")).0, run(&mut command("repoquery")))
        }
        _ => {
            let zypper = Zypper::new(&root, &[("repo", url.to_owned())]);
            let unchecked = || {
                let mut command = zypper.command();
                command.arg("--no-gpg-checks");
                command
            };
            (run(unchecked().args(["refresh", "--force"])).0, run(unchecked().args(["search", "-s"])))
        }
    }
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("which folder? cargo test --test compare -- FOLDER");
        return ExitCode::FAILURE;
    };
    let mut repos = Vec::new();
    find(Path::new(&folder), &mut repos);
    let scratch = Scratch::new();
    let nginx = Nginx::start(&scratch, &scratch.dir("origin"));
    let mut config = ServerConfig::default();
    for Repo { name, root, kind, suite } in &repos {
        let tree = scratch.path("origin").join(name);
        copy_tree(root, &tree);
        let distro = if *kind == Kind::Rpm { "generic-rpm" } else { "generic-deb" };
        let suites = format!("suites = [{suite:?}]");
        config = config.tree(&format!("{name}.tree"), distro, &tree, &suites);
        config = config.upstream(&format!("{name}.upstream"), distro, &nginx.url(name), &suites);
    }
    let server = Server::start(&scratch, &config);
    let mut differences = 0;
    for repo in &repos {
        let clients: &[&str] = if repo.kind == Kind::Rpm { &["dnf", "zypper"] } else { &["apt"] };
        for client in clients {
            let straight = see(client, repo, &nginx.url(&repo.name));
            for way in ["tree", "upstream"] {
                let through = see(client, repo, &server.url(&format!("{}.{way}", repo.name)));
                let is_same = straight == through;
                differences += usize::from(!is_same);
                let known = |seen: &(Option<i32>, Seen)| {
                    format!("exit {:?}, then {:?} and {} lines", seen.0, seen.1.0, seen.1.1.len())
                };
                let verdict = if is_same { "same" } else { "DIFFERS" };
                let path = repo.root.display();
                println!(
                    "{verdict} {path} {client} {way}: {}; straight {}",
                    known(&through),
                    known(&straight)
                );
            }
        }
    }
    println!("{} repositories, {differences} differences", repos.len());
    if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
