//! Statistics of measurements. In: samples. Out: quantiles, medians, and intervals that say how sure they are.
//!
//! Intervals are percentile bootstraps (95 %), resampled with a fixed seed: the same samples always give the same
//! interval. No assumption of a normal distribution: latencies have none.

/// Resamples of one bootstrap.
const RESAMPLES: usize = 400;

/// Lower and upper end of a 95 % interval.
pub type Interval = (f64, f64);

/// A small generator of pseudo-random numbers (xorshift64*), seeded by its maker.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// Any seed; 0 is replaced, because this generator would stay there.
    pub fn new(seed: u64) -> Self {
        Self(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed })
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is above 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.draw() >> 11) % limit
    }
}

/// The quantile `q` (0 to 1) of samples that are sorted here; 0 of none.
pub fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples.get((last as f64 * q).round() as usize).copied().unwrap_or(0.0)
}

/// The middle sample.
pub fn median(samples: &[f64]) -> f64 {
    quantile(&mut samples.to_vec(), 0.5)
}

/// The interval of the median.
pub fn median_interval(samples: &[f64]) -> Interval {
    bootstrap(samples.len(), |picked| {
        let mut chosen: Vec<f64> = picked.iter().map(|&at| samples[at]).collect();
        quantile(&mut chosen, 0.5)
    })
}

/// The interval of what `measure` makes of units (runs, pairs, rounds) drawn again with replacement.
pub fn bootstrap(units: usize, mut measure: impl FnMut(&[usize]) -> f64) -> Interval {
    if units == 0 {
        return (0.0, 0.0);
    }
    let mut random = Random::new(0xfa17);
    let mut results: Vec<f64> = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let picked: Vec<usize> = (0..units).map(|_| random.below(units as u64) as usize).collect();
        results.push(measure(&picked));
    }
    (quantile(&mut results, 0.025), quantile(&mut results, 0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let mut samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut samples, 0.5), 50.0);
        assert_eq!(quantile(&mut samples, 0.99), 99.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }

    #[test]
    fn an_interval_holds_its_median_and_is_repeatable() {
        let samples: Vec<f64> = (0..31).map(|n| f64::from(n * 7 % 31)).collect();
        let (low, high) = median_interval(&samples);
        assert!(low <= median(&samples) && median(&samples) <= high && low < high);
        assert_eq!(median_interval(&samples), (low, high));
    }
}
