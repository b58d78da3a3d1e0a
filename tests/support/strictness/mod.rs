//! The table of `docs/strictness.md`: small repositories with one defect each, and what stock clients make of them.
//!
//! [`deb`] and [`rpm`] make good repositories, [`deb_rows`] and [`rpm_rows`] spoil them, [`clients`] runs apt, dnf
//! and zypper, [`runs`] lets them loose on all of it straight and through a server, [`page`] writes it down.

pub mod clients;
pub mod deb;
mod deb_rows;
mod list_rows;
pub mod page;
pub mod rpm;
mod rpm_rows;
pub mod runs;
pub mod shortfalls;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

pub use list_rows::TARGETS;

use clients::{Client, Outcome, Seen};
use deb::Deb;
use rpm::{Rpm, Texts};

use crate::support::generation::Signer;
use crate::support::{Nginx, Scratch, test_key};

/// Bytes by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What all rows share.
#[derive(Debug)]
pub struct Kit {
    /// Whose key the clients have.
    pub signer: Signer,
    /// Whose key nobody has.
    pub stranger: Signer,
    /// Whose key the clients of some rows have, and which has expired.
    pub expired: Signer,
    pub expired_key: PathBuf,
    pub texts: Texts,
    /// Serves the folder that rows are written to.
    pub origin: Nginx,
    pub root: PathBuf,
}

impl Kit {
    pub fn new(scratch: &Scratch) -> Self {
        let expired = Signer::expired(scratch);
        let expired_key = scratch.path("expired.asc");
        expired.export(&expired_key);
        Self {
            signer: Signer::new(scratch),
            stranger: Signer::stranger(scratch),
            expired,
            expired_key,
            texts: Texts::new(scratch),
            origin: Nginx::start(scratch, &scratch.dir("origin")),
            root: scratch.path("origin"),
        }
    }
}

/// Makes a good repository bad.
pub enum Spoil {
    Deb(Box<dyn Fn(&mut Deb) + Send + Sync>),
    Flat(Box<dyn Fn(&mut Deb) + Send + Sync>),
    Rpm(Box<dyn Fn(&mut Rpm) + Send + Sync>),
}

impl fmt::Debug for Spoil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deb(_) => "Deb",
            Self::Flat(_) => "Flat",
            Self::Rpm(_) => "Rpm",
        })
    }
}

/// Which key clients and the server have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    Key,
    ExpiredKey,
    /// None, and the client is told to trust.
    Blind,
}

/// What a client loses that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of it: an earlier generation is better.
    Generation,
    /// A list that only some clients ask for.
    List,
    /// One package.
    Package,
}

/// One defect.
#[derive(Debug)]
pub struct Row {
    /// A name for folders and messages: letters, digits, `-`.
    pub name: String,
    /// As the page says it.
    pub defect: String,
    pub spoil: Spoil,
    pub trust: Trust,
    /// apt: the components that it asks for.
    components: &'static str,
    /// apt: further options of its source.
    options: &'static str,
    /// apt: whether it reads Sources too.
    has_sources: bool,
    /// apt: lines of its configuration.
    settings: &'static str,
    /// Lines for the repository in the server's configuration.
    pub serve: &'static str,
    pub reach: Reach,
    /// Where the server does something else on purpose: what its client sees, and why.
    pub differs: Option<(Outcome, &'static str)>,
}

impl Row {
    fn new(name: impl Into<String>, defect: impl Into<String>, spoil: Spoil) -> Self {
        Self {
            name: name.into(),
            defect: defect.into(),
            spoil,
            trust: Trust::Key,
            components: "main",
            options: "",
            has_sources: false,
            settings: "",
            serve: "",
            reach: Reach::Generation,
            differs: None,
        }
    }

    fn deb(
        name: impl Into<String>,
        defect: impl Into<String>,
        spoil: impl Fn(&mut Deb) + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, defect, Spoil::Deb(Box::new(spoil)))
    }

    fn flat(
        name: impl Into<String>,
        defect: impl Into<String>,
        spoil: impl Fn(&mut Deb) + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, defect, Spoil::Flat(Box::new(spoil)))
    }

    fn rpm(
        name: impl Into<String>,
        defect: impl Into<String>,
        spoil: impl Fn(&mut Rpm) + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, defect, Spoil::Rpm(Box::new(spoil)))
    }

    fn trust(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    fn option(self, options: &'static str) -> Self {
        Self { options, ..self }
    }

    fn components(self, components: &'static str) -> Self {
        Self { components, ..self }
    }

    fn sources(self) -> Self {
        Self { has_sources: true, ..self }
    }

    fn settings(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    fn serve(self, serve: &'static str) -> Self {
        Self { serve, ..self }
    }

    fn differs(self, outcome: Outcome, why: &'static str) -> Self {
        Self { differs: Some((outcome, why)), ..self }
    }

    fn optional(self) -> Self {
        Self { reach: Reach::List, ..self }
    }

    fn package(self) -> Self {
        Self { reach: Reach::Package, ..self }
    }

    pub fn is_rpm(&self) -> bool {
        matches!(self.spoil, Spoil::Rpm(_))
    }

    pub fn clients(&self) -> &'static [Client] {
        if self.is_rpm() { &[Client::Dnf, Client::Zypper] } else { &[Client::Apt] }
    }

    /// The repository as a good generation.
    pub fn good(&self, kit: &Kit, number: u32) -> Files {
        match &self.spoil {
            Spoil::Deb(_) => Deb::new(number, "").signed_as(self.trust).files(kit),
            Spoil::Flat(_) => Deb::flat(number, "").signed_as(self.trust).files(kit),
            Spoil::Rpm(_) => Rpm::new(kit, number, "").files(kit),
        }
    }

    /// The repository with its defect; `url` is its own at the origin.
    pub fn bad(&self, kit: &Kit, number: u32, url: &str) -> Files {
        match &self.spoil {
            Spoil::Deb(spoil) => {
                let mut deb = Deb::new(number, url).signed_as(self.trust);
                spoil(&mut deb);
                deb.files(kit)
            }
            Spoil::Flat(spoil) => {
                let mut deb = Deb::flat(number, url).signed_as(self.trust);
                spoil(&mut deb);
                deb.files(kit)
            }
            Spoil::Rpm(spoil) => {
                let mut rpm = Rpm::new(kit, number, url);
                spoil(&mut rpm);
                rpm.files(kit)
            }
        }
    }

    /// The key that clients and server have.
    pub fn key(&self, kit: &Kit) -> Option<PathBuf> {
        match self.trust {
            Trust::Key => Some(test_key()),
            Trust::ExpiredKey => Some(kit.expired_key.clone()),
            Trust::Blind => None,
        }
    }

    /// Lines of sources.list.
    fn sources_list(&self, kit: &Kit, url: &str) -> Vec<String> {
        let trust = match self.key(kit) {
            Some(key) => format!("signed-by={}", key.display()),
            None => "trusted=yes".to_owned(),
        };
        let what = match &self.spoil {
            Spoil::Flat(_) => "./".to_owned(),
            _ => format!("stable {}", self.components),
        };
        let line = |kind| format!("{kind} [{trust} {}] {url} {what}", self.options);
        let kinds: &[&str] = if self.has_sources { &["deb", "deb-src"] } else { &["deb"] };
        kinds.iter().map(line).collect()
    }

    /// What a client makes of it at this URL.
    pub fn see(&self, kit: &Kit, client: Client, url: &str) -> Seen {
        match client {
            Client::Apt => clients::apt(&self.sources_list(kit, url), self.settings),
            Client::Dnf => clients::dnf(url),
            Client::Zypper => clients::zypper(url),
        }
    }
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let rows: Vec<Row> =
        [list_rows::rows(), deb_rows::rows(), rpm_rows::rows()].into_iter().flatten().collect();
    for (at, row) in rows.iter().enumerate() {
        assert!(rows[..at].iter().all(|other| other.name != row.name), "two rows are named {}", row.name);
    }
    rows
}

/// Writes files below a folder.
pub fn write(root: &Path, files: &Files) {
    for (path, bytes) in files {
        let file = root.join(path);
        let folder = file.parent().expect("a file has a folder");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, bytes))
            .expect("the scratch folder is writable");
    }
}
