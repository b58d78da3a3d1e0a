//! Everything that a client may ask for: members of a generation and the files that only members name. The
//! right bytes come, from a tree and from an upstream; wrong ones reach nobody and are not kept.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::generation::{Signer, gzip, xz};
use support::members::{self, Named, Tree};
use support::{
    Apt, DEADLINE, Fault, Response, Scratch, Server, ServerConfig, Upstream, get, hex, random_bytes,
    sha256_file, sha256_hex, test_key, try_get, wait_for, wrong_blobs,
};

const DEB: &str = "suites = [\"stable\", \"flat/\"]\ncomponents = [\"main\"]";
const RPM: &str = "suites = [\"\"]";

/// One of the two kinds of repository.
#[derive(Clone, Copy, Debug)]
struct Kind {
    distro: &'static str,
    more: &'static str,
    units: usize,
    make: fn(&Path) -> Tree,
}

const KINDS: [Kind; 2] = [
    Kind { distro: "generic-deb", more: DEB, units: 2, make: members::deb },
    Kind { distro: "generic-rpm", more: RPM, units: 1, make: members::rpm },
];

/// A server over the upstream that has read its metadata.
fn serve(scratch: &Scratch, upstream: &Upstream, kind: Kind) -> Server {
    let config = ServerConfig::default().upstream("far", kind.distro, &upstream.url(""), kind.more);
    let server = Server::start(scratch, &config);
    server.wait_until("all metadata is read", |status| {
        status.0["snapshots"].as_array().is_some_and(|snapshots| snapshots.len() >= kind.units)
    });
    server
}

fn is_whole(answer: &Response) -> bool {
    answer.status == 200 && !answer.cut
}

/// Fetches of a file at the upstream, under all its names.
fn gets(upstream: &Upstream, file: &Named) -> usize {
    file.paths().map(|path| upstream.gets(path)).sum()
}

fn damage(upstream: &Upstream, file: &Named, fault: Option<Fault>) {
    file.paths().for_each(|path| upstream.set_fault(path, fault));
}

/// Every file below a folder whose bytes are these.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("an entry").path())
    {
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if fs::read(&path).is_ok_and(|kept| kept == bytes) {
            found.push(path);
        }
    }
    found
}

fn check_all(server: &Server, repo: &str, tree: &Tree) {
    for (file, path) in tree.files.iter().flat_map(|file| file.paths().map(move |path| (file, path))) {
        let answer = get(&server.url(&format!("{repo}/{path}")));
        assert_eq!(answer.status, 200, "{repo}/{path}: {}", answer.text());
        assert!(answer.body == file.bytes && !answer.cut, "{repo}/{path}");
    }
}

#[test]
fn everything_comes_from_an_upstream_once() {
    for kind in KINDS {
        let scratch = Scratch::new();
        let tree = (kind.make)(&scratch.path("mirror"));
        let upstream = Upstream::start(&tree.root);
        let server = serve(&scratch, &upstream, kind);
        read_lists(&server, &tree);
        check_all(&server, "far", &tree);
        check_all(&server, "far", &tree);
        for file in tree.files.iter().filter(|file| file.is_named) {
            assert_eq!(gets(&upstream, file), 1, "{} is fetched once", file.path);
        }
        println!("{}: {} files", kind.distro, tree.files.len());
    }
}

#[test]
fn everything_comes_from_a_tree() {
    for kind in KINDS {
        let scratch = Scratch::new();
        let tree = (kind.make)(&scratch.path("mirror"));
        let config = ServerConfig::default().tree("near", kind.distro, &tree.root, kind.more);
        check_all(&Server::start(&scratch, &config), "near", &tree);
    }
}

/// As a client does before it asks for packages: the lists that no server reads unasked.
fn read_lists(server: &Server, tree: &Tree) {
    for file in &tree.files {
        if ["binary-amd64v3/Packages.xz", "source/Sources.xz"].iter().any(|name| file.path.ends_with(name)) {
            get(&server.url(&format!("far/{}", file.path))).expect(200);
        }
    }
}

/// Asks for a file whose bytes at the upstream are wrong; says so if they come, or are kept.
fn ask_for_damaged(scratch: &Scratch, server: &Server, kind: Kind, file: &Named) {
    let mut wrong = file.bytes.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 0xff;
    for path in file.paths() {
        let url = server.url(&format!("far/{path}"));
        let answer = match try_get(&url) {
            Ok(answer) => answer,
            // Broken before its head was sent.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => continue,
            Err(e) => panic!("{path}: {e}"),
        };
        let outcome = format!("{path}: {} with {} bytes", answer.status, answer.body.len());
        assert!(!is_whole(&answer), "{outcome}");
        // zypper repeats 5xx, so what is damaged is absent from rpm-md.
        let is_refused =
            (500..600).contains(&answer.status) || (kind.distro == "generic-rpm" && answer.status == 404);
        assert!(answer.cut || is_refused, "{outcome}");
    }
    let state = scratch.path("server-state");
    assert_eq!(files_with(&state, &wrong), [] as [PathBuf; 0], "{} is kept", file.path);
}

#[test]
fn wrong_bytes_of_any_file_reach_nobody_and_are_not_kept() {
    for kind in KINDS {
        let scratch = Scratch::new();
        let tree = (kind.make)(&scratch.path("mirror"));
        let upstream = Upstream::start(&tree.root);
        let server = serve(&scratch, &upstream, kind);
        read_lists(&server, &tree);
        let is_cold = |file: &&Named| file.is_named && gets(&upstream, file) == 0;
        let cold: Vec<&Named> = tree.files.iter().filter(is_cold).collect();
        let mut tried = 0;
        for file in cold {
            if gets(&upstream, file) > 0 {
                // An index that another file was looked up in.
                continue;
            }
            tried += 1;
            damage(&upstream, file, Some(Fault::Damaged));
            ask_for_damaged(&scratch, &server, kind, file);
            damage(&upstream, file, None);
            let answer = get(&server.url(&format!("far/{}", file.path))).expect(200);
            assert!(answer.body == file.bytes && !answer.cut, "{} once it is mended", file.path);
        }
        println!("{}: {tried} of {} files", kind.distro, tree.files.len());
        assert!(tried >= 10, "{} has only {tried} files that are fetched on demand", kind.distro);
        for store in ["server-state", "server-state/metadata"] {
            assert_eq!(wrong_blobs(&scratch.path(store)), [] as [PathBuf; 0]);
        }
    }
}

/// A server that starts while a file is wrong upstream, and again once it is right.
fn start_over_damaged(tree: &Tree, kind: Kind, file: &Named) {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&tree.root);
    damage(&upstream, file, Some(Fault::Damaged));
    let config = ServerConfig::default().upstream("far", kind.distro, &upstream.url(""), kind.more);
    let mut server = Server::start(&scratch, &config);
    ask_for_damaged(&scratch, &server, kind, file);
    server.process.terminate();
    damage(&upstream, file, None);
    let server = Server::start_file(&server.config);
    let answer = get(&server.url(&format!("far/{}", file.path))).expect(200);
    assert!(answer.body == file.bytes && !answer.cut, "{} once it is mended", file.path);
}

#[test]
fn wrong_bytes_of_a_list_that_is_read_at_start_up_reach_nobody() {
    for kind in KINDS {
        let scratch = Scratch::new();
        let tree = (kind.make)(&scratch.path("mirror"));
        let upstream = Upstream::start(&tree.root);
        drop(serve(&scratch, &upstream, kind));
        // Also those that name further files, which the other test reads before it breaks what they name.
        let is_index = |file: &Named| ["Index", "SHA256SUMS"].iter().any(|name| file.path.ends_with(name));
        let is_tried = |file: &&Named| file.is_named && (gets(&upstream, file) > 0 || is_index(file));
        let tried: Vec<&Named> = tree.files.iter().filter(is_tried).collect();
        assert!(tried.len() > 1, "a server reads package lists: {tried:?}");
        std::thread::scope(|scope| {
            for file in tried {
                scope.spawn(|| start_over_damaged(&tree, kind, file));
            }
        });
    }
}

/// A suite whose package list grows by one entry, and the patch from one to the other.
struct Growing {
    signer: Signer,
    root: PathBuf,
    texts: [Vec<u8>; 2],
}

const PATCH: &str = "T-2025-10-02-0000.00-F-2025-10-01-0000.00";
const FOLDER: &str = "dists/stable/main/binary-amd64";

impl Growing {
    fn new(scratch: &Scratch) -> Self {
        let mut old = String::new();
        for n in 0..200 {
            old += &stanza(&format!("hands-{n}"));
        }
        let new = format!("{old}{}", stanza("hands-new"));
        let texts = [old.into_bytes(), new.into_bytes()];
        Self { signer: Signer::new(scratch), root: scratch.path("mirror"), texts }
    }

    /// The patch as ed reads it: the new entry after the last line.
    fn patch(&self) -> Vec<u8> {
        let [old, new] = &self.texts;
        let lines = old.iter().filter(|byte| **byte == b'\n').count();
        [format!("{lines}a\n").as_bytes(), &new[old.len()..], b".\n"].concat()
    }

    fn publish(&self, generation: usize) {
        let mut tree = Tree::new(&self.root);
        let text = &self.texts[generation];
        tree.add_by_hash(&format!("{FOLDER}/Packages.xz"), xz(text));
        let (patch, sized) = (self.patch(), |bytes: &[u8]| format!("{} {}", sha256_hex(bytes), bytes.len()));
        let packed = gzip(&patch);
        let (history, patches, download) = match generation {
            0 => (String::new(), String::new(), String::new()),
            _ => (
                format!(" {} {PATCH}\n", sized(&self.texts[0])),
                format!(" {} {PATCH}\n", sized(&patch)),
                format!(" {} {PATCH}.gz\n", sized(&packed)),
            ),
        };
        let index = format!(
            "SHA256-Current: {}\nSHA256-History:\n{history}SHA256-Patches:\n{patches}SHA256-Download:\n{download}\
             X-Patch-Precedence: merged\n",
            sized(text)
        );
        if generation > 0 {
            tree.add_by_hash(&format!("{FOLDER}/Packages.diff/{PATCH}.gz"), packed);
        }
        tree.add_by_hash(&format!("{FOLDER}/Packages.diff/Index"), index.into_bytes());
        let listed = tree.listed("dists/stable/", |path| !path.contains(PATCH));
        let plain = format!(" {} main/binary-amd64/Packages\n", sized(text));
        let release = format!(
            "Origin: Tests\nSuite: stable\nCodename: stable\nDate: Wed, 0{} Oct 2025 00:00:00 UTC\n\
             Architectures: amd64\nComponents: main\nAcquire-By-Hash: yes\nSHA256:\n{listed}{plain}",
            generation + 1
        );
        let signed = self.signer.clearsign(release.as_bytes());
        tree.add_root("dists/stable/InRelease", signed);
    }
}

fn stanza(name: &str) -> String {
    let sha256 = sha256_hex(&random_bytes(name.len() as u64, 100)[..])
        .replace("00", &hex(&name.as_bytes()[name.len() - 1..]));
    format!(
        "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
         Filename: pool/{name}_1_all.deb\nSize: 1000\nSHA256: {sha256}\nDescription: {sha256}\n\n"
    )
}

#[test]
fn apt_updates_by_patches() {
    let scratch = Scratch::new();
    let growing = Growing::new(&scratch);
    growing.publish(0);
    let upstream = Upstream::start(&growing.root);
    let log = scratch.path("access.log");
    let config = ServerConfig::default()
        .server_lines(&format!("access_log = {:?}", log.display().to_string()))
        .upstream("far", "generic-deb", &upstream.url(""), "suites = [\"stable\"]\npoll_secs = 1");
    let server = Server::start(&scratch, &config);
    let source =
        format!("deb [arch=amd64 signed-by={}] {} stable main", test_key().display(), server.url("far"));
    let apt = Apt::new(&scratch.dir("apt"), &[source]);
    apt.update();
    assert!(!apt.names().contains(&"hands-new".to_owned()));

    growing.publish(1);
    let wanted = fs::read(growing.root.join("dists/stable/InRelease")).expect("published");
    wait_for("the new generation is adopted", DEADLINE, || {
        get(&server.url("far/dists/stable/InRelease")).body == wanted
    });
    let asked = |name: &str| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains("Debian APT") && line.contains(name)).count()
    };
    let lists = asked("/Packages.xz") + asked("/main/binary-amd64/by-hash/");
    assert_eq!(lists, 1, "the first update fetches the list");
    let out = apt.get(&["-o", "Debug::pkgAcquire::Diffs=true", "update"]);
    assert!(apt.names().contains(&"hands-new".to_owned()), "{out}");
    assert_eq!(
        asked("/Packages.xz") + asked("/main/binary-amd64/by-hash/"),
        lists,
        "only patches now:\n{out}"
    );
    let patch = asked("/Packages.diff/by-hash/") + asked(&format!("/Packages.diff/{PATCH}.gz"));
    assert!(patch >= 2, "Index and patch are fetched: {patch}\n{out}");
    let list =
        fs::read_dir(scratch.path("apt/lists")).expect("lists").map(|entry| entry.expect("an entry").path());
    let list =
        list.filter(|path| path.to_string_lossy().ends_with("_Packages")).map(|path| sha256_file(&path));
    assert_eq!(list.collect::<Vec<_>>(), [sha256_hex(&growing.texts[1])], "the list is the new one");
}
