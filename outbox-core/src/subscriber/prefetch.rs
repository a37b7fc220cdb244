//! How many deliveries a consumer asks for: as many as fit into memory, and as it can deal with before RabbitMQ takes
//! it for dead.

use std::time::Duration;

use crate::broker::fitting;

/// How many times as many deliveries as before are asked for at most.
const GROWTH: u16 = 16;
/// What was delivered is dealt with within this, as far as can be told beforehand: well within the 30 minutes after
/// which RabbitMQ closes the channel of a consumer that has not acknowledged it (`consumer_timeout`).
const WITHIN: Duration = Duration::from_secs(300);

/// So many of the last deliveries say how long the next take.
const REMEMBERED: u32 = 256;

/// How many deliveries may wait in memory, by the size of those that came, and by how long they took.
pub(super) struct Prefetch {
    pub(super) count: u16,
    max: u16,
    /// Of the last deliveries, in bytes.
    average: usize,
    /// How long the last deliveries took, and how many they were.
    spent: Duration,
    dealt: u32,
}

/// What these say of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Right,
    TooWide,
    TooNarrow,
}

impl Prefetch {
    pub(super) fn new(first: u16, max: u16) -> Self {
        Self { count: first.max(1), max, average: 0, spent: Duration::ZERO, dealt: 0 }
    }

    /// So many deliveries took so long.
    pub(super) fn note(&mut self, took: Duration, deliveries: usize) {
        self.spent += took;
        self.dealt = self.dealt.saturating_add(u32::try_from(deliveries).unwrap_or(u32::MAX));
        while self.dealt > REMEMBERED {
            self.spent /= 2;
            self.dealt /= 2;
        }
    }

    /// How many are dealt with in time; one at least.
    fn in_time(&self) -> u16 {
        if self.dealt == 0 {
            return u16::MAX;
        }
        let count = WITHIN.as_nanos() * u128::from(self.dealt) / self.spent.as_nanos().max(1);
        u16::try_from(count).unwrap_or(u16::MAX).max(1)
    }

    /// How a window fits to deliveries of these bytes; `count` is what fits then.
    pub(super) fn fit(&mut self, window: u16, bytes: usize, deliveries: usize) -> Fit {
        let average = bytes / deliveries.max(1);
        self.average = if self.average == 0 { average } else { (3 * self.average + average) / 4 };
        let most = fitting(self.average);
        // A few small ones say little about the next. Nothing is given back for the time it takes: what came back too often
        // is taken for what ends this process.
        let count = most.min(self.in_time()).min(self.max).min(window.saturating_mul(GROWTH));
        // Not for a little: it interrupts the deliveries.
        let fit = if most < window / 2 {
            Fit::TooWide
        } else if count / 2 >= window || window < count && count == self.max {
            Fit::TooNarrow
        } else {
            Fit::Right
        };
        self.count = if fit == Fit::Right { window } else { count };
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_get_a_smaller_prefetch_and_small_ones_the_whole() {
        const MIB: usize = 1024 * 1024;
        let mut prefetch = Prefetch::new(100, 100);
        let mut fit = |bytes, deliveries| (prefetch.fit(prefetch.count, bytes, deliveries), prefetch.count);
        assert_eq!(fit(100 * 1000, 100), (Fit::Right, 100));
        assert_eq!(fit(MIB, 10), (Fit::Right, 100), "a little larger");
        let refits = (0..20).filter(|_| fit(160 * MIB, 10).0 == Fit::TooWide).count();
        assert!((1..=4).contains(&refits), "{refits}");
        let (_, count) = fit(160 * MIB, 10);
        assert!((4..=8).contains(&count), "{count}");
        let refits = (0..60).filter(|_| fit(1000, 1).0 == Fit::TooNarrow).count();
        assert!((1..=6).contains(&refits), "{refits}");
        let (_, count) = fit(1000, 1);
        assert!(count > 50, "{count}");
    }

    #[test]
    fn a_small_first_fill_grows_in_steps() {
        let mut prefetch = Prefetch::new(4, 100);
        let mut counts = Vec::new();
        while prefetch.fit(prefetch.count, 4 * 1000, 4) == Fit::TooNarrow {
            counts.push(prefetch.count);
        }
        assert_eq!(counts, [64, 100]);
    }

    #[test]
    fn slow_handlers_get_a_wider_window_only_when_they_are_quick() {
        let mut prefetch = Prefetch::new(4, 2000);
        for _ in 0..5 {
            prefetch.note(Duration::from_secs(20), 4);
        }
        assert_eq!(prefetch.fit(4, 4 * 1000, 4), Fit::TooNarrow);
        assert!((55..=65).contains(&prefetch.count), "{}", prefetch.count);
        assert_eq!(prefetch.fit(prefetch.count, 4 * 1000, 4), Fit::Right);
        prefetch.note(Duration::from_secs(3600), 1);
        assert_eq!(prefetch.fit(2000, 1000, 1), Fit::Right, "nothing is given back for it");
        let mut batches = 0;
        prefetch.count = 4;
        while prefetch.count < 2000 {
            batches += 1;
            prefetch.note(Duration::from_millis(1), 100);
            prefetch.fit(prefetch.count, 1000, 1);
        }
        assert!(batches < 60, "{batches}");
    }

    #[test]
    fn a_window_that_was_made_wider_stays_so_for_small_messages() {
        let mut prefetch = Prefetch::new(4, 100);
        assert_eq!(prefetch.fit(2000, 4 * 1000, 4), Fit::Right);
        assert_eq!(prefetch.fit(2000, 4 * 1024 * 1024, 4), Fit::TooWide);
        assert_eq!(prefetch.count, 100);
    }
}
