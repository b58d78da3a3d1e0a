//! Trees whose files are not what their metadata says: rotten disks, half copies, things that are no files. Nothing
//! wrong is vouched for, the operator hears of it once, and what is right costs one reading.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use manyhands::io::db::Db;
use manyhands::io::hasher;
use manyhands::io::regular::Fingerprint;
use manyhands::model::BlobId;
use support::{
    Apt, Conn, DebRepo, Scratch, Server, ServerConfig, Volunteer, VolunteerOptions, get, head, random_bytes,
    request, sha256_hex, wait_for,
};

const WRONG: &str = "a file of the tree does not match its metadata, and is not served. \
                     Check the disk, or replace the file";
const ROTTEN: &str = "a file of the tree was altered, though its date is the same: it is not served. \
                      Check the disk, or replace the file";
/// Large enough to be sent while it is read.
const LARGE: usize = 10 << 20;
/// More than the sockets between server and client hold.
const HUGE: usize = 40 << 20;

/// A server over a tree of one small and one large package.
struct World {
    server: Server,
    tree: PathBuf,
    scratch: Scratch,
    small: Vec<u8>,
    large: Vec<u8>,
}

impl World {
    fn new(rot: impl FnOnce(&World0)) -> Self {
        Self::of_size(LARGE, rot)
    }

    fn of_size(large: usize, rot: impl FnOnce(&World0)) -> Self {
        let scratch = Scratch::new();
        let before = World0::new(&scratch, large);
        rot(&before);
        let config = ServerConfig::default().tree("flat", "generic-deb", &before.tree, "");
        let server = Server::start(&scratch, &config);
        Self { server, tree: before.tree, scratch, small: before.small, large: before.large }
    }

    fn url(&self, name: &str) -> String {
        self.server.url(&format!("flat/{name}_1_all.deb"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.tree.join(format!("{name}_1_all.deb"))
    }

    fn read_files(&self) -> u64 {
        self.server.status().number("/trees/read_files")
    }

    /// The warnings of wrong files, which are so many.
    fn warned(&self, times: usize) -> Vec<serde_json::Value> {
        let all = || self.server.process.messages(WRONG);
        wait_for("the server warns", support::DEADLINE, || all().len() >= times);
        assert_eq!(all().len(), times, "{:?}", all());
        all()
    }
}

/// The tree before its server starts.
struct World0 {
    tree: PathBuf,
    small: Vec<u8>,
    large: Vec<u8>,
}

impl World0 {
    fn new(scratch: &Scratch, large: usize) -> Self {
        let (small, large) = (random_bytes(1, 200_000), random_bytes(2, large));
        let mut repo = DebRepo::new(&scratch.path("tree"));
        repo.add("small", &small);
        repo.add("large", &large);
        repo.add("other", b"some other package");
        repo.publish();
        Self { tree: repo.root, small, large }
    }

    /// One bit, the date as it was.
    fn flip(&self, name: &str) {
        flip(&self.tree.join(format!("{name}_1_all.deb")));
    }
}

fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).expect("writable");
    let modified = file.metadata().and_then(|meta| meta.modified()).expect("a date");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100_000).expect("long enough");
    file.write_all_at(&[byte[0] ^ 1], 100_000).expect("writable");
    file.set_modified(modified).expect("writable");
}

#[test]
fn a_rotten_file_is_refused_however_it_is_asked_for_and_told_of_once() {
    let world = World::new(|tree| tree.flip("small"));
    let sha256 = sha256_hex(&world.small);
    let urls = [
        world.url("small"),
        world.server.direct("flat/small_1_all.deb"),
        format!("{}.sha256", world.url("small")),
    ];
    for _ in 0..2 {
        assert_eq!(get(&urls[0]).status, 502);
        assert_eq!(head(&urls[0]).status, 502);
        assert_eq!(request("GET", &urls[0], &[("Range", "bytes=0-9")]).status, 502);
        assert_eq!(get(&urls[1]).status, 502);
        assert_eq!(get(&urls[2]).status, 502);
        assert_eq!(get(&world.server.url(&format!("_blob/{sha256}/small.deb"))).status, 502);
    }
    let warnings = world.warned(1);
    let found = sha256_hex(&fs::read(world.file("small")).expect("there"));
    assert_eq!(warnings[0]["file"], world.file("small").display().to_string());
    assert_eq!(warnings[0]["expected"], format!("sha256:{sha256}"));
    assert_eq!(warnings[0]["found"], format!("sha256:{found}"));
    get(&world.url("other")).expect(200);

    // Mended, and broken again: each is noticed.
    fs::write(world.file("small"), &world.small).expect("writable");
    assert!(get(&world.url("small")).expect(200).body == world.small);
    flip(&world.file("small"));
    assert_eq!(get(&world.url("small")).status, 502);
    world.warned(2);
}

#[test]
fn a_large_rotten_file_never_arrives_whole() {
    let world = World::new(|tree| tree.flip("large"));
    let first = get(&world.url("large"));
    assert!(first.cut && first.body.len() < LARGE, "{} {}", first.status, first.body.len());
    assert_eq!(get(&world.url("large")).status, 502);
    world.warned(1);
}

#[test]
fn no_part_of_a_large_rotten_file_is_vouched_for() {
    for (range, is_end) in [("bytes=5-9", false), ("bytes=5000000-", true), ("bytes=0-9,100-109", false)] {
        let world = World::new(|tree| tree.flip("large"));
        let answer = request("GET", &world.url("large"), &[("Range", range)]);
        assert!(if is_end { answer.cut } else { answer.status == 502 }, "{range}: {}", answer.status);
        assert_eq!(request("GET", &world.url("large"), &[("Range", range)]).status, 502, "{range}");
    }
    let world = World::new(|tree| tree.flip("large"));
    assert_eq!(head(&world.url("large")).status, 502);
}

#[test]
fn a_large_file_is_sent_while_it_is_read_and_read_once_for_a_crowd() {
    let world = World::new(|_| ());
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..12).map(|_| scope.spawn(|| get(&world.url("large")).expect(200))).collect();
        let part = scope.spawn(|| request("GET", &world.url("large"), &[("Range", "bytes=7-9")]).expect(206));
        // The crowd holds up nobody.
        get(&world.url("other")).expect(200);
        for one in crowd {
            let answer = one.join().expect("an answer");
            assert!(!answer.cut && answer.body == world.large);
        }
        assert_eq!(part.join().expect("an answer").body, world.large[7..10]);
    });
    assert_eq!(world.read_files(), 2, "each file once");
    // What is read before it is answered for has all its digests.
    let known = head(&world.url("large")).expect(200);
    assert!(known.must("repr-digest").contains("sha-512="), "{:?}", known.headers);
}

#[test]
fn a_restart_reads_nothing_again() {
    let world = World::new(|tree| tree.flip("large"));
    assert!(get(&world.url("small")).expect(200).body == world.small);
    assert!(get(&world.url("large")).cut);
    assert_eq!(world.read_files(), 2);
    let World { mut server, scratch, tree, small, large } = world;
    server.process.terminate();
    let server = Server::start_file(&server.config);
    let world = World { server, scratch, tree, small, large };
    assert!(get(&world.url("small")).expect(200).body == world.small);
    assert_eq!(get(&world.url("large")).status, 502);
    assert_eq!(world.read_files(), 0);
    world.warned(1);
}

/// Makes a server that is down believe that it read other bytes from a file, which nothing has touched since.
fn had_other_bytes(scratch: &Scratch, path: &Path, before: &Path) -> String {
    let db = Db::open(&scratch.path("server-state/manyhands.redb")).expect("the server is down");
    let (hashes, _) = hasher::hash_file(&File::open(before).expect("there")).expect("readable");
    db.put_hashes(&hashes).expect("writable");
    let now = Fingerprint::of(&fs::symlink_metadata(path).expect("there"));
    // One that is gone, and so large that what is there is read at once rather than within days.
    let gone = Fingerprint { size: 1 << 50, ..now };
    let id = BlobId(hashes.digests.sha256);
    let files = [(path, now, id), (&path.with_extension("gone"), gone, id)];
    db.put_tree_files(files, u64::MAX).expect("writable");
    format!("sha256:{id}")
}

#[test]
fn a_file_that_no_metadata_names_is_read_again_and_withdrawn() {
    let mut world = World::new(|_| ());
    let (path, before) = (world.tree.join("disc.img"), world.scratch.path("before.img"));
    let found = random_bytes(4, 100_000);
    fs::write(&path, &found).expect("writable");
    fs::write(&before, random_bytes(3, 100_000)).expect("writable");
    let image = |world: &World| world.server.url("flat/disc.img");
    assert!(get(&image(&world)).expect(200).body == found);
    wait_for("it is known", support::DEADLINE, || head(&image(&world)).header("repr-digest").is_some());
    world.server.process.terminate();
    let expected = had_other_bytes(&world.scratch, &path, &before);
    world.server = Server::start_file(&world.server.config);
    let told = world.server.process.wait_message(ROTTEN);
    assert_eq!(told["file"], path.display().to_string());
    assert_eq!(told["expected"], expected);
    assert_eq!(told["found"], format!("sha256:{}", sha256_hex(&found)));
    for _ in 0..2 {
        assert_eq!(get(&image(&world)).status, 502);
        assert_eq!(head(&image(&world)).status, 502);
        let old = expected.strip_prefix("sha256:").expect("its algorithm");
        assert_eq!(get(&world.server.url(&format!("_blob/{old}/disc.img"))).status, 404);
        world.server.process.terminate();
        world.server = Server::start_file(&world.server.config);
    }
    // Replaced, it is served.
    fs::write(&path, &found).expect("writable");
    assert!(get(&image(&world)).expect(200).body == found);
    assert_eq!(world.server.process.messages(ROTTEN).len(), 0);
}

#[test]
fn another_file_in_its_place_is_read_whatever_its_date() {
    let world = World::new(|_| ());
    get(&world.url("small")).expect(200);
    let new = world.tree.join("new");
    fs::write(&new, &world.small).expect("writable");
    flip(&new);
    let date = fs::metadata(world.file("small")).and_then(|meta| meta.modified()).expect("a date");
    File::options().write(true).open(&new).and_then(|file| file.set_modified(date)).expect("writable");
    fs::rename(&new, world.file("small")).expect("writable");
    assert_eq!(get(&world.url("small")).status, 502);
    // A file that is cut short is being replaced, so far as anyone can tell.
    fs::write(world.file("small"), &world.small[..1000]).expect("writable");
    assert_eq!(get(&world.url("small")).status, 503);
}

#[test]
fn what_is_no_file_is_not_found_at_once() {
    let world = World::new(|_| ());
    let unnamed = world.tree.join("pipe");
    for path in [&world.file("small"), &unnamed] {
        let _ = fs::remove_file(path);
        let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success());
    }
    fs::remove_file(world.file("other")).expect("there");
    let _socket = UnixListener::bind(world.file("other")).expect("a socket");
    fs::remove_file(world.file("large")).expect("there");
    fs::create_dir(world.file("large")).expect("writable");
    let begin = Instant::now();
    for _ in 0..20 {
        for name in ["small", "other", "large"] {
            assert_eq!(get(&world.url(name)).status, 404, "{name}");
            assert_eq!(head(&world.url(name)).status, 404, "{name}");
        }
        assert_eq!(get(&world.server.url("flat/pipe")).status, 404);
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    world.warned(0);
}

#[test]
fn apt_hears_of_the_rotten_file_and_gets_the_others() {
    let world = World::new(|tree| tree.flip("small"));
    let line = format!("deb [trusted=yes] {} ./", world.server.url("flat/"));
    let apt = Apt::new(&world.scratch.path("apt"), &[line]);
    apt.update();
    apt.get(&["download", "large", "other"]);
    let problem = apt.try_get(&["download", "small"]).expect_err("it is rotten");
    assert!(problem.contains("502"), "{problem}");
}

#[test]
fn a_failed_order_leads_to_the_file() {
    let mut world = World::new(|tree| tree.flip("small"));
    let _volunteer = Volunteer::join(&world.server, VolunteerOptions::new(&world.scratch, &world.server, 1));
    assert_eq!(get(&world.url("small")).status, 502);
    let told = "the order could not be carried out because of a file of this server's tree";
    let fields = world.server.process.wait_message(told);
    assert_eq!(fields["file"], world.file("small").display().to_string());
    assert_eq!(fields["volunteer"], "v1");
    // What is right is copied as ever.
    world.server.wait_redirect("flat/large_1_all.deb");
}

#[test]
fn a_volunteer_adopts_files_only() {
    let world = World::new(|_| ());
    let mirror = world.scratch.path("mirror");
    support::copy_tree(&world.tree, &mirror);
    let pipe = mirror.join("small_1_all.deb");
    let mut options = VolunteerOptions::new(&world.scratch, &world.server, 1);
    options.adopt.push(mirror);
    let volunteer = Volunteer::join(&world.server, options);
    world.server.wait_until("all is held", |status| status.of("v1", "holdings") == 3);
    let location = world.server.wait_redirect("flat/small_1_all.deb");
    fs::remove_file(&pipe).expect("there");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    // It sends the client back at once.
    assert_eq!(get(&location).status, 302);
    wait_for("the server hears of it", support::DEADLINE, || world.server.status().of("v1", "holdings") == 2);
    drop(volunteer);
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_cut() {
    let world = World::of_size(HUGE, |_| ());
    assert!(get(&world.url("large")).expect(200).body == world.large);
    let mut conn = Conn::open(world.server.address());
    let text = conn.request_text("GET", "/flat/large_1_all.deb", &[]);
    conn.send(text.as_bytes()).expect("a request fits");
    let (status, _) = conn.read_head().expect("an answer");
    assert_eq!(status, 200);
    let file = File::options().write(true).open(world.file("large")).expect("writable");
    file.write_all_at(b"other", HUGE as u64 - 10).expect("writable");
    let (mut buffer, mut got) = (vec![0; 1 << 20], 0);
    while let Ok(read @ 1..) = conn.read_some(&mut buffer) {
        got += read;
    }
    assert!(got < HUGE, "{got}");
}
