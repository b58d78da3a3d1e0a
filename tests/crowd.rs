//! Flash crowds, real processes: copies made by volunteers for each other, copies made before a release becomes
//! visible, and what the log says of a crowd.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::net::{Ill, Line};
use support::{
    Conn, DEADLINE, DebRepo, Fault, Scratch, Server, ServerConfig, Upstream, Volunteer, VolunteerOptions,
    fetch, get, locations, package, poll, random_bytes, serve_sizes, serve_sizes_by, sha256_file, sha256_hex,
    split_url, spread, wait_for,
};

const MIB: usize = 1 << 20;

/// Asks for a package until some volunteer holds it, and no other does.
fn first_copy(server: &Server, path: &str) {
    get(&server.url(path)).expect(200);
    server.wait_held_by(1);
}

#[test]
fn volunteers_fill_themselves_from_each_other() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[3 * MIB]);
    let volunteers = Volunteer::join_all(&scratch, &server, 3);
    first_copy(&server, &files[0]);
    spread(&server, &files[0], 3);
    let status = server.wait_reports();
    let size = 3 * MIB as u64;
    let sha256 = sha256_hex(&package(&scratch, &files[0]));
    for volunteer in &volunteers {
        assert_eq!(sha256_file(&volunteer.options.blob_path(&sha256)), sha256, "{}", volunteer.id());
    }
    let sync = status.offload("sync_bytes");
    assert!((size..size + size / 5).contains(&sync), "the server sent {sync} bytes: one copy is {size}");
    assert_eq!(status.offload("peer_bytes"), 2 * size, "{}", status.pretty());
    assert_eq!((status.sum("sync_bytes"), status.sum("peer_bytes")), (2 * size, 2 * size));
    assert_eq!(status.sum("fetched_bytes"), size);
    assert_eq!(status.sum("sync_uploads"), 0, "all have ended");
}

#[test]
fn wrong_bytes_of_a_volunteer_neither_spread_nor_stay_unnoticed() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[2 * MIB]);
    let mut volunteers = Volunteer::join_all(&scratch, &server, 1);
    first_copy(&server, &files[0]);
    let sha256 = sha256_hex(&package(&scratch, &files[0]));
    let path = volunteers[0].options.blob_path(&sha256);
    let lies: Vec<u8> = fs::read(&path).expect("a blob").iter().map(|byte| byte ^ 1).collect();
    fs::write(&path, lies).expect("the scratch folder is writable");
    // The second one is sent to the first.
    volunteers.push(Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 2)));
    let right = poll(DEADLINE, || {
        get(&server.url(&files[0]));
        volunteers[1].options.stored().contains(&sha256).then_some(())
    });
    assert!(right.is_some(), "it never has the file\n{}", server.status().pretty());
    assert_eq!(sha256_file(&volunteers[1].options.blob_path(&sha256)), sha256);
    server.wait_within("the liar is found out", Duration::from_secs(30), |s| s.state("v1") == "quarantined");
    let told = server.process.messages("reports wrong bytes from another volunteer");
    assert!(told.iter().any(|told| told["volunteer"] == "v2" && told["of"] == "v1"), "{told:?}");
    assert_eq!(server.status().state("v2"), "up");
}

#[test]
fn a_volunteer_that_hangs_or_breaks_off_holds_up_no_copy() {
    let took: Vec<(Ill, Duration)> = std::thread::scope(|scope| {
        let ills = [Ill::Frozen, Ill::Trickles, Ill::Closes, Ill::Short];
        let copies: Vec<_> = ills.map(|ill| scope.spawn(move || (ill, copy_from_one_that_is(ill)))).into();
        copies.into_iter().map(|copy| copy.join().expect("the copy is made")).collect()
    });
    println!("{took:?}");
    // Ten seconds of crawling are looked at; one that does not answer is left after five.
    assert!(took.iter().all(|(_, took)| *took < Duration::from_secs(25)), "{took:?}");
}

/// How long it takes a volunteer to get a copy that it is to fetch from one that is ill.
fn copy_from_one_that_is(ill: Ill) -> Duration {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[2 * MIB]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.port = support::free_port(&options.address);
    let line = Line::on_loopback(&options.address, options.port);
    options.advertise = Some(line.url());
    let _ill = Volunteer::join(&server, options);
    first_copy(&server, &files[0]);
    let other = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 2));
    let sha256 = sha256_hex(&package(&scratch, &files[0]));
    line.set(ill);
    let begin = Instant::now();
    let copied = poll(DEADLINE, || {
        get(&server.url(&files[0]));
        other.options.stored().contains(&sha256).then(|| begin.elapsed())
    });
    let took = copied.unwrap_or_else(|| panic!("{ill:?}: never\n{}", server.status().pretty()));
    assert_eq!(sha256_file(&other.options.blob_path(&sha256)), sha256);
    let orders = server.process.messages("ordered a copy");
    assert!(orders.iter().any(|order| order["peers"] == 1), "{ill:?}: it was sent there: {orders:?}");
    took
}

/// A flat repository at an upstream that is looked at every second, with one popular package of which every
/// volunteer has a copy.
struct Popular {
    repo: DebRepo,
    upstream: Upstream,
    server: Server,
    volunteers: Vec<Volunteer>,
    bytes: Vec<u8>,
}

impl Popular {
    fn new(scratch: &Scratch, gate: &str) -> Self {
        let mut repo = DebRepo::new(&scratch.path("repo"));
        repo.add("popular", &random_bytes(1, MIB));
        repo.add("other", &random_bytes(2, MIB));
        repo.publish();
        let upstream = Upstream::start(&repo.root);
        let more = format!("suites = [\"./\"]\npoll_secs = 1\npublish_gate = {gate:?}");
        let url = upstream.url("");
        let config =
            ServerConfig::default().upstream("flat", "generic-deb", url.trim_end_matches('/'), &more);
        let server = Server::start(scratch, &config);
        wait_for("the first generation is there", DEADLINE, || {
            get(&server.url("flat/Packages")).text().contains("popular_1_all.deb")
        });
        let volunteers = Volunteer::join_all(scratch, &server, 3);
        spread(&server, "flat/popular_1_all.deb", 3);
        Self { repo, upstream, server, volunteers, bytes: random_bytes(3, 2 * MIB) }
    }

    fn publish(&mut self) {
        self.repo.add_version("popular", 2, &self.bytes);
        self.repo.publish();
    }

    const FILE: &'static str = "popular_2_all.deb";

    fn url(&self) -> String {
        self.server.url(&format!("flat/{}", Self::FILE))
    }

    fn is_visible(&self) -> bool {
        get(&self.server.url("flat/Packages")).text().contains(Self::FILE)
    }
}

#[test]
fn a_release_becomes_visible_when_volunteers_have_its_hot_packages() {
    let scratch = Scratch::new();
    let mut popular = Popular::new(&scratch, "2m");
    popular.publish();
    let sha256 = sha256_hex(&popular.bytes);
    let mut copies_before = 0;
    wait_for("the new generation is visible", DEADLINE, || {
        // In this order: what is not visible now was not when they were counted.
        let copies = popular.volunteers.iter().filter(|v| v.options.stored().contains(&sha256)).count();
        let is_visible = popular.is_visible();
        if !is_visible {
            copies_before = copies;
        }
        is_visible
    });
    assert!(copies_before > 0, "it became visible before any volunteer had it");
    let first = get(&popular.url()).expect(302);
    let to = first.must("location");
    assert!(popular.volunteers.iter().any(|v| v.serves(to)), "{to}");
    assert!(fetch(to) == popular.bytes);
    let opened = popular.server.process.wait_message(OPENS);
    assert!(opened["copies_made"].as_u64() >= Some(1) && opened["copies_missing"] == 0, "{opened}");
    assert_eq!(popular.upstream.gets(Popular::FILE), 1, "the upstream sent it once");
}

const WAITS: &str = "a new generation waits for copies of its hot files";
const OPENS: &str = "the new generation becomes visible";

#[test]
fn copies_that_do_not_come_delay_a_release_no_longer_than_configured() {
    let scratch = Scratch::new();
    let mut popular = Popular::new(&scratch, "4s");
    // No volunteer can get it.
    popular.upstream.set_fault(Popular::FILE, Some(Fault::Rate(2000)));
    popular.publish();
    popular.server.process.wait_message(WAITS);
    let begin = Instant::now();
    assert!(!popular.is_visible());
    let status = popular.server.status();
    assert!(status.number("/snapshots/0/waits_for_copies") >= 1, "{}", status.pretty());
    wait_for("the new generation is visible", DEADLINE, || popular.is_visible());
    let took = begin.elapsed().as_secs_f64();
    assert!((3.0..8.0).contains(&took), "it took {took} s");
    let opened = popular.server.process.wait_message(OPENS);
    assert!(opened["copies_missing"].as_u64() >= Some(1) && opened["why"] == "the time is over", "{opened}");
    assert!(popular.server.status().0.pointer("/snapshots/0/waits_for_copies").is_some_and(|v| v.is_null()));
}

#[test]
fn nobody_waits_where_nothing_is_hot_or_the_gate_is_off() {
    let scratch = Scratch::new();
    let mut popular = Popular::new(&scratch, "0s");
    popular.upstream.set_fault(Popular::FILE, Some(Fault::Rate(2000)));
    popular.publish();
    wait_for("the new generation is visible", DEADLINE, || popular.is_visible());
    assert!(popular.server.process.messages(WAITS).is_empty());
}

#[test]
fn a_shutdown_ends_the_waiting() {
    let scratch = Scratch::new();
    let mut popular = Popular::new(&scratch, "2m");
    popular.upstream.set_fault(Popular::FILE, Some(Fault::Status(503)));
    popular.publish();
    popular.server.process.wait_message(WAITS);
    popular.server.process.terminate();
    // The next process looks itself, and nobody has volunteers yet whom it could wait for.
    popular.upstream.set_fault(Popular::FILE, None);
    let server = Server::start_file(&popular.server.config);
    wait_for("the new generation is visible", DEADLINE, || {
        get(&server.url("flat/Packages")).text().contains(Popular::FILE)
    });
}

/// Stops a server and starts it anew at the same address.
fn restart(mut server: Server, between: impl FnOnce()) -> Server {
    let config = fs::read_to_string(&server.config).expect("the configuration");
    let fixed = config.replacen("127.0.0.1:0", server.address(), 1);
    fs::write(&server.config, fixed).expect("the scratch folder is writable");
    server.process.terminate();
    between();
    Server::start_file(&server.config)
}

#[test]
fn what_is_popular_is_known_after_a_restart() {
    let scratch = Scratch::new();
    let mut popular = Popular::new(&scratch, "2m");
    popular.server = restart(popular.server, || {});
    popular.server.wait_until("all are back", |status| {
        status.volunteers().iter().filter(|v| v["state"] == "up").count() == 3
    });
    wait_for("the server knows its suite", DEADLINE, || {
        get(&popular.server.url("flat/Packages")).status == 200
    });
    popular.publish();
    let waits = popular.server.process.wait_message(WAITS);
    assert!(waits["copies"].as_u64() >= Some(1), "{waits}");
    wait_for("the new generation is visible", DEADLINE, || popular.is_visible());
    get(&popular.url()).expect(302);
}

#[test]
fn what_nobody_asks_for_goes_from_a_full_volunteer_before_more_comes() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[19 * MIB / 10, 19 * MIB / 10, MIB]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.max_size = Some("4MiB".to_owned());
    let volunteer = Volunteer::join(&server, options);
    for file in &files[..2] {
        get(&server.url(file)).expect(200);
        server.wait_redirect(file);
    }
    // A server that has forgotten who asked for it.
    let popularity = scratch.path("server-state/popularity");
    let mut server = restart(server, || fs::remove_file(&popularity).expect("it was written at the end"));
    server.wait_until("it is back", |status| status.state("v1") == "up" && status.of("v1", "holdings") == 2);
    // It looks for what may go every five seconds, once it was told how full the store is.
    (0..3).for_each(|_| _ = server.wait_reports());
    server.wait_redirect(&files[2]);
    server.process.wait_message("ordered a copy to be dropped");
    server.wait_until("all orders have ended", |status| status.is_placed());
    let sha256 = |file: &String| sha256_hex(&package(&scratch, file));
    let stored = volunteer.options.stored();
    assert!(stored.contains(&sha256(&files[2])), "{stored:?}");
    assert!(files[..2].iter().any(|file| !stored.contains(&sha256(file))), "{stored:?}");
    assert_eq!(server.wait_reports().of("v1", "holdings"), stored.len() as u64);
}

/// Clients that fetch a file over and over, each from an address of its own, until they are told to end.
fn crowd(url: &str, clients: usize, body: &[u8], until: impl FnOnce()) -> u64 {
    let (is_over, fetched) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(fetch(url) == body, "{url} has other bytes");
                    fetched.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until();
        is_over.store(true, Ordering::Relaxed);
    });
    fetched.load(Ordering::Relaxed)
}

#[test]
fn a_crowd_is_told_of_from_its_beginning_to_its_end() {
    let scratch = Scratch::new();
    let (mut server, files) = serve_sizes(&scratch, &[200_000]);
    let _volunteers = Volunteer::join_all(&scratch, &server, 3);
    first_copy(&server, &files[0]);
    let wanted = package(&scratch, &files[0]);
    let url = server.url(&files[0]);
    let process = &mut server.process;
    let mut shown = None;
    let fetched = crowd(&url, 4, &wanted, || {
        process.wait_message("a flash crowd begins");
        process.wait_message("a flash crowd continues");
        shown = Some(());
    });
    assert!(shown.is_some());
    let running = server.status();
    assert_eq!(running.0["crowds"][0]["what"], files[0].as_str(), "{}", running.pretty());
    assert_eq!(running.0["crowds"][0]["is_over"], false);
    let ended = server.process.wait_message("a flash crowd has ended");
    let begun = server.process.wait_message("a flash crowd begins");
    let goes = server.process.wait_message("a flash crowd continues");
    for line in [&begun, &goes, &ended] {
        assert_eq!((&line["what"], &line["crowd"]), (&files[0].as_str().into(), &1.into()), "{line}");
    }
    let number = |line: &serde_json::Value, field: &str| -> f64 {
        let value = line[field].as_str().map_or_else(|| line[field].to_string(), str::to_owned);
        value.parse().unwrap_or_else(|_| panic!("{field} of {line}"))
    };
    // What was asked for before it was noticed may count or not.
    let requests = number(&ended, "requests");
    assert!((0.5 * fetched as f64..1.1 * fetched as f64).contains(&requests), "{fetched} fetched: {ended}");
    assert!(
        number(&goes, "absorbed_percent") > 90.0 && number(&ended, "absorbed_percent") > 80.0,
        "{goes} {ended}"
    );
    assert!(number(&goes, "volunteers") >= 1.0 && number(&goes, "requests_per_sec") > 1.0, "{goes}");
    assert!(number(&ended, "duration_secs") < 120.0, "{ended}");
    assert!(ended["download_p50"].is_string() && goes["download_p90"].is_string(), "{goes} {ended}");
    let status = server.status();
    assert_eq!(status.0["crowds"][0]["is_over"], true);
    let crowd = &status.0["crowds"][0];
    let rate = |field: &str| crowd[field].as_u64().unwrap_or_default();
    let (p50, p90) = (rate("download_p50_bytes_per_sec"), rate("download_p90_bytes_per_sec"));
    assert!(0 < p90 && p90 <= p50, "{crowd}");
    let sum = crowd["redirected_bytes"].as_u64().zip(crowd["origin_bytes"].as_u64()).map(|(a, b)| a + b);
    let expected = requests * wanted.len() as f64;
    assert!(sum.is_some_and(|sum| (sum as f64 / expected - 1.0).abs() < 0.1), "{crowd}: {expected}");
}

/// How long a download takes.
fn download(url: &str) -> Duration {
    let begin = Instant::now();
    let (address, target) = split_url(url);
    let mut connection = Conn::open(address);
    let answer = connection.ask("GET", target, &[("Connection", "close")]).expect(200);
    assert!(!answer.cut);
    begin.elapsed()
}

#[test]
fn copies_for_others_take_a_fifth_of_the_line_while_clients_download() {
    const RATE: u64 = 2 << 20;
    const SIZE: usize = 24 * MIB;
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[SIZE]);
    let options = VolunteerOptions::new(&scratch, &server, 1).donate("2MiB/s");
    let _first = Volunteer::join(&server, options);
    first_copy(&server, &files[0]);
    let urls = locations(&server, &files[0], 1);
    let begin = Instant::now();
    let others: Vec<Volunteer> = [2, 3]
        .map(|number| {
            Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, number).donate("2MiB/s"))
        })
        .into();
    let took = std::thread::scope(|scope| {
        let client = scope.spawn(|| download(&urls[0]));
        // Others want it too, so that more copies are ordered.
        for _ in 0..6 {
            get(&server.url(&files[0]));
        }
        client.join().expect("the client has it all")
    });
    let elapsed = begin.elapsed().as_secs_f64();
    let status = server.wait_reports();
    let (served, sync) = (status.of("v1", "served_bytes"), status.of("v1", "sync_bytes"));
    let alone = SIZE as f64 / RATE as f64;
    println!(
        "{:.1} s, alone {alone:.1} s; {served} bytes to clients, {sync} to volunteers",
        took.as_secs_f64()
    );
    assert!(took.as_secs_f64() < alone / 0.8 * 1.15, "took {took:?}, alone {alone:.1} s");
    assert!(sync > 0, "no copy was made by the first for the others\n{}", status.pretty());
    let after = begin.elapsed().as_secs_f64();
    assert!(
        (served + sync) as f64 <= RATE as f64 * (after + 1.0),
        "{served} + {sync} bytes within {elapsed} s"
    );
    drop(others);
}

/// How long a client of that name takes, redirects and all.
fn download_as(url: &str, agent: &str) -> Duration {
    let begin = Instant::now();
    let mut url = url.to_owned();
    for _ in 0..3 {
        let (address, target) = split_url(&url);
        let mut connection = Conn::open(address);
        let headers = [("User-Agent", agent), ("Connection", "close")];
        let answer = connection.ask("GET", target, &headers);
        if answer.status == 302 {
            url = answer.must("location").to_owned();
            continue;
        }
        assert!(answer.expect(200).body.len() == 5_000_000);
        break;
    }
    begin.elapsed()
}

#[test]
fn forty_who_come_at_once_for_a_new_file_wait_seconds_and_are_told_of() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes_by(ServerConfig::default(), &scratch, &[5_000_000]);
    let join = |n| Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, n).donate("4MiB/s"));
    let _volunteers: Vec<Volunteer> = (1..=4).map(join).collect();
    let url = server.url(&files[0]);
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let client = |n| (format!("apt {n}"), url.clone());
        let clients = (0..40).map(client);
        let running: Vec<_> =
            clients.map(|(agent, url)| scope.spawn(move || download_as(&url, &agent))).collect();
        running.into_iter().map(|client| client.join().expect("it has all of it")).collect()
    });
    took.sort();
    let (p50, p90) = (took[20], took[36]);
    println!("p50 {p50:.1?}, p90 {p90:.1?}\n{}", server.status().pretty());
    // Sent to the first that gets a copy, they would wait for most of a minute: 200 MB at 4 MiB/s.
    assert!(p90 < Duration::from_secs(10), "p50 {p50:.1?}, p90 {p90:.1?}");
    server.wait_within("the crowd is told of", Duration::from_secs(15), |status| {
        status.0["crowds"].as_array().is_some_and(|crowds| !crowds.is_empty())
    });
    let told = server.process.messages("a flash crowd begins");
    assert_eq!(told.len(), 1, "{told:?}");
}
