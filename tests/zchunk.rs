//! Several ranges in one request: by zchunk's own downloader, by curl, from the server and from a volunteer.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{
    DebRepo, Scratch, Server, ServerConfig, Volunteer, package_files, random_bytes, request, run_ok,
    test_repos, wait_for,
};

/// Makes an rpm-md repository with zchunk metadata; `pick` chooses the package behind each of 120 names.
fn make_repo(root: &Path, pick: impl Fn(usize) -> usize) {
    fs::create_dir_all(root).expect("the scratch folder is writable");
    let packages = package_files(&test_repos("t0").join("cedar/os"));
    for number in 0..120 {
        let package = &packages[pick(number) % packages.len()];
        fs::copy(package, root.join(format!("p{number:03}.rpm"))).expect("the scratch folder is writable");
    }
    run_ok(Command::new("createrepo_c").args(["--quiet", "--zck", "--no-database"]).arg(root));
}

fn primary_zck(root: &Path) -> PathBuf {
    let names = fs::read_dir(root.join("repodata")).expect("createrepo_c makes repodata");
    let mut paths = names.map(|entry| entry.expect("an entry").path());
    let found = paths.find(|path| path.to_string_lossy().ends_with("-primary.xml.zck"));
    found.expect("createrepo_c makes zchunk files")
}

#[test]
fn zchunk_fetches_what_changed_in_few_requests() {
    let scratch = Scratch::new();
    let (old, new) = (scratch.path("old"), scratch.path("new"));
    make_repo(&old, |number| number);
    // Every sixth package is another one: 20 gaps with chunks between them that the client has.
    make_repo(&new, |number| if number % 6 == 0 { number + 1 } else { number });
    let wanted = primary_zck(&new);
    let name = wanted.file_name().and_then(|name| name.to_str()).expect("a name in ASCII").to_owned();
    let size = fs::metadata(&wanted).expect("a file has metadata").len();

    let log = scratch.path("access.log");
    let config = ServerConfig::default()
        .tree("rpm", "generic-rpm", &new, "suites = [\"\"]")
        .server_lines(&format!("access_log = {:?}", log.display().to_string()));
    let server = Server::start(&scratch, &config);
    let client = scratch.dir("client");
    let url = server.url(&format!("rpm/repodata/{name}"));
    run_ok(Command::new("zckdl").arg("-s").arg(primary_zck(&old)).arg(&url).current_dir(&client));
    let got = fs::read(client.join(&name)).expect("zckdl writes the file");
    assert!(got == fs::read(&wanted).expect("the file reads"), "zckdl put another file together");

    // A request of our own marks the end: lines are written in order.
    request("GET", &server.url("rpm/end"), &[]).expect(404);
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("the last line of the access log", support::DEADLINE, || lines().contains("/rpm/end"));
    let text = lines();
    let answers: Vec<(u16, u64)> = text.lines().filter(|line| line.contains(&name)).map(answered).collect();
    let sent: u64 = answers.iter().map(|(_, bytes)| bytes).sum();
    assert!(answers.iter().all(|(status, _)| *status == 206), "{answers:?}");
    assert!(answers.len() < 10, "20 gaps took {} requests: {answers:?}", answers.len());
    assert!(sent < size, "{sent} bytes were sent for a file of {size}");
}

/// Status and bytes of a line of the access log.
fn answered(line: &str) -> (u16, u64) {
    let (_, rest) = line.split_once("HTTP/1.1\" ").expect("a request line");
    let mut words = rest.split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
    (u16::try_from(number()).expect("a status"), number())
}

#[test]
fn curl_gets_the_same_parts_from_server_and_volunteer() {
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("repo"));
    let bytes = random_bytes(1, 400_000);
    let file = repo.add("parts", &bytes);
    repo.publish();
    let config = ServerConfig::default().tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]");
    let server = Server::start(&scratch, &config);
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    let target = server.wait_redirect(&format!("flat/{file}"));
    assert!(volunteers[0].serves(&target));

    let curl = |url: &str| {
        let out = scratch.path("by-curl");
        run_ok(Command::new("curl").args(["-fsSL", "-r", "20-29,0-9,300000-", "-o"]).arg(&out).arg(url));
        fs::read(&out).expect("curl writes the file")
    };
    let direct = curl(&server.direct(&format!("flat/{file}")));
    let tag = request("HEAD", &target, &[]).expect(200).must("etag").replace('"', "");
    let mut want = Vec::new();
    for (range, part) in
        [("20-29", &bytes[20..30]), ("0-9", &bytes[..10]), ("300000-399999", &bytes[300_000..])]
    {
        let head = format!(
            "\r\n--{tag}\r\nContent-Type: application/vnd.debian.binary-package\r\n\
             Content-Range: bytes {range}/400000\r\n\r\n"
        );
        want.extend_from_slice(head.as_bytes());
        want.extend_from_slice(part);
    }
    want.extend_from_slice(format!("\r\n--{tag}--\r\n").as_bytes());
    assert!(direct == want, "the server's parts");
    assert!(curl(&server.url(&format!("flat/{file}"))) == want, "the volunteer's parts, by redirect");
    assert!(curl(&target) == want, "the volunteer's parts");

    let reported = server.wait_reports();
    assert_eq!(reported.of(volunteers[0].id(), "uploads"), 0, "an upload in parts ends");
    let served = reported.of(volunteers[0].id(), "served_bytes");
    assert!(served >= 2 * want.len() as u64, "the volunteer counts what it sent: {served}");
}
