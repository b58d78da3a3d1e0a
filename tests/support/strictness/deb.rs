//! A small signed apt repository: what a row of the table begins with and spoils.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use md5::Digest as _;

use super::{Files, Kit, Trust};
use crate::support::generation::{Signer, gzip, xz};
use crate::support::{hex, random_bytes};

/// The package that apt downloads.
pub const PACKAGE: &str = "hands-one";
/// The list that names it, packed as apt asks for it first.
pub const LIST: &str = "main/binary-amd64/Packages.xz";
pub const UDEBS: &str = "main/debian-installer/binary-amd64/Packages.xz";
pub const SOURCES: &str = "main/source/Sources.xz";
pub const OTHER_ARCHITECTURE: &str = "main/binary-arm64/Packages.xz";
pub const OTHER_COMPONENT: &str = "contrib/binary-amd64/Packages.xz";
pub const TRANSLATION: &str = "main/i18n/Translation-en.xz";
pub const CONTENTS: &str = "main/Contents-amd64.gz";
pub const DEP11: &str = "main/dep11/Components-amd64.yml.xz";
const PACKAGE_BYTES: usize = 2_000;

/// One line below `SHA256:` in a Release file, in words that a row may spoil.
#[derive(Clone, Debug)]
pub struct Line {
    pub digest: String,
    pub size: String,
    pub path: String,
}

/// InRelease, Release, Release.gpg: those that there are.
pub type Roots = Vec<(&'static str, Vec<u8>)>;

/// A repository before it is written.
#[derive(Debug)]
pub struct Deb {
    /// Fields of the Release file before its lists of digests.
    pub fields: Vec<(&'static str, String)>,
    pub sections: Vec<(&'static str, Vec<Line>)>,
    /// Files below the suite's folder.
    pub members: BTreeMap<String, Vec<u8>>,
    /// What Packages says.
    pub packages: String,
    pool: BTreeMap<String, Vec<u8>>,
    /// From the root of the repository to the suite's folder.
    folder: &'static str,
    /// Which of the files that clients ask for first are kept, where not all are.
    pub keep: Option<&'static [&'static str]>,
    /// Makes the text of the Release file what the row wants.
    pub text: fn(String) -> String,
    /// Makes the files that clients ask for first of that text.
    pub roots: fn(&Kit, &str) -> Roots,
}

/// InRelease, Release and Release.gpg, as archives have them.
pub fn usual_roots(kit: &Kit, release: &str) -> Roots {
    roots_of(&kit.signer, release)
}

/// InRelease alone, which is what apt asks for first.
pub fn inline_root(signer: &Signer, release: &str) -> Roots {
    vec![("InRelease", signer.clearsign(release.as_bytes()))]
}

/// The same as [`usual_roots`] by another signer.
pub fn roots_of(signer: &Signer, release: &str) -> Roots {
    let release = release.as_bytes();
    vec![
        ("InRelease", signer.clearsign(release)),
        ("Release.gpg", signer.detached(release)),
        ("Release", release.to_vec()),
    ]
}

impl Deb {
    /// A good one with `dists/stable`; the number is that of the generation, from 1. No file is like one of another
    /// salt: a server would take it from there.
    pub fn new(number: u32, salt: &str) -> Self {
        let mut deb = Self::empty(number, salt, "dists/stable/");
        deb.list_packages();
        let stanza =
            |name: &str| format!("Package: {name}\nVersion: {number}\nHomepage: {salt}\n\n").into_bytes();
        for (path, text) in [
            (UDEBS, stanza("hands-udeb")),
            (SOURCES, stanza("hands-source")),
            (OTHER_ARCHITECTURE, stanza("hands-arm")),
            (OTHER_COMPONENT, Self::stanza("hands-contrib", number, salt.as_bytes()).into_bytes()),
            (TRANSLATION, format!("Package: {PACKAGE}\nDescription-en: {number} {salt}\n\n").into_bytes()),
            (CONTENTS, format!("usr/share/{number}/{salt} misc/{PACKAGE}\n").into_bytes()),
            (DEP11, format!("---\nFile: DEP-11\nVersion: '{number}'\nOrigin: '{salt}'\n").into_bytes()),
        ] {
            deb.add(path, &text);
        }
        deb
    }

    /// A good flat one, with everything in one folder.
    pub fn flat(number: u32, salt: &str) -> Self {
        let mut deb = Self::empty(number, salt, "");
        deb.fields.retain(|(name, _)| !["Components", "Suite", "Codename"].contains(name));
        deb.list_packages();
        let sources = format!("Package: hands-source\nVersion: {number}\nHomepage: {salt}\n\n");
        deb.add("Sources.xz", sources.as_bytes());
        deb
    }

    fn empty(number: u32, salt: &str, folder: &'static str) -> Self {
        let seed = salt
            .bytes()
            .fold(u64::from(number), |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let bytes = random_bytes(seed, PACKAGE_BYTES);
        let field = |name, value: &str| (name, value.to_owned());
        Self {
            fields: vec![
                field("Origin", "Tests"),
                field("Label", "Tests"),
                field("Suite", "stable"),
                field("Codename", "stable"),
                field("Date", &format!("Wed, 01 Oct 2025 10:00:{number:02} UTC")),
                field("Architectures", "amd64 arm64"),
                field("Components", "main contrib"),
            ],
            sections: ["MD5Sum", "SHA1", "SHA256", "SHA512"].map(|name| (name, Vec::new())).to_vec(),
            members: BTreeMap::new(),
            packages: Self::stanza(PACKAGE, number, &bytes),
            pool: BTreeMap::from([(format!("pool/{PACKAGE}_{number}_all.deb"), bytes)]),
            folder,
            keep: None,
            text: |text| text,
            roots: |kit, release| inline_root(&kit.signer, release),
        }
    }

    fn stanza(name: &str, number: u32, bytes: &[u8]) -> String {
        format!(
            "Package: {name}\nVersion: {number}\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
             Filename: pool/{name}_{number}_all.deb\nSize: {}\nMD5sum: {}\nSHA256: {}\nDescription: test\n\n",
            bytes.len(),
            digest("MD5Sum", bytes),
            digest("SHA256", bytes),
        )
    }

    /// The same signed by whom its clients trust.
    pub fn signed_as(mut self, trust: Trust) -> Self {
        self.roots = match trust {
            Trust::Key => |kit, release| inline_root(&kit.signer, release),
            Trust::ExpiredKey => |kit, release| inline_root(&kit.expired, release),
            Trust::Blind => |_, release| vec![("Release", release.as_bytes().to_vec())],
        };
        self
    }

    /// Adds a packed file and lists it; the unpacked one is listed and not there, as in most archives.
    pub fn add(&mut self, path: &str, text: &[u8]) {
        let plain = path.strip_suffix(".xz").or(path.strip_suffix(".gz")).unwrap_or(path);
        let packed = match path.rsplit('.').next() {
            Some("xz") => xz(text),
            Some("gz") => gzip(text),
            _ => text.to_vec(),
        };
        if plain != path {
            self.list(plain, text);
        }
        self.list(path, &packed);
        self.members.insert(path.to_owned(), packed);
    }

    /// Lists a file in every section, in place of what was listed for it.
    fn list(&mut self, path: &str, bytes: &[u8]) {
        for (name, lines) in &mut self.sections {
            lines.retain(|line| line.path != path);
            lines.push(Line {
                digest: digest(name, bytes),
                size: bytes.len().to_string(),
                path: path.to_owned(),
            });
        }
    }

    /// Makes the list of packages anew of what `packages` says.
    pub fn list_packages(&mut self) {
        let (path, text) = (self.path_of_list(), self.packages.clone());
        self.add(path, text.as_bytes());
    }

    /// Changes what the list of packages says.
    pub fn edit_packages(&mut self, edit: impl FnOnce(&str) -> String) {
        self.packages = edit(&self.packages);
        self.list_packages();
    }

    /// Gives what begins so in the pool another name, in the list too.
    pub fn rename_in_pool(&mut self, from: &str, to: &str) {
        let pool = std::mem::take(&mut self.pool).into_iter();
        self.pool = pool.map(|(path, bytes)| (path.replace(from, to), bytes)).collect();
        self.edit_packages(|own| own.replace(from, to));
    }

    pub fn path_of_list(&self) -> &'static str {
        if self.folder.is_empty() { "Packages.xz" } else { LIST }
    }

    /// Sets a field, or takes it away.
    pub fn set(&mut self, name: &'static str, value: Option<&str>) {
        match (self.fields.iter().position(|(known, _)| *known == name), value) {
            (Some(at), Some(value)) => value.clone_into(&mut self.fields[at].1),
            (Some(at), None) => drop(self.fields.remove(at)),
            (None, Some(value)) => self.fields.push((name, value.to_owned())),
            (None, None) => {}
        }
    }

    /// Leaves only these sections.
    pub fn only(&mut self, names: &[&str]) {
        self.sections.retain(|(name, _)| names.contains(name));
    }

    /// The lines of a section that name a file, packed and not.
    pub fn lines(&mut self, section: &str, path: &str) -> impl Iterator<Item = &mut Line> {
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem).to_owned();
        let sections = self.sections.iter_mut().filter(move |(name, _)| *name == section);
        sections.flat_map(|(_, lines)| lines).filter(move |line| line.path.starts_with(&stem))
    }

    /// Changes the lines of a file in every section.
    pub fn edit_lines(&mut self, path: &str, edit: fn(&mut Line)) {
        for section in ["MD5Sum", "SHA1", "SHA256", "SHA512"] {
            self.lines(section, path).for_each(edit);
        }
    }

    /// Other bytes of the right form in place of a listed file: another generation's.
    pub fn make_stale(&mut self, path: &str) {
        let old = b"Package: hands-old\nVersion: 0\n\n";
        let bytes = if path.ends_with(".gz") { gzip(old) } else { xz(old) };
        self.members.insert(path.to_owned(), bytes);
    }

    /// The right size and the wrong bytes.
    pub fn corrupt(&mut self, path: &str) {
        let bytes = self.members.get_mut(path).expect("a member");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }

    /// Keeps members below `by-hash/SHA256` only.
    pub fn move_to_by_hash(&mut self) {
        self.set("Acquire-By-Hash", Some("yes"));
        self.members = std::mem::take(&mut self.members)
            .into_iter()
            .map(|(path, bytes)| {
                let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
                (format!("{folder}by-hash/SHA256/{}", digest("SHA256", &bytes)), bytes)
            })
            .collect();
    }

    /// All files, signed where they are.
    pub fn files(self, kit: &Kit) -> Files {
        let mut release = String::new();
        for (name, value) in &self.fields {
            let _ = writeln!(release, "{name}: {value}");
        }
        for (name, lines) in &self.sections {
            let _ = writeln!(release, "{name}:");
            for Line { digest, size, path } in lines {
                let _ = writeln!(release, " {digest} {size} {path}");
            }
        }
        let roots = (self.roots)(kit, &(self.text)(release));
        let is_kept = |name: &str| self.keep.is_none_or(|kept| kept.contains(&name));
        let roots = roots.into_iter().filter(|(name, _)| is_kept(name));
        let roots = roots.map(|(name, bytes)| (name.to_owned(), bytes));
        let below = roots.chain(self.members).map(|(path, bytes)| (format!("{}{path}", self.folder), bytes));
        self.pool.into_iter().chain(below).collect()
    }
}

/// A digest by the name of its section, in hexadecimal digits.
pub fn digest(section: &str, bytes: &[u8]) -> String {
    match section {
        "MD5Sum" => hex(&md5::Md5::digest(bytes)),
        "SHA1" => hex(&sha1::Sha1::digest(bytes)),
        "SHA512" => hex(&sha2::Sha512::digest(bytes)),
        _ => hex(&sha2::Sha256::digest(bytes)),
    }
}
