//! How many messages a second go through, over the last ten seconds.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_secs(10);

/// Messages a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Handed to the broker, those included that are handed to it again.
    pub sent_per_second: f64,
    /// Confirmed by it.
    pub published_per_second: f64,
    /// Deleted from the outbox after that.
    pub settled_per_second: f64,
}

/// Sent, published and settled so far.
pub(super) type Counts = [u64; 3];

/// Counts of some moments within the window, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(Instant, Counts)>);

impl Samples {
    /// Notes the counts of a moment, and forgets what is too old to be of use.
    pub(super) fn note(&mut self, now: Instant, counts: Counts) {
        while self.0.len() > 1 && self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, counts));
    }

    /// The rates since the oldest moment that is noted; nothing before there is one.
    pub(super) fn rates(&self, now: Instant, counts: Counts) -> Rates {
        let Some((at, before)) = self.0.front() else { return Rates::default() };
        let seconds = now.duration_since(*at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let rate = |index: usize| counts[index].saturating_sub(before[index]) as f64 / seconds;
        Rates { sent_per_second: rate(0), published_per_second: rate(1), settled_per_second: rate(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_ten_seconds() {
        let (mut samples, start) = (Samples::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(samples.rates(start, [9, 9, 9]), Rates::default(), "of no time");
        for second in 0..=30 {
            samples.note(at(second), [100 * second, 50 * second, 0]);
        }
        let rates = samples.rates(at(30), [3000, 1500, 0]);
        let wanted = Rates { sent_per_second: 100.0, published_per_second: 50.0, settled_per_second: 0.0 };
        assert_eq!(rates, wanted);
        for second in 31..=60 {
            samples.note(at(second), [3000, 1500, 0]);
        }
        assert_eq!(samples.rates(at(60), [3000, 1500, 0]), Rates::default(), "what was is over");
        assert!(samples.0.len() < 13);
    }
}
