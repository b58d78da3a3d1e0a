//! What stock clients make of a repository: how each of their commands ends, what they know then, and the bytes
//! that they keep.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::repos::{Kind, Repo};
use super::support::strictness::TARGETS;
use super::support::{Apt, Dnf, Scratch, Zypper, files, run_ok, run_within, sha256_file, test_key};

/// A client that has not ended by then waits for ever.
const LIMIT: Duration = Duration::from_secs(60);
/// Packages that each client downloads.
const DOWNLOADS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Apt,
    Dnf,
    Zypper,
}

impl Client {
    pub fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Deb => &[Self::Apt],
            Kind::Rpm => &[Self::Dnf, Self::Zypper],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
            Self::Zypper => "zypper",
        }
    }
}

/// One command: how it ended (`None` of one that was stopped), and what it told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    what: String,
    exit: Option<i32>,
    lines: Vec<String>,
    /// Not compared: words of errors depend on how a file failed.
    said: String,
}

/// All that a client did.
#[derive(Clone, Debug)]
pub struct Seen {
    steps: Vec<Step>,
    /// SHA-256 of what it keeps, by names without its own folders and the URL.
    kept: BTreeMap<String, String>,
}

/// One difference: what, straight, through.
pub type Difference = (String, String, String);

impl Seen {
    pub fn commands(&self) -> usize {
        self.steps.len()
    }

    pub fn files(&self) -> usize {
        self.kept.len()
    }

    /// Whether reading the lists succeeded.
    pub fn is_read(&self) -> bool {
        self.steps.first().is_some_and(|step| step.exit == Some(0))
    }

    /// Packages whose download succeeded.
    pub fn downloaded(&self) -> usize {
        self.steps.iter().filter(|step| step.what.starts_with("download ") && step.exit == Some(0)).count()
    }

    pub fn against(&self, through: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        for index in 0..self.steps.len().max(through.steps.len()) {
            let (want, got) = (self.steps.get(index), through.steps.get(index));
            let what = want.or(got).map_or_else(String::new, |step| step.what.clone());
            let of = |step: Option<&Step>| step.map_or("not run".to_owned(), ended);
            if want.map(|step| step.exit) != got.map(|step| step.exit) {
                found.push((what, of(want), of(got)));
            } else if of(want) != of(got) {
                found.push((format!("why {what} fails"), of(want), of(got)));
            } else if let (Some(want), Some(got)) = (want, got)
                && want.lines != got.lines
            {
                let only = |a: &Step, b: &Step| {
                    let lines: Vec<_> = a.lines.iter().filter(|line| !b.lines.contains(line)).collect();
                    format!("{} lines, only here {:?}", a.lines.len(), &lines[..lines.len().min(3)])
                };
                found.push((format!("{what}: output"), only(want, got), only(got, want)));
            }
        }
        // What a client keeps of a repository that it refuses depends on which file failed first.
        if self.is_read() && through.is_read() {
            let names: BTreeSet<&String> = self.kept.keys().chain(through.kept.keys()).collect();
            for name in names {
                let value =
                    |seen: &Self| seen.kept.get(name).map_or("absent", |sha256| &sha256[..8]).to_owned();
                if value(self) != value(through) {
                    found.push((format!("kept {name}"), value(self), value(through)));
                }
            }
        }
        found
    }
}

fn ended(step: &Step) -> String {
    let exit = step.exit.map_or("waits".to_owned(), |code| format!("exit {code}"));
    if step.exit == Some(0) { exit } else { format!("{exit} ({})", step.said) }
}

/// Commands of one client in its own folder.
struct Session<'a> {
    url: &'a str,
    steps: Vec<Step>,
}

impl Session<'_> {
    /// Runs one; `is_told` says which lines of its standard output count.
    fn run(&mut self, what: &str, command: &mut Command, is_told: fn(&str) -> bool) -> Vec<String> {
        let (status, out, err) = run_within(command, LIMIT);
        let neutral = |line: &str| line.replace(self.url, "URL").trim_end().to_owned();
        let mut lines: Vec<String> = out.lines().filter(|line| is_told(line)).map(neutral).collect();
        lines.sort();
        let exit = status.and_then(|status| status.code());
        let said = if exit == Some(0) { String::new() } else { error_kind(&format!("{out}\n{err}")) };
        self.steps.push(Step { what: what.to_owned(), exit, lines: lines.clone(), said });
        lines
    }
}

/// What kind of error a client tells of: a user acts on a missing file in another way than on a wrong one.
fn error_kind(text: &str) -> String {
    let kinds = [
        (
            "signature",
            &[
                "GPG verification",
                "Signature verification",
                "NO_PUBKEY",
                "BADSIG",
                "not signed",
                "is invalid: BAD",
            ][..],
        ),
        ("checksum", &["Hash Sum mismatch", "hecksum", "unexpected size", "size mismatch", "did not match"]),
        ("404", &["404", "not found on medium", "No such file"]),
        ("502 or 503", &["Status code: 50", "HTTP response: 50", "Bad Gateway", "Service Unavailable"]),
        ("not parsed", &["parse", "Parse", "Malformed", "malformed", "Couldn't load", "Problem parsing"]),
    ];
    let is_named = |words: &&[&str]| words.iter().any(|word| text.contains(word));
    let found: Vec<&str> = kinds.iter().filter(|(_, words)| is_named(words)).map(|(kind, _)| *kind).collect();
    if found.is_empty() { "another error".to_owned() } else { found.join(", ") }
}

/// Where tests/setup.sh has dnf's plugins.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools")
}

fn all(_: &str) -> bool {
    true
}

fn none(_: &str) -> bool {
    false
}

/// SHA-256 of all files below a folder for which there is a name.
fn kept(root: &Path, name: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let mut below = if root.is_dir() { files(root) } else { Vec::new() };
    // zypper remembers that a signature was checked by a link to nowhere.
    below.retain(|path| root.join(path).is_file());
    let named =
        below.into_iter().filter_map(|path| Some((name(path.to_str()?)?, sha256_file(&root.join(path)))));
    named.collect()
}

/// After a folder of that name, as far down as there is one.
fn below(path: &str, folder: &str) -> Option<String> {
    path.rfind(folder).map(|at| path[at..].to_owned())
}

/// Runs one client over a repository; `is_checked`: with signatures.
pub fn see(client: Client, repo: &Repo, url: &str, is_checked: bool) -> Seen {
    let scratch = Scratch::new();
    match client {
        Client::Apt => apt(&scratch, repo, url, is_checked),
        Client::Dnf => dnf(&scratch, repo, url, is_checked),
        Client::Zypper => zypper(&scratch, url, is_checked),
    }
}

fn apt(scratch: &Scratch, repo: &Repo, url: &str, is_checked: bool) -> Seen {
    let key = repo.key.clone().unwrap_or_else(test_key);
    let trust = if is_checked { format!("signed-by={}", key.display()) } else { "trusted=yes".to_owned() };
    let Repo { suite, components, architectures, .. } = repo;
    let line = |kind| format!("{kind} [{trust} arch={architectures}] {url} {suite} {components}");
    let sources: Vec<String> =
        if repo.has_sources { vec![line("deb"), line("deb-src")] } else { vec![line("deb")] };
    let apt = Apt::new(&scratch.dir("apt"), &sources);
    apt.configure(TARGETS);
    let mut session = Session { url, steps: Vec::new() };
    session.run("update", apt.command("apt-get").arg("update"), none);
    session.run("list", apt.command("apt-cache").arg("dumpavail"), all);
    let names = apt.names();
    for name in names.iter().take(DOWNLOADS) {
        session.run(&format!("download {name}"), apt.command("apt-get").args(["download", name]), none);
    }
    let lists = scratch.path("apt/lists");
    let sources: BTreeSet<String> = kept(&lists, |path| path.ends_with("Sources").then(|| path.to_owned()))
        .into_keys()
        .flat_map(|path| {
            std::fs::read_to_string(lists.join(path))
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|line| line.strip_prefix("Package: ").map(str::to_owned))
        .collect();
    for name in sources.iter().take(1) {
        let mut source = apt.command("apt-get");
        source.args(["source", "--download-only", "--only-source", name]);
        session.run(&format!("download source {name}"), &mut source, none);
    }
    let prefix = url.trim_start_matches("http://").replace('/', "_");
    // apt renames a list of another origin, never its bytes.
    let mut all = kept(&lists, |path| path.strip_prefix(&prefix).map(str::to_owned));
    all.extend(kept(&apt.downloads(), |path| Some(path.to_owned())));
    Seen { steps: session.steps, kept: all }
}

fn dnf(scratch: &Scratch, repo: &Repo, url: &str, is_checked: bool) -> Seen {
    let dnf = Dnf::new(&scratch.dir("dnf"), &[("repo", url.to_owned())]);
    let modules = tools().join("usr/lib/python3/dist-packages");
    let key = repo.key.clone().unwrap_or_else(test_key);
    let command = |arguments: &[&str]| {
        let mut command = dnf.command();
        let check = u8::from(is_checked);
        command.arg(format!("--setopt=*.repo_gpgcheck={check}")).arg("--setopt=*.gpgcheck=0");
        command.arg(format!("--setopt=*.gpgkey=file://{}", key.display()));
        // One that cannot be read is an error, and not left out.
        command.arg("--setopt=*.skip_if_unavailable=0");
        command.env("PYTHONPATH", &modules);
        command.arg(format!("--setopt=pluginpath={}", modules.join("dnf-plugins").display()));
        command.args(arguments).current_dir(scratch.dir("downloads"));
        command
    };
    let mut session = Session { url, steps: Vec::new() };
    session.run("makecache", &mut command(&["makecache"]), none);
    let format = "%{name}-%{epoch}:%{version}-%{release}.%{arch} %{location} %{size}";
    let is_entry = |line: &str| line.contains(' ') && line.contains(".rpm ");
    let mut list = command(&["repoquery", "--all", "--qf", format]);
    let packages = session.run("list", &mut list, is_entry);
    // Every list that repomd.xml names; of no architecture are no packages.
    let mirror = scratch.path("mirror");
    let mut sync = command(&["reposync", "--download-metadata", "--norepopath", "--arch=none", "-p"]);
    session.run("every list", sync.arg(&mirror), none);
    let names = packages.iter().filter_map(|line| line.split(' ').next());
    let names: Vec<String> = names.take(DOWNLOADS).map(str::to_owned).collect();
    for name in &names {
        session.run(&format!("download {name}"), &mut command(&["download", name]), none);
    }
    let mut all = kept(&dnf.cache(), |path| below(path, "repodata/"));
    all.extend(kept(&mirror, |path| Some(format!("mirror/{path}"))));
    all.extend(kept(&scratch.path("downloads"), |path| Some(path.to_owned())));
    Seen { steps: session.steps, kept: all }
}

fn zypper(scratch: &Scratch, url: &str, is_checked: bool) -> Seen {
    let root = scratch.dir("zypper");
    let zypper = Zypper::new(&root, &[("repo", url.to_owned())]);
    let command = |arguments: &[&str]| {
        let mut command = zypper.command();
        // The key is the repository's own, which zypper fetches beside repomd.xml.
        command.arg(if is_checked { "--gpg-auto-import-keys" } else { "--no-gpg-checks" }).args(arguments);
        command
    };
    let mut session = Session { url, steps: Vec::new() };
    session.run("refresh", &mut command(&["refresh", "--force"]), none);
    let is_entry = |line: &str| line.contains('|');
    let list = session.run("list", &mut command(&["--no-refresh", "search", "-s"]), is_entry);
    session.run("patches", &mut command(&["--no-refresh", "patches"]), is_entry);
    let cells = list.iter().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let names: BTreeSet<String> =
        cells.filter(|cells| cells.get(2) == Some(&"package")).map(|cells| cells[1].to_owned()).collect();
    for name in names.iter().take(DOWNLOADS) {
        let what = format!("download {name}");
        session.run(&what, &mut command(&["--no-refresh", "download", name]), none);
    }
    let raw = root.join("var/cache/zypp/raw");
    // `cookie` has the time of the refresh.
    let mut all = kept(&raw, |path| (!path.ends_with("cookie")).then(|| path.to_owned()));
    all.extend(kept(&root.join("var/cache/zypp/packages"), |path| Some(path.to_owned())));
    Seen { steps: session.steps, kept: all }
}

/// What these clients are, for the head of the report.
pub fn versions() -> String {
    let first = |program: &str| {
        let out = run_ok(Command::new(program).arg("--version"));
        out.lines().next().unwrap_or_default().to_owned()
    };
    ["apt-get", "dnf", "zypper"].map(|program| format!("{program}: {}", first(program))).join("; ")
}
