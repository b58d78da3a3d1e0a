//! A service manager in miniature, for one process: what systemd does for an installed daemon.
//!
//! It holds the listening socket, if it is given one, and hands it on (sd_listen_fds(3)): who connects while the
//! process is away waits in the socket's queue. A process that ends is started again after [`PAUSE`]; one that tells
//! a watchdog that it is alive (sd_watchdog_enabled(3)) and stops telling so is killed first.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::support::{DEADLINE, Process, poll};

/// `RestartSec=` of the units in `systemd/`.
const PAUSE: Duration = Duration::from_millis(500);
/// `WatchdogSec=` of the units in `systemd/`.
const WATCHDOG: Duration = Duration::from_secs(60);
/// How often it looks.
const TICK: Duration = Duration::from_millis(50);
/// A new process has this long to say that it is ready.
const START: Duration = Duration::from_secs(60);

type Make = Box<dyn Fn() -> Command + Send + Sync>;
/// Binds the listening socket.
pub type Listen = Box<dyn Fn() -> TcpListener + Send + Sync>;

/// See the module's documentation. Dropping it kills the process.
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    name: String,
    make: Make,
    listen: Option<Listen>,
    notices: (PathBuf, UnixDatagram),
    state: Mutex<State>,
    woken: Condvar,
}

struct State {
    process: Option<Process>,
    socket: Option<TcpListener>,
    /// Logs of processes that have ended.
    before: Vec<String>,
    starts: usize,
    is_wanted: bool,
    is_over: bool,
    ended_at: Option<Instant>,
    /// When it last told the watchdog; `None` as long as it never has.
    alive_at: Option<Instant>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Starts what `make` gives, and again whenever it has ended. What `listen` gives becomes the process's
    /// descriptor 3; the process's notices come to a socket in `folder`.
    pub fn start(
        name: &str,
        folder: &Path,
        listen: Option<Listen>,
        make: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            process: None,
            socket: None,
            before: Vec::new(),
            starts: 0,
            is_wanted: true,
            is_over: false,
            ended_at: None,
            alive_at: None,
        };
        let path = folder.join(format!("{name}.notify"));
        let notices = UnixDatagram::bind(&path).expect("the scratch folder is writable");
        notices.set_nonblocking(true).expect("a socket of ours");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            make: Box::new(make),
            listen,
            notices: (path, notices),
            state: Mutex::new(state),
            woken: Condvar::new(),
        });
        let kept = Arc::clone(&shared);
        let thread = std::thread::spawn(move || kept.keep());
        let keeper = Self { shared, thread: Some(thread) };
        keeper.wait_ready(1);
        keeper
    }

    /// Waits until the process has been started so often and is ready.
    pub fn wait_ready(&self, starts: usize) {
        let is_ready = || {
            let state = self.lock();
            let ready = |process: &Process| !process.messages("ready").is_empty();
            (state.starts >= starts && state.process.as_ref().is_some_and(ready)).then_some(())
        };
        let ready = poll(START, is_ready);
        assert!(ready.is_some(), "{} is not ready\n{}", self.shared.name, self.lines().join("\n"));
    }

    pub fn starts(&self) -> usize {
        self.lock().starts
    }

    /// What its processes have written so far.
    pub fn lines(&self) -> Vec<String> {
        let state = self.lock();
        let now = state.process.as_ref().map(Process::lines).unwrap_or_default();
        [state.before.clone(), now].concat()
    }

    /// Sends a signal, if there is a process.
    pub fn signal(&self, name: &str) {
        if let Some(process) = &mut self.lock().process
            && !process.has_ended()
        {
            process.signal(name);
        }
    }

    /// `systemctl stop`, of process and socket: SIGTERM, and it stays stopped.
    pub fn stop(&self) {
        self.lock().give_up();
        self.signal("TERM");
    }

    /// `systemctl restart`: SIGTERM, and another process as soon as that one has ended.
    pub fn restart(&self) {
        self.signal("TERM");
    }

    /// SIGKILL, and it is started again.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// SIGKILL for good.
    pub fn end(&self) {
        self.lock().give_up();
        self.signal("KILL");
        let gone = poll(DEADLINE, || self.lock().process.is_none().then_some(()));
        assert!(gone.is_some(), "{} does not end", self.shared.name);
    }

    /// Starts it again after [`Self::stop`] or [`Self::end`], once that has ended.
    pub fn resume(&self) {
        let starts = self.starts();
        let gone = poll(DEADLINE, || self.lock().process.is_none().then_some(()));
        assert!(gone.is_some(), "{} does not end", self.shared.name);
        self.lock().is_wanted = true;
        self.shared.woken.notify_all();
        self.wait_ready(starts + 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut state = self.lock();
        state.is_over = true;
        drop(state);
        self.shared.woken.notify_all();
        // Its process goes with the thread's last look.
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl State {
    /// Neither process nor socket are wanted any more; the process has the socket as long as it runs.
    fn give_up(&mut self) {
        self.is_wanted = false;
        self.socket = None;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn keep(&self) {
        let mut state = self.lock();
        while !state.is_over {
            self.look(&mut state);
            let woken = self.woken.wait_timeout(state, TICK);
            state = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        state.process = None;
    }

    fn look(&self, state: &mut State) {
        let mut notice = [0; 4096];
        while let Ok(length) = self.notices.1.recv(&mut notice) {
            if notice[..length].split(|byte| *byte == b'\n').any(|line| line == b"WATCHDOG=1") {
                state.alive_at = Some(Instant::now());
            }
        }
        if let Some(process) = &mut state.process
            && state.alive_at.is_some_and(|at| at.elapsed() > WATCHDOG)
        {
            process.kill();
        }
        if let Some(process) = &mut state.process
            && process.has_ended()
        {
            let lines = process.lines();
            state.before.extend(lines);
            state.process = None;
            state.ended_at = Some(Instant::now());
            state.alive_at = None;
        }
        let is_due = state.ended_at.is_none_or(|at| at.elapsed() >= PAUSE);
        if state.process.is_none() && state.is_wanted && is_due {
            if state.socket.is_none() {
                state.socket = self.listen.as_ref().map(|listen| listen());
            }
            state.process = Some(self.spawn(state.socket.as_ref()));
            state.starts += 1;
        }
    }

    fn spawn(&self, socket: Option<&TcpListener>) -> Process {
        let mut command = (self.make)();
        let mut input = Stdio::null();
        if let Some(socket) = socket {
            // The shell knows the number of the process that it becomes, and can give descriptors numbers.
            let script = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=public exec \"$@\" 3<&0 </dev/null";
            let mut activated = Command::new("sh");
            activated.args(["-c", &format!("export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES; {script}"), "sh"]);
            activated.arg(command.get_program()).args(command.get_args());
            activated.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command = activated;
            input = Stdio::from(OwnedFd::from(socket.try_clone().expect("a socket can be shared")));
        }
        command.env("NOTIFY_SOCKET", &self.notices.0);
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Process::spawn_with(&self.name, &mut command, input)
    }
}
