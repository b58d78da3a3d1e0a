//! Pulling through from an upstream: once per content whatever it is called, nothing unverified, outages
//! told apart from missing files.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{
    Apt, Conn, Fault, Scratch, Server, ServerConfig, Upstream, Volunteer, VolunteerOptions, copy_tree, fetch,
    get, overlay_tree, sha256_file, sha256_hex, test_key, test_repos, wait_for,
};

const ALDER: &str = "alder/pool/main/h/hands-common/hands-common_1.0-1_all.deb";
const BIRCH: &str = "birch/pool/universe/hands/hands-common_1.0-1_all.deb";
const CEDAR: &str = "cedar/os/Packages/hands-common-1.0-1.noarch.rpm";
const DOGWOOD: &str = "dogwood/Packages/h/hands-common-1.0-1.noarch.rpm";
const DATA: &str = "alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb";

fn config(upstream: &Upstream) -> ServerConfig {
    ServerConfig::default()
        .upstream("alder", "generic-deb", &upstream.url("alder"), "suites = [\"stable\"]")
        .upstream("birch", "generic-deb", &upstream.url("birch"), "suites = [\"focus\"]")
        .upstream("cedar", "generic-rpm", &upstream.url("cedar"), "suites = [\"os\"]")
        .upstream("dogwood", "generic-rpm", &upstream.url("dogwood"), "suites = [\"\"]")
}

/// A server that has read all metadata named in [`config`].
fn serve(scratch: &Scratch, upstream: &Upstream) -> Server {
    let server = Server::start(scratch, &config(upstream));
    wait_metadata(&server);
    server
}

fn wait_metadata(server: &Server) {
    server.wait_until("all metadata is read", |status| {
        status.0["snapshots"].as_array().is_some_and(|snapshots| snapshots.len() >= 4)
    });
}

fn committed(path: &str) -> PathBuf {
    test_repos("t0").join(path)
}

/// How many files of this size lie below a folder.
fn files_of_size(folder: &Path, size: u64) -> usize {
    let entries = fs::read_dir(folder).expect("a readable folder").map(|e| e.expect("an entry").path());
    let count = |path: PathBuf| match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => files_of_size(&path, size),
        Ok(meta) => usize::from(meta.len() == size),
        Err(_) => 0,
    };
    entries.map(count).sum()
}

#[test]
fn the_same_package_of_two_distributions_is_fetched_and_stored_once() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let server = serve(&scratch, &upstream);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);

    let before = server.status();
    let wanted = sha256_file(&committed(ALDER));
    assert_eq!(sha256_hex(&fetch(&server.url(ALDER))), wanted);
    server.wait_held_by(1);
    assert_eq!(volunteers[0].options.stored(), std::slice::from_ref(&wanted));

    // The other distribution's clients are sent to the volunteer that fetched it for the first.
    let answer = get(&server.url(BIRCH)).expect(302);
    assert!(volunteers[0].serves(answer.must("location")));
    assert_eq!(sha256_hex(&fetch(&server.url(BIRCH))), wanted);
    assert_eq!(sha256_hex(&fetch(&server.direct(BIRCH))), wanted);

    assert_eq!(upstream.gets_ending("hands-common_1.0-1_all.deb"), [format!("/{ALDER}")]);
    let after = server.status();
    assert_eq!(after.number("/cache/blobs") - before.number("/cache/blobs"), 1);
    let size = fs::metadata(committed(ALDER)).expect("a committed file").len();
    assert_eq!(files_of_size(&scratch.path("server-state"), size), 1, "stored once");
    assert!(after.number("/catalog/blobs") < after.number("/catalog/paths"));
    assert!(after.number("/catalog/saved_bytes") >= size, "{}", after.pretty());
}

#[test]
fn another_name_and_another_algorithm_are_still_the_same_blob() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let server = serve(&scratch, &upstream);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);

    // The same bytes, the file name differs.
    let (plain, escaped) = (
        "alder/pool/main/h/hands-epoch/hands-epoch_2.0-1_amd64.deb",
        "birch/pool/universe/hands/hands-epoch_1%253a2.0-1_amd64.deb",
    );
    fetch(&server.url(plain));
    let location = server.wait_redirect(escaped);
    assert!(
        volunteers[0].serves(&location) && location.ends_with("/hands-epoch_1%253a2.0-1_amd64.deb"),
        "{location}"
    );
    assert_eq!(sha256_hex(&fetch(&server.url(escaped))), sha256_file(&committed(plain)));
    assert_eq!(upstream.gets_ending("2.0-1_amd64.deb").len(), 1);

    // cedar lists SHA-256, dogwood SHA-512: real bytes were hashed with both.
    let wanted = sha256_file(&committed(CEDAR));
    assert_eq!(sha256_hex(&fetch(&server.url(CEDAR))), wanted);
    assert_eq!(sha256_hex(&fetch(&server.url(DOGWOOD))), wanted);
    assert_eq!(upstream.gets_ending("hands-common-1.0-1.noarch.rpm"), [format!("/{CEDAR}")]);
}

#[test]
fn many_clients_of_a_cold_package_cost_one_upstream_fetch() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let server = serve(&scratch, &upstream);
    let wanted = sha256_file(&committed(DATA));
    upstream.set_fault(DATA, Some(Fault::Held));
    std::thread::scope(|scope| {
        let fetchers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| sha256_hex(&fetch(&server.url(DATA))))).collect();
        wait_for("the upstream is asked", support::DEADLINE, || upstream.gets(DATA) > 0);

        // One comes first and leaves, one joins and gets bytes while the rest has not even arrived.
        let mut leaver = Conn::open(server.address());
        let mut joiner = Conn::open(server.address());
        for connection in [&mut leaver, &mut joiner] {
            let text = connection.request_text("GET", &format!("/{DATA}"), &[]);
            connection.send(text.as_bytes()).expect("a request fits");
            let (status, _) = connection.read_head().expect("an answer begins at once");
            assert_eq!(status, 200);
            assert!(connection.read_some(&mut [0; 1000]).expect("bytes stream while it downloads") > 0);
        }
        drop(leaver);
        upstream.set_fault(DATA, None);
        for fetcher in fetchers {
            assert_eq!(fetcher.join().expect("a client thread"), wanted);
        }
    });
    assert_eq!(upstream.gets(DATA), 1);
}

#[test]
fn a_download_goes_on_when_its_first_client_leaves() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let server = serve(&scratch, &upstream);
    upstream.set_fault(DATA, Some(Fault::Held));
    let ask = || {
        let mut connection = Conn::open(server.address());
        let text = connection.request_text("GET", &format!("/{DATA}"), &[]);
        connection.send(text.as_bytes()).expect("a request fits");
        connection
    };
    let mut first = ask();
    assert!(first.read_head().is_ok() && first.read_some(&mut [0; 1000]).is_ok_and(|n| n > 0));
    let mut second = ask();
    drop(first);
    upstream.set_fault(DATA, None);
    let answer = second.read_response(false).expect("an answer").expect(200);
    assert_eq!(sha256_hex(&answer.body), sha256_file(&committed(DATA)));
    assert_eq!(upstream.gets(DATA), 1);
}

#[test]
fn damaged_and_cut_downloads_are_never_kept() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let server = serve(&scratch, &upstream);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    let wanted = sha256_file(&committed(DATA));
    let size = fs::metadata(committed(DATA)).expect("a committed file").len();
    for fault in [Fault::Damaged, Fault::Cut] {
        upstream.set_fault(DATA, Some(fault));
        let answer = get(&server.url(DATA));
        let looks_whole = answer.status == 200 && !answer.cut;
        assert!(!looks_whole || sha256_hex(&answer.body) != wanted, "{fault:?}");
        assert_eq!(server.status().number("/cache/blobs"), 0, "{fault:?}");
        assert_eq!(files_of_size(&scratch.path("server-state"), size), 0, "{fault:?}");
    }
    assert!(volunteers[0].options.stored().is_empty(), "it was ordered to fetch, but got no good bytes");
    upstream.set_fault(DATA, None);
    assert_eq!(sha256_hex(&fetch(&server.url(DATA))), wanted);
    // The first one is not asked again soon after its failure; on a slow machine that may be over.
    let other = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 2));
    server.wait_redirect(DATA);
    let stored = [volunteers[0].options.stored(), other.options.stored()].concat();
    assert!(!stored.is_empty() && stored.iter().all(|name| *name == wanted), "{stored:?}");
}

#[test]
fn an_outage_is_5xx_and_a_missing_file_404() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    for file in ["InRelease", "Release"] {
        upstream.set_fault(&format!("alder/dists/testing/{file}"), Some(Fault::Status(503)));
    }
    let server = serve(&scratch, &upstream);
    // apt falls back to Release for a 404 only, so it must be a true one.
    let status = get(&server.url("alder/dists/testing/InRelease")).status;
    assert!((500..600).contains(&status), "{status}");
    assert_eq!(get(&server.url("alder/dists/nosuch/InRelease")).status, 404);
    assert_eq!(get(&server.url("alder/pool/main/nosuch_1_all.deb")).status, 404);

    upstream.set_fault(DATA, Some(Fault::Status(500)));
    let status = get(&server.url(DATA)).status;
    assert!((500..600).contains(&status), "{status}");
    upstream.set_fault(DATA, None);
    get(&server.url(DATA)).expect(200);

    // With the upstream gone, what is known is still served.
    let tools = "alder/pool/main/h/hands-tools/hands-tools_1.0-1_amd64.deb";
    drop(upstream);
    get(&server.url("alder/dists/stable/InRelease")).expect(200);
    assert_eq!(sha256_hex(&fetch(&server.url(DATA))), sha256_file(&committed(DATA)));
    let status = get(&server.url(tools)).status;
    assert!((500..600).contains(&status), "{status}");
}

/// Object stores answer so for what is missing: no outage, after which clients would ask again.
#[test]
fn a_forbidden_file_is_403() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let server = serve(&scratch, &upstream);
    wait_metadata(&server);
    let path = "alder/pool/main/secret_1_all.deb";
    upstream.set_fault(path, Some(Fault::Status(403)));
    assert_eq!(get(&server.url(path)).status, 403);
    upstream.set_fault(path, Some(Fault::Status(500)));
    assert_eq!(get(&server.url(path)).status, 502);
}

#[test]
fn a_proxy_before_the_upstream_may_say_that_it_is_one() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    for path in [ALDER, "alder/dists/stable/InRelease"] {
        upstream.set_fault(path, Some(Fault::Proxied));
    }
    let server = serve(&scratch, &upstream);
    assert_eq!(sha256_hex(&fetch(&server.url(ALDER))), sha256_file(&committed(ALDER)));
}

#[test]
fn what_was_fetched_outlives_a_restart() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let mut server = serve(&scratch, &upstream);
    fetch(&server.url(ALDER));
    server.process.terminate();
    let server = Server::start_file(&server.config);
    wait_metadata(&server);
    assert_eq!(sha256_hex(&fetch(&server.url(BIRCH))), sha256_file(&committed(ALDER)));
    assert_eq!(upstream.gets_ending("hands-common_1.0-1_all.deb").len(), 1);
}

#[test]
fn half_a_release_in_a_tree_is_not_shown() {
    for (repo, distro, suites, root, member) in [
        (
            "alder",
            "generic-deb",
            "stable",
            "dists/stable/InRelease",
            "dists/stable/main/binary-amd64/Packages.gz",
        ),
        ("elder", "generic-rpm", "", "repodata/repomd.xml", "repodata/primary.xml.xz"),
    ] {
        let scratch = Scratch::new();
        let tree = scratch.path(repo);
        copy_tree(&committed(repo), &tree);
        let config = ServerConfig::default().tree(repo, distro, &tree, &format!("suites = [{suites:?}]"));
        let server = Server::start(&scratch, &config);
        let served = |path: &str| get(&server.url(&format!("{repo}/{path}"))).expect(200).body;
        let of = |generation: &str, path: &str| {
            fs::read(test_repos(generation).join(repo).join(path)).expect("a committed file")
        };
        let is_old = || served(root) == of("t0", root) && served(member) == of("t0", member);
        assert!(is_old());

        // A mirror script that copies metadata first and then breaks off.
        fs::write(tree.join(root), of("t1", root)).expect("the scratch folder is writable");
        fs::write(tree.join(member), b"half a file").expect("the scratch folder is writable");
        server.wait_until("the server has seen that it does not fit", |status| {
            assert!(is_old(), "{repo}: a mixture is served");
            status.0["snapshots"]
                .as_array()
                .is_some_and(|all| all.iter().any(|unit| !unit["problem"].is_null()))
        });
        overlay_tree(&test_repos("t1").join(repo), &tree);
        wait_for("the whole release is served", support::DEADLINE, || served(root) == of("t1", root));
        assert!(served(member) == of("t1", member), "{repo}: root and member are of one generation");
    }
}

#[test]
fn apt_installs_through_a_bare_upstream() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let config = ServerConfig::default().upstream("alder", "generic-deb", &upstream.url("alder"), "");
    let server = Server::start(&scratch, &config);
    let source =
        format!("deb [signed-by={}] {} stable main contrib", test_key().display(), server.url("alder"));
    for name in ["first", "second"] {
        Apt::new(&scratch.dir(name), std::slice::from_ref(&source)).install_all();
    }
    let debs = upstream.gets_ending(".deb");
    let mut distinct = debs.clone();
    distinct.sort();
    distinct.dedup();
    assert!(!debs.is_empty() && debs.len() == distinct.len(), "each package once: {debs:?}");
}
