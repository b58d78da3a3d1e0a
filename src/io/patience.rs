//! Cuts off clients that read too slowly: a stalled one, one that trickles, or one
//! behind a line that carries next to nothing. TCP_USER_TIMEOUT ends only those that acknowledge nothing.
//!
//! What counts is time in which the socket takes nothing although there is something to send. Waiting for
//! the disk, the upstream or the rate that is donated is not the client's doing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Checks within the time that a client has.
const LOOKS: u32 = 4;

/// How fast a client must read to keep its connection.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub bytes_per_sec: u64,
    /// How long it may read more slowly.
    pub time: Duration,
    /// Bytes that the kernel holds unsent (TCP_NOTSENT_LOWAT, tcp(7)): so much is not seen to stand still.
    pub unsent: Option<u32>,
}

/// The progress of sending.
#[derive(Debug, Default)]
pub struct Progress {
    written: AtomicU64,
    is_blocked: AtomicBool,
    is_cut: AtomicBool,
}

impl Progress {
    /// Completes when the client's time is up.
    pub async fn is_over(&self, patience: Patience) {
        let look = patience.time / LOOKS;
        let least = (patience.bytes_per_sec as f64 * look.as_secs_f64()) as u64;
        let (mut slow, mut before) = (0, 0);
        while slow < LOOKS {
            tokio::time::sleep(look).await;
            let written = self.written.load(Relaxed);
            let is_slow = self.is_blocked.load(Relaxed) && written - before < least;
            slow = if is_slow { slow + 1 } else { 0 };
            before = written;
        }
        self.is_cut.store(true, Relaxed);
    }
}

/// A connection that can end at once, without the bytes that the kernel still holds: over a line that carries
/// nothing these would continue for minutes, and the client would wait for them.
pub trait Abort {
    fn abort(&self);
}

impl Abort for TcpStream {
    fn abort(&self) {
        // Closed with nothing to linger for, it is reset (socket(7)). Failing that it ends as any other.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// A connection whose sending is watched.
#[derive(Debug)]
pub struct Watched<S: Abort> {
    inner: S,
    progress: Arc<Progress>,
}

impl<S: Abort> Drop for Watched<S> {
    fn drop(&mut self) {
        if self.progress.is_cut.load(Relaxed) {
            self.inner.abort();
        }
    }
}

impl<S: Abort> Watched<S> {
    pub fn new(inner: S) -> (Self, Arc<Progress>) {
        let progress = Arc::<Progress>::default();
        (Self { inner, progress: progress.clone() }, progress)
    }

    fn note(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.progress.is_blocked.store(polled.is_pending(), Relaxed);
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.progress.written.fetch_add(*bytes as u64, Relaxed);
        }
        polled
    }
}

impl<S: AsyncRead + Abort + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Abort + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    impl Abort for tokio::io::DuplexStream {
        fn abort(&self) {}
    }

    const PATIENCE: Patience = Patience { bytes_per_sec: 1000, time: Duration::from_secs(20), unsent: None };

    /// A client that takes so many bytes a second of an endless answer; how long it is suffered.
    async fn suffered(bytes_per_sec: usize, limit: Duration) -> Option<Duration> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let (mut ours, progress) = Watched::new(ours);
        let begin = Instant::now();
        let sending = async { while ours.write_all(&[7; 4096]).await.is_ok() {} };
        let reading = async {
            let mut taken = vec![0; bytes_per_sec];
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if bytes_per_sec > 0 {
                    theirs.read_exact(&mut taken).await.expect("there is always more");
                }
            }
        };
        tokio::select! {
            () = sending => None,
            () = reading => None,
            () = tokio::time::sleep(limit) => None,
            () = progress.is_over(PATIENCE) => Some(begin.elapsed()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_too_little_is_cut_off_in_bounded_time() {
        let hour = Duration::from_secs(3600);
        for slow in [0, 10, 500] {
            let time = suffered(slow, hour).await.expect("cut off");
            assert!(time <= 2 * PATIENCE.time, "{slow} bytes/s for {time:?}");
        }
        assert_eq!(suffered(3000, hour).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_sent_nothing_is_not_slow() {
        let (ours, _theirs) = tokio::io::duplex(4096);
        let (_ours, progress) = Watched::new(ours);
        let over = tokio::time::timeout(Duration::from_secs(3600), progress.is_over(PATIENCE)).await;
        assert!(over.is_err());
    }
}
