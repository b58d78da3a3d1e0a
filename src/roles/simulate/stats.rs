//! Statistics of samples: quantiles, Jain's index of fairness, means with confidence intervals.

/// The value that a share `q` of the sorted values does not exceed (nearest rank); NaN of none.
pub fn quantile(sorted: &[f32], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).map_or(f64::NAN, |value| f64::from(*value))
}

pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count == 0.0 { f64::NAN } else { sum / count }
}

/// Jain's index (sum x)^2 / (n sum x^2): 1 is even, 1/n is all at one.
pub fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares == 0.0 { f64::NAN } else { sum * sum / (values.len() as f64 * squares) }
}

/// 0.975 quantiles of Student's t for 1 to 30 degrees of freedom (any table).
const T_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Mean and half the width of its 95 % confidence interval, by Student's t; 0 for a single value.
pub fn confidence(values: &[f64]) -> (f64, f64) {
    let mean = mean(values.iter().copied());
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let count = values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let t = T_975.get(values.len() - 2).copied().unwrap_or(1.96 + 2.4 / (count - 1.0));
    (mean, t * (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_ranks() {
        let values: Vec<f32> = (1..=100_u8).map(f32::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 0.99, 1.0].map(|q| quantile(&values, q)), [1.0, 50.0, 95.0, 99.0, 100.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn fairness_of_the_even_and_of_the_single() {
        assert!((jain(&[3.0; 7]) - 1.0).abs() < 1e-12);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
        assert!(jain(&[0.0, 0.0]).is_nan());
    }

    #[test]
    fn the_interval_is_that_of_student() {
        let (mean, half) = confidence(&[1.0, 2.0, 3.0, 4.0]);
        assert!((mean - 2.5).abs() < 1e-12 && (half - 3.182 * (5.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-9);
        assert_eq!(confidence(&[7.0]), (7.0, 0.0));
        // Beyond the table it goes on smoothly to the normal law's 1.96.
        let many: Vec<f64> = (0..32).map(f64::from).collect();
        let t = confidence(&many).1 / (confidence(&many[..31]).1);
        assert!((0.9..1.2).contains(&t), "{t}");
    }
}
