//! Ways out: clients that are given more than one URL install although the volunteer that they are sent to is
//! gone, or sends wrong bytes.

mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use support::net::{Ill, Line};
use support::{
    Apt, Conn, DEADLINE, Dnf, Scratch, Server, ServerConfig, Status, Volunteer, VolunteerOptions, Zypper,
    copy_tree, fetch, get, overlay_tree, package, poll, request, run_ok, serve_sizes, sha256_file,
    sha256_hex, spread, test_key, test_repos, wait_for,
};

/// What libzypp 17.25 sends.
const ZYPP: (&str, &str) = ("Accept", "*/*, application/metalink+xml, application/metalink4+xml");
const KIB: usize = 1 << 10;

/// A server over two repositories, and a volunteer that holds all of them, at the end of a line that is well
/// until it is told otherwise.
fn with_ill_volunteer(scratch: &Scratch) -> (Server, Volunteer, Line) {
    let tree = test_repos("t0");
    let config = ServerConfig::default()
        .tree("alder", "generic-deb", &tree.join("alder"), "suites = [\"stable\"]")
        .tree("cedar", "generic-rpm", &tree.join("cedar"), "suites = [\"os\", \"updates\"]");
    let server = Server::start(scratch, &config);
    let mut options = VolunteerOptions::new(scratch, &server, 1);
    options.port = support::free_port(&options.address);
    let line = Line::on_loopback(&options.address, options.port);
    options.advertise = Some(line.url());
    options.adopt = vec![tree.join("alder"), tree.join("cedar")];
    let volunteer = Volunteer::join(&server, options);
    for path in [
        "alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb",
        "cedar/os/Packages/hands-data-1.0-1.noarch.rpm",
    ] {
        assert!(server.wait_redirect(path).starts_with(&line.url()));
    }
    server.wait_until("everything is adopted", |status| status.of("v1", "holdings") >= 12);
    (server, volunteer, line)
}

/// Lets connections to the volunteer end with a reset from now on. The server learns it when it tests the
/// volunteer: soon after a client has come back.
fn break_off(server: &Server, line: &Line) {
    if line.ill() != Ill::Not {
        // A test that is on its way would find the volunteer ill that is well by then.
        server.wait_until("the volunteer is known to be ill", |status| status.state("v1") != "up");
        line.set(Ill::Not);
    }
    server.wait_until("the volunteer is well", |status| status.state("v1") == "up");
    line.set(Ill::Reset);
}

/// Fails unless clients were sent to the dead volunteer in between.
fn assert_tried(server: &Server, before: &Status, what: &str) {
    let redirects = server.status().offload("redirects") - before.offload("redirects");
    assert!(redirects > 0, "{what} was never sent to the volunteer: {}", server.status().pretty());
}

fn rpm_repos(server: &Server, query: &str) -> Vec<(&'static str, String)> {
    vec![("os", server.url("cedar/os") + query), ("updates", server.url("cedar/updates") + query)]
}

#[test]
fn apt_goes_on_with_the_direct_url_of_its_mirror_list() {
    let scratch = Scratch::new();
    let (server, _volunteer, line) = with_ill_volunteer(&scratch);
    let before = server.status();
    let list = format!("mirror+http://{}/mirrors/alder.txt", server.address());
    let source = format!("deb [signed-by={}] {list} stable main contrib", test_key().display());
    let apt = Apt::new(&scratch.dir("apt"), &[source]);
    // As docs/clients.md recommends: with retries, apt 2.6 may wait for ever when several packages fail at a host.
    apt.configure("Acquire::http::Timeout \"5\"; Acquire::Retries \"0\";");
    apt.update();
    break_off(&server, &line);
    apt.install_all();
    assert_tried(&server, &before, "apt");
    // It has the list now, and asks whether there is a newer one.
    apt.update();

    // With its own settings: it tries the volunteer four times in 7 s.
    let source = format!("deb [signed-by={}] {list} stable main", test_key().display());
    let stock = Apt::new(&scratch.dir("stock"), &[source]);
    stock.update();
    break_off(&server, &line);
    stock.get(&["install", "hands-data"]);
}

#[test]
fn dnf_goes_on_with_the_direct_url_of_its_mirror_list_and_of_its_metalink() {
    let scratch = Scratch::new();
    let (server, _volunteer, line) = with_ill_volunteer(&scratch);
    for (key, query) in [("mirrorlist", "/?mirrorlist"), ("metalink", "/?metalink&countme=1")] {
        let before = server.status();
        let dnf = Dnf::with_key(&scratch.dir(key), key, &rpm_repos(&server, query));
        break_off(&server, &line);
        dnf.install_all();
        assert_tried(&server, &before, key);
    }
}

#[test]
fn zypper_goes_on_with_the_next_url_of_every_kind_of_list() {
    let scratch = Scratch::new();
    let (server, _volunteer, line) = with_ill_volunteer(&scratch);
    for (key, query) in [("mirrorlist", "/?mirrorlist"), ("metalink", "/?metalink"), ("baseurl", "")] {
        let before = server.status();
        let zypper = Zypper::with_key(&scratch.dir(key), key, &rpm_repos(&server, query));
        break_off(&server, &line);
        zypper.install_all();
        assert_tried(&server, &before, key);
    }
}

#[test]
fn zypper_does_not_wait_for_volunteers_that_are_silent() {
    let scratch = Scratch::new();
    let tree = test_repos("t0").join("cedar");
    let config = ServerConfig::default().tree("cedar", "generic-rpm", &tree, "suites = [\"os\"]");
    let server = Server::start(&scratch, &config);
    let volunteers = Volunteer::join_all(&scratch, &server, 2);
    let path = "cedar/os/Packages/hands-data-1.0-1.noarch.rpm";
    server.wait_redirect(path);
    server.wait_until("the copies are made", Status::is_placed);
    let zypper = Zypper::new(&scratch.dir("zypper"), &[("os", server.url("cedar/os"))]);
    zypper.run(&["refresh"]);
    let before = server.status();
    // Their kernels still accept connections. The server needs some seconds to notice.
    volunteers.iter().for_each(|volunteer| volunteer.process.signal("STOP"));
    let begin = Instant::now();
    zypper.run(&["install", "--no-recommends", "hands-data"]);
    let took = begin.elapsed();
    assert_tried(&server, &before, "zypper");
    // A whole minute is what libzypp itself waits for an answer.
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(zypper.installed().contains_key("hands-data"));
}

#[test]
fn the_front_page_says_how_to_use_the_lists() {
    let scratch = Scratch::new();
    let (server, _files) = serve_sizes(&scratch, &[KIB]);
    let text = get(&server.url("")).expect(200).text();
    let (base, host) = (server.base(), server.address());
    assert!(text.contains(&format!("apt: deb mirror+http://{host}/mirrors/flat.txt ./\n")), "{text}");
    assert!(text.contains(&format!("apt, base URL: deb {base}/flat ./\n")), "{text}");
}

/// A volunteer's copy with one byte changed in its middle.
fn spoil(volunteer: &Volunteer, sha256: &str) {
    let path = volunteer.options.blob_path(sha256);
    let mut bytes = fs::read(&path).expect("the volunteer holds it");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("the store is writable");
}

/// Bytes that the server has sent itself of a package while `act` ran.
fn served_by_server(server: &Server, act: impl FnOnce()) -> u64 {
    let before = server.status().offload("served_bytes");
    act();
    server.status().offload("served_bytes") - before
}

#[test]
fn a_wrong_piece_is_noticed_and_fetched_elsewhere() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[900 * KIB]);
    let volunteer = Volunteer::join_all(&scratch, &server, 1).remove(0);
    let whole = package(&scratch, &files[0]);
    // Makes the server read the tree's file, and so know its pieces.
    get(&server.url(&format!("{}.sha1", files[0]))).expect(200);
    spread(&server, &files[0], 1);

    let fetched = |name: &str| {
        let folder = scratch.dir(name);
        // By default aria2 prefers a host that it has measured, and it may have measured the server by the metalink.
        let mut aria2 = Command::new("aria2c");
        aria2.args(["--no-conf", "--quiet", "--uri-selector=inorder", "--max-tries=2", "--retry-wait=1"]);
        aria2.args(["--log-level=info", "-d"]).arg(&folder).arg("--log").arg(folder.join("aria2.log"));
        run_ok(aria2.arg(server.url(&files[0])));
        let file = files[0].rsplit('/').next().expect("a name");
        assert!(fs::read(folder.join(file)).expect("aria2 wrote it") == whole, "{name}: other bytes");
    };
    let served = served_by_server(&server, || fetched("good"));
    let log = fs::read_to_string(scratch.path("good/aria2.log")).unwrap_or_default();
    assert_eq!(served, 0, "the volunteer sends all\n{log}\n{}", server.status().pretty());
    spoil(&volunteer, &sha256_hex(&whole));
    let served = served_by_server(&server, || fetched("spoilt"));
    assert!(served > 0, "the wrong piece came from the volunteer");
}

#[test]
fn zypper_notices_a_wrong_piece_too() {
    let scratch = Scratch::new();
    let config = ServerConfig::default().server_lines("min_share = \"0B/s\"").tree(
        "cedar",
        "generic-rpm",
        &test_repos("t0").join("cedar"),
        "suites = [\"os\"]",
    );
    let server = Server::start(&scratch, &config);
    let volunteer = Volunteer::join_all(&scratch, &server, 1).remove(0);
    let path = "cedar/os/Packages/hands-data-1.0-1.noarch.rpm";
    get(&server.url(&format!("{path}.sha1"))).expect(200);
    server.wait_redirect(path);
    wait_for("the copy", DEADLINE, || server.status().is_placed());
    spoil(&volunteer, &sha256_file(&test_repos("t0").join("cedar/os/Packages/hands-data-1.0-1.noarch.rpm")));
    let zypper = Zypper::new(&scratch.dir("zypper"), &[("os", server.url("cedar/os"))]);
    zypper.run(&["refresh"]);
    let served = served_by_server(&server, || {
        zypper.run(&["install", "--no-recommends", "hands-data"]);
    });
    assert!(served > 0, "the wrong piece came from the volunteer");
    assert!(zypper.installed().contains_key("hands-data"));
}

#[test]
fn a_metalink_is_for_those_who_take_one() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[5 << 20, 300 * KIB, 10 * KIB]);
    let volunteers = Volunteer::join_all(&scratch, &server, 3);
    spread(&server, &files[0], 3);
    server.wait_redirect(&files[1]);
    let url = server.url(&files[0]);
    let ask = |url: &str, headers: &[(&str, &str)]| request("GET", url, headers);

    let before = server.status().offload("redirected_bytes");
    let answer = ask(&url, &[ZYPP]).expect(200);
    assert_eq!(answer.must("content-type"), "application/metalink4+xml");
    assert_eq!((answer.must("vary"), answer.must("cache-control")), ("Accept", "no-store"));
    let after = server.status().offload("redirected_bytes");
    assert_eq!(after - before, 5 << 20, "booked like one redirect");
    let text = answer.text();
    let urls: Vec<&str> = text.split("</url>").filter_map(|part| Some(part.split_once("<url ")?.1)).collect();
    assert_eq!(urls.len(), 4, "{text}");
    for (place, listed) in urls.iter().enumerate() {
        let (priority, url) = listed.split_once('>').expect("an attribute");
        assert_eq!(priority, format!("priority=\"{}\"", place + 1));
        assert_eq!(volunteers.iter().any(|v| v.serves(url)), place < 3, "{url}");
        assert!(fetch(url) == package(&scratch, &files[0]), "{url}");
    }
    assert!(urls[3].ends_with(&server.direct(&files[0])), "{}", urls[3]);
    let listed = ask(&server.url(&format!("listed/{}", files[0])), &[ZYPP]).expect(200);
    assert_eq!(listed.must("content-type"), "application/metalink4+xml");
    let head = request("HEAD", &url, &[ZYPP]).expect(200);
    assert_eq!(head.must("content-type"), "application/metalink4+xml");
    assert_eq!(server.status().offload("redirected_bytes") - after, 5 << 20, "a HEAD is no download");

    // A part, plain ways, small files and metadata.
    let redirected = ask(&url, &[("User-Agent", "Debian APT-HTTP/1.3 (2.6.1)")]).expect(302);
    assert_eq!(redirected.must("vary"), "Accept");
    assert!(redirected.header("link").is_none(), "apt does not read it");
    ask(&url, &[ZYPP, ("Range", "bytes=0-9")]).expect(302);
    ask(&url, &[("Accept", "application/metalink4+xml;q=0")]).expect(302);
    for path in [format!("direct/{}", files[0]), files[2].clone(), "flat/Release".to_owned()] {
        let plain = ask(&server.url(&path), &[ZYPP]).expect(200);
        assert_ne!(plain.must("content-type"), "application/metalink4+xml", "{path}");
        assert!(!plain.body.starts_with(b"<?xml"), "{path}");
    }
    for method in ["HEAD", "GET"] {
        let others = request(method, &url, &[]).expect(302);
        let is_link = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("link");
        let links: Vec<&String> = others.headers.iter().filter(is_link).map(|(_, value)| value).collect();
        assert_eq!(links.len(), 2, "{method} {links:?}");
        for link in links {
            let url =
                link.strip_prefix('<').and_then(|l| l.strip_suffix(">; rel=duplicate")).expect("RFC 6249");
            assert!(volunteers.iter().any(|v| v.serves(url)) && url != others.must("location"), "{link}");
        }
    }
}

#[test]
fn lists_say_both_urls_and_nothing_else() {
    let scratch = Scratch::new();
    let tree = test_repos("t0");
    let config = ServerConfig::default()
        .tree("alder", "generic-deb", &tree.join("alder"), "suites = [\"stable\"]")
        .tree("cedar", "generic-rpm", &tree.join("cedar"), "suites = [\"os\"]");
    let server = Server::start(&scratch, &config);
    let base = server.base();
    let apt = format!("{base}/listed/alder/\tpriority:1\n{base}/direct/alder/\tpriority:2\n");
    let rpm = |dir: &str| format!("{base}/listed/cedar/{dir}\n{base}/direct/cedar/{dir}\n");
    for (path, want) in [
        ("mirrors/alder.txt", apt.clone()),
        ("alder/?mirrorlist", apt.clone()),
        ("alder?mirrorlist=1", apt.clone()),
        ("cedar/os/?mirrorlist", rpm("os/")),
        ("cedar/os?countme=3&mirrorlist=1", rpm("os/")),
        ("cedar/?mirrorlist", rpm("")),
        ("listed/cedar/any%20where//?mirrorlist", rpm("any%20where/")),
    ] {
        let answer = get(&server.url(path)).expect(200);
        assert_eq!(answer.text(), want, "{path}");
        assert_eq!(answer.must("content-type"), "text/plain; charset=utf-8", "{path}");
    }
    for path in [
        "mirrors/nosuch.txt",
        "mirrors/alder",
        "mirrors/",
        "mirrors/../alder.txt",
        "mirrors/alder.txt/x",
        "cedar/../alder/?mirrorlist",
        "cedar/%2e%2e/?mirrorlist",
        "cedar/nosuch/?metalink",
        "alder/?metalink=x&a",
    ] {
        let answer = get(&server.url(path));
        // The front page of a repository, whatever the query, is its own.
        let is_list = answer.text().contains("priority:") || answer.text().contains("/listed/");
        let is_page = path.starts_with("alder/?") && answer.status == 200;
        assert!(!is_list || is_page, "{path}: {}", answer.text());
        assert!(answer.status == 404 || is_page, "{path}: {}", answer.status);
    }
    assert!(get(&server.url("mirrors/nosuch.txt")).text().contains("/mirrors/alder.txt"));
    // A file is served whatever the query says.
    let repomd = fs::read(tree.join("cedar/os/repodata/repomd.xml")).expect("a committed file");
    assert!(get(&server.url("cedar/os/repodata/repomd.xml?list")).expect(200).body == repomd);

    // What apt sends to see whether its list is current: a range that begins at the end.
    let url = server.url("mirrors/alder.txt");
    let date = get(&url).must("last-modified").to_owned();
    let range = format!("bytes={}-", apt.len());
    let answer = request("GET", &url, &[("Range", &range), ("If-Range", &date)]).expect(416);
    assert_eq!(answer.must("content-range"), format!("bytes */{}", apt.len()));
    request("GET", &url, &[("If-Modified-Since", &date)]).expect(304);
    // By the name that the client calls us.
    let mut connection = Conn::open(server.address());
    let asked = "GET /mirrors/alder.txt HTTP/1.1\r\nHost: mirror.example:81\r\n\r\n";
    connection.send(asked.as_bytes()).expect("a request fits");
    let text = connection.read_response(false).expect("an answer").expect(200).text();
    assert!(text.starts_with("http://mirror.example:81/listed/alder/\t"), "{text}");
}

/// The values of the first `<hash type="sha256">` and of those after `mm0:alternates`.
fn hashes(metalink: &str) -> (String, Vec<String>) {
    let all = metalink.split("<hash type=\"sha256\">").skip(1).filter_map(|part| part.split('<').next());
    let mut all = all.map(str::to_owned);
    (all.next().expect("a hash"), all.collect())
}

#[test]
fn who_has_a_metalink_gets_the_repomd_that_it_describes() {
    let scratch = Scratch::new();
    let tree = scratch.path("cedar");
    copy_tree(&test_repos("t0").join("cedar"), &tree);
    let config = ServerConfig::default().tree("cedar", "generic-rpm", &tree, "suites = [\"updates\"]");
    let server = Server::start(&scratch, &config);
    let repomd = "cedar/updates/repodata/repomd.xml";
    let (url, listed) = (server.url("cedar/updates/?metalink"), server.url(&format!("listed/{repomd}")));
    let get = |url: &str| support::get_as("127.0.0.1", url, &[]);
    let old = get(&server.url(repomd)).expect(200);

    let answer = get(&url).expect(200);
    assert_eq!(answer.must("content-type"), "application/metalink+xml");
    assert_eq!(hashes(&answer.text()), (sha256_hex(&old.body), vec![]));
    assert!(answer.text().contains(&format!("preference=\"100\">{listed}</url>")), "{}", answer.text());

    overlay_tree(&test_repos("t1").join("cedar"), &tree);
    let new =
        poll(DEADLINE, || Some(get(&server.url(repomd)).expect(200)).filter(|new| new.body != old.body));
    let new = new.expect("the next generation is adopted");
    // It was told the digests of the old one a moment ago.
    assert!(get(&listed).expect(200).body == old.body, "the promise is kept");
    let signature = get(&format!("{listed}.asc")).expect(200);
    let wanted = fs::read(test_repos("t0").join(format!("{repomd}.asc"))).expect("a committed file");
    assert!(signature.body == wanted, "with its own signature");

    let answer = get(&url).expect(200);
    assert_eq!(hashes(&answer.text()), (sha256_hex(&new.body), vec![sha256_hex(&old.body)]));
    assert!(get(&listed).expect(200).body == new.body);
}

/// What lies between two texts, each time.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inner, _)| inner).collect()
}

#[test]
fn every_file_of_known_digest_has_its_list_of_urls() {
    let scratch = Scratch::new();
    let tree = test_repos("t0");
    let images = "suites = [\"8.1\"]";
    let config = ServerConfig::default()
        .tree("alder", "generic-deb", &tree.join("alder"), "suites = [\"stable\"]")
        .tree("cedar", "generic-rpm", &tree.join("cedar"), "suites = [\"os\"]")
        .tree("images", "generic-files", &tree.join("images"), images);
    let server = Server::start(&scratch, &config);
    let volunteers = Volunteer::join_all(&scratch, &server, 2);
    let package = "alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb";
    get(&server.url(&format!("{package}.sha1"))).expect(200);
    spread(&server, package, 2);
    for (path, may_be_held) in [
        (package, true),
        ("cedar/os/Packages/hands-tools-1.0-1.x86_64.rpm", false),
        ("images/8.1/demo-netboot.img", false),
        ("alder/dists/stable/InRelease", false),
        ("alder/dists/stable/main/binary-amd64/Packages.xz", false),
        ("images/8.1/SHA256SUMS", false),
    ] {
        let file = tree.join(path);
        let (sha256, size) =
            (sha256_file(&file), fs::metadata(&file).expect("a committed file").len().to_string());
        let direct = server.direct(path);
        let is_right = |urls: &[&str], what: &str| {
            assert_eq!(urls.last(), Some(&direct.as_str()), "{what}");
            let of_volunteer = |url: &&&str| volunteers.iter().any(|v| v.serves(url));
            let held = urls.iter().filter(of_volunteer).count();
            assert_eq!((held, urls.len()), if may_be_held { (2, 3) } else { (0, 1) }, "{what}: {urls:?}");
            urls.iter().for_each(|url| assert!(sha256_hex(&get(url).expect(200).body) == sha256, "{url}"));
        };
        for url in [format!("{path}.meta4"), format!("{path}?meta4")] {
            let answer = get(&server.url(&url)).expect(200);
            assert_eq!(answer.must("content-type"), "application/metalink4+xml", "{url}");
            let text = answer.text();
            assert_eq!(between(&text, "<size>", "</size>"), [size.as_str()], "{url}");
            assert_eq!(between(&text, "<hash type=\"sha-256\">", "</hash>"), [sha256.as_str()], "{url}");
            let urls = text.lines().flat_map(|line| between(line, "\">", "</url>")).collect::<Vec<_>>();
            is_right(&urls, &url);
        }
        for url in [format!("{path}.metalink"), format!("{path}?metalink=1")] {
            let answer = get(&server.url(&url)).expect(200);
            assert_eq!(answer.must("content-type"), "application/metalink+xml", "{url}");
            let text = answer.text();
            assert_eq!(between(&text, "<hash type=\"sha256\">", "</hash>"), [sha256.as_str()], "{url}");
            let urls = text.lines().flat_map(|line| between(line, "\">", "</url>")).collect::<Vec<_>>();
            is_right(&urls, &url);
        }
        for url in [format!("{path}.mirrorlist"), format!("{path}?mirrorlist")] {
            let answer = get(&server.url(&url)).expect(200);
            assert_eq!(answer.must("content-type"), "text/plain; charset=utf-8", "{url}");
            is_right(&answer.text().lines().collect::<Vec<_>>(), &url);
            let page = request("GET", &server.url(&url), &[("Accept", "text/html,*/*;q=0.8")]).expect(200);
            assert_eq!(page.must("content-type"), "text/html; charset=utf-8", "{url}");
            assert_eq!(between(&page.text(), "<a href=\"", "\">").last(), Some(&direct.as_str()), "{url}");
        }
    }
    // All digests, where the bytes were read; MD4 has no name in RFC 5854.
    let text = get(&server.url(&format!("{package}.meta4"))).expect(200).text();
    for kind in ["sha-512", "sha-1", "md5"] {
        assert_eq!(between(&text, &format!("<hash type=\"{kind}\">"), "</hash>").len(), 1, "{text}");
    }
    let repomd = get(&server.url("cedar/os/repodata/repomd.xml.metalink")).expect(200).text();
    assert!(
        repomd.contains("<mm0:timestamp>") && repomd.contains("/listed/cedar/os/repodata/repomd.xml<"),
        "{repomd}"
    );
    // Who is not to be sent elsewhere gets one URL.
    let text = get(&server.direct(&format!("{package}.mirrorlist"))).expect(200).text();
    assert_eq!(text, format!("{}\n", server.direct(package)));
    for path in ["alder/nosuch.meta4", "alder/pool.meta4", "alder/.meta4", "images/8.1/nosuch.iso.mirrorlist"]
    {
        assert_eq!(get(&server.url(path)).status, 404, "{path}");
    }
}

#[test]
fn a_metalink_of_the_origin_wins_and_aria2_takes_ours() {
    let scratch = Scratch::new();
    let tree = scratch.path("alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    let file = "pool/main/h/hands-data/hands-data_1.0-1_all.deb";
    fs::write(tree.join(format!("{file}.metalink")), "its own").expect("the scratch folder is writable");
    let config = ServerConfig::default().tree("alder", "generic-deb", &tree, "suites = [\"stable\"]");
    let server = Server::start(&scratch, &config);
    assert_eq!(get(&server.url(&format!("alder/{file}.metalink"))).expect(200).text(), "its own");
    let mut aria2 = Command::new("aria2c");
    aria2.args(["--no-conf", "--quiet", "--follow-metalink=mem", "-d"]).arg(scratch.dir("down"));
    run_ok(aria2.arg(server.url(&format!("alder/{file}.meta4"))));
    let bytes = fs::read(scratch.path("down/hands-data_1.0-1_all.deb")).expect("aria2 wrote it");
    assert!(bytes == fs::read(tree.join(file)).expect("a committed package"));
}
