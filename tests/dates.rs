//! `Last-Modified` of one path grows with every change, is the same at the server and at volunteers, and
//! outlives restarts: what apt, wget and curl go by.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::generation::{self, Generation, Piece, Signer};
use support::{
    Apt, DEADLINE, DebRepo, Response, Scratch, Server, ServerConfig, Upstream, Volunteer, fetch_following,
    get, random_bytes, request, run_ok, sha256_file, sha256_hex, split_url, test_key, wait_for,
};

const SIZE: usize = 300_000;

fn last_modified(answer: &Response) -> u64 {
    let date = httpdate::parse_http_date(answer.must("last-modified")).expect("a date");
    date.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A flat repository with one package that is rebuilt under its name, and who serves it.
struct World {
    scratch: Scratch,
    repo: DebRepo,
    server: Server,
    volunteers: Vec<Volunteer>,
    builds: u64,
}

const PATH: &str = "flat/p_1_all.deb";

impl World {
    fn new(volunteers: u8) -> Self {
        let scratch = Scratch::new();
        let repo = DebRepo::new(&scratch.path("repo"));
        let config = ServerConfig::default()
            .tree("flat", "generic-deb", &repo.root, "suites = [\"./\"]")
            .tree("same", "generic-deb", &scratch.dir("same"), "suites = [\"./\"]");
        let mut world = Self::of(scratch, repo, &config);
        world.volunteers = Volunteer::join_all(&world.scratch, &world.server, volunteers);
        world
    }

    fn of(scratch: Scratch, mut repo: DebRepo, config: &ServerConfig) -> Self {
        repo.add("p", &random_bytes(1, SIZE));
        repo.publish();
        let server = Server::start(&scratch, config);
        wait_for("the repository", DEADLINE, || get(&server.direct(PATH)).status == 200);
        Self { scratch, repo, server, volunteers: Vec::new(), builds: 1 }
    }

    /// Other bytes of the same size and a Release of the same Date; returns them when they are served.
    fn rebuild(&mut self) -> Vec<u8> {
        self.builds += 1;
        let bytes = random_bytes(self.builds, SIZE);
        self.repo.add("p", &bytes);
        self.repo.publish();
        self.wait_adopted();
        bytes
    }

    /// Waits until the server shows what was published last.
    fn wait_adopted(&self) {
        let release = fs::read(self.repo.root.join("Release")).expect("published");
        wait_for("the generation", DEADLINE, || get(&self.server.url("flat/Release")).body == release);
    }

    /// The URL at a volunteer that holds these bytes.
    fn at_volunteer(&self, bytes: &[u8]) -> String {
        let url = self.server.wait_redirect(PATH);
        assert!(url.contains(&sha256_hex(bytes)), "{url}");
        url
    }

    fn restart(&mut self) {
        self.server.process.terminate();
        self.server = Server::start_file(&self.server.config);
        wait_for("the package after a restart", DEADLINE, || get(&self.server.direct(PATH)).status == 200);
    }
}

#[test]
fn dates_grow_with_every_change_and_outlive_restarts() {
    let mut world = World::new(0);
    let paths = ["flat/Release", "flat/Packages", PATH];
    let dates = |server: &Server| paths.map(|path| last_modified(&get(&server.direct(path)).expect(200)));
    let mut before = dates(&world.server);
    for _ in 0..3 {
        world.rebuild();
        let after = dates(&world.server);
        for ((path, before), after) in paths.iter().zip(before).zip(after) {
            assert!(after > before, "{path}: {before}, then {after}");
        }
        before = after;
    }
    // A file that is added changes the metadata alone.
    world.repo.add("q", b"another");
    world.repo.publish();
    world.wait_adopted();
    let after = dates(&world.server);
    assert!(after[0] > before[0] && after[1] > before[1]);
    assert_eq!(after[2], before[2]);
    assert!(
        last_modified(&get(&world.server.direct("flat/q_1_all.deb"))) < before[0],
        "it was never another"
    );

    world.restart();
    assert_eq!(dates(&world.server), after);
    world.server.process.terminate();
    fs::remove_dir_all(world.scratch.path("server-state/index")).expect("the server keeps indexes");
    world.server = Server::start_file(&world.server.config);
    wait_for("the package without an index", DEADLINE, || get(&world.server.direct(PATH)).status == 200);
    assert_eq!(dates(&world.server), after);
}

#[test]
fn a_package_that_went_and_came_back_with_other_bytes_is_newer() {
    let mut world = World::new(0);
    let old = last_modified(&get(&world.server.direct(PATH)));
    let mut without = DebRepo::new(&world.repo.root);
    without.add("q", b"another");
    without.publish();
    world.wait_adopted();
    world.rebuild();
    assert!(last_modified(&get(&world.server.direct(PATH))) > old);
}

/// Runs wget or curl in a folder and returns the bytes of the file there.
fn run_in(folder: &Path, program: &str, arguments: &[&str], url: &str) -> Vec<u8> {
    run_ok(Command::new(program).args(arguments).arg(url).current_dir(folder));
    fs::read(folder.join("p_1_all.deb")).expect("it is there")
}

#[test]
fn wget_and_curl_get_what_was_rebuilt() {
    let mut world = World::new(1);
    world.server.wait_redirect(PATH);
    let (by_wget, by_curl) = (world.scratch.dir("wget"), world.scratch.dir("curl"));
    let url = world.server.url(PATH);
    let wget = ["-q", "-N"];
    let curl = ["-fsSL", "-R", "-o", "p_1_all.deb"];
    let newer = ["-fsSL", "-R", "-z", "p_1_all.deb", "-o", "p_1_all.deb"];
    let first = run_in(&by_wget, "wget", &wget, &url);
    assert!(first == run_in(&by_curl, "curl", &curl, &url));
    // What a program writes by itself has the time of the download.
    fs::write(world.scratch.path("plain"), &first).expect("the scratch folder is writable");

    for _ in 0..2 {
        let bytes = world.rebuild();
        assert!(run_in(&by_wget, "wget", &wget, &url) == bytes, "wget -N");
        assert!(run_in(&by_curl, "curl", &newer, &url) == bytes, "curl -z");
        world.at_volunteer(&bytes);
    }
    // Nothing new: not even a redirect.
    let redirects = || world.server.status().0["traffic"]["redirects"].clone();
    let before = redirects();
    run_in(&by_wget, "wget", &wget, &url);
    run_in(&by_curl, "curl", &newer, &url);
    assert_eq!(redirects(), before);
    let modified = fs::metadata(by_wget.join("p_1_all.deb")).and_then(|meta| meta.modified());
    let served = get(&world.server.direct(PATH));
    assert_eq!(httpdate::fmt_http_date(modified.expect("a time")), served.must("last-modified"));
}

#[test]
fn downloads_of_a_rebuilt_package_resume_anywhere() {
    let mut world = World::new(1);
    let old = get(&world.server.direct(PATH)).expect(200).must("last-modified").to_owned();
    world.server.wait_redirect(PATH);
    let bytes = world.rebuild();
    let url = world.at_volunteer(&bytes);
    let (sha256, direct) = (sha256_hex(&bytes), world.server.direct(PATH));
    let served = get(&direct).expect(200);
    let own = last_modified(&served);
    let place = format!("{sha256}-{own}/p_1_all.deb");
    assert!(url.ends_with(&format!("/{place}")), "{url}");

    let check = |url: &str| {
        let resume = |date: &str| {
            let headers = [("Range", "bytes=1000-"), ("If-Range", date)];
            fetch_following(url, &headers).0
        };
        let rest = resume(served.must("last-modified")).expect(206);
        assert!(rest.body == bytes[1000..], "{url}");
        for name in ["last-modified", "etag"] {
            assert_eq!(rest.must(name), served.must(name), "{url}");
        }
        // The half of the former bytes does not fit to these.
        assert!(resume(&old).expect(200).body == bytes, "{url}");
        for program in [&["wget", "-q", "-c", "-O"][..], &["curl", "-fsSL", "-C-", "-o"]] {
            let half = world.scratch.path("half");
            fs::write(&half, &bytes[..SIZE / 2]).expect("the scratch folder is writable");
            run_ok(Command::new(program[0]).args(&program[1..]).arg(&half).arg(url));
            assert_eq!(sha256_file(&half), sha256, "{program:?} {url}");
        }
        fs::write(world.scratch.path("aria.deb"), &bytes[..SIZE / 2])
            .expect("the scratch folder is writable");
        let mut aria2c = Command::new("aria2c");
        aria2c.args(["-q", "-c", "--no-conf", "-o", "aria.deb", "-d"]);
        run_ok(aria2c.arg(world.scratch.path("")).arg(url));
        assert_eq!(sha256_file(&world.scratch.path("aria.deb")), sha256, "aria2c {url}");
    };
    check(&direct);
    check(&url);
    check(&world.server.url(PATH));
    // A date that nobody signed.
    let (address, target) = split_url(&url);
    let forged = target.replace(&format!("-{own}/"), &format!("-{}/", own + 1));
    assert_eq!(get(&format!("http://{address}{forged}")).status, 403);
    let forged = target.replace(&format!("-{own}/"), "/");
    assert_eq!(get(&format!("http://{address}{forged}")).status, 403);

    // Back at the server the date is the same, also where another repository has the bytes without one.
    let mut same = DebRepo::new(&world.scratch.path("same"));
    same.add("p", &bytes);
    same.publish();
    wait_for("the other repository", DEADLINE, || {
        get(&world.server.direct("same/p_1_all.deb")).status == 200
    });
    assert!(last_modified(&get(&world.server.direct("same/p_1_all.deb"))) < own);
    fs::remove_file(world.volunteers[0].options.blob_path(&sha256)).expect("the volunteer holds it");
    assert_eq!(get(&url).expect(302).must("location"), world.server.direct(&format!("_blob/{place}")));
    check(&url);
    assert_eq!(request("GET", &world.server.url("_blob/zz-1/x.deb"), &[]).status, 404);
}

/// An apt repository that a mirror publishes, at an upstream.
struct Mirror {
    root: PathBuf,
    signer: Signer,
}

impl Mirror {
    fn publish(&self, of: &Generation) {
        for Piece { path, bytes, .. } in &of.pieces {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder"))
                .and_then(|()| fs::write(path, bytes))
                .expect("the scratch folder is writable");
        }
    }

    /// The same generation, its Release signed again with another line and the old Date.
    fn signed_anew(&self, mut of: Generation, line: &str) -> Generation {
        let release = of.pieces.iter().find(|piece| piece.path.ends_with("/Release")).expect("a Release");
        let text = String::from_utf8_lossy(&release.bytes).replacen("Label: Tests", line, 1).into_bytes();
        for piece in &mut of.pieces {
            match piece.path.rsplit('/').next() {
                Some("InRelease") => piece.bytes = self.signer.clearsign(&text),
                Some("Release.gpg") => piece.bytes = self.signer.detached(&text),
                Some("Release") => piece.bytes.clone_from(&text),
                _ => {}
            }
        }
        of
    }
}

#[test]
fn apt_gets_a_release_that_was_signed_anew_with_its_old_date() {
    let scratch = Scratch::new();
    let mirror = Mirror { root: scratch.dir("mirror"), signer: Signer::new(&scratch) };
    let upstream = Upstream::start(&mirror.root);
    let first = generation::make(&mirror.signer, 1, true);
    mirror.publish(&first);
    let config = ServerConfig::default().upstream(
        "apt",
        "generic-deb",
        &upstream.url("apt"),
        "suites = [\"stable\"]\npoll_secs = 1",
    );
    let server = Server::start(&scratch, &config);
    let url = server.url("apt/dists/stable/InRelease");
    wait_for("the first", DEADLINE, || get(&url).status == 200);
    let source = format!("deb [signed-by={}] {} stable main", test_key().display(), server.url("apt"));
    let apt = Apt::new(&scratch.path("apt"), &[source]);
    apt.update();
    assert!(apt.update().contains("Hit:1"), "nothing is new");

    for line in ["Label: Again", "Label: And again"] {
        let before = get(&url).expect(200);
        mirror.publish(&mirror.signed_anew(first.clone(), line));
        wait_for(line, DEADLINE, || get(&url).text().contains(line));
        let after = get(&url).expect(200);
        let (date, etag) = (before.must("last-modified"), before.must("etag"));
        assert_eq!(request("GET", &url, &[("If-Modified-Since", date)]).status, 200, "{line}");
        assert_eq!(request("GET", &url, &[("If-None-Match", etag)]).status, 200, "{line}");
        assert_eq!(request("GET", &url, &[("If-Unmodified-Since", date)]).status, 412, "{line}");
        assert!(last_modified(&after) > last_modified(&before), "{line}");
        // apt asks whoever changes the label, and goes on if told so.
        apt.get(&["update", "--allow-releaseinfo-change"]);
        let lists =
            fs::read_dir(scratch.path("apt/lists")).expect("apt's").map(|e| e.expect("an entry").path());
        let release = lists.filter(|path| path.to_string_lossy().ends_with("_InRelease"));
        let texts: Vec<String> = release.map(|path| fs::read_to_string(path).expect("text")).collect();
        assert!(texts.iter().any(|text| text.contains(line)), "{line}: {texts:?}");
        assert!(apt.update().contains("Hit:1"), "nothing is new");
    }
}
