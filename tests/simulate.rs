//! `manyhands simulate`: the command, and short forms of what the scenarios show. Conservation of bytes and
//! Little's law are checked by every run itself, which fails if they do not hold.

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::{BINARY, Scratch, run};

const LIMIT: Duration = Duration::from_secs(120);

/// Twenty unequal volunteers, 20 MB/s together, and a server with a tenth of that.
const FLEET: &str = r#"
title = "short"
duration = "4min"
server = { uplink = "2MB/s" }
[[volunteers]]
count = 20
rate = { log_uniform = ["250kB/s", "4MB/s"] }
total = "20MB/s"
"#;

/// A crowd that all of them together can carry.
const CROWD: &str = r#"
[clients]
shape = { flash = { clients = 1200, ramp = "20s", half_life = "40s" } }
round_trip = "20ms"
timeout = "5s"
"#;

const SEEDED: &str = r#"
[files]
count = 30
size = { fixed = "1MB" }
zipf = 1.0
copies = 20
"#;

struct Played {
    dir: Scratch,
}

impl Played {
    fn new() -> Self {
        Self { dir: Scratch::new() }
    }

    fn command(&self, scenario: &str, arguments: &[&str]) -> Command {
        let file = self.dir.path("scenario.toml");
        fs::write(&file, scenario).expect("a scratch file");
        let mut command = Command::new(BINARY);
        command.arg("simulate").arg(file).args(arguments).current_dir(self.dir.path(""));
        command
    }

    /// Exit code, standard output and standard error.
    fn run(&self, scenario: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let (status, out, err) = run(&mut self.command(scenario, arguments), LIMIT);
        (status.code(), out, err)
    }

    fn json(&self, scenario: &str, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(scenario, &[&["--json", "-"], arguments].concat());
        assert_eq!(code, Some(0), "{err}");
        out
    }

    fn report(&self, scenario: &str) -> Report {
        Report(serde_json::from_str(&self.json(scenario, &[])).expect("JSON"))
    }
}

struct Report(Value);

impl Report {
    fn get(&self, balancer: &str, figure: &str) -> f64 {
        let all = self.0["balancers"].as_array().expect("a list");
        let of = all.iter().find(|one| one["balancer"] == balancer).expect("it was run");
        of["figures"][figure]["mean"].as_f64().unwrap_or_else(|| panic!("{balancer} has no {figure}"))
    }

    fn ours(&self, figure: &str) -> f64 {
        self.get("manyhands", figure)
    }
}

#[test]
fn the_same_seed_gives_the_same_output_whatever_the_threads() {
    let played = Played::new();
    let churn = "session = { weibull = { shape = 0.5, scale = \"2min\" } }\naway = { exponential = \"20s\" }\ncrash = 0.5\n";
    let scenario = format!("{FLEET}{churn}{SEEDED}{CROWD}");
    let first = played.json(&scenario, &["--seeds", "2", "--jobs", "1"]);
    assert_eq!(first, played.json(&scenario, &["--seeds", "2", "--jobs", "4"]));
    assert_ne!(first, played.json(&scenario, &["--seeds", "2", "--seed", "2"]));
    // The interval is that of two values that differ.
    let report: Value = serde_json::from_str(&first).expect("JSON");
    let time = &report["balancers"][0]["figures"]["time_mean"];
    assert!(time["ci95"].as_f64().expect("a number") > 0.0, "{time}");
}

#[test]
fn baselines_meet_the_same_clients_and_volunteers_carry_the_crowd() {
    let report = Played::new().report(&format!("{FLEET}{SEEDED}{CROWD}"));
    for balancer in ["manyhands", "none", "random", "weighted-random", "least-connections", "oracle"] {
        assert_eq!(report.get(balancer, "downloads"), 1200.0, "{balancer}");
    }
    assert_eq!(report.get("none", "offload_bytes"), 0.0);
    assert!(report.ours("offload_bytes") >= 0.95, "{}", report.ours("offload_bytes"));
    assert!(report.ours("time_p99") < 0.2 * report.get("none", "time_p99"));
    assert!(report.ours("time_mean") < report.get("random", "time_mean"));
    assert!(report.ours("makespan_ratio") < 1.25, "{}", report.ours("makespan_ratio"));
    assert!(report.ours("peak_use") <= 1.0001, "{}", report.ours("peak_use"));
}

#[test]
fn a_crowd_that_nobody_was_prepared_for_is_carried_by_copies() {
    let unseeded = SEEDED.replace("copies = 20", "");
    // A server whose line the first of them do not fill before it could send the first copies.
    let fleet = FLEET.replace("2MB/s\" }", "10MB/s\" }");
    let report = Played::new().report(&format!("{fleet}{unseeded}{CROWD}"));
    assert!(report.ours("offload_bytes") >= 0.8, "{}", report.ours("offload_bytes"));
    assert!(report.ours("sync") > 0.0 && report.ours("sync") < 0.5, "{}", report.ours("sync"));
    assert!(report.ours("peak_use") <= 1.0001, "{}", report.ours("peak_use"));
}

#[test]
fn a_third_that_vanishes_costs_retries_and_no_download() {
    let exodus = "[[departures]]\nat = \"40s\"\nshare = 0.3\n";
    let report = Played::new().report(&format!("{FLEET}{SEEDED}{CROWD}can_return = 0.5\n{exodus}"));
    assert_eq!(report.ours("downloads"), 1200.0);
    let retries = report.ours("retries");
    assert!(retries > 0.0 && retries < 0.1, "{retries}");
    assert!(report.ours("offload_bytes") >= 0.75, "{}", report.ours("offload_bytes"));
    assert_eq!(report.get("none", "retries"), 0.0);
    // With nothing lost the same crowd has none.
    let calm = Played::new().report(&format!("{FLEET}{SEEDED}{CROWD}"));
    assert_eq!(calm.ours("retries"), 0.0);
}

#[test]
fn whoever_sends_wrong_bytes_is_found_and_everybody_is_served() {
    let seeded = SEEDED.replace("copies = 20", "copies = 24");
    let wrong =
        |share: f64| format!("[[volunteers]]\ncount = 4\nrate = {{ fixed = \"1MB/s\" }}\nwrong = {share}\n");
    let report = Played::new().report(&format!("{FLEET}{}{seeded}{CROWD}", wrong(1.0)));
    assert_eq!((report.ours("downloads"), report.ours("found")), (1200.0, 1.0));
    assert!(report.ours("detection") < 60.0, "{}", report.ours("detection"));
    let (retries, wasted) = (report.ours("retries"), report.ours("wasted"));
    assert!(retries > 0.0 && retries < 0.1 && wasted > 0.0, "{retries} {wasted}");
    // Copies from them are thrown away too.
    let (fleet, unseeded) = (FLEET.replace("2MB/s\" }", "10MB/s\" }"), seeded.replace("copies = 24", ""));
    let spread = Played::new().report(&format!("{fleet}{}{unseeded}{CROWD}", wrong(1.0)));
    assert_eq!(spread.ours("downloads"), 1200.0);
    assert!(
        spread.ours("found") > 0.0 && spread.ours("offload_bytes") > 0.7,
        "{}",
        spread.ours("offload_bytes")
    );
    // Who sends nothing wrong is not found.
    let honest = Played::new().report(&format!("{FLEET}{}{seeded}{CROWD}", wrong(0.0)));
    assert_eq!((honest.ours("retries"), honest.ours("wasted")), (0.0, 0.0));
    assert!(honest.0["balancers"][0]["figures"]["found"]["mean"].is_null(), "there is nobody to find");
}

#[test]
fn clean_leaving_breaks_nothing_off() {
    let exodus = "[[departures]]\nat = \"40s\"\nshare = 0.5\ncrash = false\n";
    let report = Played::new().report(&format!("{FLEET}{SEEDED}{CROWD}{exodus}"));
    assert_eq!((report.ours("downloads"), report.ours("retries")), (1200.0, 0.0));
}

#[test]
fn a_target_is_shown_and_fails_only_a_check() {
    let played = Played::new();
    let scenario = |least: f64| {
        let alone = FLEET.replace("duration", "baselines = []\nduration");
        format!("{alone}{SEEDED}{CROWD}[targets]\noffload_bytes = {{ least = {least} }}\n")
    };
    let (code, out, err) = played.run(&scenario(0.5), &["--check"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("at least 0.5: holds"), "{out}");
    assert!(err.contains("events/s per core") && !out.contains("events/s"), "{err}\n{out}");
    let (code, out, _) = played.run(&scenario(1.1), &[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("at least 1.1: MISSED"), "{out}");
    assert_eq!(played.run(&scenario(1.1), &["--check"]).0, Some(1));
}

#[test]
fn a_sweep_has_a_row_for_each_value_and_the_page_needs_nothing_else() {
    let played = Played::new();
    let alone = FLEET.replace("duration", "baselines = [\"random\"]\nduration");
    let sweep = "[[sweep]]\nkey = \"params.beta\"\nvalues = [0.0, 2.0]\n";
    let (code, out, err) = played.run(&format!("{alone}{SEEDED}{CROWD}{sweep}"), &["--html", "page.html"]);
    assert_eq!(code, Some(0), "{err}");
    let swept: Vec<&str> = out.lines().skip_while(|line| !line.starts_with("params.beta")).collect();
    assert!(swept[1].starts_with("0.0") && swept[2].starts_with("2.0"), "{out}");
    let page = fs::read_to_string(played.dir.path("page.html")).expect("it was written");
    assert!(page.matches("<svg").count() >= 5 && page.contains("prefers-color-scheme: dark"), "{page}");
    for outside in ["<script", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn what_is_wrong_with_a_scenario_is_said() {
    let played = Played::new();
    for (scenario, want) in [
        ("title = 1", "is not a scenario"),
        (&format!("{FLEET}{SEEDED}{CROWD}colour = \"red\"\n"), "unknown field `colour`"),
        (&format!("{FLEET}crash = 2.0\n{SEEDED}{CROWD}"), "volunteers.crash: must be between 0 and 1"),
    ] {
        let (code, out, err) = played.run(scenario, &[]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains(want), "{want}: {err}");
    }
}

/// A scenario file, manyhands alone, with some keys changed.
fn cold_crowd(name: &str, changes: &[&str]) -> Report {
    let path = format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let scenario = fs::read_to_string(path).expect("a scenario");
    let changes = [&["baselines=[]"], changes].concat();
    let arguments: Vec<&str> = changes.iter().flat_map(|change| ["--set", *change]).collect();
    let out = Played::new().json(&scenario, &arguments);
    Report(serde_json::from_str(&out).expect("JSON"))
}

#[test]
fn volunteers_carry_a_cold_crowd_and_the_idle_server_its_first_minute() {
    for (name, most) in [("crowd-idle", 4.0), ("crowd-one-copy", 5.0), ("crowd-release", 4.0)] {
        let report = cold_crowd(name, &[]);
        assert!(report.ours("offload_bytes") >= 0.9, "{name}: {}", report.ours("offload_bytes"));
        let ratio = report.ours("first_minute_ratio");
        assert!((0.5..most).contains(&ratio), "{name}: {ratio}");
        // Without its credit the server leaves them all to whoever gets a copy first.
        let stingy = cold_crowd(name, &["params.credit=0"]);
        for figure in ["first_minute_ratio", "first_minute_idle_origin", "idle_origin"] {
            let (ours, worse) = (report.ours(figure), stingy.ours(figure));
            assert!(worse > ours, "{name}: {figure} is {ours}, and {worse} without credit");
        }
    }
}

#[test]
fn forty_alone_at_an_idle_server_take_what_its_line_takes() {
    let report = cold_crowd("crowd-idle", &["clients.shape.flash.clients=0", "duration=2min"]);
    assert_eq!(report.ours("downloads"), 40.0);
    // 200 MB over 125 MB/s and four times 4 MiB/s. Some are sent to volunteers that have just begun to fetch it.
    let bound = 200e6 / (125e6 + 4.0 * 4_194_304.0);
    assert!(
        (report.ours("first_minute_bound") - bound).abs() < 1e-6,
        "{}",
        report.ours("first_minute_bound")
    );
    assert!(report.ours("first_minute_ratio") < 2.0, "{}", report.ours("first_minute_ratio"));
}

#[test]
fn a_slow_server_sends_one_copy_which_volunteers_pass_on_while_it_comes() {
    let report = cold_crowd("crowd-thin", &[]);
    assert_eq!(report.ours("downloads"), 1840.0);
    let (offload, ratio) = (report.ours("offload_bytes"), report.ours("first_minute_ratio"));
    assert!(offload >= 0.9 && ratio <= 2.0, "{offload} {ratio}");
    // Where copies must be whole first, it serves all of the crowd itself.
    let whole = cold_crowd("crowd-thin", &["params.cut_through=false"]);
    assert_eq!(whole.ours("downloads"), 1840.0);
    assert!(whole.ours("offload_bytes") < 0.1 && whole.ours("first_minute_ratio") > 100.0);
    assert!(whole.ours("idle_origin") < 0.01, "it is never idle");
}
