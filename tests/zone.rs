//! The failover zone with the real binary: dig asks its DNS, apt follows it, and apt comes to the server when
//! the volunteer that it was sent to refuses, is silent or dies in the middle. Each test has a network of its
//! own, in which the server is the resolver.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use manyhands::formats::ticket::Key;
use manyhands::io::db::Db;
use manyhands::model::{Blob, BlobId};
use support::{
    Apt, Conn, DEADLINE, DebRepo, Dnf, NOWHERE, Response, Scratch, Server, ServerConfig, Volunteer,
    VolunteerOptions, cover, package_files, poll, random_bytes, report, request, run_ok, sha256_hex,
    split_url, test_key, test_repos, with_network,
};

const SERVER: &str = "10.9.0.1";
const ADDRESSES: [&str; 3] = [SERVER, "10.9.0.2", "10.9.0.3"];
const ZONE: &str = "v.mirror.example";
const APT: (&str, &str) = ("User-Agent", "Debian APT-HTTP/1.3 (2.6.2)");
/// Large enough that volunteers get it.
const PACKAGE: &str = "alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb";
const MIB: usize = 1 << 20;

/// A server whose zone is all that this network's resolver knows.
fn serve(scratch: &Scratch, config: ServerConfig) -> Server {
    cover("/etc/resolv.conf", &scratch.dir("etc"), &format!("nameserver {SERVER}\noptions timeout:2\n"));
    cover("/etc/services", &scratch.dir("etc"), "http 80/tcp\n");
    let listen = [format!("{SERVER}:8080"), format!("{SERVER}:80")];
    let config = config.listen(&[&listen[0], &listen[1]]);
    Server::start(scratch, &config.server_lines(&format!("failover_zone = {ZONE:?}")))
}

fn repos() -> ServerConfig {
    let tree = test_repos("t0");
    ServerConfig::default().tree("alder", "generic-deb", &tree.join("alder"), "suites = [\"stable\"]").tree(
        "cedar",
        "generic-rpm",
        &tree.join("cedar"),
        "suites = [\"os\"]",
    )
}

/// One on 10.9.0.2, ...
fn options(scratch: &Scratch, server: &Server, number: u8) -> VolunteerOptions {
    let address = ADDRESSES[usize::from(number)].to_owned();
    VolunteerOptions { address, ..VolunteerOptions::new(scratch, server, number) }
}

fn apt(scratch: &Scratch, server: &Server, name: &str) -> Apt {
    let source = format!("deb [signed-by={}] {} stable main", test_key().display(), server.url("alder"));
    let apt = Apt::new(&scratch.path(name), &[source]);
    apt.update();
    apt
}

/// Where apt is sent for a package, once a volunteer has it.
fn location(server: &Server, path: &str) -> String {
    let answer = || Some(request("GET", &server.url(path), &[APT])).filter(|answer| answer.status == 302);
    let answer =
        poll(DEADLINE, answer).unwrap_or_else(|| panic!("no redirect\n{}", server.status().pretty()));
    answer.must("location").to_owned()
}

/// Asks this server as under another host.
fn under(host: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut connection = Conn::open(&format!("{SERVER}:8080"));
    let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    connection.send(text.as_bytes()).expect("a request fits");
    connection.read_response(false).expect("an answer")
}

fn dig(arguments: &[&str]) -> String {
    let mut command = Command::new("dig");
    command.arg(format!("@{SERVER}")).args(["+norecurse", "+tries=1", "+time=5"]);
    run_ok(command.args(arguments))
}

/// The answer's data in dig's short form, one line each.
fn short(arguments: &[&str]) -> Vec<String> {
    dig(&[&["+short"], arguments].concat()).lines().map(str::to_owned).collect()
}

fn installs(apt: &Apt, package: &str) -> Duration {
    let begin = Instant::now();
    apt.get(&["install", package]);
    let took = begin.elapsed();
    assert!(apt.installed().contains_key(package), "{package} is not installed");
    took
}

#[test]
fn dig_is_told_who_serves() {
    with_network("dig_is_told_who_serves", &ADDRESSES, || {
        let scratch = Scratch::new();
        let server = serve(&scratch, repos());
        let mut volunteer = Volunteer::join(&server, options(&scratch, &server, 1));
        let port = volunteer.address.rsplit(':').next().expect("a port").to_owned();
        let (srv, alone) = (format!("_http._tcp.v1.{ZONE}"), format!("20 0 8080 direct.{ZONE}."));
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(
                short(&[transport, &srv, "SRV"]),
                [format!("10 0 {port} at.v1.{ZONE}."), alone.clone()]
            );
        }
        assert_eq!(short(&[&format!("at.v1.{ZONE}"), "A"]), [ADDRESSES[1]]);
        for name in
            [format!("v1.{ZONE}"), format!("direct.{ZONE}"), format!("ns.{ZONE}"), format!("V9.{ZONE}")]
        {
            assert_eq!(short(&[&name, "A"]), [SERVER], "{name}");
        }
        assert_eq!(short(&[ZONE, "NS"]), [format!("ns.{ZONE}.")]);
        for (arguments, want) in [
            (vec![ZONE, "SOA"], "status: NOERROR"),
            (vec![&format!("a.b.{ZONE}"), "A"], "status: NXDOMAIN"),
            (vec!["mirror.example", "A"], "status: REFUSED"),
            (vec![ZONE, "AXFR", "+tcp"], "Transfer failed"),
            (vec![&srv, "SRV", "+opcode=NOTIFY"], "status: NOTIMP"),
            (vec![ZONE, "SOA", "+edns=7", "+noednsnegotiation"], "status: BADVERS"),
            (vec![ZONE, "SOA", "+dnssec"], "flags: do; udp: 1232"),
        ] {
            let answer = dig(&arguments);
            assert!(answer.contains(want), "{arguments:?}: no {want:?} in {answer}");
            assert!(!answer.contains("WARNING: Message parser"), "{arguments:?}: {answer}");
        }
        // One that dies is no longer named at once.
        volunteer.process.kill();
        server.wait_until("it is out", |status| status.state("v1") != "up");
        assert_eq!(short(&[&srv, "SRV"]), [alone]);
        assert!(dig(&[&format!("at.v1.{ZONE}"), "A"]).contains("status: NXDOMAIN"));
    });
}

#[test]
fn apt_follows_names_and_others_get_host_and_port() {
    with_network("apt_follows_names_and_others_get_host_and_port", &ADDRESSES, || {
        let scratch = Scratch::new();
        let server = serve(&scratch, repos());
        let volunteer = Volunteer::join(&server, options(&scratch, &server, 1));
        let named = location(&server, PACKAGE);
        assert!(named.starts_with(&format!("http://v1.{ZONE}/b/")), "{named}");
        for agent in ["libdnf (Debian; generic; Linux.x86_64)", "ZYpp 17", "Wget/1.21"] {
            let answer = request("GET", &server.url(PACKAGE), &[("User-Agent", agent)]).expect(302);
            assert!(volunteer.serves(answer.must("location")), "{agent}: {}", answer.must("location"));
        }
        let served = || server.wait_reports().of("v1", "served_bytes");
        let before = served();
        let apt_took = installs(&apt(&scratch, &server, "apt"), "hands-data");
        let packages = package_files(&scratch.path("apt"));
        let size = |path: &PathBuf| fs::metadata(path).expect("a file").len();
        let after_apt = served();
        assert!(packages.len() == 1 && after_apt - before >= size(&packages[0]), "{before} {after_apt}");
        for round in ["first", "second"] {
            let before = served();
            let dnf = Dnf::new(&scratch.path(round), &[("os", server.url("cedar/os"))]);
            dnf.install_all();
            let large: u64 = dnf.archives().iter().map(size).filter(|size| *size > 32 << 10).sum();
            server.wait_until("all is placed", |status| status.is_placed());
            assert!(large > 0 && (round == "first" || served() - before >= large), "dnf: {large} bytes");
        }
        assert!(server.status().offload("failovers") == 0, "all went to the volunteer");
        report(
            "zone-up",
            &format!("failover zone, volunteer well: apt installed in {:.1} s", apt_took.as_secs_f64()),
        );
    });
}

/// A server, and a volunteer that is well for the server but that clients are sent to where `advertised` is.
fn unreachable(scratch: &Scratch, advertised: &str) -> (Server, Volunteer) {
    let server = serve(scratch, repos());
    let advertise = Some(format!("http://{advertised}"));
    let volunteer = Volunteer::join(&server, VolunteerOptions { advertise, ..options(scratch, &server, 1) });
    (server, volunteer)
}

#[test]
fn apt_comes_to_the_server_when_a_volunteer_refuses() {
    with_network("apt_comes_to_the_server_when_a_volunteer_refuses", &ADDRESSES, || refused_at("10.9.0.3:9"));
}

#[test]
fn apt_comes_to_the_server_when_a_volunteer_has_no_address() {
    // There is no such name in the zone.
    let nowhere = format!("no.such.{ZONE}:8090");
    with_network("apt_comes_to_the_server_when_a_volunteer_has_no_address", &ADDRESSES, || {
        refused_at(&nowhere)
    });
}

fn refused_at(advertised: &str) {
    let scratch = Scratch::new();
    let (server, _volunteer) = unreachable(&scratch, advertised);
    location(&server, PACKAGE);
    let took = installs(&apt(&scratch, &server, "apt"), "hands-data");
    assert!(took < Duration::from_secs(5), "at once, not after {took:?}");
    assert!(server.status().offload("failovers") > 0, "by the zone");
    // It is not taken for one that follows no SRV records.
    let named = location(&server, PACKAGE);
    assert!(named.starts_with(&format!("http://v1.{ZONE}/b/")), "{named}");
    report(
        "zone-refused",
        &format!("failover zone, no volunteer at {advertised}: {:.1} s", took.as_secs_f64()),
    );
}

#[test]
fn apt_comes_to_the_server_when_a_volunteer_is_silent() {
    with_network("apt_comes_to_the_server_when_a_volunteer_is_silent", &ADDRESSES, || {
        let scratch = Scratch::new();
        let (server, _volunteer) = unreachable(&scratch, &format!("{NOWHERE}:8090"));
        location(&server, PACKAGE);
        let apt = apt(&scratch, &server, "apt");
        apt.configure("Acquire::http::Timeout \"4\";");
        let took = installs(&apt, "hands-data");
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(15), "one timeout, not {took:?}");
        let named = location(&server, PACKAGE);
        assert!(named.starts_with(&format!("http://v1.{ZONE}/b/")), "{named}");
        report(
            "zone-silent",
            &format!("failover zone, silent volunteer, timeout 4 s: {:.1} s", took.as_secs_f64()),
        );
    });
}

#[test]
fn apt_goes_on_at_the_server_when_a_volunteer_dies_in_the_middle() {
    with_network("apt_goes_on_at_the_server_when_a_volunteer_dies_in_the_middle", &ADDRESSES, || {
        let scratch = Scratch::new();
        let whole = random_bytes(1, 8 * MIB);
        let mut repo = DebRepo::new(&scratch.path("repo"));
        repo.add("big", &whole);
        repo.publish();
        let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
        let server = serve(&scratch, config);
        let mut volunteer = Volunteer::join(&server, options(&scratch, &server, 1).donate("2MiB/s"));
        location(&server, "flat/big_1_all.deb");
        let root = scratch.path("apt");
        let apt = Apt::new(&root, &[format!("deb [trusted=yes] {} ./", server.url("flat"))]);
        apt.update();

        let before = server.status().offload("served_bytes");
        let begun = root.join("cache/archives/partial");
        let partial = || {
            let files = fs::read_dir(&begun).into_iter().flatten().flatten();
            files.filter_map(|file| Some(file.metadata().ok()?.len())).max().unwrap_or(0)
        };
        let killed = std::thread::scope(|scope| {
            let client = scope.spawn(|| apt.get(&["install", "--download-only", "big"]));
            poll(DEADLINE, || (partial() > 2 * MIB as u64).then_some(())).expect("a download begins");
            volunteer.process.kill();
            let killed = Instant::now();
            client.join().expect("apt succeeds");
            killed.elapsed()
        });
        let got = fs::read(root.join("cache/archives/big_1_all.deb")).expect("the package");
        assert!(got == whole, "the same bytes");
        let served = server.status().offload("served_bytes") - before;
        assert!(served > 0 && served < 7 * MIB as u64, "the server sent {served} bytes: the rest alone");
        assert!(killed < Duration::from_secs(10), "at once, not after {killed:?}");
        report(
            "zone-killed",
            &format!("failover zone, killed in the middle: {:.1} s more", killed.as_secs_f64()),
        );
    });
}

#[test]
fn apt_without_services_is_given_host_and_port_the_second_time() {
    with_network("apt_without_services_is_given_host_and_port_the_second_time", &ADDRESSES, || {
        let scratch = Scratch::new();
        let server = serve(&scratch, repos());
        let volunteer = Volunteer::join(&server, options(&scratch, &server, 1));
        let named = location(&server, PACKAGE);
        assert!(named.starts_with(&format!("http://v1.{ZONE}/b/")), "{named}");
        let apt = apt(&scratch, &server, "apt");
        // Others do ask for the records.
        short(&[&format!("_http._tcp.v1.{ZONE}"), "SRV"]);
        cover("/etc/services", &scratch.dir("minimal"), "");
        let before = server.wait_reports().of("v1", "served_requests");
        let took = installs(&apt, "hands-data");
        assert_eq!(server.status().offload("failovers"), 1, "served by the server");
        assert_eq!(server.wait_reports().of("v1", "served_requests"), before);
        // The second time.
        let again = location(&server, PACKAGE);
        assert!(volunteer.serves(&again), "{again}");
        fs::remove_file(scratch.path("apt/cache/archives/hands-data_1.0-1_all.deb"))
            .expect("what it downloaded");
        apt.get(&["install", "--reinstall", "hands-data"]);
        assert_eq!(server.status().offload("failovers"), 1, "served by the volunteer");
        assert!(server.wait_reports().of("v1", "served_requests") > before);
        report("zone-no-services", &format!("failover zone, no /etc/services: {:.1} s", took.as_secs_f64()));
    });
}

#[test]
fn a_server_that_stops_still_names_its_volunteers() {
    with_network("a_server_that_stops_still_names_its_volunteers", &ADDRESSES, || {
        let scratch = Scratch::new();
        let mut repo = DebRepo::new(&scratch.path("repo"));
        // More than the buffers between two sockets.
        let file = repo.add("big", &random_bytes(1, 64 * MIB));
        repo.publish();
        let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
        let mut server = serve(&scratch, config);
        let _volunteer = Volunteer::join(&server, options(&scratch, &server, 1));
        // A download that is not read keeps the server from ending.
        let mut connection = Conn::open(server.address());
        let text = connection.request_text("GET", &format!("/direct/flat/{file}"), &[]);
        connection.send(text.as_bytes()).expect("a request fits");
        assert_eq!(connection.read_head().expect("an answer").0, 200);
        server.process.signal("TERM");
        server.process.wait_message("volunteer left");
        let named = short(&[&format!("_http._tcp.v1.{ZONE}"), "SRV"]);
        assert!(named.len() == 2 && named[0].ends_with(&format!("at.v1.{ZONE}.")), "{named:?}");
        drop(connection);
        let status = server.process.wait(DEADLINE);
        assert_eq!(status.code(), Some(0));
    });
}

/// The key that a stopped server shares with a volunteer.
fn key(state: &Path, id: &str) -> Key {
    let db = Db::open(&state.join("manyhands.redb")).expect("its server has stopped");
    let record = db.record("volunteer", id).expect("readable").expect("enrolled");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let key: BlobId = record["key"].as_str().and_then(|key| key.parse().ok()).expect("a key");
    Key::new(&key.0)
}

#[test]
fn signed_requests_are_answered_as_the_volunteer_would() {
    with_network("signed_requests_are_answered_as_the_volunteer_would", &ADDRESSES, || {
        let scratch = Scratch::new();
        let mut server = serve(&scratch, repos());
        let volunteer = Volunteer::join(&server, options(&scratch, &server, 1));
        let named = location(&server, PACKAGE);
        let (host, path) = split_url(&named);
        let there = request("GET", &format!("http://{}{path}", volunteer.address), &[]).expect(200);
        let here = under(host, path, &[]).expect(200);
        assert!(here.body == there.body && sha256_hex(&here.body) == path.split('/').nth(3).expect("a hash"));
        for header in ["ETag", "Last-Modified", "Content-Length", "Content-Type", "Accept-Ranges"] {
            assert_eq!(here.must(header), there.must(header), "{header}");
        }
        let rest = [("Range", "bytes=1000-"), ("If-Range", there.must("Last-Modified"))];
        let part = under(host, path, &rest).expect(206);
        assert!(part.body == there.body[1000..]);
        assert_eq!(
            part.must("Content-Range"),
            format!("bytes 1000-{}/{}", there.body.len() - 1, there.body.len())
        );

        // Only what was signed, for whom it was signed.
        let last = if path[4..].contains("-0") { "1" } else { "0" };
        let (before, after) = path.split_once('-').expect("a signature");
        let forged = format!("{before}-{last}{}", &after[1..]);
        let unknown = path.replace(path.split('/').nth(3).expect("a hash"), &"0".repeat(64));
        let other = format!("v2.{ZONE}");
        for (host, path, status) in [
            (host, forged.as_str(), 403),
            (other.as_str(), path, 403),
            (host, unknown.as_str(), 404),
            (host, "/b/nonsense", 404),
            (ZONE, path, 404),
            (SERVER, path, 404),
        ] {
            under(host, path, &[]).expect(status);
        }

        // After a restart, before the volunteer is back, and long after the expiry.
        drop(volunteer);
        server.process.terminate();
        let blob =
            Blob { id: sha256_hex(&there.body).parse().expect("a hash"), size: there.body.len() as u64 };
        let key = key(&scratch.path("server-state"), "v1");
        let server = Server::start_file(&server.config);
        assert!(under(host, &key.sign(blob, 1_000_000_000, "x.deb"), &[]).expect(200).body == there.body);
        under(host, &key.sign(Blob { size: blob.size + 1, ..blob }, 1_000_000_000, "x.deb"), &[]).expect(403);
        assert!(under(host, path, &[]).expect(200).body == there.body);
        assert_eq!(server.status().state("v1"), "gone");
    });
}
