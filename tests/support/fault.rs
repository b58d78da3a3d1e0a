//! What can be wrong with an upstream's answer, and the bytes it then sends.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this status and no file; 429 asks for a minute's rest.
    Status(u16),
    /// The same, but only the next time.
    Once(u16),
    /// The right size, but one byte in the middle differs.
    Damaged,
    /// Another, longer file under the same name.
    Changed,
    /// The connection ends halfway.
    Cut,
    /// The same, but only the next time.
    CutOnce,
    /// The connection is reset halfway.
    Reset,
    /// The same, but only the next time.
    ResetOnce,
    /// Half the file, with a Content-Length that says so.
    Short,
    /// Stops halfway until the fault is taken away.
    Held,
    /// Ten bytes a second from the middle on, until the fault is taken away.
    Crawling,
    /// So many bytes a second.
    Rate(u64),
    /// 302 to another path here that has the file.
    Moved,
    /// 302 to the same path at another host or port.
    To(SocketAddr),
    /// 302 to itself.
    Loop,
    /// Chunked, without Content-Length.
    Chunked,
    /// Chunked, and the connection ends halfway.
    ChunkedCut,
    /// Chunked, and ends halfway as if that were all.
    ShortChunked,
    /// A Content-Length that is one too many.
    TooLong,
    /// 206 for half of it, though nobody asked for a part.
    Part,
    /// Two Content-Length headers that differ.
    TwoLengths,
    /// The file with status 203, as a proxy on the way may call it.
    Proxied,
    /// Compressed on the way, and says so.
    Gzip,
    /// The raw bytes, called gzip.
    Labelled,
    /// A page about something else, with status 200, and of the file's length if that is asked for.
    Page { same_length: bool },
}

/// Where [`Fault::Moved`] leads: the same tree below another name.
pub const MOVED: &str = "/moved";
const PAGE: &[u8] = b"<!DOCTYPE html><html><body>Please log in to use this network.</body></html>\n";
/// Pauses of a limited rate.
const TICK: Duration = Duration::from_millis(10);

/// The request that is answered.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub is_head: bool,
    pub path: &'a str,
    /// First byte wanted, where ranges are given.
    pub from: Option<u64>,
}

/// Things that the answer waits for.
pub trait Waiting {
    /// Whether the fault of the path was taken away within this time.
    fn until_mended(&self, path: &str, at_most: Duration) -> bool;
    /// False when the upstream ends.
    fn pause(&self, time: Duration) -> bool;
}

/// Sends the answer to a request for an existing file; `None` when the connection is over.
pub fn send(
    writer: &mut TcpStream,
    fault: Option<Fault>,
    asked: Asked<'_>,
    body: Vec<u8>,
    waiting: &impl Waiting,
) -> Option<()> {
    let (head, body) = compose(fault, asked, body);
    writer.write_all(head.as_bytes()).ok()?;
    if asked.is_head {
        return Some(());
    }
    match fault {
        Some(Fault::Rate(rate)) => return trickle(writer, rate, &body, waiting),
        Some(Fault::Chunked | Fault::ChunkedCut | Fault::ShortChunked) => {
            return chunks(writer, fault, &body);
        }
        _ => {}
    }
    let (first, second) = body.split_at(body.len() / 2);
    writer.write_all(first).ok()?;
    match fault {
        Some(Fault::Cut | Fault::CutOnce) => return None,
        Some(Fault::Reset | Fault::ResetOnce) => return reset(writer),
        Some(Fault::Held) => drop(waiting.until_mended(asked.path, 2 * super::DEADLINE)),
        Some(Fault::Crawling) => return crawl(writer, second, asked.path, waiting),
        _ => {}
    }
    writer.write_all(second).ok()
}

/// Head and body as the fault has them.
fn compose(fault: Option<Fault>, asked: Asked<'_>, mut body: Vec<u8>) -> (String, Vec<u8>) {
    let (whole, middle) = (body.len(), body.len() / 2);
    let (mut status, mut more) = (200, String::new());
    let from = asked.from.and_then(|from| usize::try_from(from).ok()).filter(|from| *from < whole);
    let from = if fault == Some(Fault::Part) { Some(middle) } else { from };
    match fault {
        Some(Fault::Status(code) | Fault::Once(code)) => (status, body) = (code, Vec::new()),
        Some(Fault::Proxied) => status = 203,
        Some(Fault::Damaged) => body[middle] ^= 0xff,
        Some(Fault::Changed) => body = [b"another edition of ", &body[..]].concat(),
        Some(Fault::Short) => body.truncate(middle),
        Some(Fault::Moved | Fault::Loop) => {
            (status, body) = (302, Vec::new());
            let to = if fault == Some(Fault::Moved) { MOVED } else { "" };
            more = format!("Location: {to}{}\r\n", asked.path);
        }
        Some(Fault::To(address)) => {
            (status, body) = (302, Vec::new());
            more = format!("Location: http://{address}{}\r\n", asked.path);
        }
        Some(Fault::TwoLengths) => more = format!("Content-Length: {middle}\r\n"),
        Some(Fault::Gzip) => body = super::generation::gzip(&body),
        Some(Fault::Page { same_length }) => {
            body = if same_length { PAGE.repeat(whole / PAGE.len() + 1) } else { PAGE.to_vec() };
            body.truncate(if same_length { whole } else { PAGE.len() });
        }
        _ => {}
    }
    if let (Some(from), 200) = (from, status) {
        status = 206;
        more = format!("Content-Range: bytes {from}-{}/{whole}\r\n", whole - 1);
        body.drain(..from);
    }
    if matches!(fault, Some(Fault::Gzip | Fault::Labelled)) {
        more.push_str("Content-Encoding: gzip\r\n");
    }
    if status == 429 {
        more.push_str("Retry-After: 60\r\n");
    }
    let length = match fault {
        Some(Fault::Chunked | Fault::ChunkedCut | Fault::ShortChunked) => {
            "Transfer-Encoding: chunked".to_owned()
        }
        Some(Fault::TooLong) => format!("Content-Length: {}", body.len() + 1),
        _ => format!("Content-Length: {}", body.len()),
    };
    let kind =
        if matches!(fault, Some(Fault::Page { .. })) { "text/html" } else { "application/octet-stream" };
    (format!("HTTP/1.1 {status} status\r\n{length}\r\n{more}Content-Type: {kind}\r\n\r\n"), body)
}

fn crawl(writer: &mut TcpStream, rest: &[u8], path: &str, waiting: &impl Waiting) -> Option<()> {
    for byte in rest {
        writer.write_all(&[*byte]).ok()?;
        if waiting.until_mended(path, Duration::from_millis(100)) {
            return None;
        }
    }
    Some(())
}

fn trickle(writer: &mut TcpStream, rate: u64, body: &[u8], waiting: &impl Waiting) -> Option<()> {
    let begin = std::time::Instant::now();
    let mut sent = 0;
    while sent < body.len() {
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as usize;
        let next = due.min(body.len());
        if next > sent {
            writer.write_all(&body[sent..next]).ok()?;
            sent = next;
        } else if !waiting.pause(TICK) {
            return None;
        }
    }
    Some(())
}

fn chunks(writer: &mut TcpStream, fault: Option<Fault>, body: &[u8]) -> Option<()> {
    let (first, second) = body.split_at(body.len() / 2);
    let second = if fault == Some(Fault::ShortChunked) { b"" } else { second };
    for chunk in [first, second].into_iter().filter(|chunk| !chunk.is_empty()) {
        let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
        writer.write_all(&framed).ok()?;
        if fault == Some(Fault::ChunkedCut) {
            return None;
        }
    }
    writer.write_all(b"0\r\n\r\n").ok()
}

/// Lets the connection end with RST in place of FIN when it is closed: what was sent may be lost on its way too.
fn reset(writer: &mut TcpStream) -> Option<()> {
    let _ = socket2::SockRef::from(&*writer).set_linger(Some(Duration::ZERO));
    None
}
