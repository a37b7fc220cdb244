//! A replication from its connections to their loss: takes whole transactions in while the group before is committed,
//! has tables copied beside it, and holds what cannot go on. One task owns all of it; what waits for a server is in
//! tasks of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_core::{Error, ErrorKind, Result};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::applier::{Look, Order, Report};
use super::begin;
use super::chunks::Answer;
use super::clock::{clock, now_us};
use super::compact::{CopyProgress, Group, Held, Touched};
use super::copy::Copy;
use super::feed::{Read, What};
use super::lineage::{Lineage, UNPROVEN};
use super::memory::Shares;
use super::plan::{CopyPlan, Key};
use super::setup;
use super::state::{Checkpoint, CopyPhase};
use super::status::{State, Status};
use super::target::{Applied, Target};
use super::tasks::{Tasks, gone};
use super::window;
use crate::binlog::{Server, Source};
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

/// The last transaction that was taken in.
#[derive(Debug, Clone, Default)]
struct Last {
    committed_at_us: i64,
    checksum: u32,
    before: Option<Position>,
}

pub(super) struct Session<'c> {
    pub(super) config: &'c ReplicationConfig,
    status: Status,
    shares: Shares,
    pub(super) server: Server,
    pub(super) copies: Vec<Copy>,
    tasks: Tasks,
    pub(super) group: Group,
    /// A transaction that does not fit into the group.
    pending: Option<Txn>,
    /// The group notes that copies are held, which the tables of state do not say yet.
    pub(super) has_holds: bool,
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
    /// What that holds of what was read.
    closing_bytes: u64,
    is_look_due: bool,
    windows: u64,
    /// What is wrong with the source, and since when.
    trouble: Option<(String, Instant)>,
    /// Whether anything has come from the source: before, it may be found not to be the one that was read from.
    is_following: bool,
    lineage: Lineage,
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
        let is_proven = target.state().unproven_since().await?.is_none();
        let mut known = target.copies().await?;
        setup::forget_gone(config, &mut target, &mut known).await?;
        let found = setup::copies(config, &mut server, &mut target, known.clone()).await?;
        let clock_us = clock(&mut server).await?;
        let checkpoint = match checkpoint {
            Some(checkpoint) => {
                for copy in found.iter().filter(|copy| copy.is_changed) {
                    let known = known.iter().find(|known| known.copy == copy.state.copy);
                    target.set_copy(known, &copy.state).await?;
                }
                checkpoint
            }
            None => {
                let checkpoint = begin::beginning(&mut server, &config.name, now_us() + clock_us).await?;
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
        let shares = Shares::of(config.memory_bytes.get());
        let source = Source { memory_bytes_max: shares.transaction as usize, ..source };
        let tasks = Tasks::start(source, &checkpoint, &copies, target, shares.ahead);
        let plans: Vec<_> = copies.iter().filter_map(|copy| copy.plan.clone()).collect();
        let this = Self {
            config,
            status,
            server,
            tasks,
            group: Group::new(&plans, shares.group),
            shares,
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
            closing_bytes: 0,
            is_look_due: true,
            windows: 0,
            trouble: None,
            is_following: false,
            lineage: Lineage::new(is_proven),
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
            let may_take = self.pending.is_none() && self.group.weight_bytes() < self.shares.group;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.finish().await,
                report = self.tasks.reports.recv() => {
                    if let Some(end) = self.reported(report.ok_or_else(gone)??) {
                        return Ok(end);
                    }
                }
                answer = self.tasks.answers.recv() => self.answered(answer.ok_or_else(gone)?),
                // Before what is read, of which there may always be more.
                _ = ticks.tick() => self.tick(),
                read = self.tasks.reads.recv(), if may_take => {
                    let read = read.ok_or_else(gone)?;
                    // It may ask the source, which may not answer.
                    tokio::select! {
                        biased;
                        taken = self.take_with_burst(read) => taken?,
                        () = shutdown.cancelled() => return self.finish().await,
                    }
                }
            }
            if let (Some(_), Some((why, since))) = (goal, &self.trouble)
                && since.elapsed() >= PATIENCE
            {
                return Err(Error::new(ErrorKind::Outage, why.clone()));
            }
        }
    }

    /// Takes in what was read, and what is there already while the target is busy anyway.
    async fn take_with_burst(&mut self, read: Read) -> Result<()> {
        self.take(read).await?;
        for _ in 0..BURST {
            let is_full = self.group.weight_bytes() >= self.shares.group;
            if self.busy_since.is_none() || self.pending.is_some() || is_full {
                return Ok(());
            }
            let Some(read) = self.tasks.reads.try_recv() else { return Ok(()) };
            self.take(read).await?;
        }
        Ok(())
    }

    async fn take(&mut self, read: Read) -> Result<()> {
        if read.server != self.source_id && !read.server.is_empty() {
            // What was read from another server stands at that one's places in the log.
            self.source_id = Arc::clone(&read.server);
            // Nor is the file of the place that was reached one of its.
            if self.position.gtids.is_some() {
                self.position.forget_file();
            }
            for copying in self.copies.iter_mut().filter_map(|copy| copy.copying.as_mut()) {
                copying.start_over();
            }
            self.clock_us = clock(&mut self.server).await.unwrap_or(self.clock_us);
        }
        if self.lineage.read(read.is_proven) {
            warn!(replication = self.config.name, "the source is not known to be the same: {UNPROVEN}");
        }
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
        let most = self.shares.touched;
        let mut remembered = copying.iter().map(|(_, copying)| copying.touched_bytes()).sum();
        let mut touch = |plan: &Arc<CopyPlan>, key: &Key| {
            window::touch(&mut copying, plan, key, &mut remembered, most);
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

    /// Opens windows as far as memory allows.
    fn read_tables(&mut self) {
        let chunk = self.config.chunk_bytes.get();
        // Without a place in the log nothing says when a window ends.
        if self.position.file.is_none() {
            return;
        }
        let open = self.copies.iter().filter_map(|copy| Some(copy.copying.as_ref()?.bytes()));
        let mut bytes = self.closing_bytes + open.sum::<u64>();
        for copying in self.copies.iter_mut().filter_map(|copy| copy.copying.as_mut()) {
            if bytes >= self.shares.pieces {
                return;
            }
            let Ok(permit) = self.tasks.requests.try_reserve() else { return };
            if let Some(request) = copying.open(self.windows, &self.position, &self.source_id, chunk) {
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
                self.closing_bytes += window.weight_bytes();
                self.group.add_window(window);
                is_closing = true;
            }
        }
        if self.group.is_empty() && !is_closing && !self.lineage.is_due() {
            return Ok(None);
        }
        let checkpoint = self.checkpoint();
        self.lineage.told();
        let group = self.renew()?;
        Ok(Some(Order::Apply(group, checkpoint)))
    }

    /// Begins a new group, with what did not fit into the last one, which is given back.
    fn renew(&mut self) -> Result<Group> {
        let plans: Vec<_> = self.copies.iter().filter_map(|copy| copy.plan.clone()).collect();
        let group = std::mem::replace(&mut self.group, Group::new(&plans, self.shares.group));
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
        let checkpoint = self.group.is_empty().then(|| self.checkpoint());
        Some(Order::Look { checkpoint, is_proven: self.lineage.is_proven() })
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
            is_unproven: self.lineage.is_due(),
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
        self.closing_bytes = 0;
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
        for Held { copy, reason } in &look.held {
            self.hold(copy, reason.clone());
        }
        if let Some(pause) = look.pause {
            return Some(End::Paused(super::run::paused(&pause, &self.config.name)));
        }
        self.lineage.looked(look.is_proven);
        for copy in &mut self.copies {
            let name = &copy.state.copy;
            copy.set_aside = look.set_aside.iter().find(|(of, _)| of == name).map_or(0, |(_, rows)| *rows);
            let stands = look.copies.iter().find(|state| state.copy == *name);
            // Who asks takes the definition away, which one that is being copied has.
            let is_requested = stands.is_none_or(|state| match state.phase {
                CopyPhase::Copying => copy.state.phase != CopyPhase::Copying || state.definition.is_none(),
                CopyPhase::Ready => state.definition.is_none(),
                CopyPhase::Held => false,
            });
            if is_requested && !self.has_holds {
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
        // By its GTIDs a source that was restored may look as if all of it were applied.
        let is_unknown = !self.is_following || self.lineage.is_due();
        let is_open = !self.group.is_empty() || self.copies.iter().any(|copy| copy.copying.is_some());
        if is_working || is_open || is_unknown || self.position.has_reached(goal) != Some(true) {
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
    pub(super) fn show(&self) {
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
            progress.lineage_proven = self.lineage.is_proven();
            progress.lag_seconds = lag_us as f64 / 1e6;
            progress.copies = copies;
        });
    }
}
