//! A replication from its connections to their loss: takes whole transactions in while the group before is committed,
//! has tables copied beside it, and holds what cannot go on. One task owns all of it; what waits for a server is in
//! tasks of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::applier::{self, Look, Order, Report};
use super::chunks::{self, Answer};
use super::compact::{CopyProgress, Group, Held, Touched};
use super::ddl;
use super::feed::{self, Read, What};
use super::plan::{CopyPlan, CopySpec, Key};
use super::setup;
use super::state::{Checkpoint, CopyPhase, CopyState};
use super::status::{CopyStatus, State, Status};
use super::target::{Applied, Target};
use super::window::Copying;
use crate::binlog::{Proof, Server, Source, Tables, follow};
use crate::change::{Position, Txn};
use crate::config::ReplicationConfig;

/// How often the tables of state are looked at: for pauses, requests, and to keep freshness fresh.
const LOOK: Duration = Duration::from_secs(2);
/// How long a group may take before the target counts as away.
const SLOW: Duration = Duration::from_secs(5);
/// How long a source that is away is borne by a caller who waits for an end.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long what is under way may take at the end.
const GRACE: Duration = Duration::from_secs(8);
/// Tables that are read at the same time.
const READERS: usize = 2;
/// Transactions taken in at a time, before anything else is looked at.
const BURST: usize = 256;

/// How a session ended in good order.
#[derive(Debug)]
pub(super) enum End {
    Shutdown,
    /// All up to the goal is applied, and every copy is complete or held.
    Idle(Vec<Held>),
    Paused(String),
    /// Somebody has asked for something that a new session begins with.
    Restart,
}

/// A copy in a session.
#[derive(Debug)]
struct Copy {
    spec: CopySpec,
    state: CopyState,
    plan: Option<Arc<CopyPlan>>,
    copying: Option<Copying>,
    began: Instant,
    /// Rows that were copied when the session began.
    began_at: u64,
    set_aside: u64,
}

/// What connects a session with its tasks, which end with it.
struct Tasks {
    reads: mpsc::Receiver<Read>,
    requests: mpsc::Sender<chunks::Request>,
    answers: mpsc::Receiver<Answer>,
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Result<Report>>,
    _all: JoinSet<()>,
}

/// The last transaction that was taken in.
#[derive(Debug, Clone, Default)]
struct Last {
    committed_at_us: i64,
    checksum: u32,
    before: Option<Position>,
}

pub(super) struct Session<'c> {
    config: &'c ReplicationConfig,
    status: Status,
    server: Server,
    copies: Vec<Copy>,
    tasks: Tasks,
    group: Group,
    /// A transaction that does not fit into the group.
    pending: Option<Txn>,
    /// The group notes that copies are held, which the tables of state do not say yet.
    has_holds: bool,
    position: Position,
    last: Last,
    source_id: Arc<str>,
    as_of_us: i64,
    /// The source's clock less ours, in microseconds.
    clock_us: i64,
    /// Since when the target works on an order.
    busy_since: Option<Instant>,
    /// What the group under way has closed.
    closing: Vec<(usize, CopyProgress)>,
    is_look_due: bool,
    windows: u64,
    /// What is wrong with the source, and since when.
    trouble: Option<(String, Instant)>,
    /// Whether anything has come from the source: before, it may be found not to be the one that was read from.
    is_following: bool,
}

impl<'c> Session<'c> {
    /// Connects to both sides, claims the target and resolves the copies.
    pub(super) async fn open(
        config: &'c ReplicationConfig,
        source: Source,
        mut target: Target,
        status: Status,
    ) -> Result<Session<'c>> {
        let mut server = Server::connect(&source).await?;
        let checkpoint = target.checkpoint().await?;
        let known = target.copies().await?;
        let found = setup::copies(config, &mut server, &mut target, known).await?;
        let clock_us = clock(&mut server).await?;
        let checkpoint = match checkpoint {
            Some(checkpoint) => {
                for copy in found.iter().filter(|copy| copy.is_changed) {
                    target.set_copy(&copy.state).await?;
                }
                checkpoint
            }
            None => {
                let checkpoint = beginning(&mut server, now_us() + clock_us).await?;
                let states: Vec<_> = found.iter().map(|copy| copy.state.clone()).collect();
                target.start(&checkpoint, &states).await?;
                info!(replication = config.name, position = %checkpoint.position, "begins");
                checkpoint
            }
        };
        let copies = found.into_iter().map(|copy| Copy::new(copy, config)).collect::<Result<Vec<_>>>()?;
        let last = Last {
            committed_at_us: checkpoint.committed_at_us,
            checksum: checkpoint.checksum,
            before: checkpoint.before.clone(),
        };
        let memory = config.memory_bytes.get();
        let source = Source { memory_bytes_max: (memory / 8) as usize, ..source };
        let tasks = Tasks::start(source, &checkpoint, &copies, target, memory / 8);
        let plans: Vec<_> = copies.iter().filter_map(|copy| copy.plan.clone()).collect();
        let this = Self {
            config,
            status,
            server,
            tasks,
            group: Group::new(&plans, memory / 4),
            copies,
            pending: None,
            has_holds: false,
            position: checkpoint.position,
            last,
            source_id: checkpoint.source_id.into(),
            as_of_us: checkpoint.as_of_us,
            clock_us,
            busy_since: None,
            closing: Vec::new(),
            is_look_due: true,
            windows: 0,
            trouble: None,
            is_following: false,
        };
        this.show();
        Ok(this)
    }

    /// Where the source's log ends now.
    pub(super) async fn high_mark(&mut self) -> Result<Position> {
        self.server.high_mark().await
    }

    /// Works until `shutdown`, or until all up to the goal is applied.
    ///
    /// # Errors
    /// `Outage` when a new session may do better; anything else has to be mended first.
    pub(super) async fn run(mut self, goal: Option<&Position>, shutdown: &CancellationToken) -> Result<End> {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.read_tables();
            self.order()?;
            if let Some(left) = goal.and_then(|goal| self.reached(goal)) {
                return Ok(End::Idle(left));
            }
            let may_take =
                self.pending.is_none() && self.group.weight_bytes() < self.config.memory_bytes.get() / 4;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.finish().await,
                report = self.tasks.reports.recv() => {
                    if let Some(end) = self.reported(report.ok_or_else(gone)??) {
                        return Ok(end);
                    }
                }
                answer = self.tasks.answers.recv() => self.answered(answer.ok_or_else(gone)?),
                read = self.tasks.reads.recv(), if may_take => {
                    self.take(read.ok_or_else(gone)?).await?;
                    self.take_burst().await?;
                }
                _ = ticks.tick() => self.tick(),
            }
            if let (Some(_), Some((why, since))) = (goal, &self.trouble)
                && since.elapsed() >= PATIENCE
            {
                return Err(Error::new(ErrorKind::Outage, why.clone()));
            }
        }
    }

    /// Takes in what is there already, while the target is busy anyway.
    async fn take_burst(&mut self) -> Result<()> {
        for _ in 0..BURST {
            let is_full = self.group.weight_bytes() >= self.config.memory_bytes.get() / 4;
            if self.busy_since.is_none() || self.pending.is_some() || is_full {
                return Ok(());
            }
            let Ok(read) = self.tasks.reads.try_recv() else { return Ok(()) };
            self.take(read).await?;
        }
        Ok(())
    }

    async fn take(&mut self, read: Read) -> Result<()> {
        if read.server != self.source_id && !read.server.is_empty() {
            // What was read from another server stands at that one's places in the log.
            self.source_id = Arc::clone(&read.server);
            for copying in self.copies.iter_mut().filter_map(|copy| copy.copying.as_mut()) {
                copying.start_over();
            }
            self.clock_us = clock(&mut self.server).await.unwrap_or(self.clock_us);
        }
        self.status.update(|progress| progress.lineage_proven = read.is_proven);
        match read.what {
            What::Txn(txn) => {
                self.set_trouble(None);
                self.look_at_statements(&txn).await?;
                if self.group.fits(&txn) {
                    self.push(txn)?;
                } else {
                    self.pending = Some(txn);
                }
            }
            What::Quiet(position) => {
                self.set_trouble(None);
                self.position = position;
                self.as_of_us = now_us() + self.clock_us;
            }
            What::Away(why) => self.set_trouble(Some(why)),
            What::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn push(&mut self, txn: Txn) -> Result<()> {
        let (position, committed_at_us, checksum) = (txn.position.clone(), txn.committed_at_us, txn.checksum);
        let mut copying: Vec<_> = self
            .copies
            .iter_mut()
            .filter_map(|copy| Some((copy.plan.clone()?, copy.copying.as_mut()?)))
            .collect();
        let is_copying = !copying.is_empty();
        let mut touch = |plan: &Arc<CopyPlan>, key: &Key| {
            let those = copying.iter_mut().filter(|(other, _)| Arc::ptr_eq(other, plan));
            those.for_each(|(_, copying)| copying.touch(key));
        };
        let touched: Option<&mut Touched<'_>> = if is_copying { Some(&mut touch) } else { None };
        let held = self.group.push(txn, touched)?;
        let before = std::mem::replace(&mut self.position, position);
        self.last = Last { committed_at_us, checksum, before: Some(before) };
        self.as_of_us = committed_at_us;
        self.status.update(|progress| progress.transactions += 1);
        for Held { copy, reason } in held {
            let reason = format!("{reason}; then run `outbox-relay snapshot {} {copy}`", self.config.name);
            self.hold(&copy, reason);
        }
        Ok(())
    }

    /// Whether statements of the log have done something to a table that its row events do not tell.
    async fn look_at_statements(&mut self, txn: &Txn) -> Result<()> {
        for statement in &txn.statements {
            for (effect, database, table) in ddl::effects(&statement.database, &statement.sql) {
                let is_meant = |spec: &CopySpec| {
                    same(&spec.source_database, &database)
                        && table.as_ref().is_none_or(|table| same(&spec.source_table, table))
                };
                for (copy, name) in self.copies_of(is_meant) {
                    let reason = format!(
                        "the source's table {name} was {}; the copy is as it was before; run `outbox-relay snapshot {} \
                         {copy}` to make it anew",
                        effect.told(),
                        self.config.name,
                    );
                    self.hold(&copy, reason);
                }
            }
            let text = statement.sql.to_lowercase();
            let is_mentioned = |spec: &CopySpec| text.contains(&spec.source_table.to_lowercase());
            for (copy, _) in self.copies_of(is_mentioned) {
                self.compare(&copy).await?;
            }
        }
        Ok(())
    }

    /// Holds a copy whose columns are not what they were when it was made.
    async fn compare(&mut self, name: &str) -> Result<()> {
        let Some(copy) = self.copies.iter().find(|copy| copy.state.copy == name && copy.plan.is_some())
        else {
            return Ok(());
        };
        let (spec, was) = (copy.spec.clone(), copy.state.definition.clone().unwrap_or_default());
        let what = match setup::source_facts(&mut self.server, &spec).await {
            Ok(facts) => setup::difference(&was, &setup::definition(&spec, &facts)?),
            Err(error) if error.is_outage() => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        if let Some(what) = what {
            self.hold(name, setup::changed(&spec, &self.config.name, &what));
        }
        Ok(())
    }

    /// The copies that are not held of tables that are meant, with their tables.
    fn copies_of(&self, is_meant: impl Fn(&CopySpec) -> bool) -> Vec<(String, String)> {
        let meant = self.copies.iter().filter(|copy| copy.plan.is_some() && is_meant(&copy.spec));
        meant.map(|copy| (copy.state.copy.clone(), copy.state.source_table.clone())).collect()
    }

    /// Takes a copy out of what goes on. The group notes it with its checkpoint, so that none is written that passes a
    /// change which the copy does not have.
    fn hold(&mut self, name: &str, reason: String) {
        let Some(copy) = self.copies.iter_mut().find(|copy| copy.state.copy == name && copy.plan.is_some())
        else {
            return;
        };
        warn!(replication = self.config.name, copy = name, reason, "the copy is held");
        if let Some(at) = self.group.plans.iter().position(|plan| plan.name() == name) {
            self.group.hold(at, reason.clone());
        }
        self.has_holds = true;
        copy.state.phase = CopyPhase::Held;
        copy.state.reason = Some(reason);
        copy.plan = None;
        copy.copying = None;
        self.show();
    }

    /// Opens windows as far as memory allows.
    fn read_tables(&mut self) {
        let memory = self.config.memory_bytes.get() / 4;
        let chunk = self.config.chunk_bytes.get();
        // Without a place in the log nothing says when a window ends.
        if self.position.file.is_none() {
            return;
        }
        let mut bytes: u64 = self.copies.iter().filter_map(|copy| Some(copy.copying.as_ref()?.bytes())).sum();
        for copying in self.copies.iter_mut().filter_map(|copy| copy.copying.as_mut()) {
            if bytes >= memory {
                return;
            }
            let Ok(permit) = self.tasks.requests.try_reserve() else { return };
            if let Some(request) = copying.open(self.windows, &self.position, chunk) {
                self.windows += 1;
                bytes += chunk;
                permit.send(request);
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Ok(piece) => {
                let source = Arc::clone(&self.source_id);
                let windows = self.copies.iter_mut().filter_map(|copy| copy.copying.as_mut());
                if let Some(copying) = windows.into_iter().find(|copying| copying.has(piece.window)) {
                    if piece.source == *source {
                        copying.read(piece);
                    } else {
                        copying.start_over();
                    }
                }
            }
            Err((window, error)) => {
                let found =
                    self.copies.iter().find(|copy| copy.copying.as_ref().is_some_and(|c| c.has(window)));
                if let Some(name) = found.map(|copy| copy.state.copy.clone()) {
                    let reason =
                        format!("{error}; then run `outbox-relay snapshot {} {name}`", self.config.name);
                    self.hold(&name, reason);
                }
            }
        }
    }

    /// Gives the target its next order, if it has none.
    fn order(&mut self) -> Result<()> {
        if self.busy_since.is_some() {
            return Ok(());
        }
        // Also while there is always a group due.
        let order = match self.next_look() {
            Some(look) => Some(look),
            None => self.next_group()?,
        };
        if let Some(order) = order {
            self.busy_since = Some(Instant::now());
            self.tasks.orders.try_send(order).map_err(|_| gone())?;
        }
        Ok(())
    }

    /// The group, with the windows that end with it, if there is anything in it.
    fn next_group(&mut self) -> Result<Option<Order>> {
        let mut is_closing = false;
        for (number, copy) in self.copies.iter_mut().enumerate() {
            let Some(copying) = &mut copy.copying else { continue };
            while let Some(window) = copying.close(&self.position) {
                self.closing.extend(window.progress.clone().map(|progress| (number, progress)));
                self.group.add_window(window);
                is_closing = true;
            }
        }
        if self.group.is_empty() && !is_closing {
            return Ok(None);
        }
        let checkpoint = self.checkpoint();
        let group = self.renew()?;
        Ok(Some(Order::Apply(group, checkpoint)))
    }

    /// Begins a new group, with what did not fit into the last one, which is given back.
    fn renew(&mut self) -> Result<Group> {
        let plans: Vec<_> = self.copies.iter().filter_map(|copy| copy.plan.clone()).collect();
        let group =
            std::mem::replace(&mut self.group, Group::new(&plans, self.config.memory_bytes.get() / 4));
        self.has_holds = false;
        if let Some(txn) = self.pending.take() {
            self.push(txn)?;
        }
        Ok(group)
    }

    fn next_look(&mut self) -> Option<Order> {
        if !std::mem::take(&mut self.is_look_due) {
            return None;
        }
        Some(Order::Look(self.group.is_empty().then(|| self.checkpoint())))
    }

    fn checkpoint(&self) -> Checkpoint {
        let lag_us = now_us() + self.clock_us - self.as_of_us;
        Checkpoint {
            position: self.position.clone(),
            committed_at_us: self.last.committed_at_us,
            checksum: self.last.checksum,
            before: self.last.before.clone(),
            source_id: self.source_id.to_string(),
            as_of_us: self.as_of_us,
            lag_ms: (lag_us / 1000).max(0),
        }
    }

    fn reported(&mut self, report: Report) -> Option<End> {
        self.busy_since = None;
        match report {
            Report::Applied(applied) => self.applied(applied),
            Report::Looked(look) => return self.looked(look),
        }
        None
    }

    fn applied(&mut self, applied: Applied) {
        for Held { copy, reason } in applied.held {
            self.hold(&copy, reason);
        }
        for (number, progress) in std::mem::take(&mut self.closing) {
            let copy = &mut self.copies[number];
            copy.state.rows_copied += progress.rows;
            if progress.is_last && copy.copying.take().is_some() {
                copy.state.phase = CopyPhase::Ready;
                info!(replication = self.config.name, copy = copy.state.copy, "the copy is complete");
            }
        }
        // What has become of rows set aside is looked up.
        self.is_look_due |= applied.set_aside + applied.released > 0;
        self.status.update(|progress| {
            progress.commits += 1;
            progress.upserted += applied.upserted;
            progress.deleted += applied.deleted;
        });
        self.show();
    }

    fn looked(&mut self, look: Look) -> Option<End> {
        if let Some(pause) = look.pause {
            return Some(End::Paused(super::run::paused(&pause, &self.config.name)));
        }
        for copy in &mut self.copies {
            let name = &copy.state.copy;
            copy.set_aside = look.set_aside.iter().find(|(of, _)| of == name).map_or(0, |(_, rows)| *rows);
            let stands = look.copies.iter().find(|state| state.copy == *name);
            let is_requested = stands.is_none_or(|state| state.phase == CopyPhase::Copying);
            if is_requested && !self.has_holds && copy.state.phase != CopyPhase::Copying {
                info!(replication = self.config.name, copy = name, "the copy is to be made anew");
                return Some(End::Restart);
            }
        }
        self.show();
        None
    }

    fn tick(&mut self) {
        self.is_look_due = true;
        self.show();
    }

    fn set_trouble(&mut self, trouble: Option<String>) {
        match trouble {
            Some(why) => {
                let since = self.trouble.take().map_or_else(Instant::now, |(_, since)| since);
                self.trouble = Some((why, since));
                self.show();
            }
            None if self.trouble.take().is_some() || !self.is_following => {
                self.is_following = true;
                self.show();
            }
            None => {}
        }
    }

    /// What is left once all up to the goal is applied: copies that are held.
    fn reached(&self, goal: &Position) -> Option<Vec<Held>> {
        let is_working = self.busy_since.is_some() || self.pending.is_some() || self.is_look_due;
        let is_open = !self.group.is_empty() || self.copies.iter().any(|copy| copy.copying.is_some());
        if is_working || is_open || self.position.has_reached(goal) != Some(true) {
            return None;
        }
        let held = self.copies.iter().filter_map(|copy| {
            let reason = match (&copy.state.reason, copy.set_aside) {
                (Some(reason), _) if copy.state.phase == CopyPhase::Held => reason.clone(),
                (_, rows @ 1..) => format!("{rows} rows are set aside"),
                _ => return None,
            };
            Some(Held { copy: copy.state.copy.clone(), reason })
        });
        Some(held.collect())
    }

    /// Waits for what the target is working on.
    async fn finish(mut self) -> Result<End> {
        if self.busy_since.is_some() {
            // What it does not finish in time is done again by the next session.
            let _ = tokio::time::timeout(GRACE, self.tasks.reports.recv()).await;
        }
        Ok(End::Shutdown)
    }

    /// Tells the status.
    fn show(&self) {
        let copies: Vec<_> = self.copies.iter().map(Copy::status).collect();
        let held: Vec<_> = self.copies.iter().filter(|copy| copy.state.phase == CopyPhase::Held).collect();
        let slow = self.busy_since.map(|since| since.elapsed()).filter(|time| *time >= SLOW);
        let slow =
            slow.map(|time| format!("the target is at work for {time:.0?}: it is away, or rows are locked"));
        let trouble = self.trouble.as_ref().map(|(why, _)| why.clone()).or(slow);
        let state = match (trouble, held.first()) {
            (Some(why), _) => State::Paused { why },
            (None, Some(copy)) => {
                let reason = copy.state.reason.as_deref().unwrap_or_default();
                State::Held { why: format!("copy {}: {reason}", copy.state.copy) }
            }
            (None, None) if self.copies.iter().any(|copy| copy.copying.is_some()) => State::Copying,
            (None, None) => State::Live,
        };
        if self.is_following || self.trouble.is_some() {
            self.status.set_state(state);
        }
        let lag_us = (now_us() + self.clock_us - self.as_of_us).max(0);
        let position = self.position.to_string();
        self.status.update(|progress| {
            progress.position = Some(position);
            progress.lag_seconds = lag_us as f64 / 1e6;
            progress.copies = copies;
        });
    }
}

impl Copy {
    fn new(copy: setup::Copy, config: &ReplicationConfig) -> Result<Self> {
        let setup::Copy { spec, state, plan, row_bytes, .. } = copy;
        let copying = match (&plan, state.phase) {
            (Some(plan), CopyPhase::Copying) => {
                let after = state.after_key.clone();
                let after =
                    after.map(|key| Ok::<_, Error>((key.clone(), plan.copied_key(&key)?))).transpose()?;
                let rows = chunks::first_rows(config.chunk_bytes.get(), row_bytes);
                Some(Copying::new(Arc::clone(plan), after, rows))
            }
            _ => None,
        };
        Ok(Self {
            copying,
            began: Instant::now(),
            began_at: state.rows_copied,
            set_aside: 0,
            spec,
            state,
            plan,
        })
    }

    fn status(&self) -> CopyStatus {
        let CopyState { rows_copied, rows_estimated, .. } = self.state;
        let copied = rows_copied - self.began_at;
        let left = rows_estimated.saturating_sub(rows_copied);
        let is_paced = self.copying.is_some() && copied > 0;
        CopyStatus {
            copy: self.state.copy.clone(),
            state: self.state.phase.as_str(),
            reason: self.state.reason.clone().filter(|_| self.state.phase == CopyPhase::Held),
            rows_copied,
            rows_estimated,
            eta_seconds: is_paced.then(|| self.began.elapsed().as_secs().saturating_mul(left) / copied),
            set_aside: self.set_aside,
        }
    }
}

impl Tasks {
    fn start(
        source: Source,
        checkpoint: &Checkpoint,
        copies: &[Copy],
        target: Target,
        ahead_bytes: u64,
    ) -> Self {
        let mut all = JoinSet::new();
        let followed = copies.iter().filter(|copy| copy.plan.is_some());
        let tables: Tables = followed
            .map(|copy| (copy.spec.source_database.as_str(), copy.spec.source_table.as_str()))
            .collect();
        let mut stream = follow(source.clone(), tables, checkpoint.position.clone());
        if let Some(before) = &checkpoint.before {
            stream = stream.prove(Proof {
                source: checkpoint.source_id.clone(),
                before: before.clone(),
                committed_at_us: checkpoint.committed_at_us,
                checksum: checkpoint.checksum,
            });
        }
        let (reads, feeding) = feed::feed(stream, ahead_bytes);
        all.spawn(feeding);
        let (requests, asked) = mpsc::channel(READERS);
        let (answering, answers) = mpsc::channel(READERS);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..READERS {
            all.spawn(chunks::read_on(source.clone(), Arc::clone(&asked), answering.clone()));
        }
        let (orders, ordered) = mpsc::channel(1);
        let (reporting, reports) = mpsc::channel(1);
        all.spawn(applier::serve(target, ordered, reporting));
        Self { reads, requests, answers, orders, reports, _all: all }
    }
}

/// Where a replication begins: nothing before it is missing from a table that is read afterwards.
async fn beginning(server: &mut Server, now_us: i64) -> Result<Checkpoint> {
    Ok(Checkpoint {
        position: server.low_mark().await?,
        committed_at_us: 0,
        checksum: 0,
        before: None,
        source_id: server.identity().await?,
        as_of_us: now_us,
        lag_ms: 0,
    })
}

/// The source's clock less ours, in microseconds.
async fn clock(server: &mut Server) -> Result<i64> {
    let sql = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)";
    let asked = Instant::now();
    let there: Option<i64> =
        server.connection().query_first(sql).await.map_err(|error| {
            Error::new(ErrorKind::Outage, format!("asking the source for its time: {error}"))
        })?;
    let way_us = i64::try_from(asked.elapsed().as_micros() / 2).unwrap_or(0);
    Ok(there.unwrap_or_default() + way_us - now_us())
}

/// Our clock, in microseconds since 1970.
fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// Names may be compared without case, depending on the source's file system: rather held once too often.
fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

fn gone() -> Error {
    Error::new(ErrorKind::Outage, "a task of the replication has ended")
}
