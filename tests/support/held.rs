//! Sockets that outlive a process, as a service manager holds them, and clients that never stop asking.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::process::{BINARY, Process};
use super::{http, wait_for};

/// Becomes the program with the sockets as descriptors 3 and 4 (sd_listen_fds(3)).
const ACTIVATE: &str = r#"export LISTEN_PID=$$; exec "$@" 3<&0 4<&1 1>&2"#;

/// A socket for clients and one for the status API.
#[derive(Debug)]
pub struct Held {
    public: TcpListener,
    admin: TcpListener,
}

impl Held {
    pub fn new(address: &str) -> Self {
        let bind = |address: &str| TcpListener::bind((address, 0)).expect("a free port");
        Self { public: bind(address), admin: bind("127.0.0.1") }
    }

    pub fn address(&self) -> String {
        self.public.local_addr().expect("bound").to_string()
    }

    pub fn admin(&self) -> String {
        self.admin.local_addr().expect("bound").to_string()
    }

    /// Starts a command with both sockets, or with the first one alone and no names.
    pub fn start(&self, name: &str, command: &Command, is_named: bool) -> Process {
        let pass = |socket: &TcpListener| {
            Stdio::from(OwnedFd::from(socket.try_clone().expect("a socket can be shared")))
        };
        let mut shell = Command::new("sh");
        shell.args(["-c", ACTIVATE, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.env("LISTEN_FDS", if is_named { "2" } else { "1" });
        if is_named {
            shell.env("LISTEN_FDNAMES", "public:admin");
        }
        shell.stdin(pass(&self.public)).stdout(pass(&self.admin));
        Process::spawn_over(name, &mut shell)
    }
}

/// The process that took over from one of ours. It is no child, so it goes by its id; it ends with the
/// [`Process`] that it comes from.
#[derive(Debug)]
pub struct Successor(u64);

impl Successor {
    /// Waits for the one that follows; `nth` counts from 1.
    pub fn of(process: &mut Process, nth: usize) -> Self {
        let find = |process: &Process| process.successors().nth(nth - 1);
        wait_for("another process takes over", super::DEADLINE, || find(process).is_some());
        Self(find(process).expect("just seen"))
    }

    pub fn pid(&self) -> u64 {
        self.0
    }

    pub fn signal(&self, name: &str) {
        signal(self.0, name);
    }
}

/// Sends a signal by name. One who has ended needs none, and its id may be another's.
pub fn signal(pid: u64, name: &str) {
    if std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe != Path::new(BINARY)) {
        return;
    }
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Without a terminal of its own, where SIGHUP has another meaning.
pub fn detached(command: &Command) -> Command {
    let mut detached = Command::new("setsid");
    detached.arg(command.get_program()).args(command.get_args());
    detached.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    detached
}

/// Clients that ask for a URL again and again, each time over a new connection, following redirects.
#[derive(Debug)]
pub struct Stream {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Stream {
    /// The body that every answer must have.
    pub fn start(clients: usize, url: &str, body: &[u8]) -> Self {
        let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (is_over, answered) = (is_over.clone(), answered.clone());
            let (url, body) = (url.to_owned(), body.to_owned());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(http::fetch(&url) == body, "{url} has other bytes");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { is_over, answered, clients }
    }

    /// Waits until this many more requests were answered.
    pub fn wait_more(&self, requests: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_for("requests are answered", super::DEADLINE, || {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client failed");
            self.answered.load(Ordering::Relaxed) >= before + requests
        });
    }

    /// Ends the clients; fails if one of them failed. Returns how many requests were answered.
    pub fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no request fails");
        }
        self.answered.load(Ordering::Relaxed)
    }
}
