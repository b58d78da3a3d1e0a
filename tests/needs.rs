//! A generation is judged by what clients need from it: lists that the origin has wrong and nobody asks for, lists
//! that clients use, units that are broken for good beside units that are well.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::generation::Signer;
use support::{
    BINARY, DEADLINE, Process, Scratch, Server, ServerConfig, Upstream, Zypper, free_port, get, poll,
    run_within, sha256_hex, test_key, try_get, wait_for,
};

const SUITE: &str = "dists/st";
const MAIN: &str = "dists/st/main/binary-amd64/Packages";
const CONTRIB: &str = "dists/st/contrib/binary-amd64/Packages";
const PACKAGE: &str = "pool/a_1_all.deb";
/// Lists that no stock client asks for unless it is told to.
const UNASKED: [&str; 4] = [
    "main/debian-installer/binary-amd64/Packages",
    "main/source/Sources",
    "main/binary-riscv64/Packages",
    "contrib/binary-amd64/Packages",
];

/// A suite whose files are written when it is published.
struct Suite {
    root: PathBuf,
}

impl Suite {
    fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn write(&self, path: &str, bytes: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder"))
            .expect("the scratch folder is writable");
        fs::write(path, bytes).expect("the scratch folder is writable");
    }

    /// A whole generation: every list names one package, which differs with `number`.
    fn publish(&self, number: u32) {
        self.publish_but(number, &[]);
    }

    /// The same, but for lists that stay as they were.
    fn publish_but(&self, number: u32, stale: &[&str]) {
        let package = format!("package {number}");
        let mut lines = String::new();
        for list in UNASKED.into_iter().chain(["main/binary-amd64/Packages"]) {
            let text = list_text(list, number, &package);
            lines.push_str(&format!(" {} {} {list}\n", sha256_hex(text.as_bytes()), text.len()));
            if !stale.contains(&list) {
                self.write(&format!("{SUITE}/{list}"), &text);
            }
        }
        self.write(PACKAGE, &package);
        self.write(&format!("{SUITE}/Release"), &format!("Suite: st\nLabel: {number}\nSHA256:\n{lines}"));
    }
}

fn list_text(list: &str, number: u32, package: &str) -> String {
    if list.ends_with("Sources") {
        return format!("Package: s\nVersion: {number}\nDirectory: src\n\n");
    }
    format!(
        "Package: a\nVersion: {number}\nArchitecture: all\nFilename: {PACKAGE}\nSize: {}\nSHA256: {}\nX-List: {list}\n\n",
        package.len(),
        sha256_hex(package.as_bytes())
    )
}

fn label(server: &Server) -> Option<String> {
    let answer = get(&server.url(&format!("r/{SUITE}/Release")));
    let text = answer.text();
    let label = text.lines().find_map(|line| line.strip_prefix("Label: ")).map(str::to_owned);
    label.filter(|_| answer.status == 200)
}

fn flaws(server: &Server) -> Vec<String> {
    let status = server.status();
    let all = status.0["snapshots"].as_array().cloned().unwrap_or_default();
    let flaws = all.iter().flat_map(|unit| unit["flaws"].as_array().cloned().unwrap_or_default());
    flaws.map(|flaw| flaw["member"].as_str().expect("a name").to_owned()).collect()
}

/// The suite with `more` lines of its repository, from the tree itself or from an upstream.
fn serve(scratch: &Scratch, root: &Path, upstream: Option<&Upstream>, more: &str) -> Server {
    let config = match upstream {
        Some(upstream) => ServerConfig::default().upstream("r", "generic-deb", &upstream.url(""), more),
        None => ServerConfig::default().tree("r", "generic-deb", root, more),
    };
    Server::start(scratch, &config)
}

fn unasked_lists_hold_nothing_back(scratch: &Scratch, by_upstream: bool) {
    let suite = Suite::new(scratch.dir("mirror"));
    suite.publish(1);
    suite.publish_but(2, &UNASKED[1..]);
    fs::remove_file(suite.root.join(SUITE).join(UNASKED[0])).expect("it is there");
    let upstream = by_upstream.then(|| Upstream::start(&suite.root));
    let server = serve(scratch, &suite.root, upstream.as_ref(), "poll_secs = 1");

    assert_eq!(label(&server).as_deref(), Some("2"), "adopted");
    get(&server.url(&format!("r/{MAIN}"))).expect(200);
    assert_eq!(get(&server.url(&format!("r/{PACKAGE}"))).expect(200).text(), "package 2");
    let status_of = |list: &str| get(&server.url(&format!("r/{SUITE}/{list}"))).status;
    assert_eq!(UNASKED.map(status_of), [404, 502, 502, 502]);
    // Updates go on, broken lists or not.
    suite.publish_but(3, &UNASKED[1..]);
    wait_for("the next generation", DEADLINE, || label(&server).as_deref() == Some("3"));
    assert!(flaws(&server).contains(&CONTRIB.to_owned()), "{:?}", flaws(&server));
    let warned =
        server.process.lines().into_iter().filter(|line| line.contains("only requests for these fail"));
    assert!(warned.count() >= 2, "each adoption names a file and the reason");
    // What becomes right is found without anybody asking.
    suite.publish(3);
    wait_for("the lists to be found right", DEADLINE, || flaws(&server).is_empty());
    assert_eq!(UNASKED.map(status_of), [200; 4]);
}

#[test]
fn a_tree_is_served_though_lists_that_nobody_asked_for_are_stale() {
    unasked_lists_hold_nothing_back(&Scratch::new(), false);
}

#[test]
fn an_upstream_is_served_though_lists_that_nobody_asked_for_are_stale() {
    unasked_lists_hold_nothing_back(&Scratch::new(), true);
}

#[test]
fn what_clients_use_holds_a_generation_back_but_not_for_ever() {
    let scratch = Scratch::new();
    let suite = Suite::new(scratch.dir("mirror"));
    suite.publish(1);
    let server = serve(&scratch, &suite.root, None, "poll_secs = 1");
    for list in [MAIN, CONTRIB] {
        get(&server.url(&format!("r/{list}"))).expect(200);
    }
    suite.publish_but(2, &["contrib/binary-amd64/Packages"]);
    let is_held_back = || {
        let lines = server.process.messages("keeping the last good generation");
        lines.iter().any(|line| line["error"].as_str().is_some_and(|error| error.contains(CONTRIB)))
    };
    wait_for("the generation to be held back", DEADLINE, is_held_back);
    assert_eq!(label(&server).as_deref(), Some("1"));
    get(&server.url(&format!("r/{CONTRIB}"))).expect(200);
    // A third one does not begin the wait anew.
    suite.publish_but(3, &["contrib/binary-amd64/Packages"]);
    wait_for("it to be given up", 2 * DEADLINE, || label(&server).as_deref() == Some("3"));
    get(&server.url(&format!("r/{MAIN}"))).expect(200);
    assert_eq!(get(&server.url(&format!("r/{CONTRIB}"))).status, 502);
    let given_up = server
        .process
        .messages("adopting without a file that clients use: the origin has had it wrong for too long");
    assert!(given_up.iter().any(|line| line["member"] == CONTRIB), "{given_up:?}");
    // With every list that clients use wrong, there is nothing to update to.
    suite.publish_but(4, &["main/binary-amd64/Packages", "contrib/binary-amd64/Packages"]);
    wait_for("the next one to be held back", DEADLINE, || flaws(&server).contains(&MAIN.to_owned()));
    assert_eq!(label(&server).as_deref(), Some("3"));
}

#[test]
fn what_the_configuration_names_is_waited_for() {
    let scratch = Scratch::new();
    let suite = Suite::new(scratch.dir("mirror"));
    suite.publish(1);
    let named = "poll_secs = 1\ncomponents = [\"main\", \"contrib\"]";
    let server = serve(&scratch, &suite.root, None, named);
    assert_eq!(label(&server).as_deref(), Some("1"));
    suite.publish_but(2, &["contrib/binary-amd64/Packages", "main/source/Sources"]);
    wait_for("the list to be missed", DEADLINE, || flaws(&server).contains(&CONTRIB.to_owned()));
    assert_eq!(label(&server).as_deref(), Some("1"));
    suite.publish_but(2, &["main/source/Sources"]);
    wait_for("the rest to do", DEADLINE, || label(&server).as_deref() == Some("2"));
}

#[test]
fn lists_may_be_there_by_hash_alone() {
    let scratch = Scratch::new();
    let suite = Suite::new(scratch.dir("mirror"));
    suite.publish(1);
    let list = suite.root.join(MAIN);
    let text = fs::read_to_string(&list).expect("written before");
    fs::remove_file(&list).expect("it is there");
    let by_hash = format!("{SUITE}/main/binary-amd64/by-hash/SHA256/{}", sha256_hex(text.as_bytes()));
    suite.write(&by_hash, &text);
    let release = suite.root.join(SUITE).join("Release");
    let old = fs::read_to_string(&release).expect("written before");
    fs::write(&release, format!("Acquire-By-Hash: yes\n{old}")).expect("the scratch folder is writable");
    let server = serve(&scratch, &suite.root, None, "");
    assert_eq!(label(&server).as_deref(), Some("1"));
    for path in [by_hash.as_str(), MAIN] {
        assert_eq!(get(&server.url(&format!("r/{path}"))).expect(200).text(), text, "{path}");
    }
    let package = get(&server.url(&format!("r/{PACKAGE}"))).expect(200);
    assert!(package.header("repr-digest").is_some(), "the list was read");
}

/// A repomd.xml that names a primary of which there is something else.
fn broken_repository(root: &Path) {
    let folder = root.join("repodata");
    fs::create_dir_all(&folder).expect("the scratch folder is writable");
    let text = format!(
        "<repomd><data type=\"primary\"><checksum type=\"sha256\">{}</checksum>\
         <location href=\"repodata/primary.xml\"/><size>9</size></data></repomd>",
        "a".repeat(64)
    );
    fs::write(folder.join("repomd.xml"), text).expect("the scratch folder is writable");
    fs::write(folder.join("primary.xml"), "<metadata").expect("the scratch folder is writable");
}

fn whole_repository(root: &Path) {
    let folder = root.join("repodata");
    fs::create_dir_all(&folder).expect("the scratch folder is writable");
    let primary = "<metadata packages=\"0\"></metadata>";
    let text = format!(
        "<repomd><data type=\"primary\"><checksum type=\"sha256\">{}</checksum>\
         <location href=\"repodata/primary.xml\"/><size>{}</size></data></repomd>",
        sha256_hex(primary.as_bytes()),
        primary.len()
    );
    fs::write(folder.join("primary.xml"), primary).expect("the scratch folder is writable");
    fs::write(folder.join("repomd.xml"), text).expect("the scratch folder is writable");
}

#[test]
fn broken_repositories_of_a_tree_hold_up_no_other() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    for number in 0..12 {
        broken_repository(&tree.join(format!("broken{number}")));
    }
    whole_repository(&tree.join("zz-whole"));
    let address = format!("127.0.0.1:{}", free_port("127.0.0.1"));
    let config = ServerConfig::default().listen(&[&address]).tree("r", "generic-rpm", &tree, "poll_secs = 1");
    let path = config.write(&scratch);
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(&path).args(["--log", "debug", "--log-format", "json"]);
    let process = Process::spawn("server", &mut command);
    let url = format!("http://{address}/r/zz-whole/repodata/repomd.xml");
    let answer = poll(DEADLINE, || try_get(&url).ok()).expect("the port is open");
    assert_eq!(answer.status, 200);
    assert!(process.messages("ready").is_empty(), "the broken ones were read first");
    // Mended, they are found without anybody asking.
    let server = Server::of_process(process, &path);
    whole_repository(&tree.join("broken7"));
    wait_for("a mended one", DEADLINE, || {
        let all = server.status().0["snapshots"].as_array().cloned().unwrap_or_default();
        all.iter().any(|unit| unit["unit"] == "broken7" && unit["generation"] == 1)
    });
}

#[test]
fn waiting_is_promised_only_where_it_helps() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    broken_repository(&tree.join("stale"));
    whole_repository(&tree.join("garbage"));
    fs::write(tree.join("garbage/repodata/repomd.xml"), "<html>").expect("the scratch folder is writable");
    let server = Server::start(&scratch, &ServerConfig::default().tree("r", "generic-rpm", &tree, ""));
    // It may be an update under way.
    let stale = server.url("r/stale/repodata/repomd.xml");
    assert!(get(&stale).expect(503).header("retry-after").is_some());
    // This is not.
    get(&server.url("r/garbage/repodata/repomd.xml")).expect(404);
    // zypper repeats for as long as the answer is 502 or 503.
    let zypper = Zypper::new(&scratch.dir("zypper"), &[("r", server.url("r/stale"))]);
    let mut command = zypper.command();
    let (ended, out, err) =
        run_within(command.args(["--no-gpg-checks", "search", "-s"]), Duration::from_secs(150));
    assert!(ended.is_some(), "it goes on and on\n{out}\n{err}");
    wait_for("waiting to be of no use", DEADLINE, || get(&stale).status == 404);
}

#[test]
fn nobody_waits_for_a_signature_that_is_refused() {
    let scratch = Scratch::new();
    let suite = Suite::new(scratch.dir("mirror"));
    suite.publish(1);
    let release = suite.root.join(SUITE).join("Release");
    let text = fs::read(&release).expect("just written");
    let signed = Signer::stranger(&scratch).clearsign(&text);
    fs::write(suite.root.join(SUITE).join("InRelease"), signed).expect("the scratch folder is writable");
    fs::remove_file(release).expect("just written");
    let upstream = Upstream::start(&suite.root);
    let url = upstream.url("");
    let more = format!("suites = [\"other\"]\nkeyring = {:?}", test_key().display().to_string());
    let config = ServerConfig::default().upstream("r", "generic-deb", url.trim_end_matches('/'), &more);
    let server = Server::start(&scratch, &config);
    let url = server.url(&format!("r/{SUITE}/InRelease"));
    // A crowd, from the first look until after the next.
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                while begin.elapsed() < Duration::from_secs(4) {
                    assert_eq!(get(&url).status, 502);
                }
            });
        }
    });
}
