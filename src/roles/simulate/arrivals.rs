//! When clients come, and what they want. Everything here is drawn from streams of its own, so that all
//! balancers meet the same clients.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Zipf};

use super::engine::{Nanos, nanos};
use super::laws::exp1;
use super::scenario::{Clients, Shape};

/// Most arrivals of a Poisson law: what a scenario's rates and duration should not exceed by accident.
const MAX_ARRIVALS: f64 = 20e6;

/// The times at which clients come, in order, counted from when the files are visible. `capacity` is what a
/// load of 1 is, in clients/s.
pub fn times(
    clients: &Clients,
    duration: f64,
    capacity: f64,
    rng: &mut impl Rng,
) -> anyhow::Result<Vec<Nanos>> {
    let expected = match clients.shape {
        Shape::Steady { per_second: Some(rate), .. } => rate * duration,
        Shape::Steady { load, .. } => load.unwrap_or_default() * capacity * duration,
        Shape::Daily { per_second, .. } | Shape::Flash { per_second, .. } => per_second * duration,
        Shape::Within { .. } => 0.0,
    };
    anyhow::ensure!(expected <= MAX_ARRIVALS, "clients.shape: {expected:.0} clients are too many");
    let mut times = match clients.shape {
        Shape::Steady { .. } => poisson(expected / duration.max(1e-9), duration, |_| 1.0, rng),
        Shape::Daily { per_second, swing, period } => {
            let wave = |at: f64| 1.0 - swing * (at / period.0 * std::f64::consts::TAU).cos();
            poisson(per_second * (1.0 + swing), duration, |at| wave(at) / (1.0 + swing), rng)
        }
        Shape::Flash { clients, ramp, half_life, per_second } => {
            let mut times = poisson(per_second, duration, |_| 1.0, rng);
            times.extend(flash(clients, ramp.0, half_life.0, duration, rng));
            times
        }
        Shape::Within { clients, window } => {
            (0..clients).map(|_| nanos(rng.random::<f64>() * window.0)).collect()
        }
    };
    times.extend(std::iter::repeat_n(0, clients.at_once));
    times.sort_unstable();
    Ok(times)
}

/// Poisson with a rate of at most `most`, thinned to `share` of it.
fn poisson(most: f64, duration: f64, share: impl Fn(f64) -> f64, rng: &mut impl Rng) -> Vec<Nanos> {
    let mut times = Vec::new();
    if most <= 0.0 {
        return times;
    }
    let mut at = exp1(rng) / most;
    while at < duration {
        if rng.random::<f64>() < share(at) {
            times.push(nanos(at));
        }
        at += exp1(rng) / most;
    }
    times
}

/// Times of a rate that rises linearly over `ramp` and then halves every `half_life`, within `duration`.
fn flash(count: usize, ramp: f64, half_life: f64, duration: f64, rng: &mut impl Rng) -> Vec<Nanos> {
    let tail = half_life / std::f64::consts::LN_2;
    // Areas below the rate, its peak being 1.
    let until = |at: f64| {
        if at < ramp {
            at * at / (2.0 * ramp)
        } else {
            ramp / 2.0 + tail * (1.0 - ((ramp - at) / tail).exp())
        }
    };
    let all = until(duration);
    let inverse = |area: f64| {
        if area < ramp / 2.0 {
            (2.0 * ramp * area).sqrt()
        } else {
            ramp - tail * (1.0 - (area - ramp / 2.0) / tail).max(1e-12).ln()
        }
    };
    (0..count).map(|_| nanos(inverse(rng.random::<f64>() * all).min(duration))).collect()
}

/// Which file a client wants: rank k with a chance in proportion to k^-alpha.
#[derive(Clone, Debug)]
pub struct Popularity {
    files: usize,
    alpha: f64,
    law: Option<Zipf<f64>>,
}

/// Draws per file after which a client does with fewer: it wants more files than are popular.
const MAX_DRAWS: usize = 64;

impl Popularity {
    pub fn new(files: usize, alpha: f64) -> Self {
        Self { files, alpha, law: Zipf::new(files as f64, alpha).ok() }
    }

    pub fn draw(&self, rng: &mut impl Rng) -> u32 {
        let rank = match &self.law {
            Some(law) if self.alpha > 0.0 => law.sample(rng) as usize,
            _ => rng.random_range(0..self.files) + 1,
        };
        u32::try_from(rank.clamp(1, self.files) - 1).unwrap_or(u32::MAX)
    }

    /// `count` files, different ones as far as there are.
    pub fn draw_set(&self, count: usize, rng: &mut impl Rng) -> Vec<u32> {
        let mut set = Vec::with_capacity(count.min(self.files));
        while set.len() < count.min(self.files) {
            let fresh = (0..MAX_DRAWS).map(|_| self.draw(rng)).find(|file| !set.contains(file));
            match fresh {
                Some(file) => set.push(file),
                None => break,
            }
        }
        set
    }

    /// Mean size of a request.
    pub fn mean_size(&self, sizes: &[u64]) -> f64 {
        let weights = (1..=self.files).map(|rank| (rank as f64).powf(-self.alpha));
        let (sum, total) = weights
            .zip(sizes)
            .fold((0.0, 0.0), |(sum, total), (weight, size)| (sum + weight * *size as f64, total + weight));
        sum / total
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::roles::simulate::engine::SECOND;
    use crate::roles::simulate::laws::Span;

    fn drawn(shape: Shape, duration: f64) -> Vec<Nanos> {
        let clients = Clients {
            shape,
            at_once: 3,
            files: 1,
            line: None,
            can_return: 1.0,
            timeout: Span(1.0),
            round_trip: Span(0.0),
            resume: true,
        };
        times(&clients, duration, 100.0, &mut Pcg64Mcg::seed_from_u64(1)).expect("not too many")
    }

    fn between(times: &[Nanos], from: u64, to: u64) -> f64 {
        times.iter().filter(|at| (from * SECOND..to * SECOND).contains(*at)).count() as f64
    }

    #[test]
    fn shapes_have_their_rates() {
        let steady = drawn(Shape::Steady { per_second: None, load: Some(0.5) }, 200.0);
        assert!((steady.len() as f64 - 10_000.0).abs() < 400.0, "{}", steady.len());
        assert!(steady.is_sorted() && steady[..3] == [0; 3] && steady[3] > 0);
        let daily = drawn(Shape::Daily { per_second: 100.0, swing: 0.8, period: Span(200.0) }, 200.0);
        assert!((daily.len() as f64 - 20_000.0).abs() < 600.0, "{}", daily.len());
        assert!(between(&daily, 75, 125) > 5.0 * between(&daily, 0, 25).max(between(&daily, 175, 200)));
        let flash = drawn(
            Shape::Flash { clients: 10_000, ramp: Span(20.0), half_life: Span(30.0), per_second: 0.0 },
            600.0,
        );
        assert_eq!(flash.len(), 10_003);
        // Half as many a half-life later; the ramp carries half of its rectangle.
        let (first, second) = (between(&flash, 20, 50), between(&flash, 50, 80));
        assert!((first / second - 2.0).abs() < 0.2, "{first} {second}");
        let ramp = between(&flash, 0, 20) / flash.len() as f64;
        assert!((ramp - 10.0 / (10.0 + 30.0 / 0.693)).abs() < 0.02, "{ramp}");
        let within = drawn(Shape::Within { clients: 60, window: Span(30.0) }, 1.0);
        assert_eq!((within.len(), between(&within, 30, 1000)), (63, 0.0));
    }

    #[test]
    fn popularity_is_zipf() {
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        let law = Popularity::new(1000, 1.0);
        let draws: Vec<u32> = (0..100_000).map(|_| law.draw(&mut rng)).collect();
        let share = |file| draws.iter().filter(|drawn| **drawn == file).count() as f64 / 1e5;
        let harmonic: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        assert!((share(0) * harmonic - 1.0).abs() < 0.05 && (share(9) * harmonic - 0.1).abs() < 0.02);
        assert!((law.mean_size(&vec![7; 1000]) - 7.0).abs() < 1e-9);
        let mut set = Popularity::new(5, 1.0).draw_set(9, &mut rng);
        set.sort_unstable();
        assert!(set.len() <= 5 && set.windows(2).all(|pair| pair[0] != pair[1]), "{set:?}");
        let even = Popularity::new(10, 0.0);
        assert!((0..1000).map(|_| even.draw(&mut rng)).any(|file| file == 9));
    }
}
