//! Stock clients on a host of the testbed, each pointed at the server in one of the ways of docs/clients.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::goods::{self, DEB, Goods, RPM};
use super::{Bed, Host};
use crate::support::{Apt, Dnf, Zypper, debian13, package_files, run_ok, run_within, sha256_file, test_key};

/// A client and how it is pointed at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    AptBase,
    AptList,
    AptZone,
    NewAptBase,
    NewAptList,
    NewAptZone,
    DnfBase,
    DnfList,
    ZypperBase,
    ZypperList,
    Wget,
    Debootstrap,
}

impl Kind {
    pub const ALL: [Self; 12] = [
        Self::AptBase,
        Self::AptList,
        Self::AptZone,
        Self::NewAptBase,
        Self::NewAptList,
        Self::NewAptZone,
        Self::DnfBase,
        Self::DnfList,
        Self::ZypperBase,
        Self::ZypperList,
        Self::Wget,
        Self::Debootstrap,
    ];

    /// Those that can be had here.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kind| kind.is_here())
    }

    /// Whether it can be had here.
    pub fn is_here(self) -> bool {
        !self.is_new_apt() || debian13::usr().is_some()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::AptBase => "apt base URL",
            Self::AptList => "apt mirror+http",
            Self::AptZone => "apt with zone",
            Self::NewAptBase => "apt 3 base URL",
            Self::NewAptList => "apt 3 mirror+http",
            Self::NewAptZone => "apt 3 with zone",
            Self::DnfBase => "dnf base URL",
            Self::DnfList => "dnf mirrorlist",
            Self::ZypperBase => "zypper base URL",
            Self::ZypperList => "zypper mirrorlist",
            Self::Wget => "wget",
            Self::Debootstrap => "debootstrap",
        }
    }

    /// The repository that it uses.
    pub fn repo(self) -> &'static str {
        match self {
            kind if kind.is_zypper() || kind.is_dnf() => RPM,
            _ => DEB,
        }
    }

    /// Debian 13's in place of the machine's.
    pub fn is_new_apt(self) -> bool {
        matches!(self, Self::NewAptBase | Self::NewAptList | Self::NewAptZone)
    }

    pub fn is_apt(self) -> bool {
        self.is_new_apt() || matches!(self, Self::AptBase | Self::AptList | Self::AptZone)
    }

    pub fn is_apt_list(self) -> bool {
        matches!(self, Self::AptList | Self::NewAptList)
    }

    pub fn has_zone(self) -> bool {
        matches!(self, Self::AptZone | Self::NewAptZone)
    }

    pub fn is_zypper(self) -> bool {
        matches!(self, Self::ZypperBase | Self::ZypperList)
    }

    pub fn is_dnf(self) -> bool {
        matches!(self, Self::DnfBase | Self::DnfList)
    }
}

/// Settings that docs/clients.md recommends beside the stock ones.
pub const APT_LIST: &str = "Acquire::http::Timeout \"5\"; Acquire::Retries \"0\";";
/// With a zone the next host is taken by a retry.
pub const APT_ZONE: &str = "Acquire::http::Timeout \"5\"; Acquire::Retries \"1\";";
pub const DNF_SETTINGS: [&str; 2] = ["--setopt=minrate=10k", "--setopt=timeout=5"];

/// Longer than any client needs for the metadata.
const REFRESH: Duration = Duration::from_secs(120);

/// What became of one install.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The client says that it is installed and the bytes that it got are the right ones.
    pub is_good: bool,
    /// The client took other bytes for good.
    pub is_wrong: bool,
    /// It was still at it when its time was up.
    pub is_late: bool,
    pub took: Duration,
    /// What it wrote, both streams.
    pub text: String,
}

enum Program {
    Apt(Apt),
    Dnf(Dnf),
    Zypper(Zypper),
    Wget(PathBuf),
    Debootstrap(PathBuf),
}

/// One client.
pub struct Patron<'a> {
    kind: Kind,
    host: &'a Host,
    base: String,
    program: Program,
    is_recommended: bool,
}

impl<'a> Patron<'a> {
    /// One with an empty root that knows the server's metadata.
    pub fn new(kind: Kind, bed: &Bed, host: &'a Host, root: &Path, is_recommended: bool) -> Self {
        let patron = Self::try_new(kind, bed, host, root, is_recommended);
        patron.unwrap_or_else(|problem| panic!("{} knows no metadata: {problem}", kind.name()))
    }

    /// The same where the metadata may not be had.
    pub fn try_new(
        kind: Kind,
        bed: &Bed,
        host: &'a Host,
        root: &Path,
        is_recommended: bool,
    ) -> Result<Self, String> {
        let patron = Self::fresh(kind, bed, host, root, is_recommended);
        let refresh = match &patron.program {
            Program::Apt(apt) => Some(with(apt.command("apt-get"), &["update"])),
            Program::Dnf(dnf) => Some(with(dnf.command(), &["makecache"])),
            Program::Zypper(zypper) => Some(with(zypper.command(), &["refresh"])),
            // debootstrap reads it with every install.
            Program::Wget(_) | Program::Debootstrap(_) => None,
        };
        let refreshed = refresh.map(|refresh| run_within(&mut patron.host.enter(&refresh), REFRESH));
        match refreshed {
            Some((status, out, err)) if !status.is_some_and(|status| status.success()) => {
                Err(format!("{status:?}\n{out}\n{err}"))
            }
            _ => Ok(patron),
        }
    }

    fn fresh(kind: Kind, bed: &Bed, host: &'a Host, root: &Path, is_recommended: bool) -> Self {
        fs::create_dir_all(root).expect("the scratch folder is writable");
        let deb = |url: &str| format!("deb [signed-by={}] {url} stable main", test_key().display());
        let apt = |url: &str| {
            let apt = Apt::new(root, &[deb(url)]);
            if is_recommended {
                apt.configure(if kind.has_zone() { APT_ZONE } else { APT_LIST });
            }
            let usr = kind.is_new_apt().then(|| debian13::usr().expect("asked before"));
            Program::Apt(match usr {
                Some(usr) => apt.with_usr(usr),
                None => apt,
            })
        };
        let base = [("hands", bed.url(RPM))];
        let list = [("hands", bed.url(&format!("{RPM}/?mirrorlist")))];
        let program = match kind {
            Kind::AptBase | Kind::AptZone | Kind::NewAptBase | Kind::NewAptZone => apt(&bed.url(DEB)),
            Kind::AptList | Kind::NewAptList => {
                apt(&format!("mirror+{}", bed.url(&format!("mirrors/{DEB}.txt"))))
            }
            Kind::DnfBase => Program::Dnf(Dnf::new(root, &base)),
            Kind::DnfList => Program::Dnf(Dnf::with_key(root, "mirrorlist", &list)),
            Kind::ZypperBase => Program::Zypper(Zypper::new(root, &base)),
            Kind::ZypperList => Program::Zypper(Zypper::with_key(root, "mirrorlist", &list)),
            Kind::Wget => Program::Wget(root.to_owned()),
            Kind::Debootstrap => Program::Debootstrap(root.to_owned()),
        };
        Self { kind, host, base: bed.url(""), program, is_recommended }
    }

    /// Installs package N of the goods, within a limit.
    pub fn install(&self, goods: &Goods, number: usize, limit: Duration) -> Outcome {
        let package = goods::name(number);
        let command = match &self.program {
            Program::Apt(apt) => with(apt.command("apt-get"), &["install", &package]),
            Program::Dnf(dnf) => {
                let settings = if self.is_recommended { &DNF_SETTINGS[..] } else { &[] };
                let mut command = dnf.command();
                command.args(settings);
                with(command, &["install", &package])
            }
            Program::Zypper(zypper) => {
                let mut command = zypper.command();
                command.arg("--no-refresh");
                with(command, &["install", "--no-recommends", &package])
            }
            Program::Wget(folder) => {
                let url = format!("{}{}", self.base, goods.path(DEB, number));
                let mut command = Command::new("wget");
                command.current_dir(folder).args(["--no-verbose", &url]);
                command
            }
            Program::Debootstrap(folder) => debootstrap(folder, &format!("{}{DEB}", self.base), &package),
        };
        let begin = Instant::now();
        let (status, out, err) = run_within(&mut self.host.enter(&command), limit);
        let took = begin.elapsed();
        let kept = self.kept(goods, number);
        let says_good = status.is_some_and(|status| status.success()) && self.has(&package);
        let is_right = kept.as_deref() == Some(&goods.sha256(self.kind.repo(), number));
        Outcome {
            is_good: says_good && is_right,
            is_wrong: says_good && !is_right,
            is_late: status.is_none(),
            took,
            text: format!("{out}\n{err}"),
        }
    }

    /// Whether its database has a package.
    fn has(&self, package: &str) -> bool {
        match &self.program {
            Program::Apt(apt) => apt.installed().contains_key(package),
            Program::Dnf(dnf) => dnf.installed().contains_key(package),
            Program::Zypper(zypper) => zypper.installed().contains_key(package),
            // They have none.
            Program::Wget(_) | Program::Debootstrap(_) => true,
        }
    }

    /// SHA-256 of the file that it downloaded.
    fn kept(&self, goods: &Goods, number: usize) -> Option<String> {
        let path = goods.path(self.kind.repo(), number);
        let file = path.rsplit('/').next().expect("a path has a last part");
        let all = match &self.program {
            Program::Apt(apt) => apt.archives(),
            Program::Dnf(dnf) => dnf.archives(),
            Program::Zypper(zypper) => zypper.archives(),
            // What wget begins anew after a part it saves beside that.
            Program::Wget(folder) => vec![folder.join(format!("{file}.1")), folder.join(file)],
            Program::Debootstrap(folder) => package_files(&folder.join("system/var/cache/apt/archives")),
        };
        let is_it = |path: &&PathBuf| path.to_string_lossy().contains(file) && path.is_file();
        all.iter().find(is_it).map(|path| sha256_file(path))
    }
}

/// debootstrap(8) with a script by which a system is one package; it ends when that is there.
fn debootstrap(folder: &Path, url: &str, package: &str) -> Command {
    let script = format!(
        "mirror_style release\ndownload_style apt\nfinddebs_style from-indices\nvariants -\n\
         work_out_debs () {{\n    required=\"{package}\"\n    base=\n}}\n"
    );
    let (path, keyring) = (folder.join("script"), folder.join("keyring.gpg"));
    fs::write(&path, script).expect("the scratch folder is writable");
    run_ok(
        Command::new("gpg").args(["--batch", "--yes", "--dearmor", "--output"]).arg(&keyring).arg(test_key()),
    );
    let mut command = Command::new("debootstrap");
    command.arg(format!("--keyring={}", keyring.display())).args([
        "--arch=amd64",
        "--download-only",
        "stable",
    ]);
    command.arg(folder.join("system")).arg(url).arg(path);
    command
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}
