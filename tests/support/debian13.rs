//! Debian 13's programs beside those of this machine: apt 3, where the machine's own apt is older.
//!
//! Its `/usr` comes by debootstrap from the Debian archive that this machine's apt uses and stays below `target`.
//! A program sees it in place of the machine's own, in a mount namespace; everything else is the machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::sources::machine_sources;
use super::{run, wrap};

const SUITE: &str = "trixie";
/// For a hundred packages over the real network.
const LIMIT: Duration = Duration::from_secs(600);

/// Where its `/usr` is, made where it is missing. `None` where this machine has no Debian archive; CI has one.
/// A program that runs alone has no network: it finds what was made before.
pub fn usr() -> Option<&'static Path> {
    static USR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = USR.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools").join(SUITE);
        let usr = root.join("usr");
        let made = if usr.is_dir() || super::net::is_alone() { Ok(()) } else { make(&root) };
        let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        match made {
            Err(problem) if is_ci => panic!("no programs of Debian 13: {problem}"),
            Err(problem) => println!("skipped: what needs apt 3 of Debian 13: {problem}"),
            Ok(()) => {}
        }
        usr.is_dir().then_some(usr)
    });
    made.as_deref()
}

/// By debootstrap, from the first archive that has the suite.
fn make(root: &Path) -> Result<(), String> {
    let mut problem = "this machine has no deb source".to_owned();
    let mut archives: Vec<String> = machine_sources().into_iter().map(|source| source.url).collect();
    archives.dedup();
    for url in archives {
        let new = root.with_extension("new");
        let _ = fs::remove_dir_all(&new);
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", SUITE]).arg(&new).arg(&url);
        let (status, out, err) = run(&mut debootstrap, LIMIT);
        if status.success() {
            return fs::rename(&new, root).map_err(|problem| problem.to_string());
        }
        problem = format!("debootstrap: {status}\n{out}\n{err}");
    }
    Err(problem)
}

/// A command whose programs and libraries are those of `usr`.
pub fn within(usr: &Path, command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "sh", "-c", "mount --bind \"$1\" /usr && shift && exec \"$@\"", "sh"]).arg(usr);
    wrap(inside, command)
}
