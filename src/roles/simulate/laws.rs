//! The laws that a scenario draws from: spans of time, rates of volunteers, sizes and popularity of files.
//! Each is written in TOML as a word or a table with one key, such as `{ exponential = "5h" }`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rand::Rng;
use rand_distr::{Distribution, Exp1, LogNormal, Uniform, Weibull};
use serde::Deserialize;

use super::engine::{Nanos, nanos};
use crate::model::{Rate, Size};

/// Why a law of a scenario cannot be drawn from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LawError {
    #[error("{text:?} is no span of time: write 250ms, 30s, 10min, 5h or 7d")]
    Span { text: String },
    #[error("the shape and scale of a Weibull law must be above 0")]
    Weibull,
    #[error("a rate must be above 0")]
    NoRate,
    #[error("a list of rates must name some, each above 0")]
    Rates,
    #[error("the bounds of a rate must be above 0, the lower one first")]
    RateBounds,
    #[error("a size must be above 0")]
    NoSize,
    #[error("the median size must be above 0 and at most `most`")]
    MedianSize,
    #[error("sigma must be between 0 and 10")]
    Sigma,
}

/// A span of time, written `250ms`, `30s`, `10min`, `5h` or `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub f64);

impl Span {
    pub fn nanos(self) -> Nanos {
        nanos(self.0)
    }
}

const UNITS: [(&str, f64); 5] = [("ms", 1e-3), ("min", 60.0), ("s", 1.0), ("h", 3600.0), ("d", 86_400.0)];

/// Longest span: ten years.
const LONGEST: f64 = 3650.0 * 86_400.0;

impl FromStr for Span {
    type Err = LawError;

    fn from_str(text: &str) -> Result<Self, LawError> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let unit = UNITS.iter().find(|(unit, _)| *unit == text[split..].trim());
        let number = text[..split].parse::<f64>().ok();
        match (number, unit) {
            (Some(number), Some((_, factor))) if number * factor <= LONGEST => Ok(Self(number * factor)),
            _ => Err(LawError::Span { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = LawError;

    fn try_from(text: String) -> Result<Self, LawError> {
        text.parse()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// How long something lasts.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanLaw {
    /// It does not end.
    Always,
    Fixed(Span),
    /// By its mean.
    Exponential(Span),
    /// Shape below 1: who has stayed for long stays on. BitTorrent sessions: shape 0.34 to 0.38.
    Weibull {
        shape: f64,
        scale: Span,
    },
}

impl SpanLaw {
    /// `None` is for ever.
    pub fn draw(&self, rng: &mut impl Rng) -> Option<Nanos> {
        let drawn = match *self {
            Self::Always => return None,
            Self::Fixed(span) => span.0,
            Self::Exponential(mean) => mean.0 * exp1(rng),
            Self::Weibull { shape, scale } => {
                Weibull::new(scale.0, shape).map_or(scale.0, |law| law.sample(rng))
            }
        };
        Some(nanos(drawn.min(LONGEST)))
    }

    pub fn check(&self) -> Result<(), LawError> {
        match *self {
            Self::Weibull { shape, scale } if !(shape > 0.0 && scale.0 > 0.0) => Err(LawError::Weibull),
            _ => Ok(()),
        }
    }
}

/// Exponential with mean 1.
pub fn exp1(rng: &mut impl Rng) -> f64 {
    Exp1.sample(rng)
}

/// Upload rates of volunteers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLaw {
    Fixed(Rate),
    /// In turn.
    List(Vec<Rate>),
    /// Between two bounds.
    Uniform([Rate; 2]),
    /// Between two bounds, each factor as likely as any other.
    LogUniform([Rate; 2]),
    Lognormal {
        median: Rate,
        sigma: f64,
    },
}

impl RateLaw {
    /// The rate of the volunteer with this number in its group, in bytes/s.
    pub fn draw(&self, number: usize, rng: &mut impl Rng) -> f64 {
        let drawn = match self {
            Self::Fixed(rate) => rate.0 as f64,
            Self::List(rates) => rates[number % rates.len()].0 as f64,
            Self::Uniform([low, high]) => between(low.0 as f64, high.0 as f64, rng),
            Self::LogUniform([low, high]) => between((low.0 as f64).ln(), (high.0 as f64).ln(), rng).exp(),
            Self::Lognormal { median, sigma } => lognormal(median.0 as f64, *sigma, rng),
        };
        drawn.max(1.0)
    }

    pub fn check(&self) -> Result<(), LawError> {
        let is_empty = |rates: &[Rate]| rates.is_empty() || rates.iter().any(|rate| rate.0 == 0);
        match self {
            Self::Fixed(rate) if rate.0 == 0 => Err(LawError::NoRate),
            Self::List(rates) if is_empty(rates) => Err(LawError::Rates),
            Self::Uniform([low, high]) | Self::LogUniform([low, high]) if low > high || low.0 == 0 => {
                Err(LawError::RateBounds)
            }
            Self::Lognormal { sigma, .. } => check_sigma(*sigma),
            _ => Ok(()),
        }
    }
}

/// Sizes of files.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeLaw {
    Fixed(Size),
    Lognormal {
        median: Size,
        sigma: f64,
        most: Size,
    },
    /// As in a distribution of packages: 80 % are below 512 kB (Debian, by apt-p2p's paper). A lognormal law
    /// with that quantile; its median of 75 kB is our choice, its mean is then about 1 MB; at most 1 GiB.
    Packages,
    /// A file whose lines are sizes in bytes, or the `Size:` fields of a Packages index; in turn.
    Catalog(PathBuf),
}

/// Of [`SizeLaw::Packages`].
const PACKAGE_MEDIAN: f64 = 75e3;
/// ln(512 kB / median) over the 0.8 quantile of the normal law.
const PACKAGE_SIGMA: f64 = 2.282;
const PACKAGE_MOST: u64 = 1 << 30;

impl SizeLaw {
    /// The size of the file with this number. `catalog` is what the named file holds.
    pub fn draw(&self, number: usize, catalog: &[u64], rng: &mut impl Rng) -> u64 {
        let capped = |median: f64, sigma: f64, most: u64, rng: &mut _| {
            (lognormal(median, sigma, rng) as u64).clamp(1, most)
        };
        match self {
            Self::Fixed(size) => size.0,
            Self::Lognormal { median, sigma, most } => capped(median.0 as f64, *sigma, most.0, rng),
            Self::Packages => capped(PACKAGE_MEDIAN, PACKAGE_SIGMA, PACKAGE_MOST, rng),
            Self::Catalog(_) => catalog.get(number % catalog.len().max(1)).copied().unwrap_or(1),
        }
    }

    pub fn check(&self) -> Result<(), LawError> {
        match self {
            Self::Fixed(size) if size.0 == 0 => Err(LawError::NoSize),
            Self::Lognormal { median, most, .. } if median.0 == 0 || median > most => {
                Err(LawError::MedianSize)
            }
            Self::Lognormal { sigma, .. } => check_sigma(*sigma),
            _ => Ok(()),
        }
    }
}

/// The sizes in a catalog file's text.
pub fn catalog_sizes(text: &str) -> Vec<u64> {
    let size = |line: &str| line.strip_prefix("Size:").unwrap_or(line).trim().parse().ok();
    text.lines().filter_map(size).filter(|size| *size > 0).collect()
}

fn check_sigma(sigma: f64) -> Result<(), LawError> {
    if (0.0..=10.0).contains(&sigma) { Ok(()) } else { Err(LawError::Sigma) }
}

fn between(low: f64, high: f64, rng: &mut impl Rng) -> f64 {
    Uniform::new_inclusive(low, high).map_or(low, |law| law.sample(rng))
}

fn lognormal(median: f64, sigma: f64, rng: &mut impl Rng) -> f64 {
    LogNormal::new(median.ln(), sigma).map_or(median, |law| law.sample(rng))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, want) in
            [("250ms", 0.25), ("30s", 30.0), ("10min", 600.0), ("1.5h", 5400.0), ("7d", 604_800.0)]
        {
            assert_eq!(text.parse(), Ok(Span(want)), "{text}");
        }
        for bad in ["", "5", "5 weeks", "-1s", "s", "99999d", "1e3s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn packages_are_mostly_small() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let sizes: Vec<u64> = (0..20_000).map(|n| SizeLaw::Packages.draw(n, &[], &mut rng)).collect();
        let below = sizes.iter().filter(|size| **size < 512_000).count() as f64 / sizes.len() as f64;
        assert!((below - 0.8).abs() < 0.01, "{below}");
    }

    #[test]
    fn laws_have_their_means() {
        let mut rng = Pcg64Mcg::seed_from_u64(2);
        let mean = |law: SpanLaw, rng: &mut Pcg64Mcg| {
            (0..50_000).filter_map(|_| law.draw(rng)).map(|n| n as f64 * 1e-9).sum::<f64>() / 50_000.0
        };
        let exponential = mean(SpanLaw::Exponential(Span(10.0)), &mut rng);
        assert!((exponential - 10.0).abs() < 0.2, "{exponential}");
        // Scale times gamma(1 + 1/shape): gamma(3) is 2.
        let weibull = mean(SpanLaw::Weibull { shape: 0.5, scale: Span(10.0) }, &mut rng);
        assert!((weibull - 20.0).abs() < 1.0, "{weibull}");
        assert_eq!(SpanLaw::Always.draw(&mut rng), None);
    }

    #[test]
    fn a_catalog_is_a_list_of_sizes_or_a_packages_index() {
        assert_eq!(catalog_sizes("12\n\n7\n"), [12, 7]);
        assert_eq!(
            catalog_sizes("Package: a\nSize: 12\nInstalled-Size: 9\n\nPackage: b\nSize: 7\n"),
            [12, 7]
        );
    }
}
