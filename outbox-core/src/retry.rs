//! Waiting between attempts. The only module that knows the `backoff` crate, which is unmaintained
//! (RUSTSEC-2025-0012): replacing it means replacing this file.

use std::time::Duration;

use backoff::backoff::Backoff as _;

/// How long to wait between attempts, and how often to try.
///
/// ```
/// use std::time::Duration;
/// use outbox_core::RetryPolicy;
///
/// let ms = Duration::from_millis;
/// let policy = RetryPolicy { initial: ms(100), max: ms(1_000), multiplier: 4.0, ..RetryPolicy::default() };
/// assert_eq!(policy.max_attempts, 5);
///
/// // About 100, 400, 1000 and 1000 ms, each within 30 %.
/// let mut waits = policy.waits();
/// for about in [100, 400, 1_000, 1_000] {
///     let wait = waits.next_wait();
///     assert!((ms(about * 7 / 10)..=ms(about * 13 / 10)).contains(&wait), "{wait:?}");
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The first wait. Default 50 ms.
    pub initial: Duration,
    /// No wait is longer than this, jitter aside. Default 5 s.
    pub max: Duration,
    /// Each wait is this many times the one before. Default 2.
    pub multiplier: f64,
    /// Attempts in all before giving up, at least 1; only for what counts attempts: a handler, a
    /// [`Writer`](crate::Writer)'s transaction. A relay or subscriber waits out an outage without limit.
    /// Default 5.
    pub max_attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(5),
            multiplier: 2.0,
            max_attempts: 5,
        }
    }
}

impl RetryPolicy {
    /// A fresh series of waits.
    pub fn waits(&self) -> Waits {
        Waits(
            backoff::ExponentialBackoffBuilder::new()
                .with_initial_interval(self.initial)
                .with_max_interval(self.max)
                .with_multiplier(self.multiplier)
                .with_randomization_factor(0.3)
                .with_max_elapsed_time(None)
                .build(),
        )
    }
}

/// The attempts at one thing: what follows a failure, for whoever waits, blocking or not.
#[derive(Debug)]
pub(crate) struct Attempts {
    waits: Waits,
    made: u32,
    max: u32,
}

impl Attempts {
    /// One attempt at first, and more as the policy allows.
    pub(crate) fn of(policy: &RetryPolicy) -> Self {
        Self { waits: policy.waits(), made: 1, max: policy.max_attempts }
    }

    /// The wait before the next attempt; `None` when there is none left.
    pub(crate) fn next_wait(&mut self) -> Option<Duration> {
        if self.made >= self.max {
            return None;
        }
        self.made += 1;
        Some(self.waits.next_wait())
    }

    /// How many were made, the one that is under way among them.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }
}

/// An endless series of growing, jittered waits; start again with [`Waits::reset`] after a success.
///
/// ```
/// use std::time::Duration;
/// use outbox_core::RetryPolicy;
///
/// # let mut answers = [Err("refused"), Err("refused"), Ok(()), Err("refused")].into_iter();
/// # let mut connect = || answers.next().unwrap_or(Ok(()));
/// # let mut waited = Vec::new();
/// # let mut sleep = |wait: Duration| waited.push(wait);
/// let mut waits = RetryPolicy { initial: Duration::from_millis(50), ..RetryPolicy::default() }.waits();
/// for _ in 0..4 {
///     match connect() {
///         Ok(()) => waits.reset(),
///         Err(_) => sleep(waits.next_wait()),
///     }
/// }
/// // Refused, refused, connected, refused: the third wait is as short as the first.
/// assert!(waited[1] > waited[0] && waited[2] < waited[1]);
/// ```
#[derive(Debug)]
pub struct Waits(backoff::ExponentialBackoff);

impl Waits {
    /// The next wait, within 30 % around the policy's value.
    pub fn next_wait(&mut self) -> Duration {
        // Without a maximal elapsed time the series never ends.
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Begins again with the initial wait.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_end_after_the_last_and_one_is_always_made() {
        for (max_attempts, waits) in [(0, 0), (1, 0), (3, 2)] {
            let mut attempts = Attempts::of(&RetryPolicy { max_attempts, ..RetryPolicy::default() });
            assert_eq!(std::iter::from_fn(|| attempts.next_wait()).count(), waits);
            assert_eq!(attempts.made(), max_attempts.max(1));
        }
    }

    #[test]
    fn waits_grow_to_the_maximum_and_start_again() {
        let policy = RetryPolicy { max: Duration::from_millis(400), ..RetryPolicy::default() };
        let mut waits = policy.waits();
        let series: Vec<_> = (0..20).map(|_| waits.next_wait()).collect();
        assert!(series[0] <= Duration::from_millis(65) && series[0] >= Duration::from_millis(35));
        assert!(series.iter().all(|wait| *wait <= Duration::from_millis(520)));
        assert!(series[19] >= Duration::from_millis(280));
        waits.reset();
        assert!(waits.next_wait() <= Duration::from_millis(65));
    }
}
