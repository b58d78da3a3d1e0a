//! A line that lies or is ill: a TCP proxy in a volunteer's namespace, between clients and the volunteer.
//!
//! While it is [`Ill::Not`] it passes bytes on. From the moment it falls ill every running and every later answer
//! suffers; requests pass unharmed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::Host;

/// What is wrong with the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    Not,
    /// Running answers and new requests end with RST.
    Reset,
    /// One connection ends with RST, the first that has something to send; then all is well.
    ResetOnce,
    /// Running answers end; new ones end halfway through the body. Content-Length stays.
    Closes,
    /// The same for one answer; then all is well.
    ClosesOnce,
    /// Every body byte is another one.
    Wrong,
    /// New answers have half the body, and a Content-Length that says so; running ones end.
    Short,
    /// 1000 bytes of body a second.
    Trickles,
    /// Takes requests and connections, and nothing comes any more.
    Frozen,
}

/// Body bytes of one step.
const CHUNK: usize = 4 << 10;
/// A trickle: this many bytes in each pause.
const DRIP: (usize, Duration) = (100, Duration::from_millis(100));
/// Bytes of an answer that wait here.
const RECEIVE: usize = 16 << 10;
/// Bounds a request's head.
const MAX_HEAD: u64 = 32 << 10;

/// A running line; dropping it ends its connections.
#[derive(Debug)]
pub struct Line {
    shared: Arc<Shared>,
    listener: TcpListener,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
    body_bytes: AtomicU64,
}

#[derive(Debug)]
struct State {
    ill: Ill,
    is_over: bool,
    open: Vec<Weak<TcpStream>>,
}

impl Line {
    /// Listens on `port` of the host and passes on to the volunteer at `to`, which is on the same host.
    pub fn start(host: &Host, port: u16, to: u16) -> Self {
        let to = SocketAddr::new(IpAddr::V4(host.address), to);
        // Threads inherit the namespace, and so do the connections that they make to the volunteer.
        host.inside(|| Self::between(host.listen(port).expect("a free port"), to))
    }

    /// The same on this machine, at the next address of loopback; apt avoids the server's own when it fails.
    pub fn on_loopback(volunteer: &str, port: u16) -> Self {
        let to = SocketAddr::new(volunteer.parse().expect("an address"), port);
        Self::between(TcpListener::bind("127.0.0.99:0").expect("an address of loopback"), to)
    }

    /// Where clients are to come.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("it is bound"))
    }

    fn between(listener: TcpListener, to: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            to,
            state: Mutex::new(State { ill: Ill::Not, is_over: false, open: Vec::new() }),
            changed: Condvar::new(),
            body_bytes: AtomicU64::new(0),
        });
        let accepting = listener.try_clone().expect("a socket can be shared");
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in accepting.incoming() {
                let Ok(client) = client else { return };
                let own = Arc::clone(&own);
                std::thread::spawn(move || drop(own.serve(&Arc::new(client))));
            }
        });
        Self { shared, listener }
    }

    pub fn ill(&self) -> Ill {
        self.shared.lock().ill
    }

    pub fn set(&self, ill: Ill) {
        self.shared.lock().ill = ill;
        self.shared.changed.notify_all();
    }

    /// Body bytes that were passed on so far.
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        for stream in state.open.drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

/// The head of an answer, and how long its body is.
struct Head {
    lines: Vec<String>,
    length: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ill(&self) -> Ill {
        self.lock().ill
    }

    /// How the line is for a new answer; what happens once is then over.
    fn take(&self) -> Ill {
        let mut state = self.lock();
        let ill = state.ill;
        match ill {
            Ill::ResetOnce | Ill::ClosesOnce => state.ill = Ill::Not,
            _ => {}
        }
        match ill {
            Ill::ResetOnce => Ill::Reset,
            Ill::ClosesOnce => Ill::Closes,
            ill => ill,
        }
    }

    /// Registers a client's connection, so that it ends with the line.
    fn open(&self, stream: &Arc<TcpStream>) -> io::Result<()> {
        let mut state = self.lock();
        if state.is_over {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        state.open.retain(|open| open.strong_count() > 0);
        state.open.push(Arc::downgrade(stream));
        Ok(())
    }

    /// Waits until the line is over or no longer frozen.
    fn while_frozen(&self) -> io::Result<()> {
        let is_frozen = |state: &mut State| state.ill == Ill::Frozen && !state.is_over;
        let state = self.changed.wait_while(self.lock(), is_frozen).unwrap_or_else(PoisonError::into_inner);
        if state.is_over { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn pause(&self, time: Duration) {
        let is_running = |state: &mut State| !state.is_over && state.ill == Ill::Trickles;
        drop(self.changed.wait_timeout_while(self.lock(), time, is_running));
    }

    fn serve(&self, client: &Arc<TcpStream>) -> io::Result<()> {
        self.open(client)?;
        client.set_nodelay(true)?;
        let mut requests = BufReader::new(&**client);
        let mut volunteer: Option<BufReader<TcpStream>> = None;
        loop {
            let request = read_head(&mut requests)?;
            self.while_frozen()?;
            if matches!(self.ill(), Ill::Reset | Ill::ResetOnce) {
                self.take();
                return reset(client);
            }
            let from = match volunteer.take() {
                Some(open) => open,
                None => BufReader::new(self.connect()?),
            };
            let from = volunteer.insert(from);
            from.get_mut().write_all(join(&request).as_bytes())?;
            let is_head = request.first().is_some_and(|line| line.starts_with("HEAD "));
            self.answer(client, from, is_head)?;
        }
    }

    /// A connection to the volunteer that takes little in advance: what a client does not read the volunteer
    /// has to wait with, as without a line.
    fn connect(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(RECEIVE)?;
        socket.connect(&self.to.into())?;
        Ok(socket.into())
    }

    /// Passes one answer on.
    fn answer(
        &self,
        mut client: &TcpStream,
        from: &mut BufReader<TcpStream>,
        is_head: bool,
    ) -> io::Result<()> {
        let mut head = Head::read(from)?;
        self.while_frozen()?;
        let mut keep = if is_head { 0 } else { head.length };
        // Redirects have no body to spoil.
        let ill = if keep > 0 { self.take() } else { self.ill() };
        if ill == Ill::Short && keep > 0 {
            keep /= 2;
            head.set_length(keep);
        } else if ill == Ill::Closes {
            keep /= 2;
        }
        client.write_all(join(&head.lines).as_bytes())?;
        let mut left = if is_head { 0 } else { head.length };
        let skipped = left - keep;
        while left > skipped {
            left -= self.step(client, from, (left - skipped).min(CHUNK), ill)?;
        }
        if skipped > 0 {
            // The rest stays unread: the connection to the volunteer is of no more use.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Passes some of the body on; `began` is how the line was when the answer began.
    fn step(
        &self,
        mut client: &TcpStream,
        from: &mut BufReader<TcpStream>,
        at_most: usize,
        began: Ill,
    ) -> io::Result<usize> {
        let mut buffer = [0; CHUNK];
        let wanted = if self.ill() == Ill::Trickles { at_most.min(DRIP.0) } else { at_most };
        let read = from.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.while_frozen()?;
        // What this machine has buffered is no part of the line: a volunteer that gives up is heard at once.
        if let Ok(Some(error)) = SockRef::from(from.get_ref()).take_error() {
            reset(client)?;
            return Err(error);
        }
        match self.ill() {
            Ill::Reset => reset(client)?,
            Ill::ResetOnce => {
                self.take();
                reset(client)?;
            }
            Ill::Closes | Ill::Short | Ill::ClosesOnce if began != self.ill() => {
                self.take();
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Ill::Wrong => buffer[..read].iter_mut().for_each(|byte| *byte ^= 0xff),
            Ill::Trickles => self.pause(DRIP.1),
            _ => {}
        }
        client.write_all(&buffer[..read])?;
        self.body_bytes.fetch_add(read as u64, Ordering::SeqCst);
        Ok(read)
    }
}

impl Head {
    fn read(from: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let lines = read_head(from)?;
        let length = lines.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        Ok(Self { length: length.unwrap_or(0), lines })
    }

    fn set_length(&mut self, length: usize) {
        let is_length = |line: &str| line.to_ascii_lowercase().starts_with("content-length:");
        for line in self.lines.iter_mut().filter(|line| is_length(line)) {
            *line = format!("Content-Length: {length}");
        }
    }
}

/// The lines of a head, without the empty one.
fn read_head(from: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut limited = from.take(MAX_HEAD);
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

fn join(lines: &[String]) -> String {
    lines.join("\r\n") + "\r\n\r\n"
}

/// RST in place of FIN.
fn reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    Err(io::ErrorKind::ConnectionReset.into())
}
