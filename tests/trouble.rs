//! What a mirror proxy meets in its life: a slow or hostile origin, a half mirror, a crash, a client that
//! asks for nonsense. Each once broke an install or let something out.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{
    Conn, Fault, Scratch, Server, ServerConfig, Upstream, Volunteer, VolunteerOptions, copy_tree, fetch, get,
    sha256_file, sha256_hex, test_repos,
};

const DATA: &str = "alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb";

#[test]
fn a_slow_first_look_is_not_a_missing_suite() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let slow = "alder/dists/stable/main/binary-amd64/Packages.xz";
    let by_hash = sha256_file(&test_repos("t0").join(slow));
    for path in [slow.to_owned(), format!("alder/dists/stable/main/binary-amd64/by-hash/SHA256/{by_hash}")] {
        upstream.set_fault(&path, Some(Fault::Held));
    }
    let config = ServerConfig::default().upstream("alder", "generic-deb", &upstream.url("alder"), "");
    let server = Server::start(&scratch, &config);

    // The first client leaves at once; the look that it caused must go on.
    let mut impatient = Conn::open(server.address());
    let text = impatient.request_text("GET", "/alder/dists/stable/InRelease", &[]);
    impatient.send(text.as_bytes()).expect("a request fits");
    drop(impatient);
    // apt takes 404 for "use Release instead" and 503 for "try again": only the second is true here.
    assert_eq!(get(&server.url("alder/dists/stable/InRelease")).status, 503);
    for path in [slow.to_owned(), format!("alder/dists/stable/main/binary-amd64/by-hash/SHA256/{by_hash}")] {
        upstream.set_fault(&path, None);
    }
    server.wait_within("the look ends well", Duration::from_secs(20), |status| {
        status.0["snapshots"].as_array().is_some_and(|all| all.len() == 1)
    });
    get(&server.url("alder/dists/stable/InRelease")).expect(200);
}

#[test]
fn a_mirror_of_some_architectures_is_a_mirror() {
    let scratch = Scratch::new();
    let tree = scratch.path("alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    fs::remove_dir_all(tree.join("dists/stable/contrib")).expect("contrib is there");
    let config = ServerConfig::default().tree("alder", "generic-deb", &tree, "");
    let server = Server::start(&scratch, &config);
    let unit = |status: &support::Status| {
        let all = status.0["snapshots"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|snapshot| snapshot["unit"] == "dists/stable")
    };
    let before = unit(&server.status()).expect("the suite is adopted");
    assert!(before["paths"].as_u64() > Some(5), "{before}");
    assert_eq!(sha256_hex(&fetch(&server.url(DATA))), sha256_file(&test_repos("t0").join(DATA)));
    // The gap is no news at the next look.
    get(&server.url("alder/dists/stable/InRelease")).expect(200);
    let after = unit(&server.status()).expect("the suite stays");
    assert_eq!(after["generation"], before["generation"]);
}

/// An upstream that answers everything with a redirect to one place.
fn redirecting(to: &Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let to = Arc::clone(to);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|n| n > 0) {
                let target = to.lock().expect("no panic").clone();
                let answer = format!(
                    "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                // A client that has gone needs no answer.
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    url
}

#[test]
fn an_upstream_cannot_point_into_this_machine() {
    let scratch = Scratch::new();
    let target = Arc::new(Mutex::new(String::new()));
    let upstream = redirecting(&target);
    let config = ServerConfig::default().upstream("far", "generic-files", &upstream, "");
    let server = Server::start(&scratch, &config);
    *target.lock().expect("no panic") = format!("http://{}/api/v1/status", server.admin);
    let answer = get(&server.url("far/readme.txt"));
    assert!(answer.status >= 400 && !answer.text().contains("uptime"), "{}", answer.text());
}

#[test]
fn a_blob_comes_from_the_repository_that_has_it() {
    let scratch = Scratch::new();
    let images = test_repos("t0").join("images/8.1");
    for name in ["gap", "whole"] {
        copy_tree(&images, &scratch.path(&format!("{name}/8.1")));
    }
    fs::remove_file(scratch.path("gap/8.1/demo-netboot.img")).expect("the file is there");
    let config = ServerConfig::default().tree("gap", "generic-files", &scratch.path("gap"), "").tree(
        "whole",
        "generic-files",
        &scratch.path("whole"),
        "",
    );
    let server = Server::start(&scratch, &config);
    let sha256 = sha256_file(&images.join("demo-netboot.img"));
    let body = get(&server.url(&format!("direct/_blob/{sha256}/demo-netboot.img"))).expect(200).body;
    assert_eq!(sha256_hex(&body), sha256);
}

#[test]
fn a_crash_costs_no_manifest() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let more = "suites = [\"stable\"]";
    let config = ServerConfig::default().upstream("alder", "generic-deb", &upstream.url("alder"), more);
    let mut server = Server::start(&scratch, &config);
    fetch(&server.url(DATA));
    server.process.kill();
    let server = Server::start_file(&server.config);
    let manifest = get(&server.url(&format!("{DATA}.sha256"))).expect(200).text();
    assert!(manifest.starts_with(&sha256_file(&test_repos("t0").join(DATA))), "{manifest}");
    get(&server.url(&format!("{DATA}.md5"))).expect(200);
}

#[test]
fn made_up_checksum_files_hide_no_real_one() {
    let scratch = Scratch::new();
    let root = scratch.dir("root");
    fs::write(root.join("a.img"), vec![7; 40_000]).expect("writable");
    let line = format!("SHA256 (a.img) = {}\n", sha256_file(&root.join("a.img")));
    fs::write(root.join("Real-CHECKSUM"), line).expect("writable");
    let upstream = Upstream::start(&root);
    let config = ServerConfig::default().upstream("far", "generic-files", &upstream.url(""), "");
    let server = Server::start(&scratch, &config);
    for n in 0..80 {
        assert_eq!(get(&server.url(&format!("far/junk{n}-CHECKSUM"))).status, 404);
    }
    let before = upstream.gets_ending("CHECKSUM").len();
    get(&server.url("far/junk5-CHECKSUM"));
    assert_eq!(upstream.gets_ending("CHECKSUM").len(), before, "asked again for what is known to be missing");
    get(&server.url("far/Real-CHECKSUM")).expect(200);
    assert_eq!(sha256_hex(&fetch(&server.url("far/a.img"))), sha256_file(&root.join("a.img")));
}

#[test]
fn a_mirror_of_images_is_adopted_though_checksum_files_give_no_sizes() {
    let scratch = Scratch::new();
    let images = test_repos("t0").join("images");
    let config = ServerConfig::default().tree("images", "generic-files", &images, "");
    let server = Server::start(&scratch, &config);
    let mirror = scratch.path("mirror");
    copy_tree(&images, &mirror);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    options.adopt.push(mirror);
    let volunteer = Volunteer::join(&server, options);
    server.wait_until("all three images are held", |status| status.of("v1", "holdings") == 3);
    let location = server.wait_redirect("images/8.1/demo-image.iso");
    assert!(volunteer.serves(&location));
    assert_eq!(sha256_hex(&fetch(&location)), sha256_file(&images.join("8.1/demo-image.iso")));
}

#[test]
fn a_tree_that_was_never_whole_shows_no_release() {
    let scratch = Scratch::new();
    let tree = scratch.path("alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    // A mirror script has brought the new root files, and nothing that they name.
    fs::remove_dir_all(tree.join("dists/stable/contrib")).expect("its lists are the same in both");
    for name in ["InRelease", "Release", "Release.gpg"] {
        let path = format!("dists/stable/{name}");
        fs::copy(test_repos("t1").join("alder").join(&path), tree.join(&path)).expect("a committed file");
    }
    let config = ServerConfig::default().tree("alder", "generic-deb", &tree, "");
    let server = Server::start(&scratch, &config);
    for name in ["InRelease", "Release", "Release.gpg"] {
        let status = get(&server.url(&format!("alder/dists/stable/{name}"))).status;
        assert!(matches!(status, 502 | 503), "{name}: {status}");
    }
    get(&server.url("alder/dists/testing/InRelease")).expect(200);
}

#[test]
fn a_checksum_file_makes_no_package_of_metadata() {
    let scratch = Scratch::new();
    let tree = scratch.path("elder");
    copy_tree(&test_repos("t0").join("elder"), &tree);
    let listed = ["repodata/repomd.xml", "repodata/primary.xml.xz"];
    let lines = listed.map(|path| format!("{}  {path}\n", sha256_file(&tree.join(path))));
    fs::write(tree.join("SHA256SUMS"), lines.concat()).expect("the scratch folder is writable");
    let config = ServerConfig::default().tree("elder", "generic-rpm", &tree, "");
    let server = Server::start(&scratch, &config);
    let answer = get(&server.url("elder/repodata/repomd.xml")).expect(200);
    assert_eq!(answer.must("cache-control"), "no-cache", "served as metadata");
    assert!(server.status().0["snapshots"].as_array().is_some_and(|all| all.len() == 2), "both are units");
}
