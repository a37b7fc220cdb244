//! What the relay asks of a database, one function per statement. The SQL stands in one file per database
//! with the same names; this room connects, gives every wait an end, counts and says in errors which
//! database was meant. It decides nothing about messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outbox_core::__private::{Misfit, ServerKind, misfits};
use outbox_core::migrate::Migrations;
use outbox_core::{Error, Result};

/// Runs a function of the database's own file on the connection.
macro_rules! on {
    ($store:ident, $doing:literal, $function:ident($($argument:expr),*)) => {{
        let mut connection = $store.take().await?;
        let began = std::time::Instant::now();
        $store.queries.fetch_add(1, Ordering::Relaxed);
        let result = match &mut connection {
            #[cfg(feature = "mysql")]
            Connection::Mysql(c) => within($store.timeout, mysql::$function(c, $($argument),*)).await,
            #[cfg(feature = "postgres")]
            Connection::Postgres(c) => within($store.timeout, postgres::$function(c, $($argument),*)).await,
            // Not bounded here: a blocking thread cannot be abandoned, and `busy_timeout` bounds the wait.
            #[cfg(feature = "sqlite")]
            Connection::Sqlite(c) => sqlite::$function(c, $($argument),*).await.map_err(Error::from),
        };
        tracing::trace!(elapsed = ?began.elapsed(), $doing);
        $store.put_back(connection, result, $doing)
    }};
}

mod clock;
mod connect;
mod dead;
mod inbox;
mod leases;
#[cfg(feature = "postgres")]
mod listen;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "binlog", all(feature = "mysql", feature = "tls")))]
mod passing;
mod pause;
mod people;
#[cfg(feature = "postgres")]
mod postgres;
mod question;
mod resync;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statement;
#[cfg(all(feature = "tls", any(feature = "binlog", feature = "mysql", feature = "postgres")))]
pub(crate) mod tls;

use self::connect::Connection;
#[cfg(any(feature = "rabbitmq", feature = "binlog"))]
pub(crate) use self::connect::remote_host;
#[cfg(any(feature = "binlog", feature = "mysql"))]
pub(crate) use self::connect::staying;
pub use self::connect::{Database, Kind};
pub use self::dead::{DeadAction, DeadFilter, DeadLetter};
pub use self::inbox::{Applied, HeldAction, HeldBody, HeldCounts, HeldLetter, HeldSpan, Resyncing};
#[cfg(any(feature = "binlog", all(feature = "mysql", feature = "tls")))]
pub(crate) use self::passing::passes;
pub use self::pause::Pause;
pub(crate) use self::question::Question;
pub use self::resync::{Offer, Resync, ResyncAsk};
use self::row::{Alive, Depth};
pub use self::row::{
    Ask, Backlog, Body, Bucket, DEPTH_MAX, Doorbell, Failure, Head, HeldKey, LeaseRow, Leases, Meta, Owner,
    Setting,
};

/// How long a connection may take to stand. A server that does not answer in this time counts as
/// unreachable; the next attempt makes a fresh connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement may take. Longer than any of ours needs, short enough that a socket whose other end
/// is gone is noticed the same minute.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Payload and headers of at most this many bytes come with the head of a row; larger ones are fetched for
/// the rows that are taken, so that a read of many rows is bounded in bytes.
pub const INLINE_BYTES_MAX: i64 = 4096;

/// One connection to an outbox, opened when it is needed and again after it broke.
///
/// Dropping the future of a call is safe: the connection is closed and the next call makes another.
pub struct Store {
    database: Database,
    owner: String,
    connection: Option<Connection>,
    timeout: Duration,
    queries: Arc<AtomicU64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("database", &self.database).field("owner", &self.owner).finish()
    }
}

impl Store {
    /// A store that connects with the first call. `owner` is who holds leases through it.
    pub fn new(database: Database, owner: impl Into<String>) -> Self {
        Self {
            database,
            owner: owner.into(),
            connection: None,
            timeout: STATEMENT_TIMEOUT,
            queries: Arc::default(),
        }
    }

    /// The same store with its statements counted in `queries`.
    #[must_use]
    pub fn counting(mut self, queries: Arc<AtomicU64>) -> Self {
        self.queries = queries;
        self
    }

    /// The same store with another time that a statement may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The database it works on.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Who holds leases through it.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Connects now, if it does not stand already.
    ///
    /// # Errors
    /// `Outage` when the server cannot be reached, `Database` when it refuses us.
    pub async fn connect(&mut self) -> Result<()> {
        let connection = self.take().await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn take(&mut self) -> Result<Connection> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.database.connect(CONNECT_TIMEOUT).await,
        }
    }

    /// Keeps a connection that worked. One that failed is closed whatever the reason: a fresh one is in a
    /// known state.
    fn put_back<T>(&mut self, connection: Connection, result: Result<T>, doing: &str) -> Result<T> {
        match result {
            Ok(value) => {
                self.connection = Some(connection);
                Ok(value)
            }
            Err(error) => Err(self.database.blame(error, doing)),
        }
    }

    // What must be agreed on.

    /// The row of `outbox_meta`.
    ///
    /// # Errors
    /// `Database` when the table is missing.
    pub async fn meta(&mut self) -> Result<Meta> {
        on!(self, "reading outbox_meta", meta())
    }

    // Messages.

    /// The first rows in id order that may be published now, from the start of the table: rows of `ask.held`
    /// that are not in `ask.except` and whose key neither waits nor is parked.
    ///
    /// # Errors
    /// As every statement.
    pub async fn heads(&mut self, ask: &Ask<'_>) -> Result<Vec<Head>> {
        if ask.held.is_empty() {
            return Ok(Vec::new());
        }
        on!(self, "reading outbox", heads(ask))
    }

    /// Headers and payloads by id; rows that vanished are left out.
    ///
    /// # Errors
    /// As every statement.
    pub async fn bodies(&mut self, ids: &[i64]) -> Result<Vec<Body>> {
        on!(self, "reading payloads from outbox", bodies(ids))
    }

    /// Deletes confirmed rows whose lease is still the one they were read under; returns how many.
    ///
    /// # Errors
    /// As every statement.
    pub async fn settle(&mut self, fence: &[(u16, i64)], ids: &[i64]) -> Result<usize> {
        let owner = self.owner.clone();
        on!(self, "deleting confirmed rows from outbox", settle(&owner, fence, ids))
    }

    /// Takes the keys of these rows out of `outbox_key`. To be called before the rows are settled.
    ///
    /// # Errors
    /// As every statement.
    pub async fn clear_keys(&mut self, fence: &[(u16, i64)], ids: &[i64]) -> Result<usize> {
        let owner = self.owner.clone();
        on!(self, "clearing outbox_key", clear_keys(&owner, fence, ids))
    }

    /// Notes the keys of refused rows in `outbox_key`, all or none.
    ///
    /// # Errors
    /// As every statement.
    pub async fn fail(&mut self, failures: &[Failure]) -> Result<()> {
        let owner = self.owner.clone();
        on!(self, "noting refused messages in outbox_key", fail(&owner, failures))
    }

    // A subscriber's tables.

    /// Messages that a subscriber has set aside and that meet the filter, in the order of their arrival.
    ///
    /// # Errors
    /// As every statement.
    pub async fn held(
        &mut self,
        consumer: &str,
        filter: &DeadFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<HeldLetter>> {
        on!(self, "reading inbox_held", held(consumer, filter, after, limit))
    }

    /// What a message carries that was set aside.
    ///
    /// # Errors
    /// As every statement.
    pub async fn held_body(&mut self, sequence: i64) -> Result<Option<HeldBody>> {
        let bodies: Vec<HeldBody> = on!(self, "reading inbox_held", held_body(sequence))?;
        Ok(bodies.into_iter().next())
    }

    /// How many messages that a subscriber has set aside meet the filter.
    ///
    /// # Errors
    /// As every statement.
    pub async fn count_held(&mut self, consumer: &str, filter: &DeadFilter) -> Result<HeldSpan> {
        on!(self, "counting in inbox_held", count_held(consumer, filter))
    }

    /// Tells a subscriber what to do with messages that it has set aside, in one transaction with a line each in
    /// `inbox_audit`; how many of them were still set aside.
    ///
    /// # Errors
    /// As every statement; nothing is done then.
    pub async fn act_on_held(
        &mut self,
        consumer: &str,
        action: HeldAction,
        sequences: &[i64],
        actor: &str,
    ) -> Result<usize> {
        if sequences.is_empty() {
            return Ok(0);
        }
        on!(self, "writing inbox_held", act_on_held(consumer, action, sequences, actor))
    }

    /// How many messages a subscriber holds, by state.
    ///
    /// # Errors
    /// As every statement.
    pub async fn held_counts(&mut self, consumer: &str) -> Result<HeldCounts> {
        on!(self, "counting in inbox_held", held_counts(consumer))
    }

    /// What a subscriber has applied last, by source and queue.
    ///
    /// # Errors
    /// As every statement.
    pub async fn applied(&mut self, consumer: &str) -> Result<Vec<Applied>> {
        on!(self, "reading inbox_progress", applied(consumer))
    }

    /// The copies of the database in which a resync is under way.
    ///
    /// # Errors
    /// As every statement.
    pub async fn resyncing(&mut self) -> Result<Vec<Resyncing>> {
        on!(self, "reading copy_begun", resyncing())
    }

    /// Who has paused a subscriber, if somebody has.
    ///
    /// # Errors
    /// As every statement.
    pub async fn consumer_pause(&mut self, consumer: &str) -> Result<Option<Pause>> {
        let pauses: Vec<Pause> = on!(self, "reading inbox_pause", consumer_pause(consumer))?;
        Ok(pauses.into_iter().next())
    }

    // The server.

    /// The server's settings that matter to an outbox, by name; `version` is among them.
    ///
    /// # Errors
    /// As every statement.
    pub async fn settings(&mut self) -> Result<Vec<Setting>> {
        on!(self, "reading the server's settings", settings())
    }

    /// Tries one of [`Store::probes`], which changes nothing.
    ///
    /// # Errors
    /// What the database says when a table or a grant is missing.
    pub async fn probe(&mut self, probe: &Probe) -> Result<()> {
        on!(self, "trying a statement that changes nothing", probe(probe.text))
    }

    /// Statements that need each right the relay needs, and change nothing.
    pub fn probes(&self) -> &'static [Probe] {
        match self.database.kind() {
            #[cfg(feature = "mysql")]
            Kind::Mysql => mysql::PROBES,
            #[cfg(feature = "postgres")]
            Kind::Postgres => postgres::PROBES,
            #[cfg(feature = "sqlite")]
            Kind::Sqlite => sqlite::PROBES,
            #[allow(unreachable_patterns)]
            _ => &[],
        }
    }

    /// What only `dead replay`, `dead discard` and `check` need; see [`Store::probes`].
    pub(crate) fn probes_of_people(&self) -> &'static [Probe] {
        match self.database.kind() {
            // Rights are those of the file.
            Kind::Sqlite => &[],
            _ => question::PROBES_OF_PEOPLE,
        }
    }

    /// What people need who look into a subscriber's database and act there; see [`Store::probes`].
    pub(crate) fn probes_of_subscribers(&self) -> &'static [Probe] {
        question::PROBES_OF_SUBSCRIBERS
    }

    /// Asks what `check` wants to know; empty where this database has no answer.
    ///
    /// # Errors
    /// As every statement; also when the user may not ask.
    pub(crate) async fn ask(&mut self, question: Question) -> Result<Vec<Setting>> {
        match question::text(self.database.kind(), question) {
            Some(text) => on!(self, "looking for what is wrong", ask(text)),
            None => Ok(Vec::new()),
        }
    }

    /// What the tables of copies have that does not go with them, each with the statement that takes it away.
    ///
    /// # Errors
    /// As every statement; also when the user may not ask.
    pub(crate) async fn misfits(&mut self) -> Result<Vec<Misfit>> {
        let kind = match self.database.kind() {
            Kind::Mysql => ServerKind::Mysql,
            Kind::Postgres => ServerKind::Postgres,
            Kind::Sqlite => ServerKind::Sqlite,
        };
        let text = misfits(kind, "table_name in (select copy from copy_source)");
        on!(self, "looking at the tables of copies", ask(&text))
    }

    /// Creates or upgrades the tables of one role; returns the versions applied now.
    ///
    /// # Errors
    /// What the database says about the statement that failed.
    pub async fn migrate(&mut self, role: &Migrations) -> Result<Vec<String>> {
        let connection = self.database.clone().creating().connect(CONNECT_TIMEOUT).await?;
        connect::migrate(connection, role).map_err(|error| self.database.blame(error, "migrating"))
    }
}

/// A statement that needs a right and changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// The table.
    pub table: &'static str,
    /// The right, as GRANT names it.
    pub right: &'static str,
    text: &'static str,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A statement, given up when the other end does not answer.
#[cfg(any(feature = "mysql", feature = "postgres"))]
async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = diesel::result::QueryResult<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, statement).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => {
            let text = format!("no answer within {limit:?}; the connection is given up");
            Err(Error::new(outbox_core::ErrorKind::Outage, text))
        }
    }
}
