//! Notifications to the service manager (sd_notify(3)). Without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::AbortHandle;

/// Started.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Reloading the configuration. [`not_reloaded`] or [`succeeded_by`] follows.
pub fn reloading() {
    let mut state = vec![NotifyState::Reloading, NotifyState::Status("")];
    state.extend(NotifyState::monotonic_usec_now());
    tell(&state);
}

/// Everything continues as before; `why` is for the administrator.
pub fn not_reloaded(why: &str) {
    // One line per state.
    let why = format!("not reloaded: {}", why.replace('\n', " "));
    tell(&[NotifyState::Ready, NotifyState::Status(&why)]);
}

/// Another process is the service now. In one message: after it this process is not listened to.
pub fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid), NotifyState::Ready]);
}

/// On the way to the end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Shows at half of the service manager's limit that this process is alive, if a limit is set: that the runtime
/// runs its tasks, and that `probe` returns, which takes the locks that everything else needs.
pub fn watchdog(probe: impl Fn() + Send + 'static) -> Option<AbortHandle> {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())?;
    Some(tokio::spawn(beat(limit / 2, probe, || tell(&[NotifyState::Watchdog]))).abort_handle())
}

async fn beat(period: Duration, probe: impl Fn() + Send, told: impl Fn() + Send) {
    let mut tick = tokio::time::interval(period);
    loop {
        tick.tick().await;
        probe();
        told();
    }
}

/// A service manager that does not listen has other troubles than ours.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::debug!(error = %e, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::{Arc, Mutex};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lock_that_is_never_given_back_stops_the_beat() {
        let (lock, beats) = (Arc::new(Mutex::new(())), Arc::new(AtomicUsize::new(0)));
        let (probed, counted) = (lock.clone(), beats.clone());
        let told = move || _ = counted.fetch_add(1, Relaxed);
        let beating = tokio::spawn(beat(Duration::from_millis(1), move || drop(probed.lock()), told));
        let more = async |than: usize| {
            while beats.load(Relaxed) <= than {
                tokio::task::yield_now().await;
            }
        };
        more(2).await;
        {
            let _held = lock.lock().expect("no panic");
            // One may have passed the lock just before.
            let at_most = beats.load(Relaxed) + 1;
            for _ in 0..1000 {
                std::thread::yield_now();
            }
            assert!(beats.load(Relaxed) <= at_most);
        }
        more(beats.load(Relaxed)).await;
        beating.abort();
    }
}
