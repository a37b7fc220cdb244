//! Builds a pipe per outbox and keeps it running: the only place that knows both a source and a sink.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outbox_core::broker::Broker;
use outbox_core::{Error, ErrorKind, Frame, Result, RetryPolicy};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::bell::Bell;
#[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
use crate::config::Mode;
use crate::config::{OutboxConfig, Unrouted};
use crate::outbox::store::{Database, HeldKey, Store};
use crate::outbox::{self, Item};
use crate::pipe::{self, Pace};
use crate::publish::{Outgoing, Publish};
use crate::retry::{self, Decision, Side};
use crate::status::{State, Status};

/// How long a delivery in flight, and then the last DELETE, may take once the end was asked for: with the
/// seconds in which leases are given back it is within the thirty that orchestrators give by default.
const GRACE: Duration = Duration::from_secs(8);
/// The wait before a pipe that crashed is started again.
const RESTART: Duration = Duration::from_secs(1);
/// The wait before a pipe whose tables did not fit looks at them again.
const MISFIT: Duration = Duration::from_secs(30);
/// How long [`Relay::run_until_idle`] bears a paused pipe: its caller waits for an end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often an idle relay reads though every commit rings: a bell is heard by those who trust it, and this is
/// the net below it. Also how late a key may be found that somebody has replayed or discarded by hand. A longer
/// `poll_max` lengthens it.
const NET: Duration = Duration::from_secs(5);
/// How often [`Relay::run_until_idle`] looks, at most.
const LOOK: Duration = Duration::from_millis(200);
/// How many parked keys are named.
const KEYS_NAMED: u32 = 100;

impl Outgoing for Item {
    fn key(&self) -> &str {
        self.key()
    }

    fn recorded_at_us(&self) -> Option<i64> {
        Some(self.recorded_at_us())
    }

    fn take_frame(&mut self) -> Result<Frame, String> {
        self.take_frame()
    }
}

/// Relays outboxes to one broker.
///
/// With SQLite it needs a runtime of several threads.
#[derive(Debug)]
pub struct Relay<B> {
    outboxes: Vec<(OutboxConfig, Status)>,
    broker: B,
    unrouted: Unrouted,
    stays: bool,
    resettings: mpsc::UnboundedReceiver<OutboxConfig>,
    resetting: Resettings,
}

/// Gives a running relay's outboxes other settings. Clones reach the same relay.
#[derive(Debug, Clone)]
pub struct Resettings(mpsc::UnboundedSender<OutboxConfig>);

impl Resettings {
    /// Has the pipe of the outbox of this name ended in order and started again with these settings. Nothing
    /// happens when the relay has ended or has no outbox of the name.
    pub fn reset(&self, outbox: OutboxConfig) {
        // A relay that has ended needs no settings.
        let _ = self.0.send(outbox);
    }
}

/// What [`Relay::run_until_idle`] could not deliver.
#[derive(Debug, Clone)]
pub struct Left {
    /// The outbox.
    pub outbox: String,
    /// Its parked keys, a hundred at most.
    pub keys: Vec<HeldKey>,
}

impl<B: Broker> Relay<B> {
    /// A relay for these outboxes.
    ///
    /// `unrouted` says what the broker was set up to do with a message that no queue wants: with
    /// [`Unrouted::Queue`] a message that comes back means that the broker's topology is broken, and pauses;
    /// with [`Unrouted::Refuse`] it makes its key wait and parks it in the end.
    ///
    /// # Errors
    /// `Invalid`, with everything that is wrong in the outboxes' configurations.
    pub fn new(
        outboxes: impl IntoIterator<Item = OutboxConfig>,
        broker: B,
        unrouted: Unrouted,
    ) -> Result<Self> {
        let outboxes: Vec<_> = outboxes.into_iter().map(|o| (o.clone(), Status::new(&o.name))).collect();
        let problems: Vec<String> = outboxes
            .iter()
            .flat_map(|(outbox, _)| {
                outbox
                    .problems()
                    .into_iter()
                    .map(move |problem| format!("outbox {:?}: {problem}", outbox.name))
            })
            .collect();
        if problems.is_empty() {
            let (sender, resettings) = mpsc::unbounded_channel();
            let resetting = Resettings(sender);
            Ok(Self { outboxes, broker, unrouted, stays: false, resettings, resetting })
        } else {
            Err(Error::new(ErrorKind::Invalid, problems.join("\n")))
        }
    }

    /// Has it run on though no outbox fits: something else in the process works.
    pub fn stay(self) -> Self {
        Self { stays: true, ..self }
    }

    /// Where each outbox's pipe reports, in the order of the outboxes.
    pub fn statuses(&self) -> Vec<Status> {
        self.outboxes.iter().map(|(_, status)| status.clone()).collect()
    }

    /// What gives its outboxes other settings while it runs.
    pub fn resettings(&self) -> Resettings {
        self.resetting.clone()
    }

    /// Runs until `shutdown`, then finishes what is in flight and gives the leases back.
    ///
    /// A database or a broker that is away is waited for; so is one that is away at the start. An outbox whose tables
    /// are missing or do not fit at the start is [`State::Stopped`], its last error says why, and every half minute it
    /// is looked at again; the others run.
    ///
    /// # Errors
    /// Only at the start: no outbox fits.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        let all = shutdown.child_token();
        let mut pipes: JoinSet<Result<()>> = JoinSet::new();
        let mut numbers: HashMap<Id, usize> = HashMap::new();
        // One for each outbox, which ends its pipe alone.
        let mut ends: Vec<_> = self.outboxes.iter().map(|_| all.child_token()).collect();
        // What is wrong with those that have not fitted yet.
        let misfits: Vec<Misfit> = ends.iter().map(|_| Misfit::default()).collect();
        for (number, end) in ends.iter().enumerate() {
            numbers.insert(self.spawn(&mut pipes, number, Start::first(), &misfits[number], end), number);
        }
        let mut result = Ok(());
        loop {
            let ended = tokio::select! {
                Some(outbox) = self.resettings.recv() => {
                    if let Some(number) = self.outboxes.iter().position(|(old, _)| old.name == outbox.name) {
                        self.outboxes[number].0 = outbox;
                        // It is started again where its end is seen.
                        ends[number].cancel();
                    }
                    continue;
                }
                ended = pipes.join_next_with_id() => ended,
            };
            let Some(ended) = ended else { break };
            let id = match &ended {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            let Some(number) = numbers.remove(&id) else { continue };
            let mut start = Start { wait: RESTART, looks: false };
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((_, Err(error))) => {
                    start = Start { wait: MISFIT, looks: true };
                    self.stop(number, error.to_string(), &misfits[number]);
                    let told: Vec<_> = misfits.iter().filter_map(Misfit::now).collect();
                    if !self.stays && result.is_ok() && told.len() == misfits.len() {
                        result = Err(Error::new(error.kind(), told.join("\n")));
                        all.cancel();
                    }
                }
                Err(error) => error!("a pipe crashed, this is a mistake in the relay: {error}"),
            }
            if all.is_cancelled() {
                continue;
            }
            if ends[number].is_cancelled() {
                ends[number] = all.child_token();
                // A running one pauses if its tables do not fit any more.
                start = Start { wait: Duration::ZERO, looks: misfits[number].now().is_some() };
            }
            numbers.insert(self.spawn(&mut pipes, number, start, &misfits[number], &ends[number]), number);
        }
        result
    }

    /// Shows that an outbox does not fit, and why.
    fn stop(&self, number: usize, why: String, misfit: &Misfit) {
        let (outbox, status) = &self.outboxes[number];
        status.set_error(&why);
        status.set_state(State::Stopped);
        if misfit.set(Some(&why)) {
            error!(outbox = outbox.name, "stopped, looked at again every {} s: {why}", MISFIT.as_secs());
        }
    }

    fn spawn(
        &self,
        pipes: &mut JoinSet<Result<()>>,
        number: usize,
        start: Start,
        misfit: &Misfit,
        shutdown: &CancellationToken,
    ) -> Id {
        let (outbox, status) = self.outboxes[number].clone();
        let sink = Publish::new(self.broker.clone(), self.unrouted, outbox.in_flight_per_key, status.clone());
        pipes.spawn(tend(outbox, sink, status, start, misfit.clone(), shutdown.clone())).id()
    }

    /// Runs until all that stood in the outboxes at the start is gone; later messages are relayed too but
    /// not waited for. What is left is parked: nothing more would happen to it.
    ///
    /// # Errors
    /// When an outbox does not fit or its database cannot be reached at the start, or a pipe was paused for half a
    /// minute.
    pub async fn run_until_idle(self, shutdown: CancellationToken) -> Result<Vec<Left>> {
        let mut goals = Vec::new();
        for (outbox, status) in &self.outboxes {
            let mut store = Store::new(Database::of(outbox)?, "");
            let looking = async {
                look(outbox, &mut store).await?;
                refuse_paused(outbox, &mut store).await?;
                store.top().await
            };
            let top = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(Vec::new()),
                top = looking => top?,
            };
            if let Some(top) = top {
                goals.push(Goal { store, top, status: status.clone() });
            }
        }
        let inner = shutdown.child_token();
        let running = async {
            let ran = self.run(inner.clone()).await;
            inner.cancel();
            ran
        };
        let waiting = async {
            let left = wait_for(&mut goals, &inner).await;
            inner.cancel();
            left
        };
        let (ran, left) = tokio::join!(running, waiting);
        ran?;
        left
    }
}

#[cfg(feature = "rabbitmq")]
impl Relay<outbox_core::broker::rabbitmq::RabbitMq> {
    /// The relay that a configuration describes.
    ///
    /// # Errors
    /// `Invalid`, with everything that is wrong.
    pub fn from_config(config: &crate::config::Config) -> Result<Self> {
        Self::new(config.outbox.clone(), config.broker.rabbitmq()?, config.broker.unrouted)
    }
}

/// How a pipe starts.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// After this time.
    wait: Duration,
    /// Whether it looks first if the tables fit: one that was running pauses if they do not.
    looks: bool,
}

impl Start {
    fn first() -> Self {
        Self { wait: Duration::ZERO, looks: true }
    }
}

/// Why an outbox does not fit, until it does.
#[derive(Debug, Clone, Default)]
struct Misfit(Arc<Mutex<Option<String>>>);

impl Misfit {
    fn now(&self) -> Option<String> {
        self.why().clone()
    }

    /// Whether that is news.
    fn set(&self, why: Option<&str>) -> bool {
        let mut now = self.why();
        let is_news = now.as_deref() != why;
        *now = why.map(str::to_owned);
        is_news
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        // Nothing panics while it holds this.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one outbox's pipe and, beside it, the keeper of its leases, each of which ends when the other does, and
/// in tail mode what listens to the doorbell.
async fn tend<B: Broker>(
    outbox: OutboxConfig,
    mut sink: Publish<B>,
    status: Status,
    start: Start,
    misfit: Misfit,
    shutdown: CancellationToken,
) -> Result<()> {
    let bell = Bell::new(status.clone());
    let (mut source, keeper, watch) = outbox::open(&outbox, status.clone(), &bell)?;
    let starting = async {
        tokio::time::sleep(start.wait).await;
        if start.looks { refuse_misfit(&outbox).await } else { Ok(()) }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {
            status.set_state(State::Stopped);
            return Ok(());
        }
        started = starting => started?,
    }
    misfit.set(None);
    let pace = Pace {
        idle_min: outbox.poll_min.get(),
        idle_max: outbox.poll_max.get(),
        idle_heard: outbox.poll_max.get().max(NET),
        bell: bell.clone(),
        outage: RetryPolicy { initial: Duration::from_millis(100), ..RetryPolicy::default() },
        grace: GRACE,
    };
    let end = shutdown.child_token();
    let stop_keeper = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let (stop, guard) = (stop_keeper.clone(), end.clone().drop_guard());
        async move {
            let _guard = guard;
            keeper.run(stop).await;
        }
    });
    tasks.spawn(watch.run(end.clone()));
    #[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
    if outbox.mode == Mode::Tail {
        source.listen(&outbox, &bell, end.clone(), &mut tasks)?;
    }
    {
        let _guard = stop_keeper.drop_guard();
        pipe::run(&mut source, &mut sink, &pace, &status, &end).await;
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(
                outbox = outbox.name,
                "a task beside the pipe crashed, this is a mistake in the relay: {error}"
            );
        }
    }
    Ok(())
}

/// Looks at the tables once before anything runs, so that a mistake of the set-up is told at once. A database that is
/// away is no mistake.
async fn refuse_misfit(outbox: &OutboxConfig) -> Result<()> {
    let mut store = Store::new(Database::of(outbox)?, "");
    let Err(error) = look(outbox, &mut store).await else { return Ok(()) };
    match retry::decide(&error, Side::Source) {
        Decision::Stop { remedy } => {
            let kind = error.kind();
            Err(Error::new(kind, format!("outbox {:?}: {error}; {remedy}", outbox.name)))
        }
        Decision::Wait { .. } => Ok(()),
    }
}

/// Whether the tables fit, and no relay of another name works on them.
async fn look(outbox: &OutboxConfig, store: &mut Store) -> Result<()> {
    outbox::fit::verify(store).await?;
    match outbox::fit::other_name(store, &outbox.name).await? {
        Some(text) => Err(Error::new(ErrorKind::Invalid, text)),
        None => Ok(()),
    }
}

/// Nothing would become idle.
async fn refuse_paused(outbox: &OutboxConfig, store: &mut Store) -> Result<()> {
    match store.pause().await {
        Ok(Some(pause)) => Err(Error::new(
            ErrorKind::Outage,
            format!("outbox {:?} is {pause}; `outbox-relay resume {}` ends it", outbox.name, outbox.name),
        )),
        Ok(None) => Ok(()),
        // The keeper of the leases tells that it cannot be seen.
        Err(error) if error.kind() == ErrorKind::Database => Ok(()),
        Err(error) => Err(error),
    }
}

/// What has to be gone from an outbox.
struct Goal {
    store: Store,
    top: i64,
    status: Status,
}

/// How far a goal is.
enum Progress {
    /// All of it is gone.
    Reached,
    /// Something of it can still move.
    Open,
    /// What is left of it is parked.
    Parked(Vec<HeldKey>),
}

impl Goal {
    async fn look(&mut self) -> Result<Progress> {
        if !self.store.is_left(self.top, false).await? {
            return Ok(Progress::Reached);
        }
        if self.store.is_left(self.top, true).await? {
            return Ok(Progress::Open);
        }
        let mut keys = self.store.held_keys(KEYS_NAMED).await?;
        keys.retain(|key| key.parked);
        // What was left at the first look may have gone since.
        Ok(if keys.is_empty() { Progress::Open } else { Progress::Parked(keys) })
    }
}

/// Looks until every goal is reached or what is left of it is parked.
async fn wait_for(goals: &mut Vec<Goal>, end: &CancellationToken) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    let mut since: Option<Instant> = None;
    let mut wait = Duration::from_millis(10);
    while !goals.is_empty() {
        tokio::select! {
            () = end.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LOOK);
        let mut open = Vec::new();
        for mut goal in std::mem::take(goals) {
            let snapshot = goal.status.snapshot();
            let why = match snapshot.state {
                State::Paused { why } => Some(why),
                State::Stopped => snapshot.last_error,
                _ => None,
            };
            if let (Some(why), true) = (why, snapshot.state_seconds >= PATIENCE.as_secs()) {
                return Err(Error::new(ErrorKind::Outage, format!("outbox {:?}: {why}", snapshot.name)));
            }
            let looked = tokio::select! {
                biased;
                () = end.cancelled() => return Ok(left),
                looked = goal.look() => looked,
            };
            match looked {
                Ok(Progress::Reached) => {
                    info!(outbox = snapshot.name, "all that was there is delivered");
                    since = None;
                }
                Ok(Progress::Open) => {
                    open.push(goal);
                    since = None;
                }
                Ok(Progress::Parked(keys)) => left.push(Left { outbox: snapshot.name, keys }),
                // The pipe waits it out too; the patience is the same.
                Err(error) if error.is_outage() => {
                    let began = *since.get_or_insert_with(Instant::now);
                    if began.elapsed() >= PATIENCE {
                        return Err(error);
                    }
                    open.push(goal);
                }
                Err(error) => return Err(error),
            }
        }
        *goals = open;
    }
    Ok(left)
}
