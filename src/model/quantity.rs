//! Sizes and rates as people write them: `200GiB`, `50MiB/s`, `1Gbit/s`.
//!
//! Binary units count in 1024 and decimal ones in 1000 (IEC 80000-13); a bare number is bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Size(pub u64);

/// Bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Rate(pub u64);

/// Why a text is not a size or rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: write a number and a unit, {examples}")]
pub struct ParseQuantityError {
    pub text: String,
    pub what: &'static str,
    pub examples: &'static str,
}

const BYTE_UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
];

/// Line rates in bits, given in bytes per second.
const BIT_UNITS: [(&str, u64); 3] = [("kbit", 125), ("Mbit", 125_000), ("Gbit", 125_000_000)];

impl FromStr for Size {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.trim(), &[]).map(Self).ok_or_else(|| ParseQuantityError {
            text: text.chars().take(40).collect(),
            what: "size",
            examples: "for example 200GiB (1024) or 200GB (1000)",
        })
    }
}

impl FromStr for Rate {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let per_second = text.trim();
        let per_second = per_second.strip_suffix("/s").unwrap_or(per_second);
        parse(per_second, &BIT_UNITS).map(Self).ok_or_else(|| ParseQuantityError {
            text: text.chars().take(40).collect(),
            what: "rate",
            examples: "in bytes, for example 50MiB/s (1024) or 50MB/s (1000), or in bits, for example 400Mbit/s",
        })
    }
}

fn parse(text: &str, more_units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (_, factor) = BYTE_UNITS.iter().chain(more_units).find(|(name, _)| *name == unit.trim())?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*factor);
    }
    let value: f64 = number.parse().ok()?;
    let bytes = value * (*factor as f64);
    (bytes.is_finite() && bytes < 1e18).then_some(bytes as u64)
}

impl Rate {
    /// The same as line rates are written: `8.4 Mbit/s`.
    pub fn in_bits(self) -> String {
        let (value, unit) = scaled(self.0 as f64 * 8.0, 1000.0, &["bit", "kbit", "Mbit", "Gbit", "Tbit"]);
        format!("{value} {unit}/s")
    }
}

/// The number in the largest unit of which there is one, with a decimal if there is any to tell.
fn scaled(mut value: f64, factor: f64, units: &[&'static str]) -> (String, &'static str) {
    let mut unit = 0;
    while value >= factor && unit + 1 < units.len() {
        value /= factor;
        unit += 1;
    }
    let rounded = format!("{value:.1}");
    let text = if unit == 0 { format!("{value:.0}") } else { rounded.trim_end_matches(".0").to_owned() };
    (text, units[unit])
}

fn write_bytes(bytes: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (value, unit) = scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
    write!(f, "{value} {unit}")
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bytes(self.0, f)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bytes(self.0, f)?;
        f.write_str("/s")
    }
}

macro_rules! text_forms {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = ParseQuantityError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(quantity: $type) -> Self {
                quantity.0.to_string()
            }
        }
    };
}

text_forms!(Size);
text_forms!(Rate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units() {
        for (text, want) in [("200GiB", 200 << 30), ("1.5 MiB", 3 << 19), ("10MB", 10_000_000), ("17", 17)] {
            assert_eq!(text.parse::<Size>().map(|s| s.0), Ok(want), "{text}");
        }
        for (text, want) in [("50MiB/s", 50 << 20), ("1Gbit/s", 125_000_000), ("8Mbit", 1_000_000)] {
            assert_eq!(text.parse::<Rate>().map(|r| r.0), Ok(want), "{text}");
        }
        for bad in ["", "GiB", "5XB", "-1", "1e3", "99999999999999999999PiB", "1.2.3MB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert!("5Mbit".parse::<Size>().is_err());
    }

    #[test]
    fn writes_units() {
        assert_eq!(Size(1536).to_string(), "1.5 KiB");
        assert_eq!(Rate(4 << 20).to_string(), "4 MiB/s");
        assert_eq!(Size(17).to_string(), "17 B");
        for (rate, want) in
            [(1 << 20, "8.4 Mbit/s"), (1_000_000, "8 Mbit/s"), (125_000_000, "1 Gbit/s"), (1, "8 bit/s")]
        {
            assert_eq!(Rate(rate).in_bits(), want);
        }
    }
}
