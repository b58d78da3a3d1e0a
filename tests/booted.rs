//! The units on booted systems: start, reload, upgrade, crash and stop, with downloads running. Debian 12 has systemd
//! 252, Debian 13 has 257.
//!
//! Runs in CI (`CI=true`) and with `MANYHANDS_REAL=1`, as root: the systems are made of packages from the machine's own
//! Debian mirror. Without one, or where it does not answer, the tests say so and pass.

mod support;

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::booted::{Machine, install};
use support::sources::debian_mirror;
use support::{DEADLINE, DebRepo, Scratch, poll, random_bytes, run};

const SERVE: &str = "manyhands-serve";
const VOLUNTEER: &str = "manyhands-volunteer";
const SERVE_FILE: &str = "etc/manyhands/serve.toml";
const CONFIG: &str = "[server]\nlisten = [\"127.0.0.1:8080\"]\n[[repo]]\nname = \"flat\"\ndistro = \"generic-deb\"\n\
                      tree = \"/srv/flat\"\nsuites = [\"./\"]\n";
/// So long a download takes at [`RATE`] that it is still running when the service is stopped.
const SIZE: usize = 24 << 20;
const RATE: &str = "8M";
/// What a stop may take: the download, and what a volunteer waits for those who were sent to it.
const STOP: Duration = Duration::from_secs(30);

/// A download inside, slower than the service could send it.
struct Download<'a> {
    machine: &'a Machine,
    curl: Child,
}

impl<'a> Download<'a> {
    /// Returns when it is under way.
    fn begin(machine: &'a Machine, url: &str) -> Self {
        let file = machine.root.join("root/download");
        let _ = fs::remove_file(&file);
        let mut curl = machine.command(&[
            "curl",
            "-s",
            "--limit-rate",
            RATE,
            "-o",
            "/root/download",
            "-w",
            "%{http_code}",
            url,
        ]);
        let curl = curl.stdout(Stdio::piped()).spawn().expect("curl starts");
        let begun = || fs::metadata(&file).is_ok_and(|meta| meta.len() > 0).then_some(());
        assert!(poll(DEADLINE, begun).is_some(), "{url} does not begin");
        Self { machine, curl }
    }

    fn ends_whole(self) -> bool {
        let out = self.curl.wait_with_output().expect("curl ends");
        let len = fs::metadata(self.machine.root.join("root/download")).map_or(0, |meta| meta.len());
        println!("download: {}, {len} bytes", String::from_utf8_lossy(&out.stdout));
        out.status.success() && out.stdout == b"200" && len == SIZE as u64
    }
}

/// Stops a service in the middle of a download, and has it end whole and the service without violence.
fn drains(machine: &Machine, unit: &str, url: &str, what: &str) {
    let download = Download::begin(machine, url);
    let begin = Instant::now();
    machine.run(&["systemctl", "stop", unit]);
    let took = begin.elapsed();
    assert!(download.ends_whole(), "{what}: a stop cut a download\n{}", machine.journal(unit));
    assert!(took < STOP, "{what}: the stop took {took:?}");
    let journal = machine.journal(unit);
    assert!(!journal.contains("SIGKILL"), "{what}: {journal}");
    println!("{what}: stopped in {:.1} s", took.as_secs_f64());
}

/// Starts a service and waits until it answers.
fn start(machine: &Machine, unit: &str) {
    machine.run(&["systemctl", "reset-failed"]);
    let started = machine.command(&["systemctl", "start", unit]).status().expect("systemctl starts");
    assert!(started.success(), "{unit} does not start\n{}", machine.journal(unit));
}

fn main_process(machine: &Machine, unit: &str) -> String {
    machine.show(unit, "MainPID")
}

/// Waits until one process is left, and the manager knows it.
fn wait_single(machine: &Machine, unit: &str) {
    let is_single = || {
        let cgroup =
            machine.run(&["sh", "-c", "ls /proc/*/exe | while read f; do readlink $f; done 2>/dev/null"]);
        let count = cgroup.lines().filter(|line| line.starts_with("/usr/bin/manyhands")).count();
        (count == 1 && machine.show(unit, "ActiveState") == "active").then_some(())
    };
    assert!(poll(DEADLINE, is_single).is_some(), "{}", machine.journal(unit));
}

fn the_server(machine: &Machine, url: &str) {
    start(machine, SERVE);
    drains(machine, SERVE, url, "as it was started");

    start(machine, SERVE);
    let before = main_process(machine, SERVE);
    machine.run(&["systemctl", "reload", SERVE]);
    wait_single(machine, SERVE);
    assert_ne!(main_process(machine, SERVE), before, "a reload starts another process");
    drains(machine, SERVE, url, "after a reload");

    start(machine, SERVE);
    install(&machine.root);
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "try-reload-or-restart", SERVE]);
    wait_single(machine, SERVE);
    drains(machine, SERVE, url, "after an upgrade");

    start(machine, SERVE);
    machine.run(&["systemctl", "reload", SERVE]);
    wait_single(machine, SERVE);
    let crashed = main_process(machine, SERVE);
    machine.run(&["sh", "-c", &format!("kill -KILL {crashed}")]);
    let is_back = || {
        let is_other = main_process(machine, SERVE) != crashed;
        (is_other && machine.show(SERVE, "ActiveState") == "active").then_some(())
    };
    assert!(poll(DEADLINE, is_back).is_some(), "{}", machine.journal(SERVE));
    drains(machine, SERVE, url, "after a crash");

    start(machine, SERVE);
    let reloads: Vec<Child> = (0..2)
        .map(|_| machine.command(&["systemctl", "reload", SERVE]).spawn().expect("systemctl starts"))
        .collect();
    for mut reload in reloads {
        assert!(reload.wait().expect("systemctl ends").success(), "{}", machine.journal(SERVE));
    }
    wait_single(machine, SERVE);
    drains(machine, SERVE, url, "after two reloads at once");
}

fn the_volunteer(machine: &Machine, url: &str) {
    start(machine, SERVE);
    let token = machine.run(&["manyhands", "token", "issue"]);
    fs::create_dir_all(machine.root.join("etc/manyhands")).expect("the system's files are writable");
    machine.write(
        "etc/manyhands/volunteer.toml",
        &format!(
            "server = \"http://127.0.0.1:8080\"\nlisten = \"127.0.0.1:8090\"\nstore = \"/var/lib/manyhands-volunteer\"\n\
             donate = \"1GiB/s\"\ntoken = {:?}\n",
            token.trim()
        ),
    );
    let redirected = || {
        let mut curl = machine.command(&["curl", "-s", "-o", "/dev/null", "-w", "%{redirect_url}", url]);
        Some(run(&mut curl, DEADLINE).1).filter(|location| location.contains(":8090/"))
    };
    for what in ["a volunteer as it was started", "a volunteer after a reload"] {
        start(machine, VOLUNTEER);
        if what.contains("reload") {
            machine.run(&["systemctl", "reload", VOLUNTEER]);
        }
        let location = poll(DEADLINE, redirected);
        let location = location.unwrap_or_else(|| panic!("no redirect\n{}", machine.journal(VOLUNTEER)));
        drains(machine, VOLUNTEER, &location, what);
    }
}

/// A file that cannot be used fails a reload and a start, at once and once.
fn wrong_files(machine: &Machine) {
    start(machine, SERVE);
    machine.write(SERVE_FILE, &CONFIG.replace("tree", "trees"));
    assert!(!machine.succeeds(&["systemctl", "reload", SERVE]), "a reload with a wrong file succeeds");
    assert_eq!(machine.show(SERVE, "ActiveState"), "active");
    assert!(machine.journal(SERVE).contains("unknown field `trees`"), "{}", machine.journal(SERVE));
    machine.run(&["systemctl", "stop", SERVE]);
    assert!(!machine.succeeds(&["systemctl", "start", SERVE]), "a start with a wrong file succeeds");
    assert_eq!(machine.show(SERVE, "ActiveState"), "failed", "{}", machine.journal(SERVE));
    assert_eq!(
        (machine.show(SERVE, "ExecMainStatus"), machine.show(SERVE, "NRestarts")),
        ("78".into(), "0".into())
    );
    machine.write(SERVE_FILE, CONFIG);
    start(machine, SERVE);
}

fn on(suite: &str) {
    let Some(mirror) = debian_mirror() else { return };
    let scratch = Scratch::new();
    let machine = Machine::boot(&scratch.path(suite), suite, &mirror);
    let mut repo = DebRepo::new(&machine.root.join("srv/flat"));
    let file = repo.add("big", &random_bytes(1, SIZE));
    repo.publish();
    machine.write(SERVE_FILE, CONFIG);
    let version = machine.run(&["systemctl", "--version"]);
    println!("{suite}: {}", version.lines().next().unwrap_or(""));
    let url = format!("http://127.0.0.1:8080/flat/{file}");
    the_server(&machine, &url);
    the_volunteer(&machine, &url);
    wrong_files(&machine);
}

#[test]
fn services_start_reload_and_stop_on_debian_12() {
    on("bookworm");
}

#[test]
fn services_start_reload_and_stop_on_debian_13() {
    on("trixie");
}
