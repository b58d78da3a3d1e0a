//! What people who run it are told: the status of a volunteer, lines about its traffic and its adopted trees, and what
//! a server says of units that it cannot read.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{
    BINARY, Conn, DEADLINE, Fault, Scratch, Server, ServerConfig, Upstream, Volunteer, VolunteerOptions,
    fetch, free_port, get, poll, run, run_ok, serve_sizes, split_url, test_repos, try_get, wait_for,
};

fn status(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("status").args(arguments);
    command
}

/// A volunteer's configuration file with its status at a free port; the file and the port's address.
fn with_admin(scratch: &Scratch, options: &mut VolunteerOptions) -> (PathBuf, String) {
    let (path, admin) = (scratch.path("volunteer.toml"), format!("127.0.0.1:{}", free_port("127.0.0.1")));
    fs::write(&path, format!("admin = {admin:?}\n")).expect("the scratch folder is writable");
    options.config = Some(path.clone());
    (path, admin)
}

/// The status of the volunteer there.
fn edge(config: &Path) -> Value {
    let out = run_ok(status(&["--json", "--config"]).arg(config));
    serde_json::from_str(&out).expect("JSON")
}

fn wait_edge(config: &Path, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let found = poll(DEADLINE, || Some(edge(config)).filter(|edge| condition(edge)));
    found.unwrap_or_else(|| panic!("waited in vain: {what}\n{:#}", edge(config)))
}

#[test]
fn a_volunteer_shows_what_it_does_and_what_the_server_makes_of_it() {
    let scratch = Scratch::new();
    let (mut server, files) = serve_sizes(&scratch, &[50_000]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    let (config, admin) = with_admin(&scratch, &mut options);
    let mut volunteer = Volunteer::join(&server, options);
    let location = server.wait_redirect(&files[0]);
    fetch(&location);
    let seen = wait_edge(&config, "the server has said how it sees it", |edge| {
        edge["state"] == "up" && edge["orders"]["done"] == 1
    });
    assert_eq!(seen["id"], "v1");
    assert_eq!((&seen["gets_clients"], &seen["problem"]), (&Value::Bool(true), &Value::Null), "{seen:#}");
    assert!(seen["limits"].to_string().contains("loopback"), "{seen:#}");
    assert!(seen["holdings"] == 1 && seen["orders"]["open"] == 0, "{seen:#}");
    assert!(seen["served_bytes"].as_u64() >= Some(50_000), "{seen:#}");
    let text = run_ok(&mut status(&["--admin", &admin]));
    for shown in
        ["volunteer v1", "up: clients are sent here", "only clients on", &server.base(), "holds     1 files"]
    {
        assert!(text.contains(shown), "no {shown:?} in {text}");
    }

    server.process.terminate();
    let alone = wait_edge(&config, "the session has ended", |edge| {
        edge["problem"].as_str().is_some_and(|problem| problem.contains("cannot connect"))
    });
    assert_eq!((&alone["state"], &alone["gets_clients"]), (&"not joined".into(), &false.into()), "{alone:#}");
    volunteer.process.terminate();
    let (ended, _, err) = run(status(&["--config"]).arg(&config), DEADLINE);
    assert_eq!(ended.code(), Some(1), "{err}");
    assert!(err.contains(&admin), "{err}");
}

#[test]
fn a_volunteer_says_why_it_gets_no_clients() {
    let scratch = Scratch::new();
    let (server, _) = serve_sizes(&scratch, &[50_000]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    // Behind a NAT that forwards nothing.
    options.advertise = Some("http://127.0.0.99:9".to_owned());
    let (config, admin) = with_admin(&scratch, &mut options);
    let _volunteer = Volunteer::start(options);
    let seen = wait_edge(&config, "it is found unreachable", |edge| edge["state"] == "unreachable");
    assert_eq!(seen["gets_clients"], false, "{seen:#}");
    assert!(seen["problem"].as_str().is_some_and(|why| why.to_lowercase().contains("refused")), "{seen:#}");
    let text = run_ok(&mut status(&["--admin", &admin]));
    assert!(text.contains("unreachable: no clients are sent here: "), "{text}");
    // A volunteer has its status there, and nothing else.
    assert_eq!(get(&format!("http://{admin}/api/v1/dedup")).status, 404);
    let (ended, _, err) = run(&mut status(&["--admin", &admin, "--dedup"]), DEADLINE);
    assert!(!ended.success() && err.contains("this is a volunteer"), "{err}");
}

#[test]
fn a_volunteer_that_has_all_that_it_can_send_says_so() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[4 << 20]);
    // Four downloads of 32 KiB/s each.
    let mut options = VolunteerOptions::new(&scratch, &server, 1).donate("128KiB/s");
    let (config, admin) = with_admin(&scratch, &mut options);
    let volunteer = Volunteer::join(&server, options);
    let location = server.wait_redirect(&files[0]);
    wait_edge(&config, "the server has said how it sees it", |edge| edge["state"] == "up");
    let begin = |_| {
        let mut client = Conn::open(&volunteer.address);
        let request = client.request_text("GET", split_url(&location).1, &[]);
        client.send(request.as_bytes()).expect("it is connected");
        assert_eq!(client.read_head().expect("an answer").0, 200);
        client
    };
    let _clients: Vec<Conn> = (0..4).map(begin).collect();
    let full = wait_edge(&config, "it is full", |edge| edge["state"] == "full");
    assert!(full["uploads"] == 4 && full["gets_clients"] == true, "{full:#}");
    assert_eq!(get(&location).status, 302, "sent back");
    let text = run_ok(&mut status(&["--admin", &admin]));
    assert!(text.contains("of 128 KiB/s: 4 downloads of clients"), "{text}");
}

#[test]
fn status_finds_the_address_in_a_configuration() {
    let scratch = Scratch::new();
    let admin = format!("127.0.0.1:{}", free_port("127.0.0.1"));
    let tree = test_repos("t0").join("alder");
    let config =
        ServerConfig::default().admin(&admin).tree("alder", "generic-deb", &tree, "suites = [\"stable\"]");
    let server = Server::start(&scratch, &config);
    let text = run_ok(status(&["--config"]).arg(&server.config));
    assert!(text.contains("alder/dists/stable"), "{text}");
    let without = scratch.path("volunteer.toml");
    fs::write(&without, "server = \"http://mirror.example:8080\"\nstore = \"/s\"\n").expect("writable");
    let (ended, _, err) = run(status(&["--config"]).arg(&without), DEADLINE);
    assert_eq!(ended.code(), Some(78), "{err}");
    assert!(err.contains("admin = \"127.0.0.1:8091\""), "{err}");
}

#[test]
fn a_volunteers_log_has_a_line_about_traffic_and_none_without() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let mut idle = VolunteerOptions::new(&scratch, &server, 2);
    // Nothing fits.
    idle.max_size = Some("1KiB".to_owned());
    let idle = Volunteer::join(&server, idle);
    let volunteer = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 1));
    server.wait_redirect(&files[0]);
    // Both have been there for at least one period by the second line.
    wait_for("two lines about traffic", DEADLINE, || {
        fetch(&server.wait_redirect(&files[0]));
        volunteer.process.messages("traffic").len() >= 2
    });
    let lines = volunteer.process.messages("traffic");
    for field in ["rate", "sent", "copies", "fetched"] {
        assert!(lines[1][field].is_string(), "{field}: {lines:?}");
    }
    assert!(lines[1]["downloads"].is_u64() && lines[1]["sent"] != "0 B", "{lines:?}");
    assert_eq!(idle.process.messages("traffic"), Vec::<Value>::new());
}

#[test]
fn a_tree_of_which_nothing_is_known_is_doubted() {
    let scratch = Scratch::new();
    let alder = test_repos("t0").join("alder");
    let config = ServerConfig::default().tree("alder", "generic-deb", &alder, "suites = [\"stable\"]");
    let server = Server::start(&scratch, &config);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    // One folder too high, and not one too deep.
    let wrong = alder.join("pool");
    options.adopt = vec![wrong.clone(), alder.clone()];
    let (config, _) = with_admin(&scratch, &mut options);
    let mut volunteer = Volunteer::join(&server, options);
    let line = volunteer.process.wait_line("that the tree is doubtful", |line| {
        line.contains("is this the root of the repository").then(|| line.to_owned())
    });
    assert!(line.contains("adopted 0 of ") && line.contains(&wrong.display().to_string()), "{line}");
    let edge = wait_edge(&config, "both trees are looked at", |edge| {
        edge["trees"].as_array().is_some_and(|trees| trees.len() == 2)
    });
    let trees = edge["trees"].as_array().expect("two");
    let of = |path: &Path| {
        trees.iter().find(|tree| tree["path"] == path.display().to_string()).expect("it is shown")
    };
    assert!(of(&wrong)["adopted"] == 0 && of(&wrong)["files"].as_u64() > Some(5), "{edge:#}");
    assert!(of(&alder)["adopted"].as_u64() > Some(5), "{edge:#}");
    let doubted = volunteer.process.lines().iter().filter(|line| line.contains("is this the root")).count();
    assert_eq!(doubted, 1);
}

/// The row of a unit in the server's status.
fn row(server: &Server, unit: &str) -> Option<Value> {
    let status = server.status();
    let rows = status.0["snapshots"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["unit"] == unit)
}

#[test]
fn a_suite_that_cannot_be_read_has_a_row_and_one_line() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    upstream.set_outage(Some(Fault::Status(500)));
    let more = "suites = [\"stable\", \"testing\", \"nosuch\"]\npoll_secs = 1";
    let config = ServerConfig::default().upstream("alder", "generic-deb", &upstream.url("alder"), more);
    let server = Server::start(&scratch, &config);
    // Clients go on asking, for what there is and what there is not.
    wait_for("many looks", 2 * DEADLINE, || {
        for suite in ["stable", "testing", "guessed", "another"] {
            let _ = try_get(&server.url(&format!("alder/dists/{suite}/InRelease")));
        }
        let _ = try_get(&server.url("alder/pool/main/n/nobody/nobody_1_all.deb"));
        server.process.messages("nothing new in the unit").len() >= 15
    });
    for unit in ["dists/stable", "dists/testing", "dists/guessed"] {
        let row = row(&server, unit).unwrap_or_else(|| panic!("no row: {}", server.status().pretty()));
        assert_eq!(row["generation"], 0, "{row}");
        assert!(row["problem"].as_str().is_some_and(|problem| problem.contains("500")), "{row}");
    }
    let told = server.process.messages("not adopted, and there is no earlier generation");
    assert_eq!(told.len(), 1, "one outage: {told:?}");
    let passed = server.process.messages("cannot pass through");
    assert!((1..=3).contains(&passed.len()), "once a minute: {passed:?}");
    let text = run_ok(&mut status(&["--admin", &server.admin]));
    assert!(text.contains("alder/dists/testing") && text.contains("500"), "{text}");

    upstream.set_outage(None);
    wait_for("the suites are read", DEADLINE, || {
        ["dists/stable", "dists/testing"].iter().all(|unit| {
            row(&server, unit).is_some_and(|row| row["generation"] == 1 && row["problem"].is_null())
        })
    });
    // A name that nobody has is the administrator's mistake, not the origin's.
    let missing = "the origin does not have what `suites` names: check the spelling";
    wait_for("the one that does not exist is told", DEADLINE, || {
        !server.process.messages(missing).is_empty()
    });
    let row = row(&server, "dists/nosuch").expect("a row");
    assert!(row["problem"].as_str().is_some_and(|problem| problem.contains("not at the origin")), "{row}");
}
