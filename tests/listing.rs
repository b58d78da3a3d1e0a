//! Directories as people and crawlers see them, and the forms of a path that lead to them.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use support::{
    Conn, Scratch, Server, ServerConfig, Upstream, copy_tree, get, head, request, run_ok, test_repos,
};

/// The links of a page with what follows their line: date and size.
fn links(url: &str) -> Vec<(String, String)> {
    let page = get(url).expect(200);
    assert_eq!(page.must("content-type"), "text/html; charset=utf-8", "{url}");
    assert_eq!(page.must("cache-control"), "no-cache", "{url}");
    assert!(page.header("last-modified").is_none(), "a crawler would keep its old page: {url}");
    let link = |line: &str| {
        let (_, rest) = line.split_once("<a href=\"")?;
        let (href, rest) = rest.split_once("\">")?;
        let (_, rest) = rest.split_once("</a>")?;
        Some((href.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    page.text().lines().filter_map(link).collect()
}

fn names(url: &str) -> Vec<String> {
    links(url).into_iter().map(|(href, _)| href).collect()
}

fn serve_tree(scratch: &Scratch, tree: &Path, more: &str) -> Server {
    let more = format!("suites = [\"stable\"]\n{more}");
    Server::start(scratch, &ServerConfig::default().tree("alder", "generic-deb", tree, &more))
}

#[test]
fn a_tree_is_listed_as_it_is_on_disk() {
    let scratch = Scratch::new();
    let tree = scratch.path("alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    fs::create_dir_all(tree.join("doc/.git")).expect("the scratch folder is writable");
    fs::create_dir_all(tree.join("doc/empty")).expect("the scratch folder is writable");
    let odd = ["a&b <c> \"d\".txt", "ä:1.txt", "1%2f2.txt", "+~x", "back\\slash"];
    for name in odd.iter().copied().chain([".hidden", "new\nline"]) {
        fs::write(tree.join("doc").join(name), name).expect("the scratch folder is writable");
    }
    let date = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let plain = File::options().write(true).open(tree.join("doc/+~x")).expect("just written");
    plain.set_modified(date).expect("times can be set");
    let server = serve_tree(&scratch, &tree, "");

    assert_eq!(names(&server.url("alder/")), ["dists/", "doc/", "pool/"]);
    let doc = links(&server.url("alder/doc/"));
    let hrefs: Vec<&str> = doc.iter().map(|(href, _)| href.as_str()).collect();
    let odd_hrefs =
        ["+~x", "1%252f2.txt", "a&amp;b%20%3Cc%3E%20%22d%22.txt", "back%5Cslash", "%C3%A4%3A1.txt"];
    assert_eq!(hrefs, [["../", "empty/"].as_slice(), &odd_hrefs].concat());
    assert_eq!(doc[2].1, "14-Nov-2023 22:13 3");
    for href in odd_hrefs {
        let bytes = get(&server.url(&format!("alder/doc/{}", href.replace("&amp;", "&")))).expect(200).body;
        assert!(odd.contains(&String::from_utf8(bytes).expect("text").as_str()), "{href}");
    }
    // As nginx has it: not listed, and served.
    get(&server.url("alder/doc/.hidden")).expect(200);

    // Sizes and dates are those that clients get.
    let dir = "alder/pool/main/h/hands-common/";
    for (href, line) in links(&server.url(dir)).into_iter().skip(1) {
        let answer = head(&server.url(&format!("{dir}{href}"))).expect(200);
        let date = answer.must("last-modified");
        // "Sun, 06 Nov 1994 08:49:37 GMT"
        let shown = format!("{}-{}-{} {}", &date[5..7], &date[8..11], &date[12..16], &date[17..22]);
        assert_eq!(line, format!("{shown} {}", answer.must("content-length")), "{href}");
    }
}

#[test]
fn a_directory_is_asked_for_with_a_slash() {
    let scratch = Scratch::new();
    let tree = test_repos("t0").join("alder");
    let upstream = Upstream::start(&test_repos("t0"));
    let config = ServerConfig::default()
        .tree("alder", "generic-deb", &tree, "suites = [\"stable\"]")
        .upstream("far", "generic-deb", &upstream.url("alder"), "suites = [\"stable\"]")
        .tree("quiet", "generic-deb", &tree, "suites = [\"stable\"]\nautoindex = false");
    let server = Server::start(&scratch, &config);
    get(&server.url("far/pool/")).expect(200);
    for (path, location) in [
        ("alder", "./alder/"),
        ("far", "./far/"),
        ("alder/pool", "./pool/"),
        ("far/pool", "./pool/"),
        ("far/dists/stable/main", "./main/"),
        ("direct/alder/pool/main", "./main/"),
        ("alder/pool/../dists/stable", "./stable/"),
        ("127.0.0.1/alder", ""),
    ] {
        let answer = get(&server.url(path));
        assert_eq!(answer.header("location").unwrap_or(""), location, "{path}");
        assert_eq!(answer.status, if location.is_empty() { 404 } else { 301 }, "{path}");
    }
    for path in ["alder/", "far/", "alder/pool/", "far/pool/main/", "direct/far/pool/", "alder//dists//"] {
        let answer = head(&server.url(path)).expect(200);
        let length: usize = answer.must("content-length").parse().expect("a number");
        assert_eq!(get(&server.url(path)).body.len(), length, "{path}");
    }
    let file = "pool/main/h/hands-common/hands-common_1.0-1_all.deb";
    for path in
        ["alder/nosuch/", "far/nosuch/", &format!("alder/{file}/"), &format!("far/{file}/"), "far/poo/"]
    {
        assert_eq!(get(&server.url(path)).status, 404, "{path}");
    }
    for path in ["quiet/pool/", "quiet/pool", "quiet/dists/stable/"] {
        assert_eq!(get(&server.url(path)).status, 404, "{path}");
    }
    get(&server.url(&format!("quiet/{file}"))).expect(200);
    assert!(get(&server.url("quiet")).expect(200).text().contains("apt"), "how to use it");
    // The front page leads to every repository.
    let front = get(&server.url("")).expect(200);
    assert_eq!(front.must("content-type"), "text/html; charset=utf-8");
    for name in ["alder", "far", "quiet"] {
        assert!(front.text().contains(&format!("<a href=\"{name}/\">")), "{}", front.text());
    }
}

#[test]
fn paths_are_normalised_within_the_repository() {
    let scratch = Scratch::new();
    let tree = test_repos("t0").join("alder");
    let server = serve_tree(&scratch, &tree, "");
    let file = "pool/main/h/hands-common/hands-common_1.0-1_all.deb";
    let bytes = fs::read(tree.join(file)).expect("a committed package");
    for path in [
        "pool/main/h/../h/hands-common/hands-common_1.0-1_all.deb",
        "dists/../pool/./main//h/hands-common/hands-common_1.0-1_all.deb",
        "x/%2e%2e/pool/main/%2E/h/hands-common/hands-common_1.0-1_all.deb",
        "a/b/../../pool/main/h/hands-common/.%2e/hands-common/hands-common_1.0-1_all.deb",
    ] {
        // The harness sends the path as it is, where curl and wget would mend it first.
        let answer = Conn::open(server.address()).ask("GET", &format!("/alder/{path}"), &[]);
        assert!(answer.expect(200).body == bytes, "{path}");
    }
    for path in ["../alder/", "pool/../../alder/", "%2e%2e/", "..", "pool/%2e%2e/%2e%2e/etc/passwd"] {
        let answer = Conn::open(server.address()).ask("GET", &format!("/alder/{path}"), &[]);
        assert_eq!(answer.status, 404, "{path}");
    }
    assert_eq!(names(&server.url("alder/pool/..")), names(&server.url("alder/")));
}

#[test]
fn links_in_a_tree_are_what_they_point_to() {
    let scratch = Scratch::new();
    let tree = scratch.path("alder");
    copy_tree(&test_repos("t0").join("alder"), &tree);
    fs::create_dir_all(tree.join("doc/more")).expect("the scratch folder is writable");
    fs::write(tree.join("doc/readme"), "read me").expect("the scratch folder is writable");
    fs::write(scratch.path("secret"), "SECRET").expect("the scratch folder is writable");
    let link = |to: &Path, name: &str| symlink(to, tree.join(name)).expect("a link");
    link(Path::new("readme"), "doc/alias");
    link(Path::new("../pool"), "doc/packages");
    link(Path::new("../doc"), "doc/round");
    link(Path::new("../.."), "doc/more/up");
    link(Path::new("nowhere"), "doc/broken");
    link(&scratch.path("secret"), "doc/out");
    link(&scratch.path(""), "doc/outside");
    run_ok(Command::new("mkfifo").arg(tree.join("doc/pipe")));
    let server = serve_tree(&scratch, &tree, "");

    assert_eq!(names(&server.url("alder/doc/")), ["../", "more/", "packages/", "alias", "readme"]);
    assert_eq!(names(&server.url("alder/doc/more/")), ["../"], "a circle");
    assert_eq!(names(&server.url("alder/doc/packages/")), names(&server.url("alder/pool/")));
    assert_eq!(get(&server.url("alder/doc/alias")).expect(200).text(), "read me");
    for path in ["doc/out", "doc/outside/", "doc/outside/secret", "doc/broken"] {
        assert_eq!(get(&server.url(&format!("alder/{path}"))).status, 404, "{path}");
    }
    let through = "doc/packages/main/h/hands-common/hands-common_1.0-1_all.deb";
    assert!(
        get(&server.url(&format!("alder/{through}"))).expect(200).body
            == fs::read(tree.join(through)).expect("a file")
    );
}

#[test]
fn an_upstream_is_listed_by_what_its_metadata_names() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let config = ServerConfig::default()
        .upstream("far", "generic-deb", &upstream.url("alder"), "suites = [\"stable\", \"testing\"]")
        .upstream("rpms", "generic-rpm", &upstream.url("cedar"), "suites = [\"os\", \"updates\"]");
    let server = Server::start(&scratch, &config);
    assert_eq!(names(&server.url("far/")), ["dists/", "pool/"]);
    assert_eq!(names(&server.url("far/dists/")), ["../", "stable/", "testing/"]);
    let suite = names(&server.url("far/dists/stable/"));
    assert!(
        ["main/", "InRelease", "Release"].iter().all(|name| suite.contains(&(*name).to_owned())),
        "{suite:?}"
    );
    let on_disk = |dir: &str| {
        let entries = fs::read_dir(test_repos("t0").join(dir)).expect("a committed folder");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    let dir = "pool/main/h/hands-common";
    assert_eq!(names(&server.url(&format!("far/{dir}/")))[1..], on_disk(&format!("alder/{dir}")));
    assert_eq!(names(&server.url("rpms/os/Packages/"))[1..], on_disk("cedar/os/Packages"));
    assert_eq!(names(&server.url("rpms/os/repodata/"))[1..], on_disk("cedar/os/repodata"));
    assert_eq!(names(&server.url("rpms/os/")), ["../", "Packages/", "repodata/"]);
    // What is listed can be had.
    for dir in ["dists/stable/main/binary-amd64/", "dists/stable/main/source/", "dists/stable/"] {
        for name in names(&server.url(&format!("far/{dir}"))) {
            get(&server.url(&format!("far/{dir}{name}"))).expect(200);
        }
    }
}

#[test]
fn a_directory_of_a_hundred_thousand_files_is_one_page() {
    const FILES: usize = 100_000;
    let scratch = Scratch::new();
    let tree = scratch.dir("files");
    let big = scratch.dir("files/big");
    for number in 0..FILES {
        File::create(big.join(format!("file-{number:06}.txt"))).expect("the scratch folder is writable");
    }
    let server = Server::start(&scratch, &ServerConfig::default().tree("files", "generic-files", &tree, ""));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let url = server.url("files/big/");
            std::thread::spawn(move || get(&url).expect(200).text().matches("<a href=").count())
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().expect("no reader fails"), FILES + 1);
    }
    // What else is asked for goes on meanwhile.
    assert_eq!(request("GET", &server.url("files/"), &[]).status, 200);
}
