//! The testbed itself: that hosts, lines and service managers do what tests of failures rely on.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::net::{Bed, Host, Ill, Keeper, Line, Network, Plan, alone, machine};
use support::{
    Conn, DEADLINE, DebRepo, Process, Scratch, ServerConfig, Upstream, poll, random_bytes, run, run_ok,
    try_get, wait_for,
};

const KIB: usize = 1 << 10;

/// Two hosts, and a web server on the first that has one file.
fn web(scratch: &Scratch, size: usize) -> (Network, Host, Host, Upstream) {
    let network = Network::new(&scratch.path("network"));
    let resolver = format!("nameserver {}\n", network.address(1));
    let server = network.host("server", 1, &[]);
    let client = network.host("client", 2, &[("resolv.conf", &resolver)]);
    let tree = scratch.dir("tree");
    fs::write(tree.join("file"), random_bytes(1, size)).expect("the scratch folder is writable");
    let upstream = Upstream::start_on(server.listen(80).expect("a free port"), &tree);
    (network, server, client, upstream)
}

/// curl's exit code for that file, and how long it took; it gives up after `at_most` seconds.
fn fetch(client: &Host, url: &str, at_most: u32) -> (Option<i32>, Duration) {
    let begin = Instant::now();
    let mut command = client.command("curl");
    command.args(["-sfL", "-o", "/dev/null", "--max-time", &at_most.to_string(), url]);
    let (status, _, _) = run(&mut command, DEADLINE);
    (status.code(), begin.elapsed())
}

#[test]
fn hosts_have_addresses_and_files_of_their_own() {
    alone("hosts_have_addresses_and_files_of_their_own", || {
        let scratch = Scratch::new();
        let (network, server, client, upstream) = web(&scratch, KIB);
        let own = fs::read_to_string("/etc/resolv.conf").expect("a machine has one");
        let there = run_ok(client.command("cat").arg("/etc/resolv.conf"));
        assert_eq!(there, format!("nameserver {}\n", server.address));
        assert_eq!(own, fs::read_to_string("/etc/resolv.conf").expect("a machine has one"));
        let folder = run_ok(&mut client.enter(Command::new("pwd").current_dir("/usr")));
        assert_eq!(folder, "/usr\n");

        let before = network.bytes_from(&server);
        assert_eq!(fetch(&client, &upstream.url("file"), 10).0, Some(0));
        assert!(network.bytes_from(&server) - before > KIB as u64);
        // This program is on every network, hosts only on their own.
        assert_eq!(support::get(&upstream.url("file")).expect(200).body.len(), KIB);
        let other = Network::new(&scratch.path("other"));
        let stranger = other.host("stranger", 2, &[]);
        assert_eq!(fetch(&stranger, &upstream.url("file"), 10).0, Some(7), "no way there");
    });
}

#[test]
fn rates_outages_and_silence_are_as_told() {
    alone("rates_outages_and_silence_are_as_told", || {
        let scratch = Scratch::new();
        let (_network, server, client, upstream) = web(&scratch, 300 * KIB);
        let url = upstream.url("file");
        let (code, fast) = fetch(&client, &url, 10);
        assert_eq!(code, Some(0));
        server.limit("4mbit");
        let (code, slow) = fetch(&client, &url, 20);
        assert_eq!(code, Some(0));
        let expected = Duration::from_secs_f64(300.0 * 1024.0 * 8.0 / 4e6);
        assert!(slow > expected / 2 && slow < 3 * expected, "{fast:?} without, {slow:?} with a limit");

        // 28: no answer within the time given; 7: told that nobody is there.
        server.set_silent(true, &[&client]);
        assert_eq!(fetch(&client, &url, 3).0, Some(28));
        server.set_silent(false, &[&client]);
        assert_eq!(fetch(&client, &url, 20).0, Some(0));
        server.set_link(false);
        let (code, _) = fetch(&client, &url, 4);
        assert!(matches!(code, Some(7 | 28)), "the neighbour is remembered for a while: {code:?}");
        server.set_link(true);
        let back = poll(DEADLINE, || (fetch(&client, &url, 20).0 == Some(0)).then_some(()));
        assert!(back.is_some(), "the link is up again");

        // A gate stops one host only, and who waited at it gets through when it opens.
        client.set_gate(&server, true);
        assert_eq!(fetch(&client, &url, 2).0, Some(28));
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fetch(&client, &url, 30).0);
            support::head(&url).expect(200);
            client.set_gate(&server, false);
            waiting.join().expect("curl runs")
        });
        assert_eq!(waiting, Some(0));
    });
}

/// What became of a request on a line: the answer if there was one, and how long it took.
fn through(url: &str) -> (Option<support::Response>, Duration) {
    let begin = Instant::now();
    (try_get(url).ok(), begin.elapsed())
}

#[test]
fn a_line_falls_ill_before_and_during_an_answer() {
    alone("a_line_falls_ill_before_and_during_an_answer", || {
        let scratch = Scratch::new();
        let (_network, server, client, upstream) = web(&scratch, 60 * KIB);
        let whole = random_bytes(1, 60 * KIB);
        let line = Line::start(&server, 81, 80);
        let url = upstream.url("file").replace(":80/", ":81/");
        let (well, _) = through(&url);
        assert!(well.expect("an answer").body == whole);
        // The client may have its bytes before the line has counted them.
        let counted = poll(DEADLINE, || (line.body_bytes() == whole.len() as u64).then_some(()));
        assert!(counted.is_some(), "{} bytes counted", line.body_bytes());

        line.set(Ill::Reset);
        assert!(through(&url).0.is_none());
        line.set(Ill::Closes);
        let cut = through(&url).0.expect("an answer");
        assert!(cut.cut && cut.body == whole[..whole.len() / 2], "half of it");
        line.set(Ill::Short);
        let short = through(&url).0.expect("an answer");
        assert!(!short.cut && short.body == whole[..whole.len() / 2], "half of it, and the length says so");
        line.set(Ill::Wrong);
        let wrong = through(&url).0.expect("an answer");
        assert!(wrong.body.len() == whole.len() && wrong.body != whole);

        for ill in [Ill::Reset, Ill::Closes, Ill::Short, Ill::Wrong] {
            line.set(Ill::Trickles);
            let mut connection = Conn::open(support::split_url(&url).0);
            let text = connection.request_text("GET", "/file", &[]);
            connection.send(text.as_bytes()).expect("a request fits");
            connection.read_head().expect("a head");
            let mut first = [0; 100];
            let begun = connection.read_some(&mut first).expect("a beginning");
            assert!(begun > 0);
            line.set(ill);
            let (mut rest, mut buffer) = (Vec::new(), [0; 4 * KIB]);
            while begun + rest.len() < whole.len()
                && let Ok(count @ 1..) = connection.read_some(&mut buffer)
            {
                rest.extend_from_slice(&buffer[..count]);
            }
            match ill {
                // What was under way arrives.
                Ill::Wrong => assert!(rest.len() > 50 * KIB && !whole.ends_with(&rest[rest.len() - KIB..])),
                _ => assert!(rest.len() < 50 * KIB, "{ill:?}: {} bytes more", rest.len()),
            }
        }
        // 28: not within the time given.
        for (ill, seconds) in [(Ill::Frozen, 1), (Ill::Trickles, 3)] {
            line.set(ill);
            assert_eq!(fetch(&client, &url, seconds).0, Some(28), "{ill:?}");
        }
        assert!(
            through(&upstream.url("file")).0.is_some_and(|answer| answer.body == whole),
            "not on the line"
        );
    });
}

#[test]
fn a_keeper_starts_again_what_ends_and_holds_its_socket() {
    alone("a_keeper_starts_again_what_ends_and_holds_its_socket", || {
        let scratch = Scratch::new();
        let network = Network::new(&scratch.path("network"));
        let host = Arc::new(network.host("server", 1, &[]));
        let listening = Arc::clone(&host);
        let listen = move || listening.listen(80).expect("a free port");
        let script = r#"echo "{\"fields\":{\"message\":\"ready\",\"fds\":\"$LISTEN_FDS\",\"own\":\"$LISTEN_PID/$$\"}}"
            readlink /proc/$$/fd/3; exec sleep 1000"#;
        let keeper = Keeper::start("sleeper", &scratch.path(""), Some(Box::new(listen)), move || {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        });
        let lines = || keeper.lines().join("\n");
        wait_for("its descriptor is a socket", DEADLINE, || lines().contains("socket:"));
        let own = |line: &String| {
            line.contains("\"fds\":\"1\"") && {
                let pids = line.split("\"own\":\"").nth(1).and_then(|rest| rest.split('"').next());
                pids.and_then(|pids| pids.split_once('/')).is_some_and(|(told, is)| told == is)
            }
        };
        assert!(keeper.lines().iter().any(own), "{}", lines());
        // Who comes while there is no process waits in the queue, unless it is not to come back.
        let connect = || Conn::try_open(&format!("{}:80", host.address));
        keeper.kill();
        connect().expect("the socket is still there");
        keeper.wait_ready(2);
        keeper.end();
        assert!(connect().is_err(), "no socket without a service");
        assert_eq!(keeper.starts(), 2);
        keeper.resume();
        connect().expect("the socket is there again");
        assert_eq!(keeper.starts(), 3);
    });
}

#[test]
fn a_bed_serves_and_survives_restarts() {
    alone("a_bed_serves_and_survives_restarts", || {
        let tree = Scratch::new();
        let mut repo = DebRepo::new(&tree.path("repo"));
        let file = format!("flat/{}", repo.add("p", &random_bytes(1, 100 * KIB)));
        repo.publish();
        let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
        // Its volunteers are slower than the idle server.
        let config = config.server_lines("min_share = \"0B/s\"");
        let bed = Bed::start(&Plan { has_lines: true, disk: Some("64m"), ..Plan::new(config) });
        bed.spread(std::slice::from_ref(&file));
        bed.wait_quiet();
        let install = || fetch(&bed.clients[0], &bed.url(&file), 30);
        let redirected = |target: &Host| {
            let mut command = target.command("curl");
            run_ok(command.args(["-s", "-o", "/dev/null", "-w", "%{redirect_url}", &bed.url(&file)]))
        };
        assert!(redirected(&bed.clients[0]).contains(":8091/"), "clients are sent to the line");
        assert!(!bed.messages("redirect").is_empty());
        bed.workers[0].keeper.kill();
        bed.workers[0].keeper.wait_ready(2);
        bed.server.restart();
        bed.server.wait_ready(2);
        bed.wait_all_up();
        assert_eq!(install().0, Some(0));
    });
}

/// The children of a process, from outside.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn a_machine_ends_with_its_program() {
    let mut command = machine(Path::new("sh"));
    command.args(["-c", "ip link add mh0 type bridge; sleep 1000 & echo ready; wait"]);
    let mut process = Process::spawn("machine", &mut command);
    process.wait_line("that it runs", |line| (line == "ready").then_some(()));
    let mut all = children(process.pid());
    let mut at = 0;
    while at < all.len() {
        let more = children(all[at]);
        all.extend(more);
        at += 1;
    }
    assert_eq!(all.len(), 3, "the first process, a shell and what it runs");
    process.kill();
    assert_eq!(process.wait(DEADLINE).signal(), Some(9));
    wait_for("all its processes are gone", DEADLINE, || {
        // One that nobody has asked for its end yet is gone too.
        let state = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        all.iter().all(|pid| state(pid).is_empty() || state(pid).contains(") Z "))
    });
}
