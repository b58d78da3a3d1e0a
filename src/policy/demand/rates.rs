//! Rates of downloads, counted in steps of a quarter of an octave: their percentiles within a fifth.

use std::collections::BTreeMap;

/// Steps per octave.
const STEPS: f64 = 4.0;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    steps: BTreeMap<u8, u64>,
    count: u64,
}

impl Rates {
    /// Counts one download, in bytes/s.
    pub fn add(&mut self, rate: u64) {
        // 64 octaves at most.
        let step = ((rate.max(1) as f64).log2() * STEPS).floor() as u8;
        *self.steps.entry(step).or_default() += 1;
        self.count += 1;
    }

    /// What this share of the downloads had at least, in bytes/s; `None` if there was none.
    pub fn reached_by(&self, share: f64) -> Option<u64> {
        let slower = self.count
            - ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1)).min(self.count);
        let mut seen = 0;
        for (step, count) in &self.steps {
            seen += count;
            if seen > slower {
                return Some((f64::from(*step) / STEPS).exp2() as u64);
            }
        }
        None
    }

    pub fn clear(&mut self) {
        self.steps.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lower_bounds_within_a_step() {
        let mut rates = Rates::default();
        assert_eq!(rates.reached_by(0.5), None);
        (1..=100).for_each(|n| rates.add(n * 10_000));
        for (share, exact) in [(0.5, 510_000.0), (0.9, 110_000.0), (1.0, 10_000.0), (0.01, 1_000_000.0)] {
            let got = rates.reached_by(share).expect("counted") as f64;
            assert!(got <= exact && got > exact / 1.2, "{share}: {got} of {exact}");
        }
        rates.add(0);
        rates.add(u64::MAX);
        assert_eq!(rates.reached_by(1.0), Some(1));
        rates.clear();
        assert_eq!(rates, Rates::default());
    }
}
