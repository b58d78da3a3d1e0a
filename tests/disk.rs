//! The cache on disks that are small, full, read-only or altered by others: clients get the right bytes, the
//! bounds hold, and when the trouble is over it is forgotten.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use support::{
    DebRepo, Fault, Scratch, Server, ServerConfig, SmallDisk, Upstream, Volunteer, VolunteerOptions, get,
    random_bytes, sha256_hex, wait_for, with_mounts,
};

const MIB: u64 = 1 << 20;

/// An upstream of packages `p0`, `p1`, ... of one size, and a server with a cache of these settings.
struct World {
    server: Server,
    upstream: Upstream,
    digests: Vec<String>,
    cache: PathBuf,
}

impl World {
    fn new(scratch: &Scratch, count: usize, size: usize, cache: &str) -> Self {
        let mut repo = DebRepo::new(&scratch.path("repo"));
        let mut digests = Vec::new();
        for n in 0..count {
            let bytes = random_bytes(n as u64, size);
            repo.add(&format!("p{n}"), &bytes);
            digests.push(sha256_hex(&bytes));
        }
        repo.publish();
        let upstream = Upstream::start(&repo.root);
        let url = upstream.url("").trim_end_matches('/').to_owned();
        let config = ServerConfig::default().cache(cache);
        let config = config.upstream("flat", "generic-deb", &url, "suites = [\"./\"]");
        let server = Server::start(scratch, &config);
        wait_metadata(&server);
        Self { server, upstream, digests, cache: scratch.path("server-state/cache") }
    }

    fn name(n: usize) -> String {
        format!("p{n}_1_all.deb")
    }

    /// Fetches package `n`; it must come whole and right.
    fn fetch(&self, n: usize) {
        let answer = get(&self.server.url(&format!("flat/{}", Self::name(n)))).expect(200);
        assert!(!answer.cut && sha256_hex(&answer.body) == self.digests[n], "p{n} is not right");
    }

    fn gets(&self, n: usize) -> usize {
        self.upstream.gets(&Self::name(n))
    }

    fn blobs(&self) -> u64 {
        self.server.status().number("/cache/blobs")
    }

    fn blob_path(&self, n: usize) -> PathBuf {
        self.cache.join("blobs").join(&self.digests[n][..2]).join(&self.digests[n])
    }
}

fn wait_metadata(server: &Server) {
    server.wait_until("metadata is read", |status| {
        status.0["snapshots"].as_array().is_some_and(|all| !all.is_empty())
    });
}

/// Where the test server's cache will be.
fn small_cache(scratch: &Scratch, size: &str) -> SmallDisk {
    SmallDisk::mount(&scratch.path("server-state/cache"), size)
}

/// Bytes that the files below a folder occupy. By inode: one that is renamed while we look counts once.
fn occupied(folder: &Path) -> u64 {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => folders.push(path),
                Ok(meta) => _ = found.insert(meta.ino(), meta.blocks() * 512),
                // Gone meanwhile.
                Err(_) => {}
            }
        }
    }
    found.values().sum()
}

#[test]
fn the_quota_holds_while_much_arrives_at_once() {
    const COUNT: usize = 12;
    let scratch = Scratch::new();
    let world = World::new(&scratch, COUNT, 300_000, "max_size = \"1MiB\"");
    for n in 0..COUNT {
        world.upstream.set_fault(&World::name(n), Some(Fault::Held));
    }
    // Blocks of 4 KiB make each of at most three files a little larger.
    let bound = MIB + 3 * 4096;
    std::thread::scope(|scope| {
        let world = &world;
        let fetches: Vec<_> = (0..COUNT).map(|n| scope.spawn(move || world.fetch(n))).collect();
        wait_for("all are asked for", support::DEADLINE, || (0..COUNT).all(|n| world.gets(n) > 0));
        assert!(occupied(&world.cache) <= bound, "{}", occupied(&world.cache));
        for n in 0..COUNT {
            world.upstream.set_fault(&World::name(n), None);
            assert!(occupied(&world.cache) <= bound, "{}", occupied(&world.cache));
        }
        for fetch in fetches {
            fetch.join().expect("a client got the right bytes");
        }
    });
    for n in (0..COUNT).chain(0..COUNT) {
        world.fetch(n);
        assert!(occupied(&world.cache) <= bound, "{}", occupied(&world.cache));
    }
    let status = world.server.status();
    assert_eq!(status.number("/cache/blobs"), 3, "{}", status.pretty());
    assert!(status.number("/cache/bytes") <= MIB);
}

#[test]
fn a_small_disk_bounds_the_cache_and_a_full_one_stops_nobody() {
    with_mounts("a_small_disk_bounds_the_cache_and_a_full_one_stops_nobody", || {
        let scratch = Scratch::new();
        let _disk = small_cache(&scratch, "8m");
        let world = World::new(&scratch, 12, 1_000_000, "max_size = \"1GiB\"\nmin_free = \"1MiB\"");
        let warned =
            world.server.process.messages("max_size exceeds what the file system holds besides min_free");
        assert_eq!(warned.len(), 1);
        assert_eq!(world.server.status().number("/cache/max_bytes"), 7 * MIB);
        for n in 0..12 {
            world.fetch(n);
        }
        assert!((5..=7).contains(&world.blobs()), "{}", world.blobs());
        assert!(occupied(&world.cache) <= 7 * MIB);

        // Somebody else takes all there is: what is kept gives way while it can.
        let filler = world.cache.join("filler");
        let mut file = fs::File::create(&filler).expect("a writable disk");
        let fill = |file: &mut fs::File| while file.write(&[1; 4096]).is_ok_and(|n| n > 0) {};
        let mut next = 0;
        wait_for("nothing is left to give way", support::DEADLINE, || {
            fill(&mut file);
            world.fetch(next % 12);
            next += 1;
            fill(&mut file);
            world.blobs() <= 1
        });
        for n in 0..12 {
            world.fetch(n);
        }
        assert!(fs::read_dir(world.cache.join("tmp")).expect("the store's").count() == 0);
        let told = world.server.process.messages("fetch failed");
        assert_eq!(told.len(), 1, "told once a minute: {told:?}");
        assert!(told[0]["error"].as_str().is_some_and(|e| e.contains("free some space")), "{told:?}");

        drop(file);
        fs::remove_file(filler).expect("ours");
        let before = world.blobs();
        let n = (0..12).find(|&n| !world.blob_path(n).exists()).expect("most are gone");
        world.fetch(n);
        assert_eq!(world.blobs(), before + 1, "kept again");
        let asked = world.gets(n);
        world.fetch(n);
        assert_eq!(world.gets(n), asked);
    });
}

#[test]
fn files_of_unknown_length_keep_the_bounds_too() {
    with_mounts("files_of_unknown_length_keep_the_bounds_too", || {
        let scratch = Scratch::new();
        let _disk = small_cache(&scratch, "8m");
        let (root, mut sums) = (scratch.dir("root"), String::new());
        let upstream = Upstream::start(&root);
        let files =
            [("a.img", 3_000_000), ("b.img", 3_000_000), ("c.img", 3_000_000), ("big.img", 12_000_000)];
        for (seed, (name, size)) in (1..).zip(files) {
            let bytes = random_bytes(seed, size);
            sums.push_str(&format!("{}  {name}\n", sha256_hex(&bytes)));
            fs::write(root.join(name), bytes).expect("the scratch folder is writable");
            upstream.set_fault(name, Some(Fault::Chunked));
        }
        fs::write(root.join("SHA256SUMS"), &sums).expect("the scratch folder is writable");
        let url = upstream.url("").trim_end_matches('/').to_owned();
        let config = ServerConfig::default().cache("min_free = \"1MiB\"");
        let server = Server::start(&scratch, &config.upstream("images", "generic-files", &url, ""));
        get(&server.url("images/SHA256SUMS")).expect(200);
        let cache = scratch.path("server-state/cache");
        for (name, kept) in [("a.img", 1), ("b.img", 2), ("c.img", 2), ("big.img", 0), ("a.img", 1)] {
            let answer = get(&server.url(&format!("images/{name}"))).expect(200);
            let line = format!("{}  {name}\n", sha256_hex(&answer.body));
            assert!(!answer.cut && sums.contains(&line), "{name} is not right");
            assert_eq!(server.status().number("/cache/blobs"), kept, "{name}");
            assert!(occupied(&cache) <= 7 * MIB);
        }
    });
}

#[test]
fn a_read_only_disk_stops_nobody() {
    with_mounts("a_read_only_disk_stops_nobody", || {
        let scratch = Scratch::new();
        let disk = small_cache(&scratch, "16m");
        let world = World::new(&scratch, 3, 500_000, "max_size = \"1GiB\"\nmin_free = \"0\"");
        world.fetch(0);
        disk.set_read_only(true);
        for n in [0, 1, 2, 1] {
            world.fetch(n);
        }
        assert_eq!((world.gets(0), world.gets(1), world.blobs()), (1, 2, 1));
        disk.set_read_only(false);
        world.fetch(1);
        world.fetch(1);
        assert_eq!((world.gets(1), world.blobs()), (3, 2));
    });
}

#[test]
fn a_file_that_is_shorter_or_gone_is_fetched_again() {
    let scratch = Scratch::new();
    let world = World::new(&scratch, 2, 100_000, "");
    world.fetch(0);
    world.fetch(1);
    fs::write(world.blob_path(0), "short").expect("the test's own file");
    fs::remove_file(world.blob_path(1)).expect("the test's own file");
    world.fetch(0);
    world.fetch(1);
    assert_eq!((world.gets(0), world.gets(1)), (2, 2));
    let status = world.server.status();
    assert_eq!((status.number("/cache/blobs"), status.number("/cache/bad_blobs")), (2, 2));
}

/// Changes the last byte of a file in place.
fn alter(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).expect("the test's own file");
    let last = file.metadata().expect("open").len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last).expect("it has one");
    file.write_all_at(&[byte[0] ^ 0xff], last).expect("writable");
}

#[test]
fn altered_bytes_are_found_by_reading_again() {
    let scratch = Scratch::new();
    let mut world = World::new(&scratch, 1, 100_000, "scrub_days = 1");
    world.fetch(0);
    world.server.process.terminate();
    alter(&world.blob_path(0));
    world.server = Server::start_file(&world.server.config);
    world.server.wait_until("it is found", |status| status.number("/cache/bad_blobs") == 1);
    assert_eq!(world.blobs(), 0);
    wait_metadata(&world.server);
    world.fetch(0);
    assert_eq!(world.gets(0), 2);
    world.server.wait_until("metadata is read again too", |s| s.number("/cache/scrubbed_blobs") > 0);
}

#[test]
fn a_volunteer_finds_altered_bytes_and_says_so() {
    let scratch = Scratch::new();
    let world = World::new(&scratch, 1, 100_000, "");
    let options = VolunteerOptions::new(&scratch, &world.server, 1);
    let mut volunteer = Volunteer::join(&world.server, options.clone());
    world.fetch(0);
    world.server.wait_held_by(1);
    volunteer.process.terminate();
    alter(&options.blob_path(&world.digests[0]));
    // What it finds before it joins is not announced, what it finds later is taken back.
    let volunteer = Volunteer::join(&world.server, options);
    wait_for("the file is removed", support::DEADLINE, || volunteer.options.stored().is_empty());
    world.server.wait_until("the server knows", |status| status.of("v1", "holdings") == 0);
    world.fetch(0);
}
