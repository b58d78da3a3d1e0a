//! Restarts, crashes and new configurations that no client notices.

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    BINARY, Conn, Fault, Held, Process, Scratch, Server, ServerConfig, Stream, Successor, Volunteer,
    VolunteerOptions,
};
use support::{Upstream, detached, fetch, free_port, get, package, serve_sizes, split_url, spread, wait_for};

fn serve_command(config: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(config).args(["--log", "debug", "--log-format", "json"]);
    command
}

#[test]
fn a_held_socket_bridges_restarts_and_crashes_of_the_server() {
    let scratch = Scratch::new();
    let (mut first, files) = serve_sizes(&scratch, &[50_000]);
    first.process.terminate();
    let held = Held::new("127.0.0.1");
    let config = first.config.clone();
    let start = || Server::of_process(held.start("server", &serve_command(&config), true), &config);

    let mut server = start();
    assert_eq!((server.address(), server.admin.as_str()), (&*held.address(), &*held.admin()));
    let url = server.url(&files[0]);
    let body = package(&scratch, &files[0]);
    let clients = Stream::start(4, &url, &body);
    for _ in 0..3 {
        clients.wait_more(20);
        server.process.terminate();
        server = start();
    }
    clients.wait_more(20);
    clients.end();

    server.process.kill();
    // Accepted by nobody, refused by nobody.
    let mut waiting = Conn::open(&held.address());
    let request = waiting.request_text("GET", &format!("/{}", files[0]), &[]);
    waiting.send(request.as_bytes()).expect("the kernel takes it");
    let server = start();
    assert_eq!(waiting.read_head().expect("an answer").0, 200);
    assert!(fetch(&server.url(&files[0])) == body);
}

#[test]
fn a_stopped_server_does_not_keep_new_clients_waiting_for_old_ones() {
    let scratch = Scratch::new();
    let (mut first, files) = serve_sizes(&scratch, &[50_000, 32 << 20]);
    first.process.terminate();
    let held = Held::new("127.0.0.1");
    let config = first.config.clone();
    let start = || Server::of_process(held.start("server", &serve_command(&config), true), &config);
    let mut server = start();
    let (whole, url) = (package(&scratch, &files[1]), server.url(&files[1]));
    // Nobody reads on, so this download never ends.
    let _download = begin_download(&url);
    server.process.signal("TERM");
    let small = server.url(&files[0]);
    let begin = Instant::now();
    let client = std::thread::spawn(move || get(&small).expect(200));
    server.process.wait(support::DEADLINE);
    let server = start();
    client.join().expect("it is answered");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}, and apt waits for 30 s");
    // What was cut off goes on elsewhere.
    let range = format!("bytes={}-", whole.len() / 2);
    let rest = Conn::open(server.address()).ask("GET", &format!("/{}", files[1]), &[("Range", &range)]);
    assert!(rest.expect(206).body == whole[whole.len() / 2..]);
}

#[test]
fn a_held_socket_without_a_name_is_for_clients() {
    let scratch = Scratch::new();
    let (mut server, files) = serve_sizes(&scratch, &[50_000]);
    server.process.terminate();
    let held = Held::new("127.0.0.1");
    let process = held.start("server", &serve_command(&server.config), false);
    let server = Server::of_process(process, &server.config);
    assert_eq!(server.address(), held.address());
    assert_ne!(server.admin, held.admin(), "it was not passed");
    get(&server.url(&files[0])).expect(200);
}

#[test]
fn a_held_socket_bridges_a_crash_of_a_volunteer() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[50_000]);
    let options = VolunteerOptions::new(&scratch, &server, 1);
    let held = Held::new(&options.address);
    let start = || {
        let process = held.start("v1", &options.command(), false);
        Volunteer::of_process(process, options.clone())
    };
    let mut volunteer = start();
    assert_eq!(volunteer.address, held.address());
    let location = server.wait_redirect(&files[0]);
    volunteer.process.kill();
    // A client that was sent there just before.
    let client = std::thread::spawn(move || get(&location));
    let again = start();
    let answer = client.join().expect("it is answered").expect(200);
    assert!(answer.body == package(&scratch, &files[0]));
    assert_eq!(again.address, held.address());
}

/// A server without a terminal, over packages of these sizes.
fn detached_server(scratch: &Scratch, sizes: &[usize]) -> (Server, Vec<String>) {
    let (mut first, files) = serve_sizes(scratch, sizes);
    first.process.terminate();
    let mut command = detached(&serve_command(&first.config));
    (Server::start_command(&mut command, &first.config), files)
}

/// A download that is under way and not read on.
fn begin_download(url: &str) -> (Conn, usize) {
    let (address, target) = split_url(url);
    let mut connection = Conn::open(address);
    let text = connection.request_text("GET", target, &[]);
    connection.send(text.as_bytes()).expect("a request fits");
    let (status, headers) = connection.read_head().expect("an answer");
    assert_eq!(status, 200);
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    (connection, length.and_then(|(_, value)| value.parse().ok()).expect("a length"))
}

/// Its rest.
fn end_download((mut connection, length): (Conn, usize)) -> Vec<u8> {
    let mut body = vec![0; length];
    let mut got = 0;
    while got < length {
        let more = connection.read_some(&mut body[got..]).expect("a body");
        assert!(more > 0, "cut after {got} of {length} bytes");
        got += more;
    }
    body
}

fn append(path: &Path, text: &str) {
    let before = fs::read_to_string(path).expect("the configuration");
    fs::write(path, before + text).expect("the scratch folder is writable");
}

const NOT_RELOADED: &str = "not reloaded; everything continues as before";

#[test]
fn a_new_configuration_takes_effect_and_no_client_notices() {
    let scratch = Scratch::new();
    let (mut server, files) = detached_server(&scratch, &[50_000, 32 << 20]);
    let url = server.url(&files[0]);
    let small = package(&scratch, &files[0]);
    let clients = Stream::start(4, &url, &small);
    clients.wait_more(20);
    let download = begin_download(&server.url(&files[1]));
    let tree = scratch.path("repo").display().to_string();
    let repo = format!("\n[[repo]]\nname = \"more\"\ndistro = \"generic-deb\"\ntree = {tree:?}\n");
    append(&server.config, &repo);
    server.process.signal("HUP");
    let successor = Successor::of(&mut server.process, 1);
    clients.wait_more(100);
    let more = server.url(&files[0].replacen("flat", "more", 1));
    wait_for("the new repository is served", support::DEADLINE, || get(&more).status == 200);
    assert!(!server.process.has_ended(), "it left while a download was running");
    assert!(end_download(download) == package(&scratch, &files[1]));
    let status = server.process.wait(support::DEADLINE);
    assert_eq!(status.code(), Some(0));
    clients.wait_more(100);
    clients.end();

    let environment = fs::read(format!("/proc/{}/environ", successor.pid())).expect("it runs");
    assert!(!String::from_utf8_lossy(&environment).contains("LISTEN_"));
    successor.signal("TERM");
    wait_for("it ends", support::DEADLINE, || server.process.messages("stopped").len() == 2);
}

#[test]
fn what_comes_from_an_upstream_comes_whole_over_a_hand_over() {
    let scratch = Scratch::new();
    let (mut first, files) = serve_sizes(&scratch, &[50_000, 2 << 20]);
    first.process.terminate();
    let upstream = Upstream::start(&scratch.path("repo"));
    let config = ServerConfig::default().upstream(
        "flat",
        "generic-deb",
        upstream.url("").trim_end_matches('/'),
        "suites = [\"./\"]",
    );
    let config = config.write(&scratch);
    let mut server = Server::start_command(&mut detached(&serve_command(&config)), &config);
    let path = files[1].replacen("flat/", "", 1);
    upstream.set_fault(&path, Some(Fault::Held));
    let download = begin_download(&server.url(&files[1]));
    server.process.signal("HUP");
    let _successor = Successor::of(&mut server.process, 1);
    upstream.set_fault(&path, None);
    let whole = package(&scratch, &files[1]);
    assert!(end_download(download) == whole);
    assert_eq!(server.process.wait(support::DEADLINE).code(), Some(0));
    // It was the old process's and is not kept: the new one fetches its own.
    let before = upstream.gets(&path);
    assert!(fetch(&server.url(&files[1])) == whole);
    assert!(fetch(&server.url(&files[1])) == whole);
    assert_eq!(upstream.gets(&path), before + 1);
    assert!(support::wrong_blobs(&scratch.path("server-state").join("cache")).is_empty());
}

#[test]
fn many_hand_overs_in_a_row_fail_no_request() {
    let scratch = Scratch::new();
    let (mut server, files) = detached_server(&scratch, &[50_000]);
    let clients = Stream::start(4, &server.url(&files[0]), &package(&scratch, &files[0]));
    // The second one comes while the first is carried out, and is passed on or joins it.
    server.process.signal("HUP");
    server.process.signal("HUP");
    let mut last = Successor::of(&mut server.process, 1);
    for nth in 2..5 {
        clients.wait_more(20);
        if server.process.successors().count() < nth {
            last.signal("HUP");
        }
        last = Successor::of(&mut server.process, nth);
    }
    clients.wait_more(20);
    clients.end();
    last.signal("TERM");
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let scratch = Scratch::new();
    let (mut server, files) = detached_server(&scratch, &[50_000, 32 << 20]);
    let good = fs::read_to_string(&server.config).expect("the configuration");
    let clients = Stream::start(2, &server.url(&files[0]), &package(&scratch, &files[0]));
    let download = begin_download(&server.url(&files[1]));
    let file = scratch.path("repo").join("Packages");
    let wrong = [
        // Seen by the old process, by the new one before it opens the state, and after.
        (good.replacen("state_dir", "state_dri", 1), "state_dri"),
        (good.replacen("127.0.0.1:0", "192.0.2.1:0", 1), "the new process exited"),
        (
            good.replacen("state_dir", &format!("access_log = {:?}\nstate_dir", file.join("no-folder")), 1),
            "the new process exited",
        ),
    ];
    for (nth, (text, why)) in wrong.iter().enumerate() {
        fs::write(&server.config, text).expect("the scratch folder is writable");
        server.process.signal("HUP");
        let told = |server: &Server| server.process.messages(NOT_RELOADED).get(nth).cloned();
        wait_for("it is refused", support::DEADLINE, || told(&server).is_some());
        let told = told(&server).expect("just seen").to_string();
        assert!(told.contains(why), "{told}");
        clients.wait_more(20);
    }
    fs::write(&server.config, &good).expect("the scratch folder is writable");
    // It has everything back: it can enrol a volunteer.
    let volunteer = Volunteer::join(&server, VolunteerOptions::new(&scratch, &server, 1));
    server.process.signal("HUP");
    let _successor = Successor::of(&mut server.process, 1);
    clients.wait_more(20);
    clients.end();
    assert!(end_download(download) == package(&scratch, &files[1]));
    server.wait_until("the volunteer is back", |status| status.state(volunteer.id()) == "up");
}

#[test]
fn the_service_manager_is_told_who_took_over() {
    let scratch = Scratch::new();
    let (mut first, _) = serve_sizes(&scratch, &[50_000]);
    first.process.terminate();
    let (socket, path) = notify_socket(&scratch);
    let mut command = detached(&serve_command(&first.config));
    let mut server = Server::start_command(command.env("NOTIFY_SOCKET", &path), &first.config);
    assert_eq!(told(&socket), "READY=1\n");
    let reload = || {
        server.process.signal("HUP");
        let reloading = told(&socket);
        assert!(reloading.starts_with("RELOADING=1\nSTATUS=\nMONOTONIC_USEC="), "{reloading}");
    };
    let good = fs::read_to_string(&server.config).expect("the configuration");
    append(&server.config, "\nwrong\n");
    reload();
    let failed = told(&socket);
    assert!(failed.starts_with("READY=1\nSTATUS=not reloaded: ") && failed.contains("wrong"), "{failed}");
    assert_eq!(failed.lines().count(), 2);
    fs::write(&server.config, good).expect("the scratch folder is writable");
    reload();
    let successor = Successor::of(&mut server.process, 1);
    assert_eq!(told(&socket), format!("MAINPID={}\nREADY=1\n", successor.pid()));
    server.process.wait(support::DEADLINE);
    successor.signal("TERM");
    assert_eq!(told(&socket), "STOPPING=1\n", "the old one said nothing more");
}

#[test]
fn a_volunteer_hands_over_with_its_downloads() {
    let scratch = Scratch::new();
    let (server, files) = serve_sizes(&scratch, &[32 << 20]);
    let mut options = VolunteerOptions::new(&scratch, &server, 1);
    let (config, admin) = (scratch.path("volunteer.toml"), format!("127.0.0.1:{}", free_port("127.0.0.1")));
    fs::write(&config, format!("admin = {admin:?}\n")).expect("the scratch folder is writable");
    options.config = Some(config);
    let process = Process::spawn("v1", &mut detached(&options.command()));
    let mut volunteer = Volunteer::of_process(process, options);
    let location = server.wait_redirect(&files[0]);
    let download = begin_download(&location);
    volunteer.process.signal("HUP");
    let successor = Successor::of(&mut volunteer.process, 1);
    let again = server.wait_redirect(&files[0]);
    assert!(volunteer.serves(&again), "the same address");
    assert!(fetch(&again) == package(&scratch, &files[0]));
    assert!(end_download(download) == package(&scratch, &files[0]));
    assert_eq!(volunteer.process.wait(support::DEADLINE).code(), Some(0));
    get(&format!("http://{admin}/api/v1/status")).expect(200);
    successor.signal("TERM");
    wait_for("it ends", support::DEADLINE, || volunteer.process.messages("stopped").len() == 2);
}

/// What a volunteer said when it joined for the `nth` time: what it holds, and how much of that it announced.
fn joined(volunteer: &Volunteer, nth: usize) -> (u64, u64) {
    let find = || volunteer.process.messages("joined").get(nth - 1).cloned();
    wait_for("it joins", support::DEADLINE, || find().is_some());
    let told = find().expect("just seen");
    let number = |field: &str| told[field].as_u64().unwrap_or_else(|| panic!("no {field}: {told}"));
    (number("holdings"), number("announced"))
}

/// Several volunteers that all hold some packages.
fn holders(scratch: &Scratch, server: &Server, files: &[String]) -> Vec<Volunteer> {
    let volunteers = Volunteer::join_all(scratch, server, 3);
    spread(server, &files[0], 3);
    for file in files {
        server.wait_redirect(file);
    }
    server.wait_reports();
    volunteers
}

#[test]
fn volunteers_are_back_within_seconds_and_announce_what_has_changed() {
    let scratch = Scratch::new();
    let (mut first, files) = serve_sizes(&scratch, &[50_000, 60_000, 70_000]);
    first.process.terminate();
    let text = fs::read_to_string(&first.config).expect("the configuration");
    let fixed = text.replacen("127.0.0.1:0", first.address(), 1);
    fs::write(&first.config, fixed).expect("the scratch folder is writable");
    let config = first.config.clone();
    let start = || Server::start_command(&mut detached(&serve_command(&config)), &config);
    let mut server = start();
    let volunteers = holders(&scratch, &server, &files);

    // A clean stop.
    server.process.terminate();
    let tried = || volunteers[0].process.messages("no session with the server").len();
    wait_for("the pauses have grown", support::DEADLINE, || tried() >= 5);
    let begin = Instant::now();
    let mut server = start();
    server.wait_redirect(&files[0]);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "no redirect for {took:?}");
    for volunteer in &volunteers {
        let (holdings, announced) = joined(volunteer, 2);
        assert!(holdings > 0 && announced == 0, "{announced} of {holdings}");
    }

    // A hand-over, under load.
    server.wait_until("all are back", |status| status.sum("holdings") >= 3);
    let clients = Stream::start(4, &server.url(&files[0]), &package(&scratch, &files[0]));
    clients.wait_more(20);
    server.process.signal("HUP");
    let successor = Successor::of(&mut server.process, 1);
    let begin = Instant::now();
    server.wait_redirect(&files[0]);
    assert!(begin.elapsed() < Duration::from_secs(5));
    for volunteer in &volunteers {
        assert_eq!(joined(volunteer, 3).1, 0);
    }
    clients.wait_more(20);
    clients.end();

    // A crash: the server knows nothing more.
    successor.signal("KILL");
    for volunteer in &volunteers {
        let tried = || volunteer.process.messages("no session with the server").len();
        let before = tried();
        wait_for("it has noticed", support::DEADLINE, || tried() > before);
    }
    let server = start();
    server.wait_redirect(&files[0]);
    for volunteer in &volunteers {
        let (holdings, announced) = joined(volunteer, 4);
        assert!(announced == holdings && holdings > 0, "{announced} of {holdings}");
    }
}

#[test]
fn a_change_while_the_server_is_away_is_announced() {
    let scratch = Scratch::new();
    let (mut first, files) = serve_sizes(&scratch, &[50_000, 60_000]);
    first.process.terminate();
    let text = fs::read_to_string(&first.config).expect("the configuration");
    let fixed = text.replacen("127.0.0.1:0", first.address(), 1);
    fs::write(&first.config, fixed).expect("the scratch folder is writable");
    let mut server = Server::start_file(&first.config);
    let volunteer = Volunteer::join_all(&scratch, &server, 1).remove(0);
    let locations: Vec<String> = files.iter().map(|file| server.wait_redirect(file)).collect();
    server.wait_until("both are held", |status| status.of("v1", "holdings") == 2);
    server.wait_reports();
    server.process.terminate();

    let gone = support::sha256_hex(&package(&scratch, &files[0]));
    fs::remove_file(volunteer.options.blob_path(&gone)).expect("a stored file");
    // It notices when somebody asks.
    get(&locations[0]).expect(302);
    let server = Server::start_file(&first.config);
    assert_eq!(joined(&volunteer, 2), (1, 1));
    server.wait_until("the server knows", |status| status.of("v1", "holdings") == 1);
    assert!(get(&server.url(&files[1])).status == 302);
}

/// A service manager's ear.
fn notify_socket(scratch: &Scratch) -> (UnixDatagram, std::path::PathBuf) {
    let path = scratch.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(support::DEADLINE)).expect("a timeout");
    (socket, path)
}

/// The next thing that it is told.
fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).expect("something is told");
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

#[test]
fn the_watchdog_is_told_from_ready_to_the_end() {
    let scratch = Scratch::new();
    let (mut server, _) = serve_sizes(&scratch, &[50_000]);
    let options = VolunteerOptions::new(&scratch, &server, 1);
    let (socket, path) = notify_socket(&scratch);
    let watched = |mut command: Command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
        command
    };
    let mut volunteer = Process::spawn("v1", &mut watched(options.command()));
    assert_eq!(told(&socket), "READY=1\n");
    for _ in 0..5 {
        assert_eq!(told(&socket), "WATCHDOG=1\n");
    }
    volunteer.kill();
    server.process.terminate();

    while socket_is_full(&socket) {}
    let mut server = Process::spawn("server", &mut watched(serve_command(&server.config)));
    assert_eq!(told(&socket), "READY=1\n");
    for _ in 0..5 {
        assert_eq!(told(&socket), "WATCHDOG=1\n");
    }
    server.signal("STOP");
    while socket_is_full(&socket) {}
    server.signal("CONT");
    assert_eq!(told(&socket), "WATCHDOG=1\n", "it goes on");
    server.terminate();
    support::wait_for("the end is told", support::DEADLINE, || told(&socket) == "STOPPING=1\n");
}

/// Takes one waiting message, if there is one.
fn socket_is_full(socket: &UnixDatagram) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    let is_full = socket.recv(&mut [0; 4096]).is_ok();
    socket.set_nonblocking(false).expect("a socket");
    is_full
}
