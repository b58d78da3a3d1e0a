//! Debian systems that are booted in containers (systemd-nspawn(1)): what unit files do is seen only there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{BINARY, DEADLINE, poll, run, run_ok, run_within};

/// For the packages of a small system.
const LONG: Duration = Duration::from_secs(300);

/// Where control groups are, in one hierarchy or in several.
const HIERARCHIES: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];

/// Runs a command in the control groups named; two systems in one would each end the other's services. The shell has no
/// child of its own.
const IN_GROUPS: &str = "for group in $0; do echo $$ >$group/cgroup.procs; done; exec \"$@\"";

/// Control groups for the system of this folder alone.
fn groups_of(root: &Path) -> Vec<PathBuf> {
    let name: String = root.display().to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    let has_groups = |all: &&&str| Path::new(all).join("cgroup.procs").exists();
    let group = |all: &&str| Path::new(all).join(format!("manyhands-{name}"));
    HIERARCHIES.iter().filter(has_groups).map(group).collect()
}

/// A running system, without a network but its own loopback. It ends with this value.
#[derive(Debug)]
pub struct Machine {
    pub root: PathBuf,
    container: Child,
    /// Its first process, as seen from here.
    init: u32,
}

impl Machine {
    /// Makes a small system of a suite from this mirror, installs the program and its units as the packages do, and
    /// boots it.
    pub fn boot(root: &Path, suite: &str, mirror: &str) -> Self {
        let mut make = Command::new("mmdebstrap");
        make.args(["--quiet", "--variant=minbase", "--include=systemd-sysv,curl", suite])
            .arg(root)
            .arg(mirror);
        run_within(&mut make, LONG);
        fs::create_dir_all(root.join("etc/manyhands")).expect("the new system is writable");
        install(root);
        let units = fs::read_dir("systemd").expect("units").map(|entry| entry.expect("a unit").path());
        for unit in units {
            let to = match unit.extension().is_some_and(|e| e == "sysusers") {
                true => root.join("usr/lib/sysusers.d/manyhands.conf"),
                false => root.join("usr/lib/systemd/system").join(unit.file_name().expect("a name")),
            };
            fs::copy(&unit, to).expect("the new system is writable");
        }
        let groups = groups_of(root);
        groups
            .iter()
            .for_each(|group| fs::create_dir_all(group).expect("control groups can be made (as root)"));
        let groups: Vec<String> = groups.iter().map(|group| group.display().to_string()).collect();
        let mut boot = Command::new("sh");
        boot.args([
            "-c",
            IN_GROUPS,
            &groups.join(" "),
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--boot",
            "--directory",
        ]);
        let log = fs::File::create(root.with_extension("log")).expect("the scratch folder is writable");
        boot.arg(root).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let container = boot.spawn().expect("systemd-nspawn starts (as root)");
        let mut machine = Self { root: root.to_owned(), container, init: 0 };
        let children = format!("/proc/{0}/task/{0}/children", machine.container.id());
        // Not the helpers that set it up.
        let is_init =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd\n");
        let first = || {
            let children = fs::read_to_string(&children).ok()?;
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_init)
        };
        machine.init = poll(DEADLINE, first).expect("systemd-nspawn starts a system");
        let is_up = || {
            let (_, state, _) = run(&mut machine.command(&["systemctl", "is-system-running"]), DEADLINE);
            // A container lacks some of what a whole system has.
            matches!(state.trim(), "running" | "degraded").then_some(())
        };
        assert!(poll(DEADLINE * 2, is_up).is_some(), "{suite} does not boot: {}", machine.console());
        machine.run(&["systemd-sysusers"]);
        machine
    }

    /// A command to be run inside.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init.to_string()).args(["--all", "--"]).args(words);
        command
    }

    /// Runs it; fails unless it succeeds.
    pub fn run(&self, words: &[&str]) -> String {
        run_ok(&mut self.command(words))
    }

    /// Whether it succeeds.
    pub fn succeeds(&self, words: &[&str]) -> bool {
        run(&mut self.command(words), DEADLINE).0.success()
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.root.join(path), text).expect("the system's files are writable");
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", property, unit]).trim().to_owned()
    }

    /// What the journal has of a unit.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    fn console(&self) -> String {
        fs::read_to_string(self.root.with_extension("log")).unwrap_or_default()
    }
}

/// As a package manager puts a new version in the place of the old one.
pub fn install(root: &Path) {
    let (new, program) = (root.join("usr/bin/manyhands.new"), root.join("usr/bin/manyhands"));
    fs::copy(BINARY, &new).expect("the new system is writable");
    fs::rename(new, program).expect("the new system is writable");
}

impl Drop for Machine {
    fn drop(&mut self) {
        let kill = |signal: &str, pid: u32| Command::new("kill").arg(signal).arg(pid.to_string()).status();
        // It then powers the system off.
        let _ = kill("-TERM", self.container.id());
        let ended = poll(Duration::from_secs(20), || self.container.try_wait().ok().flatten());
        if ended.is_none() {
            if self.init > 1 {
                let _ = kill("-KILL", self.init);
            }
            let _ = self.container.kill();
            let _ = self.container.wait();
        }
        for group in groups_of(&self.root) {
            // Its folders alone can be removed, the innermost first.
            let _ = Command::new("find").arg(group).args(["-depth", "-type", "d", "-delete"]).output();
        }
    }
}
