//! What is asked for: per file, per release, and by crowds.

pub(super) mod counters;
pub(super) mod crowd;
pub(super) mod rates;
pub(super) mod release;
pub(super) mod watch;
