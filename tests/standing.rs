//! What the server finds out about volunteers itself: who cannot be reached, who lies, who is twice; and where
//! it sends those who ask again, or whom rules are about.

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::net::{Ill, Line};
use support::{
    BINARY, DEADLINE, Process, Response, Scratch, Server, ServerConfig, Volunteer, VolunteerOptions, get,
    get_as, locations, package, poll, request, run, run_ok, serve_sizes, sha256_hex, split_url, spread,
};

const DNF: (&str, &str) = ("User-Agent", "libdnf (Fedora Linux 40; generic; Linux.x86_64)");

#[test]
fn a_volunteer_that_cannot_be_reached_is_not_used_and_told_why() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    // Behind a NAT that forwards nothing.
    options.advertise = Some("http://127.0.0.99:9".to_owned());
    let mut volunteer = Volunteer::start(options.clone());
    server.wait_until("it is found unreachable", |status| status.state("v1") == "unreachable");
    let told = volunteer.process.wait_line("that it gets no clients", |line| {
        line.contains("sends no clients here").then(|| line.to_owned())
    });
    assert!(told.contains("127.0.0.99:9") && told.to_lowercase().contains("refused"), "{told}");
    let status = server.status();
    let problem = status.volunteer("v1").and_then(|v| v["problem"].as_str()).expect("a reason");
    assert!(problem.to_lowercase().contains("refused"), "{problem}");
    for _ in 0..5 {
        get(&server.url(&files[0])).expect(200);
    }
    volunteer.process.terminate();
    // The next time it says where it really is.
    options.advertise = None;
    let _volunteer = Volunteer::join(&server, options);
    server.wait_until("it is up", |status| status.state("v1") == "up");
    server.wait_redirect(&files[0]);
}

#[test]
fn a_forwarded_port_that_leads_to_another_volunteer_is_noticed() {
    let scratch = Scratch::new();
    let (server, _) = serve_sizes(&scratch, &[50_000]);
    let first = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 1));
    server.wait_until("the first is up", |status| status.state("v1") == "up");
    let mut options = VolunteerOptions::new(&scratch, &server, 2);
    options.advertise = Some(first.base());
    let _second = Volunteer::start(options);
    server.wait_until("the second is found out", |status| status.state("v2") == "unreachable");
    assert_eq!(server.status().state("v1"), "up");
}

#[test]
fn wrong_bytes_are_proven_once_and_remembered() {
    let scratch = Scratch::new();
    let (mut server, files) = serve_sizes(&scratch, &[400_000]);
    let volunteers = Volunteer::join_all(&scratch, &server, 2);
    spread(&server, &files[0], 2);
    let sha256 = sha256_hex(&package(&scratch, &files[0]));
    let liar = volunteers[0].id().to_owned();
    // Every byte is another, so that any part shows it.
    let path = volunteers[0].options.blob_path(&sha256);
    let lies: Vec<u8> = fs::read(&path).expect("a blob").iter().map(|byte| byte ^ 1).collect();
    fs::write(&path, lies).expect("the scratch folder is writable");
    // A client gets them, does not believe them, and asks again.
    let asked = poll(DEADLINE, || {
        let client = format!("127.5.{}.1", rand_byte());
        let answer = get_as(&client, &server.url(&files[0]), &[DNF]).expect(302);
        if !volunteers[0].serves(answer.must("location")) {
            return None;
        }
        let again = get_as(&client, &server.url(&files[0]), &[DNF]);
        assert!(!again.header("location").is_some_and(|to| volunteers[0].serves(to)), "sent there again");
        Some(())
    });
    assert!(asked.is_some(), "nobody is sent to the liar");
    server.wait_within("it is out", Duration::from_secs(10), |status| status.state(&liar) == "quarantined");
    for _ in 0..20 {
        let answer = get(&server.url(&files[0])).expect(302);
        assert!(!volunteers[0].serves(answer.must("location")));
    }
    // Neither its own restart nor the server's makes that forgotten.
    let config = fs::read_to_string(&server.config).expect("the configuration");
    let fixed = config.replacen("127.0.0.1:0", server.address(), 1);
    fs::write(&server.config, fixed).expect("the scratch folder is writable");
    server.process.terminate();
    let server = Server::start_file(&server.config);
    server.wait_until("the other is back", |status| status.state(volunteers[1].id()) == "up");
    server.wait_until("it is still out", |status| status.state(&liar) == "quarantined");
}

#[test]
fn one_that_becomes_slow_loses_its_share() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[400_000]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.port = support::free_port(&options.address);
    let line = Line::on_loopback(&options.address, options.port);
    options.advertise = Some(line.url());
    let _slow = Volunteer::join(&server, options);
    let _other = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 2));
    spread(&server, &files[0], 2);
    line.set(Ill::Trickles);
    // Clients go on asking; the server's own test finds it out without a word from them.
    let begin = Instant::now();
    let out = poll(Duration::from_secs(60), || {
        get(&server.url(&files[0]));
        (server.status().state("v1") != "up").then(|| begin.elapsed())
    });
    let out = out.unwrap_or_else(|| panic!("still in use after a minute\n{}", server.status().pretty()));
    println!("out after {:.1} s", out.as_secs_f64());
    for _ in 0..20 {
        assert!(!get(&server.url(&files[0])).expect(302).must("location").starts_with(&line.url()));
    }
    // Well again, it comes back.
    line.set(Ill::Not);
    server.wait_within("it is used again", Duration::from_secs(120), |status| status.state("v1") == "up");
}

fn rand_byte() -> u8 {
    support::random_bytes(u64::from(std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos())), 1)[0]
}

#[test]
fn who_asks_again_gets_another_volunteer_and_then_the_server() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let volunteers = Volunteer::join_all(&scratch, &server, 3);
    spread(&server, &files[0], 3);
    let ask = || get_as("127.5.6.7", &server.url(&files[0]), &[("User-Agent", "Wget/1.21")]);
    let (first, second) = (ask().expect(302), ask().expect(302));
    let base = |answer: &Response| split_url(answer.must("location")).0.to_owned();
    assert_ne!(base(&first), base(&second));
    assert!(ask().expect(200).body == package(&scratch, &files[0]));
    let server_saw = server.status().sum("complaints");
    assert_eq!(server_saw, 2);
    // It was no fault of theirs, and the server's own test says so.
    server.wait_reports();
    assert!(volunteers.iter().all(|v| server.status().state(v.id()) == "up"), "{}", server.status().pretty());
}

#[test]
fn who_cannot_come_back_is_not_sent_to_what_comes_and_goes() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    let config = scratch.path("volatile.toml");
    fs::write(&config, "volatile = true\n").expect("the scratch folder is writable");
    options.config = Some(config);
    let _volunteer = Volunteer::join(&server, options);
    get(&server.url(&files[0])).expect(200);
    server.wait_held_by(1);
    for (agent, path, status) in [
        ("Debian APT-HTTP/1.3 (2.6.1)", files[0].clone(), 200),
        ("Wget/1.21", files[0].clone(), 200),
        (DNF.1, files[0].clone(), 302),
        // It has another URL.
        ("Debian APT-HTTP/1.3 (2.6.1)", format!("listed/{}", files[0]), 302),
    ] {
        let answer = request("GET", &server.url(&path), &[("User-Agent", agent)]);
        assert_eq!(answer.status, status, "{agent} {path}");
    }
}

#[test]
fn two_processes_with_one_identity_are_told_apart_from_a_restart() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    let mut first = Volunteer::join(&server, options.clone());
    server.wait_redirect(&files[0]);
    // A copied machine: the same id and token, another store folder.
    options.store = scratch.dir("copied-store");
    options.address = "127.0.0.77".to_owned();
    let mut second = Process::spawn("the copy", &mut options.command());
    second.wait_line("why it is refused", |line| line.contains("already is volunteer").then_some(()));
    let location = server.wait_redirect(&files[0]);
    assert!(first.serves(&location), "the one that lives keeps its place");
    let said = server.process.lines().iter().any(|line| line.contains("two processes use one identity"));
    assert!(said, "operators are told");
    // The first freezes: now the second is where the volunteer is.
    first.process.signal("STOP");
    server.wait_until("the second takes its place", |status| {
        status.volunteer("v1").and_then(|v| v["address"].as_str()).is_some_and(|a| a.contains("127.0.0.77"))
    });
    first.process.signal("CONT");
    first.process.kill();
    second.terminate();
}

#[test]
fn rules_about_networks_are_kept_and_explained() {
    let scratch = Scratch::new();
    let mut repo = support::DebRepo::new(&scratch.path("repo"));
    let file = format!("flat/{}", repo.add("p0", &support::random_bytes(1, 60_000)));
    repo.publish();
    let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]").lines(
        "[[network]]\nclients = [\"127.6.0.0/16\"]\nredirect = false\n\n\
             [[network]]\nclients = [\"127.7.0.0/16\"]\nprefer = [\"v2\"]\n\n\
             [[volunteer]]\nid = \"v3\"\nclients = [\"127.8.0.0/16\"]\n",
    );
    let server = Server::start(&scratch, &config);
    let volunteers = Volunteer::join_all(&scratch, &server, 3);
    spread(&server, &file, 3);
    let why = |client: &str, more: &[&str]| {
        run_ok(
            Command::new(BINARY)
                .args(["status", "--admin", &format!("http://{}", server.admin), "--why", client])
                .arg(format!("/{file}"))
                .args(more),
        )
    };
    get_as("127.6.1.1", &server.url(&file), &[DNF]).expect(200);
    assert!(why("127.6.1.1", &[]).contains("not redirected"), "{}", why("127.6.1.1", &[]));
    for n in 1..20 {
        let client = format!("127.7.0.{n}");
        let to = get_as(&client, &server.url(&file), &[DNF]).expect(302);
        assert!(volunteers[1].serves(to.must("location")), "{client}");
        let to = get_as(&format!("127.9.0.{n}"), &server.url(&file), &[DNF]).expect(302);
        assert!(!volunteers[2].serves(to.must("location")), "v3 is for others");
    }
    let told = why("127.7.0.200", &[]);
    assert!(told.contains("most likely to v2") && told.contains("client's site"), "{told}");
    assert!(!told.contains("a program at"), "it has not asked: {told}");
    // Whatever program it was that asked.
    let told = why("127.7.0.1", &[]);
    assert!(told.contains("a program at 127.7.0.1 asked") && told.contains("sent to v2"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&why("127.9.0.200", &["--json"])).expect("JSON");
    let third = json["holders"].as_array().expect("holders").iter().find(|h| h["id"] == "v3");
    assert_eq!(third.expect("v3")["excluded"], "not for the client's network");

    for (client, path, word) in
        [("nobody", file.as_str(), "IP address"), ("127.0.0.1", "none/x", "no repository")]
    {
        let admin = format!("http://{}", server.admin);
        let (status, _, err) =
            run(Command::new(BINARY).args(["status", "--admin", &admin, "--why", client, path]), DEADLINE);
        assert!(!status.success() && err.contains(word), "{client} {path}: {err}");
    }
    let _ = locations(&server, &file, 2);
}
