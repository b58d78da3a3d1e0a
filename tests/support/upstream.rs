//! An upstream mirror that counts: plain files over HTTP, as bare as some real mirrors are (Content-Length,
//! but no Last-Modified, no ETag, ranges only if told so), with faults on request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this status and no file; 429 asks for a minute's rest.
    Status(u16),
    /// The right size, but one byte in the middle differs.
    Damaged,
    /// The connection ends halfway.
    Cut,
    /// The same, once.
    CutOnce,
    /// The connection is reset halfway, once.
    Reset,
    /// Stops halfway until the fault is taken away.
    Held,
    /// A few bytes a second from the middle on, until the fault is taken away.
    Crawling,
    /// Whole, in chunks, without a length.
    Chunked,
    /// Ends halfway in chunks, as if that were all.
    ShortChunked,
    /// Calls the raw bytes gzip.
    Labelled,
    /// 206 for half of it, though nobody asked for a part.
    Part,
    /// 200 with a page in HTML, of the right length if that is asked for.
    Page { same_length: bool },
    /// 200 with a length that is one too many.
    TooLong,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    has_ranges: AtomicBool,
    faults: Mutex<BTreeMap<String, Fault>>,
    faults_changed: Condvar,
    stopped: AtomicBool,
}

#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    /// First byte of `Range: bytes=N-`.
    from: Option<u64>,
}

/// A running upstream; dropping it closes the port.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
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
    let Request { method, path, from } = request;
    let fault = shared.faults.lock().expect("no server thread panics").get(path).copied();
    let file = decoded(path).and_then(|name| std::fs::read(root.join(name)).ok());
    let (mut status, mut body) = match (fault, file) {
        (Some(Fault::Status(status)), _) => (status, Vec::new()),
        (_, Some(bytes)) => (200, bytes),
        (_, None) => (404, b"no such file\n".to_vec()),
    };
    let whole = body.len();
    if let Some(from) = from.and_then(|from| usize::try_from(from).ok())
        && shared.has_ranges.load(Ordering::SeqCst)
        && status == 200
        && from < whole
    {
        status = 206;
        body.drain(..from);
    }
    let mut more = match status {
        429 => "Retry-After: 60\r\n".to_owned(),
        206 => format!("Content-Range: bytes {}-{}/{whole}\r\n", whole - body.len(), whole - 1),
        _ => String::new(),
    };
    let middle = body.len() / 2;
    let mut length = format!("Content-Length: {}\r\n", body.len());
    match fault {
        Some(Fault::Damaged) => body[middle] ^= 0xff,
        Some(Fault::Labelled) => more.push_str("Content-Encoding: gzip\r\n"),
        Some(Fault::TooLong) => length = format!("Content-Length: {}\r\n", body.len() + 1),
        Some(Fault::Chunked | Fault::ShortChunked) => length = "Transfer-Encoding: chunked\r\n".to_owned(),
        Some(Fault::Part) => {
            status = 206;
            more = format!("Content-Range: bytes {middle}-{}/{whole}\r\n", whole - 1);
            body.drain(..middle);
            length = format!("Content-Length: {}\r\n", body.len());
        }
        Some(Fault::Page { same_length }) => {
            body = b"<html>come back later</html>".repeat(body.len() / 28 + 1);
            body.truncate(if same_length { whole } else { 28 });
            length = format!("Content-Length: {}\r\n", body.len());
        }
        _ => {}
    }
    let head =
        format!("HTTP/1.1 {status} status\r\n{length}{more}Content-Type: application/octet-stream\r\n\r\n");
    writer.write_all(head.as_bytes()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    send(writer, &body, fault, path, shared)
}

/// Sends a body the way that the fault says.
fn send(
    writer: &mut TcpStream,
    body: &[u8],
    fault: Option<Fault>,
    path: &str,
    shared: &Shared,
) -> Option<()> {
    let middle = body.len() / 2;
    if let Some(Fault::Chunked | Fault::ShortChunked) = fault {
        let is_short = fault == Some(Fault::ShortChunked);
        for part in if is_short { &body[..middle] } else { body }.chunks(10_000) {
            write!(writer, "{:x}\r\n", part.len()).ok()?;
            writer.write_all(part).ok()?;
            writer.write_all(b"\r\n").ok()?;
        }
        return writer.write_all(b"0\r\n\r\n").ok();
    }
    let middle = middle.min(body.len());
    writer.write_all(&body[..middle]).ok()?;
    match fault {
        Some(Fault::Cut) => return None,
        Some(Fault::CutOnce | Fault::Reset) => {
            shared.faults.lock().expect("no server thread panics").remove(path);
            if fault == Some(Fault::Reset) {
                // Closing with unsent bytes thrown away sends RST (socket(7), SO_LINGER).
                socket2::SockRef::from(&*writer).set_linger(Some(Duration::ZERO)).ok()?;
            }
            return None;
        }
        Some(Fault::Held) => shared.wait_until_mended(path, super::DEADLINE),
        Some(Fault::Crawling) => {
            for byte in &body[middle..] {
                writer.write_all(&[*byte]).ok()?;
                if shared.wait_until_mended(path, Duration::from_millis(100)) {
                    return None;
                }
            }
            return Some(());
        }
        _ => true,
    };
    writer.write_all(&body[middle..]).ok()
}

impl Shared {
    /// Whether the fault was taken away within this time.
    fn wait_until_mended(&self, path: &str, at_most: Duration) -> bool {
        let faults = self.faults.lock().expect("no server thread panics");
        let held = |faults: &mut BTreeMap<String, Fault>| faults.contains_key(path);
        let waited = self.faults_changed.wait_timeout_while(faults, at_most, held);
        !waited.expect("no server thread panics").1.timed_out()
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
    Some(Request { method, path, from: lines.iter().find_map(range) })
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
