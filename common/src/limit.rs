//! Rate windows: at most N records per key and window. Keys are flows, devices and executables, so that a
//! flood in one place cannot hide a fault in another.

/// State of one key.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Window {
    /// Start of the current window, ns.
    pub start_ns: u64,
    /// Records asked for in it.
    pub count: u64,
}

impl Window {
    /// The same for a sample: how many were refused since the last one that was admitted, or `None`.
    #[inline(always)]
    pub fn sample(&mut self, now: u64, limit: u64, length_ns: u64) -> Option<u64> {
        let over = now.wrapping_sub(self.start_ns) >= length_ns;
        let refused = if over { self.count.saturating_sub(limit) } else { 0 };
        if self.admit(now, limit, length_ns) { Some(refused) } else { None }
    }

    /// Whether one more record at `now` stays within `limit` per `length_ns`.
    #[inline(always)]
    pub fn admit(&mut self, now: u64, limit: u64, length_ns: u64) -> bool {
        if now.wrapping_sub(self.start_ns) >= length_ns {
            self.start_ns = now;
            self.count = 0;
        }
        self.count += 1;
        self.count <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_tells_of_the_rest_with_the_first_of_the_next_window() {
        let mut w = Window::default();
        let told: Vec<_> = (0..10).map(|i| w.sample(1_000 + i, 3, 1_000)).collect();
        assert_eq!(told[..4], [Some(0), Some(0), Some(0), None]);
        assert_eq!((w.sample(2_500, 3, 1_000), w.sample(2_501, 3, 1_000)), (Some(7), Some(0)));
    }

    #[test]
    fn admits_up_to_the_limit_then_again_in_the_next_window() {
        let mut w = Window::default();
        let admitted = (0..10).filter(|i| w.admit(1_000 + i, 3, 1_000)).count();
        assert_eq!(admitted, 3);
        assert!(w.admit(2_500, 3, 1_000));
    }
}
