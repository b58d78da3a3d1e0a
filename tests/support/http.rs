//! A small blocking HTTP/1.1 client that shows exactly what a server sent: no retries, no redirects of its
//! own, no decoding except chunked bodies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// No answer for this long is a failure.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the body was complete.
    pub cut: bool,
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// A header that must be there.
    pub fn must(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {} {:?}", self.status, self.headers))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails unless the status is this one.
    pub fn expect(self, status: u16) -> Self {
        let body: String = self.text().chars().take(200).collect();
        assert_eq!(self.status, status, "{:?}\n{body}", self.headers);
        self
    }
}

/// The next of 127.128.0.0/9, which volunteers and peers of the tests do not use.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() << 12);
    Ipv4Addr::from(0x7f80_0001 + number % 0x007f_0000)
}

fn connect(address: &str, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let to = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    if !matches!(to, SocketAddr::V4(to) if to.ip().is_loopback()) {
        return TcpStream::connect(to);
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// One connection.
pub struct Conn {
    reader: BufReader<TcpStream>,
    host: String,
}

impl Conn {
    /// Connects to `host:port`.
    pub fn open(address: &str) -> Self {
        Self::try_open(address).unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"))
    }

    /// From an address of its own, where the machine's loopback has one to give: a server that remembers
    /// who asked for what takes every connection for another client.
    pub fn try_open(address: &str) -> std::io::Result<Self> {
        Self::over(connect(address, own_address())?, address)
    }

    /// From this address: one client that comes back.
    pub fn open_as(client: &str, address: &str) -> Self {
        let client = client.parse().expect("an address");
        let stream = connect(address, client).unwrap_or_else(|e| panic!("{client} to {address}: {e}"));
        Self::over(stream, address).expect("a socket takes its options")
    }

    fn over(stream: TcpStream, address: &str) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream), host: address.to_owned() })
    }

    /// Writes bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// The text of one request.
    pub fn request_text(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text + "\r\n"
    }

    /// Sends one request and reads its answer.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        let text = self.request_text(method, target, headers);
        self.send(text.as_bytes()).unwrap_or_else(|e| panic!("{method} {target}: {e}"));
        self.read_response(method == "HEAD").unwrap_or_else(|e| panic!("{method} {target}: {e}"))
    }

    /// Reads the next answer; `head` when it has no body whatever its headers say.
    pub fn read_response(&mut self, head: bool) -> std::io::Result<Response> {
        let (status, headers) = self.read_head()?;
        let mut response = Response { status, headers, body: Vec::new(), cut: false };
        if head || status == 304 || status == 204 {
            return Ok(response);
        }
        let chunked = response.header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
        if chunked {
            self.read_chunks(&mut response)?;
        } else if let Some(length) = response.header("content-length") {
            let length: u64 = length.parse().expect("Content-Length is a number");
            let read = Read::by_ref(&mut self.reader).take(length).read_to_end(&mut response.body);
            response.cut = read.is_err() || response.body.len() as u64 != length;
        } else {
            self.reader.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    /// Reads one status line and headers, and leaves the body to the caller.
    pub fn read_head(&mut self) -> std::io::Result<(u16, Vec<(String, String)>)> {
        let bad = |line: &str| std::io::Error::other(format!("not an HTTP answer: {line:?}"));
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.filter(|_| line.starts_with("HTTP/1.1 ")).ok_or_else(|| bad(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads some body bytes after [`Self::read_head`]; 0 at the end of the connection.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer)
    }

    /// Whether the peer has closed: nothing more to read.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.fill_buf(), Ok([]) | Err(_))
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn read_chunks(&mut self, response: &mut Response) -> std::io::Result<()> {
        loop {
            let Ok(line) = self.line() else {
                response.cut = true;
                return Ok(());
            };
            let size = u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
            let size = size.map_err(|e| std::io::Error::other(format!("chunk size {line:?}: {e}")))?;
            let before = response.body.len() as u64;
            let read = Read::by_ref(&mut self.reader).take(size).read_to_end(&mut response.body);
            if read.is_err() || response.body.len() as u64 - before != size || self.line().is_err() {
                response.cut = true;
                return Ok(());
            }
            if size == 0 {
                return Ok(());
            }
        }
    }
}

/// `http://host:port/path` as (`host:port`, `/path`).
pub fn split_url(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("not an http URL: {url}"));
    let slash = rest.find('/').unwrap_or_else(|| panic!("no path: {url}"));
    rest.split_at(slash)
}

/// One request on a connection of its own; redirects are not followed.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Response {
    let (address, target) = split_url(url);
    Conn::open(address).ask(method, target, &[headers, &[("Connection", "close")]].concat())
}

/// The same GET for where the connection may break before the answer begins.
pub fn try_get(url: &str) -> std::io::Result<Response> {
    let (address, target) = split_url(url);
    let mut connection = Conn::try_open(address)?;
    // Longer than any patience of a server's.
    connection.reader.get_ref().set_read_timeout(Some(3 * TIMEOUT))?;
    let text = connection.request_text("GET", target, &[("Connection", "close")]);
    connection.send(text.as_bytes())?;
    connection.read_response(false)
}

/// GET from this address, as a client that comes back.
pub fn get_as(client: &str, url: &str, headers: &[(&str, &str)]) -> Response {
    let (address, target) = split_url(url);
    let headers = [headers, &[("Connection", "close")]].concat();
    Conn::open_as(client, address).ask("GET", target, &headers)
}

pub fn get(url: &str) -> Response {
    request("GET", url, &[])
}

pub fn head(url: &str) -> Response {
    request("HEAD", url, &[])
}

/// Follows up to 6 redirects, as dnf and zypper do; the answer and every URL asked.
pub fn fetch_following(url: &str, headers: &[(&str, &str)]) -> (Response, Vec<String>) {
    let mut urls = vec![url.to_owned()];
    loop {
        let last = urls.last().expect("never empty");
        let response = request("GET", last, headers);
        if response.status != 302 {
            return (response, urls);
        }
        assert!(urls.len() <= 6, "redirected too often: {urls:?}");
        let next = response.must("location").to_owned();
        urls.push(next);
    }
}

/// The bytes behind a URL, by whatever redirects; fails unless they come whole.
pub fn fetch(url: &str) -> Vec<u8> {
    let (response, urls) = fetch_following(url, &[]);
    assert!(response.status == 200 && !response.cut, "{} cut {}: {urls:?}", response.status, response.cut);
    response.body
}
