//! Upstreams that want to be asked with care: a plus that is a space, pauses, passwords, redirects within our own
//! network, client certificates.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    Apt, BINARY, Conn, DEADLINE, Fault, Process, Scratch, Server, ServerConfig, Upstream, Volunteer, fetch,
    get, run, run_ok, sha256_file, sha256_hex, test_key, test_repos, wait_for,
};

const PLUS: &str = "pool/main/libh/libhands++/libhands++-dev_1.2+dfsg-1_amd64.deb";
const DATA: &str = "pool/main/h/hands-data/hands-data_1.0-1_all.deb";
const RELEASE: &str = "dists/stable/InRelease";
const PASSWORD: &str = "s3cr3t/pass";
/// `user:s3cr3t/pass`.
const BASIC: &str = "Basic dXNlcjpzM2NyM3QvcGFzcw==";

fn alder() -> PathBuf {
    test_repos("t0").join("alder")
}

/// A server with this repository alone; `url` is its upstream and `more` further lines.
fn serve(scratch: &Scratch, url: &str, more: &str) -> Server {
    let config = ServerConfig::default().upstream(
        "alder",
        "generic-deb",
        url,
        &format!("suites = [\"stable\"]\n{more}"),
    );
    Server::start(scratch, &config)
}

fn wait_metadata(server: &Server) {
    server.wait_until("the suite is read", |status| {
        status.0["snapshots"].as_array().is_some_and(|snapshots| !snapshots.is_empty())
    });
}

fn is_good(server: &Server, path: &str) -> bool {
    sha256_hex(&fetch(&server.url(&format!("alder/{path}")))) == sha256_file(&alder().join(path))
}

fn log(server: &Server) -> String {
    server.process.lines().join("\n")
}

#[test]
fn a_plus_is_no_space() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&alder());
    upstream.read_plus_as_space();
    let server = serve(&scratch, upstream.url("").trim_end_matches('/'), "");
    wait_metadata(&server);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    assert!(is_good(&server, PLUS), "as written");
    // Clients write it so, and what is here is found under every spelling.
    for plus in ["%2b", "%2B"] {
        let body = fetch(&server.direct(&format!("alder/{}", PLUS.replace('+', plus))));
        assert_eq!(sha256_hex(&body), sha256_file(&alder().join(PLUS)), "{plus}");
    }
    assert_eq!(upstream.gets_ending("_amd64.deb"), [format!("/{}", PLUS.replace('+', "%2B"))]);
    let location = server.wait_redirect(&format!("alder/{}", PLUS.replace('+', "%2b")));
    assert!(volunteers[0].serves(&location) && location.ends_with("/libhands++-dev_1.2+dfsg-1_amd64.deb"));
}

#[test]
fn a_short_pause_is_waited_for_and_nobody_asks_within_it() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&alder());
    upstream.limit(Duration::from_secs(2));
    let server = serve(&scratch, upstream.url("").trim_end_matches('/'), "");
    let begin = Instant::now();
    get(&server.url(&format!("alder/{RELEASE}"))).expect(200);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(upstream.refused(), 1, "asked too early");

    upstream.limit(Duration::from_secs(2));
    std::thread::scope(|scope| {
        let clients: Vec<_> = [DATA, PLUS].map(|path| scope.spawn(|| is_good(&server, path))).into();
        assert!(clients.into_iter().all(|client| client.join().expect("a client thread")));
    });
    assert!((1..=2).contains(&upstream.refused()), "both may be on their way: {}", upstream.refused());
}

#[test]
fn pauses_that_are_named_do_not_make_others_longer() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&alder());
    let server = serve(&scratch, upstream.url("").trim_end_matches('/'), "");
    wait_metadata(&server);
    upstream.refuse_next(&[Some(1), Some(1), Some(1), None]);
    let begin = Instant::now();
    assert!(is_good(&server, DATA));
    assert!(begin.elapsed() < Duration::from_secs(8), "three times 1 s, then 2 s: {:?}", begin.elapsed());
}

#[test]
fn apt_waits_out_a_pause_in_one_run() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&alder());
    upstream.limit(Duration::from_secs(2));
    let server = serve(&scratch, upstream.url("").trim_end_matches('/'), "");
    let source = format!("deb [signed-by={}] {} stable main", test_key().display(), server.url("alder"));
    let apt = Apt::new(&scratch.dir("apt"), &[source]);
    apt.configure("Acquire::Retries \"0\";");
    apt.update();
    assert!(apt.names().contains(&"hands-data".to_owned()), "{:?}", apt.names());
}

#[test]
fn a_long_pause_is_passed_on() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&alder());
    upstream.limit(Duration::from_secs(100));
    let server = serve(&scratch, upstream.url("").trim_end_matches('/'), "");
    let wait_of = |path: &str| {
        let answer = get(&server.url(&format!("alder/{path}"))).expect(503);
        answer.must("retry-after").parse::<u64>().expect("seconds")
    };
    wait_for("the suite's first read has failed", DEADLINE, || upstream.refused() > 0);
    for path in [RELEASE, DATA, "README", RELEASE] {
        let begin = Instant::now();
        let seconds = wait_of(path);
        assert!((60..=101).contains(&seconds), "{path}: {seconds}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{path}: {:?}", begin.elapsed());
    }
    assert_eq!(upstream.refused(), 1, "nobody asks within the pause");
    assert_eq!(server.process.messages("the upstream asks for a pause").len(), 1);
}

#[test]
fn another_upstream_is_asked_at_once_while_one_pauses() {
    let scratch = Scratch::new();
    let (first, second) = (Upstream::start(&alder()), Upstream::start(&alder()));
    first.limit(Duration::from_secs(100));
    let urls = [&first, &second].map(|upstream| upstream.url("").trim_end_matches('/').to_owned());
    let config = ServerConfig::default().upstreams("alder", "generic-deb", &urls, "suites = [\"stable\"]");
    let server = Server::start(&scratch, &config);
    let begin = Instant::now();
    get(&server.url(&format!("alder/{RELEASE}"))).expect(200);
    assert!(is_good(&server, DATA));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!((first.refused(), second.gets(DATA)), (1, 1));
}

#[test]
fn a_suite_that_could_not_be_read_is_tried_again_soon() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&alder());
    upstream.set_outage(Some(Fault::Status(500)));
    let server = serve(&scratch, upstream.url("").trim_end_matches('/'), "");
    let ask = || get(&server.url(&format!("alder/{RELEASE}"))).status;
    assert!(ask() >= 500);
    upstream.set_outage(None);
    let begin = Instant::now();
    wait_for("the suite is served", DEADLINE, || ask() == 200);
    // A look that begins now may be one of three.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

/// The URL of an upstream with user information that is percent-encoded.
fn with_password(upstream: &Upstream) -> String {
    format!("http://user:s3cr3t%2Fpass@{}", upstream.address())
}

/// Fails if a password is anywhere in a text.
fn assert_hidden(what: &str, text: &str) {
    for secret in [PASSWORD, "s3cr3t", BASIC] {
        assert!(!text.contains(secret), "{what} shows {secret}:\n{text}");
    }
}

#[test]
fn a_password_is_sent_and_never_shown() {
    for is_in_file in [false, true] {
        let scratch = Scratch::new();
        let upstream = Upstream::start(&alder());
        upstream.demand(BASIC);
        let file = scratch.path("auth");
        fs::write(&file, format!("user:{PASSWORD}\n")).expect("the scratch folder is writable");
        let server = match is_in_file {
            false => serve(&scratch, &with_password(&upstream), ""),
            true => serve(
                &scratch,
                upstream.url("").trim_end_matches('/'),
                &format!("credentials_file = {:?}", file.display().to_string()),
            ),
        };
        get(&server.url(&format!("alder/{RELEASE}"))).expect(200);
        assert!(is_good(&server, DATA));
        upstream.set_fault(&PLUS.replace('+', "%2B"), Some(Fault::Status(500)));
        let answer = get(&server.url(&format!("alder/{PLUS}"))).expect(502);
        assert_hidden("an answer", &answer.text());
        assert!(upstream.authorizations().iter().all(|sent| sent == BASIC));

        let failed = server.process.messages("fetch failed");
        let said = failed.last().expect("it is logged").to_string();
        assert!(
            said.contains(&format!("alder/{PLUS}")) && said.contains(&upstream.address().to_string()),
            "{said}"
        );
        assert_hidden("the log", &log(&server));
        assert_hidden("the status", &server.status().pretty());
        let proxied = get(&format!("http://{}/http://other.example/x", server.address()));
        assert_hidden("a refusal", &proxied.text());
        let out = run_ok(Command::new(BINARY).args(["check", "--config"]).arg(&server.config));
        assert!(out.contains("(with a user name and a password)"), "{out}");
        assert_eq!(out.contains("warning"), is_in_file, "the file is for everyone: {out}");
        assert_hidden("check", &out);
    }
}

#[test]
fn a_password_does_not_follow_a_redirect() {
    let scratch = Scratch::new();
    let (upstream, store) = (Upstream::start(&alder()), Upstream::start(&alder()));
    upstream.demand(BASIC);
    upstream.set_fault(DATA, Some(Fault::To(store.address())));
    upstream.set_fault(RELEASE, Some(Fault::Moved));
    let more = format!("redirect_to = [\"{}\"]", store.address());
    let server = serve(&scratch, &with_password(&upstream), &more);
    wait_metadata(&server);
    assert!(is_good(&server, DATA));
    assert_eq!(store.authorizations(), [""], "another host learns nothing");
    assert!(upstream.gets(&format!("moved/{RELEASE}")) > 0);
    assert!(upstream.authorizations().iter().all(|sent| sent == BASIC), "the same host does");
}

#[test]
fn check_and_start_refuse_what_would_give_a_password_away() {
    let scratch = Scratch::new();
    for (upstream, words) in [
        ("upstream = [\"http://user:s3cr3t@mirror.example/x\"]", "in the clear"),
        ("upstream = [\"https://user:s3cr3t/pass@mirror.example/x\"]", "%2F"),
        ("upstream = [\"https://user:1234/5@mirror.example/x\"]", "%2F"),
        ("upstream = [\"https://user:s3cr3t\\q@mirror.example/x\"]", "line 8"),
        ("upstream = \"https://user:s3cr3t@mirror.example/x\"", "expected a sequence"),
        ("upstream = [\"https://user:s3cr3t@mirror.example/x\", 1]", "expected a string"),
        ("upstream = [\"ftp://user:s3cr3t@mirror.example/x\"]", "http://"),
        ("upstream = [\"https://user:s3cr3t@mirror.example/x\"]\ntree_ = 1", "unknown field"),
    ] {
        let path = scratch.path("serve.toml");
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nstate_dir = {:?}\n[[repo]]\nname = \"x\"\n\
             distro = \"generic-deb\"\n{upstream}\n",
            scratch.path("state").display().to_string()
        );
        fs::write(&path, text).expect("the scratch folder is writable");
        for command in ["check", "serve"] {
            let (status, out, err) =
                run(Command::new(BINARY).args([command, "--config"]).arg(&path), DEADLINE);
            assert!(!status.success() && err.contains(words), "{command} {upstream}: {err}");
            assert_hidden(command, &format!("{out}{err}"));
        }
    }
}

#[test]
fn redirects_within_our_network_go_where_the_configuration_says() {
    let start = |address: &str| {
        let listener = TcpListener::bind((address, 0)).expect("an address of loopback");
        Upstream::start_on(listener, &alder())
    };
    // Another port of one address, and another address.
    for (from, to) in [("127.0.0.1", "127.0.0.1"), ("127.0.7.1", "127.0.7.2")] {
        let (origin, store) = (start(from), start(to));
        origin.set_fault(DATA, Some(Fault::To(store.address())));
        let origin_url = format!("http://{}", origin.address());
        let ask = |more: &str, urls: &[String]| {
            let scratch = Scratch::new();
            let more = format!("suites = [\"stable\"]\n{more}");
            let config = ServerConfig::default().upstreams("alder", "generic-deb", urls, &more);
            let server = Server::start(&scratch, &config);
            wait_metadata(&server);
            let answer = get(&server.url(&format!("alder/{DATA}")));
            (answer.status, log(&server))
        };
        let (status, said) = ask("", std::slice::from_ref(&origin_url));
        assert_eq!((status, store.gets(DATA)), (502, 0));
        let key = format!("redirect_to = [\\\"{}\\\"] would allow that", store.address());
        assert!(said.contains(&key), "{said}");
        let other = SocketAddr::from(([127, 0, 7, 3], store.address().port()));
        assert_eq!(ask(&format!("redirect_to = [\"{other}\"]"), std::slice::from_ref(&origin_url)).0, 502);

        let named = format!("redirect_to = [\"{}\"]", store.address());
        assert_eq!(ask(&named, std::slice::from_ref(&origin_url)).0, 200);
        assert_eq!(store.gets(DATA), 1);
        // As a second upstream of the same repository it is named too.
        let both = [origin_url, format!("http://{}/nosuch", store.address())];
        assert_eq!(ask("", &both).0, 200);
        assert_eq!(store.gets(DATA), 2);
    }
}

/// Certificates of a private authority, made by openssl: a server's for 127.0.0.1, a client's, an expired client's.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn new(dir: PathBuf) -> Self {
        let authority = Self { dir };
        authority
            .openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem");
        authority.issue("server", "subjectAltName=IP:127.0.0.1", "-days 2");
        authority.issue("client", "extendedKeyUsage=clientAuth", "-days 2");
        authority.issue(
            "late",
            "extendedKeyUsage=clientAuth",
            "-startdate 20200101000000Z -enddate 20210101000000Z",
        );
        authority
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn issue(&self, name: &str, extension: &str, dates: &str) {
        let settings = format!(
            "[ca]\ndefault_ca = all\n[all]\ndatabase = {name}.txt\nnew_certs_dir = .\nrand_serial = yes\n\
             policy = any\nx509_extensions = extensions\n[any]\ncommonName = supplied\n[extensions]\n{extension}\n"
        );
        for (file, text) in [(format!("{name}.cnf"), settings), (format!("{name}.txt"), String::new())] {
            fs::write(self.dir.join(file), text).expect("the scratch folder is writable");
        }
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -batch -notext -config {name}.cnf -cert ca.pem -keyfile ca.key -md sha256 {dates} -in {name}.csr -out {name}.pem"
        ));
    }

    fn openssl(&self, arguments: &str) {
        run_ok(Command::new("openssl").args(arguments.split(' ')).current_dir(&self.dir));
    }

    /// nginx that serves a folder to those with a certificate alone.
    fn serve(&self, root: &Path) -> (Process, String) {
        let port = support::free_port("127.0.0.1");
        let dir = self.dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {dir}/{name};\n"))
            .concat();
        // A master that is root would give its rights away, and could not read the scratch folder.
        let user = if run_ok(Command::new("id").arg("-u")).trim() == "0" { "user root;\n" } else { "" };
        let text = format!(
            "{user}daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{}}\n\
             http {{\n{temporary}access_log off;\nserver {{ listen 127.0.0.1:{port} ssl; root {};\n\
             ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;\n\
             ssl_client_certificate {dir}/ca.pem; ssl_verify_client on; }}\n}}\n",
            root.display()
        );
        fs::write(self.dir.join("nginx.conf"), text).expect("the scratch folder is writable");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(self.dir.join("nginx.conf")).arg("-p").arg(&self.dir);
        let process = Process::spawn("nginx", &mut command);
        let address = format!("127.0.0.1:{port}");
        wait_for("nginx listens", DEADLINE, || Conn::try_open(&address).is_ok());
        (process, format!("https://{address}"))
    }
}

#[test]
fn a_client_certificate_opens_an_upstream() {
    let scratch = Scratch::new();
    let authority = Authority::new(scratch.dir("tls"));
    let (_nginx, url) = authority.serve(&alder());
    let ca = format!("ca_file = {:?}", authority.path("ca.pem"));
    let with = |cert: &str, key: &str| {
        format!("{ca}\nclient_cert = {:?}\nclient_key = {:?}", authority.path(cert), authority.path(key))
    };
    {
        let scratch = Scratch::new();
        let server = serve(&scratch, &url, &with("client.pem", "client.key"));
        get(&server.url(&format!("alder/{RELEASE}"))).expect(200);
        assert!(is_good(&server, DATA) && is_good(&server, PLUS));
    }
    // Without one, with one that is over, and by other authorities: nothing.
    let not_ours = with("client.pem", "client.key").replacen("ca.pem", "client.pem", 1);
    for more in [&ca, &with("late.pem", "late.key"), &not_ours] {
        let scratch = Scratch::new();
        let server = serve(&scratch, &url, more);
        assert!(get(&server.url(&format!("alder/{RELEASE}"))).status >= 500, "{more}");
    }
    fs::write(authority.path("empty.pem"), "nothing").expect("the scratch folder is writable");
    let check = |more: &str| {
        let scratch = Scratch::new();
        let path = ServerConfig::default().upstream("alder", "generic-deb", &url, more).write(&scratch);
        let (status, out, err) = run(Command::new(BINARY).args(["check", "--config"]).arg(&path), DEADLINE);
        (status.success(), out + &err)
    };
    for (cert, key, is_valid, words) in [
        ("client.pem", "client.key", true, "client.pem"),
        ("late.pem", "late.key", true, "has expired"),
        ("client.pem", "server.key", false, "client_key is not the key of client_cert"),
        ("client.key", "client.key", false, "no PEM certificate"),
        ("client.pem", "client.pem", false, "client_key"),
        ("empty.pem", "client.key", false, "no PEM certificate"),
        ("absent.pem", "client.key", false, "cannot read client_cert"),
    ] {
        let (valid, said) = check(&with(cert, key));
        assert!(valid == is_valid && said.contains(words), "{cert} {key}: {said}");
    }
    let one = format!("client_cert = {:?}", authority.path("client.pem"));
    assert!(check(&one).1.contains("must be set together"));
}
