//! One upload rate for all downloads together: a queue of reservations on a virtual line.
//!
//! Each chunk reserves its time on the line and waits for it. Reservations are served in the order of
//! asking and chunks are equal, so downloads share the line equally. An idle line lends a short burst.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Rate;

/// What an idle line may send at once: enough for one small package, little against a second.
const BURST: Duration = Duration::from_millis(50);

/// See the module's documentation.
#[derive(Debug)]
pub struct Shaper {
    rate: f64,
    /// When the line is free again.
    free_at: Mutex<Instant>,
}

impl Shaper {
    pub fn new(rate: Rate) -> Self {
        Self { rate: (rate.0 as f64).max(1.0), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `len` bytes may be sent.
    pub async fn take(&self, len: u64) {
        let now = Instant::now();
        let send_at = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*free_at).max(now.checked_sub(BURST).unwrap_or(now));
            *free_at = start + Duration::from_secs_f64(len as f64 / self.rate);
            start
        };
        if send_at > now {
            tokio::time::sleep_until(send_at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn four_takers_share_the_rate() {
        let shaper = Arc::new(Shaper::new(Rate(1 << 20)));
        let start = Instant::now();
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let shaper = shaper.clone();
                tokio::spawn(async move {
                    for _ in 0..32 {
                        shaper.take(32 << 10).await;
                    }
                    Instant::now()
                })
            })
            .collect();
        for taker in takers {
            let took = (taker.await.expect("no panic") - start).as_secs_f64();
            assert!((3.7..4.1).contains(&took), "4 MiB at 1 MiB/s took {took} s");
        }
    }
}
