//! The commands an operator types: what they print, and the exit codes scripts rely on.

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use support::{
    BINARY, Scratch, Server, ServerConfig, Status, Volunteer, fetch, run, run_ok, test_key, test_repos,
};

const LIMIT: Duration = support::DEADLINE;

fn config() -> ServerConfig {
    let tree = test_repos("t0");
    ServerConfig::default()
        .tree("alder", "generic-deb", &tree.join("alder"), "suites = [\"stable\"]")
        .tree("birch", "generic-deb", &tree.join("birch"), "suites = [\"focus\"]")
        .tree("elder", "generic-rpm", &tree.join("elder"), "suites = [\"\"]")
}

fn manyhands(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments);
    command
}

#[test]
fn help_names_the_commands_and_version_the_version() {
    let help = run_ok(&mut manyhands(&["--help"]));
    for command in ["serve", "volunteer", "verify", "token", "status", "check", "simulate", "demo"] {
        assert!(help.contains(command), "{help}");
    }
    for later in ["sync", "analyze"] {
        let shown = help.lines().any(|line| line.trim_start().starts_with(later));
        assert!(!shown, "{later} does not exist yet\n{help}");
    }
    let version = run_ok(&mut manyhands(&["--version"]));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let (status, _, err) = run(&mut manyhands(&["nonsense"]), LIMIT);
    assert!(!status.success() && !err.is_empty());
}

#[test]
fn check_says_what_would_be_served_or_what_is_wrong() {
    let scratch = Scratch::new();
    let path = config().write(&scratch);
    let out = run_ok(manyhands(&["check", "--config"]).arg(&path));
    for name in ["alder", "birch", "elder"] {
        assert!(out.contains(name), "{out}");
    }
    let more = "[proxy]\nconnect = [\"Host.example:443\"]\n";
    let text = fs::read_to_string(&path).expect("the configuration");
    let aliased = text.replacen("[[repo]]", "[[repo]]\naliases = [\"http://deb.example/x/\"]", 1) + more;
    fs::write(&path, &aliased).expect("the scratch folder is writable");
    let out = run_ok(manyhands(&["check", "--config"]).arg(&path));
    for shown in ["http://deb.example/x\n", "host.example:443"] {
        assert!(out.contains(shown), "{out}");
    }
    let good = text;
    let zoned = good.replacen(
        "[server]",
        "[server]\nfailover_zone = \"v.mirror.example\"\nfailover_addresses = [\"192.0.2.1\"]\nfailover_port = 8080",
        1,
    );
    fs::write(&path, &zoned).expect("the scratch folder is writable");
    let out = run_ok(manyhands(&["check", "--config"]).arg(&path));
    for shown in [
        "DNS on 192.0.2.1:53",
        "v.mirror.example. 300 IN NS ns.v.mirror.example.",
        "_http._tcp.v1.v.mirror.example. 2 IN SRV 10 0 8090 at.v1.v.mirror.example.",
        "v1.v.mirror.example. 300 IN A 192.0.2.1",
        "listen has no port 80",
    ] {
        assert!(out.contains(shown), "no {shown:?} in {out}");
    }
    for (wrong, word) in [
        (zoned.replace("192.0.2.1", "0.0.0.0"), "server.failover_addresses"),
        (zoned.replace("v.mirror", "v_mirror"), "server.failover_zone"),
        (good.replace("[[repo]]", "[[repos]]"), "repos"),
        (good.replace("generic-rpm", "nosuch"), "nosuch"),
        (format!("{good}[cache]\nmax_size = \"lots\"\n"), "lots"),
        (format!("{good}[proxy]\nconnect = [\"*\"]\n"), "proxy.connect"),
        (aliased.replace("http://deb", "ftp://deb"), "http://"),
        ("[server".to_owned(), "TOML"),
    ] {
        fs::write(&path, &wrong).expect("the scratch folder is writable");
        for command in ["check", "serve"] {
            let (status, _, err) = run(manyhands(&[command, "--config"]).arg(&path), LIMIT);
            assert!(!status.success(), "{command} accepts {wrong}");
            assert!(err.contains(word) || word == "TOML", "{command} does not say {word:?}: {err}");
            assert!(!err.contains("panicked") && !err.is_empty(), "{err}");
        }
    }
    let (status, _, err) = run(&mut manyhands(&["check", "--config", "/nonexistent/x.toml"]), LIMIT);
    assert!(!status.success() && err.contains("/nonexistent/x.toml"), "{err}");
}

#[test]
fn check_reads_the_keyrings() {
    let scratch = Scratch::new();
    let path = config().write(&scratch);
    let good = fs::read_to_string(&path).expect("the configuration");
    let with = |keyring: &str| {
        let key = format!("[[repo]]\nkeyring = {keyring:?}");
        fs::write(&path, good.replacen("[[repo]]", &key, 1)).expect("the scratch folder is writable");
        run(manyhands(&["check", "--config"]).arg(&path), LIMIT)
    };
    let (status, out, err) = with(test_key().to_str().expect("UTF-8"));
    assert!(status.success() && out.contains("test.asc (1 certificate)"), "{out}{err}");
    assert!(out.contains("signatures are not checked"), "the others have none: {out}");
    let empty = scratch.path("empty.gpg");
    fs::write(&empty, "").expect("the scratch folder is writable");
    for (keyring, want) in [
        ("/nonexistent/keys.gpg", "cannot read the keyring /nonexistent/keys.gpg"),
        (empty.to_str().expect("UTF-8"), "no OpenPGP public key"),
        ("keys.gpg", "absolute"),
    ] {
        let (status, _, err) = with(keyring);
        assert!(!status.success() && err.contains(want), "{err}");
    }
}

#[test]
fn status_shows_the_same_as_the_api() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &config());
    let volunteers = Volunteer::join_all(&scratch, &server, 2);
    fetch(&server.url("alder/pool/main/h/hands-common/hands-common_1.0-1_all.deb"));
    let admin = format!("http://{}", server.admin);
    let out = run_ok(&mut manyhands(&["status", "--admin", &admin, "--json"]));
    let status = Status(serde_json::from_str(&out).expect("JSON"));
    assert_eq!(status.volunteers().len(), 2);
    for field in
        ["redirected_bytes", "served_bytes", "redirects", "served_requests", "metadata_bytes", "sync_bytes"]
    {
        status.offload(field);
    }
    assert!(status.offload("served_bytes") > 0);
    for volunteer in &volunteers {
        assert_eq!(status.state(volunteer.id()), "up");
        for field in
            ["holdings", "uploads", "in_flight", "rate", "donate", "served_bytes", "redirected_bytes"]
        {
            status.of(volunteer.id(), field);
        }
    }
    let (paths, blobs) = (status.number("/catalog/paths"), status.number("/catalog/blobs"));
    assert!(0 < blobs && blobs < paths, "alder and birch share packages: {paths} paths, {blobs} blobs");
    let snapshots = status.0["snapshots"].as_array().expect("snapshots");
    assert!(snapshots.iter().any(|s| s["repo"] == "alder" && s["paths"].as_u64() > Some(0)), "{snapshots:?}");

    let text = run_ok(&mut manyhands(&["status", "--admin", &admin]));
    for word in ["v1", "v2", "alder", "up"] {
        assert!(text.contains(word), "{text}");
    }
    drop(server);
    let (status, _, err) = run(&mut manyhands(&["status", "--admin", &admin]), LIMIT);
    assert!(!status.success() && !err.contains("panicked"), "{err}");
}

#[test]
fn tokens_differ_and_stand_alone_on_standard_output() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &config());
    let (one, two) = (server.issue_token(), server.issue_token());
    assert!(one != two && one.len() >= 16, "{one} {two}");
}

#[test]
fn verify_tells_good_from_damaged_and_unknown() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &config());
    let base = server.base();
    let folder = scratch.dir("downloads");
    let copy = |repo: &str, path: &str| {
        let from = test_repos("t0").join(repo).join(path);
        let to = folder.join(from.file_name().expect("a name"));
        fs::copy(&from, &to).expect("the scratch folder is writable");
        to
    };
    let good = [
        copy("alder", "pool/main/h/hands-common/hands-common_1.0-1_all.deb"),
        copy("birch", "pool/universe/hands/hands-epoch_1%3a2.0-1_amd64.deb"),
        copy("elder", "RPMS/hands-preview-1.0~rc1-1.x86_64.rpm"),
    ];
    let verify = |paths: &[&std::path::PathBuf]| {
        let (status, out, err) = run(manyhands(&["verify", "--server", &base]).args(paths), LIMIT);
        assert!(!err.contains("panicked"), "{err}");
        (status.success(), out + &err)
    };
    let (ok, text) = verify(&[&good[0], &good[1], &good[2]]);
    assert!(ok, "{text}");
    assert!(
        good.iter().all(|p| text.contains(p.file_name().and_then(|n| n.to_str()).expect("a name"))),
        "{text}"
    );

    let damaged = copy("alder", "pool/main/h/hands-data/hands-data_1.0-1_all.deb");
    let mut bytes = fs::read(&damaged).expect("a file");
    bytes[500_000] ^= 1;
    fs::write(&damaged, &bytes).expect("the scratch folder is writable");
    let (ok, text) = verify(&[&good[0], &damaged]);
    assert!(!ok && text.contains("hands-data_1.0-1_all.deb"), "{text}");
    fs::write(&damaged, &bytes[..1000]).expect("the scratch folder is writable");
    assert!(!verify(&[&damaged]).0, "a truncated file");

    let unknown = folder.join("unknown_1_all.deb");
    fs::write(&unknown, "nobody published this").expect("the scratch folder is writable");
    let (ok, text) = verify(&[&unknown]);
    assert!(!ok && text.contains("unknown_1_all.deb"), "{text}");
    let admin = format!("http://{}", server.admin);
    let (status, _, err) = run(manyhands(&["verify", "--server", &admin]).arg(&good[0]), LIMIT);
    assert!(!status.success() && err.contains("give the one for clients"), "{err}");
    assert!(!verify(&[&folder.join("missing_1_all.deb")]).0, "a file that is not there");

    // Good bytes are good under any name.
    let renamed = folder.join("renamed.deb");
    fs::copy(&good[0], &renamed).expect("the scratch folder is writable");
    let (ok, text) = verify(&[&renamed]);
    assert!(ok, "{text}");

    // A whole folder of good files.
    for path in [&damaged, &unknown] {
        fs::remove_file(path).expect("the scratch folder is writable");
    }
    let (ok, text) = verify(&[&folder]);
    assert!(ok, "{text}");
}

#[test]
fn start_up_says_how_to_point_clients_here_and_traffic_is_summed_up() {
    let scratch = Scratch::new();
    let mut server = Server::start(&scratch, &config());
    let all = server.process.lines().join("\n");
    for repo in ["alder", "birch", "elder"] {
        assert!(all.contains(&server.url(repo)), "no hint for {repo}:\n{all}");
    }
    let volunteers = Volunteer::join_all(&scratch, &server, 1);
    let path = "alder/pool/main/h/hands-common/hands-common_1.0-1_all.deb";
    server.wait_redirect(path);
    fetch(&server.url(path));
    let redirects = server.process.messages("redirect");
    assert!(
        redirects.iter().any(|f| f.to_string().contains("v1")),
        "each redirect names the volunteer: {redirects:?}"
    );
    let traffic = server.process.wait_message("traffic");
    assert!(traffic.as_object().is_some_and(|fields| fields.len() > 3), "{traffic}");
    drop(volunteers);
}
