//! How downloads fared that ended: a sample of those since it was last taken.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;

use crate::formats::control::{Ended, MAX_ENDED};
use crate::model::BlobId;

/// What is shorter leaves at once, however slow the line is.
const LEAST: u64 = 64 << 10;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Endings(Mutex<Sample>);

#[derive(Debug, Default)]
struct Sample {
    /// At most [`MAX_ENDED`]; each of `seen` is among them with the same chance.
    kept: Vec<Ended>,
    seen: usize,
}

impl Endings {
    /// A download of so many bytes ended as a whole, after so long.
    pub fn add(&self, blob: BlobId, bytes: u64, took: Duration) {
        if bytes < LEAST {
            return;
        }
        let ended = Ended { blob, bytes_per_sec: (bytes as f64 / took.as_secs_f64().max(0.001)) as u64 };
        let mut sample = self.lock();
        sample.seen += 1;
        if sample.kept.len() < MAX_ENDED {
            sample.kept.push(ended);
        } else {
            let at = rand::rng().random_range(0..sample.seen);
            if let Some(other) = sample.kept.get_mut(at) {
                *other = ended;
            }
        }
    }

    /// Takes the sample and begins another.
    pub fn take(&self) -> Vec<Ended> {
        std::mem::take(&mut *self.lock()).kept
    }

    fn lock(&self) -> MutexGuard<'_, Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_bounded_and_fair() {
        let endings = Endings::default();
        let second = Duration::from_secs(1);
        endings.add(BlobId([0; 32]), LEAST - 1, second);
        for n in 0..10_000 {
            endings.add(BlobId([u8::from(n >= 5000); 32]), LEAST, second);
        }
        let kept = endings.take();
        assert_eq!(kept.len(), MAX_ENDED);
        assert!(kept.iter().all(|ended| ended.bytes_per_sec == LEAST));
        let late = kept.iter().filter(|ended| ended.blob == BlobId([1; 32])).count();
        // Five standard deviations.
        assert!(late.abs_diff(MAX_ENDED / 2) <= 5 * MAX_ENDED.isqrt() / 2, "{late}");
        assert!(endings.take().is_empty());
    }
}
