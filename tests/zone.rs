//! The failover zone with the real binary: dig asks its DNS, apt follows it, and apt comes to the server when
//! the volunteer that it was sent to refuses, is silent, has no address or dies in the middle. Each test has a
//! network of its own, in which the server is the clients' resolver.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use manyhands::formats::ticket::Key;
use manyhands::io::db::Db;
use manyhands::model::{Blob, BlobId};
use support::net::{Host, Network, alone};
use support::{
    Apt, BINARY, Conn, DEADLINE, DebRepo, Dnf, Process, Response, Scratch, Server, ServerConfig,
    VolunteerOptions, package_files, poll, random_bytes, report, request, run, run_ok, sha256_hex, split_url,
    test_key, test_repos,
};

/// Addresses in the first network of a program.
const SERVER: &str = "10.0.1.1";
const VOLUNTEER: &str = "10.0.1.11";
const ZONE: &str = "v.mirror.example";
const APT: (&str, &str) = ("User-Agent", "Debian APT-HTTP/1.3 (2.6.2)");
/// Large enough that volunteers get them.
const PACKAGE: &str = "alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb";
const OTHER: &str = "alder/pool/main/h/hands-common/hands-common_1.0-1_all.deb";
const MIB: usize = 1 << 20;

/// Fields drop in order: processes before the hosts that they run on.
struct Bed {
    server: Server,
    volunteer: Process,
    /// Its clients are on hosts of their own.
    options: VolunteerOptions,
    client: Host,
    volunteer_host: Host,
    server_host: Host,
    /// Without /etc/services.
    minimal: Host,
    _network: Network,
    scratch: Scratch,
}

impl Bed {
    /// A server, and a volunteer that is up.
    fn start(config: ServerConfig, donate: Option<&str>, advertise: Option<&str>) -> Self {
        Self::start_with(config, |options| {
            options.donate = donate.map(str::to_owned);
            options.advertise = advertise.map(str::to_owned);
        })
    }

    /// The same with more said about the volunteer.
    fn start_with(config: ServerConfig, more: impl FnOnce(&mut VolunteerOptions)) -> Self {
        assert!(Path::new("/etc/services").exists(), "/etc/services is missing (Debian's package netbase)");
        let scratch = Scratch::new();
        let network = Network::new(&scratch.path("network"));
        // Only the server knows this name.
        let hosts = format!("127.0.0.1 localhost\n{VOLUNTEER} edge.example\n");
        let server_host = network.host("server", 1, &[("hosts", &hosts)]);
        let volunteer_host = network.host("v1", 11, &[]);
        let resolver = format!("nameserver {SERVER}\noptions timeout:2\n");
        let client = |name, last, services| {
            network.host(name, last, &[("resolv.conf", &resolver), ("services", services)])
        };
        let (client, minimal) = (client("client", 101, "http 80/tcp\n"), client("minimal", 102, ""));
        let listen = [format!("{SERVER}:8080"), format!("{SERVER}:80")];
        let config = config.listen(&[&listen[0], &listen[1]]).admin(&format!("{SERVER}:8081"));
        let config = config.server_lines(&format!("failover_zone = {ZONE:?}")).write(&scratch);
        let server = start_server(&server_host, &config);
        let mut options = VolunteerOptions {
            address: VOLUNTEER.to_owned(),
            port: 8090,
            ..VolunteerOptions::new(&scratch, &server, 1)
        };
        more(&mut options);
        let mut volunteer = Process::spawn("v1", &mut volunteer_host.enter(&options.command()));
        volunteer.wait_message("ready");
        server.wait_until("the volunteer is up", |status| status.state("v1") == "up");
        Self {
            server,
            volunteer,
            options,
            client,
            volunteer_host,
            server_host,
            minimal,
            _network: network,
            scratch,
        }
    }

    /// A client of the deb repository, on one of the hosts.
    fn apt<'a>(&self, host: &'a Host, name: &str) -> AptOn<'a> {
        let source =
            format!("deb [signed-by={}] {} stable main", test_key().display(), self.server.url("alder"));
        let apt = AptOn { apt: Apt::new(&self.scratch.path(name), &[source]), host };
        apt.get(&["update"]);
        apt
    }

    fn failovers(&self) -> u64 {
        self.server.status().offload("failovers")
    }

    /// Where this program is sent for a package as apt, once the volunteer has it. (One address that asks
    /// again is served, then taken for many.)
    fn location(&self, path: &str) -> String {
        self.location_for(APT.1, path)
    }

    fn location_for(&self, agent: &str, path: &str) -> String {
        let answer = || {
            let answer = request("GET", &self.server.url(path), &[("User-Agent", agent)]);
            (answer.status == 302).then_some(answer)
        };
        let answer = poll(DEADLINE, answer);
        let answer = answer.unwrap_or_else(|| panic!("no redirect\n{}", self.server.status().pretty()));
        answer.must("location").to_owned()
    }
}

fn start_server(host: &Host, config: &Path) -> Server {
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(config).args(["--log", "debug", "--log-format", "json"]);
    Server::start_command(&mut host.enter(&command), config)
}

fn is_named(location: &str) -> bool {
    location.starts_with(&format!("http://v1.{ZONE}/b/"))
}

fn is_place(location: &str) -> bool {
    location.starts_with(&format!("http://{VOLUNTEER}:8090/b/"))
}

/// apt on a host.
struct AptOn<'a> {
    apt: Apt,
    host: &'a Host,
}

impl AptOn<'_> {
    fn get(&self, arguments: &[&str]) {
        let mut command = self.apt.command("apt-get");
        let (status, out, err) = run(&mut self.host.enter(command.args(arguments)), 3 * DEADLINE);
        let is_clean = !err.lines().any(|line| line.starts_with("W:") || line.starts_with("E:"));
        assert!(status.success() && is_clean, "apt-get {arguments:?}: {status}\n{out}\n{err}");
    }

    fn installs(&self, package: &str) -> Duration {
        let begin = Instant::now();
        self.get(&["install", package]);
        let took = begin.elapsed();
        assert!(self.apt.installed().contains_key(package), "{package} is not installed");
        took
    }
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

/// One large package, for clients that only fetch.
fn big(scratch: &Scratch, size: usize) -> (ServerConfig, Vec<u8>) {
    let whole = random_bytes(1, size);
    let mut repo = DebRepo::new(&scratch.path("repo"));
    repo.add("big", &whole);
    repo.publish();
    (ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]"), whole)
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

#[test]
fn dig_is_told_who_serves() {
    alone("dig_is_told_who_serves", || {
        let mut bed = Bed::start(repos(), None, None);
        let (srv, alone) = (format!("_http._tcp.v1.{ZONE}"), format!("20 0 8080 direct.{ZONE}."));
        for transport in ["+notcp", "+tcp"] {
            let found = short(&[transport, &srv, "SRV"]);
            assert_eq!(found, [format!("10 0 8090 at.v1.{ZONE}."), alone.clone()]);
        }
        assert_eq!(short(&[&format!("at.v1.{ZONE}"), "A"]), [VOLUNTEER]);
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
        bed.volunteer.kill();
        bed.server.wait_until("it is out", |status| status.state("v1") != "up");
        assert_eq!(short(&[&srv, "SRV"]), [alone]);
        assert!(dig(&[&format!("at.v1.{ZONE}"), "A"]).contains("status: NXDOMAIN"));
    });
}

#[test]
fn apt_follows_names_and_others_get_host_and_port() {
    alone("apt_follows_names_and_others_get_host_and_port", || {
        let bed = Bed::start(repos(), None, None);
        assert!(is_named(&bed.location(PACKAGE)));
        for agent in ["libdnf (Debian; generic; Linux.x86_64)", "ZYpp 17", "Wget/1.21"] {
            let location = bed.location_for(agent, PACKAGE);
            assert!(is_place(&location), "{agent}: {location}");
        }
        let served = || bed.server.wait_reports().of("v1", "served_bytes");
        let before = served();
        let took = bed.apt(&bed.client, "apt").installs("hands-data");
        let packages = package_files(&bed.scratch.path("apt"));
        let size = |path: &PathBuf| fs::metadata(path).expect("a file").len();
        let after = served();
        assert!(packages.len() == 1 && after - before >= size(&packages[0]), "{before} {after}");
        for (round, host) in [("first", &bed.minimal), ("second", &bed.client)] {
            let before = served();
            let dnf = Dnf::new(&bed.scratch.path(round), &[("os", bed.server.url("cedar/os"))]);
            run_ok(&mut host.enter(dnf.command().args(["install", "hands-*", "libhands*"])));
            let large: u64 = dnf.archives().iter().map(size).filter(|size| *size > 32 << 10).sum();
            bed.server.wait_until("all is placed", |status| status.is_placed());
            assert!(large > 0 && (round == "first" || served() - before >= large), "dnf: {large} bytes");
        }
        assert_eq!(bed.failovers(), 0, "all went to the volunteer");
        report("zone-up", &format!("failover zone, volunteer well: {:.1} s", took.as_secs_f64()));
    });
}

#[test]
fn volunteers_that_come_and_go_are_for_those_who_fall_over() {
    alone("volunteers_that_come_and_go_are_for_those_who_fall_over", || {
        let files = Scratch::new();
        let file = files.path("volunteer.toml");
        fs::write(&file, "volatile = true\n").expect("the scratch folder is writable");
        let bed = Bed::start_with(repos(), |options| options.config = Some(file));
        assert!(is_named(&bed.location(PACKAGE)));
        // It would never come back.
        bed.client
            .inside(|| request("GET", &bed.server.url(PACKAGE), &[("User-Agent", "Wget/1.21")]).expect(200));
    });
}

/// apt installs although the volunteer, which is well for the server, is not to be had for it.
fn installs_without(bed: &Bed, what: &str, limits: std::ops::Range<u64>) {
    bed.location(PACKAGE);
    let apt = bed.apt(&bed.client, "apt");
    apt.apt.configure("Acquire::http::Timeout \"4\";");
    let took = apt.installs("hands-data");
    assert!((limits.start..limits.end).contains(&took.as_secs()), "{what}: {took:?}");
    assert!(bed.failovers() > 0, "by the zone");
    // It is not taken for one that follows no SRV records.
    let fell = bed.server.process.messages("follows no SRV records: gets host and port from now on");
    assert!(fell.is_empty(), "{fell:?}");
    report(&format!("zone-{what}"), &format!("failover zone, volunteer {what}: {:.1} s", took.as_secs_f64()));
}

#[test]
fn apt_comes_to_the_server_when_a_volunteer_refuses() {
    alone("apt_comes_to_the_server_when_a_volunteer_refuses", || {
        let bed = Bed::start(repos(), None, None);
        // The client is itself at that address, and nobody listens there.
        let address = format!("{VOLUNTEER}/32");
        run_ok(bed.client.command("ip").args(["address", "add", &address, "dev", "lo"]));
        installs_without(&bed, "refuses", 0..4);
    });
}

#[test]
fn apt_comes_to_the_server_when_a_volunteer_is_silent() {
    alone("apt_comes_to_the_server_when_a_volunteer_is_silent", || {
        let bed = Bed::start(repos(), None, None);
        bed.client.set_gate(&bed.volunteer_host, true);
        // One timeout.
        installs_without(&bed, "silent (timeout 4 s)", 4..15);
    });
}

#[test]
fn apt_comes_to_the_server_when_a_volunteer_has_no_address() {
    alone("apt_comes_to_the_server_when_a_volunteer_has_no_address", || {
        let bed = Bed::start(repos(), None, Some("http://edge.example:8090"));
        assert_eq!(short(&[&format!("_http._tcp.v1.{ZONE}"), "SRV"])[0], "10 0 8090 edge.example.");
        installs_without(&bed, "without address", 0..10);
    });
}

#[test]
fn apt_goes_on_at_the_server_when_a_volunteer_dies_in_the_middle() {
    alone("apt_goes_on_at_the_server_when_a_volunteer_dies_in_the_middle", || {
        let files = Scratch::new();
        let (config, whole) = big(&files, 8 * MIB);
        let mut bed = Bed::start(config, Some("2MiB/s"), None);
        bed.location("flat/big_1_all.deb");
        let root = bed.scratch.path("apt");
        let source = format!("deb [trusted=yes] {} ./", bed.server.url("flat"));
        let apt = Apt::new(&root, &[source]);
        let before = bed.server.status().offload("served_bytes");
        let begun = root.join("cache/archives/partial");
        let partial = || {
            let files = fs::read_dir(&begun).into_iter().flatten().flatten();
            files.filter_map(|file| Some(file.metadata().ok()?.len())).max().unwrap_or(0)
        };
        let (client, volunteer) = (&bed.client, &mut bed.volunteer);
        let apt = AptOn { apt, host: client };
        apt.get(&["update"]);
        let killed = std::thread::scope(|scope| {
            let running = scope.spawn(|| apt.get(&["install", "--download-only", "big"]));
            poll(DEADLINE, || (partial() > 2 * MIB as u64).then_some(())).expect("a download begins");
            volunteer.kill();
            let killed = Instant::now();
            running.join().expect("apt succeeds");
            killed.elapsed()
        });
        let got = fs::read(root.join("cache/archives/big_1_all.deb")).expect("the package");
        assert!(got == whole, "the same bytes");
        let served = bed.server.status().offload("served_bytes") - before;
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
    alone("apt_without_services_is_given_host_and_port_the_second_time", || {
        let bed = Bed::start(repos(), None, None);
        assert!(is_named(&bed.location(PACKAGE)) && is_named(&bed.location(OTHER)));
        // Others do ask for the records.
        short(&[&format!("_http._tcp.v1.{ZONE}"), "SRV"]);
        let apt = bed.apt(&bed.minimal, "apt");
        let served = || bed.server.wait_reports().of("v1", "served_requests");
        let before = served();
        let took = apt.installs("hands-data");
        assert_eq!(bed.failovers(), 1, "served by the server");
        // The second time.
        let before = before.max(served());
        apt.installs("hands-common");
        assert_eq!(bed.failovers(), 1, "served by the volunteer");
        assert!(served() > before);
        assert!(is_named(&bed.location(OTHER)), "others are still sent by name");
        report("zone-no-services", &format!("failover zone, no /etc/services: {:.1} s", took.as_secs_f64()));
    });
}

#[test]
fn a_server_that_stops_still_names_its_volunteers() {
    alone("a_server_that_stops_still_names_its_volunteers", || {
        let files = Scratch::new();
        // More than the buffers between two sockets.
        let mut bed = Bed::start(big(&files, 64 * MIB).0, None, None);
        // A download that is not read keeps the server from ending.
        let mut connection = Conn::open(bed.server.address());
        let text = connection.request_text("GET", "/direct/flat/big_1_all.deb", &[]);
        connection.send(text.as_bytes()).expect("a request fits");
        assert_eq!(connection.read_head().expect("an answer").0, 200);
        bed.server.process.signal("TERM");
        bed.server.process.wait_message("volunteer left");
        let named = short(&[&format!("_http._tcp.v1.{ZONE}"), "SRV"]);
        assert!(named.len() == 2 && named[0].ends_with(&format!("at.v1.{ZONE}.")), "{named:?}");
        drop(connection);
        let status = bed.server.process.wait(DEADLINE);
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
    alone("signed_requests_are_answered_as_the_volunteer_would", || {
        let mut bed = Bed::start(repos(), None, None);
        let named = bed.location(PACKAGE);
        let (host, path) = split_url(&named);
        let there = request("GET", &format!("http://{VOLUNTEER}:8090{path}"), &[]).expect(200);
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
        bed.volunteer.kill();
        bed.server.process.terminate();
        let blob =
            Blob { id: sha256_hex(&there.body).parse().expect("a hash"), size: there.body.len() as u64 };
        let key = key(&bed.scratch.path("server-state"), &bed.options.id);
        let server = start_server(&bed.server_host, &bed.server.config);
        assert!(under(host, &key.sign(blob, 1_000_000_000, "x.deb"), &[]).expect(200).body == there.body);
        under(host, &key.sign(Blob { size: blob.size + 1, ..blob }, 1_000_000_000, "x.deb"), &[]).expect(403);
        assert!(under(host, path, &[]).expect(200).body == there.body);
        assert_eq!(server.status().state("v1"), "gone");
    });
}
