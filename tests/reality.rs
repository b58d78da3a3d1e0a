//! One release, carried for real and simulated: twelve volunteers of unequal rates and sixty clients, each on a host
//! of its own. What the simulator says of the same scenario must be what happens.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use support::net::edition::{Editions, Package, REPO};
use support::net::{Bed, Host, Plan, alone};
use support::{
    Apt, BINARY, DEADLINE, Scratch, fetch, poll, report, run_ok, run_within, sha256_file, test_key, try_get,
};

/// What scenarios/reality.toml says too.
const PACKAGES: usize = 4;
const SIZE: usize = 1 << 20;
const CLIENTS: u8 = 60;
const WITHIN: Duration = Duration::from_secs(30);
const RATES: [&str; 12] = [
    "256KiB/s",
    "256KiB/s",
    "512KiB/s",
    "512KiB/s",
    "512KiB/s",
    "768KiB/s",
    "768KiB/s",
    "1MiB/s",
    "1MiB/s",
    "1280KiB/s",
    "1536KiB/s",
    "1792KiB/s",
];
const RELEASE: &str = "deb/dists/stable/InRelease";
const SCENARIO: &str = "scenarios/reality.toml";
/// Every fifth client is apt; the others, which cost this machine less, fetch the same with curl.
const APT_EVERY: u8 = 5;
/// One that is not done by then has failed.
const LIMIT: Duration = Duration::from_secs(180);
/// A volunteer's bytes are counted on the cable, with what TCP/IP adds, over windows of this.
const WINDOW: usize = 5;
const CABLE: f64 = 1.08;
/// What one of the server's tests asks a volunteer for; it is counted when it has ended.
const TEST_PART: usize = 64 << 10;

/// What happened to the clients.
struct Ran {
    makespan: f64,
    /// Seconds from start to end, of each.
    took: Vec<f64>,
}

/// Ends the watch when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Bytes that a volunteer had put on its cable at some time.
type Samples = Vec<Vec<(f64, u64)>>;

#[test]
fn a_release_is_carried_as_the_simulator_says() {
    alone("a_release_is_carried_as_the_simulator_says", || {
        let goods = Scratch::new();
        let editions = Editions::new(&goods, PACKAGES, SIZE);
        let old = editions.publish(1);
        let config = editions.config("").server_lines("uplink = \"2MiB/s\"");
        let plan = Plan { volunteers: 12, clients: CLIENTS, rates: &RATES, ..Plan::new(config) };
        let bed = Bed::start(&plan);
        bed.server_host.limit("16mbit");
        popular(&bed, &old);

        let before = fetch(&bed.url(RELEASE));
        let new = editions.publish(2);
        let gate = wait_visible(&bed, &before);
        bed.wait_quiet();
        let before = bed.try_status().expect("the server is there");
        let is_over = AtomicBool::new(false);
        let (ran, samples) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| watch(&bed, &is_over));
            // Also when a client fails.
            let over = Over(&is_over);
            let ran = crowd(&bed, &new);
            drop(over);
            (ran, watch.join().expect("cables are counted"))
        });
        bed.wait_quiet();
        let after = bed.wait_within("the crowd has ended", DEADLINE * 2, |_| {
            crowd_lines(&bed).iter().any(|line| line.contains("ended"))
        });

        let wanted = (usize::from(CLIENTS) * PACKAGES * SIZE) as f64;
        let grown = |field: &str| (after.sum(field) - before.sum(field)) as f64;
        // The server's own tests look like clients: volunteers count what these take.
        let tested = grown("tested_bytes");
        let by_volunteers = grown("served_bytes") - tested;
        let by_server = (after.offload("served_bytes") - before.offload("served_bytes")) as f64;
        let offload = 100.0 * by_volunteers / wanted;
        let simulated = simulate();
        let (sim_offload, sim_makespan) =
            (100.0 * figure(&simulated, "offload_bytes"), figure(&simulated, "makespan"));
        let busiest = busiest(&samples);
        let mut text = format!(
            "reality check: {CLIENTS} clients, {PACKAGES} x {SIZE} bytes within {} s, 12 volunteers\n\
             sent of what was asked for: {:.2} % by volunteers, {:.2} % by the server; besides, {:.2} % for its tests\n\
             {:<24}{:>10}{:>12}\n{:<24}{offload:>10.1}{sim_offload:>12.1}\n{:<24}{:>10.1}{sim_makespan:>12.1}\n\
             seconds per client: median {:.1}, slowest {:.1}; visible after {:.1} s\n\
             most of its donated rate that a volunteer put on its cable in {WINDOW} s: {:.2}\n",
            WITHIN.as_secs(),
            offload,
            100.0 * by_server / wanted,
            100.0 * tested / wanted,
            "",
            "real",
            "simulated",
            "offload, % of bytes",
            "makespan, s",
            ran.makespan,
            ran.took[ran.took.len() / 2],
            ran.took[ran.took.len() - 1],
            gate.as_secs_f64(),
            busiest
        );
        text.extend(crowd_lines(&bed).into_iter().map(|line| line + "\n"));
        report("reality", &text);
        // Nothing fails here, so nothing is sent twice.
        let sent = by_volunteers + by_server;
        let under_way = (bed.workers.len() * TEST_PART) as f64;
        assert!(sent <= wanted + under_way, "{sent} bytes were sent for {wanted} asked for\n{text}");
        assert!(offload >= 90.0, "volunteers carried {offload:.1} %\n{text}");
        // Beside other tests the machine itself is what clients wait for now and then.
        let (points, factor) =
            if std::env::var_os("MANYHANDS_SOAK").is_some() { (5.0, 1.2) } else { (8.0, 1.4) };
        assert!((offload - sim_offload).abs() <= points, "the simulator's offload is another\n{text}");
        let ratio = ran.makespan / sim_makespan;
        assert!((1.0 / factor..=factor).contains(&ratio), "the simulator's makespan is another\n{text}");
        assert!(busiest <= CABLE, "a volunteer gave more than it donates\n{text}");
    });
}

/// The old version has been asked for, so volunteers hold it and the new one is known to be wanted.
fn popular(bed: &Bed, packages: &[Package]) {
    let paths: Vec<String> = packages.iter().map(|package| package.path.clone()).collect();
    bed.place(&paths);
    for _ in 0..10 {
        paths.iter().for_each(|path| drop(fetch(&bed.url(path))));
    }
    bed.wait_quiet();
}

/// Asks until clients see another list of packages than this; how long that took.
fn wait_visible(bed: &Bed, before: &[u8]) -> Duration {
    let begin = Instant::now();
    let seen = poll(4 * DEADLINE, || try_get(&bed.url(RELEASE)).ok().filter(|answer| answer.body != before));
    assert!(seen.is_some(), "the new version does not become visible");
    begin.elapsed()
}

fn crowd(bed: &Bed, packages: &[Package]) -> Ran {
    let begin = Instant::now();
    let mut took: Vec<f64> = std::thread::scope(|scope| {
        let client = |number: usize, host| {
            scope.spawn(move || {
                let due = WITHIN.mul_f64(number as f64 / f64::from(CLIENTS));
                poll(2 * WITHIN, || (begin.elapsed() >= due).then_some(()));
                let start = Instant::now();
                fetch_all(bed, host, number, packages);
                start.elapsed().as_secs_f64()
            })
        };
        let all: Vec<_> = bed.clients.iter().enumerate().map(|(number, host)| client(number, host)).collect();
        all.into_iter().map(|client| client.join().expect("a client gets its files")).collect()
    });
    let makespan = begin.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    Ran { makespan, took }
}

fn fetch_all(bed: &Bed, host: &Host, number: usize, packages: &[Package]) {
    let root = bed.scratch.path(&format!("client-{number}"));
    std::fs::create_dir_all(&root).expect("the scratch folder is writable");
    if number.is_multiple_of(usize::from(APT_EVERY)) {
        by_apt(bed, host, &root, packages);
    } else {
        by_curl(bed, host, &root, packages);
    }
}

fn by_apt(bed: &Bed, host: &Host, root: &Path, packages: &[Package]) {
    let source = format!("deb [signed-by={}] {} stable main", test_key().display(), bed.url(REPO));
    let apt = Apt::new(root, &[source]);
    let run = |arguments: &[&str]| {
        let mut command = apt.command("apt-get");
        command.args(arguments);
        let (status, out, err) = run_within(&mut host.enter(&command), LIMIT);
        assert!(status.is_some_and(|status| status.success()), "apt {arguments:?}\n{out}\n{err}");
    };
    run(&["update"]);
    let names = packages.iter().map(|package| package.name.as_str());
    run(&["install", "--download-only"].into_iter().chain(names).collect::<Vec<_>>());
    let archives = apt.archives();
    let kept: Vec<String> = archives.iter().map(|path| sha256_file(path)).collect();
    assert!(
        packages.iter().all(|package| kept.contains(&package.sha256)),
        "apt kept other bytes: {archives:?}"
    );
}

fn by_curl(bed: &Bed, host: &Host, root: &Path, packages: &[Package]) {
    let mut curl = Command::new("curl");
    curl.current_dir(root).args(["--fail", "--silent", "--show-error", "--location"]);
    let lists = ["dists/stable/InRelease", "dists/stable/main/binary-amd64/Packages.gz"];
    let lists = lists.iter().map(|path| (path.replace('/', "_"), format!("{REPO}/{path}")));
    for (file, path) in lists.chain(packages.iter().map(|p| (p.name.clone(), p.path.clone()))) {
        curl.args(["--output", &file, &bed.url(&path)]);
    }
    let (status, _, err) = run_within(&mut host.enter(&curl), LIMIT);
    assert!(status.is_some_and(|status| status.success()), "curl: {err}");
    for package in packages {
        assert_eq!(sha256_file(&root.join(&package.name)), package.sha256, "other bytes");
    }
}

/// Counts every volunteer's bytes once a second.
fn watch(bed: &Bed, is_over: &AtomicBool) -> Samples {
    let begin = Instant::now();
    let mut samples: Samples = vec![Vec::new(); bed.workers.len()];
    for second in 0_u32.. {
        let due = Duration::from_secs(u64::from(second));
        poll(DEADLINE, || (begin.elapsed() >= due || is_over.load(Ordering::SeqCst)).then_some(()));
        for (worker, samples) in bed.workers.iter().zip(&mut samples) {
            samples.push((begin.elapsed().as_secs_f64(), bed.network.bytes_from(&worker.host)));
        }
        if is_over.load(Ordering::SeqCst) {
            break;
        }
    }
    samples
}

/// The largest share of its donated rate that any volunteer sent over any window.
fn busiest(samples: &Samples) -> f64 {
    let of = |(samples, rate): (&Vec<(f64, u64)>, &&str)| {
        let shares = samples
            .iter()
            .zip(samples.iter().skip(WINDOW))
            .map(|((t0, b0), (t1, b1))| (b1 - b0) as f64 / (t1 - t0) / bytes_per_sec(rate));
        shares.fold(0.0, f64::max)
    };
    samples.iter().zip(&RATES).map(of).fold(0.0, f64::max)
}

fn bytes_per_sec(rate: &str) -> f64 {
    let (number, unit) = rate.split_at(rate.find(|c: char| c.is_alphabetic()).expect("a unit"));
    let number: f64 = number.parse().expect("a number");
    number * if unit.starts_with('M') { f64::from(1 << 20) } else { 1024.0 }
}

/// What the log says of crowds, as people read it.
fn crowd_lines(bed: &Bed) -> Vec<String> {
    let is_crowd = |fields: &Value| fields["message"].as_str().is_some_and(|text| text.contains("crowd"));
    // Not those of the old version, before.
    let is_new = |fields: &Value| fields["what"] == "deb dists/stable";
    let is_crowd = |fields: &Value| is_crowd(fields) && is_new(fields);
    bed.fields().into_iter().filter(is_crowd).map(|fields| fields.to_string()).collect()
}

/// The same by the simulator.
fn simulate() -> Value {
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCENARIO);
    let mut command = Command::new(BINARY);
    let out = run_ok(command.arg("simulate").arg(scenario).args(["--seeds", "10", "--json", "-"]));
    serde_json::from_str(&out).expect("the simulator writes JSON")
}

fn figure(simulated: &Value, name: &str) -> f64 {
    let all = simulated["balancers"].as_array().expect("a report has balancers");
    let own = all.iter().find(|each| each["balancer"] == "manyhands").expect("manyhands is one of them");
    own["figures"][name]["mean"].as_f64().unwrap_or_else(|| panic!("no {name}: {own}"))
}
