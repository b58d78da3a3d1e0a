//! The ways in besides base URLs, with unmodified clients: as their proxy, behind an interception, by
//! apt-cacher-ng's paths, through tunnels, and found by auto-apt-proxy.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{
    Apt, BINARY, Conn, DEADLINE, Dnf, Process, Response, Scratch, Server, ServerConfig, Upstream, Volunteer,
    Zypper, fetch, poll, run, run_ok, sha256_file, sha256_hex, test_key, test_repos,
};

/// Larger than what the server would send itself.
const PACKAGE: &str = "pool/main/h/hands-data/hands-data_1.0-1_all.deb";

/// Trees that clients know as other hosts' archives.
fn trees() -> ServerConfig {
    let tree = test_repos("t0");
    let suites = "suites = [\"stable\"]\naliases = [\"http://deb.example/pub/alder\"]";
    ServerConfig::default()
        .tree("alder", "generic-deb", &tree.join("alder"), suites)
        .tree("dogwood", "generic-rpm", &tree.join("dogwood"), "aliases = [\"https://rpm.example\"]")
        .tree("elder", "generic-rpm", &tree.join("elder"), "aliases = [\"http://rpm.example:8000/elder\"]")
}

fn apt_source(base: &str) -> String {
    format!("deb [signed-by={}] {base} stable main contrib", test_key().display())
}

fn package() -> Vec<u8> {
    fs::read(test_repos("t0").join("alder").join(PACKAGE)).expect("a committed package")
}

/// A request with any target and Host.
fn ask(server: &Server, method: &str, target: &str, host: &str) -> Response {
    let mut connection = Conn::open(server.address());
    let text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    connection.send(text.as_bytes()).expect("it fits in the socket");
    connection.read_response(method == "HEAD").unwrap_or_else(|e| panic!("{method} {target}: {e}"))
}

#[test]
fn who_cannot_follow_is_never_redirected() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &trees());
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    let path = format!("alder/{PACKAGE}");
    server.wait_redirect(&path);
    server.wait_held_by(1);
    let own = server.address();
    let bytes = package();
    for (target, host) in [
        (format!("http://deb.example/pub/alder/{PACKAGE}"), "deb.example"),
        (format!("https://DEB.example:443/pub//alder/{PACKAGE}"), "other.example"),
        (format!("http://HTTPS///deb.example/pub/alder/{PACKAGE}"), "HTTPS"),
        (format!("http://{own}/{path}"), own),
        (format!("/pub/alder/{PACKAGE}"), "deb.example"),
        (format!("/direct/deb.example/pub/alder/{PACKAGE}"), own),
    ] {
        for _ in 0..5 {
            let answer = ask(&server, "GET", &target, host).expect(200);
            assert_eq!(sha256_hex(&answer.body), sha256_hex(&bytes), "{target}");
            ask(&server, "HEAD", &target, host).expect(200);
        }
    }
    // Those who can are.
    for target in [format!("/{path}"), format!("/deb.example/pub/alder/{PACKAGE}")] {
        let answer = ask(&server, "GET", &target, own).expect(302);
        assert_eq!(fetch(answer.must("location")), bytes);
    }
    ask(&server, "GET", &format!("/HTTPS///deb.example/pub/alder/{PACKAGE}"), own).expect(302);
}

#[test]
fn apt_updates_and_installs_with_the_server_as_its_proxy() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &trees());
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    server.wait_redirect(&format!("alder/{PACKAGE}"));
    server.wait_held_by(1);
    let before = server.status();
    // The last source names the server itself, as some sources.list of a former apt-cacher-ng does.
    for base in [
        "http://deb.example/pub/alder".to_owned(),
        "http://HTTPS///deb.example/pub/alder".to_owned(),
        server.url("alder"),
        server.url("HTTPS///deb.example/pub/alder"),
    ] {
        let folder = scratch.dir(&sha256_hex(base.as_bytes()));
        let apt = Apt::new(&folder, &[apt_source(&base)]);
        apt.configure(&format!("Acquire::http::Proxy \"{}\";", server.base()));
        apt.install_all();
        apt.get(&["download", "hands-data"]);
    }
    let redirects = |status: &support::Status| status.number("/offload/redirects");
    assert_eq!(redirects(&server.status()), redirects(&before), "nothing was redirected");
}

#[test]
fn apt_uses_the_paths_of_apt_cacher_ng() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let config = trees().upstream("far", "generic-deb", &upstream.url("birch"), "suites = [\"focus\"]");
    let server = Server::start(&scratch, &config);
    let (_, birch) = upstream
        .url("birch")
        .split_once("://")
        .map(|(s, rest)| (s.to_owned(), rest.to_owned()))
        .expect("a URL");
    let birch = server.url(&birch);
    for (name, line) in [
        ("plain", apt_source(&server.url("deb.example/pub/alder"))),
        ("https", apt_source(&server.url("HTTPS///deb.example/pub/alder"))),
        ("upstream", format!("deb [signed-by={}] {birch} focus universe", test_key().display())),
    ] {
        Apt::new(&scratch.dir(name), &[line]).install_all();
    }
}

#[test]
fn dnf_zypper_wget_and_curl_use_the_server_as_their_proxy() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &trees());
    let proxy = server.base();

    let dnf = Dnf::new(&scratch.dir("dnf"), &[("dogwood", "http://rpm.example/".to_owned())]);
    dnf.run(&[&format!("--setopt=*.proxy={proxy}"), "install", "hands-*", "libhands*"]);
    assert!(dnf.installed().len() > 1, "{:?}", dnf.installed());

    let (host, port) = server.address().split_once(':').expect("host and port");
    let url = format!("http://rpm.example:8000/elder?proxy={host}&proxyport={port}");
    let zypper = Zypper::new(&scratch.dir("zypper"), &[("elder", url)]);
    zypper.install_all();

    let url = format!("http://deb.example/pub/alder/{PACKAGE}");
    let (wget, curl) = (scratch.path("wget.deb"), scratch.path("curl.deb"));
    let setting = format!("http_proxy={proxy}");
    run_ok(Command::new("wget").args(["-q", "-t", "1", "-e", &setting, &url, "-O"]).arg(&wget));
    // No -L: proxy mode needs none.
    run_ok(Command::new("curl").args(["-fsS", "-x", &proxy, &url, "-o"]).arg(&curl));
    for file in [wget, curl] {
        assert_eq!(sha256_file(&file), sha256_hex(&package()), "{}", file.display());
    }
}

#[test]
fn other_hosts_are_refused_with_a_reason() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &trees());
    for target in
        ["http://unknown.example/alder/x", "http://deb.example/x", "http://HTTPS///unknown.example/x"]
    {
        let answer = ask(&server, "GET", target, "deb.example").expect(403);
        for part in ["http://deb.example/pub/alder", "aliases"] {
            assert!(answer.text().contains(part), "{target}: {}", answer.text());
        }
    }
    let url = "http://unknown.example/x";
    let (status, _, error) = run(Command::new("curl").args(["-fsS", "-x", &server.base(), url]), DEADLINE);
    assert!(!status.success() && error.contains("403"), "{error}");
}

/// A real https server over a folder, with a certificate of its own for `localhost` and 127.0.0.1.
struct Tls {
    _process: Process,
    certificate: std::path::PathBuf,
    port: String,
}

impl Tls {
    fn start(folder: &Path) -> Self {
        let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
        run_ok(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
                .args(["-days", "2", "-subj", "/CN=localhost"])
                .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
                .arg(&key)
                .arg("-out")
                .arg(&certificate),
        );
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-WWW", "-key"]).arg(&key);
        command.arg("-cert").arg(&certificate).current_dir(folder);
        let mut process = Process::spawn("openssl s_server", &mut command);
        let port =
            process.wait_line("its port", |line| Some(line.strip_prefix("ACCEPT 127.0.0.1:")?.to_owned()));
        Self { _process: process, certificate, port }
    }

    /// Fetches a file with curl through the server as proxy.
    fn curl(&self, server: &Server, host: &str, file: &str) -> (bool, String, String) {
        let url = format!("https://{host}:{}/{file}", self.port);
        let mut command = Command::new("curl");
        command.args(["-sS", "-x", &server.base(), &url, "--cacert"]).arg(&self.certificate);
        let (status, out, error) = run(&mut command, DEADLINE);
        (status.success(), out, error)
    }
}

#[test]
fn tunnels_are_refused_unless_listed() {
    let scratch = Scratch::new();
    let tls = Tls::start(&scratch.dir("tls"));
    let secret = "through the tunnel\n".repeat(5000);
    fs::write(scratch.path("tls/file.txt"), &secret).expect("the scratch folder is writable");
    let start = |name: &str, rules: &[String]| {
        let scratch = Scratch::new();
        let config = trees().proxy_lines(&format!("connect = {rules:?}"));
        let server = Server::start(&scratch, &config);
        (name.to_owned(), scratch, server)
    };
    let port = tls.port.clone();
    let by_name = format!("localhost:{port}");
    let by_address = format!("127.0.0.1:{port}");
    for ((name, _scratch, server), reason) in [
        (start("nothing listed", &[]), "[proxy]"),
        (start("another port", &["localhost:1".to_owned()]), "[proxy]"),
        // A name is not enough to reach our own network: whoever answers for it decides where it leads.
        (start("only the name", std::slice::from_ref(&by_name)), "own network"),
    ] {
        let (success, out, error) = tls.curl(&server, "localhost", "file.txt");
        assert!(!success && error.contains("403"), "{name}: {out} {error}");
        let answer = ask(&server, "CONNECT", &by_name, &by_name).expect(403);
        assert!(answer.text().contains(reason), "{name}: {}", answer.text());
    }
    let (_, _scratch, server) = start("both", &[by_name, by_address]);
    for host in ["localhost", "127.0.0.1"] {
        let (success, out, error) = tls.curl(&server, host, "file.txt");
        assert!(success, "{host}: {error}");
        assert_eq!(out, secret, "{host}");
    }
    server.wait_until("the tunnels' bytes are counted", |status| {
        status.number("/offload/tunnel_bytes") > 2 * secret.len() as u64
    });
    // A closed port is the far side's fault, and the server goes on.
    drop(tls);
    let refused = poll(DEADLINE, || {
        let answer = ask(&server, "CONNECT", &format!("127.0.0.1:{port}"), "x");
        (answer.status == 502).then_some(())
    });
    assert!(refused.is_some(), "a tunnel to a closed port");
    ask(&server, "GET", "/", server.address()).expect(200);
}

#[test]
fn the_front_page_at_port_3142_is_what_apt_cacher_ng_shows() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &trees());
    let answer = ask(&server, "GET", "/", "127.0.0.1:3142").expect(406);
    assert!(answer.must("content-type").starts_with("text/html") && answer.text().contains("/alder/"));
    ask(&server, "GET", "/", server.address()).expect(200);
}

/// Two machines, as network namespaces with a cable between them: 192.0.2.1 is the server and the default
/// gateway of 192.0.2.2, the client.
struct Network {
    server: Server,
    client: Process,
}

/// Runs a program inside the namespaces of a process of ours.
fn inside(process: &Process) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &process.pid().to_string(), "-U", "--preserve-credentials", "-n"]);
    command
}

impl Network {
    /// `None` where the machine lets nobody make namespaces.
    fn start(config: &Path) -> Option<Self> {
        let allowed =
            Command::new("unshare").args(["-rn", "true"]).output().is_ok_and(|o| o.status.success());
        if !allowed {
            assert!(std::env::var_os("CI").is_none(), "network namespaces cannot be made here");
            eprintln!("skipped: network namespaces cannot be made here");
            return None;
        }
        let set_up = "ip link set lo up && ip link add server type veth peer name client \
             && ip addr add 192.0.2.1/24 dev server && ip link set server up && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-rn", "sh", "-c", set_up, "sh", BINARY, "serve", "--log-format", "json", "--config"]);
        let server = Server::start_command(command.arg(config), config);
        let mut command = inside(&server.process);
        command.args(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"]);
        let mut client = Process::spawn("client", &mut command);
        client.wait_line("that it is up", |line| (line == "up").then_some(()));
        let pid = client.pid().to_string();
        run_ok(inside(&server.process).args(["ip", "link", "set", "client", "netns", &pid]));
        let set_up = "ip addr add 192.0.2.2/24 dev client && ip link set client up \
             && ip route add default via 192.0.2.1";
        run_ok(inside(&client).args(["sh", "-c", set_up]));
        Some(Self { server, client })
    }
}

/// The real script, which tests/setup.sh unpacks and does not install.
fn auto_apt_proxy() -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp has a parent");
    let script = target.join("tools/usr/bin/auto-apt-proxy");
    assert!(script.is_file(), "{} is missing: run tests/setup.sh", script.display());
    script.display().to_string()
}

#[test]
fn auto_apt_proxy_finds_the_server_and_intercepted_traffic_is_served() {
    let scratch = Scratch::new();
    let config = trees().listen(&["192.0.2.1:3142", "192.0.2.1:80"]).write(&scratch);
    let Some(network) = Network::start(&config) else { return };
    let apt = Apt::new(&scratch.dir("apt"), &[apt_source("http://deb.example/pub/alder")]);
    let detector = auto_apt_proxy();
    apt.configure(&format!("Acquire::http::Proxy-Auto-Detect {detector:?};"));
    let in_client = |program: &str, arguments: &[&str]| {
        let (name, value) = apt.environment();
        let mut command = inside(&network.client);
        command.arg(program).args(arguments).env(name, value).current_dir(apt.downloads());
        run_ok(command.env("TMPDIR", scratch.dir("tmp")).env("LC_ALL", "C"))
    };

    assert_eq!(in_client(&detector, &[]), "http://192.0.2.1:3142\n");

    let out = in_client("apt-get", &["update"]);
    assert!(!out.contains("Err:") && apt.names().contains(&"hands-data".to_owned()), "{out}");
    in_client("apt-get", &["install", "hands-data"]);
    assert!(apt.installed().contains_key("hands-data"), "{:?}", apt.installed());
    in_client("apt-get", &["download", "hands-data"]);
    let downloaded = apt.downloads().join("hands-data_1.0-1_all.deb");
    assert_eq!(sha256_file(&downloaded), sha256_hex(&package()));

    // The address of deb.example is the server's now, as after an interception: no proxy, no -L.
    let url = format!("http://deb.example/pub/alder/{PACKAGE}");
    in_client("curl", &["-fsS", "--resolve", "deb.example:80:192.0.2.1", &url, "-o", "intercepted.deb"]);
    assert_eq!(sha256_file(&apt.downloads().join("intercepted.deb")), sha256_hex(&package()));
    let Network { mut server, client } = network;
    drop(client);
    server.process.terminate();
}
