//! Waiting for upstreams that name a time to come back (`Retry-After`, RFC 9110 section 10.2.3).

use std::time::Duration;

use super::UpstreamError;

/// How long one request waits for this in all. Clients give up after 30 s (apt, dnf), and bytes must come before.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// How much longer one request may wait.
#[derive(Debug)]
pub struct Waits(Duration);

impl Default for Waits {
    fn default() -> Self {
        Self(MAX_WAIT)
    }
}

impl Waits {
    /// Waits until the upstream may be asked again; false at once if that is too far away or not the cause.
    pub async fn wait(&mut self, error: &UpstreamError) -> bool {
        let UpstreamError::Busy { pause, .. } = error else { return false };
        let Some(left) = self.0.checked_sub(*pause) else { return false };
        self.0 = left;
        tokio::time::sleep(*pause).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let busy = |secs| UpstreamError::Busy { url: String::new(), pause: Duration::from_secs(secs) };
        let mut waits = Waits::default();
        let begin = tokio::time::Instant::now();
        assert!(!waits.wait(&busy(11)).await);
        assert!(!waits.wait(&UpstreamError::NotFound { url: String::new() }).await);
        assert!(begin.elapsed().is_zero());
        assert!(waits.wait(&busy(4)).await && waits.wait(&busy(6)).await);
        assert_eq!(begin.elapsed(), MAX_WAIT);
        assert!(!waits.wait(&busy(1)).await);
    }
}
