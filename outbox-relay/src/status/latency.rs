//! How long messages take from their recording to the broker's confirmation, counted in steps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// The upper ends of the steps, in seconds; one more step is open.
const STEPS: [f64; 13] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0];

/// A histogram that many threads may add to.
#[derive(Debug, Default)]
pub struct Latency {
    counts: [AtomicU64; STEPS.len() + 1],
    sum_us: AtomicU64,
}

/// A picture of a histogram.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LatencyCounts {
    /// How many were observed in all.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_seconds: f64,
    /// Upper end of a step in seconds and how many fell into it; the open step has no end.
    pub steps: Vec<(Option<f64>, u64)>,
}

impl Latency {
    /// Adds one.
    pub fn observe(&self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let step = STEPS.iter().position(|end| seconds <= *end).unwrap_or(STEPS.len());
        self.counts[step].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// A picture of now.
    pub fn counts(&self) -> LatencyCounts {
        let ends = STEPS.iter().copied().map(Some).chain([None]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let steps: Vec<_> = ends.zip(counts).collect();
        LatencyCounts {
            count: steps.iter().map(|(_, count)| count).sum(),
            sum_seconds: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6,
            steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_falls_into_the_first_step_that_holds_it() {
        let latency = Latency::default();
        for ms in [1, 5, 6, 90_000_000] {
            latency.observe(Duration::from_millis(ms));
        }
        let counts = latency.counts();
        assert_eq!(counts.count, 4);
        let filled: Vec<_> = counts.steps.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(Some(0.002), 1), (Some(0.005), 1), (Some(0.01), 1), (None, 1)]);
        assert!((counts.sum_seconds - 90_000.012).abs() < 1e-6);
    }
}
