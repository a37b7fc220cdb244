//! Replications that run: one task each, isolated from the others' failures. A task goes from session to session:
//!
//! ```text
//! starting ─► copying ─► live          a lost connection: a new session, after a growing wait
//!    ▲           │ ▲       │           paused: none, until somebody resumes it
//!    └── paused ◄┴─┴──► held           held: tried again every ten seconds, as whoever mends it need not restart us
//! ```
//!
//! Who is fenced stands by: another process has taken the replication over, and has to fall silent first.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result, RetryPolicy, Waits};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::compact::Held;
use super::conduct::{End, PATIENCE, Session};
use super::state::{PauseState, State as Tables};
use super::status::{State, Status};
use super::target::{Fenced, Target, TargetOptions};
use crate::binlog::Source;
use crate::change::Position;
use crate::config::ReplicationConfig;

/// How often a replication that somebody has stopped looks whether it may go on.
const LOOK: Duration = Duration::from_secs(1);
/// How often one that cannot go on tries again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Who has the replication writes every ten seconds at least; one that is silent for so long has ended.
pub(super) const SILENCE_S: i64 = 30;
/// How long giving the replication back may take at the end.
const LAST: Duration = Duration::from_secs(5);
/// The wait before a task that crashed is started again.
const RESTART: Duration = Duration::from_secs(1);

/// A replication that a configuration describes.
#[derive(Debug, Clone)]
pub struct Replication {
    config: ReplicationConfig,
    source: Source,
    target: TargetOptions,
    owner: String,
    status: Status,
}

/// What [`Replication::run_until_idle`] could not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The replication.
    pub replication: String,
    /// Its copies that are held or have rows set aside, with the reason.
    pub copies: Vec<Held>,
}

impl Replication {
    /// The replication of a configuration. Nothing is connected yet.
    ///
    /// ```no_run
    /// use outbox_relay::CancellationToken;
    /// use outbox_relay::config::{ReplicationConfig, ReplicationTableConfig};
    /// use outbox_relay::replication::Replication;
    ///
    /// # async fn run() -> outbox_core::Result<()> {
    /// let mut config =
    ///     ReplicationConfig::new("order", "mysql://repl@127.0.0.1:3306", "mysql://repl@127.0.0.1:3307/order_db");
    /// config.table.push(ReplicationTableConfig::new("product_db.product"));
    /// let replication = Replication::from_config(&config)?;
    /// let status = replication.status();
    /// replication.run(CancellationToken::new()).await;
    /// println!("{}", status.snapshot().progress.commits);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Invalid`, with everything that is wrong.
    pub fn from_config(config: &ReplicationConfig) -> Result<Self> {
        let problems = config.problems();
        if !problems.is_empty() {
            let told: Vec<_> =
                problems.iter().map(|problem| format!("replication {:?}: {problem}", config.name)).collect();
            return Err(Error::new(ErrorKind::Invalid, told.join("\n")));
        }
        Ok(Self {
            source: config.source(),
            target: config.target(),
            owner: format!(
                "{}:{}:{:04x}",
                crate::outbox::host(),
                std::process::id(),
                uuid::Uuid::now_v7().as_u128() as u16
            ),
            status: Status::new(&config.name),
            config: config.clone(),
        })
    }

    /// Where it reports.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Runs until `shutdown`. Source and target that are away are waited for; what has to be mended first is told by
    /// the status and tried again.
    pub async fn run(self, shutdown: CancellationToken) {
        let ended = self.drive(None, &shutdown).await;
        self.release().await;
        self.status.set_state(State::Stopped);
        if let Err(error) = ended {
            error!(replication = self.config.name, "ended: {error}");
        }
    }

    /// Runs until all that the source had committed at the start is applied and every copy is complete or held; what
    /// comes later is not waited for. Gives what is left.
    ///
    /// # Errors
    /// At once when it cannot go on, is paused, or another process takes it over.
    pub async fn run_until_idle(self, shutdown: CancellationToken) -> Result<Option<Left>> {
        let left = self.drive(Some(()), &shutdown).await;
        self.release().await;
        self.status.set_state(State::Stopped);
        left
    }

    /// Lets a standby take over at once. Without it that one waits for our silence, so a target that is away is no
    /// matter.
    async fn release(&self) {
        let releasing = async {
            let mut tables = Tables::connect(&self.target, &self.config.name).await?;
            let sql = "update outbox_replication set owner = '' where name = ? and owner = ?";
            let asked = tables.connection().exec_drop(sql, (&self.config.name, &self.owner)).await;
            asked.map_err(|error| Error::new(ErrorKind::Outage, error.to_string()))
        };
        let released: std::result::Result<Result<()>, _> = tokio::time::timeout(LAST, releasing).await;
        if !matches!(released, Ok(Ok(()))) {
            info!(replication = self.config.name, "ended without giving the replication back");
        }
    }

    /// From session to session. With a goal, whatever would need somebody's help is an error.
    async fn drive(&self, goal: Option<()>, shutdown: &CancellationToken) -> Result<Option<Left>> {
        let mut waits = RetryPolicy::default().waits();
        let (mut mark, mut away_since) = (None, None);
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(None),
                opened = self.open() => match opened {
                    Ok(Opened::Session(session)) => {
                        waits.reset();
                        away_since = None;
                        self.work(*session, goal, &mut mark, shutdown).await
                    }
                    Ok(Opened::Paused(why)) => Ok(End::Paused(why)),
                    Err(error) => Err(error),
                },
            };
            let wait = match ended {
                Ok(End::Shutdown) => return Ok(None),
                Ok(End::Idle(copies)) => return Ok(self.left(copies)),
                Ok(End::Restart) => Duration::ZERO,
                Ok(End::Paused(why)) => {
                    if goal.is_some() {
                        return Err(Error::new(
                            ErrorKind::Outage,
                            format!("replication {:?} is {why}", self.config.name),
                        ));
                    }
                    if self.status.set_state(State::Paused { why: why.clone() }) {
                        info!(replication = self.config.name, "{why}");
                    }
                    LOOK
                }
                Err(error) if goal.is_some() && !error.is_outage() => return Err(self.told(error)),
                Err(error)
                    if goal.is_some()
                        && away_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE =>
                {
                    return Err(error.context(format!("replication {:?}", self.config.name)));
                }
                Err(error) => self.failed(error, &mut waits, shutdown).await,
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn work(
        &self,
        mut session: Session<'_>,
        goal: Option<()>,
        mark: &mut Option<Position>,
        shutdown: &CancellationToken,
    ) -> Result<End> {
        if goal.is_some() && mark.is_none() {
            *mark = Some(session.high_mark().await?);
        }
        session.run(mark.as_ref(), shutdown).await
    }

    async fn open(&self) -> Result<Opened<'_>> {
        let mut tables = Tables::connect(&self.target, &self.config.name).await?;
        if let Some(pause) = tables.pause_state().await? {
            return Ok(Opened::Paused(paused(&pause, &self.config.name)));
        }
        // What tables of an older version lack is found before this takes the replication from a process that works.
        tables.unproven_since().await?;
        let target = Target::open(self.target.clone(), &self.config.name, &self.owner).await?;
        let session = Session::open(&self.config, self.source.clone(), target, self.status.clone()).await?;
        Ok(Opened::Session(Box::new(session)))
    }

    /// Tells what has failed, and gives the wait before the next session.
    async fn failed(&self, error: Error, waits: &mut Waits, shutdown: &CancellationToken) -> Duration {
        let name = &self.config.name;
        if is_fenced(&error) {
            if self.status.set_state(State::Standby) {
                info!(
                    replication = name,
                    "another process has taken it over; standing by until that one is silent"
                );
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.stand_by() => {}
            }
            return Duration::ZERO;
        }
        if error.is_outage() {
            let wait = waits.next_wait();
            if self.status.set_state(State::Paused { why: error.to_string() }) {
                warn!(replication = name, %error, ?wait, "waits; it goes on by itself");
            }
            return wait;
        }
        let error = self.told(error);
        if self.status.set_state(State::Held { why: error.to_string() }) {
            error!(replication = name, "{error}");
        }
        TRY_AGAIN
    }

    /// Waits until whoever has the replication is silent, or somebody wants it begun anew.
    async fn stand_by(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = async {
                let mut tables = Tables::connect(&self.target, &self.config.name).await?;
                let sql = "select position is null or owner = '' or coalesce(timestampdiff(second, applied_at, utc_timestamp(6)) >= ?, \
                           true) from outbox_replication where name = ?";
                let asked = tables.connection().exec_first(sql, (SILENCE_S, &self.config.name)).await;
                asked.map_err(|error| Error::new(ErrorKind::Outage, error.to_string()))
            };
            let is_silent: Result<Option<bool>> = looked.await;
            if matches!(is_silent, Ok(None | Some(true))) {
                return;
            }
        }
    }

    fn left(&self, copies: Vec<Held>) -> Option<Left> {
        (!copies.is_empty()).then(|| Left { replication: self.config.name.clone(), copies })
    }

    /// An error that nobody waits out, with the way on.
    fn told(&self, error: Error) -> Error {
        let name = &self.config.name;
        if is_fenced(&error) {
            return error.context(format!("replication {name:?}"));
        }
        if error.kind() == ErrorKind::Database {
            let remedy =
                "nothing is lost; `outbox-relay check` looks at both databases, their tables and grants";
            return Error::new(ErrorKind::Database, format!("replication {name:?}: {error}; {remedy}"));
        }
        let text = format!(
            "replication {name:?} has stopped where it was; mend what the text names, or build its copies anew from where \
             the source is now with `outbox-relay snapshot {name}`: {error}"
        );
        Error::new(error.kind(), text)
    }
}

enum Opened<'c> {
    Session(Box<Session<'c>>),
    Paused(String),
}

/// Why a replication does not run.
pub(super) fn paused(pause: &PauseState, name: &str) -> String {
    let PauseState { actor, reason } = pause;
    let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    format!("paused by {actor}{why}; `outbox-relay resume {name}` ends it")
}

fn is_fenced(error: &Error) -> bool {
    error.downcast_ref::<Fenced>().is_some()
}

/// Runs replications until `shutdown`, each in a task of its own. One that crashes is started again.
pub async fn run_all(replications: Vec<Replication>, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    for replication in replications {
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            loop {
                let running = tokio::spawn(replication.clone().run(shutdown.clone()));
                match running.await {
                    Ok(()) => return,
                    Err(error) => {
                        error!("a replication crashed, this is a mistake in the relay: {error}");
                        tokio::time::sleep(RESTART).await;
                    }
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

impl ReplicationConfig {
    /// The source, for a reader.
    pub(crate) fn source(&self) -> Source {
        Source {
            #[cfg(feature = "tls")]
            tls: self.source_trust(),
            server_id: self.server_id,
            ..Source::new(self.source.expose())
        }
    }

    /// The target, for an applier.
    pub(crate) fn target(&self) -> TargetOptions {
        TargetOptions {
            #[cfg(feature = "tls")]
            tls: self.target_trust(),
            ..TargetOptions::new(self.target.expose())
        }
    }
}
