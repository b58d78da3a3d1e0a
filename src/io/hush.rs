//! A problem that every request meets is logged once a minute: the log should show that it lasts, and still
//! find the rest.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::clock;

const SECS: u64 = 60;

/// When it was last logged, in seconds since 1970.
#[derive(Debug, Default)]
pub struct Hush(AtomicU64);

impl Hush {
    /// Whether to log it now, which then counts as logged.
    pub fn may_tell(&self) -> bool {
        let now = clock::now().as_secs();
        let is_due = |told: u64| (told == 0 || now.abs_diff(told) >= SECS).then_some(now);
        self.0.fetch_update(Relaxed, Relaxed, is_due).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_minute() {
        let hush = Hush::default();
        assert!(hush.may_tell() && !hush.may_tell());
        hush.0.fetch_sub(SECS, Relaxed);
        assert!(hush.may_tell() && !hush.may_tell());
        // A clock that was set back keeps nothing quiet.
        hush.0.fetch_add(10 * SECS, Relaxed);
        assert!(hush.may_tell());
    }
}
