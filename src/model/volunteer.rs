//! The name of a volunteer: chosen once by the volunteer, kept across restarts, shown to people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name: one DNS label (RFC 1035), so that a name can stand in a failover zone.
const MAX_LEN: usize = 63;

/// Lower-case letters, digits and inner hyphens: a DNS label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VolunteerId(Box<str>);

/// Why a text cannot name a volunteer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a volunteer: use 1 to {MAX_LEN} of a-z, 0-9 and inner hyphens")]
pub struct ParseVolunteerIdError(String);

impl VolunteerId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolunteerId {
    type Err = ParseVolunteerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=MAX_LEN).contains(&text.len())
            && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits { Ok(Self(text.into())) } else { Err(ParseVolunteerIdError(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for VolunteerId {
    type Error = ParseVolunteerIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VolunteerId> for String {
    fn from(id: VolunteerId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for VolunteerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VolunteerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
