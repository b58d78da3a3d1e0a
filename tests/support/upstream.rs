//! An upstream mirror that counts: plain files over HTTP, as bare as some real mirrors are (Content-Length,
//! but no Last-Modified, no ETag, ranges only if told so), with faults on request.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::fault::{self, Fault};

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    has_ranges: AtomicBool,
    faults: Mutex<BTreeMap<String, Fault>>,
    /// What is wrong with every path that has no fault of its own.
    outage: Mutex<Option<Fault>>,
    faults_changed: Condvar,
    manners: Mutex<Manners>,
    stopped: AtomicBool,
}

/// How it treats every request.
#[derive(Debug, Default)]
struct Manners {
    /// A plain `+` in a path means a space, as at S3.
    plus_is_space: bool,
    /// The only `Authorization` that is let in.
    demands: Option<String>,
    limit: Option<Limit>,
    /// The next requests are answered with 429, whenever they come, with these `Retry-After` in seconds or none.
    too_many: VecDeque<Option<u64>>,
}

/// A host that has had too many requests: 429 with `Retry-After` from the first request on, and who asks too early
/// has to wait as long again.
#[derive(Debug)]
struct Limit {
    length: Duration,
    until: Option<Instant>,
    refused: usize,
}

impl Limit {
    fn refuses(&mut self) -> bool {
        let now = Instant::now();
        if self.until.is_some_and(|until| until <= now) {
            return false;
        }
        self.until = Some(now + self.length);
        self.refused += 1;
        true
    }
}

#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    /// First byte of `Range: bytes=N-`.
    from: Option<u64>,
    authorization: Option<String>,
}

/// A running upstream; dropping it closes the port.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    pub fn start(root: &Path) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").expect("a free port"), root)
    }

    pub fn start_on(listener: TcpListener, root: &Path) -> Self {
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared::default());
        let (root, to_serve) = (root.to_owned(), Arc::clone(&shared));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if to_serve.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (root, shared) = (root.clone(), Arc::clone(&to_serve));
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve(stream, &root, &shared));
                }
            }
        });
        Self { address, shared }
    }

    /// The URL of a path without leading slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// How often a path was fetched with GET.
    pub fn gets(&self, path: &str) -> usize {
        self.starts(path).len()
    }

    /// Where each GET of a path began: `None` is the whole.
    pub fn starts(&self, path: &str) -> Vec<Option<u64>> {
        let requests = self.shared.requests.lock().expect("no server thread panics");
        let is_it = |r: &&Request| r.method == "GET" && r.path.strip_prefix('/') == Some(path);
        requests.iter().filter(is_it).map(|r| r.from).collect()
    }

    /// Answers `Range: bytes=N-` with 206 from now on.
    pub fn give_ranges(&self) {
        self.shared.has_ranges.store(true, Ordering::SeqCst);
    }

    /// All paths fetched with GET that end so.
    pub fn gets_ending(&self, ending: &str) -> Vec<String> {
        let requests = self.shared.requests.lock().expect("no server thread panics");
        let wanted = requests.iter().filter(|r| r.method == "GET" && r.path.ends_with(ending));
        wanted.map(|r| r.path.clone()).collect()
    }

    /// Breaks a path, or mends it.
    pub fn set_fault(&self, path: &str, fault: Option<Fault>) {
        let mut faults = self.shared.faults.lock().expect("no server thread panics");
        match fault {
            Some(fault) => faults.insert(format!("/{path}"), fault),
            None => faults.remove(&format!("/{path}")),
        };
        self.shared.faults_changed.notify_all();
    }
}

impl Upstream {
    /// Reads a plain `+` in paths as a space from now on.
    pub fn read_plus_as_space(&self) {
        self.manners(|manners| manners.plus_is_space = true);
    }

    /// Answers 401 to everyone without this `Authorization`.
    pub fn demand(&self, authorization: &str) {
        self.manners(|manners| manners.demands = Some(authorization.to_owned()));
    }

    /// Answers 429 to everything from the next request on, until so long nobody has asked.
    pub fn limit(&self, length: Duration) {
        self.manners(|manners| manners.limit = Some(Limit { length, until: None, refused: 0 }));
    }

    /// Answers the next requests with 429, whenever they come, with these `Retry-After` in seconds or none.
    pub fn refuse_next(&self, retry_after: &[Option<u64>]) {
        self.manners(|manners| manners.too_many = retry_after.iter().copied().collect());
    }

    /// How many requests the limit has refused.
    pub fn refused(&self) -> usize {
        self.manners(|manners| manners.limit.as_ref().map_or(0, |limit| limit.refused))
    }

    /// The `Authorization` of every request, empty where there was none.
    pub fn authorizations(&self) -> Vec<String> {
        let requests = self.shared.requests.lock().expect("no server thread panics");
        requests.iter().map(|request| request.authorization.clone().unwrap_or_default()).collect()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn manners<T>(&self, with: impl FnOnce(&mut Manners) -> T) -> T {
        with(&mut self.shared.manners.lock().expect("no server thread panics"))
    }

    /// The same fault for every path without one of its own, or the end of that.
    pub fn set_outage(&self, fault: Option<Fault>) {
        *self.shared.outage.lock().expect("no server thread panics") = fault;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.faults.lock().expect("no server thread panics").clear();
        self.shared.faults_changed.notify_all();
        // Wakes the accepting thread, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, root: &Path, shared: &Shared) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    loop {
        let Some(request) = read_request(&mut reader) else { return };
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        shared.requests.lock().expect("no server thread panics").push(request.clone());
        if answer(&mut writer, root, &request, shared).is_none() {
            return;
        }
    }
}

/// Answers one request; `None` when the connection is over.
fn answer(writer: &mut TcpStream, root: &Path, request: &Request, shared: &Shared) -> Option<()> {
    let Request { method, path, from, authorization } = request;
    let fault = shared.fault_of(path);
    let mut manners = shared.manners.lock().expect("no server thread panics");
    let path_read = if manners.plus_is_space { path.replace('+', " ") } else { path.clone() };
    let is_stranger = manners.demands.is_some() && manners.demands != *authorization;
    let limit = manners.limit.as_mut().filter(|_| !is_stranger);
    let limit = limit.and_then(|limit| limit.refuses().then_some(limit.length));
    let refusal = limit.map(|length| (429, format!("Retry-After: {}\r\n", length.as_secs())));
    let refusal = refusal.or_else(|| {
        let wait = manners.too_many.pop_front()?;
        Some((429, wait.map_or(String::new(), |secs| format!("Retry-After: {secs}\r\n"))))
    });
    let refusal = refusal.or(is_stranger.then(|| (401, "WWW-Authenticate: Basic\r\n".to_owned())));
    drop(manners);
    if let Some((status, more)) = refusal {
        let head = format!("HTTP/1.1 {status} status\r\n{more}Content-Length: 0\r\n\r\n");
        return writer.write_all(head.as_bytes()).ok();
    }
    let file = decoded(path_read.strip_prefix(fault::MOVED).unwrap_or(&path_read));
    let asked = fault::Asked {
        is_head: method == "HEAD",
        path,
        from: from.filter(|_| shared.has_ranges.load(Ordering::SeqCst)),
    };
    match file.and_then(|name| std::fs::read(root.join(name)).ok()) {
        Some(bytes) => fault::send(writer, fault, asked, bytes, shared),
        None if matches!(fault, Some(Fault::Status(_))) => {
            fault::send(writer, fault, asked, Vec::new(), shared)
        }
        None => fault::send(writer, Some(Fault::Status(404)), asked, Vec::new(), shared),
    }
}

impl Shared {
    /// What is wrong this time.
    fn fault_of(&self, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().expect("no server thread panics");
        let fault = faults.get(path).copied();
        if let Some(Fault::Once(_) | Fault::CutOnce | Fault::ResetOnce) = fault {
            faults.remove(path);
        }
        fault.or(*self.outage.lock().expect("no server thread panics"))
    }
}

impl fault::Waiting for Shared {
    fn until_mended(&self, path: &str, at_most: Duration) -> bool {
        let faults = self.faults.lock().expect("no server thread panics");
        let held = |faults: &mut BTreeMap<String, Fault>| faults.contains_key(path);
        let waited = self.faults_changed.wait_timeout_while(faults, at_most, held);
        !waited.expect("no server thread panics").1.timed_out()
    }

    fn pause(&self, time: Duration) -> bool {
        let faults = self.faults.lock().expect("no server thread panics");
        let going = |_: &mut BTreeMap<String, Fault>| !self.stopped.load(Ordering::SeqCst);
        drop(self.faults_changed.wait_timeout_while(faults, time, going).expect("no server thread panics"));
        !self.stopped.load(Ordering::SeqCst)
    }
}

/// The next request.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let range = |line: &String| {
        let (name, value) = line.split_once(':')?;
        let range = name.eq_ignore_ascii_case("range").then_some(value)?;
        range.trim().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    };
    let authorization = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
    });
    Some(Request { method, path, from: lines.iter().find_map(range), authorization })
}

/// The file a request path names.
fn decoded(path: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = path.strip_prefix('/')?.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = more.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.split('/').any(|segment| segment == "..")).then(|| PathBuf::from(text))
}
