//! Files that no list of packages has: they are known by their digest once they were asked for, and come from
//! volunteers like packages, for as long as they stay as they are.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use support::generation::gzip;
use support::{
    DEADLINE, DebRepo, Nginx, Scratch, Server, ServerConfig, Upstream, Volunteer, VolunteerOptions,
    copy_tree, get, get_as, head, members, poll, random_bytes, request, run_ok, sha256_hex, wait_for,
};

const DNF: (&str, &str) = ("User-Agent", "libdnf (Fedora Linux 40; generic; Linux.x86_64)");
const IMAGE: &str = "flat/images/disc-1.img";
const NOT_AS_NAMED: &str = "a file of the tree does not match its metadata, and is not served. \
                            Check the disk, or replace the file";
const SIZE: usize = 300_000;
/// What an upstream says of its file holds for 3 s, and it has 2 s to say it.
const LONGER_THAN_IT_HOLDS: Duration = Duration::from_secs(6);

/// A server over a tree with an image that nothing names, and links to it.
struct World {
    server: Server,
    tree: PathBuf,
    image: Vec<u8>,
    // Last, so that it is there until the processes have ended.
    scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new();
        let mut repo = DebRepo::new(&scratch.path("tree"));
        repo.add("small", b"a package");
        repo.publish();
        let (tree, image) = (repo.root, random_bytes(1, SIZE));
        fs::create_dir(tree.join("images")).expect("the scratch folder is writable");
        write(&tree.join("images/disc-1.img"), &image);
        let date = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let file = File::options().write(true).open(tree.join("images/disc-1.img")).expect("just written");
        file.set_modified(date).expect("times can be set");
        let config = ServerConfig::default().tree("flat", "generic-deb", &tree, "suites = [\"./\"]");
        let server = Server::start(&scratch, &config);
        Self { server, tree, image, scratch }
    }

    fn join(&self, number: u8) -> Volunteer {
        Volunteer::join(&self.server, VolunteerOptions::new(&self.scratch, &self.server, number))
    }

    fn read_files(&self) -> u64 {
        self.server.status().number("/trees/read_files")
    }

    /// Starts the server anew where it was.
    fn restart(&mut self) {
        let config = fs::read_to_string(&self.server.config).expect("the configuration");
        let fixed = config.replacen("127.0.0.1:0", self.server.address(), 1);
        fs::write(&self.server.config, fixed).expect("the scratch folder is writable");
        self.server.process.terminate();
        self.server = Server::start_file(&self.server.config);
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the scratch folder is writable");
}

/// What curl gets, and from where in the end.
fn curl(url: &str) -> (Vec<u8>, String) {
    let scratch = Scratch::new();
    let file = scratch.path("got");
    let mut curl = Command::new("curl");
    curl.args(["-sSfL", "--max-time", "60", "-w", "%{url_effective}", "-o"]).arg(&file).arg(url);
    let from = run_ok(&mut curl);
    (fs::read(&file).expect("curl wrote it"), from)
}

#[test]
fn a_file_that_no_metadata_names_is_read_once_and_then_comes_from_volunteers() {
    let world = World::new();
    let volunteer = world.join(1);
    let url = world.server.url(IMAGE);
    // Who only looks has nothing read.
    head(&url).expect(200);
    assert_eq!(world.read_files(), 0);
    let (first, from) = curl(&url);
    assert!(first == world.image && from == url, "{from}");
    world.server.wait_redirect(IMAGE);
    let (second, from) = curl(&url);
    assert!(second == world.image && volunteer.serves(&from), "{from}");
    assert!(volunteer.options.stored().contains(&sha256_hex(&world.image)));
    assert_eq!(world.read_files(), 1);

    // The same to whoever goes on elsewhere, with the date of the tree.
    let (here, there) = (head(&world.server.direct(IMAGE)).expect(200), head(&from).expect(200));
    for name in ["etag", "last-modified", "repr-digest", "content-length", "content-type"] {
        assert_eq!(here.must(name), there.must(name), "{name}");
    }
    assert_eq!(here.must("last-modified"), "Tue, 14 Nov 2023 22:13:20 GMT");
    assert_eq!(here.must("cache-control"), "no-cache", "it is replaced in place");
    let etag = here.must("etag");
    assert_eq!(request("GET", &url, &[("If-None-Match", etag)]).status, 304);
    let rest = [("Range", "bytes=250000-"), ("If-Range", etag)];
    assert!(request("GET", &world.server.direct(IMAGE), &rest).expect(206).body == world.image[250_000..]);
    let list = get(&format!("{url}.meta4")).expect(200).text();
    assert!(list.contains(&sha256_hex(&world.image)) && list.contains(&volunteer.address), "{list}");
}

#[test]
fn a_file_that_changes_is_another_at_once() {
    let world = World::new();
    let _volunteer = world.join(1);
    let (url, path) = (world.server.url(IMAGE), world.tree.join("images/disc-1.img"));
    let mut old = world.image.clone();
    for round in 2..5 {
        curl(&url);
        world.server.wait_redirect(IMAGE);
        let date = fs::metadata(&path).and_then(|meta| meta.modified()).expect("a date");
        let new = random_bytes(round, SIZE);
        if round % 2 == 0 {
            // In place, and as if nothing had happened.
            write(&path, &new);
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(date))
                .expect("writable");
        } else {
            write(&world.tree.join("new"), &new);
            fs::rename(world.tree.join("new"), &path).expect("writable");
        }
        // By hash nobody gets the new bytes for the old.
        let by_hash = world.server.url(&format!("_blob/{}/disc-1.img", sha256_hex(&old)));
        if round == 3 {
            assert_eq!(request("HEAD", &by_hash.replace("/_blob", "/direct/_blob"), &[]).status, 404);
        }
        let redirected = poll(DEADLINE, || {
            let (got, from) = curl(&url);
            assert!(got == new, "{from}");
            assert!(!from.contains(&sha256_hex(&old)), "{from}");
            (from != url).then_some(from)
        });
        let redirected = redirected.expect("the new one is redirected too");
        assert!(redirected.contains(&sha256_hex(&new)), "{redirected}");
        assert!(
            head(&redirected).must("repr-digest") == head(&world.server.direct(IMAGE)).must("repr-digest")
        );
        old = new;
    }
    let told = world.server.process.messages(NOT_AS_NAMED);
    assert!(told.is_empty(), "no metadata says anything of it: {told:?}");
}

#[test]
fn what_was_learnt_outlives_the_server() {
    let mut world = World::new();
    let volunteer = world.join(1);
    curl(&world.server.url(IMAGE));
    world.server.wait_redirect(IMAGE);
    world.restart();
    // Volunteers fetch it, and send clients back, before anybody asks by its name.
    let by_hash = world.server.url(&format!("_blob/{}/disc-1.img", sha256_hex(&world.image)));
    wait_for("the place is found again", DEADLINE, || curl_is(&by_hash, &world.image));
    world.server.wait_until("it is back", |status| status.of(volunteer.id(), "holdings") > 0);
    let answer = get(&world.server.url(IMAGE)).expect(302);
    assert!(volunteer.serves(answer.must("location")));
    assert!(curl(&world.server.url(IMAGE)).0 == world.image);
    assert_eq!(world.read_files(), 0);
}

/// Whether a URL leads to these bytes by now.
fn curl_is(url: &str, bytes: &[u8]) -> bool {
    let (answer, _) = support::fetch_following(url, &[]);
    answer.status == 200 && answer.body == bytes
}

#[test]
fn a_link_is_its_target() {
    let world = World::new();
    let volunteer = world.join(1);
    let other = random_bytes(9, SIZE);
    write(&world.tree.join("images/disc-2.img"), &other);
    let link = world.tree.join("latest.img");
    symlink("images/disc-1.img", &link).expect("the scratch folder is writable");
    symlink("images", world.tree.join("current")).expect("the scratch folder is writable");
    write(&world.scratch.path("secret"), &random_bytes(10, SIZE));
    symlink("../secret", world.tree.join("out.img")).expect("the scratch folder is writable");
    let url = world.server.url("flat/latest.img");
    assert!(curl(&url).0 == world.image);
    let location = world.server.wait_redirect("flat/latest.img");
    assert!(location.contains(&sha256_hex(&world.image)) && location.ends_with("/latest.img"), "{location}");
    assert!(curl(&url).0 == world.image);
    // Under its other names it is known at once.
    for (client, path) in [("127.5.0.1", "flat/current/disc-1.img"), ("127.5.0.2", IMAGE)] {
        let location = get_as(client, &world.server.url(path), &[]).expect(302).must("location").to_owned();
        assert!(volunteer.serves(&location) && curl(&location).0 == world.image, "{location}");
    }
    assert_eq!(world.read_files(), 1);
    // The link leads elsewhere now.
    fs::remove_file(&link).expect("there");
    symlink("images/disc-2.img", &link).expect("the scratch folder is writable");
    let redirected = poll(DEADLINE, || {
        let (got, from) = curl(&url);
        assert!(got == other, "{from}");
        volunteer.serves(&from).then_some(())
    });
    assert!(redirected.is_some(), "the other is redirected too");
    for _ in 0..3 {
        assert_eq!(get(&world.server.url("flat/out.img")).status, 404);
    }
}

#[test]
fn volunteers_that_are_gone_or_lie_are_not_relied_upon() {
    let world = World::new();
    let mut volunteer = world.join(1);
    let url = world.server.url(IMAGE);
    curl(&url);
    let location = world.server.wait_redirect(IMAGE);
    // What it has lost it sends back for.
    let blob = volunteer.options.blob_path(&sha256_hex(&world.image));
    fs::remove_file(&blob).expect("a blob");
    let (got, from) = curl(&location);
    assert!(got == world.image, "{from}");
    // It has another copy made, and lies from now on.
    world.server.wait_redirect(IMAGE);
    let lies: Vec<u8> = world.image.iter().map(|byte| byte ^ 1).collect();
    write(&blob, &lies);
    let client = "127.5.6.7";
    wait_for("the liar is found out", DEADLINE, || {
        get_as(client, &url, &[DNF]);
        world.server.status().state("v1") == "quarantined"
    });
    assert!(curl(&url) == (world.image.clone(), url.clone()));
    volunteer.process.kill();
    let another = world.join(2);
    world.server.wait_redirect(IMAGE);
    let (got, from) = curl(&url);
    assert!(got == world.image && another.serves(&from), "{from}");
}

#[test]
fn metadata_comes_from_the_server_whoever_has_it() {
    let scratch = Scratch::new();
    let tree = scratch.path("tree");
    members::deb(&tree);
    let lists = [
        "dists/stable/main/binary-arm64/Packages.gz",
        "dists/stable/main/Contents-arm64.gz",
        "dists/stable/main/old-lists.tar",
        "other/Packages",
        "other/Sources.xz",
        "other/Translation-de.bz2",
    ];
    let images = ["dists/stable/main/installer-arm64/current/images/mini.iso", "other/tool.tar.gz"];
    for (n, path) in lists.iter().chain(&images).enumerate() {
        fs::create_dir_all(tree.join(path).parent().expect("a folder")).expect("writable");
        write(&tree.join(path), &gzip(&random_bytes(n as u64, 100_000)));
    }
    let more = "suites = [\"stable\"]\ncomponents = [\"main\"]";
    let config = ServerConfig::default().tree("deb", "generic-deb", &tree, more);
    let server = Server::start(&scratch, &config);
    let mirror = scratch.path("mirror");
    copy_tree(&tree, &mirror);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.adopt.push(mirror);
    let _volunteer = Volunteer::join(&server, options);
    for path in images {
        server.wait_redirect(&format!("deb/{path}"));
    }
    for _ in 0..5 {
        for path in lists {
            let answer = get(&server.url(&format!("deb/{path}"))).expect(200);
            assert!(answer.body == fs::read(tree.join(path)).expect("there"), "{path}");
        }
    }
    assert_eq!(server.status().number("/trees/read_files"), images.len() as u64, "lists are not even read");
}

#[test]
fn what_an_index_among_the_metadata_names_is_redirected_too() {
    let images = "dists/stable/main/installer-amd64/current/images/netboot/mini.iso";
    let delta = "drpms/hands-0_1-1.noarch.drpm";
    let deb = "suites = [\"stable\"]\ncomponents = [\"main\"]";
    let kinds = [("generic-deb", deb, images), ("generic-rpm", "suites = [\"\"]", delta)];
    for (distro, more, path) in kinds {
        let scratch = Scratch::new();
        let make = if path == delta { members::rpm } else { members::deb };
        let tree = make(&scratch.path("tree"));
        let upstream = Upstream::start(&tree.root);
        let config = ServerConfig::default().tree("near", distro, &tree.root, more).upstream(
            "far",
            distro,
            &upstream.url(""),
            more,
        );
        let server = Server::start(&scratch, &config);
        let volunteer = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 1));
        for repo in ["far", "near"] {
            let path = format!("{repo}/{path}");
            let from = server.wait_redirect(&path);
            assert!(volunteer.serves(&from), "{from}");
            assert!(curl(&from).0 == tree.file(path.split_once('/').expect("a repo").1).bytes, "{from}");
            let (here, there) = (head(&server.direct(&path)).expect(200), head(&from).expect(200));
            for name in ["etag", "last-modified", "repr-digest"] {
                assert_eq!(here.must(name), there.must(name), "{name}");
            }
        }
        assert_eq!(upstream.gets(path), 1, "once for all");
    }
}

/// A server over an upstream with an image of this date that nothing names.
fn serve_upstream(scratch: &Scratch, url: &str) -> Server {
    Server::start(scratch, &ServerConfig::default().upstream("far", "generic-deb", url, "suites = [\"./\"]"))
}

/// Puts a file with a date of long ago under an upstream.
fn publish(file: &Path, bytes: &[u8], secs: u64) {
    let new = file.with_extension("new");
    write(&new, bytes);
    let date = UNIX_EPOCH + Duration::from_secs(secs);
    File::options().write(true).open(&new).and_then(|new| new.set_modified(date)).expect("writable");
    fs::rename(&new, file).expect("writable");
}

#[test]
fn what_was_passed_through_is_redirected_until_the_upstream_has_another() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("tree"));
    repo.add("small", b"a package");
    repo.publish();
    let (file, path, old) = (repo.root.join("disc.img"), "far/disc.img", random_bytes(1, SIZE));
    publish(&file, &old, 1_700_000_000);
    let nginx = Nginx::start(&scratch, &repo.root);
    let server = serve_upstream(&scratch, nginx.url("").trim_end_matches('/'));
    let volunteer = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 1));
    let url = server.url(path);
    let first = get(&url).expect(200);
    assert!(first.body == old);
    let location = server.wait_redirect(path);
    assert!(volunteer.serves(&location) && curl(&location).0 == old, "{location}");
    let log = fs::read_to_string(&nginx.log).expect("a log");
    let gets = log.lines().filter(|line| line.starts_with("GET /disc.img ")).count();
    assert!(gets <= 3, "passed through, and fetched to be kept: {log}");
    let (here, there) = (head(&server.direct(path)).expect(200), head(&location).expect(200));
    for name in ["etag", "last-modified", "repr-digest"] {
        assert_eq!(here.must(name), there.must(name), "{name}");
    }
    assert_eq!(here.must("last-modified"), first.must("last-modified"));
    // Whoever has the upstream's tag, or ours, goes on with it.
    for answer in [&first, &here] {
        let unless = [("If-None-Match", answer.must("etag"))];
        assert_eq!(request("GET", &url, &unless).status, 304, "{unless:?}");
        let rest = [("Range", "bytes=250000-"), ("If-Range", answer.must("etag"))];
        assert!(request("GET", &server.direct(path), &rest).expect(206).body == old[250_000..], "{rest:?}");
    }
    assert!(get(&format!("{url}.meta4")).expect(200).text().contains(&volunteer.address));

    // Another file: seen within seconds, and then the old one never again.
    let new = random_bytes(2, SIZE);
    publish(&file, &new, 1_700_000_100);
    let mut is_seen = false;
    let redirected = poll(DEADLINE, || {
        let (got, from) = curl(&url);
        assert!(got == new || (got == old && !is_seen), "{from}");
        is_seen |= got == new;
        (is_seen && from != url).then_some(from)
    });
    assert!(redirected.expect("the new one is redirected").contains(&sha256_hex(&new)));
    assert_eq!(get(&server.url(&format!("_blob/{}/disc.img", sha256_hex(&old)))).status, 404);
    // None at all.
    fs::remove_file(&file).expect("there");
    wait_for("it is gone", DEADLINE, || get(&url).status == 404);
    assert_eq!(get(&url).status, 404);
}

#[test]
fn what_was_passed_through_outlives_the_server_and_its_upstream() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("tree"));
    repo.add("small", b"a package");
    repo.publish();
    let (file, old) = (repo.root.join("disc.img"), random_bytes(1, SIZE));
    publish(&file, &old, 1_700_000_000);
    let nginx = Nginx::start(&scratch, &repo.root);
    let mut server = serve_upstream(&scratch, nginx.url("").trim_end_matches('/'));
    // Passed through, then fetched to be kept.
    for _ in 0..2 {
        assert!(get(&server.url("far/disc.img")).expect(200).body == old);
    }
    let before = head(&server.url("far/disc.img")).expect(200);
    server.process.terminate();
    nginx.process.signal("STOP");
    let server = Server::start_file(&server.config);
    let url = server.url("far/disc.img");
    let begin = Instant::now();
    while begin.elapsed() < LONGER_THAN_IT_HOLDS {
        let after = get(&url).expect(200);
        assert!(after.body == old);
        for name in ["etag", "last-modified", "repr-digest", "content-type"] {
            assert_eq!(after.must(name), before.must(name), "{name}");
        }
    }
    let rest = [("Range", "bytes=250000-"), ("If-Range", before.must("etag"))];
    assert!(request("GET", &url, &rest).expect(206).body == old[250_000..]);
    assert_eq!(request("GET", &url, &[("If-None-Match", before.must("etag"))]).status, 304);
    // It is asked again as soon as it answers.
    let new = random_bytes(2, SIZE);
    publish(&file, &new, 1_700_000_100);
    nginx.process.signal("CONT");
    wait_for("the new one is given", DEADLINE, || get(&url).expect(200).body == new);
}

#[test]
fn what_the_upstream_gives_no_date_of_is_passed_through_each_time() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("tree"));
    repo.add("small", b"a package");
    repo.publish();
    let image = random_bytes(1, SIZE);
    write(&repo.root.join("disc.img"), &image);
    let upstream = Upstream::start(&repo.root);
    let server = serve_upstream(&scratch, &upstream.url(""));
    let _volunteer = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 1));
    for _ in 0..4 {
        assert!(get(&server.url("far/disc.img")).expect(200).body == image);
    }
    assert_eq!(upstream.gets("disc.img"), 4);
}

#[test]
fn an_upstream_that_is_silent_is_asked_once_for_all() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("tree"));
    repo.add("small", b"a package");
    repo.publish();
    let image = random_bytes(1, SIZE);
    publish(&repo.root.join("disc.img"), &image, 1_700_000_000);
    let nginx = Nginx::start(&scratch, &repo.root);
    let server = serve_upstream(&scratch, nginx.url("").trim_end_matches('/'));
    let _volunteer = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 1));
    let url = server.url("far/disc.img");
    server.wait_redirect("far/disc.img");
    nginx.process.signal("STOP");
    // What the cache has is good meanwhile. Were they to wait for each other, that would take two minutes.
    let begin = Instant::now();
    while begin.elapsed() < LONGER_THAN_IT_HOLDS {
        std::thread::scope(|scope| {
            let crowd: Vec<_> = (0..60).map(|_| scope.spawn(|| get(&url).status)).collect();
            for one in crowd {
                let status = one.join().expect("an answer");
                assert!(matches!(status, 200 | 302), "{status}");
            }
        });
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    // It is the same file when it comes back.
    nginx.process.signal("CONT");
    let found = poll(DEADLINE, || {
        let answer = get_as("127.5.0.3", &url, &[]);
        (answer.status == 302).then(|| answer.must("location").to_owned())
    });
    assert!(curl(&found.expect("it is redirected again")).0 == image);
}
