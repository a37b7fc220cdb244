//! The only loop: *next → deliver → settle*. It owns waiting, pausing and the end; what a batch is, how it
//! travels and what "settled" means belong to the two sides.
//!
//! ```text
//!        ┌────── nothing to do: wait, longer each time, or until it rings; a batch settled: at once ──────┐
//!        ▼                                                                                               │
//!   sink.ready() ──► source.next() ──► batch ──► sink.deliver() ──► verdicts ──► source.settle() ────────┘
//!        │ Err            │ Err                       │ Err, or the batch's time is over
//!        ▼                ▼                           ▼
//!      pause            pause                  source.abandon(), pause: nothing settled, no attempt counted
//! ```

use std::future::Future;
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Result, RetryPolicy};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bell::Bell;
use crate::retry::{self, Side};
use crate::status::{State, Status};

/// How long an answer may take before it counts as trouble that is told, for example a broker that has
/// blocked its publishers because its memory or disk runs low. Waiting goes on.
const SLOW: Duration = Duration::from_secs(5);

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It arrived, safely.
    Done,
    /// It cannot arrive as it is: this counts as an attempt.
    Poison {
        /// Why, for the operator.
        reason: String,
    },
    /// It was not tried, because an earlier one of its key did not arrive. Nothing is counted.
    Held,
}

/// Where items come from. It remembers what it handed out until that is settled or abandoned, and hands out
/// nothing twice meanwhile.
pub trait Source: Send {
    /// What it gives.
    type Item: Send;

    /// The next batch, never empty, in the order in which its items have to arrive per key; `None` when
    /// there is nothing to do now.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The source is at fault: the pipe pauses and asks again.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<Self::Item>>>> + Send;

    /// Until when the batch that was handed out last may be delivered; asked again when that time is there,
    /// since it may have moved. `None` is without end.
    fn deadline(&self) -> impl Fn() -> Option<Instant> + Send + 'static;

    /// Settles a batch by its verdicts, one per item and in their order.
    ///
    /// # Errors
    /// The source is at fault. What could not be settled is kept and settled by a later call of `next`, or
    /// comes again: never lost.
    fn settle(
        &mut self,
        items: Vec<Self::Item>,
        verdicts: Vec<Verdict>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Takes a batch back whose delivery is unknown: its items come again. Waits for nothing: the source may be
    /// out of reach just then, and the end of the relay must not depend on it.
    fn abandon(&mut self, items: Vec<Self::Item>);

    /// Settles what is still open; nothing is asked of the source afterwards.
    ///
    /// # Errors
    /// What could not be settled comes again after the next start.
    fn close(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Where items go.
pub trait Sink<I>: Send {
    /// Makes sure that the target can be reached; called before each batch is read, so that an outage of the
    /// target does not read the same batch again and again. Immediate when it could be reached before.
    ///
    /// # Errors
    /// The target is at fault.
    fn ready(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Delivers the items and answers with one verdict each, in their order. It may take what it needs out
    /// of them.
    ///
    /// Dropping the future gives the delivery up: the sink then counts on nothing that it had open.
    ///
    /// # Errors
    /// The target is at fault: which items arrived is not known, nothing is settled, no attempt is counted.
    fn deliver(&mut self, items: &mut [I]) -> impl Future<Output = Result<Vec<Verdict>>> + Send;
}

/// How long a pipe hears no bell after the first look that finds nothing: MySQL and MariaDB tell of a row some time before
/// they show it. It doubles with each further such look up to [`Pace::idle_min`], until they are farther apart than that.
const DEAF_MIN: Duration = Duration::from_millis(1);

/// How a pipe waits.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The first wait when there is nothing to do.
    pub idle_min: Duration,
    /// The longest wait when there is nothing to do.
    pub idle_max: Duration,
    /// The wait when there is nothing to do and every commit rings: the net below the bell.
    pub idle_heard: Duration,
    /// What ends such a wait early, once a first part of it is over, `idle_min` at most: rings for nothing must not make a
    /// busy loop.
    pub bell: Bell,
    /// Waits while a side is at fault.
    pub outage: RetryPolicy,
    /// How long the delivery in flight may go on after the end was asked for.
    pub grace: Duration,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A batch was delivered; the next step follows at once.
    Worked,
    /// There was nothing to do.
    Idle,
    /// The end was asked for.
    Ended,
}

/// An error with the side that it came from.
#[derive(Debug)]
pub struct Fault {
    /// Whose fault it is.
    pub side: Side,
    /// The error.
    pub error: Error,
}

/// One round: next, deliver, settle.
///
/// # Errors
/// The side at fault; whatever was handed out is back with the source.
pub async fn step<S, K>(
    source: &mut S,
    sink: &mut K,
    pace: &Pace,
    status: &Status,
    shutdown: &CancellationToken,
) -> Result<Step, Fault>
where
    S: Source,
    K: Sink<S::Item>,
{
    let at = |side| move |error| Fault { side, error };
    let next = async {
        told(Side::Target, status, sink.ready()).await.map_err(at(Side::Target))?;
        told(Side::Source, status, source.next()).await.map_err(at(Side::Source))
    };
    let next = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(Step::Ended),
        next = next => next?,
    };
    let Some(mut items) = next else { return Ok(Step::Idle) };
    match deliver(sink, &mut items, source.deadline(), pace, status, shutdown).await {
        Ok(verdicts) => {
            source.settle(items, verdicts).await.map_err(at(Side::Source))?;
            Ok(Step::Worked)
        }
        Err(error) => {
            source.abandon(items);
            Err(Fault { side: Side::Target, error })
        }
    }
}

/// Waits for a side, and tells of it when that takes long: a database whose packets are lost answers nothing.
async fn told<T>(side: Side, status: &Status, answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::pin!(answer);
    if let Ok(answer) = tokio::time::timeout(SLOW, &mut answer).await {
        return answer;
    }
    let text = format!("no answer since {SLOW:?}, waiting on");
    pause(status, &Fault { side, error: Error::new(ErrorKind::Outage, text) });
    answer.await
}

/// Delivers within the batch's time, and within the grace once the end was asked for.
async fn deliver<I: Send, K: Sink<I>>(
    sink: &mut K,
    items: &mut [I],
    lease: impl Fn() -> Option<Instant>,
    pace: &Pace,
    status: &Status,
    shutdown: &CancellationToken,
) -> Result<Vec<Verdict>> {
    let count = items.len();
    let delivery = sink.deliver(items);
    tokio::pin!(delivery);
    let mut end = None;
    let mut slow = Some(Instant::now() + SLOW);
    let verdicts = loop {
        let deadline = [lease(), end].into_iter().flatten().min();
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        if is_over {
            let why = if end.is_some() { "the relay ends" } else { "the lease would not last" };
            return Err(Error::new(
                ErrorKind::Outage,
                format!("no answer for {count} messages in time ({why}); they are published again"),
            ));
        }
        tokio::select! {
            biased;
            // First: a process that was stopped must look at its lease before it publishes on.
            () = sleep_until(deadline) => {}
            verdicts = &mut delivery => break verdicts?,
            () = shutdown.cancelled(), if end.is_none() => end = Some(Instant::now() + pace.grace),
            () = sleep_until(slow) => {
                slow = None;
                let text = format!("no answer for {count} messages since {SLOW:?}, waiting on");
                pause(status, &Fault { side: Side::Target, error: Error::new(ErrorKind::Outage, text) });
            }
        }
    };
    if verdicts.len() != count {
        let text = format!("{} verdicts for {count} items: a mistake in the sink", verdicts.len());
        return Err(Error::new(ErrorKind::Broker, text));
    }
    Ok(verdicts)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Steps until the end is asked for, then closes the source.
pub async fn run<S, K>(
    source: &mut S,
    sink: &mut K,
    pace: &Pace,
    status: &Status,
    shutdown: &CancellationToken,
) where
    S: Source,
    K: Sink<S::Item>,
{
    let (mut idle, mut deafness) = (pace.idle_min, DEAF_MIN);
    // The last look in vain.
    let mut looked = Instant::now();
    let mut outage = pace.outage.waits();
    loop {
        let (deaf, wait) = match step(source, sink, pace, status, shutdown).await {
            Ok(Step::Ended) => break,
            Ok(Step::Worked) => {
                (idle, deafness) = (pace.idle_min, DEAF_MIN);
                outage.reset();
                resume(status);
                // A busy pipe lets others on its thread run too.
                tokio::task::yield_now().await;
                continue;
            }
            Ok(Step::Idle) => {
                outage.reset();
                resume(status);
                // A key that waits is due by time, and nobody rings then.
                if pace.bell.is_heard() && status.waiting_keys() == 0 {
                    idle = pace.idle_min;
                    if looked.elapsed() > pace.idle_min {
                        deafness = DEAF_MIN;
                    }
                    let deaf = deafness.min(pace.idle_min);
                    deafness = (deaf * 2).min(pace.idle_min);
                    looked = Instant::now();
                    (deaf, pace.idle_heard)
                } else {
                    let wait = idle;
                    idle = (idle * 2).min(pace.idle_max);
                    (pace.idle_min, wait)
                }
            }
            Err(fault) => {
                pause(status, &fault);
                let wait = outage.next_wait();
                (wait, wait)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = wait_for(&pace.bell, deaf, wait) => {}
        }
    }
    match tokio::time::timeout(pace.grace, source.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(outbox = status.name(), "closing: {error}; confirmed messages are published again")
        }
        Err(_) => {
            warn!(outbox = status.name(), "closing took too long; confirmed messages are published again")
        }
    }
    status.set_state(State::Stopped);
}

/// Waits until the time is over or the bell rings; what rings in the first, deaf part is heard after it.
async fn wait_for(bell: &Bell, deaf: Duration, wait: Duration) {
    let end = Instant::now() + wait;
    tokio::time::sleep(deaf).await;
    if deaf < wait {
        let _ = tokio::time::timeout_at(end, bell.rung()).await;
    }
}

/// Logged once per change, not per attempt.
fn resume(status: &Status) {
    if status.set_state(State::Running) {
        info!(outbox = status.name(), "running");
    }
}

/// Logged when it begins and when it is the other side's fault, then now and then: the words change with each attempt.
fn pause(status: &Status, fault: &Fault) {
    let remedy = retry::decide(&fault.error, fault.side).remedy();
    let why = format!("{}; {remedy}", fault.error);
    if status.set_paused(fault.side, why.clone()) {
        warn!(outbox = status.name(), "paused: {why}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::bell::BellState;

    /// What happened, in order.
    type Log = Arc<Mutex<Vec<String>>>;

    struct Batches {
        log: Log,
        batches: VecDeque<Result<Option<Vec<u8>>>>,
        lease: Option<Duration>,
    }

    impl Source for Batches {
        type Item = u8;

        async fn next(&mut self) -> Result<Option<Vec<u8>>> {
            self.batches.pop_front().unwrap_or(Ok(None))
        }

        fn deadline(&self) -> impl Fn() -> Option<Instant> + Send + 'static {
            let end = self.lease.map(|lease| Instant::now() + lease);
            move || end
        }

        async fn settle(&mut self, items: Vec<u8>, verdicts: Vec<Verdict>) -> Result<()> {
            self.log.lock().unwrap().push(format!("settle {items:?} {}", verdicts.len()));
            Ok(())
        }

        fn abandon(&mut self, items: Vec<u8>) {
            self.log.lock().unwrap().push(format!("abandon {items:?}"));
        }

        async fn close(&mut self) -> Result<()> {
            self.log.lock().unwrap().push("close".into());
            Ok(())
        }
    }

    /// Answers after a time, or not at all.
    struct Slow(Option<Duration>);

    impl Sink<u8> for Slow {
        async fn ready(&mut self) -> Result<()> {
            Ok(())
        }

        async fn deliver(&mut self, items: &mut [u8]) -> Result<Vec<Verdict>> {
            match self.0 {
                Some(time) => tokio::time::sleep(time).await,
                None => return Err(Error::new(ErrorKind::Outage, "no broker")),
            }
            Ok(vec![Verdict::Done; items.len()])
        }
    }

    fn pace() -> Pace {
        let second = Duration::from_secs(1);
        Pace {
            idle_min: second,
            idle_max: second,
            idle_heard: 60 * second,
            bell: Bell::new(Status::new("test")),
            outage: RetryPolicy::default(),
            grace: 2 * second,
        }
    }

    fn source(log: &Log, lease: Option<u64>) -> Batches {
        let batches = [Ok(Some(vec![1, 2])), Ok(None)].into();
        Batches { log: log.clone(), batches, lease: lease.map(Duration::from_secs) }
    }

    async fn steps(lease: Option<u64>, sink: Slow) -> (Result<Step, Fault>, Vec<String>) {
        let (log, mut sink) = (Log::default(), sink);
        let mut source = source(&log, lease);
        let step =
            step(&mut source, &mut sink, &pace(), &Status::new("test"), &CancellationToken::new()).await;
        let log = log.lock().unwrap().clone();
        (step, log)
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_settled_by_its_verdicts() {
        let (step, log) = steps(None, Slow(Some(Duration::from_secs(1)))).await;
        assert_eq!(step.unwrap(), Step::Worked);
        assert_eq!(log, ["settle [1, 2] 2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_target_settles_nothing() {
        let (step, log) = steps(None, Slow(None)).await;
        assert_eq!(step.unwrap_err().side, Side::Target);
        assert_eq!(log, ["abandon [1, 2]"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_ends_with_its_lease() {
        let (step, log) = steps(Some(3), Slow(Some(Duration::from_secs(4)))).await;
        assert!(step.unwrap_err().error.to_string().contains("lease"));
        assert_eq!(log, ["abandon [1, 2]"]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_what_is_in_flight_has_a_grace() {
        for (time, settled) in [(1, "settle [1, 2] 2"), (5, "abandon [1, 2]")] {
            let (log, status, shutdown) = (Log::default(), Status::new("test"), CancellationToken::new());
            let mut source = source(&log, None);
            let mut sink = Slow(Some(Duration::from_secs(time)));
            let stop = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                shutdown.cancel();
            };
            let pace = pace();
            tokio::join!(run(&mut source, &mut sink, &pace, &status, &shutdown), stop);
            assert_eq!(*log.lock().unwrap(), [settled, "close"]);
            assert_eq!(status.snapshot().state, State::Stopped);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_pauses_and_passes_by_itself() {
        let (log, status, shutdown) = (Log::default(), Status::new("test"), CancellationToken::new());
        let mut source = source(&log, None);
        source.batches.push_front(Err(Error::new(ErrorKind::Outage, "database is away")));
        let mut sink = Slow(Some(Duration::ZERO));
        let pace = pace();
        let watch = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let snapshot = status.snapshot();
            assert!(matches!(snapshot.state, State::Paused { why } if why.contains("database is away")));
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(status.snapshot().state, State::Running);
            shutdown.cancel();
        };
        tokio::join!(run(&mut source, &mut sink, &pace, &status, &shutdown), watch);
        assert_eq!(*log.lock().unwrap(), ["settle [1, 2] 2", "close"]);
    }

    /// When there is something, after so many looks in vain, in whole seconds.
    async fn found_after(vain: usize, is_heard: bool, waiting: u64, ring_at: Option<Duration>) -> u64 {
        let (log, status, shutdown) = (Log::default(), Status::new("test"), CancellationToken::new());
        let bell = Bell::new(status.clone());
        if is_heard {
            bell.set(BellState::Heard);
            bell.rung().await;
        }
        status.set_keys(waiting, 0);
        let mut source = source(&log, None);
        (0..vain).for_each(|_| source.batches.push_front(Ok(None)));
        let mut sink = Slow(Some(Duration::ZERO));
        let pace = Pace { bell: bell.clone(), ..pace() };
        let watch = async {
            let started = Instant::now();
            while log.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if ring_at.is_some_and(|at| started.elapsed() >= at) {
                    bell.ring();
                }
            }
            shutdown.cancel();
            started.elapsed().as_secs()
        };
        tokio::join!(run(&mut source, &mut sink, &pace, &status, &shutdown), watch).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_ends_a_wait_and_the_net_is_below_it() {
        let ring_at = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(found_after(1, false, 0, None).await, 1, "polls");
        assert_eq!(found_after(1, true, 0, None).await, 60, "trusts the bell");
        assert_eq!(found_after(1, true, 0, ring_at(10)).await, 10);
        assert_eq!(found_after(1, true, 0, ring_at(0)).await, 0, "looks again soon");
        assert_eq!(found_after(1, true, 0, ring_at(50)).await, 50);
        let found = found_after(20, true, 0, ring_at(0)).await;
        assert!((10..=13).contains(&found), "but no busy loop: {found} s");
        assert_eq!(found_after(1, true, 1, None).await, 1, "a key that waits does not ring");
    }
}
