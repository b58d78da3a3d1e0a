//! Forty clients at once for a file that no volunteer has yet: each has it soon, at a server with a fast line, which
//! gives it to them, and at one with a thin line, where one copy leaves the server and volunteers pass on what they have
//! of it. Beside it what the simulator says of the same.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::net::edition::{Editions, Package};
use support::net::{Bed, Host, Plan, alone};
use support::{BINARY, DEADLINE, Scratch, Status, report, run_ok, run_within, sha256_file};

const SIZE: usize = 5_000_000;
const CLIENTS: u8 = 40;
const RATE: &str = "4MiB/s";
/// One that is not done by then has failed: alone, the thin line would send for 200 s.
const LIMIT: Duration = Duration::from_secs(100);

/// The server's line.
struct Line {
    name: &'static str,
    /// As tc(8) and as the configuration say it.
    limit: &'static str,
    uplink: &'static str,
    scenario: &'static str,
    /// Slowest p90 that is allowed here, in seconds: this machine may be busy, and the program is a debug build.
    most: f64,
}

const FAST: Line = Line {
    name: "fast",
    limit: "1gbit",
    uplink: "uplink = \"125MB/s\"",
    scenario: "scenarios/crowd-idle.toml",
    most: 15.0,
};
const THIN: Line = Line {
    name: "thin",
    limit: "8mbit",
    uplink: "uplink = \"1MB/s\"",
    scenario: "scenarios/crowd-thin.toml",
    most: 40.0,
};

/// Runs the crowd and says how it fared; the status after it.
fn crowd(line: &Line) -> Status {
    let goods = Scratch::new();
    let editions = Editions::new(&goods, 1, SIZE);
    let package = editions.publish(1).remove(0);
    let config = editions.config("").server_lines(line.uplink);
    let plan = Plan { volunteers: 4, clients: CLIENTS, donate: RATE, ..Plan::new(config) };
    let bed = Bed::start(&plan);
    bed.server_host.limit(line.limit);
    let mut took: Vec<f64> = std::thread::scope(|scope| {
        let (bed, package) = (&bed, &package);
        let client = |(number, host)| scope.spawn(move || fetch(bed, host, number, package));
        let all: Vec<_> = bed.clients.iter().enumerate().map(client).collect();
        all.into_iter().map(|client| client.join().expect("a client gets its file")).collect()
    });
    took.sort_by(f64::total_cmp);
    let (p50, p90, last) = (took[20], took[36], took[39]);
    let status = bed.wait_within("reports of all bytes", DEADLINE, |status| {
        status.sum("served_bytes") + status.offload("served_bytes") >= u64::from(CLIENTS) * SIZE as u64
    });
    let text = format!(
        "{CLIENTS} clients at once, {SIZE} bytes, server {}, four volunteers of {RATE}\n\
         seconds: p50 {p50:.1}, p90 {p90:.1}, last {last:.1}; simulated p90 {:.1}; by volunteers {:.0} %\n",
        line.limit,
        simulated_p90(line.scenario),
        100.0 * offload(&status),
    );
    report(&format!("first-minute-{}", line.name), &text);
    assert!(p90 <= line.most, "{text}{}", status.pretty());
    status
}

/// How long one client takes for it.
fn fetch(bed: &Bed, host: &Host, number: usize, package: &Package) -> f64 {
    let file = bed.scratch.path(&format!("client-{number}"));
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--output"]);
    curl.arg(&file).arg(bed.url(&package.path));
    let begin = Instant::now();
    let (status, _, err) = run_within(&mut host.enter(&curl), LIMIT);
    let took = begin.elapsed().as_secs_f64();
    assert!(status.is_some_and(|status| status.success()), "curl: {err}");
    assert_eq!(sha256_file(&file), package.sha256, "other bytes");
    took
}

/// The share that volunteers sent.
fn offload(status: &Status) -> f64 {
    status.sum("served_bytes") as f64 / f64::from(CLIENTS) / SIZE as f64
}

fn simulated_p90(scenario: &str) -> f64 {
    let mut command = Command::new(BINARY);
    command.arg("simulate").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(scenario));
    for change in ["baselines=[]", "clients.shape.flash.clients=0", "duration=5min"] {
        command.args(["--set", change]);
    }
    let report: Value =
        serde_json::from_str(&run_ok(command.args(["--seeds", "5", "--json", "-"]))).expect("JSON");
    let p90 = &report["balancers"][0]["figures"]["first_minute_p90"]["mean"];
    p90.as_f64().unwrap_or_else(|| panic!("no p90: {report}"))
}

#[test]
fn forty_who_come_at_once_to_an_idle_server_have_the_file_soon() {
    alone("forty_who_come_at_once_to_an_idle_server_have_the_file_soon", || drop(crowd(&FAST)));
}

#[test]
fn forty_at_a_thin_line_wait_little_longer_than_one_copy_takes() {
    alone("forty_at_a_thin_line_wait_little_longer_than_one_copy_takes", || {
        let status = crowd(&THIN);
        assert!(offload(&status) >= 0.8, "{}", status.pretty());
        // Copies do not cross the thin line one by one.
        let copies = status.offload("sync_bytes");
        assert!(copies <= 2 * SIZE as u64, "{copies} bytes of copies\n{}", status.pretty());
    });
}
