//! Tunnels for CONNECT (RFC 9110 section 9.3.6): bytes both ways, unread.
//!
//! Bounded: tunnels in all and per client, time to connect, silence. A tunnel ends with the process: what
//! runs through it is not known, so nothing waits for it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::inside::is_inside;
use super::listen;

/// Tunnels at a time. Each holds two descriptors and two buffers.
const MAX_TUNNELS: usize = 512;
/// Of one client; a site behind one address has more than one machine.
const MAX_PER_CLIENT: usize = 64;
/// To resolve and to connect, all addresses together. Below apt's 30 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Addresses tried of one name.
const MAX_ADDRESSES: usize = 8;
/// A tunnel without a byte in either direction for this long is closed, at the latest after twice as long.
const SILENCE: Duration = Duration::from_secs(120);
const BUFFER: usize = 16 << 10;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("it is an address of this server's own network; list the address itself to allow it")]
    Inside,
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    #[error("{0}")]
    Failed(#[from] io::Error),
}

/// The number of tunnels of each client.
#[derive(Clone, Debug, Default)]
pub struct Tunnels(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// The right to one tunnel, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    tunnels: Tunnels,
    client: IpAddr,
}

impl Tunnels {
    /// `None` when the client, or all together, have as many as they may.
    pub fn enter(&self, client: IpAddr) -> Option<Slot> {
        let client = site(client);
        let mut open = self.lock();
        let own = open.get(&client).copied().unwrap_or(0);
        if own >= MAX_PER_CLIENT || open.values().sum::<usize>() >= MAX_TUNNELS {
            return None;
        }
        open.insert(client, own + 1);
        Some(Slot { tunnels: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.tunnels.lock();
        match open.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(open.remove(&self.client)),
        }
    }
}

/// Who counts as one client: an IPv4 address, or the /64 that one IPv6 host has to itself.
pub fn site(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

/// Connects to a host; to an address of our own network only if `is_listed` says so. The addresses that
/// were looked at are those connected to: a name cannot change in between.
pub async fn dial(
    host: &str,
    port: u16,
    is_listed: impl Fn(SocketAddr) -> bool,
) -> Result<TcpStream, DialError> {
    let connect = async {
        let found = tokio::net::lookup_host((host, port)).await?.take(MAX_ADDRESSES);
        let allowed: Vec<SocketAddr> = found.filter(|to| !is_inside(to.ip()) || is_listed(*to)).collect();
        if allowed.is_empty() {
            return Err(DialError::Inside);
        }
        Ok(TcpStream::connect(&*allowed).await?)
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| DialError::TimedOut)??;
    listen::prepare(&stream);
    Ok(stream)
}

/// Carries bytes both ways until both sides have ended, one breaks, or both are silent. `to_client` is told
/// of the bytes that go to the client.
pub async fn relay(
    client: impl AsyncRead + AsyncWrite,
    remote: impl AsyncRead + AsyncWrite,
    to_client: impl Fn(u64),
) {
    let (from_client, into_client) = tokio::io::split(client);
    let (from_remote, into_remote) = tokio::io::split(remote);
    let moved = AtomicU64::new(0);
    let count = |bytes| {
        moved.fetch_add(bytes, Relaxed);
    };
    let both = async {
        let down = pump(from_remote, into_client, |bytes| {
            count(bytes);
            to_client(bytes);
        });
        let _ = tokio::try_join!(pump(from_client, into_remote, count), down);
    };
    let silent = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(SILENCE).await;
            let now = moved.load(Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    };
    tokio::select! {
        () = both => {}
        () = silent => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut into: impl AsyncWrite + Unpin,
    moved: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return into.shutdown().await;
        }
        into.write_all(&buffer[..len]).await?;
        moved(len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_and_come_back() {
        let tunnels = Tunnels::default();
        let client = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut held: Vec<Slot> = (0..MAX_PER_CLIENT).filter_map(|_| tunnels.enter(client(1))).collect();
        assert_eq!(held.len(), MAX_PER_CLIENT);
        assert!(tunnels.enter(client(1)).is_none());
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        assert!(tunnels.enter(mapped).is_none(), "the same client");
        held.extend(
            (2..100)
                .flat_map(|n| (0..MAX_PER_CLIENT).map(move |_| n))
                .filter_map(|n| tunnels.enter(client(n))),
        );
        assert_eq!(held.len(), MAX_TUNNELS);
        assert!(tunnels.enter(client(200)).is_none());
        held.clear();
        assert!(tunnels.lock().is_empty());
        let sixes: Vec<Slot> = (0..u128::from(u8::MAX))
            .filter_map(|n| tunnels.enter(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | n))))
            .collect();
        assert_eq!(sixes.len(), MAX_PER_CLIENT, "one network is one client");
    }

    #[tokio::test]
    async fn inside_addresses_must_be_listed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let refused = dial("localhost", address.port(), |_| false).await;
        assert!(matches!(refused, Err(DialError::Inside)), "{refused:?}");
        let dialled = dial("localhost", address.port(), |to| to == address).await.expect("listed");
        assert_eq!(dialled.peer_addr().expect("connected"), address);
    }

    #[tokio::test]
    async fn bytes_and_ends_pass_both_ways() {
        let ((mut client, near), (far, mut remote)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let seen = Arc::new(AtomicU64::new(0));
        let counting = seen.clone();
        let count = move |bytes| {
            counting.fetch_add(bytes, Relaxed);
        };
        let relayed = tokio::spawn(relay(near, far, count));
        client.write_all(b"question").await.expect("open");
        client.shutdown().await.expect("open");
        let mut text = String::new();
        remote.read_to_string(&mut text).await.expect("the end passes");
        assert_eq!(text, "question");
        remote.write_all(b"a longer answer").await.expect("still open");
        drop(remote);
        text.clear();
        client.read_to_string(&mut text).await.expect("the end passes");
        assert_eq!(text, "a longer answer");
        relayed.await.expect("no panic");
        assert_eq!(seen.load(Relaxed), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_ends_and_a_slow_one_does_not() {
        let ((mut client, near), (far, remote)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let relayed = tokio::spawn(relay(near, far, |_| {}));
        let begin = tokio::time::Instant::now();
        for _ in 0..10 {
            tokio::time::sleep(SILENCE / 2).await;
            client.write_all(b"x").await.expect("open");
        }
        relayed.await.expect("no panic");
        let took = begin.elapsed();
        assert!(took >= SILENCE * 6 && took <= SILENCE * 7, "{took:?}");
        drop(remote);
    }
}
