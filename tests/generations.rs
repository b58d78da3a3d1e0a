//! One generation after the other: what stays served of the earlier ones, through restarts, damage and
//! outages of the upstream, and what is refused.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use support::generation::{self, Generation, Part, Piece, Signer};
use support::{
    BINARY, Conn, DEADLINE, Nginx, Scratch, Server, ServerConfig, Upstream, get, run_ok, wait_for,
};

/// A mirror that publishes when it is told to.
struct Mirror {
    root: PathBuf,
    signer: Signer,
    by_hash: bool,
}

impl Mirror {
    fn new(scratch: &Scratch, by_hash: bool) -> Self {
        Self { root: scratch.dir("mirror"), signer: Signer::new(scratch), by_hash }
    }

    fn make(&self, number: u32) -> Generation {
        generation::make(&self.signer, number, self.by_hash)
    }

    /// Replaces what is there, packages included.
    fn publish(&self, next: &Generation) {
        let _ = fs::remove_dir_all(&self.root);
        for Piece { path, bytes, .. } in &next.pieces {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder"))
                .expect("the scratch folder is writable");
            fs::write(path, bytes).expect("the scratch folder is writable");
        }
    }

    /// The same generation with another text of its Release.
    fn with_release(&self, mut next: Generation, change: impl Fn(&str) -> String) -> Generation {
        let is = |piece: &Piece, name: &str| piece.path == format!("apt/dists/stable/{name}");
        let release = next.pieces.iter().find(|piece| is(piece, "Release")).expect("a Release");
        let text = change(std::str::from_utf8(&release.bytes).expect("text")).into_bytes();
        for piece in &mut next.pieces {
            if is(piece, "InRelease") {
                piece.bytes = self.signer.clearsign(&text);
            } else if is(piece, "Release.gpg") {
                piece.bytes = self.signer.detached(&text);
            } else if is(piece, "Release") {
                piece.bytes.clone_from(&text);
            }
        }
        next
    }
}

fn config(apt: &str, rpm: &str) -> ServerConfig {
    ServerConfig::default()
        .upstream("apt", "generic-deb", apt, "suites = [\"stable\"]\npoll_secs = 1")
        .upstream("rpm", "generic-rpm", rpm, "suites = [\"\"]\npoll_secs = 1")
}

fn serve(scratch: &Scratch, upstream: &Upstream) -> Server {
    Server::start(scratch, &config(&upstream.url("apt"), &upstream.url("rpm")))
}

fn piece<'a>(of: &'a Generation, path: &str) -> &'a Piece {
    of.pieces.iter().find(|piece| piece.path == path).unwrap_or_else(|| panic!("no {path}"))
}

const ROOTS: [&str; 2] = ["apt/dists/stable/InRelease", "rpm/repodata/repomd.xml"];

/// Waits until both repositories show this generation.
fn wait_adopted(server: &Server, of: &Generation) {
    for root in ROOTS {
        wait_for(&format!("generation {} of {root}", of.number), DEADLINE, || {
            get(&server.url(root)).body == piece(of, root).bytes
        });
    }
}

/// The same without a request that makes the asking address a reader of it.
fn wait_adopted_unseen(server: &Server, generation: u64) {
    server.wait_until("the next generation is adopted", |status| {
        let snapshots = status.0["snapshots"].as_array().expect("status has snapshots");
        snapshots.iter().any(|s| s["repo"] == "apt" && s["generation"].as_u64() >= Some(generation))
    });
}

/// Files whose names change with their contents.
fn is_stable(piece: &&Piece) -> bool {
    piece.part == Part::Member && (piece.path.contains("/by-hash/") || piece.path.starts_with("rpm/"))
}

fn check<'a>(server: &Server, pieces: impl Iterator<Item = &'a Piece>) {
    let mut count = 0;
    for piece in pieces {
        let answer = get(&server.url(&piece.path));
        assert_eq!(answer.status, 200, "{}: {}", piece.path, answer.text());
        assert!(answer.body == piece.bytes && !answer.cut, "{}", piece.path);
        count += 1;
    }
    assert!(count > 0, "there is something to check");
}

/// Three generations that a client has read; the upstream has only the last of them.
fn three(mirror: &Mirror, server_of: impl FnOnce() -> Server) -> (Server, Vec<Generation>) {
    let all: Vec<Generation> = (1..=3).map(|number| mirror.make(number)).collect();
    mirror.publish(&all[0]);
    let server = server_of();
    for next in &all {
        mirror.publish(next);
        wait_adopted(&server, next);
        check(&server, next.pieces.iter());
    }
    (server, all)
}

/// Everything that must come of three generations, whatever became of the upstream.
fn check_three(server: &Server, all: &[Generation]) {
    for of in all {
        check(server, of.pieces.iter().filter(is_stable));
    }
    check(server, all[2].pieces.iter());
}

fn stop(mut server: Server) -> PathBuf {
    server.process.terminate();
    server.config.clone()
}

#[test]
fn three_generations_outlive_the_upstream_and_a_restart() {
    let scratch = Scratch::new();
    let mirror = Mirror::new(&scratch, true);
    let upstream = Upstream::start(&mirror.root);
    let (server, all) = three(&mirror, || serve(&scratch, &upstream));
    let path = &all[0].pieces.iter().find(is_stable).expect("a member").path;
    let before = upstream.gets(path);
    check_three(&server, &all);
    assert_eq!(upstream.gets(path), before, "nobody asks the upstream for what it has deleted");

    drop(upstream);
    check_three(&server, &all);
    let file = stop(server);
    let mut server = Server::start_file(&file);
    check_three(&server, &all);

    // The outage shows where an administrator looks.
    let warning = server.process.wait_message("keeping the last good generation");
    assert!(warning["error"].as_str().is_some_and(|error| !error.is_empty()), "{warning}");
    let status = server.wait_until("both repositories have a problem", |status| {
        let snapshots = status.0["snapshots"].as_array().expect("status has snapshots");
        snapshots.len() == 2 && snapshots.iter().all(|s| s["problem"].is_string())
    });
    assert!(status.0["snapshots"].as_array().is_some_and(|all| all.iter().all(|s| s["generation"] == 3)));
    let admin = format!("http://{}", server.admin);
    let text = run_ok(Command::new(BINARY).args(["status", "--admin", &admin]));
    let line =
        text.lines().find(|line| line.starts_with("apt/dists/stable")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("InRelease") && line.ends_with(')'), "{line}");
    println!("{text}");
}

#[test]
fn each_connection_goes_on_reading_the_generation_it_began_with() {
    let scratch = Scratch::new();
    let mirror = Mirror::new(&scratch, false);
    let upstream = Upstream::start(&mirror.root);
    let (old, new) = (mirror.make(1), mirror.make(2));
    mirror.publish(&old);
    let server = serve(&scratch, &upstream);
    wait_adopted(&server, &old);
    check(&server, old.pieces.iter().filter(|piece| piece.path.starts_with("apt/")));

    let [mut first, mut second] = [(); 2].map(|()| Conn::open(server.address()));
    // Only apt keeps to one connection.
    let apt = ("User-Agent", "Debian APT-HTTP/1.3 (2.6.1)");
    let read = |conn: &mut Conn, path: &str| conn.ask("GET", &format!("/{path}"), &[apt]).expect(200).body;
    let suite = |name: &str| format!("apt/dists/stable/{name}");
    let is_of = |body: &[u8], of: &Generation, name: &str| body == piece(of, &suite(name)).bytes;
    assert!(is_of(&read(&mut first, &suite("InRelease")), &old, "InRelease"));
    assert!(is_of(&read(&mut second, &suite("Release")), &old, "Release"));
    mirror.publish(&new);
    wait_adopted_unseen(&server, 2);

    let mut third = Conn::open(server.address());
    assert!(is_of(&read(&mut third, &suite("InRelease")), &new, "InRelease"));
    for name in ["main/binary-amd64/Packages.xz", "extra/binary-amd64/Packages.gz", "Release.gpg"] {
        for (conn, of) in [(&mut first, &old), (&mut second, &old), (&mut third, &new)] {
            assert!(is_of(&read(conn, &suite(name)), of, name), "{name} of generation {}", of.number);
        }
    }
    // Who begins anew reads the new one.
    assert!(is_of(&read(&mut first, &suite("InRelease")), &new, "InRelease"));
    assert!(is_of(
        &read(&mut first, &suite("main/binary-amd64/Packages.xz")),
        &new,
        "main/binary-amd64/Packages.xz"
    ));
}

fn indexes(scratch: &Scratch) -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch.path("server-state/index")).expect("the indexes");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

const REBUILT: &str = "an index is unusable and is rebuilt";

#[test]
fn damaged_and_missing_indexes_are_made_again() {
    let scratch = Scratch::new();
    let mirror = Mirror::new(&scratch, true);
    let upstream = Upstream::start(&mirror.root);
    let (server, all) = three(&mirror, || serve(&scratch, &upstream));
    wait_for("every generation has an index", DEADLINE, || indexes(&scratch).len() == 6);
    drop(upstream);
    let file = stop(server);

    let sound: Vec<(PathBuf, Vec<u8>)> =
        indexes(&scratch).into_iter().map(|path| (path.clone(), fs::read(path).expect("an index"))).collect();
    for (path, bytes) in &sound {
        let mut wrong = bytes.clone();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        fs::write(path, wrong).expect("the scratch folder is writable");
    }
    let server = Server::start_file(&file);
    check_three(&server, &all);
    wait_for("each damaged index is told of", DEADLINE, || server.process.messages(REBUILT).len() == 6);
    wait_for("the indexes are what they were", DEADLINE, || {
        sound.iter().all(|(path, bytes)| fs::read(path).is_ok_and(|made| made == *bytes))
    });
    let file = stop(server);

    for path in indexes(&scratch) {
        fs::remove_file(path).expect("the scratch folder is writable");
    }
    let server = Server::start_file(&file);
    check_three(&server, &all);
    assert_eq!(server.process.messages(REBUILT).len(), 0, "nothing was damaged");
    wait_for("every generation has an index again", DEADLINE, || indexes(&scratch).len() == 6);
    stop(server);
}

/// A date as Release files write it.
fn date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time).replace("GMT", "UTC")
}

#[test]
fn clients_judge_what_has_expired_themselves() {
    let scratch = Scratch::new();
    let mirror = Mirror::new(&scratch, true);
    let until = SystemTime::now() + Duration::from_secs(8);
    let add =
        |text: &str| text.replace("\nComponents:", &format!("\nValid-Until: {}\nComponents:", date(until)));
    let only = mirror.with_release(mirror.make(1), add);
    mirror.publish(&only);
    let upstream = Upstream::start(&mirror.root);
    let server = serve(&scratch, &upstream);
    wait_adopted(&server, &only);
    check(&server, only.pieces.iter());
    assert!(SystemTime::now() < until, "the machine is too slow for this test");
    drop(upstream);
    let told = "what is served has expired (Valid-Until), and the origin has nothing newer";
    wait_for("the expiry to be told", DEADLINE, || {
        get(&server.url(ROOTS[0])).expect(200);
        !server.process.messages(told).is_empty()
    });
    assert!(SystemTime::now() > until);
    // Clients judge it themselves, as they would at the origin.
    check(&server, only.pieces.iter());
}

#[test]
fn an_older_release_is_refused() {
    let scratch = Scratch::new();
    let mirror = Mirror::new(&scratch, true);
    let newest = mirror.make(5);
    mirror.publish(&newest);
    let upstream = Upstream::start(&mirror.root);
    let server = serve(&scratch, &upstream);
    wait_adopted(&server, &newest);
    check(&server, newest.pieces.iter());

    mirror.publish(&mirror.make(2));
    server.wait_until("the older one is looked at", |status| {
        let snapshots = status.0["snapshots"].as_array().expect("status has snapshots");
        let problem = |s: &serde_json::Value| {
            s["problem"].as_str().is_some_and(|p| p.contains("older than what is served"))
        };
        snapshots.iter().any(|s| s["repo"] == "apt" && problem(s))
    });
    check(&server, newest.pieces.iter().filter(|piece| piece.path.starts_with("apt/")));

    let next = mirror.make(6);
    mirror.publish(&next);
    wait_adopted(&server, &next);
}

/// As of a mirror that got its files some time ago.
fn age(root: &Path, of: &Generation) {
    let then = SystemTime::now() - Duration::from_secs(3600 - u64::from(of.number));
    for piece in &of.pieces {
        let file = fs::File::options().write(true).open(root.join(&piece.path)).expect("published");
        file.set_modified(then).expect("times can be set");
    }
}

#[test]
fn an_unchanged_upstream_answers_304() {
    let scratch = Scratch::new();
    let mirror = Mirror::new(&scratch, true);
    let (old, new) = (mirror.make(1), mirror.make(2));
    mirror.publish(&old);
    age(&mirror.root, &old);
    let nginx = Nginx::start(&scratch, &mirror.root);
    let server = Server::start(&scratch, &config(&nginx.url("apt"), &nginx.url("rpm")));
    wait_adopted(&server, &old);
    let answers = |path: &str, status: u16| {
        let line = format!("GET /{path} HTTP/1.1 {status}");
        fs::read_to_string(&nginx.log).expect("nginx has a log").lines().filter(|l| **l == line).count()
    };
    for root in ROOTS {
        wait_for("looks that bring nothing", DEADLINE, || answers(root, 304) >= 2);
        let whole = answers(root, 200);
        wait_for("another look", DEADLINE, || answers(root, 304) >= 4);
        assert_eq!(answers(root, 200), whole, "{root} is not sent again");
    }
    mirror.publish(&new);
    age(&mirror.root, &new);
    wait_adopted(&server, &new);
    check(&server, new.pieces.iter());
    let before = answers(ROOTS[0], 304);
    wait_for("a look at the new one that brings nothing", DEADLINE, || answers(ROOTS[0], 304) > before);
}
