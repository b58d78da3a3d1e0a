//! What stock clients make of a repository.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::deb;
use super::rpm;
use crate::support::{Apt, Dnf, Scratch, Zypper, run_within};

/// A client that has not ended by then waits for ever. apt's own retries take 7 s for each file.
const LIMIT: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    Apt,
    Dnf,
    Zypper,
}

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
            Self::Zypper => "zypper",
        }
    }
}

/// What became of reading the lists and downloading a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Works,
    /// The same with a warning.
    Warns,
    /// Reading the lists ends with an error; the package can be had.
    Complains,
    /// The package cannot be had.
    Refuses,
    /// Does not end.
    Waits,
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::Works, Self::Warns, Self::Complains, Self::Refuses, Self::Waits];

    /// Whether two differ for a user. A warning may be missing: who stands in between may mend its cause.
    pub fn differs(self, other: Self) -> bool {
        let unwarned = |outcome| if outcome == Self::Warns { Self::Works } else { outcome };
        unwarned(self) != unwarned(other)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Works => "works",
            Self::Warns => "works, warns",
            Self::Complains => "update fails, install works",
            Self::Refuses => "refuses",
            Self::Waits => "waits for ever",
        })
    }
}

/// An outcome and what the client said.
#[derive(Clone, Debug)]
pub struct Seen {
    pub outcome: Outcome,
    pub said: String,
}

/// One command: whether it succeeded, or `None` when it had to be ended, and its output.
struct Ran {
    success: Option<bool>,
    said: String,
}

fn ran(command: &mut std::process::Command) -> Ran {
    let (status, out, err) = run_within(command, LIMIT);
    Ran { success: status.map(|status| status.success()), said: format!("{out}{err}") }
}

/// Of apt's reading the lists, then of its downloading.
fn judge(update: &Ran, is_warned: bool, download: Option<&Ran>, has_file: bool) -> Outcome {
    match (update.success, download.map(|ran| ran.success)) {
        (None, _) | (_, Some(None)) => Outcome::Waits,
        (_, Some(Some(false)) | None) => Outcome::Refuses,
        (_, Some(Some(true))) if !has_file => Outcome::Refuses,
        (Some(false), _) => Outcome::Complains,
        (Some(true), _) if is_warned => Outcome::Warns,
        (Some(true), _) => Outcome::Works,
    }
}

/// apt-get update and download; `sources` as [`Apt::new`] takes them.
pub fn apt(sources: &[String], settings: &str) -> Seen {
    let scratch = Scratch::new();
    let apt = Apt::new(&scratch.dir("apt"), sources);
    apt.configure(&format!("APT::Architecture \"amd64\"; Acquire::Languages \"en\";\n{settings}"));
    let update = ran(apt.command("apt-get").arg("update"));
    let is_warned = update.said.lines().any(|line| line.starts_with("W:"));
    let download = update.success.map(|_| ran(apt.command("apt-get").args(["download", deb::PACKAGE])));
    let has_file = !crate::support::package_files(&apt.downloads()).is_empty();
    let outcome = judge(&update, is_warned, download.as_ref(), has_file);
    Seen { outcome, said: update.said + &download.map_or_else(String::new, |ran| ran.said) }
}

pub fn dnf(url: &str) -> Seen {
    let scratch = Scratch::new();
    let dnf = Dnf::new(&scratch.dir("dnf"), &[("hands", url.to_owned())]);
    // Reads the lists by itself, as `dnf makecache` does.
    let install = ran(dnf.command().args(["--downloadonly", "install", rpm::PACKAGE]));
    seen_of(install, !dnf.archives().is_empty())
}

pub fn zypper(url: &str) -> Seen {
    let scratch = Scratch::new();
    let root: &Path = &scratch.dir("zypper");
    let zypper = Zypper::new(root, &[("hands", url.to_owned())]);
    let install = ran(zypper.command().args(["install", "--no-recommends", "--download-only", rpm::PACKAGE]));
    seen_of(install, !zypper.archives().is_empty())
}

/// Of a client that reads the lists and downloads in one command.
fn seen_of(install: Ran, has_file: bool) -> Seen {
    let outcome = match install.success {
        None => Outcome::Waits,
        Some(true) if has_file => Outcome::Works,
        Some(_) => Outcome::Refuses,
    };
    Seen { outcome, said: install.said }
}
