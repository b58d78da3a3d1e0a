//! Writes repositories whose metadata names millions of files: `bench-catalog DIR PATHS`.
//!
//! Only the metadata exists. Shapes are those of real archives: Packages of 800 bytes an entry, 50,000
//! entries a list; primary.xml of 1,500 bytes an entry; two of eleven files have the contents of another.
//! `DIR/next` holds a later generation of one suite, with one version in a hundred new, and `DIR/paths`
//! some paths to ask for. The same arguments give the same bytes.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// deb: repositories x suites x architectures; rpm-md: repositories x units.
const DEB: (usize, usize, usize) = (4, 2, 4);
const RPM: (usize, usize) = (2, 3);
/// Paths asked for by the load.
const SAMPLES: usize = 20_000;
const WORDS: [&str; 24] = [
    "lib", "python3", "node", "golang", "ruby", "perl", "gtk", "qt6", "data", "core", "plugin", "utils",
    "server", "client", "common", "dev", "docs", "tools", "runtime", "extra", "theme", "font", "kernel",
    "crypto",
];

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, paths] = args.as_slice() else {
        return Err(std::io::Error::other("usage: bench-catalog DIR PATHS"));
    };
    let total: usize = paths.parse().map_err(std::io::Error::other)?;
    let lists = DEB.0 * DEB.1 * DEB.2 + RPM.0 * RPM.1;
    let mut maker =
        Maker { dir: Path::new(dir), each: total / lists, next: 0, sample: String::new(), samples: 0 };
    for repo in 0..DEB.0 {
        for suite in 0..DEB.1 {
            maker.suite(repo, suite)?;
        }
    }
    for repo in 0..RPM.0 {
        for unit in 0..RPM.1 {
            maker.rpm(repo, unit)?;
        }
    }
    fs::write(maker.dir.join("paths"), &maker.sample)
}

struct Maker<'a> {
    dir: &'a Path,
    /// Entries of one list.
    each: usize,
    next: u64,
    sample: String,
    samples: usize,
}

impl Maker<'_> {
    fn suite(&mut self, repo: usize, suite: usize) -> std::io::Result<()> {
        let first = self.next;
        self.deb_lists(repo, suite, "", 0)?;
        if (repo, suite) == (0, 0) {
            let after = std::mem::replace(&mut self.next, first);
            self.deb_lists(repo, suite, "next", 100)?;
            self.next = after;
        }
        Ok(())
    }

    /// `renewed`: one version in so many is new.
    fn deb_lists(&mut self, repo: usize, suite: usize, below: &str, renewed: u64) -> std::io::Result<()> {
        let base = self.dir.join(below).join(format!("deb{repo}/dists/suite{suite}"));
        let mut sums = String::new();
        for arch in ["all", "amd64", "arm64", "riscv64"] {
            let list = self.packages(repo, suite, arch, renewed);
            let name = format!("main/binary-{arch}/Packages.gz");
            let bytes = gzip(list.as_bytes())?;
            let _ = writeln!(sums, " {} {} {name}", hex(&Sha256::digest(&bytes)), bytes.len());
            write(&base.join(name), &bytes)?;
        }
        let day = if renewed == 0 { 1 } else { 2 };
        let release = format!(
            "Origin: bench\nSuite: suite{suite}\nComponents: main\nArchitectures: all amd64 arm64 riscv64\n\
             Date: Thu, {day:02} Jan 2026 00:00:00 UTC\nSHA256:\n{sums}"
        );
        write(&base.join("Release"), release.as_bytes())
    }

    fn packages(&mut self, repo: usize, suite: usize, arch: &str, renewed: u64) -> String {
        let mut text = String::with_capacity(self.each * 820);
        for _ in 0..self.each {
            let n = self.next;
            self.next += 1;
            let is_new = renewed > 0 && n.is_multiple_of(renewed);
            let name = name(n);
            let version = format!("{}.{}.{}-{}", n % 7, n % 31, n % 113, if is_new { 2 } else { 1 });
            let path = format!("pool/suite{suite}/{}/{name}/{name}_{version}_{arch}.deb", &name[..1]);
            let id = content(n, is_new);
            let _ = write!(
                text,
                "Package: {name}\nVersion: {version}\nInstalled-Size: {}\nMaintainer: Maintainers of {name} <pkg-{name}@lists.example>\n\
                 Architecture: {arch}\nDepends: libc6 (>= 2.34), libgcc-s1 (>= 3.0), {name}-common (= {version}), python3:any\n\
                 Description: what {name} does, in a line of usual length for a package\n\
                 Homepage: https://{name}.example/\nDescription-md5: {}\nTag: implemented-in::c, interface::commandline, role::program, scope::utility\n\
                 Section: utils\nPriority: optional\nFilename: {path}\nSize: {}\nMD5sum: {}\nSHA256: {}\n{FILLER}\n\n",
                size(&id) / 300,
                &hex(&id)[..32],
                size(&id),
                &hex(&id)[32..],
                hex(&id)
            );
            self.take_sample(&format!("/deb{repo}/{path}"), renewed);
        }
        text
    }

    fn rpm(&mut self, repo: usize, unit: usize) -> std::io::Result<()> {
        let base = self.dir.join(format!("rpm{repo}/unit{unit}/repodata"));
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metadata xmlns=\"x\" packages=\"{}\">\n",
            self.each
        );
        for _ in 0..self.each {
            let n = self.next;
            self.next += 1;
            let (name, id) = (name(n), content(n, false));
            let (version, release) = (format!("{}.{}", n % 9, n % 57), format!("{}.el9", n % 13));
            let path = format!("Packages/{}/{name}-{version}-{release}.x86_64.rpm", &name[..1]);
            let _ = writeln!(
                xml,
                "<package type=\"rpm\"><name>{name}</name><arch>x86_64</arch><version epoch=\"0\" ver=\"{version}\" rel=\"{release}\"/>\
                 <checksum type=\"sha256\" pkgid=\"YES\">{}</checksum><summary>What {name} does</summary>\
                 <description>{FILLER}</description><packager>Packagers</packager><url>https://{name}.example/</url>\
                 <time file=\"1\" build=\"1\"/><size package=\"{}\" installed=\"1\" archive=\"1\"/><location href=\"{path}\"/>\
                 <format><rpm:license>MIT</rpm:license><rpm:group>x</rpm:group><rpm:provides><rpm:entry name=\"{name}\" flags=\"EQ\" ver=\"{version}\"/>\
                 </rpm:provides><rpm:requires><rpm:entry name=\"libc.so.6()(64bit)\"/><rpm:entry name=\"rtld(GNU_HASH)\"/></rpm:requires>\
                 <file>/usr/bin/{name}</file></format></package>",
                hex(&id),
                size(&id)
            );
            self.take_sample(&format!("/rpm{repo}/unit{unit}/{path}"), 0);
        }
        xml.push_str("</metadata>\n");
        let bytes = gzip(xml.as_bytes())?;
        let (sum, open) = (hex(&Sha256::digest(&bytes)), hex(&Sha256::digest(xml.as_bytes())));
        let file = format!("{sum}-primary.xml.gz");
        write(&base.join(&file), &bytes)?;
        let repomd = format!(
            "<?xml version=\"1.0\"?>\n<repomd><revision>1</revision><data type=\"primary\"><checksum type=\"sha256\">{sum}</checksum>\
             <open-checksum type=\"sha256\">{open}</open-checksum><location href=\"repodata/{file}\"/><size>{}</size>\
             <open-size>{}</open-size></data></repomd>\n",
            bytes.len(),
            xml.len()
        );
        write(&base.join("repomd.xml"), repomd.as_bytes())
    }

    fn take_sample(&mut self, path: &str, renewed: u64) {
        // Spread over everything; those of the generation that goes are not asked for.
        if renewed == 0
            && self.next.is_multiple_of(97)
            && !self.next.is_multiple_of(100)
            && self.samples < SAMPLES
        {
            self.samples += 1;
            self.sample.push_str(path);
            self.sample.push('\n');
        }
    }
}

const FILLER: &str = "Conffiles-Note: text that stands for all that real entries carry besides, so that reading one costs \
    what it costs: enhances, suggests, breaks, replaces, built-using, tags and the rest of it";

fn name(n: u64) -> String {
    let word = |shift: u64| WORDS[(mix(n >> 2) >> shift) as usize % WORDS.len()];
    format!("{}-{}-{}{}", word(3), word(11), word(19), n)
}

/// Stands for the SHA-256 of the file's bytes; two of eleven files have those of an earlier one.
fn content(n: u64, is_new: bool) -> [u8; 32] {
    let seed = if n % 11 < 2 && n > 1000 && !is_new { n - 3 * 11 - n % 11 + 2 + n % 7 } else { n };
    let seed = seed + if is_new { 1 << 40 } else { 0 };
    let mut id = [0; 32];
    for (i, part) in id.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&mix(seed.wrapping_mul(4) + i as u64).to_be_bytes());
    }
    id
}

fn size(id: &[u8; 32]) -> u64 {
    2000 + u64::from(u32::from_be_bytes([0, id[0], id[1], id[2]])) / 6
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    fs::write(path, bytes)
}
