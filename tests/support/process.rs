//! The binary under test as child processes, and other programs with a time limit.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DEADLINE, Scratch, Status, http, poll};

/// Lines of a process's log shown when a test fails.
const SHOWN_LINES: usize = 60;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_manyhands");

/// A running child. Dropping it kills it, and shows the end of its log if the test is failing.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        Self::spawn_with(name, command, Stdio::null())
    }

    /// The same with this as standard input.
    pub fn spawn_with(name: &str, command: &mut Command, input: Stdio) -> Self {
        Self::spawn_over(name, command.stdin(input).stdout(Stdio::piped()))
    }

    /// The same with the command's own standard input and output.
    pub fn spawn_over(name: &str, command: &mut Command) -> Self {
        command.stderr(Stdio::piped());
        without_proxies(command);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let pipes: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|p| Box::new(p) as _), child.stderr.take().map(|p| Box::new(p) as _)];
        for pipe in pipes.into_iter().flatten() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    log.lock().expect("no reader panics").push(line);
                }
            });
        }
        Self { name: name.to_owned(), child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, both streams.
    pub fn lines(&self) -> Vec<String> {
        self.log.lock().expect("no reader panics").clone()
    }

    /// Waits for a line; fails at the deadline, or when the process has ended without it.
    pub fn wait_line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let look =
            |log: &Mutex<Vec<String>>| log.lock().expect("no reader panics").iter().find_map(|l| find(l));
        let log = Arc::clone(&self.log);
        let mut last_looks = 20;
        let found = poll(DEADLINE, || match look(&log) {
            Some(found) => Some(Some(found)),
            // The readers may still be busy with what it wrote last.
            None if self.has_ended() && last_looks == 0 => Some(None),
            None => {
                last_looks -= u32::from(self.has_ended());
                None
            }
        });
        let Some(Some(found)) = found else { panic!("{} did not write {what}", self.name) };
        found
    }

    /// Waits for a JSON log line with this message and returns its fields.
    pub fn wait_message(&mut self, message: &str) -> Value {
        self.wait_line(&format!("message {message:?}"), |line| fields_of(line, message))
    }

    /// The fields of all JSON log lines so far with this message.
    pub fn messages(&self, message: &str) -> Vec<Value> {
        self.lines().iter().filter_map(|line| fields_of(line, message)).collect()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Sends a signal by name: TERM, INT, STOP, CONT.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success(), "cannot send {name} to {}", self.name);
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for the end.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let status = poll(deadline, || self.child.try_wait().expect("a child can be waited for"));
        status.unwrap_or_else(|| panic!("{} still runs after {} s", self.name, deadline.as_secs()))
    }

    /// SIGTERM; fails unless it drains and ends with exit code 0.
    pub fn terminate(&mut self) {
        self.signal("TERM");
        let status = self.wait(Duration::from_secs(30));
        assert_eq!(status.code(), Some(0), "{} after SIGTERM: {status}", self.name);
    }
}

impl Process {
    /// The ids of those that took over from this one, or from each other.
    pub fn successors(&self) -> impl Iterator<Item = u64> + use<> {
        let told = self.messages("another process has taken over; running downloads finish here");
        told.into_iter().filter_map(|fields| fields["pid"].as_u64())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.successors().for_each(|pid| super::held::signal(pid, "KILL"));
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let lines = self.lines();
            let shown = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("---- end of the log of {} ({shown} lines before)", self.name);
            for line in &lines[shown..] {
                eprintln!("{line}");
            }
        }
    }
}

fn fields_of(line: &str, message: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(line).ok()?;
    let fields = value.get_mut("fields")?.take();
    (fields["message"] == message).then_some(fields)
}

/// A proxy of the machine must not come between the programs of a test.
fn without_proxies(command: &mut Command) {
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
}

/// Runs a program to its end: exit status, standard output, standard error. Kills it at the limit.
pub fn run(command: &mut Command, limit: Duration) -> (ExitStatus, String, String) {
    let (status, out, err) = run_within(command, limit);
    let Some(status) = status else {
        panic!("{command:?} took longer than {} s\n{out}\n{err}", limit.as_secs())
    };
    (status, out, err)
}

/// The same for what may take longer, which then has no status.
pub fn run_within(command: &mut Command, limit: Duration) -> (Option<ExitStatus>, String, String) {
    let file = || tempfile::tempfile().expect("a temporary file");
    let (mut out, mut err) = (file(), file());
    let share = |f: &File| Stdio::from(f.try_clone().expect("a file can be shared"));
    command.stdin(Stdio::null()).stdout(share(&out)).stderr(share(&err));
    without_proxies(command);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let status = poll(limit, || child.try_wait().expect("a child can be waited for"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |f: &mut File| {
        let mut bytes = Vec::new();
        f.rewind().and_then(|()| f.read_to_end(&mut bytes)).expect("a temporary file reads");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (status, text(&mut out), text(&mut err))
}

/// A command as the last arguments of another, which gets its environment and folder.
pub fn wrap(mut outer: Command, command: &Command) -> Command {
    outer.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// The same, for what must succeed; returns standard output.
pub fn run_ok(command: &mut Command) -> String {
    let (status, out, err) = run(command, 3 * DEADLINE);
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out
}

/// What a test server serves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    listen: Vec<String>,
    admin: String,
    server: String,
    rest: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let port = "127.0.0.1:0".to_owned();
        Self { listen: vec![port.clone()], admin: port, server: String::new(), rest: String::new() }
    }
}

impl ServerConfig {
    /// Adds a repository over a local tree. `more` are further lines of its table.
    pub fn tree(self, name: &str, distro: &str, tree: &Path, more: &str) -> Self {
        self.repo(name, distro, &format!("tree = {:?}", tree.display().to_string()), more)
    }

    /// Adds a repository over an upstream.
    pub fn upstream(self, name: &str, distro: &str, url: &str, more: &str) -> Self {
        self.repo(name, distro, &format!("upstream = [{url:?}]"), more)
    }

    /// Adds a repository over several upstreams, in this order.
    pub fn upstreams(self, name: &str, distro: &str, urls: &[String], more: &str) -> Self {
        self.repo(name, distro, &format!("upstream = {urls:?}"), more)
    }

    /// Adds the `[cache]` table with these lines.
    pub fn cache(mut self, lines: &str) -> Self {
        let _ = write!(self.rest, "[cache]\n{lines}\n\n");
        self
    }

    fn repo(mut self, name: &str, distro: &str, origin: &str, more: &str) -> Self {
        let _ = write!(self.rest, "[[repo]]\nname = {name:?}\ndistro = {distro:?}\n{origin}\n{more}\n\n");
        self
    }

    /// Adds lines to `[server]`.
    pub fn server_lines(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Adds whole tables.
    pub fn lines(mut self, lines: &str) -> Self {
        self.rest.push_str(lines);
        self.rest.push('\n');
        self
    }

    /// The `[proxy]` table.
    pub fn proxy_lines(mut self, lines: &str) -> Self {
        let _ = write!(self.rest, "[proxy]\n{lines}\n\n");
        self
    }

    /// Listens on these addresses instead.
    pub fn listen(mut self, addresses: &[&str]) -> Self {
        self.listen = addresses.iter().map(|&address| address.to_owned()).collect();
        self
    }

    /// Has its status API at this address instead.
    pub fn admin(mut self, address: &str) -> Self {
        self.admin = address.to_owned();
        self
    }

    /// Listens on IPv6 loopback too; `None` where the machine has none.
    pub fn with_ipv6(mut self) -> Option<Self> {
        TcpListener::bind("[::1]:0").ok()?;
        self.listen.push("[::1]:0".to_owned());
        Some(self)
    }

    /// Writes the file.
    pub fn write(&self, scratch: &Scratch) -> PathBuf {
        let state = scratch.dir("server-state");
        let path = scratch.path("serve.toml");
        let text = format!(
            "[server]\nlisten = {:?}\nadmin = {:?}\nstate_dir = {:?}\n{}\n{}",
            self.listen,
            self.admin,
            state.display().to_string(),
            self.server,
            self.rest
        );
        fs::write(&path, text).expect("the scratch folder is writable");
        path
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    /// All its addresses, the IPv4 one first.
    pub addresses: Vec<String>,
    pub admin: String,
    pub config: PathBuf,
}

impl Server {
    pub fn start(scratch: &Scratch, config: &ServerConfig) -> Self {
        Self::start_file(&config.write(scratch))
    }

    /// Starts it with a configuration that is already written.
    pub fn start_file(config: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(config).args(["--log", "debug", "--log-format", "json"]);
        Self::start_command(&mut command, config)
    }

    /// Starts it by a command that becomes the server, with its log as JSON.
    pub fn start_command(command: &mut Command, config: &Path) -> Self {
        Self::of_process(Process::spawn("server", command), config)
    }

    /// One that was started otherwise, once it is ready.
    pub fn of_process(mut process: Process, config: &Path) -> Self {
        let ready = process.wait_message("ready");
        let text =
            |field: &str| ready[field].as_str().unwrap_or_else(|| panic!("no {field}: {ready}")).to_owned();
        let addresses = text("listen").split(',').map(|a| a.trim().to_owned()).collect();
        Self { process, addresses, admin: text("admin"), config: config.to_owned() }
    }

    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The URL of a path; the path has no leading slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address())
    }

    /// The URL that is never redirected.
    pub fn direct(&self, path: &str) -> String {
        self.url(&format!("direct/{path}"))
    }

    pub fn status(&self) -> Status {
        let answer = http::get(&format!("http://{}/api/v1/status", self.admin)).expect(200);
        Status(serde_json::from_slice(&answer.body).expect("status is JSON"))
    }

    /// Waits until the status meets a condition; fails with the last status.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        self.wait_within(what, DEADLINE, condition)
    }

    pub fn wait_within(&self, what: &str, limit: Duration, condition: impl Fn(&Status) -> bool) -> Status {
        let found = poll(limit, || Some(self.status()).filter(|status| condition(status)));
        found.unwrap_or_else(|| {
            panic!("waited {:.1} s in vain: {what}\n{}", limit.as_secs_f64(), self.status().pretty())
        })
    }

    /// Waits until this many volunteers hold something and no fetch order is open.
    pub fn wait_held_by(&self, volunteers: usize) -> Status {
        self.wait_until(&format!("{volunteers} volunteers hold something, no order is open"), |status| {
            let holders = status.volunteers().iter().filter(|v| v["holdings"].as_u64() > Some(0)).count();
            holders >= volunteers && status.is_placed()
        })
    }

    /// Waits until every volunteer has reported once more, so that its counters are of now.
    pub fn wait_reports(&self) -> Status {
        let begin = self.status();
        let report = |status: &Status, id: &str| status.of(id, "last_report_unix_secs");
        self.wait_until("every volunteer reports", |status| {
            let ids = begin.volunteers().iter().filter_map(|v| v["id"].as_str());
            ids.into_iter().all(|id| report(status, id) > report(&begin, id))
        })
    }

    /// Asks for a package until it is redirected, so until a volunteer has it; returns where to.
    pub fn wait_redirect(&self, path: &str) -> String {
        let url = self.url(path);
        let found = poll(DEADLINE, || {
            let answer = http::get(&url);
            (answer.status == 302).then(|| answer.must("location").to_owned())
        });
        found.unwrap_or_else(|| panic!("{url} is never redirected\n{}", self.status().pretty()))
    }

    /// A new token, by the command that operators use.
    pub fn issue_token(&self) -> String {
        issue_token(&self.config)
    }
}

/// A port that is free at this address now.
pub fn free_port(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("an address of loopback");
    listener.local_addr().expect("it is bound").port()
}

/// A new token of the server with this configuration.
pub fn issue_token(config: &Path) -> String {
    let out = run_ok(Command::new(BINARY).args(["token", "issue", "--config"]).arg(config));
    let token = out.strip_suffix('\n').unwrap_or(&out).to_owned();
    let is_token = !token.is_empty() && !token.contains(char::is_whitespace);
    assert!(is_token, "the token alone stands on standard output: {out:?}");
    token
}

/// How a volunteer is started; the same options again are the same volunteer restarted.
#[derive(Clone, Debug)]
pub struct VolunteerOptions {
    pub id: String,
    pub address: String,
    /// 0 is one that the system picks.
    pub port: u16,
    /// What flags do not say.
    pub config: Option<PathBuf>,
    pub store: PathBuf,
    pub token_file: PathBuf,
    pub server: String,
    pub donate: Option<String>,
    pub max_size: Option<String>,
    pub adopt: Vec<PathBuf>,
    /// The URL that clients are told in place of where it listens.
    pub advertise: Option<String>,
}

impl VolunteerOptions {
    /// Volunteer number 1, 2, ... on 127.0.0.2, 127.0.0.3, ..., with a token of its own.
    pub fn new(scratch: &Scratch, server: &Server, number: u8) -> Self {
        let id = format!("v{number}");
        let token_file = scratch.path(&format!("{id}.token"));
        fs::write(&token_file, server.issue_token()).expect("the scratch folder is writable");
        Self {
            address: format!("127.0.0.{}", number + 1),
            port: 0,
            config: None,
            store: scratch.dir(&format!("{id}-store")),
            token_file,
            server: server.base(),
            donate: None,
            max_size: None,
            adopt: Vec::new(),
            advertise: None,
            id,
        }
    }

    pub fn donate(mut self, rate: &str) -> Self {
        self.donate = Some(rate.to_owned());
        self
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["volunteer", "--log", "debug", "--log-format", "json", "--id", &self.id]);
        command.args(["--server", &self.server, "--listen", &format!("{}:{}", self.address, self.port)]);
        command.arg("--store").arg(&self.store).arg("--token-file").arg(&self.token_file);
        let valued =
            [("--donate", &self.donate), ("--max-size", &self.max_size), ("--advertise", &self.advertise)];
        for (flag, value) in valued {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        for tree in &self.adopt {
            command.arg("--adopt").arg(tree);
        }
        command
    }

    /// The names of the blobs in the store, whole ones only.
    pub fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in list(&self.store.join("blobs")) {
            let names = list(&folder).into_iter().filter_map(|f| Some(f.file_name()?.to_str()?.to_owned()));
            found.extend(names.filter(|n| n.len() == 64 && n.bytes().all(|c| c.is_ascii_hexdigit())));
        }
        found.sort();
        found
    }

    /// Where the store keeps a blob.
    pub fn blob_path(&self, sha256: &str) -> PathBuf {
        self.store.join("blobs").join(&sha256[..2]).join(sha256)
    }
}

/// The paths in a folder; none when there is no such folder.
fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|e| e.expect("an entry").path()).collect()
}

/// A running volunteer.
#[derive(Debug)]
pub struct Volunteer {
    pub process: Process,
    pub options: VolunteerOptions,
    /// `host:port` where it serves.
    pub address: String,
    pub ready_at: Instant,
}

impl Volunteer {
    /// Starts it and waits until it listens.
    pub fn start(options: VolunteerOptions) -> Self {
        let process = Process::spawn(&options.id, &mut options.command());
        Self::of_process(process, options)
    }

    /// One that was started otherwise, once it listens.
    pub fn of_process(mut process: Process, options: VolunteerOptions) -> Self {
        let ready = process.wait_message("ready");
        let ready_at = Instant::now();
        let address = ready["listen"].as_str().unwrap_or_else(|| panic!("no listen: {ready}")).to_owned();
        Self { process, options, address, ready_at }
    }

    /// Starts it and waits until the server counts it as up.
    pub fn join(server: &Server, options: VolunteerOptions) -> Self {
        let volunteer = Self::start(options);
        server.wait_until("the volunteer joins", |status| status.state(&volunteer.options.id) == "up");
        volunteer
    }

    /// Starts volunteers 1 to `count` with default options.
    pub fn join_all(scratch: &Scratch, server: &Server, count: u8) -> Vec<Self> {
        let start = |number| Self::start(VolunteerOptions::new(scratch, server, number));
        let all: Vec<Self> = (1..=count).map(start).collect();
        let up = |status: &Status| status.volunteers().iter().filter(|v| v["state"] == "up").count();
        server.wait_until("all volunteers join", |status| up(status) == usize::from(count));
        all
    }

    pub fn id(&self) -> &str {
        &self.options.id
    }

    /// Whether a URL leads here.
    /// The URL under which clients reach it.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn serves(&self, url: &str) -> bool {
        http::split_url(url).0 == self.address
    }
}
