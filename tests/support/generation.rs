//! Generations of an apt and an rpm-md repository, made and really signed within some milliseconds.
//!
//! Every file of a generation names it: the version of both packages, each entry of each list. A client that
//! ends up with two numbers has been given a mixture. The packages are no archives, only bytes with a known
//! hash, since clients that download look no further.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Scratch, random_bytes, run_ok, sha256_hex};

/// What a publisher needs to know of a file to choose a bad moment for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Named by members, never changes.
    Package,
    /// Named by the root files.
    Member,
    /// InRelease, repomd.xml.
    Root,
    /// Release, Release.gpg, repomd.xml.asc: say the same as the root.
    SecondRoot,
}

/// One file of a generation.
#[derive(Clone, Debug)]
pub struct Piece {
    pub path: String,
    pub bytes: Vec<u8>,
    pub part: Part,
}

/// Everything that is published at a time.
#[derive(Clone, Debug)]
pub struct Generation {
    pub number: u32,
    pub pieces: Vec<Piece>,
}

/// The components of the apt repository; each has one package named `hands-COMPONENT`.
pub const COMPONENTS: [&str; 2] = ["main", "extra"];
/// Entries that only make the lists big enough to be read half-written.
const FILLERS: u32 = 60;
const PACKAGE_BYTES: usize = 20_000;

/// gpg with the key of the committed repositories, in a home of its own.
#[derive(Debug)]
pub struct Signer {
    home: PathBuf,
    /// The time that it takes for now, as gpg's `--faked-system-time` has it; today without.
    clock: Option<&'static str>,
}

impl Signer {
    pub fn new(scratch: &Scratch) -> Self {
        let signer = Self::empty(scratch, "gnupg");
        let secret = "test-repos/keys/FOR-TESTS-ONLY.secret.asc";
        run_ok(signer.gpg().arg("--import").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(secret)));
        signer
    }

    /// One with a new key that nobody knows.
    pub fn stranger(scratch: &Scratch) -> Self {
        let signer = Self::empty(scratch, "gnupg-stranger");
        signer.generate("stranger@tests.example", "never");
        signer
    }

    /// One that lives in a day of 2025, with a key that has expired since.
    pub fn expired(scratch: &Scratch) -> Self {
        let mut signer = Self::empty(scratch, "gnupg-expired");
        signer.clock = Some("20250101T120000");
        signer.generate("expired@tests.example", "1w");
        signer
    }

    fn generate(&self, id: &str, expire: &str) {
        let key = ["--passphrase", "", "--quick-generate-key", id, "ed25519", "sign", expire];
        run_ok(self.gpg().args(key));
    }

    /// Writes its public key to a file.
    pub fn export(&self, file: &Path) {
        run_ok(self.gpg().args(["--armor", "--yes", "--output"]).arg(file).arg("--export"));
    }

    fn empty(scratch: &Scratch, name: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let home = scratch.dir(name);
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("a folder of ours");
        Self { home, clock: None }
    }

    /// Its GNUPGHOME.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The key that it signs with.
    pub fn fingerprint(&self) -> String {
        let listed = run_ok(self.gpg().args(["--with-colons", "--list-secret-keys"]));
        let line = listed.lines().find(|line| line.starts_with("fpr:")).expect("it has a key");
        line.split(':').nth(9).expect("the tenth field is the fingerprint").to_owned()
    }

    fn gpg(&self) -> Command {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(&self.home).args(["--batch", "--quiet", "--no-tty"]);
        if let Some(clock) = self.clock {
            command.args(["--faked-system-time", clock]);
        }
        command
    }

    fn filter(&self, arguments: &[&str], text: &[u8]) -> Vec<u8> {
        let mut command = self.gpg();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("gpg runs");
        child.stdin.take().expect("piped").write_all(text).expect("gpg reads");
        let output = child.wait_with_output().expect("gpg ends");
        assert!(output.status.success() && !output.stdout.is_empty(), "gpg {arguments:?}: {}", output.status);
        output.stdout
    }

    pub fn clearsign(&self, text: &[u8]) -> Vec<u8> {
        self.filter(&["--clearsign"], text)
    }

    pub fn detached(&self, text: &[u8]) -> Vec<u8> {
        self.filter(&["--armor", "--detach-sign"], text)
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // The agent that gpg started for this home.
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]).status();
    }
}

/// The bytes of `hands-COMPONENT` (apt) or `hands-COMPONENT.rpm`.
pub fn package_bytes(name: &str, number: u32) -> Vec<u8> {
    let kind = name.bytes().fold(7_u64, |sum, byte| sum * 31 + u64::from(byte));
    random_bytes(kind << 32 | u64::from(number), PACKAGE_BYTES)
}

/// Makes and signs both repositories: the apt one below `apt/`, the rpm one below `rpm/`.
pub fn make(signer: &Signer, number: u32, by_hash: bool) -> Generation {
    let mut pieces = deb_pieces(signer, number, by_hash);
    pieces.extend(rpm_pieces(signer, number));
    Generation { number, pieces }
}

fn deb_pieces(signer: &Signer, number: u32, by_hash: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut listed = String::new();
    for component in COMPONENTS {
        let path = format!("pool/hands-{component}_{number}_all.deb");
        let bytes = package_bytes(component, number);
        let list = packages_text(component, number, &path, &bytes);
        pieces.push(Piece { path: format!("apt/{path}"), bytes, part: Part::Package });
        let folder = format!("{component}/binary-amd64");
        for (suffix, bytes) in [("", list.clone()), (".gz", gzip(&list)), (".xz", xz(&list))] {
            let sha256 = sha256_hex(&bytes);
            let _ = writeln!(listed, " {sha256} {} {folder}/Packages{suffix}", bytes.len());
            // Archives list the plain file and do not keep it.
            let names: &[String] = &if by_hash {
                vec![format!("by-hash/SHA256/{sha256}"), format!("Packages{suffix}")]
            } else {
                vec![format!("Packages{suffix}")]
            };
            for name in names.iter().filter(|_| !suffix.is_empty()) {
                let path = format!("apt/dists/stable/{folder}/{name}");
                pieces.push(Piece { path, bytes: bytes.clone(), part: Part::Member });
            }
        }
    }
    let release = format!(
        "Origin: Tests\nLabel: Tests\nSuite: stable\nCodename: stable\nVersion: {number}\nDate: {}\n\
         Architectures: amd64 all\nComponents: {}\n{}Description: generation {number}\nSHA256:\n{listed}",
        date(number),
        COMPONENTS.join(" "),
        if by_hash { "Acquire-By-Hash: yes\n" } else { "" },
    )
    .into_bytes();
    let root = |name: &str, bytes, part| Piece { path: format!("apt/dists/stable/{name}"), bytes, part };
    pieces.push(root("InRelease", signer.clearsign(&release), Part::Root));
    pieces.push(root("Release.gpg", signer.detached(&release), Part::SecondRoot));
    pieces.push(root("Release", release, Part::SecondRoot));
    pieces
}

/// A second later with each generation, from the past: apt ignores what is older than what it has, and
/// refuses what lies in the future.
fn date(number: u32) -> String {
    // A day of them is more than any run makes.
    let (hour, minute, second) = (number / 3600 % 24, number / 60 % 60, number % 60);
    format!("Wed, 01 Oct 2025 {hour:02}:{minute:02}:{second:02} UTC")
}

fn packages_text(component: &str, number: u32, path: &str, bytes: &[u8]) -> Vec<u8> {
    // Both or none: an index of another generation breaks the dependency.
    let depends =
        if component == "extra" { format!("Depends: hands-main (= {number})\n") } else { String::new() };
    let mut text = format!(
        "Package: hands-{component}\nVersion: {number}\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
         {depends}Filename: {path}\nSize: {}\nSHA256: {}\nDescription: generation {number}\n\n",
        bytes.len(),
        sha256_hex(bytes)
    );
    for n in 0..FILLERS {
        let filler = format!("filler-{component}-{n}");
        let sha256 = sha256_hex(format!("{filler} {number}").as_bytes());
        let _ = write!(
            text,
            "Package: {filler}\nVersion: {number}\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
             Filename: pool/{filler}_{number}_all.deb\nSize: 1000\nSHA256: {sha256}\nDescription: filler\n\n"
        );
    }
    text.into_bytes()
}

fn rpm_pieces(signer: &Signer, number: u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut primary, mut filelists) = (String::new(), String::new());
    for component in COMPONENTS {
        let bytes = package_bytes(&format!("{component}.rpm"), number);
        let (entry, files) = rpm_entries(component, number, &bytes);
        primary += &entry;
        filelists += &files;
        let path = format!("rpm/Packages/hands-{component}-{number}-1.noarch.rpm");
        pieces.push(Piece { path, bytes, part: Part::Package });
    }
    let space = "http://linux.duke.edu/metadata";
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    let lists = [
        (
            "primary",
            format!(
                "<metadata xmlns=\"{space}/common\" xmlns:rpm=\"{space}/rpm\" packages=\"2\">\n{primary}</metadata>\n"
            ),
        ),
        (
            "filelists",
            format!("<filelists xmlns=\"{space}/filelists\" packages=\"2\">\n{filelists}</filelists>\n"),
        ),
        (
            "other",
            format!(
                "<otherdata xmlns=\"{space}/other\" packages=\"2\">\n{}</otherdata>\n",
                filelists.replace("<file>/", "<!-- /").replace("</file>", " -->")
            ),
        ),
    ];
    let mut repomd = format!("{head}<repomd xmlns=\"{space}/repo\">\n<revision>{number}</revision>\n");
    for (kind, text) in lists {
        let text = format!("{head}{text}");
        let packed = gzip(text.as_bytes());
        let sha256 = sha256_hex(&packed);
        let path = format!("repodata/{sha256}-{kind}.xml.gz");
        let _ = writeln!(
            repomd,
            "<data type=\"{kind}\"><checksum type=\"sha256\">{sha256}</checksum>\
             <open-checksum type=\"sha256\">{}</open-checksum><location href=\"{path}\"/>\
             <timestamp>{number}</timestamp><size>{}</size><open-size>{}</open-size></data>",
            sha256_hex(text.as_bytes()),
            packed.len(),
            text.len()
        );
        pieces.push(Piece { path: format!("rpm/{path}"), bytes: packed, part: Part::Member });
    }
    repomd += "</repomd>\n";
    let signature = signer.detached(repomd.as_bytes());
    let root = |name: &str, bytes, part| Piece { path: format!("rpm/repodata/{name}"), bytes, part };
    pieces.push(root("repomd.xml", repomd.into_bytes(), Part::Root));
    pieces.push(root("repomd.xml.asc", signature, Part::SecondRoot));
    pieces
}

/// A package's entries in primary.xml and filelists.xml.
fn rpm_entries(component: &str, number: u32, bytes: &[u8]) -> (String, String) {
    let (name, sha256, size) = (format!("hands-{component}"), sha256_hex(bytes), bytes.len());
    let version = format!("epoch=\"0\" ver=\"{number}\" rel=\"1\"");
    let requires = match component {
        "extra" => {
            format!("<rpm:requires><rpm:entry name=\"hands-main\" flags=\"EQ\" {version}/></rpm:requires>")
        }
        _ => String::new(),
    };
    let primary = format!(
        "<package type=\"rpm\"><name>{name}</name><arch>noarch</arch><version {version}/>\
         <checksum type=\"sha256\" pkgid=\"YES\">{sha256}</checksum>\
         <summary>generation {number}</summary><description>generation {number}</description>\
         <packager></packager><url></url><time file=\"{number}\" build=\"{number}\"/>\
         <size package=\"{size}\" installed=\"{size}\" archive=\"{size}\"/>\
         <location href=\"Packages/{name}-{number}-1.noarch.rpm\"/>\
         <format><rpm:license>MIT</rpm:license><rpm:vendor></rpm:vendor><rpm:group>Unspecified</rpm:group>\
         <rpm:buildhost>tests.example</rpm:buildhost><rpm:sourcerpm>{name}-{number}-1.src.rpm</rpm:sourcerpm>\
         <rpm:header-range start=\"100\" end=\"1000\"/>\
         <rpm:provides><rpm:entry name=\"{name}\" flags=\"EQ\" {version}/></rpm:provides>{requires}</format></package>\n"
    );
    let files = format!(
        "<package pkgid=\"{sha256}\" name=\"{name}\" arch=\"noarch\"><version {version}/>\
         <file>/usr/share/{name}/{number}</file></package>\n"
    );
    (primary, files)
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}
