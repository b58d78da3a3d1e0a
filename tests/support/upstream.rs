//! An upstream mirror that counts: plain files over HTTP, as bare as some real mirrors are (Content-Length,
//! but no Last-Modified, no ETag, no ranges), with faults on request.

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
    /// Answered with this status and no file.
    Status(u16),
    /// The right size, but one byte in the middle differs.
    Damaged,
    /// The connection ends halfway.
    Cut,
    /// Stops halfway until the fault is taken away.
    Held,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<(String, String)>>,
    faults: Mutex<BTreeMap<String, Fault>>,
    faults_changed: Condvar,
    stopped: AtomicBool,
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
        let wanted = ("GET".to_owned(), format!("/{path}"));
        self.shared.requests.lock().expect("no server thread panics").iter().filter(|r| **r == wanted).count()
    }

    /// All paths fetched with GET that end so.
    pub fn gets_ending(&self, ending: &str) -> Vec<String> {
        let requests = self.shared.requests.lock().expect("no server thread panics");
        let wanted = requests.iter().filter(|(method, path)| method == "GET" && path.ends_with(ending));
        wanted.map(|(_, path)| path.clone()).collect()
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
        let Some((method, path)) = read_request(&mut reader) else { return };
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        shared.requests.lock().expect("no server thread panics").push((method.clone(), path.clone()));
        if answer(&mut writer, root, &method, &path, shared).is_none() {
            return;
        }
    }
}

/// Answers one request; `None` when the connection is over.
fn answer(writer: &mut TcpStream, root: &Path, method: &str, path: &str, shared: &Shared) -> Option<()> {
    let fault = shared.faults.lock().expect("no server thread panics").get(path).copied();
    let file = decoded(path).and_then(|name| std::fs::read(root.join(name)).ok());
    let (status, mut body) = match (fault, file) {
        (Some(Fault::Status(status)), _) => (status, Vec::new()),
        (_, Some(bytes)) => (200, bytes),
        (_, None) => (404, b"no such file\n".to_vec()),
    };
    let middle = body.len() / 2;
    if fault == Some(Fault::Damaged) {
        body[middle] ^= 0xff;
    }
    let head = format!(
        "HTTP/1.1 {status} status\r\nContent-Length: {}\r\nContent-Type: application/octet-stream\r\n\r\n",
        body.len()
    );
    writer.write_all(head.as_bytes()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    writer.write_all(&body[..middle]).ok()?;
    match fault {
        Some(Fault::Cut) => return None,
        Some(Fault::Held) => shared.wait_until_mended(path),
        _ => {}
    }
    writer.write_all(&body[middle..]).ok()
}

impl Shared {
    fn wait_until_mended(&self, path: &str) {
        let faults = self.faults.lock().expect("no server thread panics");
        let held = |faults: &mut BTreeMap<String, Fault>| faults.contains_key(path);
        drop(
            self.faults_changed
                .wait_timeout_while(faults, super::DEADLINE, held)
                .expect("no server thread panics"),
        );
    }
}

/// Method and path of the next request.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, String)> {
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
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
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
