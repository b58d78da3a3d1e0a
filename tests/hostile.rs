//! Requests that no honest client sends: out of the repositories, over every limit, without a token.

mod support;

use std::fs;

use support::{
    Conn, DebRepo, Scratch, Server, ServerConfig, Upstream, copy_tree, get, peak_memory, random_bytes,
    request, test_repos,
};

const PACKAGE: &str = "pool/main/h/hands-common/hands-common_1.0-1_all.deb";

fn serve(scratch: &Scratch) -> Server {
    let tree = test_repos("t0").join("alder");
    Server::start(
        scratch,
        &ServerConfig::default().tree("alder", "generic-deb", &tree, "suites = [\"stable\"]"),
    )
}

#[test]
fn a_client_that_pipelines_and_does_not_read_costs_no_memory() {
    const SIZE: usize = 32 << 20;
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("repo"));
    let file = repo.add("big", &random_bytes(1, SIZE));
    repo.publish();
    let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
    let server = Server::start(&scratch, &config);
    let mut connection = Conn::open(server.address());
    let batch = connection.request_text("GET", &format!("/flat/{file}"), &[]).repeat(4);
    connection.send(batch.as_bytes()).expect("the requests fit in the socket");
    // The first answer begins while three requests wait; then nothing is read.
    assert_eq!(connection.read_head().expect("an answer begins at once").0, 200);
    get(&server.url("flat/Release")).expect(200);
    let peak = peak_memory(server.process.pid());
    assert!(peak < 3 * SIZE as u64, "the server took {peak} bytes for answers nobody read");
}

#[test]
fn nothing_outside_the_repositories_is_reachable() {
    let scratch = Scratch::new();
    let tree = scratch.path("served/alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    for place in ["secret", "served/secret"] {
        fs::write(scratch.path(place), "TOP SECRET").expect("the scratch folder is writable");
    }
    let upstream = Upstream::start(&scratch.path("served"));
    let config = ServerConfig::default()
        .tree("alder", "generic-deb", &tree, "suites = [\"stable\"]")
        .upstream("far", "generic-deb", &upstream.url("alder"), "suites = [\"stable\"]");
    let server = Server::start(&scratch, &config);

    let mut targets: Vec<String> = [
        "/",
        "//",
        "/nosuch/secret",
        "/secret",
        "/etc/passwd",
        "//etc/passwd",
        "/alder",
        "/.",
        "/..",
        "/direct/secret",
        "/api/v1/status",
        "/metrics",
    ]
    .map(str::to_owned)
    .into();
    let ups =
        ["..", "%2e%2e", ".%2e", "%2E.", "..%2f", "%2e%2e%2f..", "..%5c", "..\\", "%252e%252e", "pool/../.."];
    for repo in ["alder", "far", "direct/alder", "direct/far"] {
        for up in ups {
            targets.extend((1..4).map(|times| format!("/{repo}/{}secret", format!("{up}/").repeat(times))));
        }
        for odd in
            ["/etc/passwd", "%2fetc%2fpasswd", "dists/stable/InRelease%00", "%00", "a%0d%0aX:%20y", "%ff%fe"]
        {
            targets.push(format!("/{repo}/{odd}"));
        }
    }
    for host in ["example.invalid", "127.0.0.1:1", &server.admin] {
        targets.push(format!("http://{host}/api/v1/status"));
        targets.push(format!("http://{host}/secret"));
    }
    for target in &targets {
        let answer = Conn::open(server.address()).ask("GET", target, &[("Connection", "close")]);
        let text = answer.text();
        assert!(
            !text.contains("SECRET") && !text.contains("root:") && !text.contains("uptime"),
            "{target}: {text}"
        );
    }
    assert_eq!(get(&server.url("nosuch/secret")).status, 404);
    let asked = upstream.gets_ending("secret");
    assert!(asked.iter().all(|path| path.starts_with("/alder/") && !path.contains("..")), "{asked:?}");
    get(&server.url("far/dists/stable/InRelease")).expect(200);
}

#[test]
fn a_symbolic_link_does_not_lead_out_of_the_tree() {
    let scratch = Scratch::new();
    let tree = scratch.path("alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    fs::write(scratch.path("secret"), "TOP SECRET").expect("the scratch folder is writable");
    std::os::unix::fs::symlink(scratch.path("secret"), tree.join("inside.deb")).expect("a link");
    let config = ServerConfig::default().tree("alder", "generic-deb", &tree, "suites = [\"stable\"]");
    let server = Server::start(&scratch, &config);
    let answer = get(&server.url("alder/inside.deb"));
    assert!(answer.status >= 400 && !answer.text().contains("SECRET"), "{}", answer.status);
}

#[test]
fn other_methods_are_refused() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    for method in ["POST", "PUT", "DELETE", "PATCH", "PROPFIND", "BREW"] {
        for path in [
            format!("alder/{PACKAGE}"),
            "alder/dists/stable/InRelease".to_owned(),
            "direct/alder/x".to_owned(),
        ] {
            let answer = request(method, &server.url(&path), &[("Content-Length", "0")]).expect(405);
            assert!(answer.must("allow").contains("GET"), "{method} {path}");
        }
    }
}

#[test]
fn the_control_api_wants_a_token_and_sound_messages() {
    let scratch = Scratch::new();
    let mut server = serve(&scratch);
    let token = server.issue_token();
    let bearer = format!("Bearer {token}");
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let post = |path: &str, headers: &[(&str, &str)], body: &str| {
        let mut connection = Conn::open(server.address());
        let length = body.len().to_string();
        let all = [headers, &[("Content-Type", "application/json"), ("Content-Length", &length)]].concat();
        let text = connection.request_text("POST", path, &all) + body;
        // A body that is too long may be refused before it is read.
        let _ = connection.send(text.as_bytes());
        connection.read_response(false).map_or(400, |answer| answer.status)
    };
    let asks = r#"{"files":[{"path":"alder/pool/main/x.deb","size":1}]}"#;
    for wrong in [None, Some("Bearer nonsense"), Some("Basic eDp5"), Some(&*format!("{bearer}0"))] {
        let headers: Vec<_> = wrong.map(|value| ("Authorization", value)).into_iter().collect();
        let status = post("/_mh/v1/match", &headers, asks);
        assert!([401, 403].contains(&status), "{wrong:?}: {status}");
        let session =
            Conn::open(server.address()).ask("GET", "/_mh/v1/session", &[&upgrade[..], &headers].concat());
        assert!([401, 403].contains(&session.status), "{wrong:?}: {}", session.status);
    }
    let good = [("Authorization", bearer.as_str())];
    assert_eq!(post("/_mh/v1/match", &good, asks), 200);
    let huge = format!(r#"{{"files":[{}]}}"#, vec![r#"{"path":"a/b","size":1}"#; 200_000].join(","));
    for (path, body) in [
        ("/_mh/v1/match", "{"),
        ("/_mh/v1/match", r#"{"files":[{"path":7}]}"#),
        ("/_mh/v1/match", huge.as_str()),
        ("/_mh/v1/lookup", "[]"),
        ("/_mh/v1/lookup", r#"{"files":[{"name":"../../etc/passwd"}]}"#),
        ("/_mh/v1/lookup", huge.as_str()),
        ("/_mh/v1/nosuch", "{}"),
    ] {
        let status = post(path, &good, body);
        assert!((400..500).contains(&status), "{path}: {status}");
    }
    assert!(!server.process.has_ended());
    get(&server.url("alder/dists/stable/InRelease")).expect(200);
}

#[test]
fn absurd_requests_do_not_disturb_the_server() {
    let scratch = Scratch::new();
    let mut server = serve(&scratch);
    let many_headers = "X-Filler: abcdefghijklmnopqrstuvwxyz\r\n".repeat(20_000);
    let host = "Host: x\r\n";
    // Small ones are read whole, so the client sees why it was refused.
    for (what, bytes) in [
        ("a target of 20 KB", format!("GET /alder/{} HTTP/1.1\r\n{host}\r\n", "a".repeat(20_000))),
        ("a deep target", format!("GET /alder/{} HTTP/1.1\r\n{host}\r\n", "a/".repeat(6000))),
        ("a TLS greeting", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned()),
        ("a blank in the target", format!("GET /alder/a b HTTP/1.1\r\n{host}\r\n")),
        ("no version", "GET /alder/x\r\n\r\n".to_owned()),
        ("another version", format!("GET /alder/x HTTP/7.3\r\n{host}\r\n")),
        ("a bad length", format!("GET /alder/x HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n")),
        (
            "a huge number",
            format!("GET /alder/x HTTP/1.1\r\n{host}Range: bytes={}-\r\n\r\n", "9".repeat(500)),
        ),
    ] {
        let mut connection = Conn::open(server.address());
        connection.send(bytes.as_bytes()).expect("it fits in the socket");
        let answer = connection.read_response(false).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!((400..500).contains(&answer.status), "{what}: {}", answer.status);
        get(&server.url("alder/dists/stable/InRelease")).expect(200);
    }
    for (what, bytes) in [
        ("a target of 5 MB", format!("GET /alder/{} HTTP/1.1\r\n{host}\r\n", "a".repeat(5_000_000))),
        ("many headers", format!("GET /alder/x HTTP/1.1\r\n{host}{many_headers}\r\n")),
        ("a header of 5 MB", format!("GET /alder/x HTTP/1.1\r\n{host}A: {}\r\n\r\n", "b".repeat(5_000_000))),
    ] {
        let mut connection = Conn::open(server.address());
        // The server may close before it has read everything.
        let sent = connection.send(bytes.as_bytes());
        if let Ok(answer) = connection.read_response(false) {
            assert!((400..500).contains(&answer.status), "{what}: {}", answer.status);
        } else {
            assert!(sent.is_err() || connection.is_closed(), "{what}: no answer");
        }
        assert!(!server.process.has_ended(), "{what} killed the server");
        get(&server.url("alder/dists/stable/InRelease")).expect(200);
    }
}

#[test]
fn no_request_hides_in_another() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let hidden = "GET /alder/hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /alder/dists/stable/InRelease HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let length = hidden.len();
    let get =
        |headers: &str| format!("GET /alder/dists/stable/InRelease HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    // RFC 9112 section 6.3. The hidden request would be answered with 404.
    for (what, bytes, want) in [
        (
            "two lengths",
            get(&format!("Content-Length: {length}\r\nContent-Length: 0\r\n")) + hidden,
            &[400][..],
        ),
        ("a list of lengths", get(&format!("Content-Length: {length}, 0\r\n")) + hidden, &[400]),
        ("a signed length", get("Content-Length: +0\r\n") + hidden, &[400]),
        ("a blank in a header's name", get("Content-Length : 0\r\n") + hidden, &[400]),
        // The chunks count, and the connection ends with them.
        (
            "a length and chunks",
            get(&format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", length + 5))
                + "0\r\n\r\n"
                + hidden,
            &[200],
        ),
        (
            "chunks and a length",
            get(&format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", length + 5))
                + "0\r\n\r\n"
                + hidden,
            &[200],
        ),
        ("an unknown coding", get("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n" + hidden, &[400]),
        ("chunks not last", get("Transfer-Encoding: chunked, gzip\r\n") + "0\r\n\r\n" + hidden, &[400]),
        (
            "chunks in HTTP/1.0",
            get("Transfer-Encoding: chunked\r\n").replace("/1.1", "/1.0") + "0\r\n\r\n" + hidden,
            &[400],
        ),
        // A body is a body, whoever refuses the request.
        (
            "a request as a body",
            get(&format!("Content-Length: {length}\r\n")).replace("GET", "POST") + hidden + last,
            &[405, 200],
        ),
        ("two Hosts", get("Host: y\r\n") + last, &[400, 200]),
        ("no Host", get("").replace("Host: x\r\n", "") + last, &[400, 200]),
        ("a Host that is none", get("").replace("Host: x", "Host: x/y@z") + last, &[400, 200]),
    ] {
        let mut connection = Conn::open(server.address());
        connection.send(bytes.as_bytes()).expect("it fits in the socket");
        let answers = std::iter::from_fn(|| connection.read_response(false).ok());
        let found: Vec<u16> = answers.map(|answer| answer.status).collect();
        assert_eq!(found, want, "{what}");
    }
}
