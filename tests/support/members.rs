//! Repositories with one of everything that clients may ask for, each file with bytes of its own.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::generation::{gzip, xz};
use super::{random_bytes, sha256_hex};

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct Named {
    pub path: String,
    pub bytes: Vec<u8>,
    /// The same by hash, where the repository has it.
    pub by_hash: Option<String>,
    /// Whether other metadata names it, and so says what its bytes are.
    pub is_named: bool,
}

impl Named {
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        [self.path.as_str()].into_iter().chain(self.by_hash.as_deref())
    }
}

/// A repository in the making, and what is in it.
#[derive(Debug)]
pub struct Tree {
    pub root: PathBuf,
    pub files: Vec<Named>,
    seed: u64,
}

impl Tree {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: Vec::new(), seed: 0 }
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder"))
            .expect("the scratch folder is writable");
        fs::write(path, bytes).expect("the scratch folder is writable");
    }

    fn put(&mut self, path: &str, bytes: Vec<u8>, is_named: bool) {
        self.write(path, &bytes);
        self.files.push(Named { path: path.to_owned(), bytes, by_hash: None, is_named });
    }

    /// A file that metadata names.
    pub fn add(&mut self, path: &str, bytes: Vec<u8>) {
        self.put(path, bytes, true);
    }

    /// A file that signs or starts metadata.
    pub fn add_root(&mut self, path: &str, bytes: Vec<u8>) {
        self.put(path, bytes, false);
    }

    /// A file that is also there by hash, in the folder of its name.
    pub fn add_by_hash(&mut self, path: &str, bytes: Vec<u8>) {
        let (folder, _) = path.rsplit_once('/').expect("a path with a folder");
        let by_hash = format!("{folder}/by-hash/SHA256/{}", sha256_hex(&bytes));
        self.write(&by_hash, &bytes);
        self.add(path, bytes);
        self.files.last_mut().expect("just added").by_hash = Some(by_hash);
    }

    /// Bytes that no other file has.
    pub fn bytes(&mut self) -> Vec<u8> {
        self.seed += 1;
        random_bytes(0xfeed << 32 | self.seed, 3_000 + self.seed as usize)
    }

    /// The same, so many that volunteers are worth asking.
    fn large_bytes(&mut self) -> Vec<u8> {
        self.seed += 1;
        random_bytes(0xfeed << 32 | self.seed, 40_000 + self.seed as usize)
    }

    /// The lines of a Release for what is below a folder: ` SHA256 SIZE PATH`.
    pub fn listed(&self, folder: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut lines = String::new();
        for file in &self.files {
            if let Some(path) = file.path.strip_prefix(folder).filter(|path| wanted(path)) {
                let _ = writeln!(lines, " {} {} {path}", sha256_hex(&file.bytes), file.bytes.len());
            }
        }
        lines
    }

    pub fn file(&self, path: &str) -> &Named {
        self.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path}"))
    }
}

/// An archive with a suite, `stable`, and a flat repository, `flat/`.
pub fn deb(root: &Path) -> Tree {
    const SUITE: &str = "dists/stable/";
    let mut tree = Tree::new(root);
    let lists =
        ["main/binary-amd64", "main/binary-all", "main/binary-amd64v3", "main/debian-installer/binary-amd64"];
    for folder in lists {
        let list = package_list(&mut tree, folder);
        let compressed = [
            ("", list.clone()),
            (".gz", gzip(&list)),
            (".xz", xz(&list)),
            (".zst", zstd::encode_all(&list[..], 1).expect("memory")),
            (".bz2", bzip2(&list)),
            (".lzma", lzma(&list)),
        ];
        for (suffix, bytes) in compressed {
            tree.add_by_hash(&format!("{SUITE}{folder}/Packages{suffix}"), bytes);
        }
    }
    let source = tree.bytes();
    let dsc = format!(
        "Package: hands\nVersion: 1\nBinary: hands\nDirectory: pool\nFormat: 3.0 (native)\n\
         Checksums-Sha256:\n {} {} hands_1.tar.xz\n\n",
        sha256_hex(&source),
        source.len()
    );
    tree.add("pool/hands_1.tar.xz", source);
    tree.add_by_hash(&format!("{SUITE}main/source/Sources.xz"), xz(dsc.as_bytes()));
    for member in [
        "main/binary-amd64/Release",
        "main/Contents-amd64.gz",
        "Contents-source.gz",
        "main/i18n/Translation-en.xz",
        "main/i18n/Translation-de.bz2",
        "main/cnf/Commands-amd64.xz",
        "main/dep11/Components-amd64.yml.gz",
        "main/dep11/CID-Index-amd64.json.gz",
        "main/dep11/icons-48x48.tar.gz",
    ] {
        let bytes = tree.bytes();
        tree.add_by_hash(&format!("{SUITE}{member}"), bytes);
    }
    diff_index(&mut tree, &format!("{SUITE}main/binary-amd64/Packages.diff"));
    let images = format!("{SUITE}main/installer-amd64/current/images");
    checksummed(
        &mut tree,
        &images,
        &["netboot/mini.iso", "netboot/debian-installer/amd64/linux", "MANIFEST"],
    );

    let is_member = |path: &str| {
        !path.contains("Packages.diff/T-") && (!path.contains("/images/") || path.ends_with("SUMS"))
    };
    let listed = tree.listed(SUITE, is_member);
    let release = format!(
        "Origin: Tests\nSuite: stable\nCodename: stable\nDate: Wed, 01 Oct 2025 00:00:00 UTC\n\
         Architectures: amd64 amd64v3 all\nComponents: main\nAcquire-By-Hash: yes\nSHA256:\n{listed}"
    );
    tree.add_root(&format!("{SUITE}Release"), release.into_bytes());

    let list = package_list(&mut tree, "flat");
    tree.add("flat/Packages.xz", xz(&list));
    let listed = tree.listed("flat/", |path| path.starts_with("Packages"));
    let release = format!("Suite: flat\nDate: Wed, 01 Oct 2025 00:00:00 UTC\nSHA256:\n{listed}");
    tree.add_root("flat/Release", release.into_bytes());
    tree
}

/// A list of one package, which is made too.
fn package_list(tree: &mut Tree, folder: &str) -> Vec<u8> {
    let (name, bytes) = (folder.replace('/', "-"), tree.bytes());
    let (path, file) = match folder {
        "flat" => ("flat/flat_1_all.deb".to_owned(), "./flat_1_all.deb".to_owned()),
        _ => (format!("pool/{name}_1_all.deb"), format!("pool/{name}_1_all.deb")),
    };
    let list = format!(
        "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
         Filename: {file}\nSize: {}\nSHA256: {}\nDescription: test\n\n",
        bytes.len(),
        sha256_hex(&bytes)
    );
    tree.add(&path, bytes);
    list.into_bytes()
}

fn diff_index(tree: &mut Tree, folder: &str) {
    let mut download = String::new();
    for name in ["T-2025-10-01-0000.00-F-2025-09-30-0000.00", "T-2025-10-01-0000.00-F-2025-09-29-0000.00"] {
        let patch = gzip(&tree.bytes());
        let _ = writeln!(download, " {} {} {name}.gz", sha256_hex(&patch), patch.len());
        tree.add_by_hash(&format!("{folder}/{name}.gz"), patch);
    }
    let index = format!("SHA256-Current: {} 1\nSHA256-Download:\n{download}", "00".repeat(32));
    tree.add_by_hash(&format!("{folder}/Index"), index.into_bytes());
}

fn checksummed(tree: &mut Tree, folder: &str, names: &[&str]) {
    let mut sums = String::new();
    for name in names {
        let bytes = tree.large_bytes();
        let _ = writeln!(sums, "{}  ./{name}", sha256_hex(&bytes));
        tree.add(&format!("{folder}/{name}"), bytes);
    }
    tree.add(&format!("{folder}/SHA256SUMS"), sums.into_bytes());
}

/// An rpm-md repository with every kind of metadata, deltas and boot images.
pub fn rpm(root: &Path) -> Tree {
    let mut tree = Tree::new(root);
    let (package, delta) = (tree.bytes(), tree.large_bytes());
    let primary = format!(
        "<metadata xmlns=\"http://linux.duke.edu/metadata/common\" packages=\"1\"><package type=\"rpm\">\
         <name>hands</name><arch>noarch</arch><version epoch=\"0\" ver=\"1\" rel=\"1\"/>\
         <checksum type=\"sha256\" pkgid=\"YES\">{}</checksum><size package=\"{}\"/>\
         <location href=\"Packages/hands-1-1.noarch.rpm\"/></package></metadata>\n",
        sha256_hex(&package),
        package.len()
    );
    let prestodelta = format!(
        "<prestodelta><newpackage name=\"hands\" epoch=\"0\" version=\"1\" release=\"1\" arch=\"noarch\">\
         <delta oldepoch=\"0\" oldversion=\"0\" oldrelease=\"1\"><filename>drpms/hands-0_1-1.noarch.drpm</filename>\
         <sequence>hands-0-1-00</sequence><size>{}</size><checksum type=\"sha256\">{}</checksum>\
         </delta></newpackage></prestodelta>\n",
        delta.len(),
        sha256_hex(&delta)
    );
    tree.add("Packages/hands-1-1.noarch.rpm", package);
    tree.add("drpms/hands-0_1-1.noarch.drpm", delta);
    let plain = ["filelists.xml.gz", "other.xml.gz", "comps.xml", "comps.xml.gz", "modules.yaml.gz"];
    let more = ["updateinfo.xml.xz", "appdata.xml.gz", "appdata-icons.tar.gz"];
    let databases = ["primary.sqlite.bz2", "filelists.sqlite.xz", "other.sqlite.gz"];
    let chunked = ["primary.xml.zck", "filelists.xml.zck", "updateinfo.xml.zck"];
    let mut members = vec![
        ("primary.xml.gz", gzip(primary.as_bytes())),
        ("prestodelta.xml.xz", xz(prestodelta.as_bytes())),
    ];
    for name in plain.into_iter().chain(more).chain(databases).chain(chunked) {
        members.push((name, tree.bytes()));
    }
    let mut repomd =
        "<repomd xmlns=\"http://linux.duke.edu/metadata/repo\"><revision>1</revision>\n".to_owned();
    for (name, bytes) in members {
        let sha256 = sha256_hex(&bytes);
        let path = format!("repodata/{sha256}-{name}");
        let _ = writeln!(
            repomd,
            "<data type=\"{}\"><checksum type=\"sha256\">{sha256}</checksum><location href=\"{path}\"/>\
             <size>{}</size></data>",
            kind_of(name),
            bytes.len()
        );
        tree.add(&path, bytes);
    }
    repomd += "</repomd>\n";
    tree.add_root("repodata/repomd.xml", repomd.into_bytes());
    for name in ["repodata/repomd.xml.asc", "repodata/repomd.xml.key"] {
        let bytes = tree.bytes();
        tree.add_root(name, bytes);
    }
    let mut treeinfo = "[general]\nfamily = Tests\n\n[checksums]\n".to_owned();
    for name in ["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "images/efiboot.img"] {
        let bytes = tree.bytes();
        let _ = writeln!(treeinfo, "{name} = sha256:{}", sha256_hex(&bytes));
        tree.add(name, bytes);
    }
    tree.add_root(".treeinfo", treeinfo.into_bytes());
    tree
}

/// What repomd.xml calls a file.
fn kind_of(name: &str) -> String {
    let (base, _) = name.split_once('.').expect("a name with an ending");
    match (base, name) {
        ("comps", "comps.xml") => "group".to_owned(),
        ("comps", _) => "group_gz".to_owned(),
        ("appdata", _) => "appstream".to_owned(),
        ("appdata-icons", _) => "appstream-icons".to_owned(),
        (base, name) if name.contains(".sqlite") => format!("{base}_db"),
        (base, name) if name.ends_with(".zck") => format!("{base}_zck"),
        (base, _) => base.to_owned(),
    }
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}

fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(0).expect("a preset");
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("memory");
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}
