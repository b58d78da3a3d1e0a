//! Debian 13's programs beside those of this machine: apt 3.
//!
//! Its `/usr` comes by debootstrap from the Debian archive that this machine's apt uses and stays below `target`.
//! A program sees it in place of the machine's own, in a mount namespace; everything else is the machine's. So the
//! machine's `/lib` has to be in its `/usr`, and nothing of a test may be below that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::sources::{Source, machine_sources};
use super::{run, run_within, wrap};

const SUITE: &str = "trixie";
/// For a hundred packages over the real network.
const LIMIT: Duration = Duration::from_secs(600);

/// Where its `/usr` is, made where it is missing; `None` where it cannot be, which in CI is a failure. A program that
/// runs alone has no network: it finds what was made before.
pub fn usr() -> Option<&'static Path> {
    static USR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = USR.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools").join(SUITE);
        let usr = root.join("usr");
        if !usr.is_dir()
            && !super::net::is_alone()
            && let Err(problem) = make(&root)
        {
            let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!is_ci, "no programs of Debian's {SUITE}: {problem}");
            println!("skipped: what needs apt 3 of Debian's {SUITE}: {problem}");
        }
        usr.is_dir().then_some(usr)
    });
    made.as_deref()
}

/// The first archive of those that this machine's apt uses which has the suite.
fn archive() -> Option<Source> {
    machine_sources().into_iter().find(|source| {
        let release = format!("{}/dists/{SUITE}/InRelease", source.url);
        let mut curl = Command::new("curl");
        let (status, out, _) = run(curl.args(["-fsSL", "--max-time", "30", &release]), LIMIT);
        status.success() && out.lines().any(|line| line == "Label: Debian")
    })
}

fn make(root: &Path) -> Result<(), String> {
    let Source { url, keyring, .. } = archive().ok_or("none of this machine's apt sources has it")?;
    // Of this program alone: others may be at it too.
    let new = root.with_extension(std::process::id().to_string());
    // What debootstrap mounts, and whatever it has started, goes with it.
    let mut debootstrap = Command::new("unshare");
    debootstrap.args(["--mount", "--pid", "--fork", "--kill-child", "debootstrap", "--variant=minbase"]);
    debootstrap.arg("--force-check-gpg").args(keyring.map(|path| format!("--keyring={path}")));
    let (status, out, err) = run_within(debootstrap.arg(SUITE).arg(&new).arg(url), LIMIT);
    let is_made = status.is_some_and(|status| status.success());
    // Where another program was first, its own does.
    let is_there = is_made && (fs::rename(&new, root).is_ok() || root.is_dir());
    let _ = fs::remove_dir_all(&new);
    if is_there { Ok(()) } else { Err(format!("debootstrap, which needs root: {status:?}\n{out}\n{err}")) }
}

/// A command whose programs and libraries are those of `usr`.
pub fn within(usr: &Path, command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "sh", "-c", "mount --bind \"$1\" /usr && shift && exec \"$@\"", "sh"]).arg(usr);
    wrap(inside, command)
}
