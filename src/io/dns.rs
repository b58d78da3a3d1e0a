//! Sockets of a name server: UDP and TCP (RFC 1035 section 4.2, RFC 7766). The caller makes the answers.
//!
//! Bounded: length of a message, TCP connections, their time. Each UDP message is answered before the next is
//! read, so the kernel's buffer is the queue, and what does not fit into it is asked again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::listen;
use crate::formats::zone::Transport;

/// Longest question read: a name and EDNS options need some 300 bytes.
const MAX_MESSAGE: usize = 4096;
/// TCP is for answers that do not fit into UDP, which ours do, but for the longest names.
const MAX_CONNECTIONS: usize = 64;
/// Connections that the kernel holds for us.
const BACKLOG: i32 = 64;
/// What a connection gets in all; resolvers ask as soon as they have connected.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Pause after an error that is not one peer's.
const PAUSE: Duration = Duration::from_millis(100);

/// Bound sockets.
#[derive(Debug)]
pub struct Sockets(Vec<(UdpSocket, TcpListener)>);

impl Sockets {
    /// Binds UDP and TCP at every address; with port 0 both get the same free one.
    pub fn bind(addresses: &[SocketAddr]) -> io::Result<Self> {
        let one = |&address: &SocketAddr| {
            let problem = |e: io::Error| io::Error::new(e.kind(), format!("cannot answer on {address}: {e}"));
            let listener = tcp(address).map_err(problem)?;
            let socket = udp(listener.local_addr()?).map_err(problem)?;
            Ok((socket, listener))
        };
        addresses.iter().map(one).collect::<io::Result<_>>().map(Self)
    }

    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.0.iter().map(|(socket, _)| socket.local_addr()).collect()
    }

    /// Answers until it is dropped. `answer` must be quick; what gets `None` gets no answer.
    pub async fn serve<F>(self, answer: F)
    where
        F: Fn(&[u8], Transport) -> Option<Vec<u8>> + Clone + Send + Sync + 'static,
    {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut loops = tokio::task::JoinSet::new();
        for (socket, listener) in self.0 {
            loops.spawn(datagrams(socket, answer.clone()));
            loops.spawn(connections(listener, permits.clone(), answer.clone()));
        }
        while loops.join_next().await.is_some() {}
    }
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = shared(address, Type::DGRAM, Protocol::UDP)?;
    UdpSocket::from_std(socket.into())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = shared(address, Type::STREAM, Protocol::TCP)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A bound socket that another process may have too: the one that takes over binds it before this one ends.
fn shared(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = listen::unbound(address, kind, protocol)?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn datagrams(socket: UdpSocket, answer: impl Fn(&[u8], Transport) -> Option<Vec<u8>>) {
    let mut message = vec![0; MAX_MESSAGE];
    loop {
        match socket.recv_from(&mut message).await {
            Ok((length, peer)) => {
                if let Some(answer) = answer(&message[..length], Transport::Udp)
                    && let Err(e) = socket.send_to(&answer, peer).await
                {
                    tracing::trace!(%peer, error = %e, "answer not sent");
                }
            }
            // An earlier answer found nobody.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(e) => {
                tracing::warn!(error = %e, "cannot read questions; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connections<F>(listener: TcpListener, permits: Arc<Semaphore>, answer: F)
where
    F: Fn(&[u8], Transport) -> Option<Vec<u8>> + Clone + Send + Sync + 'static,
{
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!(error = %e, "cannot accept a connection for DNS; trying again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            // However it ends, the peer asks again if it still wants to know.
            let _ = tokio::time::timeout(CONNECTION_TIME, converse(stream, answer)).await;
            drop(permit);
        });
    }
}

/// Each message has its length before it, in two bytes.
async fn converse(
    mut stream: TcpStream,
    answer: impl Fn(&[u8], Transport) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let mut message = vec![0; MAX_MESSAGE];
    loop {
        let length = usize::from(stream.read_u16().await?);
        let Some(message) = message.get_mut(..length) else { return Ok(()) };
        stream.read_exact(message).await?;
        let Some(answer) = answer(message, Transport::Tcp) else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let whole = [&length.to_be_bytes()[..], &answer].concat();
        stream.write_all(&whole).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the message turned round; not at all if it is empty.
    async fn serve() -> SocketAddr {
        let sockets = Sockets::bind(&["127.0.0.1:0".parse().expect("an address")]).expect("a free port");
        let address = sockets.local_addresses().expect("bound")[0];
        let answer = |message: &[u8], _| {
            let turned: Vec<u8> = message.iter().rev().copied().collect();
            (!turned.is_empty()).then_some(turned)
        };
        tokio::spawn(sockets.serve(answer));
        address
    }

    #[tokio::test]
    async fn udp_and_tcp_have_one_port() {
        let address = serve().await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        // What gets no answer does not disturb the next one.
        for message in [&b""[..], b"abc"] {
            socket.send_to(message, address).await.expect("sent");
        }
        let mut buffer = [0; 10];
        let (length, from) = socket.recv_from(&mut buffer).await.expect("an answer");
        assert_eq!((&buffer[..length], from), (&b"cba"[..], address));

        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(b"\0\x03abc\0\x02de").await.expect("sent");
        let mut answers = [0; 9];
        stream.read_exact(&mut answers).await.expect("answers");
        assert_eq!(&answers, b"\0\x03cba\0\x02ed");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_waste_time_or_room_are_closed() {
        let address = serve().await;
        for sent in [&b""[..], b"\0", b"\x10\x01", b"\0\x05abc", b"\0\0"] {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            stream.write_all(sent).await.expect("sent");
            let mut rest = Vec::new();
            // Closed with unread bytes it is a reset.
            let ended = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty() && !matches!(ended, Ok(1..)), "{sent:?}: {rest:?}");
        }
    }
}
