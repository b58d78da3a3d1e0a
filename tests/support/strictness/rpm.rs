//! A small signed rpm-md repository: what a row of the table begins with and spoils.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use md5::Digest as _;

use super::{Files, Kit};
use crate::support::generation::{gzip, xz};
use crate::support::{Scratch, hex, run_ok, test_repos};

/// The package that clients download: a real one, since they look into it.
pub const PACKAGE: &str = "hands-tiny";
const FILE: &str = "Packages/hands-tiny-1.0-1.noarch.rpm";

/// One `<data>` of repomd.xml with its file, in words that a row may spoil.
#[derive(Clone, Debug)]
pub struct Data {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
    pub is_there: bool,
    /// Type and digits.
    pub checksum: Option<(String, String)>,
    pub open_checksum: Option<(String, String)>,
    pub href: String,
    pub base: Option<String>,
    pub size: Option<String>,
    pub open_size: Option<String>,
    /// Further elements.
    pub more: String,
}

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Packing {
    fn pack(self, bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        match self {
            Self::None => packed.extend_from_slice(bytes),
            Self::Gzip => packed = gzip(bytes),
            Self::Xz => packed = xz(bytes),
            Self::Zstd => packed = zstd::encode_all(bytes, 1).expect("memory"),
            Self::Bzip2 => {
                let mut encoder = bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast());
                encoder.read_to_end(&mut packed).expect("memory");
            }
        }
        packed
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Bzip2 => ".bz2",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
        }
    }
}

impl Data {
    fn new(kind: &'static str, plain: &[u8], packing: Packing, sum: &str) -> Self {
        let bytes = packing.pack(plain);
        let listed = |bytes: &[u8]| Some((sum.to_owned(), digest(sum, bytes)));
        Self {
            kind,
            is_there: true,
            checksum: listed(&bytes),
            open_checksum: listed(plain),
            href: format!("repodata/{kind}.xml{}", packing.suffix()),
            base: None,
            size: Some(bytes.len().to_string()),
            open_size: Some(plain.len().to_string()),
            more: String::new(),
            bytes,
        }
    }

    fn xml(&self) -> String {
        let element = |name: &str, value: &Option<String>| {
            value.as_ref().map_or_else(String::new, |value| format!("<{name}>{value}</{name}>"))
        };
        let sum = |name: &str, value: &Option<(String, String)>| match value {
            Some((kind, digits)) => format!("<{name} type=\"{kind}\">{digits}</{name}>"),
            None => String::new(),
        };
        let base = self.base.as_ref().map_or_else(String::new, |base| format!(" xml:base=\"{base}\""));
        format!(
            "<data type=\"{}\">{}{}<location{base} href=\"{}\"/><timestamp>1</timestamp>{}{}{}</data>\n",
            self.kind,
            sum("checksum", &self.checksum),
            sum("open-checksum", &self.open_checksum),
            self.href,
            element("size", &self.size),
            element("open-size", &self.open_size),
            self.more
        )
    }
}

/// What createrepo_c says of the package.
#[derive(Debug)]
pub struct Texts {
    lists: BTreeMap<&'static str, String>,
    package: Vec<u8>,
}

impl Texts {
    pub fn new(scratch: &Scratch) -> Self {
        let folder = scratch.dir("createrepo");
        let file = folder.join(FILE);
        std::fs::create_dir_all(folder.join("Packages")).expect("the scratch folder is writable");
        std::fs::copy(test_repos("t0").join("cedar/os").join(FILE), &file).expect("a committed package");
        run_ok(Command::new("createrepo_c").args(["-q", "--no-database"]).arg(&folder));
        let lists = ["primary", "filelists", "other"].map(|kind| (kind, Self::list(&folder, kind)));
        let mut lists = BTreeMap::from(lists);
        lists.insert("updateinfo", UPDATEINFO.to_owned());
        lists.insert("group", COMPS.to_owned());
        Self { lists, package: std::fs::read(file).expect("just copied") }
    }

    fn list(folder: &Path, kind: &str) -> String {
        let ending = format!("-{kind}.xml.gz");
        let entries = std::fs::read_dir(folder.join("repodata")).expect("createrepo_c makes repodata");
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        let path = paths.find(|path| path.to_string_lossy().ends_with(&ending)).expect("it makes that list");
        let mut text = String::new();
        let file = std::fs::File::open(path).expect("a file opens");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("createrepo_c packs well");
        text
    }
}

const UPDATEINFO: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<updates><update from=\"tests@example.org\" \
    status=\"final\" type=\"bugfix\" version=\"1\"><id>HANDS-1</id><title>test</title><issued date=\"2025-10-01 \
    10:00:00\"/><description>test</description><pkglist><collection><name>c</name><package name=\"hands-tiny\" \
    version=\"1.0\" release=\"1\" epoch=\"0\" arch=\"noarch\"><filename>hands-tiny-1.0-1.noarch.rpm</filename>\
    </package></collection></pkglist></update></updates>\n";
const COMPS: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<comps><group><id>hands</id><name>Hands</name>\
    <description>test</description><default>true</default><uservisible>true</uservisible><packagelist>\
    <packagereq type=\"mandatory\">hands-tiny</packagereq></packagelist></group></comps>\n";

/// A repository before it is written.
#[derive(Debug)]
pub struct Rpm {
    pub data: Vec<Data>,
    texts: BTreeMap<&'static str, String>,
    package: Vec<u8>,
    /// Where the package is kept.
    pub file: String,
    /// The repository's URL at the origin, with a final slash.
    pub url: String,
    number: u32,
    /// Makes the bytes of repomd.xml what the row wants.
    pub text: fn(String) -> Vec<u8>,
    /// Makes the signature of those bytes, if there is one.
    pub signature: fn(&Kit, &[u8]) -> Option<Vec<u8>>,
}

impl Rpm {
    /// A good one; the number is that of the generation.
    pub fn new(kit: &Kit, number: u32, url: &str) -> Self {
        let mut texts = kit.texts.lists.clone();
        // No list is like one of another repository: a server would take it from there.
        for text in texts.values_mut() {
            let root = text.find("?>").map_or(0, |at| at + 2);
            let end = root + text[root..].find('>').expect("a list has a root") + 1;
            text.insert_str(end, &format!("<!-- {url} {number} -->"));
        }
        let pack = |(kind, text): (&&'static str, &String)| {
            Data::new(kind, text.as_bytes(), Packing::Gzip, "sha256")
        };
        Self {
            data: texts.iter().map(pack).collect(),
            texts,
            package: kit.texts.package.clone(),
            file: FILE.to_owned(),
            url: url.to_owned(),
            number,
            text: String::into_bytes,
            signature: |kit, repomd| Some(kit.signer.detached(repomd)),
        }
    }

    pub fn at(&mut self, kind: &str) -> &mut Data {
        self.data.iter_mut().find(|data| data.kind == kind).expect("a kind that it has")
    }

    pub fn drop_data(&mut self, kind: &str) {
        self.data.retain(|data| data.kind != kind);
    }

    /// Packs and lists everything anew.
    pub fn pack(&mut self, packing: Packing, sum: &str) {
        for data in &mut self.data {
            *data = Data::new(data.kind, self.texts[data.kind].as_bytes(), packing, sum);
        }
    }

    /// Changes what a list says, and lists it anew.
    pub fn edit(&mut self, kind: &str, edit: impl FnOnce(&str) -> String) {
        let text = edit(&self.texts[kind]);
        self.set(kind, text.as_bytes());
    }

    /// Another file in place of a list, listed.
    pub fn set(&mut self, kind: &str, plain: &[u8]) {
        let data = self.at(kind);
        *data = Data::new(data.kind, plain, Packing::Gzip, "sha256");
    }

    /// What a list says.
    pub fn says(&self, kind: &str) -> &str {
        &self.texts[kind]
    }

    /// Another type of digest for the package, in primary and the lists that name it so.
    pub fn sum_packages(&mut self, kind: &str) {
        let (old, new) = (digest("sha256", &self.package), digest(kind, &self.package));
        for list in ["primary", "filelists", "other"] {
            self.edit(list, |text| {
                text.replace(&old, &new)
                    .replace("checksum type=\"sha256\"", &format!("checksum type=\"{kind}\""))
            });
        }
    }

    /// Other bytes of the right form in place of a listed file.
    pub fn make_stale(&mut self, kind: &str) {
        self.at(kind).bytes = gzip(b"<?xml version=\"1.0\"?>\n<old/>\n");
    }

    /// All files, signed where they are.
    pub fn files(self, kit: &Kit) -> Files {
        let space = "http://linux.duke.edu/metadata";
        let mut repomd = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<repomd xmlns=\"{space}/repo\" xmlns:rpm=\"{space}/rpm\">\n\
             <revision>{}</revision>\n",
            self.number
        );
        for data in &self.data {
            let _ = write!(repomd, "{}", data.xml());
        }
        let repomd = (self.text)(repomd + "</repomd>\n");
        let mut files = Files::from([(self.file, self.package)]);
        if let Some(signature) = (self.signature)(kit, &repomd) {
            files.insert("repodata/repomd.xml.asc".to_owned(), signature);
        }
        files.insert("repodata/repomd.xml".to_owned(), repomd);
        for data in self.data.into_iter().filter(|data| data.is_there && !data.href.contains("//")) {
            files.insert(data.href, data.bytes);
        }
        files
    }
}

/// A digest by the name that rpm-md has for its type; of an unknown type some digits.
pub fn digest(kind: &str, bytes: &[u8]) -> String {
    match kind {
        "md5" => hex(&md5::Md5::digest(bytes)),
        "sha" | "sha1" => hex(&sha1::Sha1::digest(bytes)),
        "sha224" => hex(&sha2::Sha224::digest(bytes)),
        "sha256" => hex(&sha2::Sha256::digest(bytes)),
        "sha384" => hex(&sha2::Sha384::digest(bytes)),
        "sha512" => hex(&sha2::Sha512::digest(bytes)),
        _ => "01234567".to_owned(),
    }
}
