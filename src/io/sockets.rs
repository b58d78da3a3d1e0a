//! The listening sockets of this process: bound by itself, or passed to it already bound.
//!
//! Those of the service manager (sd_listen_fds(3)) are *held*: they stay open while no process accepts, so
//! that clients wait for the next one in the kernel's queue instead of being refused.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use listenfd::ListenFd;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::TcpListener;

use super::listen;

/// For package clients and volunteers.
pub const PUBLIC: &str = "public";
/// For the status API. Only a socket that says so: a second address for clients must not become it.
pub const ADMIN: &str = "admin";

/// Most sockets that are taken over.
const MAX_SOCKETS: usize = 64;

/// Bytes in which they are described, at most.
const MAX_SENT: usize = 16 << 10;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Passed to us and not asked for yet.
    passed: Vec<Socket>,
    /// In use.
    open: Vec<Socket>,
}

/// One of them.
#[derive(Debug)]
struct Socket {
    name: &'static str,
    is_held: bool,
    listener: StdListener,
}

/// What one process tells the next of a socket.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    name: String,
    is_held: bool,
}

impl Sockets {
    /// Takes what the service manager passed, by `FileDescriptorName=`. To be called before any thread
    /// starts: it takes the variables out of the environment, for no child to see.
    pub fn from_env() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut all = ListenFd::from_env();
        let mut passed = Vec::new();
        for index in 0..all.len().min(MAX_SOCKETS) {
            let name = if names.next() == Some(ADMIN) { ADMIN } else { PUBLIC };
            let unusable = |e| other(format!("the service manager passed an unusable socket: {e}"));
            let Some(listener) = all.take_tcp_listener(index).map_err(unusable)? else { continue };
            if !SockRef::from(&listener).is_listener()? {
                return Err(unusable(other("it does not listen")));
            }
            passed.push(Socket { name, is_held: true, listener });
        }
        Ok(Self { passed, open: Vec::new() })
    }

    /// The listeners of this name: those of the service manager if it has any, else one for each address.
    pub fn open(&mut self, name: &'static str, addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
        let (mut own, others): (Vec<_>, Vec<_>) = self.passed.drain(..).partition(|s| s.name == name);
        self.passed = others;
        if own.iter().any(|socket| socket.is_held) {
            own.retain(|socket| socket.is_held);
            tell_difference(name, &own, addresses);
        } else {
            own = addresses
                .iter()
                .map(|&address| match take_bound(&mut own, address) {
                    Some(socket) => Ok(socket),
                    None => Ok(Socket { name, is_held: false, listener: listen::bind(address)? }),
                })
                .collect::<io::Result<_>>()?;
        }
        let listeners = own.iter().map(|socket| listener_of(&socket.listener)).collect();
        self.open.extend(own);
        listeners
    }

    /// Sends all that are open over a channel (SCM_RIGHTS, unix(7)), for [`Self::receive`] at its other end.
    pub(super) fn send(&self, channel: &UnixStream) -> io::Result<()> {
        let what: Vec<Sent> =
            self.open.iter().map(|s| Sent { name: s.name.into(), is_held: s.is_held }).collect();
        let mut text = serde_json::to_vec(&what)?;
        text.push(b'\n');
        let sockets: Vec<BorrowedFd<'_>> = self.open.iter().map(|socket| socket.listener.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sockets.len() > MAX_SOCKETS || !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(other(format!("more than {MAX_SOCKETS} sockets cannot be handed over")));
        }
        let sent = sendmsg(channel, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        if sent == text.len() { Ok(()) } else { Err(other("the description of the sockets is too long")) }
    }

    /// Takes what another process sent before it started this one.
    pub(super) fn receive(channel: &UnixStream) -> io::Result<Self> {
        let mut text = vec![0; MAX_SENT];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = recvmsg(channel, &mut [IoSliceMut::new(&mut text)], &mut control, flags)?.bytes;
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds: Vec<OwnedFd> = fds.flatten().collect();
        let what: Vec<Sent> = serde_json::from_slice(&text[..got])?;
        if what.len() != fds.len() {
            return Err(other("the sockets are not those described"));
        }
        let passed = what.into_iter().zip(fds).map(|(sent, fd)| Socket {
            name: if sent.name == ADMIN { ADMIN } else { PUBLIC },
            is_held: sent.is_held,
            listener: StdListener::from(fd),
        });
        Ok(Self { passed: passed.collect(), open: Vec::new() })
    }

    /// Whether the service manager holds those of this name.
    pub fn is_held(&self, name: &str) -> bool {
        self.open.iter().any(|socket| socket.name == name && socket.is_held)
    }
}

/// Somebody who edits the configuration should not wonder why it changes nothing.
fn tell_difference(name: &str, held: &[Socket], addresses: &[SocketAddr]) {
    let bound: Vec<_> = held.iter().filter_map(|socket| socket.listener.local_addr().ok()).collect();
    if !addresses.iter().all(|address| bound.contains(address)) {
        tracing::info!(name, held = ?bound, configured = ?addresses, "using the service manager's sockets, not the configured addresses");
    }
}

/// The one among `sockets` that is bound to this address; port 0 is any.
fn take_bound(sockets: &mut Vec<Socket>, address: SocketAddr) -> Option<Socket> {
    let is_at = |socket: &Socket| {
        socket.listener.local_addr().is_ok_and(|bound| {
            bound.ip() == address.ip() && (bound.port() == address.port() || address.port() == 0)
        })
    };
    sockets.iter().position(is_at).map(|index| sockets.swap_remove(index))
}

/// A second handle to the same queue of connections.
fn listener_of(socket: &StdListener) -> io::Result<TcpListener> {
    let listener = socket.try_clone()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn other(message: impl Into<String>) -> io::Error {
    io::Error::other(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_cross_a_channel_and_stay_the_same() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut old = Sockets::default();
        let first = old.open(PUBLIC, &[any, any]).expect("two ports");
        let admin = old.open(ADMIN, &[any]).expect("a port");
        let ports = |listeners: &[TcpListener]| {
            let port = |l: &TcpListener| l.local_addr().expect("bound").port();
            listeners.iter().map(port).collect::<Vec<_>>()
        };
        let (near, far) = UnixStream::pair().expect("a channel");
        old.send(&near).expect("sent");
        let mut new = Sockets::receive(&far).expect("received");
        drop(old);

        // One stays by its address, one goes, one is new; the admin's is not taken for it.
        let kept = first[0].local_addr().expect("bound");
        let public = new.open(PUBLIC, &[kept, any, any]).expect("three ports");
        assert_eq!(ports(&public)[..2], ports(&first));
        assert_eq!(ports(&new.open(ADMIN, &[any]).expect("a port")), ports(&admin));
        assert!(!new.is_held(PUBLIC));
        let (near, far) = UnixStream::pair().expect("a channel");
        new.send(&near).expect("sent");
        let mut last = Sockets::receive(&far).expect("received");
        assert_eq!(ports(&last.open(PUBLIC, &[kept]).expect("a port")), [kept.port()]);
    }
}
