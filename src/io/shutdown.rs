//! The way to the end: SIGTERM or SIGINT starts a drain, a second one ends it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long running downloads may go on after the signal. Below systemd's stop timeout in our units.
pub const DRAIN: Duration = Duration::from_secs(60);
/// The same where the service manager holds the socket: new clients wait in its queue until this process has
/// ended and the next one accepts, and waiting must stay shorter than any client's patience. What is cut off
/// goes on by Range.
pub const HELD_DRAIN: Duration = Duration::from_secs(5);

/// Becomes true when the process should end.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for signals from now on.
    pub fn on_signals() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(watch_signals(terminate, interrupt, sender));
        Ok(Self(receiver))
    }

    /// One that begins when `condition` completes: a later stage of stopping.
    pub fn when(condition: impl Future<Output = ()> + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            condition.await;
            let _ = sender.send(true);
        });
        Self(receiver)
    }

    /// Completes when the drain begins.
    pub async fn begun(&mut self) {
        // The sender lives in the watching task, which never drops it before sending.
        let _ = self.0.wait_for(|begun| *begun).await;
    }

    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }
}

async fn watch_signals(mut terminate: Signal, mut interrupt: Signal, sender: watch::Sender<bool>) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    tracing::info!(drain_secs = DRAIN.as_secs(), "stopping; a second signal ends running downloads");
    let _ = sender.send(true);
    next().await;
    tracing::warn!("second signal: ending now");
    #[expect(clippy::disallowed_methods, reason = "the person asked twice; the store is crash-safe")]
    std::process::exit(130);
}
