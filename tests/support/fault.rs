//! What can be wrong with an upstream's answer, and the bytes it then sends.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this status and no file.
    Status(u16),
    /// The same, but only the next time.
    Once(u16),
    /// The right size, but one byte in the middle differs.
    Damaged,
    /// Another, longer file under the same name.
    Changed,
    /// The connection ends halfway.
    Cut,
    /// The connection is reset halfway.
    Reset,
    /// Half the file, with a Content-Length that says so.
    Short,
    /// Stops halfway until the fault is taken away.
    Held,
    /// So many bytes a second.
    Rate(u64),
    /// 302 to another path here that has the file.
    Moved,
    /// 302 to itself.
    Loop,
    /// Chunked, without Content-Length.
    Chunked,
    /// Chunked, and the connection ends halfway.
    ChunkedCut,
    /// Two Content-Length headers that differ.
    TwoLengths,
    /// Compressed on the way, and says so.
    Gzip,
    /// A page about something else, with status 200.
    Html,
}

/// Where [`Fault::Moved`] leads: the same tree below another name.
pub const MOVED: &str = "/moved";
const PAGE: &[u8] = b"<!DOCTYPE html><html><body>Please log in to use this network.</body></html>\n";
/// Pauses of a limited rate.
const TICK: Duration = Duration::from_millis(10);

/// Things that the answer waits for.
pub trait Waiting {
    /// Until the fault of the path is taken away.
    fn until_mended(&self, path: &str);
    /// False when the upstream ends.
    fn pause(&self, time: Duration) -> bool;
}

/// Sends the answer to a request for an existing file; `None` when the connection is over.
pub fn send(
    writer: &mut TcpStream,
    fault: Option<Fault>,
    (method, path): (&str, &str),
    mut body: Vec<u8>,
    waiting: &impl Waiting,
) -> Option<()> {
    let middle = body.len() / 2;
    let mut status = 200;
    let mut more = String::new();
    match fault {
        Some(Fault::Status(code) | Fault::Once(code)) => (status, body) = (code, Vec::new()),
        Some(Fault::Damaged) => body[middle] ^= 0xff,
        Some(Fault::Changed) => body = [b"another edition of ", &body[..]].concat(),
        Some(Fault::Short) => body.truncate(middle),
        Some(Fault::Moved) => {
            (status, body) = (302, Vec::new());
            more = format!("Location: {MOVED}{path}\r\n");
        }
        Some(Fault::Loop) => {
            (status, body) = (302, Vec::new());
            more = format!("Location: {path}\r\n");
        }
        Some(Fault::TwoLengths) => more = format!("Content-Length: {}\r\n", body.len() / 2),
        Some(Fault::Gzip) => {
            body = super::generation::gzip(&body);
            more = "Content-Encoding: gzip\r\n".to_owned();
        }
        Some(Fault::Html) => body = PAGE.to_vec(),
        _ => {}
    }
    let is_chunked = matches!(fault, Some(Fault::Chunked | Fault::ChunkedCut));
    let length = match is_chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {}", body.len()),
    };
    let kind = if fault == Some(Fault::Html) { "text/html" } else { "application/octet-stream" };
    let head = format!("HTTP/1.1 {status} status\r\n{length}\r\n{more}Content-Type: {kind}\r\n\r\n");
    writer.write_all(head.as_bytes()).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    match fault {
        Some(Fault::Rate(rate)) => return trickle(writer, rate, &body, waiting),
        Some(Fault::Chunked | Fault::ChunkedCut) => return chunks(writer, fault, &body),
        _ => {}
    }
    let (first, second) = body.split_at(body.len() / 2);
    writer.write_all(first).ok()?;
    match fault {
        Some(Fault::Cut) => return None,
        Some(Fault::Reset) => return reset(writer),
        Some(Fault::Held) => waiting.until_mended(path),
        _ => {}
    }
    writer.write_all(second).ok()
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
