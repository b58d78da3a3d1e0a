//! Tests of what a scenario may say.

use super::*;

const SMALL: &str = r#"
title = "small"
duration = "10min"
server = { uplink = "10MB/s" }
volunteers = [{ count = 2, rate = { fixed = "1MB/s" } }]
files = { count = 3, size = { fixed = "1MB" } }
clients = { shape = { steady = { load = 0.5 } } }
"#;

fn problem(text: &str) -> String {
    Scenario::parse(text).expect_err("a wrong scenario").to_string()
}

#[test]
fn a_small_scenario_has_the_documented_defaults() {
    let scenario = Scenario::parse(SMALL).expect("valid");
    assert_eq!(
        (scenario.duration, scenario.warmup, scenario.clients.timeout),
        (Span(600.0), Span(0.0), Span(30.0))
    );
    assert_eq!((scenario.volunteers[0].lie, scenario.volunteers[0].session), (1.0, SpanLaw::Always));
    assert_eq!(scenario.baselines.len(), 5);
    let expected = Params { uplink: 10e6, ..Params::default() };
    assert_eq!(scenario.params().expect("valid"), expected);
}

#[test]
fn what_is_wrong_is_said() {
    for (from, to, want) in [
        ("title", "titel", "unknown field"),
        ("\"10min\"", "\"10 minutes\"", "no span of time"),
        ("0.5", "-0.5", "clients.shape"),
        ("load = 0.5", "load = 0.5, per_second = 1.0", "either per_second or load"),
        ("count = 3", "count = 0", "files.count"),
        ("load = 0.5 } }", "load = 0.5 } }, at_once = 20000001", "clients.at_once"),
        ("count = 2", "count = 20000", "more than 10000"),
        ("fixed = \"1MB/s\"", "list = []", "volunteers.rate"),
        ("fixed = \"1MB/s\"", "fixed = \"1 parsec\"", "is not a rate"),
        ("count = 2", "count = 2, crash = 1.5", "volunteers.crash"),
        ("title = \"small\"", "title = \"small\"\nparams = { gamma = 1 }", "params.gamma"),
        ("title = \"small\"", "title = \"small\"\ntargets = { joy = { least = 1 } }", "\"joy\" is no figure"),
        (
            "title = \"small\"",
            "title = \"small\"\ntargets = { jain = {} }",
            "jain has neither least nor most",
        ),
        (
            "title = \"small\"",
            "title = \"small\"\nsweep = [{ key = \"no.such\", values = [1] }]",
            "names no key",
        ),
        (
            "title = \"small\"",
            "title = \"small\"\nsweep = [{ key = \"params.beta\", values = [\"x\"] }]",
            "params.beta",
        ),
        ("title = \"small\"", "title = \"small\"\nparams = { heartbeat = 0 }", "params.heartbeat"),
    ] {
        let text = SMALL.replacen(from, to, 1);
        assert_ne!(text, SMALL, "{from}");
        let problem = problem(&text);
        assert!(problem.contains(want), "{to}: {problem}");
    }
}

#[test]
fn a_sweep_reaches_every_key() {
    let table: toml::Table = toml::from_str(SMALL).expect("valid");
    let with = |key: &str, value: toml::Value| Scenario::with(&table, key, &value).expect("valid");
    assert_eq!(with("params.beta", 0.5.into()).params().expect("valid").beta, 0.5);
    assert_eq!(with("volunteers.0.lie", 10.0.into()).volunteers[0].lie, 10.0);
    assert_eq!(with("files.count", 7.into()).files.count, 7);
    let slower = with("params.heartbeat", 30.into()).params().expect("valid");
    assert_eq!((slower.heartbeat.as_secs(), slower.dead_after.as_secs()), (30, 75));
}

#[test]
fn bounds_hold_on_both_sides() {
    let bound = |least, most| Bound { least, most };
    assert!(bound(Some(1.0), None).holds(1.0) && !bound(Some(1.0), None).holds(0.9));
    assert!(bound(None, Some(2.0)).holds(2.0) && !bound(None, Some(2.0)).holds(2.1));
    assert!(!bound(None, Some(2.0)).holds(f64::NAN), "what was not measured holds nothing");
}

/// Those that come with the program.
#[test]
fn every_scenario_file_is_valid_and_says_what_it_is_for() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        Scenario::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(text.starts_with("# "), "{} does not say what it is for", path.display());
        count += 1;
    }
    assert!(count >= 14, "{count}");
}
