//! Recent: times of events in; how many of them lie within a window, out. A ring of fixed size: O(1), serialisable.
#![forbid(unsafe_code)]

/// Times remembered; also the largest count of a [`crate::config::Burst`].
pub const TIMES: usize = 16;

/// The last events of one entity.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Recent {
    at_ns: [u64; TIMES],
    total: usize,
}

impl Recent {
    /// The newest.
    pub fn last(&self) -> Option<u64> {
        (self.total > 0).then(|| self.at_ns[(self.total - 1) % TIMES])
    }

    /// One more; the oldest gives way.
    pub fn push(&mut self, at_ns: u64) {
        self.at_ns[self.total % TIMES] = at_ns;
        self.total += 1;
    }

    /// Takes the newest back.
    pub fn pop(&mut self) {
        self.total = self.total.saturating_sub(1);
    }

    /// Time from the `count`-th last event to the newest, ns; `None` when there were not that many.
    pub fn span_ns(&self, count: usize) -> Option<u64> {
        let first = (1..=self.total.min(TIMES)).contains(&count).then(|| self.at_ns[(self.total - count) % TIMES])?;
        Some(self.last()?.saturating_sub(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_is_that_of_the_last_events() {
        let mut recent = Recent::default();
        assert_eq!((recent.last(), recent.span_ns(1)), (None, None));
        (1..=20).for_each(|at| recent.push(at * 10));
        assert_eq!(recent.span_ns(3), Some(20));
        assert_eq!(recent.span_ns(TIMES), Some(150));
        assert_eq!(recent.span_ns(TIMES + 1), None, "those are forgotten");
        recent.pop();
        assert_eq!(recent.last(), Some(190));
    }
}
