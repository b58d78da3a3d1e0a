//! Volunteers: resuming anywhere, shaping, restarts, tickets, adoption, shares.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    Conn, Response, Scratch, Server, ServerConfig, Volunteer, VolunteerOptions, copy_tree, fetch,
    fetch_following, get, head, locations, package, package_files, poll, request, run_ok, serve_sizes,
    sha256_file, sha256_hex, split_url, spread, test_repos, tree_digest,
};

const MIB: usize = 1 << 20;

/// The first half of a body, as a client has it whose connection broke.
fn first_half(url: &str, size: usize) -> (Vec<u8>, Response) {
    let (address, target) = split_url(url);
    let mut connection = Conn::open(address);
    let text = connection.request_text("GET", target, &[]);
    connection.send(text.as_bytes()).expect("a request fits");
    let (status, headers) = connection.read_head().expect("an answer");
    let answer = Response { status, headers, body: Vec::new(), cut: true }.expect(200);
    let mut bytes = vec![0; size / 2];
    let mut got = 0;
    while got < bytes.len() {
        let more = connection.read_some(&mut bytes[got..]).expect("a body");
        assert!(more > 0, "the body ended after {got} bytes");
        got += more;
    }
    (bytes, answer)
}

#[test]
fn half_a_download_resumes_on_another_volunteer_and_on_the_server() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[3 * MIB]);
    let _volunteers = Volunteer::join_all(&scratch, &server, 3);
    let whole = package(&scratch, &files[0]);
    spread(&server, &files[0], 2);
    let urls = locations(&server, &files[0], 2);
    let (direct, again) = (server.direct(&files[0]), server.url(&files[0]));

    for (from, to) in [(&urls[0], &urls[1]), (&urls[1], &direct), (&direct, &urls[0]), (&urls[0], &again)] {
        let (half, answer) = first_half(from, whole.len());
        let range = format!("bytes={}-", half.len());
        // apt sends the date, curl nothing, others the tag.
        let (date, tag) = (answer.must("last-modified").to_owned(), answer.must("etag").to_owned());
        for condition in [Some(date), Some(tag), None] {
            let mut headers = vec![("Range", range.as_str())];
            headers.extend(condition.as_deref().map(|value| ("If-Range", value)));
            let (rest, hops) = fetch_following(to, &headers);
            assert_eq!(rest.status, 206, "{from} then {hops:?}, {condition:?}");
            assert_eq!(
                rest.must("content-range"),
                format!("bytes {}-{}/{}", half.len(), whole.len() - 1, whole.len())
            );
            assert_eq!(
                sha256_hex(&[&half[..], &rest.body].concat()),
                sha256_hex(&whole),
                "{from} then {hops:?}"
            );
        }
    }
}

#[test]
fn wget_and_curl_resume_half_a_file() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[3 * MIB]);
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    let whole = package(&scratch, &files[0]);
    server.wait_redirect(&files[0]);
    for url in [server.url(&files[0]), server.direct(&files[0])] {
        for (program, arguments) in [("wget", ["-q", "-c", "-O"]), ("curl", ["-fsSL", "-C-", "-o"])] {
            let file = scratch.path("half");
            fs::write(&file, &whole[..whole.len() / 2]).expect("the scratch folder is writable");
            run_ok(Command::new(program).args(arguments).arg(&file).arg(&url));
            assert_eq!(sha256_file(&file), sha256_hex(&whole), "{program} {url}");
        }
    }
}

#[test]
fn four_downloads_together_take_what_is_donated() {
    const DONATED: f64 = 4.0 * MIB as f64;
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[4 * MIB]);
    let wanted = sha256_hex(&package(&scratch, &files[0]));
    let options = VolunteerOptions::new(&scratch, &server, 1).donate("4MiB/s");
    let _volunteer = Volunteer::join(&server, options);
    server.wait_redirect(&files[0]);

    let begin = Instant::now();
    let download = || {
        let location = get(&server.url(&files[0])).expect(302).must("location").to_owned();
        timed_download(&location)
    };
    let (mut arrivals, bodies): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|_| scope.spawn(download)).collect();
        running.into_iter().map(|thread| thread.join().expect("a client thread")).unzip()
    });
    assert!(bodies.iter().all(|body| sha256_hex(body) == wanted));

    let mut all: Vec<(Instant, usize)> = arrivals.drain(..).flatten().collect();
    all.sort();
    let total: usize = all.iter().map(|(_, bytes)| bytes).sum();
    let when = |bytes: usize| {
        let mut sum = 0;
        let passed = |(_, more): &&(Instant, usize)| {
            sum += more;
            sum >= bytes
        };
        all.iter().find(passed).expect("that much arrived").0
    };
    // Without the burst at the start and the last ones' end.
    let (from, to) = (2 * MIB, 14 * MIB);
    let rate = (to - from) as f64 / (when(to) - when(from)).as_secs_f64();
    assert!((0.9..=1.1).contains(&(rate / DONATED)), "{:.2} MiB/s in the middle", rate / MIB as f64);
    let over_all = total as f64 / (when(total) - begin).as_secs_f64();
    assert!(over_all <= DONATED * 1.1, "{:.2} MiB/s over all, burst included", over_all / MIB as f64);
}

/// A whole body, and when how much of it arrived.
fn timed_download(url: &str) -> (Vec<(Instant, usize)>, Vec<u8>) {
    let (address, target) = split_url(url);
    let mut connection = Conn::open(address);
    let text = connection.request_text("GET", target, &[("Connection", "close")]);
    connection.send(text.as_bytes()).expect("a request fits");
    assert_eq!(connection.read_head().expect("an answer").0, 200);
    let (mut arrivals, mut body, mut buffer) = (Vec::new(), Vec::new(), vec![0; 64 << 10]);
    loop {
        match connection.read_some(&mut buffer).expect("a body") {
            0 => return (arrivals, body),
            bytes => {
                arrivals.push((Instant::now(), bytes));
                body.extend_from_slice(&buffer[..bytes]);
            }
        }
    }
}

#[test]
fn ten_thousand_blobs_are_announced_again_at_once_and_unread() {
    const BLOBS: u64 = 10_000;
    const SIZE: usize = 8 << 10;
    let scratch = Scratch::new();
    let (server, _) = serve_sizes(&scratch, &[1000]);
    let options = VolunteerOptions::new(&scratch, &server, 1);
    let mut bytes = vec![0; SIZE];
    for number in 0..BLOBS {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let path = options.blob_path(&sha256_hex(&bytes));
        fs::create_dir_all(path.parent().expect("a folder")).expect("the scratch folder is writable");
        fs::write(path, &bytes).expect("the scratch folder is writable");
    }
    // The first start may take its time; the restart may not.
    let mut volunteer = Volunteer::join(&server, options);
    server.wait_until("all blobs are announced", |status| status.of("v1", "holdings") == BLOBS);
    volunteer.process.terminate();
    server.wait_until("the volunteer is gone", |status| status.state("v1") != "up");

    let volunteer = Volunteer::start(volunteer.options.clone());
    server.wait_until("all blobs are announced again", |status| status.of("v1", "holdings") == BLOBS);
    let taken = volunteer.ready_at.elapsed();
    assert!(taken < Duration::from_secs(2), "{taken:?} from ready to announced");
    let read = bytes_read(volunteer.process.pid());
    let contents = BLOBS * SIZE as u64;
    assert!(read < contents / 4, "it read {read} bytes; the blobs have {contents}");
}

/// What a process has read by system calls (proc(5)).
fn bytes_read(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).expect("a running process of ours");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("rchar");
    line.parse().expect("a number")
}

#[test]
fn a_volunteer_serves_only_what_the_server_signed() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000, 60_000]);
    let volunteers = Volunteer::join_all(&scratch, &server, 2);
    let whole = package(&scratch, &files[0]);
    // Both hold both, so that neither can excuse itself with not having it.
    let held = poll(support::DEADLINE, || {
        files.iter().for_each(|file| drop(fetch(&server.url(file))));
        volunteers.iter().all(|v| v.options.stored().len() == 2).then_some(())
    });
    assert!(held.is_some(), "both blobs on both volunteers\n{}", server.status().pretty());
    let (first, second) = (server.wait_redirect(&files[0]), server.wait_redirect(&files[1]));
    assert!(get(&first).expect(200).body == whole);

    let (address, path) = split_url(&first);
    let parts: Vec<&str> = path.split('/').collect();
    let (expiry, signature) = parts[2].split_once('-').expect("expiry and signature");
    let flipped = if signature.starts_with('0') { "1" } else { "0" };
    let later = expiry.parse::<u64>().expect("a number") + 1;
    let other_sha = split_url(&second).1.split('/').nth(3).expect("a digest");
    let name = parts[4];
    let sha = parts[3];
    for forged in [
        format!("/b/{expiry}-{flipped}{}/{sha}/{name}", &signature[1..]),
        format!("/b/{later}-{signature}/{sha}/{name}"),
        format!("/b/{expiry}-{}/{sha}/{name}", "0".repeat(32)),
        format!("/b/{expiry}-{signature}/{other_sha}/{name}"),
        // Expired and forged is forged.
        format!("/b/1000-{signature}/{sha}/{name}"),
    ] {
        let answer = get(&format!("http://{address}{forged}"));
        assert_eq!(answer.status, 403, "{forged}");
    }
    // A ticket is for one volunteer.
    let other = volunteers.iter().find(|v| v.address != address).expect("another volunteer");
    assert_eq!(get(&format!("http://{}{path}", other.address)).status, 403);
    for target in
        ["/b/", "/etc/passwd", "/b/../../etc/passwd", "/_mh/v1/session", &format!("/b/{sha}/{name}")]
    {
        let answer = Conn::open(address).ask("GET", target, &[("Connection", "close")]);
        assert!((400..500).contains(&answer.status), "{target}: {}", answer.status);
    }
    assert!((400..500).contains(&request("POST", &first, &[("Content-Length", "0")]).status));
    assert!(get(&first).expect(200).body == whole, "the true ticket still works");
}

#[test]
fn a_volunteer_answers_ranges_head_and_conditions_as_the_server_does() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[200_000]);
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    let url = server.wait_redirect(&files[0]);
    let direct = server.direct(&files[0]);
    let whole = get(&direct).expect(200);
    let (date, tag) = (whole.must("last-modified"), whole.must("etag"));
    let table: &[&[(&str, &str)]] = &[
        &[],
        &[("Range", "bytes=0-0")],
        &[("Range", "bytes=100000-")],
        &[("Range", "bytes=-7")],
        &[("Range", "bytes=200000-")],
        &[("Range", "bytes=5-1")],
        &[("Range", "bytes=10-"), ("If-Range", date)],
        &[("Range", "bytes=10-"), ("If-Range", tag)],
        &[("Range", "bytes=10-"), ("If-Range", "\"other\"")],
        &[("If-Modified-Since", date)],
        &[("If-None-Match", tag)],
    ];
    for headers in table {
        for method in ["GET", "HEAD"] {
            let (ours, theirs) = (request(method, &direct, headers), request(method, &url, headers));
            assert_eq!(ours.status, theirs.status, "{method} {headers:?}");
            assert!(ours.body == theirs.body, "{method} {headers:?}");
            for name in
                ["content-length", "content-range", "last-modified", "etag", "accept-ranges", "content-type"]
            {
                assert_eq!(ours.header(name), theirs.header(name), "{name} of {method} {headers:?}");
            }
        }
    }
    let (address, target) = split_url(&url);
    let mut connection = Conn::open(address);
    for _ in 0..3 {
        assert!(connection.ask("GET", target, &[]).expect(200).body == whole.body, "keep-alive");
    }
}

#[test]
fn a_blob_that_is_gone_is_answered_by_the_server() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    let url = server.wait_redirect(&files[0]);
    let whole = package(&scratch, &files[0]);
    let (sha256, name) = (sha256_hex(&whole), files[0].strip_prefix("flat/").expect("a name"));
    fs::remove_file(volunteers[0].options.blob_path(&sha256)).expect("the blob is in the store");

    let answer = get(&url).expect(302);
    assert_eq!(answer.must("location"), server.direct(&format!("_blob/{sha256}/{name}")));
    assert_eq!(answer.must("content-length"), "0");
    assert!(fetch(&url) == whole && fetch(&server.url(&files[0])) == whole);
    let ranged = request("GET", answer.must("location"), &[("Range", "bytes=100-")]).expect(206);
    assert!(ranged.body == whole[100..]);
}

#[test]
fn blobs_are_named_by_digest_only_for_volunteers_that_return_a_client() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let whole = package(&scratch, &files[0]);
    let sha256 = sha256_hex(&whole);
    for path in [format!("direct/_blob/{sha256}/x.deb"), format!("_blob/{sha256}/x.deb")] {
        assert!(get(&server.url(&path)).expect(200).body == whole, "{path}");
    }
    let unknown = "ab".repeat(32);
    for path in
        [format!("direct/_blob/{unknown}/x.deb"), format!("_blob/{unknown}/x.deb"), "_blob/zz/x.deb".into()]
    {
        assert_eq!(get(&server.url(&path)).status, 404, "{path}");
    }
    // An expired ticket leads here, and the server decides anew.
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    server.wait_redirect(&files[0]);
    get(&server.url(&format!("_blob/{sha256}/x.deb"))).expect(302);
    get(&server.url(&format!("direct/_blob/{sha256}/x.deb"))).expect(200);
}

#[test]
fn an_existing_mirror_is_adopted_in_place() {
    let scratch = Scratch::new();
    let mirror = scratch.path("mirror");
    let sources = [".dsc", ".tar.xz"];
    copy_tree(&test_repos("t0").join("alder/pool"), &mirror.join("pool"));
    for file in tree_digest(&mirror).into_keys() {
        if sources.iter().any(|ending| file.to_string_lossy().ends_with(ending)) {
            fs::remove_file(mirror.join(file)).expect("the scratch folder is writable");
        }
    }
    let (good, bad) = (
        "pool/main/h/hands-common/hands-common_1.0-1_all.deb",
        "pool/contrib/h/hands-contrib/hands-contrib_1.0-1_amd64.deb",
    );
    flip_a_byte(&mirror.join(bad));
    fs::write(mirror.join("pool/stranger_1_all.deb"), "of no catalog")
        .expect("the scratch folder is writable");
    let untouched = tree_digest(&mirror);
    let committed: Vec<_> = package_files(&test_repos("t0").join("alder/pool"));
    let distinct: BTreeSet<String> = committed.iter().map(|p| sha256_file(p)).collect();
    let expected = distinct.len() as u64 - 1;

    let tree = test_repos("t0").join("alder");
    let config =
        ServerConfig::default().tree("alder", "generic-deb", &tree, "suites = [\"stable\", \"testing\"]");
    let server = Server::start(&scratch, &config);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.adopt.push(mirror.clone());
    let mut volunteer = Volunteer::join(&server, options);
    server.wait_until("adopted files are announced", |status| status.of("v1", "holdings") >= expected);

    // Without any fetch, the first request already goes there.
    let url = server.url(&format!("alder/{good}"));
    let answer = get(&url).expect(302);
    assert!(volunteer.serves(answer.must("location")));
    assert_eq!(sha256_hex(&fetch(&url)), sha256_file(&tree.join(good)));
    assert_eq!(volunteer.options.stored(), Vec::<String>::new());

    // The damaged one was never announced; the server sends it.
    let answer = get(&server.url(&format!("alder/{bad}"))).expect(200);
    assert_eq!(sha256_hex(&answer.body), sha256_file(&tree.join(bad)));
    // What placement then makes the volunteer fetch goes to its store.
    server.wait_redirect(&format!("alder/{bad}"));
    assert_eq!(volunteer.options.stored(), [sha256_file(&tree.join(bad))]);
    assert_eq!(server.status().of("v1", "holdings"), expected + 1);
    assert_eq!(sha256_hex(&fetch(&server.url(&format!("alder/{bad}")))), sha256_file(&tree.join(bad)));

    assert_eq!(tree_digest(&mirror), untouched, "the mirror is as it was, times included");
    // A file that changes later is not served as what it was.
    flip_a_byte(&mirror.join(good));
    assert_eq!(sha256_hex(&fetch(&url)), sha256_file(&tree.join(good)));
    volunteer.process.terminate();
}

#[test]
fn an_adopted_tree_fills_no_store() {
    const SIZE: usize = 600_000;
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[SIZE, SIZE, SIZE, 60_000, 60_000]);
    let mirror = scratch.dir("mirror");
    for file in &files[..3] {
        let name = Path::new(file).file_name().expect("a file");
        fs::write(mirror.join(name), package(&scratch, file)).expect("the scratch folder is writable");
    }
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.adopt.push(mirror);
    options.max_size = Some("1MiB".to_owned());
    let volunteer = Volunteer::join(&server, options);
    server.wait_until("the tree is adopted", |status| status.of("v1", "holdings") == 3);
    let status = server.wait_reports();
    assert_eq!(
        (status.of("v1", "adopted_holdings"), status.of("v1", "store_bytes")),
        (3, 0),
        "{}",
        status.pretty()
    );
    for file in &files[3..] {
        server.wait_redirect(file);
    }
    // It looks for what may go every five seconds.
    (0..3).for_each(|_| _ = server.wait_reports());
    let status = server.wait_until("copies are reported", |status| status.of("v1", "store_bytes") == 120_000);
    assert_eq!(status.of("v1", "holdings"), 5, "{}", status.pretty());
    assert_eq!(volunteer.options.stored().len(), 2, "copies of what is asked for");
    let dropped = server.process.messages("ordered a copy to be dropped");
    assert!(dropped.is_empty(), "{dropped:?}");
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("the scratch folder is writable");
}

#[test]
fn the_store_stays_below_its_size() {
    const MAX: u64 = 256 << 10;
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[60_000; 10]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.max_size = Some("256KiB".to_owned());
    let volunteer = Volunteer::join(&server, options);
    let stored = || {
        let sizes = volunteer
            .options
            .stored()
            .into_iter()
            .map(|name| fs::metadata(volunteer.options.blob_path(&name)));
        sizes.map(|meta| meta.map_or(0, |m| m.len())).sum::<u64>()
    };
    for file in &files {
        assert!(fetch(&server.url(file)) == package(&scratch, file));
        server.wait_until("orders are done", |status| status.is_placed());
        assert!(stored() <= MAX, "{} bytes in the store", stored());
    }
    server.wait_until("holdings are what is stored", |status| {
        let held = volunteer.options.stored().len() as u64;
        (1..=4).contains(&held) && status.of("v1", "holdings") == held
    });
    for file in &files {
        assert!(fetch(&server.url(file)) == package(&scratch, file));
    }
}

#[test]
fn equal_volunteers_get_equal_shares() {
    const REQUESTS: usize = 90;
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[100_000]);
    let volunteers = Volunteer::join_all(&scratch, &server, 3);
    spread(&server, &files[0], 3);
    for _ in 0..REQUESTS {
        let answer = get(&server.url(&files[0])).expect(302);
        let location = answer.must("location");
        assert!(volunteers.iter().any(|v| v.serves(location)), "one of ours");
        assert_eq!(get(location).expect(200).body.len(), 100_000);
    }
    // Who served while the others had no copy yet is passed over until they have served as much.
    let all = (REQUESTS * 100_000) as u64;
    server.wait_until("all have reported", |status| status.sum("served_bytes") >= all);
    let status = server.status();
    let served = ["v1", "v2", "v3"].map(|name| status.of(name, "served_bytes") as f64);
    let mean = served.iter().sum::<f64>() / 3.0;
    assert!(served.iter().all(|bytes| (0.8..1.2).contains(&(bytes / mean))), "{served:?}");
}

#[test]
fn only_bytes_that_move_are_counted() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[500_000]);
    let _volunteers = Volunteer::join_all(&scratch, &server, 1);
    fetch(&server.url(&files[0]));
    server.wait_redirect(&files[0]);
    let before = server.status();
    for _ in 0..20 {
        head(&server.url(&files[0])).expect(302);
    }
    let after = server.status();
    let grown = after.offload("redirected_bytes") - before.offload("redirected_bytes");
    assert_eq!(grown, 0, "HEAD moves no package bytes");
    let (part, _) = fetch_following(&server.url(&files[0]), &[("Range", "bytes=100-299")]);
    assert_eq!((part.status, part.body.len()), (206, 200));
    assert_eq!(server.status().offload("redirected_bytes") - after.offload("redirected_bytes"), 200);
}
