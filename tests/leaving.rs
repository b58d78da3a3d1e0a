//! Volunteers that go away, one way or another, and come back: killed, silent, leaving, refused.

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    BINARY, Conn, Scratch, Server, Volunteer, VolunteerOptions, fetch, get, locations, package, poll, run_ok,
    serve_sizes, split_url, spread,
};

const MIB: usize = 1 << 20;

#[test]
fn a_killed_volunteer_is_chosen_no_more() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let mut volunteers = Volunteer::join_all(&scratch, &server, 3);
    spread(&server, &files[0], 2);
    let victim = locations(&server, &files[0], 2).remove(0);
    let victim = volunteers.iter_mut().find(|v| v.serves(&victim)).expect("one of ours");
    let id = victim.id().to_owned();
    victim.process.kill();
    server.wait_within("the volunteer is out", Duration::from_secs(2), |status| status.state(&id) != "up");
    for _ in 0..50 {
        let answer = get(&server.url(&files[0]));
        if let Some(location) = answer.header("location") {
            assert!(!victim.serves(location), "{location} is dead");
        }
    }
    assert!(fetch(&server.url(&files[0])) == package(&scratch, &files[0]));

    // It comes back with what it had.
    let again = Volunteer::join(&server, victim.options.clone());
    server.wait_until("holdings are announced", |status| status.of(&id, "holdings") == 1);
    let found = poll(support::DEADLINE, || {
        let answer = get(&server.url(&files[0])).expect(302);
        again.serves(answer.must("location")).then_some(())
    });
    assert!(found.is_some(), "it is chosen again");
}

#[test]
fn a_silent_volunteer_is_taken_out_and_taken_back() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    server.wait_redirect(&files[0]);
    // The connection stays open, but no heartbeat comes.
    volunteers[0].process.signal("STOP");
    server.wait_within("it is missed", Duration::from_secs(40), |status| status.state("v1") != "up");
    assert!(get(&server.url(&files[0])).expect(200).body == package(&scratch, &files[0]));
    volunteers[0].process.signal("CONT");
    server.wait_until("it is up again", |status| status.state("v1") == "up");
    server.wait_redirect(&files[0]);
}

#[test]
fn a_leaving_volunteer_ends_what_it_has_begun() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[2 * MIB]);
    let options = VolunteerOptions::new(&scratch, &server, 1).donate("1MiB/s");
    let mut volunteer = Volunteer::join(&server, options);
    let location = server.wait_redirect(&files[0]);
    let whole = package(&scratch, &files[0]);

    let (address, target) = split_url(&location);
    let mut connection = Conn::open(address);
    let text = connection.request_text("GET", target, &[]);
    connection.send(text.as_bytes()).expect("a request fits");
    let (status, _) = connection.read_head().expect("an answer");
    assert_eq!(status, 200);
    volunteer.process.signal("TERM");
    server
        .wait_within("no more redirects to it", Duration::from_secs(5), |status| status.state("v1") != "up");
    get(&server.url(&files[0])).expect(200);
    assert!(!volunteer.process.has_ended(), "it left while a download was running");

    let mut body = vec![0; whole.len()];
    let mut got = 0;
    while got < body.len() {
        let more = connection.read_some(&mut body[got..]).expect("a body");
        assert!(more > 0, "cut after {got} bytes");
        got += more;
    }
    assert!(body == whole);
    drop(connection);
    let status = volunteer.process.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn volunteers_come_back_to_a_restarted_server() {
    let scratch = Scratch::new();
    let (mut server, files) = serve_sizes(&scratch, &[50_000]);
    let volunteers = Volunteer::join_all(&scratch, &server, 2);
    server.wait_redirect(&files[0]);
    let config = fs::read_to_string(&server.config).expect("the configuration");
    let fixed = config.replacen("127.0.0.1:0", server.address(), 1);
    fs::write(&server.config, fixed).expect("the scratch folder is writable");
    server.process.terminate();

    let server = Server::start_file(&server.config);
    server.wait_until("both are back, with what they hold", |status| {
        volunteers.iter().all(|v| status.state(v.id()) == "up") && status.sum("holdings") >= 1
    });
    server.wait_redirect(&files[0]);
}

#[test]
fn a_volunteer_without_a_valid_token_is_refused_and_says_so() {
    let scratch = Scratch::new();
    let (server, _) = serve_sizes(&scratch, &[50_000]);
    let good = VolunteerOptions::new(&scratch, &server, 1);
    let token = fs::read_to_string(&good.token_file).expect("a token");
    let last = if token.trim_end().ends_with('0') { "1" } else { "0" };
    let altered = format!("{}{last}", &token.trim_end()[..token.trim_end().len() - 1]);
    for (number, wrong) in [(2, "nonsense".to_owned()), (3, altered), (4, "00".repeat(32))] {
        let options = VolunteerOptions::new(&scratch, &server, number);
        fs::write(&options.token_file, wrong).expect("the scratch folder is writable");
        let mut process = support::Process::spawn(&options.id, &mut options.command());
        process.wait_line("why it was refused", |line| line.to_lowercase().contains("refused").then_some(()));
        assert_eq!(server.status().state(&options.id), "gone", "it is no volunteer");
    }
    Volunteer::join(&server, good);
}

#[test]
fn a_revoked_token_ends_the_session() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let mut volunteers = Volunteer::join_all(&scratch, &server, 2);
    server.wait_redirect(&files[0]);
    let token = |arguments: &[&str]| {
        run_ok(Command::new(BINARY).arg("token").args(arguments).arg("--config").arg(&server.config))
    };
    let secrets = volunteers.iter().map(|v| fs::read_to_string(&v.options.token_file).expect("a token"));
    let secrets: Vec<String> = secrets.collect();
    let listed = token(&["list", "--json"]);
    assert!(secrets.iter().all(|secret| !listed.contains(secret)), "{listed}");
    let ids: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
    let mut ids = ids.iter().filter_map(|entry| entry["id"].as_str());
    let id = ids.find(|id| secrets[0].contains(id)).expect("the first volunteer's token is listed");
    token(&["revoke", id]);
    server.wait_until("the first one is out", |status| status.state("v1") != "up");
    volunteers[0].process.wait_line("why", |line| line.contains("revoked").then_some(()));
    assert_eq!(server.status().state("v2"), "up");
    assert!(fetch(&server.url(&files[0])) == package(&scratch, &files[0]));
}

#[test]
fn a_volunteer_that_nobody_was_sent_to_leaves_at_once() {
    let scratch = Scratch::new();
    let (mut server, files) = serve_sizes(&scratch, &[50_000]);
    let mut volunteers = Volunteer::join_all(&scratch, &server, 2);
    server.wait_redirect(&files[0]);
    let last = get(&server.url(&files[0])).expect(302).must("location").to_owned();
    let holder = volunteers.iter().position(|volunteer| volunteer.serves(&last)).expect("one of them");
    let (mut busy, mut idle) = (volunteers.remove(holder), volunteers.remove(0));
    let mut stop = |volunteer: &mut Volunteer| {
        let begin = Instant::now();
        volunteer.process.terminate();
        let id = volunteer.id().to_owned();
        let left = server.process.wait_line("that it left", |line| {
            let fields = serde_json::from_str::<serde_json::Value>(line).ok()?["fields"].clone();
            (fields["message"] == "volunteer left" && fields["volunteer"] == id.as_str()).then_some(fields)
        });
        assert_eq!(left["reason"], "it leaves");
        begin.elapsed()
    };
    // Somebody may be on the way there: it waits, and sends them on.
    let (busy, idle) = (stop(&mut busy), stop(&mut idle));
    assert!(busy >= Duration::from_secs(5), "{busy:?}");
    assert!(idle < Duration::from_secs(3), "{idle:?}");
}
