//! How long to wait before the next try: exponential with full jitter.
//!
//! Every wait is drawn evenly between zero and a bound that doubles with each failure, so that a
//! thousand peers that lost their server together do not come back together. (Full jitter: Marc
//! Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)

use std::time::Duration;

use rand::{Rng, RngExt};

/// The waits of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits up to `first` after the first failure, and never longer than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The wait after one more failure.
    pub fn handle_failure(&mut self, random: &mut impl Rng) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let bound = doubled.min(self.longest);
        bound.mul_f64(random.random_range(0.0..=1.0))
    }

    /// It worked: the next failure waits like the first.
    pub fn handle_success(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_spread_below_it() {
        let mut random = SmallRng::seed_from_u64(7);
        let longest = Duration::from_secs(30);
        let mut waits = Vec::new();
        for _ in 0..1000 {
            let mut backoff = Backoff::new(Duration::from_millis(200), longest);
            let tries: Vec<_> = (0..12)
                .map(|_| backoff.handle_failure(&mut random))
                .collect();
            assert!(tries[0] <= Duration::from_millis(200));
            assert!(tries.iter().all(|wait| *wait <= longest));
            waits.push(tries[11]);
        }
        let mean = waits.iter().sum::<Duration>() / 1000;
        assert!((Duration::from_secs(13)..Duration::from_secs(17)).contains(&mean));
    }

    #[test]
    fn success_starts_over() {
        let mut random = SmallRng::seed_from_u64(7);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        for _ in 0..40 {
            backoff.handle_failure(&mut random);
        }
        backoff.handle_success();
        assert!(backoff.handle_failure(&mut random) <= Duration::from_millis(200));
    }
}
