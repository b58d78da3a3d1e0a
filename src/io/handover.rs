//! Hand-over: a new process takes over from a running one, which no client notices. So a SIGHUP reads the
//! configuration again, and an upgrade of the program takes effect.
//!
//! The old process starts its program again, with its listening sockets and a channel to talk over. That is no
//! child of its own: it is started by a process in between that ends at once ([`LAUNCH`]), and so belongs to the
//! service manager from the beginning. One that manages only a child's child does not wait for its end when it
//! stops the service (systemd.service(5), `Type=notify` with MAINPID): running downloads would be killed. Step by
//! step ([`Word`]) the old one lets go of what only one process can have, the new one begins to accept on the same
//! sockets, and the old one ends with its last download. A new process that fails before it serves changes nothing:
//! the old one takes everything back.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal as Kill, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::manager;
use super::shutdown::{DRAIN, Shutdown};
use super::sockets::Sockets;

/// Shows a process that its standard input is a channel to the one that it takes over from.
const VARIABLE: &str = "MANYHANDS_HANDOVER";
/// Value of [`VARIABLE`]: start the process that takes over, and end.
const LAUNCH: &str = "launch";
/// The value for that one.
const TAKE_OVER: &str = "1";
/// To read the configuration and bind new addresses.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// To open the state and restore what is served: seconds for a large archive. The old process serves meanwhile,
/// but keeps nothing.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long running downloads may continue when another process takes over.
const LAST_DOWNLOADS: Duration = Duration::from_secs(3600);
/// The old process only has to notify the service manager.
const MAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// For a killed process to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What the two say, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Word {
    /// The new process: the configuration is good and every address is bound.
    Ready = b'r',
    /// The old one: let go, the state may be opened.
    Open = b'o',
    /// The new one: accepting.
    Serving = b's',
    /// The old one: the service manager now knows which process to watch.
    Main = b'm',
}

/// Why the old process stays.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("the configuration is invalid: {0}")]
    Config(String),
    #[error("this is process 1, and its exit would stop the container: restart the container instead")]
    Init,
    #[error("cannot start {program}: {source}")]
    Start { program: PathBuf, source: io::Error },
    #[error("the new process exited; its log says why")]
    Ended,
    #[error("the new process took longer than {} s", .0.as_secs())]
    Late(Duration),
    #[error("unexpected answer from the other process: {0}")]
    Channel(io::Error),
    /// Now the old one cannot continue either.
    #[error("cannot reopen the state: {0}")]
    Lost(String),
}

/// What a process does around a hand-over. All methods block.
pub trait Role: Send + Sync + 'static {
    /// Whether the configuration is valid as it is now; else the error.
    fn check(&self) -> Result<(), String>;
    /// Lets go of what only one process can have. Requests are still answered.
    fn let_go(&self);
    /// Takes it back.
    fn take_back(&self) -> Result<(), String>;
    /// Returns if the process is well: takes the locks that requests need.
    fn probe(&self);
}

/// How a process's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to stop.
    Stopped,
    /// Another process serves now.
    Succeeded,
}

/// How this process was started, and how to start it again.
#[derive(Debug)]
pub struct Start {
    pub sockets: Sockets,
    program: PathBuf,
    arguments: Vec<OsString>,
    predecessor: Option<StdUnixStream>,
}

impl Start {
    /// To be called before any thread starts, like [`Sockets::from_env`]. `None` if this process had only to start
    /// another and is to end now.
    pub fn from_env() -> io::Result<Option<Self>> {
        let mut arguments = std::env::args_os();
        let program = program(arguments.next())?;
        let arguments: Vec<OsString> = arguments.collect();
        let given = std::env::var_os(VARIABLE);
        if given.as_ref().is_some_and(|value| value == LAUNCH) {
            std::process::Command::new(&program).args(&arguments).env(VARIABLE, TAKE_OVER).spawn()?;
            return Ok(None);
        }
        let mut sockets = Sockets::from_env()?;
        let mut predecessor = None;
        if given.is_some() {
            let mut channel = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
            sockets = Sockets::receive(&channel).map_err(|e| {
                io::Error::new(
                    e.kind(),
                    format!("{VARIABLE} is set, but standard input brings no sockets: {e}"),
                )
            })?;
            channel.write_all(&std::process::id().to_be_bytes())?;
            predecessor = Some(channel);
        }
        Ok(Some(Self { sockets, program, arguments, predecessor }))
    }

    /// Waits until the state may be opened: at once if there is no predecessor.
    pub async fn may_open(mut self) -> io::Result<Life> {
        let hangups = if has_terminal() { None } else { Some(signal(SignalKind::hangup())?) };
        let mut predecessor = self.predecessor.take().map(Channel::new).transpose()?;
        if let Some(old) = &mut predecessor {
            let gone = |_| io::Error::other("the process to take over from has exited or released nothing");
            old.say(Word::Ready).await.map_err(gone)?;
            old.expect(Word::Open, OPEN_TIMEOUT).await.map_err(gone)?;
        }
        Ok(Life { start: self, predecessor, hangups })
    }
}

/// A process that may open its state.
#[derive(Debug)]
pub struct Life {
    start: Start,
    predecessor: Option<Channel>,
    hangups: Option<Signal>,
}

impl Life {
    /// Whether another process is waiting for this one to serve.
    pub fn is_awaited(&self) -> bool {
        self.predecessor.is_some()
    }

    /// To be called when connections are accepted. Tells everybody concerned, then carries out SIGHUPs until the
    /// shutdown begins, by a signal or because another process has taken over. The sockets are closed by then.
    pub async fn run<R: Role>(mut self, role: Arc<R>, mut shutdown: Shutdown) -> Result<End, HandoverError> {
        match self.predecessor.take() {
            None => manager::ready(),
            Some(mut old) => {
                // If the old one is gone by now, nobody else serves: go on.
                let _ = old.say(Word::Serving).await;
                let _ = old.expect(Word::Main, MAIN_TIMEOUT).await;
            }
        }
        let probed = role.clone();
        let watchdog = manager::watchdog(move || probed.probe());
        let succeeded = tokio::select! {
            _ = shutdown.begun() => None,
            succeeded = self.until_succeeded(&role) => Some(succeeded),
        };
        let Some(succeeded) = succeeded else {
            manager::stopping();
            return Ok(End::Stopped);
        };
        if succeeded.is_ok()
            && let Some(watchdog) = watchdog
        {
            watchdog.abort();
        }
        shutdown.begin(if succeeded.is_ok() { LAST_DOWNLOADS } else { DRAIN });
        succeeded.map(|()| End::Succeeded)
    }

    async fn until_succeeded<R: Role>(&mut self, role: &Arc<R>) -> Result<(), HandoverError> {
        loop {
            match &mut self.hangups {
                Some(hangups) => hangups.recv().await,
                None => std::future::pending().await,
            };
            tracing::info!("reloading the configuration");
            manager::reloading();
            match self.start.hand_over(role).await {
                Ok(pid) => {
                    tracing::info!(pid, "another process has taken over; running downloads finish here");
                    if let Some(hangups) = self.hangups.take() {
                        tokio::spawn(pass_on(hangups, pid));
                    }
                    return Ok(());
                }
                Err(lost @ HandoverError::Lost(_)) => return Err(lost),
                Err(e) => {
                    tracing::error!(error = %e, "not reloaded; everything continues as before");
                    manager::not_reloaded(&e.to_string());
                }
            }
        }
    }
}

impl Start {
    /// Returns the new process's id.
    async fn hand_over<R: Role>(&self, role: &Arc<R>) -> Result<u32, HandoverError> {
        if std::process::id() == 1 {
            return Err(HandoverError::Init);
        }
        blocking(role, |role| role.check()).await.map_err(HandoverError::Config)?;
        let mut new = Successor::start(self).await?;
        new.channel.expect(Word::Ready, START_TIMEOUT).await?;
        let let_go = |role: &R| {
            role.let_go();
            Ok(())
        };
        blocking(role, let_go).await.map_err(HandoverError::Lost)?;
        let serving = async {
            new.channel.say(Word::Open).await?;
            new.channel.expect(Word::Serving, OPEN_TIMEOUT).await
        };
        if let Err(e) = serving.await {
            // What it holds is free when it has ended.
            new.end().await;
            blocking(role, |role| role.take_back()).await.map_err(HandoverError::Lost)?;
            return Err(e);
        }
        let pid = new.release();
        manager::succeeded_by(pid);
        // It serves whether it hears this or not.
        let _ = new.channel.say(Word::Main).await;
        Ok(pid)
    }
}

/// Runs what blocks on a thread for it.
async fn blocking<R: Role, T: Send + 'static>(
    role: &Arc<R>,
    work: impl FnOnce(&R) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let role = role.clone();
    tokio::task::spawn_blocking(move || work(&role)).await.unwrap_or_else(|e| Err(e.to_string()))
}

/// A SIGHUP to this process is meant for the one that serves.
async fn pass_on(mut hangups: Signal, pid: u32) {
    while hangups.recv().await.is_some() {
        kill(pid, Kill::HUP);
    }
}

/// A new process on its way. Dropping it ends it, unless it was released.
#[derive(Debug)]
struct Successor {
    pid: u32,
    channel: Channel,
    is_released: bool,
}

impl Successor {
    async fn start(start: &Start) -> Result<Self, HandoverError> {
        let failed = |source| HandoverError::Start { program: start.program.clone(), source };
        let (own, its) = StdUnixStream::pair().map_err(failed)?;
        start.sockets.send(&own).map_err(failed)?;
        let mut command = Command::new(&start.program);
        command.args(&start.arguments).stdin(Stdio::from(OwnedFd::from(its))).env(VARIABLE, LAUNCH);
        // Meant for this process alone. Without an id the watchdog is whoever's the service manager watches.
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        let mut launcher = command.spawn().map_err(failed)?;
        // Its end of the channel.
        drop(command);
        let mut channel = Channel::new(own).map_err(failed)?;
        let launched = async {
            let is_launched = launcher.wait().await.map_err(failed)?.success();
            if is_launched { channel.number().await } else { Err(HandoverError::Ended) }
        };
        let pid = tokio::time::timeout(START_TIMEOUT, launched).await;
        let pid = pid.map_err(|_| HandoverError::Late(START_TIMEOUT))??;
        Ok(Self { pid, channel, is_released: false })
    }

    /// Leaves it to itself; returns its id.
    fn release(&mut self) -> u32 {
        self.is_released = true;
        self.pid
    }

    /// Kills it and waits until it has ended: then its end of the channel is closed.
    async fn end(&mut self) {
        kill(self.pid, Kill::KILL);
        let closed = async { while self.channel.0.read_u8().await.is_ok() {} };
        let _ = tokio::time::timeout(END_TIMEOUT, closed).await;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_released {
            kill(self.pid, Kill::KILL);
        }
    }
}

fn kill(pid: u32, signal: Kill) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// One end of the channel.
#[derive(Debug)]
struct Channel(UnixStream);

impl Channel {
    fn new(stream: StdUnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(Self)
    }

    async fn say(&mut self, word: Word) -> Result<(), HandoverError> {
        self.0.write_u8(word as u8).await.map_err(|_| HandoverError::Ended)
    }

    /// What the other says before its first word: its id.
    async fn number(&mut self) -> Result<u32, HandoverError> {
        self.0.read_u32().await.map_err(|_| HandoverError::Ended)
    }

    async fn expect(&mut self, word: Word, within: Duration) -> Result<(), HandoverError> {
        match tokio::time::timeout(within, self.0.read_u8()).await {
            Err(_) => Err(HandoverError::Late(within)),
            Ok(Ok(said)) if said == word as u8 => Ok(()),
            Ok(Ok(said)) => {
                Err(HandoverError::Channel(io::Error::other(format!("{said} instead of {word:?}"))))
            }
            Ok(Err(_)) => Err(HandoverError::Ended),
        }
    }
}

/// The path that this program was started by, so that an upgrade that replaces the file or a link to it is found;
/// later the running program's own file may be a deleted one.
fn program(name: Option<OsString>) -> io::Result<PathBuf> {
    match name {
        Some(name) if Path::new(&name).components().count() > 1 => std::path::absolute(name),
        _ => std::env::current_exe(),
    }
}

/// SIGHUP means the end of the terminal there, and of all that runs in it.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
