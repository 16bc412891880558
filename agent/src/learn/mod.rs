//! Learn: what is normal for an entity. In: numbers seen while nothing is wrong. Out: a baseline.
//!
//! An exponentially weighted mean that is told when to stand still: a mean that keeps learning during an
//! anomaly soon calls the anomaly normal. Only additions and multiplications: the same bits on every CPU.
#![forbid(unsafe_code)]

/// A learned level.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Baseline {
    mean: f64,
    samples: u32,
}

impl Baseline {
    /// Weight of one new sample once the baseline is warm.
    const ALPHA: f64 = 0.02;

    /// Takes a sample in; the first fifty are averaged plainly.
    pub fn learn(&mut self, value: f64) {
        self.samples = self.samples.saturating_add(1);
        let alpha = (1.0 / f64::from(self.samples)).max(Self::ALPHA);
        self.mean += alpha * (value - self.mean);
    }

    /// The level, once at least `warm` samples were taken.
    pub fn level(&self, warm: u32) -> Option<f64> {
        (self.samples >= warm).then_some(self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_silent_until_warm_and_follows_slowly() {
        let mut b = Baseline::default();
        for _ in 0..30 {
            assert_eq!(b.level(31), None);
            b.learn(10.0);
        }
        assert_eq!(b.level(30), Some(10.0));
        b.learn(1000.0);
        assert!(b.level(30).is_some_and(|l| l < 50.0), "one wild sample must not move the level far");
    }
}
