//! kill -9 at random instants: what is left behind is whole, and the next start needs no repair.
//!
//! The seed is printed; MANYHANDS_SEED=N repeats its order of events, as far as clients and clocks allow.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::generation::{COMPONENTS, Signer};
use support::{
    DEADLINE, DebRepo, Fault, GENTLE, Publisher, Scratch, Server, ServerConfig, Upstream, Volunteer,
    VolunteerOptions, poll, random_bytes, report, scaled, sha256_hex, try_get, wait_for, wrong_blobs,
};

/// Packages that do not fit into the cache all at once.
const PACKAGES: u64 = 24;
const PACKAGE_BYTES: u64 = 150_000;
const CACHE: &str = "1500KB";
/// A process lives this long at most before it is killed.
const LIFE_MS: u64 = 600;

fn seed() -> u64 {
    let given = std::env::var("MANYHANDS_SEED").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(7, |age| age.as_secs());
    given.unwrap_or_else(now)
}

/// Numbers below `end`, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 += 1;
        let bytes = random_bytes(self.0, 8);
        u64::from_le_bytes(bytes.try_into().expect("8 bytes")) % end
    }
}

/// Clients that ask a server which dies under them, and what they got whole.
struct Clients {
    address: RwLock<Option<String>>,
    paths: Vec<String>,
    /// What each path must be, where it never changes.
    wanted: Vec<Option<String>>,
    whole: AtomicU64,
    /// Answers that were not whole, by what they were.
    failed: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Clients {
    fn new(paths: Vec<String>, wanted: Vec<Option<String>>) -> Self {
        Self {
            address: RwLock::new(None),
            paths,
            wanted,
            whole: AtomicU64::new(0),
            failed: Mutex::default(),
            wrong: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Where they ask from now on.
    fn point_to(&self, address: Option<&str>) {
        *self.address.write().expect("no client panics") = address.map(str::to_owned);
    }

    /// Lines of a report; fails if a whole answer was a wrong one.
    fn figures(&self) -> String {
        let wrong = self.wrong.lock().expect("no client panics");
        assert!(wrong.is_empty(), "whole answers with wrong bytes: {wrong:?}");
        let whole = self.whole.load(Ordering::Relaxed);
        let mut text = format!("{:<36}{whole:>10}\n", "whole answers, all right");
        for (what, count) in self.failed.lock().expect("no client panics").iter() {
            let _ = writeln!(text, "{:<36}{count:>10}", format!("answers: {what}"));
        }
        text
    }

    fn run(&self, seed: u64) {
        let mut random = Random(seed << 20);
        while !self.stop.load(Ordering::SeqCst) {
            let address = || self.address.read().expect("no client panics").clone();
            let ended = || self.stop.load(Ordering::SeqCst);
            let next = poll(DEADLINE, || address().map(Some).or_else(|| ended().then_some(None)));
            let Some(Some(address)) = next else { return };
            let at = random.below(self.paths.len() as u64) as usize;
            match ask(&address, &self.paths[at]) {
                Ok(body) => {
                    self.whole.fetch_add(1, Ordering::Relaxed);
                    let is_wrong = self.wanted[at].as_ref().is_some_and(|want| *want != sha256_hex(&body));
                    if is_wrong {
                        self.wrong.lock().expect("no client panics").push(self.paths[at].clone());
                    }
                }
                Err(what) => *self.failed.lock().expect("no client panics").entry(what).or_default() += 1,
            }
        }
    }
}

/// A whole answer with status 200, through one redirect if need be; else what came.
fn ask(address: &str, path: &str) -> Result<Vec<u8>, String> {
    let answer = try_get(&format!("http://{address}/{path}"));
    let answer = match answer {
        Ok(answer) if answer.status == 302 => try_get(answer.must("location")),
        answer => answer,
    };
    match answer {
        Ok(answer) if answer.cut => Err("cut".to_owned()),
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(answer.status.to_string()),
        Err(_) => Err("no connection".to_owned()),
    }
}

/// Files in a store's folder for incoming files that are older than the process that runs now.
fn leftovers(store: &Path, started: SystemTime) -> Vec<String> {
    let Ok(entries) = fs::read_dir(store.join("tmp")) else { return Vec::new() };
    let is_old = |entry: &fs::DirEntry| {
        entry.metadata().and_then(|meta| meta.modified()).is_ok_and(|modified| modified < started)
    };
    let old = entries.filter_map(Result::ok).filter(is_old);
    old.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn flat_repo(scratch: &Scratch) -> (DebRepo, Vec<String>, Vec<Option<String>>) {
    let mut repo = DebRepo::new(&scratch.path("mirror/flat"));
    let (mut paths, mut wanted) = (Vec::new(), Vec::new());
    for n in 0..PACKAGES {
        let bytes = random_bytes(n, (PACKAGE_BYTES + n * 1000) as usize);
        paths.push(format!("flat/{}", repo.add(&format!("p{n}"), &bytes)));
        wanted.push(Some(sha256_hex(&bytes)));
    }
    repo.publish();
    (repo, paths, wanted)
}

/// Every file of a server's stores is what its name says.
fn check_blobs(state: &Path, when: &str) {
    for part in ["cache", "metadata"] {
        let wrong = wrong_blobs(&state.join(part));
        assert!(wrong.is_empty(), "{when}: {part} holds wrong {wrong:?}");
    }
}

/// Nothing half-written is left of the time before.
fn check_temporary(state: &Path, started: SystemTime, when: &str) {
    for part in ["cache", "metadata"] {
        let old = leftovers(&state.join(part), started);
        assert!(old.is_empty(), "{when}: {part}/tmp keeps {old:?}");
    }
}

/// The generation in a root file; `None` if it cannot be had.
fn generation_of(release: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(release);
    text.lines().find_map(|line| line.strip_prefix("Version: ")?.parse().ok())
}

/// With no upstream to ask, what is served is one whole generation; its number.
fn adopted_is_whole(address: &str) -> Option<u32> {
    let release = ask(address, "apt/dists/stable/InRelease").ok()?;
    let text = String::from_utf8_lossy(&release).into_owned();
    for component in COMPONENTS {
        let name = format!("{component}/binary-amd64/Packages.xz");
        let bytes = ask(address, &format!("apt/dists/stable/{name}")).ok()?;
        let line = format!(" {} {} {name}", sha256_hex(&bytes), bytes.len());
        assert!(text.contains(&line), "{name} is not of the generation that is served:\n{text}");
    }
    generation_of(&release)
}

#[test]
fn a_killed_server_comes_up_whole() {
    let (kills, seed) = (scaled(8_u32, 200), seed());
    println!("MANYHANDS_SEED={seed}");
    let scratch = Scratch::new();
    let publisher = Publisher::start(&scratch.path("mirror"), Signer::new(&scratch), true, GENTLE);
    let (_repo, mut paths, mut wanted) = flat_repo(&scratch);
    for path in ["apt/dists/stable/InRelease", "apt/dists/stable/main/binary-amd64/Packages.xz"] {
        paths.push(path.to_owned());
        wanted.push(None);
    }
    let upstream = Upstream::start(&scratch.path("mirror"));
    let suite = "suites = [\"stable\"]\npoll_secs = 1";
    let config = ServerConfig::default()
        .server_lines(&format!("[cache]\nmax_size = \"{CACHE}\""))
        .upstream("flat", "generic-deb", &upstream.url("flat"), "suites = [\"./\"]")
        .upstream("apt", "generic-deb", &upstream.url("apt"), suite);
    let mut server = Server::start(&scratch, &config);
    wait_for("the first generation", DEADLINE, || adopted_is_whole(server.address()).is_some());
    let clients = Clients::new(paths, wanted);
    let mut newest = 0;
    let mut slowest = Duration::ZERO;
    let mut generations = BTreeSet::new();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let clients = &clients;
            scope.spawn(move || clients.run(seed + n));
        }
        let _stop = Stop(&clients.stop);
        let mut random = Random(seed);
        for kill in 0..kills {
            clients.point_to(Some(server.address()));
            let life = Duration::from_millis(random.below(LIFE_MS));
            let begin = Instant::now();
            wait_for("the end of its life", DEADLINE, || begin.elapsed() >= life);
            server.process.kill();
            clients.point_to(None);
            check_blobs(&scratch.path("server-state"), &format!("kill {kill}, seed {seed}"));
            // Else it looks for a new generation at once, and is killed while it adopts one.
            let is_outage = kill % 3 == 2;
            upstream.set_outage(is_outage.then_some(Fault::Status(503)));
            let (begin, started) = (Instant::now(), SystemTime::now());
            server = Server::start_file(&server.config);
            slowest = slowest.max(begin.elapsed());
            check_temporary(&scratch.path("server-state"), started, &format!("kill {kill}, seed {seed}"));
            if is_outage {
                let generation = adopted_is_whole(server.address());
                let generation =
                    generation.unwrap_or_else(|| panic!("kill {kill}, seed {seed}: nothing served"));
                assert!(generation >= newest, "kill {kill}, seed {seed}: {generation} after {newest}");
                newest = generation;
                generations.insert(generation);
            }
            upstream.set_outage(None);
        }
    });
    let bytes = server.status().number("/cache/bytes");
    assert!(bytes <= 1_500_000, "the cache holds {bytes} bytes");
    let whole = clients.whole.load(Ordering::Relaxed);
    assert!(whole > u64::from(kills), "only {whole} answers: this tests nothing");
    let mut text = format!("server killed {kills} times, seed {seed}\n");
    text += &clients.figures();
    let _ = writeln!(text, "{:<36}{:>10}", "generations served after a kill", generations.len());
    let _ = writeln!(text, "{:<36}{:>10}", "generations published", publisher.newest());
    let _ = write!(text, "{:<36}{:>10}", "slowest start, ms", slowest.as_millis());
    report("crash-server", &text);
}

/// Ends the clients however the test ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_killed_volunteer_comes_up_whole() {
    let (kills, seed) = (scaled(8_u32, 200), seed());
    println!("MANYHANDS_SEED={seed}");
    let scratch = Scratch::new();
    let (repo, paths, wanted) = flat_repo(&scratch);
    let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
    let server = Server::start(&scratch, &config);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.max_size = Some(CACHE.to_owned());
    let mut volunteer = Volunteer::join(&server, options);
    let clients = Clients::new(paths, wanted);
    clients.point_to(Some(server.address()));
    let (mut slowest, mut held) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        for n in 0..2 {
            let clients = &clients;
            scope.spawn(move || clients.run(seed + n));
        }
        let _stop = Stop(&clients.stop);
        let mut random = Random(seed);
        for kill in 0..kills {
            let life = Duration::from_millis(random.below(LIFE_MS));
            let begin = Instant::now();
            wait_for("the end of its life", DEADLINE, || begin.elapsed() >= life);
            volunteer.process.kill();
            let store = volunteer.options.store.clone();
            let wrong = wrong_blobs(&store);
            assert!(wrong.is_empty(), "kill {kill}, seed {seed}: it holds wrong {wrong:?}");
            held += volunteer.options.stored().len();
            let (begin, started) = (Instant::now(), SystemTime::now());
            volunteer = Volunteer::start(volunteer.options.clone());
            slowest = slowest.max(begin.elapsed());
            let old = leftovers(&store, started);
            assert!(old.is_empty(), "kill {kill}, seed {seed}: tmp keeps {old:?}");
            server.wait_until("it joins again", |status| status.state("v1") == "up");
        }
    });
    assert!(held > 0, "it never held anything: this tests nothing");
    let mut text = format!("volunteer killed {kills} times, seed {seed}\n");
    text += &clients.figures();
    let _ = writeln!(text, "{:<36}{:>10.1}", "blobs held at a kill, mean", held as f64 / f64::from(kills));
    let _ = write!(text, "{:<36}{:>10}", "slowest start, ms", slowest.as_millis());
    report("crash-volunteer", &text);
}
