//! `manyhands demo`: volunteers carry what it fetches for itself, and what the lines that it prints fetch.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::{BINARY, Process, Scratch, Status, get, poll, run};

/// As the demo says.
const ASKED_AGAIN: Duration = Duration::from_secs(61);
const CLIENTS: [&str; 3] = ["apt-get", "dnf", "zypper"];

/// The commands to paste, each with the client it is for.
fn commands(lines: &[String]) -> Vec<(String, String)> {
    let mut client = String::new();
    let mut found = Vec::new();
    for line in lines {
        if let Some(command) = line.strip_prefix("    $ ") {
            found.push((client.clone(), command.to_owned()));
        } else if let Some(name) = line.trim().strip_suffix(':').filter(|name| CLIENTS.contains(name)) {
            client = name.to_owned();
        }
    }
    found
}

#[test]
fn the_printed_lines_work_as_printed() {
    let scratch = Scratch::new();
    let repos = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-repos");
    let mut command = Command::new(BINARY);
    command.arg("demo").arg("--repos").arg(&repos).args(["--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", scratch.dir("tmp"));
    let mut demo = Process::spawn("demo", &mut command);
    demo.wait_line("how to stop it", |line| line.contains("Ctrl-C").then_some(()));
    let printed = poll(support::DEADLINE, || {
        let found = commands(&demo.lines());
        let clients: BTreeSet<&str> = found.iter().map(|(client, _)| client.as_str()).collect();
        CLIENTS.iter().all(|client| clients.contains(client)).then(|| found.clone())
    });
    let printed =
        printed.unwrap_or_else(|| panic!("not all clients are shown:\n{}", demo.lines().join("\n")));
    let all = demo.lines().join("\n");
    let carried =
        |line: &&str| line.ends_with("9 of 9 packages came from volunteers when their copies were there.");
    assert!(all.lines().any(|line| carried(&line)), "{all}");
    let admin =
        all.lines().find_map(|line| line.split_once("status --admin ")).expect("a line for the status").1;
    let redirects = || {
        let body = get(&format!("{admin}/api/v1/status")).expect(200).body;
        Status(serde_json::from_slice(&body).expect("JSON")).offload("redirects")
    };
    // Who asks again earlier is taken for one that did not get its file.
    assert_eq!(poll(ASKED_AGAIN, || None::<()>), None);
    let (folder, before) = (scratch.dir("pasted"), redirects());
    for (client, line) in &printed {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line).current_dir(&folder).env("TMPDIR", &folder).env("HOME", &folder);
        let (status, out, err) = run(&mut shell, 3 * support::DEADLINE);
        assert!(status.success(), "{client}: {line}\n{status}\n{out}\n{err}");
    }
    assert_eq!(redirects() - before, 9, "the pasted lines do the same");
    demo.signal("INT");
    assert_eq!(demo.wait(Duration::from_secs(30)).code(), Some(0), "Ctrl-C ends it cleanly");
}
