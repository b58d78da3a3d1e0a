//! Restarts, crashes and new configurations that no client notices.

mod support;

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use support::{BINARY, Conn, Held, Process, Scratch, Server, Stream, Volunteer, VolunteerOptions};
use support::{fetch, get, package, serve_sizes};

fn serve_command(config: &std::path::Path) -> Command {
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
