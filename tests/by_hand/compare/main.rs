//! Repositories of others, straight and through a server: `make compare SUITES=FOLDER`.
//!
//! Finds every deb and rpm-md repository below the folder and serves them by nginx, and by one server over the trees,
//! over their URLs, and over the URL of the folder that they all lie in. Stock clients read all lists of each and
//! download some packages, without signatures and, where it is signed, with them; then every file is asked for by
//! plain HTTP. Prints two tables of what differs from nginx: what clients did, and what HTTP answered.

mod bytes;
mod clients;
mod repos;
#[path = "../../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, ExitCode};

use bytes::Bytes;
use clients::{Client, Difference, Seen};
use repos::{Kind, Repo};
use support::{BINARY, Nginx, Scratch, Server, ServerConfig, copy_tree, run};

/// A way to a repository: its name in the table and its URL.
type Way = (&'static str, String);

/// What was counted, and the lines of the first table.
#[derive(Default)]
struct Report {
    runs: usize,
    commands: usize,
    kept: usize,
    /// Runs straight from nginx: all, those that read the lists, packages downloaded.
    straight: (usize, usize, usize),
    rows: BTreeMap<Row, Told>,
}

/// A repository, a client, whether it checks signatures, what it saw straight and through.
type Row = [String; 5];
/// What that was about, and in which ways.
type Told = [BTreeSet<String>; 2];

impl Report {
    /// One client over all ways of a repository.
    fn client(&mut self, repo: &Repo, client: Client, is_checked: bool, origin: &str, ways: &[Way]) {
        let straight = clients::see(client, repo, origin, is_checked);
        self.count(&straight);
        self.straight.0 += 1;
        self.straight.1 += usize::from(straight.is_read());
        self.straight.2 += straight.downloaded();
        let mut seen: Vec<(&str, Vec<Difference>)> = Vec::new();
        for (way, url) in ways {
            let through = clients::see(client, repo, url, is_checked);
            self.count(&through);
            seen.push((way, straight.against(&through)));
        }
        // What differs between two runs straight is the client's own.
        if seen.iter().any(|(_, differences)| !differences.is_empty()) {
            let own = straight.against(&clients::see(client, repo, origin, is_checked));
            let is_own = |found: &Difference| own.iter().any(|(what, ..)| *what == found.0);
            seen.iter_mut().for_each(|(_, differences)| differences.retain(|found| !is_own(found)));
        }
        let signatures = if is_checked { "checked" } else { "not checked" };
        for (way, differences) in seen {
            for (what, want, got) in differences {
                let row = [&repo.shown, client.name(), signatures, &want, &got].map(str::to_owned);
                let [whats, ways] = self.rows.entry(row).or_default();
                whats.insert(what);
                ways.insert(way.to_owned());
            }
        }
    }

    fn count(&mut self, seen: &Seen) {
        self.runs += 1;
        self.commands += seen.commands();
        self.kept += seen.files();
    }
}

fn profile(kind: Kind) -> &'static str {
    match kind {
        Kind::Deb => "generic-deb",
        Kind::Rpm => "generic-rpm",
    }
}

/// The lines of a repository's table.
fn lines(repo: &Repo, keyring: Option<&Path>) -> String {
    let keyring =
        keyring.map_or(String::new(), |path| format!("\nkeyring = {:?}", path.display().to_string()));
    format!("suites = [{:?}]{keyring}", repo.suite)
}

/// Whether a keyring can be read: `manyhands check` says so.
fn is_keyring(scratch: &Scratch, repo: &Repo, key: &Path) -> bool {
    let config = ServerConfig::default().tree("r", profile(repo.kind), &repo.root, &lines(repo, Some(key)));
    let mut check = Command::new(BINARY);
    let (status, _, err) =
        run(check.args(["check", "--config"]).arg(config.write(scratch)), support::DEADLINE);
    if !status.success() {
        println!("{}: no keyring: {}", repo.shown, err.trim());
    }
    status.success()
}

/// The ways to a repository, without signatures and with.
fn ways(server: &Server, repo: &Repo, has_keyring: bool) -> [Vec<Way>; 2] {
    let Repo { name, kind, .. } = repo;
    let plain = vec![
        ("tree", server.url(&format!("{name}.tree"))),
        ("upstream", server.url(&format!("{name}.upstream"))),
        ("within", server.url(&format!("{}/{name}", profile(*kind)))),
    ];
    let mut checked = plain.clone();
    if has_keyring {
        checked.push(("keyring", server.url(&format!("{name}.keyring"))));
    }
    [plain, checked]
}

/// One server over one repository, since servers give what any of their repositories has.
fn serve(scratch: &Scratch, nginx: &Nginx, repo: &Repo, tree: &Path) -> (Server, bool) {
    let Repo { name, kind, .. } = repo;
    let (distro, url) = (profile(*kind), nginx.url(name));
    let mut config = ServerConfig::default()
        .tree(&format!("{name}.tree"), distro, tree, &lines(repo, None))
        .upstream(&format!("{name}.upstream"), distro, &url, &lines(repo, None))
        .upstream(distro, distro, nginx.url("").trim_end_matches('/'), "suites = []");
    let key = repo.key.as_deref().filter(|key| repo.is_signed && is_keyring(scratch, repo, key));
    if key.is_some() {
        config = config.upstream(&format!("{name}.keyring"), distro, &url, &lines(repo, key));
    }
    (Server::start(scratch, &config), key.is_some())
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("which folder? make compare SUITES=FOLDER");
        return ExitCode::FAILURE;
    };
    // A tree in a configuration is an absolute path.
    let repos = repos::find(&std::path::absolute(&folder).expect("a path"));
    let scratch = Scratch::new();
    let nginx = Nginx::start(&scratch, &scratch.dir("origin"));
    let (mut report, mut all) = (Report::default(), Bytes::default());
    for repo in &repos {
        let tree = scratch.path("origin").join(&repo.name);
        copy_tree(&repo.root, &tree);
        let own = Scratch::new();
        let (server, has_keyring) = serve(&own, &nginx, repo, &tree);
        let origin = nginx.url(&repo.name);
        let [plain, checked] = ways(&server, repo, has_keyring);
        for client in Client::of(repo.kind) {
            report.client(repo, *client, false, &origin, &plain);
            if repo.is_signed {
                report.client(repo, *client, true, &origin, &checked);
            }
        }
        println!("{}: {} runs so far, {} rows", repo.shown, report.runs, report.rows.len());
        for (way, url) in &plain {
            all.compare(&repo.shown, &tree, [&origin, url], way);
        }
    }
    print(&repos, &report, &all);
    ExitCode::SUCCESS
}

fn print(repos: &[Repo], report: &Report, all: &Bytes) {
    let (runs, read, downloaded) = report.straight;
    println!("\n{}", clients::versions());
    println!(
        "{} repositories; {} runs of clients with {} commands, {} files kept by them; straight {runs} runs, of which \
         {read} read the lists, and {downloaded} packages downloaded",
        repos.len(),
        report.runs,
        report.commands,
        report.kept,
    );
    println!("{} files compared by HTTP in {} pairs of requests\n", all.files, all.requests);
    head(["repository", "client", "signatures", "straight", "through", "what", "ways"]);
    for (row, told) in &report.rows {
        let told = told.each_ref().map(|names| names.iter().cloned().collect::<Vec<_>>().join(", "));
        println!("| {} | {} |", row.join(" | "), told.join(" | "));
    }
    println!();
    head(["files", "what", "nginx", "manyhands", "files by way", "for example", "requests"]);
    for (bytes::Kind { file, what, straight, through }, seen) in &all.kinds {
        let counts: Vec<_> = seen.ways.iter().map(|(way, files)| format!("{way} {}", files.len())).collect();
        let example = seen.ways.values().flatten().next().map_or("", String::as_str);
        let requests = seen.requests.iter().copied().collect::<Vec<_>>().join(", ");
        let counts = counts.join(", ");
        let cells: [&str; 7] = [file, what, straight, through, &counts, example, &requests];
        println!("| {} |", cells.join(" | "));
    }
    println!("\nHeaders of nginx alone: {:?}; of manyhands alone: {:?}", all.only_straight, all.only_through);
}

fn head(cells: [&str; 7]) {
    println!("| {} |\n|{}", cells.join(" | "), "---|".repeat(cells.len()));
}
