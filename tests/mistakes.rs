//! Mistakes of the people who set it up, and what they are told: exit codes, `check`, and a log that nobody reads.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{
    BINARY, DEADLINE, Process, Scratch, Server, ServerConfig, SmallDisk, Upstream, Volunteer,
    VolunteerOptions, poll, request, run, run_ok, test_repos, try_get, with_mounts,
};

/// sysexits.h: EX_CONFIG. The unit files name it, so that nothing is started again in vain.
const EX_CONFIG: Option<i32> = Some(78);

fn manyhands(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    command
}

fn alder(more: &str) -> ServerConfig {
    ServerConfig::default().tree("alder", "generic-deb", &test_repos("t0").join("alder"), more)
}

fn check(path: &Path) -> (Option<i32>, String) {
    let (status, out, err) = run(manyhands(&["check", "--config"]).arg(path), DEADLINE);
    assert_eq!(out.contains("is valid"), status.success(), "{out}{err}");
    (status.code(), out + &err)
}

#[test]
fn a_wrong_configuration_has_an_exit_code_of_its_own() {
    let scratch = Scratch::new();
    let path = alder("poll_secs = 0").write(&scratch);
    for command in ["check", "serve"] {
        let (status, _, err) = run(manyhands(&[command, "--config"]).arg(&path), DEADLINE);
        assert_eq!(status.code(), EX_CONFIG, "{command}: {err}");
        assert!(err.contains("poll_secs") && err.contains("at least 1 second"), "{err}");
    }
    let missing = scratch.path("missing.toml");
    for command in ["serve", "volunteer", "check"] {
        let (status, _, err) = run(manyhands(&[command, "--config"]).arg(&missing), DEADLINE);
        assert_eq!(status.code(), EX_CONFIG, "{command}: {err}");
    }
    let store = scratch.dir("store");
    let mut volunteer =
        manyhands(&["volunteer", "--server", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"]);
    let (status, _, err) = run(volunteer.arg("--store").arg(store), DEADLINE);
    assert_eq!(status.code(), EX_CONFIG, "{err}");
    assert!(err.contains("manyhands token issue"), "{err}");
    for unit in ["manyhands-serve.service", "manyhands-volunteer.service"] {
        let unit = fs::read_to_string(Path::new("systemd").join(unit)).expect("a unit");
        assert!(unit.contains("RestartPreventExitStatus=78"), "{unit}");
    }
}

#[test]
fn check_looks_into_trees() {
    let scratch = Scratch::new();
    let with = |more: &str| check(&alder(more).write(&scratch));
    for more in ["suites = [\"stable\"]", "suites = [\"stable\"]\narchitectures = [\"amd64\"]", ""] {
        let (code, said) = with(more);
        assert_eq!(code, Some(0), "{more}: {said}");
    }
    let (code, said) = with("suites = [\"stable\", \"nosuch\"]");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning   the tree does not have nosuch"), "{said}");
    for (more, word) in [
        (
            "suites = [\"nosuch\"]",
            "has none of the suites nosuch: is it the folder with dists/nosuch/InRelease?",
        ),
        ("suites = [\"stable\"]\ncomponents = [\"nosuch\"]", "none of the components nosuch: it has main"),
        ("suites = [\"./\"]", "none of the suites ./"),
    ] {
        let (code, said) = with(more);
        assert_eq!(code, EX_CONFIG, "{more}: {said}");
        assert!(said.contains(word), "{more}: {said}");
    }
    let gone = ServerConfig::default().tree("x", "generic-rpm", &scratch.path("gone"), "suites = [\"os\"]");
    let (code, said) = check(&gone.write(&scratch));
    assert_eq!(code, EX_CONFIG, "{said}");
    assert!(said.contains("gone is not a folder"), "{said}");
}

#[test]
fn check_knows_a_volunteers_file() {
    let scratch = Scratch::new();
    let (path, token) = (scratch.path("volunteer.toml"), scratch.path("token"));
    fs::write(&token, "mh-1.x\n").expect("the scratch folder is writable");
    let (store, adopted) = (scratch.path("store"), scratch.dir("mirror"));
    let good = format!(
        "server = \"http://mirror.example:8080\"\nstore = {store:?}\ndonate = \"400Mbit/s\"\n\
         adopt = [{adopted:?}]\ntoken_file = {token:?}\n"
    );
    let with = |text: &str| {
        fs::write(&path, text).expect("the scratch folder is writable");
        check(&path)
    };
    let (code, said) = with(&good);
    assert_eq!(code, Some(0), "{said}");
    for shown in ["http://mirror.example:8080", "0.0.0.0:8090", "token      is there"] {
        assert!(said.contains(shown), "no {shown:?} in {said}");
    }
    assert_eq!(run_ok(manyhands(&["check", "--quiet", "--config"]).arg(&path)), "");
    let no_token = good.replace("token_file", "#");
    for (wrong, word) in [
        (good.replace("donate", "donat"), "unknown field `donat`"),
        (good.replace("400Mbit/s", "1kbit/s"), "too little"),
        (good.replace("http://mirror", "mirror"), "http://"),
        (good.replace("/mirror\"]", "/nosuch\"]"), "nosuch is not a folder"),
        (no_token, "manyhands token issue"),
    ] {
        let (code, said) = with(&wrong);
        assert_eq!(code, EX_CONFIG, "{wrong}: {said}");
        assert!(said.contains(word), "{wrong}: {said}");
    }
}

#[test]
fn what_root_does_with_tokens_leaves_the_folder_to_its_owner() {
    let scratch = Scratch::new();
    let config = alder("").write(&scratch);
    let state = scratch.dir("server-state");
    // The tests of a machine run as root; any user's own files are its own.
    let is_root = fs::metadata(&state).expect("a folder").uid() == 0;
    let owner = if is_root { 12_345 } else { fs::metadata(&state).expect("a folder").uid() };
    chown(&state, Some(owner), None).expect("a folder's owner can be set");
    let token = |words: &[&str]| run_ok(manyhands(words).arg("--config").arg(&config));
    let text = token(&["token", "issue"]);
    let id = text.trim().trim_start_matches("mh-").split('.').next().expect("an id").to_owned();
    token(&["token", "revoke", &id]);
    let names: Vec<PathBuf> =
        fs::read_dir(&state).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert!(names.iter().any(|path| path.ends_with("tokens.lock")), "{names:?}");
    for path in names.iter().chain([&state]) {
        assert_eq!(fs::metadata(path).expect("a file").uid(), owner, "{}", path.display());
    }
    // Nor does a link there lead root elsewhere.
    let elsewhere = scratch.path("elsewhere");
    fs::write(&elsewhere, "precious").expect("the scratch folder is writable");
    let uid = fs::metadata(&elsewhere).expect("a file").uid();
    let lock = state.join("tokens.lock");
    fs::remove_file(&lock).expect("the lock is there");
    std::os::unix::fs::symlink(&elsewhere, &lock).expect("the scratch folder is writable");
    let (status, _, err) = run(manyhands(&["token", "issue", "--config"]).arg(&config), DEADLINE);
    assert!(!status.success() && err.contains("token"), "{err}");
    assert_eq!(fs::read_to_string(&elsewhere).expect("a file"), "precious");
    assert_eq!(fs::metadata(&elsewhere).expect("a file").uid(), uid);
}

#[test]
fn status_says_what_it_was_given() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &alder("suites = [\"stable\"]"));
    let status = |admin: &str| run(&mut manyhands(&["status", "--admin", admin]), DEADLINE);
    let (ended, out, err) = status(&server.admin);
    assert!(ended.success() && out.contains("alder"), "HOST:PORT will do: {out}{err}");
    let (ended, _, err) = status(&server.base());
    assert!(!ended.success() && err.contains("is this the admin address?"), "{err}");
    assert!(err.contains("404"), "{err}");
}

/// `manyhands serve 2>&1 | head -3`.
#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let scratch = Scratch::new();
    let config = alder("suites = [\"stable\"]").write(&scratch);
    for signal in ["TERM", "INT"] {
        let mut command = manyhands(&["serve", "--log", "debug", "--log-format", "json", "--config"]);
        let mut child = command.arg(&config).stderr(Stdio::piped()).spawn().expect("the server starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let ready = log.find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line.ok()?).ok()?;
            let fields = &line["fields"];
            (fields["message"] == "ready").then(|| fields["listen"].as_str().expect("an address").to_owned())
        });
        let address = ready.expect("the server says where it listens");
        drop(log);
        for path in
            ["alder/dists/stable/InRelease", "alder/nosuch", "nosuch/x", "alder/dists/nosuch/InRelease"]
        {
            let answer = request("GET", &format!("http://{address}/{path}"), &[]);
            assert!(matches!(answer.status, 200 | 404), "{path}: {}", answer.status);
        }
        let status = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
        let ended = poll(DEADLINE, || child.try_wait().expect("a child can be waited for"));
        if ended.is_none() {
            child.kill().expect("a child can be killed");
        }
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "after SIG{signal}");
    }
}

#[test]
fn a_volunteer_whose_log_is_closed_goes_on() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &alder("suites = [\"stable\"]"));
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    let store = scratch.dir("deaf-store");
    fs::write(store.join("token"), server.issue_token()).expect("the scratch folder is writable");
    let mut command = manyhands(&["volunteer", "--id", "deaf", "--listen", "127.0.0.1:0", "--server"]);
    command.arg(server.base()).arg("--store").arg(&store).args(["--log", "trace"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the volunteer starts");
    drop(child.stderr.take());
    server.wait_until("it has joined", |status| status.state("deaf") == "up");
    let status = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
    assert!(status.expect("kill runs").success());
    let ended = poll(DEADLINE, || child.try_wait().expect("a child can be waited for"));
    if ended.is_none() {
        child.kill().expect("a child can be killed");
    }
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    drop(volunteers);
}

/// As a minimal system has none.
#[test]
fn a_server_needs_no_certificate_authorities_of_its_own() {
    let scratch = Scratch::new();
    let config = alder("suites = [\"stable\"]").upstream("far", "generic-deb", "https://127.0.0.1:1", "");
    let file = config.write(&scratch);
    let mut command = manyhands(&["serve", "--log-format", "json", "--config"]);
    command.arg(&file).env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", scratch.dir("none"));
    let server = Server::start_command(&mut command, &file);
    request("GET", &server.url("alder/dists/stable/InRelease"), &[]).expect(200);
}

/// The last reason of a volunteer for which there is no session.
fn wait_refusal(volunteer: &mut Process, word: &str) {
    volunteer.wait_line(&format!("{word:?}"), |line| {
        (line.contains("no session with the server") && line.contains(word)).then_some(())
    });
}

#[test]
fn an_address_of_something_else_is_named() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &alder("suites = [\"stable\"]"));
    let options = VolunteerOptions::new(&scratch, &server, 1);
    let mirror = Upstream::start(&test_repos("t0"));
    for (wrong, word) in [
        (mirror.url(""), "is this the URL of a manyhands server?"),
        (format!("https://{}", server.address()), "write http:// instead of https://"),
        (format!("http://{}", server.admin), "this is the address of the server's status (its `admin`)"),
    ] {
        let options = VolunteerOptions { server: wrong, ..options.clone() };
        wait_refusal(&mut Process::spawn("v1", &mut options.command()), word);
    }
    let file = test_repos("t0").join("alder/dists/stable/InRelease");
    let sealed = format!("https://{}", server.address());
    let file = file.display().to_string();
    for arguments in [["verify", "--server", &sealed, &file].as_slice(), &["status", "--admin", &sealed]] {
        let (status, _, err) = run(&mut manyhands(arguments), DEADLINE);
        assert!(!status.success() && err.contains("write http:// instead of https://"), "{err}");
    }
    // An upstream too.
    let upstream = Upstream::start(&test_repos("t0"));
    let url = upstream.url("alder").replacen("http:", "https:", 1);
    let config = ServerConfig::default().upstream("far", "generic-deb", &url, "suites = [\"stable\"]");
    let scratch = Scratch::new();
    let mut server = Server::start(&scratch, &config);
    let _ = try_get(&server.url("far/dists/stable/InRelease"));
    let told = server.process.wait_message("not adopted, and there is no earlier generation");
    assert!(
        told["error"].as_str().is_some_and(|e| e.contains("write http:// instead of https://")),
        "{told}"
    );
}

#[test]
fn rates_and_sizes_say_their_unit() {
    let scratch = Scratch::new();
    let path = scratch.path("volunteer.toml");
    let with = |line: &str| {
        let text = format!("server = \"http://m:8080\"\nstore = \"/s\"\ntoken = \"mh-1.x\"\n{line}\n");
        fs::write(&path, text).expect("the scratch folder is writable");
        check(&path)
    };
    for wrong in ["50Mb/s", "50Mbps", "50M", "50 MiBit/s", "fast"] {
        let (code, said) = with(&format!("donate = {wrong:?}"));
        assert_eq!(code, EX_CONFIG, "{wrong}: {said}");
        for unit in ["in bytes", "50MiB/s (1024)", "50MB/s (1000)", "in bits", "400Mbit/s"] {
            assert!(said.contains(unit), "{wrong}: no {unit:?} in {said}");
        }
    }
    let (_, said) = with("max_size = \"50Gbit\"");
    assert!(said.contains("200GiB (1024) or 200GB (1000)"), "{said}");
    for (donate, shown) in [
        ("8Mbit/s", "donate     976.6 KiB/s (8 Mbit/s)"),
        ("1MB/s", "donate     976.6 KiB/s (8 Mbit/s)"),
        ("1MiB/s", "donate     1 MiB/s (8.4 Mbit/s)"),
        ("1000000", "donate     976.6 KiB/s (8 Mbit/s)"),
    ] {
        let (code, said) = with(&format!("donate = {donate:?}"));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(shown), "{donate}: {said}");
    }
    // The flag and the file read the same.
    let help = run_ok(&mut manyhands(&["volunteer", "--help"]));
    for unit in ["in bytes", "in bits"] {
        assert!(help.contains(unit), "{help}");
    }
}

#[test]
fn too_large_a_min_free_is_not_laid_to_max_size() {
    with_mounts("too_large_a_min_free_is_not_laid_to_max_size", || {
        let scratch = Scratch::new();
        let _disk = SmallDisk::mount(&scratch.path("server-state/cache"), "8m");
        for (min_free, message) in [
            ("1GiB", "min_free exceeds the file system: nothing is kept. Lower min_free"),
            ("7MiB", "max_size exceeds what the file system holds besides min_free"),
        ] {
            let config = alder("suites = [\"stable\"]").cache(&format!("min_free = {min_free:?}"));
            let server = Server::start(&scratch, &config);
            let told = server.process.messages(message);
            assert_eq!(told.len(), 1, "{message}: {:?}", server.process.lines());
            assert_eq!(told[0]["file_system"], "8 MiB");
            assert!(min_free != "1GiB" || told[0]["free"] == "8 MiB", "{told:?}");
            assert!(min_free != "1GiB" || told[0].get("max_size").is_none(), "{told:?}");
        }
    });
}

#[test]
fn what_systemd_hides_is_told_with_the_remedy() {
    let scratch = Scratch::new();
    let (path, token) = (scratch.path("volunteer.toml"), scratch.path("token"));
    fs::write(&token, "mh-1.x\n").expect("the scratch folder is writable");
    let said = |text: String, command: &str, is_service: bool| {
        fs::write(&path, text).expect("the scratch folder is writable");
        let mut command = manyhands(&[command, "--config"]);
        command.arg(&path).env_remove("INVOCATION_ID");
        if is_service {
            command.env("INVOCATION_ID", "0123456789abcdef0123456789abcdef");
        }
        let (status, _, err) = run(&mut command, DEADLINE);
        assert!(!status.success(), "{err}");
        err
    };
    let base = format!("server = \"http://127.0.0.1:1\"\nlisten = \"127.0.0.1:0\"\ntoken_file = {token:?}\n");
    let (store, home) = (scratch.path("store"), "/home/manyhands-nobody/mirror");
    let adopts = format!("{base}store = {store:?}\nadopt = [{home:?}]\n");
    assert!(said(adopts.clone(), "check", true).contains("ProtectHome=read-only"));
    assert!(!said(adopts, "check", false).contains("ProtectHome"));
    let keyless =
        format!("server = \"http://127.0.0.1:1\"\nstore = {store:?}\ntoken_file = \"{home}/token\"\n");
    assert!(said(keyless, "volunteer", true).contains("ProtectHome=read-only"));
    let tree = format!("[[repo]]\nname = \"x\"\ndistro = \"generic-deb\"\ntree = {home:?}\n");
    let state = scratch.dir("server-state");
    let serve = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nstate_dir = {state:?}\n{tree}"
    );
    for command in ["check", "serve"] {
        assert!(said(serve.clone(), command, true).contains("ProtectHome=read-only"), "{command}");
    }
    with_mounts("what_systemd_hides_is_told_with_the_remedy", || {
        let folder = scratch.path("elsewhere");
        let disk = SmallDisk::mount(&folder, "1m");
        disk.set_read_only(true);
        let stores = format!("{base}store = {:?}\n", folder.join("store"));
        let wants = format!("ReadWritePaths={}", folder.join("store").display());
        let err = said(stores.clone(), "volunteer", true);
        assert!(err.contains(&wants) && err.contains("ProtectSystem"), "{err}");
        assert!(!said(stores, "volunteer", false).contains("ProtectSystem"));
    });
}
