//! The way to the end: SIGTERM or SIGINT starts a drain, a second one ends it.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long running downloads may continue after the signal. Below systemd's stop timeout in our units.
pub const DRAIN: Duration = Duration::from_secs(60);
/// The same where the service manager holds the socket: new clients wait in its queue until this process has
/// ended and the next one accepts, and waiting must stay shorter than any client's patience. What is cut off
/// continues by Range.
pub const HELD_DRAIN: Duration = Duration::from_secs(5);

/// Begins when the process should end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// How long running downloads may continue, once it has begun.
    drain: watch::Receiver<Option<Duration>>,
    begin: Arc<watch::Sender<Option<Duration>>>,
}

impl Shutdown {
    fn new() -> Self {
        let (begin, drain) = watch::channel(None);
        Self { drain, begin: Arc::new(begin) }
    }

    /// Listens for signals from now on, which leave `drain` to running downloads.
    pub fn on_signals(drain: Duration) -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = Self::new();
        tokio::spawn(watch_signals(terminate, interrupt, shutdown.clone(), drain));
        Ok(shutdown)
    }

    /// One that begins when `condition` completes: a later stage of stopping.
    pub fn when(condition: impl Future<Output = ()> + Send + 'static) -> Self {
        let shutdown = Self::new();
        let begun = shutdown.clone();
        tokio::spawn(async move {
            condition.await;
            begun.begin(DRAIN);
        });
        shutdown
    }

    /// Begins it without a signal.
    pub fn begin(&self, drain: Duration) {
        self.begin.send_if_modified(|begun| begun.replace(drain).is_none());
    }

    /// Completes when the drain begins; says how long it may take.
    pub async fn begun(&mut self) -> Duration {
        // A sender lives as long as this.
        self.drain.wait_for(Option::is_some).await.ok().and_then(|drain| *drain).unwrap_or_default()
    }

    pub fn has_begun(&self) -> bool {
        self.drain.borrow().is_some()
    }
}

async fn watch_signals(mut terminate: Signal, mut interrupt: Signal, shutdown: Shutdown, drain: Duration) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    tracing::info!(drain_secs = drain.as_secs(), "stopping; a second signal ends running downloads");
    shutdown.begin(drain);
    next().await;
    tracing::warn!("second signal: ending now");
    #[expect(clippy::disallowed_methods, reason = "the person asked twice; the store is crash-safe")]
    std::process::exit(130);
}
