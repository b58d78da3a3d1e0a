//! The system's clock, read in one place and handed on as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// Now, by the system's clock; 1970 if that is earlier still.
pub fn now() -> Time {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_nanos(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}
