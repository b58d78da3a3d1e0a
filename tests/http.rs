//! What HTTP clients may rely on, byte by byte: ranges, conditions, connections, names.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{
    Conn, DebRepo, Nginx, Response, Scratch, Server, ServerConfig, Volunteer, base64_of_hex, fetch_following,
    get, head, random_bytes, request, run_ok, sha256_file, sha256_hex, test_repos, wait_for,
};

const COMMON: &str = "pool/main/h/hands-common/hands-common_1.0-1_all.deb";
const OLD_DATE: &str = "Mon, 01 Jan 2001 00:00:00 GMT";

/// A server over all committed repositories, without volunteers.
fn serve(scratch: &Scratch) -> Server {
    Server::start(scratch, &config())
}

fn config() -> ServerConfig {
    let tree = test_repos("t0");
    ServerConfig::default()
        .tree("alder", "generic-deb", &tree.join("alder"), "suites = [\"stable\", \"testing\"]")
        .tree("birch", "generic-deb", &tree.join("birch"), "suites = [\"focus\"]")
        .tree("cedar", "generic-rpm", &tree.join("cedar"), "suites = [\"os\", \"updates\"]")
        .tree("dogwood", "generic-rpm", &tree.join("dogwood"), "suites = [\"\"]")
        .tree("elder", "generic-rpm", &tree.join("elder"), "suites = [\"\"]")
}

fn common_bytes() -> Vec<u8> {
    fs::read(test_repos("t0").join("alder").join(COMMON)).expect("a committed package")
}

fn ranged(url: &str, range: &str) -> Response {
    request("GET", url, &[("Range", range)])
}

#[test]
fn ranges_of_packages_and_of_metadata() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    for (path, file) in [(COMMON, COMMON), ("dists/stable/InRelease", "dists/stable/InRelease")] {
        let url = server.url(&format!("alder/{path}"));
        let whole = fs::read(test_repos("t0").join("alder").join(file)).expect("a committed file");
        let size = whole.len();
        for (range, from, to) in [
            ("bytes=0-0".to_owned(), 0, 1),
            ("bytes=0-99".to_owned(), 0, 100),
            ("bytes=100-".to_owned(), 100, size),
            ("bytes=-50".to_owned(), size - 50, size),
            (format!("bytes=0-{}", size * 10), 0, size),
            (format!("bytes=-{}", size * 10), 0, size),
            (format!("bytes={}-{}", size - 1, size - 1), size - 1, size),
        ] {
            let answer = ranged(&url, &range).expect(206);
            assert_eq!(answer.must("content-range"), format!("bytes {from}-{}/{size}", to - 1), "{range}");
            assert_eq!(answer.must("content-length"), (to - from).to_string(), "{range}");
            assert!(answer.body == whole[from..to], "{range} of {path}");
        }
        for range in
            [format!("bytes={size}-"), format!("bytes={}-{}", size + 5, size + 9), "bytes=-0".to_owned()]
        {
            let answer = ranged(&url, &range).expect(416);
            assert_eq!(answer.must("content-range"), format!("bytes */{size}"), "{range}");
        }
        for range in ["bytes=9-5", "items=0-5", "bytes=a-b", "bytes="] {
            assert!(ranged(&url, range).expect(200).body == whole, "{range:?} is no range");
        }
    }
}

#[test]
fn parts_that_a_file_does_not_have_are_refused_as_nginx_refuses_them() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("tree"));
    repo.add("small", b"a package");
    repo.publish();
    for (name, size) in [("empty.img", 0), ("short.img", 1000)] {
        fs::write(repo.root.join(name), random_bytes(1, size)).expect("the scratch folder is writable");
    }
    let nginx = Nginx::start(&scratch, &repo.root);
    let config = ServerConfig::default()
        .tree("near", "generic-deb", &repo.root, "suites = [\"./\"]")
        .upstream("far", "generic-deb", nginx.url("").trim_end_matches('/'), "suites = [\"./\"]");
    let server = Server::start(&scratch, &config);
    for name in ["empty.img", "short.img"] {
        for range in ["bytes=0-", "bytes=0-9", "bytes=-5", "bytes=-0", "bytes=5-", "bytes=2000-"] {
            let straight = ranged(&nginx.url(name), range);
            for repo in ["near", "far"] {
                let answer = ranged(&server.url(&format!("{repo}/{name}")), range);
                let what = format!("{range} of {repo}/{name}");
                assert_eq!(answer.status, straight.status, "{what}");
                assert_eq!(answer.header("content-range"), straight.header("content-range"), "{what}");
                assert!(answer.status == 416 || answer.body == straight.body, "{what}");
            }
        }
    }
}

#[test]
fn conditions_with_dates_and_tags() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    for path in [COMMON, "dists/stable/InRelease", "dists/stable/main/binary-amd64/Packages.gz"] {
        let url = server.url(&format!("alder/{path}"));
        let whole = get(&url).expect(200);
        let (date, tag) = (whole.must("last-modified").to_owned(), whole.must("etag").to_owned());
        assert!(tag.starts_with('"') && tag.ends_with('"'), "a strong tag: {tag}");
        assert_eq!(whole.must("accept-ranges"), "bytes");

        for (condition, status) in
            [(date.as_str(), 206), (tag.as_str(), 206), (OLD_DATE, 200), ("\"other\"", 200)]
        {
            let answer =
                request("GET", &url, &[("Range", "bytes=10-"), ("If-Range", condition)]).expect(status);
            let wanted = if status == 206 { &whole.body[10..] } else { &whole.body[..] };
            assert!(answer.body == wanted, "If-Range: {condition} of {path}");
        }
        for (name, value, status) in [
            ("If-Modified-Since", date.as_str(), 304),
            ("If-Modified-Since", OLD_DATE, 200),
            ("If-Modified-Since", "not a date", 200),
            ("If-None-Match", tag.as_str(), 304),
            ("If-None-Match", "\"other\"", 200),
        ] {
            // apt adds this to every conditional request.
            let answer =
                request("GET", &url, &[(name, value), ("Cache-Control", "max-age=0")]).expect(status);
            assert_eq!(answer.body.is_empty(), status == 304, "{name}: {value}");
        }
    }
}

#[test]
fn head_says_what_get_says_and_sends_no_body() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let mut connection = Conn::open(server.address());
    for path in [COMMON, "dists/stable/InRelease", "dists/stable/Release.gpg"] {
        let target = format!("/alder/{path}");
        let got = get(&server.url(&target[1..])).expect(200);
        let answer = connection.ask("HEAD", &target, &[]).expect(200);
        assert!(answer.body.is_empty());
        for name in ["content-length", "content-type", "last-modified", "etag", "accept-ranges"] {
            assert_eq!(answer.must(name), got.must(name), "{name} of {path}");
        }
        // A body after HEAD would be read as the next answer.
        assert!(connection.ask("GET", &target, &[]).expect(200).body == got.body);
    }
    assert_eq!(head(&server.url("alder/nosuch.deb")).status, 404);
}

#[test]
fn connections_stay_open_until_someone_asks_to_close() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let mut connection = Conn::open(server.address());
    for target in
        ["/alder/dists/stable/InRelease", "/alder/nosuch", "/nosuch/x", "/alder/dists/stable/Release"]
    {
        let status = connection.ask("GET", target, &[]).status;
        assert_eq!(status, if target.contains("nosuch") { 404 } else { 200 }, "{target}");
    }
    connection.ask("GET", &format!("/alder/{COMMON}"), &[]).expect(200);
    connection.ask("GET", "/alder/dists/stable/InRelease", &[("Connection", "close")]).expect(200);
    assert!(connection.is_closed(), "Connection: close is honoured");
}

#[test]
fn ten_pipelined_requests_are_answered_in_order() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let tree = test_repos("t0").join("alder");
    let data = "pool/main/h/hands-data/hands-data_1.0-1_all.deb";
    let file = |path: &str| fs::read(tree.join(path)).expect("a committed file");
    let sums = format!("{}  hands-common_1.0-1_all.deb\n", sha256_file(&tree.join(COMMON)));
    // Big ones first, so that a server that answers as it can would be seen.
    let expected: Vec<(&str, String, u16, Vec<u8>)> = vec![
        ("GET", data.into(), 200, file(data)),
        ("GET", "dists/stable/InRelease".into(), 200, file("dists/stable/InRelease")),
        ("GET", "pool/nosuch_1_all.deb".into(), 404, vec![]),
        ("GET", COMMON.into(), 200, file(COMMON)),
        ("HEAD", data.into(), 200, vec![]),
        ("GET", format!("{COMMON}.sha256"), 200, sums.into_bytes()),
        ("GET", "dists/stable/Release.gpg".into(), 200, file("dists/stable/Release.gpg")),
        ("GET", data.into(), 200, file(data)),
        ("GET", "pool/contrib/h/hands-mini/hands-mini_1.0-1_all.deb".into(), 200, {
            file("pool/contrib/h/hands-mini/hands-mini_1.0-1_all.deb")
        }),
        ("GET", "dists/stable/Release".into(), 200, file("dists/stable/Release")),
    ];
    let mut connection = Conn::open(server.address());
    let texts = expected
        .iter()
        .map(|(method, path, ..)| connection.request_text(method, &format!("/alder/{path}"), &[]));
    let batch: String = texts.collect();
    connection.send(batch.as_bytes()).expect("the requests fit in the socket");
    for (number, (method, path, status, body)) in expected.iter().enumerate() {
        let answer =
            connection.read_response(*method == "HEAD").unwrap_or_else(|e| panic!("answer {number}: {e}"));
        assert_eq!(answer.status, *status, "answer {number}, {path}");
        assert!(*status != 200 || answer.body == *body, "answer {number} is not {path}");
    }
}

#[test]
fn ten_pipelined_packages_are_redirected_in_order() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("repo"));
    let files: Vec<String> = (0..10).map(|n| repo.add(&format!("p{n}"), &random_bytes(n, 40_000))).collect();
    repo.publish();
    let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
    let server = Server::start(&scratch, &config);
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    for file in &files {
        server.wait_redirect(&format!("flat/{file}"));
    }
    let mut connection = Conn::open(server.address());
    let texts = files.iter().map(|file| connection.request_text("GET", &format!("/flat/{file}"), &[]));
    let batch: String = texts.collect();
    connection.send(batch.as_bytes()).expect("the requests fit in the socket");
    for file in &files {
        let answer = connection.read_response(false).expect("an answer").expect(302);
        assert_eq!(answer.must("content-length"), "0");
        assert!(answer.must("location").ends_with(&format!("/{file}")), "{file}: {:?}", answer.headers);
    }
}

#[test]
fn a_redirect_is_what_apt_needs() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    let sha256 = sha256_hex(&common_bytes());
    let location = server.wait_redirect(&format!("alder/{COMMON}"));
    let answer = get(&server.url(&format!("alder/{COMMON}"))).expect(302);
    assert_eq!(answer.must("content-length"), "0");
    assert!(answer.must("cache-control").contains("no-store"));
    assert!(answer.body.is_empty());
    for url in [location.as_str(), answer.must("location")] {
        assert!(url.bytes().all(|c| c.is_ascii_graphic()), "{url}");
        assert!(volunteers[0].serves(url), "{url}");
        assert!(!url.contains('?'), "{url}");
        let parts: Vec<&str> = support::split_url(url).1.split('/').collect();
        assert_eq!((parts[1], parts[3], parts[4]), ("b", sha256.as_str(), "hands-common_1.0-1_all.deb"));
        let (expiry, signature) = parts[2].split_once('-').expect("expiry and signature");
        assert!(expiry.bytes().all(|c| c.is_ascii_digit()) && signature.len() == 32, "{url}");
    }
    assert_digests(&answer, &sha256);

    // Metadata and the direct path are never redirected.
    let direct = get(&server.direct(&format!("alder/{COMMON}"))).expect(200);
    assert_eq!(sha256_hex(&direct.body), sha256);
    get(&server.url("alder/dists/stable/InRelease")).expect(200);

    // And what the volunteer sends looks as if the server had sent it.
    let (copy, urls) = fetch_following(&server.url(&format!("alder/{COMMON}")), &[]);
    assert_eq!((copy.status, urls.len()), (200, 2));
    assert_eq!(sha256_hex(&copy.body), sha256);
    for name in ["last-modified", "etag", "content-length", "accept-ranges"] {
        assert_eq!(copy.must(name), direct.must(name), "{name}");
    }
}

fn assert_digests(answer: &Response, sha256: &str) {
    let base64 = base64_of_hex(sha256);
    let lists = |name: &str, wanted: &str| {
        let mut entries = answer.must(name).split(',').map(str::trim);
        assert!(
            entries.any(|entry| {
                let (algorithm, value) = entry.split_once('=').expect("algorithm=value");
                algorithm.eq_ignore_ascii_case("sha-256") && value == wanted
            }),
            "{name}: {:?}, not sha-256={wanted}",
            answer.must(name)
        );
    };
    lists("digest", &base64);
    lists("repr-digest", &format!(":{base64}:"));
}

#[test]
fn manifests_are_what_the_usual_tools_compute() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    for (repo, path) in [
        ("alder", COMMON),
        ("alder", "pool/main/libh/libhands++/libhands++-dev_1.2+dfsg-1_amd64.deb"),
        ("birch", "pool/universe/hands/hands-epoch_1%3a2.0-1_amd64.deb"),
        ("cedar", "os/Packages/hands-data-1.0-1.noarch.rpm"),
        ("dogwood", "Packages/h/hands-snapshot-1.0^20250601git-1.noarch.rpm"),
        ("elder", "RPMS/hands-preview-1.0~rc1-1.x86_64.rpm"),
    ] {
        let file = test_repos("t0").join(repo).join(path);
        let name = file.file_name().and_then(|n| n.to_str()).expect("a file name").to_owned();
        let url = server.url(&format!("{repo}/{}", path.replace('%', "%25")));
        for algorithm in ["md4", "md5", "sha1", "sha256", "sha512"] {
            let answer = get(&format!("{url}.{algorithm}")).expect(200);
            assert_eq!(
                answer.text(),
                format!("{}  {name}\n", digest_of(&file, algorithm)),
                "{path}.{algorithm}"
            );
        }
        let answer = get(&url).expect(200);
        assert_digests(&answer, &sha256_hex(&answer.body));
    }
    for path in ["alder/pool/main/nosuch_1_all.deb.md5", "alder/dists/nosuch.sha256", "alder/.md5"] {
        assert_eq!(get(&server.url(path)).status, 404, "{path}");
    }
}

/// By coreutils or openssl.
fn digest_of(file: &Path, algorithm: &str) -> String {
    let out = if algorithm == "md4" {
        let mut command = Command::new("openssl");
        command.args(["dgst", "-md4", "-provider", "legacy", "-provider", "default", "-r"]);
        run_ok(command.arg(file))
    } else {
        run_ok(Command::new(format!("{algorithm}sum")).arg(file))
    };
    // A backslash marks an escaped file name.
    out.split_whitespace().next().expect("a digest").trim_start_matches('\\').to_owned()
}

#[test]
fn a_checksum_file_of_the_upstream_is_not_replaced() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("repo"));
    let file = repo.add("one", &random_bytes(1, 5000));
    repo.publish();
    fs::write(repo.root.join(format!("{file}.sha256")), "the upstream's own\n")
        .expect("the scratch folder is writable");
    let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
    let server = Server::start(&scratch, &config);
    assert_eq!(get(&server.url(&format!("flat/{file}.sha256"))).expect(200).text(), "the upstream's own\n");
    let sha512 = digest_of(&repo.root.join(&file), "sha512");
    assert_eq!(
        get(&server.url(&format!("flat/{file}.sha512"))).expect(200).text(),
        format!("{sha512}  {file}\n")
    );
}

#[test]
fn odd_names_are_found_as_clients_write_them() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    for (request_path, file) in [
        ("alder/pool/main/libh/libhands++/libhands++-dev_1.2+dfsg-1_amd64.deb", None),
        (
            "alder/pool/main/libh/libhands%2b%2b/libhands%2b%2b-dev_1.2%2bdfsg-1_amd64.deb",
            Some("alder/pool/main/libh/libhands++/libhands++-dev_1.2+dfsg-1_amd64.deb"),
        ),
        ("alder/pool/main/h/hands-preview/hands-preview_1.0~rc1-1_amd64.deb", None),
        (
            "alder/pool/main/h/hands-preview/hands-preview_1.0%7Erc1-1_amd64.deb",
            Some("alder/pool/main/h/hands-preview/hands-preview_1.0~rc1-1_amd64.deb"),
        ),
        (
            "birch/pool/universe/hands/hands-epoch_1%253a2.0-1_amd64.deb",
            Some("birch/pool/universe/hands/hands-epoch_1%3a2.0-1_amd64.deb"),
        ),
        (
            "dogwood/Packages/h/hands-snapshot-1.0%5e20250601git-1.noarch.rpm",
            Some("dogwood/Packages/h/hands-snapshot-1.0^20250601git-1.noarch.rpm"),
        ),
        ("dogwood/Packages/h/hands-snapshot-1.0^20250601git-1.noarch.rpm", None),
    ] {
        let wanted = sha256_file(&test_repos("t0").join(file.unwrap_or(request_path)));
        for url in [server.url(request_path), server.direct(request_path)] {
            assert_eq!(sha256_hex(&get(&url).expect(200).body), wanted, "{url}");
        }
    }
    for path in [
        "birch/pool/universe/hands/hands-epoch_1%3a2.0-1_amd64.deb",
        "alder/pool/main/libh/libhands%20%20/libhands%20%20-dev_1.2%20dfsg-1_amd64.deb",
        "alder/pool/main/libh/libhands%252b%252b/libhands%252b%252b-dev_1.2%252bdfsg-1_amd64.deb",
    ] {
        assert_eq!(get(&server.url(path)).status, 404, "{path} is another file");
    }
}

#[test]
fn unknown_queries_are_ignored() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let answer = get(&server.url("cedar/os/repodata/repomd.xml?countme=4")).expect(200);
    assert!(
        answer.body == fs::read(test_repos("t0").join("cedar/os/repodata/repomd.xml")).expect("committed")
    );
    assert!(get(&server.url(&format!("alder/{COMMON}?x=%2e%2e"))).expect(200).body == common_bytes());
}

#[test]
fn bodies_are_never_encoded_and_always_typed() {
    let scratch = Scratch::new();
    let server = serve(&scratch);
    let headers = [("Accept-Encoding", "gzip, deflate, br, zstd"), ("Accept", "text/*")];
    for path in ["dists/stable/InRelease", "dists/stable/main/binary-amd64/Packages.gz", COMMON] {
        let answer = request("GET", &server.url(&format!("alder/{path}")), &headers).expect(200);
        assert_eq!(answer.header("content-encoding"), None, "{path}");
        assert!(!answer.must("content-type").is_empty());
        assert!(
            answer.body == fs::read(test_repos("t0").join("alder").join(path)).expect("committed"),
            "{path}"
        );
    }
}

#[test]
fn ipv6_clients_are_served_and_redirected() {
    let scratch = Scratch::new();
    let Some(config) = config().with_ipv6() else {
        println!("skipped: this machine has no IPv6 loopback");
        return;
    };
    let server = Server::start(&scratch, &config);
    let address =
        server.addresses.iter().find(|a| a.starts_with("[::1]")).expect("an IPv6 address is announced");
    let url = format!("http://{address}/alder/{COMMON}");
    assert!(get(&url).expect(200).body == common_bytes());
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    server.wait_redirect(&format!("alder/{COMMON}"));
    let file = scratch.path("by-curl");
    run_ok(Command::new("curl").args(["-fsSL", "-o"]).arg(&file).arg(&url));
    assert_eq!(sha256_file(&file), sha256_hex(&common_bytes()));
    get(&url).expect(302);
}

#[test]
fn the_access_log_is_in_combined_format() {
    let scratch = Scratch::new();
    let log = scratch.path("access.log");
    let server = Server::start(
        &scratch,
        &config().server_lines(&format!("access_log = {:?}", log.display().to_string())),
    );
    let url = server.url("alder/dists/stable/InRelease");
    let size = request("GET", &url, &[("User-Agent", "Debian APT-HTTP/1.3 \"(test)")]).expect(200).body.len();
    get(&server.url("alder/nosuch")).expect(404);
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("two lines in the access log", support::DEADLINE, || lines().lines().count() >= 2);
    let text = lines();
    let first = text.lines().next().expect("a line");
    assert!(first.starts_with("127.") && first.contains(" - - ["), "{first}");
    let wanted =
        format!("] \"GET /alder/dists/stable/InRelease HTTP/1.1\" 200 {size} \"-\" \"Debian APT-HTTP/1.3 ");
    assert!(first.contains(&wanted), "{first}");
    assert!(text.contains("\"GET /alder/nosuch HTTP/1.1\" 404 "), "{text}");
}
