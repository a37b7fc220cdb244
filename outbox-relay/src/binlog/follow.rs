//! Follows a source's binary log: connects, reads whole transactions, connects again after a loss, from the last
//! whole transaction that was given out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_core::{Error, ErrorKind, Result, RetryPolicy};
use tracing::{info, warn};
use uuid::Uuid;

use super::Source;
use super::connection::{Connection, Identity, is_purged};
use super::position::{Gtids, Position};
use super::server::Server;
use super::tables::Tables;
use super::txn::{Assembler, Limits, Outcome};
use crate::change::Txn;

/// A compressed or large event is unpacked off the runtime's threads above this size in bytes.
const LARGE_EVENT_BYTES: usize = 1 << 20;
/// How long a source may look for the place where to begin; MariaDB reads through a whole file for it, in silence.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(120);
/// A process that was killed is known to the source until it next sends it something: a heartbeat's time or two.
const TAKEN_WAIT: Duration = Duration::from_secs(4);
const TAKEN_STEP: Duration = Duration::from_millis(500);
/// How long a transaction that was read may be missing from what the source has executed: it is sent before it counts,
/// and a replica that took over may still be applying it.
const MISSING_WAIT: Duration = Duration::from_secs(15);
/// Heartbeats without the transaction that has to come: the source does not have it.
const QUIET_MAX: u32 = 3;
/// Server ids that are taken at random; below are those that people give.
const RANDOM_SERVER_IDS: std::ops::RangeInclusive<u32> = 1 << 30..=u32::MAX - 1;

/// What [`Stream::next`] gives.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Step {
    /// The next transaction, without changes if it touched no subscribed table.
    Txn(Txn),
    /// There was nothing newer a moment ago.
    Quiet,
}

/// The last transaction that was read: when a source is connected to again, it is read once more and compared, since a
/// restored or reset server uses the same positions for other transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The server that it was read from, see [`Server::identity`].
    pub source: String,
    /// The position before it.
    pub before: Position,
    /// [`Txn::committed_at_us`].
    pub committed_at_us: i64,
    /// [`Txn::checksum`].
    pub checksum: u32,
}

/// The transactions of a source, in its order.
pub struct Stream {
    source: Source,
    tables: Arc<Tables>,
    identity: Identity,
    position: Position,
    /// The server that the file of `position` is of.
    server_name: Option<String>,
    proof: Option<Proof>,
    is_proven: bool,
    missing_since: Option<Instant>,
    connected: Option<Connected>,
    waits: outbox_core::Waits,
    skipped_events: u64,
}

/// What has come of an event.
#[allow(clippy::large_enum_variant, reason = "one at a time")]
enum Settled {
    Nothing,
    Step(Step),
    /// The source has to be asked before the event is understood; it is pending.
    Asked(Outcome),
}

struct Connected {
    /// Heartbeats so far while the last transaction is read again.
    proving: Option<u32>,
    connection: Connection,
    server: Option<Server>,
    assembler: Assembler,
    /// The packet of an event that has come and is not done with.
    pending: Option<Vec<u8>>,
}

impl Connected {
    /// Asks the source what the pending event needs to be understood.
    async fn answer(&mut self, source: &Source, asked: Outcome) -> Result<()> {
        let mut server = match self.server.take() {
            Some(server) => server,
            None => Server::connect(source).await?,
        };
        match asked {
            Outcome::Describe { database, table } => {
                let columns = server.addresses(&database, &table).await?;
                let event = self.pending.as_deref().unwrap_or_default();
                self.assembler.describe(event.get(1..).unwrap_or_default(), columns)?;
            }
            Outcome::Charset(name) => {
                let table = server.code_table(&name).await?;
                self.assembler.teach(name, table);
            }
            Outcome::Nothing | Outcome::Txn(_) | Outcome::Quiet => {}
        }
        self.server = Some(server);
        Ok(())
    }
}

/// The transactions of `tables` on a source after a position. Nothing is connected before the first
/// [`next`](Stream::next).
pub fn follow(source: Source, tables: Tables, from: Position) -> Stream {
    let uuid = Uuid::now_v7();
    let random = || {
        let width = u64::from(RANDOM_SERVER_IDS.end() - RANDOM_SERVER_IDS.start()) + 1;
        RANDOM_SERVER_IDS.start() + (uuid.as_u128() as u64 % width) as u32
    };
    let identity = Identity {
        server_id: source.server_id.unwrap_or_else(random),
        name: format!("outbox-relay-{}", uuid.simple()),
        uuid,
    };
    Stream {
        source,
        tables: Arc::new(tables),
        identity,
        position: from,
        server_name: None,
        proof: None,
        is_proven: true,
        missing_since: None,
        connected: None,
        waits: RetryPolicy::default().waits(),
        skipped_events: 0,
    }
}

impl Stream {
    /// The next transaction or heartbeat. A lost connection is made again, with growing waits, without end.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Invalid` when going on would lose something, `Database` when the source refuses: a call after it tries
    /// again from the same position.
    pub async fn next(&mut self) -> Result<Step> {
        loop {
            match self.try_next().await {
                Err(error) if error.is_outage() => {
                    let wait = self.waits.next_wait();
                    warn!(source = %self.source.url, %error, ?wait, "lost the source; reading goes on by itself");
                    tokio::time::sleep(wait).await;
                }
                other => return other,
            }
        }
    }

    /// The next transaction or heartbeat, for a caller who waits himself: a lost connection is an `Outage`, and the
    /// next call connects again.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`next`](Self::next), and `Outage`.
    pub async fn try_next(&mut self) -> Result<Step> {
        loop {
            match self.step().await {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => {}
                Err(error) => {
                    if let Some(error) = self.lost(error) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The next transaction or heartbeat if nobody has to be waited for: all of it was received with the last one.
    pub(crate) fn at_hand(&mut self) -> Option<Result<Step>> {
        loop {
            let connected = self.connected.as_mut().filter(|connected| connected.pending.is_none())?;
            let event = connected.connection.event_at_hand(LARGE_EVENT_BYTES)?;
            let outcome = connected.assembler.event(&event[1..]);
            match outcome.and_then(|outcome| self.settle(event, outcome)) {
                Ok(Settled::Nothing) => {}
                Ok(Settled::Step(step)) => return Some(Ok(step)),
                // The event is looked at once more by whoever can wait for the answer.
                Ok(Settled::Asked(_)) => return None,
                Err(error) => return self.lost(error).map(Err),
            }
        }
    }

    /// The connection is of no use any more: gives the error, if the next connection does not begin otherwise.
    fn lost(&mut self, error: Error) -> Option<Error> {
        let was_proving = self.connected.take().is_none_or(|c| c.proving.is_some());
        if was_proving && self.proof.is_some() && is_purged(&error) {
            // What comes after it may still be there.
            self.proof = None;
            self.is_proven = false;
            return None;
        }
        Some(if error.is_outage() { error } else { error.context(&self.source.url) })
    }

    /// Has the source proved to be the one that this was read from, before anything newer is given out.
    pub fn prove(mut self, proof: Proof) -> Self {
        self.server_name = Some(proof.source.clone());
        self.proof = Some(proof);
        self
    }

    /// Says which server the position is of, see [`Server::identity`]: its file is forgotten when another one answers.
    pub fn from_server(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// What the source will be known by when it is connected to again; `None` before the first transaction.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    /// Whether the last transaction that was read before could be compared when the source was connected to last: false
    /// when the source has purged it.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// The server that is, or was, read from; `None` before the first connection.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Where reading would go on: after the last transaction that was given out; by file after what a quiet source
    /// has besides.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How many events of unknown types were skipped, which their writer allows.
    pub fn skipped_events(&self) -> u64 {
        self.skipped_events
    }

    async fn step(&mut self) -> Result<Option<Step>> {
        if self.connected.is_none() {
            self.connected = Some(self.connect().await?);
        }
        let Some(connected) = &mut self.connected else { return Ok(None) };
        if connected.pending.is_none() {
            let silence =
                if connected.assembler.is_flowing() { self.source.silence() } else { SEARCH_TIMEOUT };
            connected.pending = Some(connected.connection.event(silence).await?.ok_or_else(ended)?);
        }
        let Some(event) = connected.pending.take() else { return Ok(None) };
        let (event, outcome) = if event.len() > LARGE_EVENT_BYTES {
            // When this future is dropped meanwhile, the connection is made again.
            let Some(mut moved) = self.connected.take() else { return Ok(None) };
            let task = tokio::task::spawn_blocking(move || {
                let outcome = moved.assembler.event(&event[1..]);
                (moved, event, outcome)
            });
            let joined = task.await;
            let (moved, event, outcome) =
                joined.map_err(|error| Error::with_source(ErrorKind::Outage, "decoding", error))?;
            self.connected = Some(moved);
            (event, outcome?)
        } else {
            let outcome = connected.assembler.event(&event[1..])?;
            (event, outcome)
        };
        match self.settle(event, outcome)? {
            Settled::Nothing => Ok(None),
            Settled::Step(step) => Ok(Some(step)),
            Settled::Asked(asked) => {
                if let Some(connected) = &mut self.connected {
                    connected.answer(&self.source, asked).await?;
                }
                Ok(None)
            }
        }
    }

    fn settle(&mut self, event: Vec<u8>, outcome: Outcome) -> Result<Settled> {
        let Some(connected) = &mut self.connected else { return Ok(Settled::Nothing) };
        self.skipped_events = self.skipped_events.max(connected.assembler.skipped_events());
        match outcome {
            Outcome::Nothing => Ok(Settled::Nothing),
            Outcome::Quiet if connected.proving.is_some_and(|quiet| quiet >= QUIET_MAX) => Err(foreign()),
            Outcome::Quiet => {
                self.waits.reset();
                if let Some(quiet) = &mut connected.proving {
                    // MySQL says so too while it looks for a GTID, which it has: it was asked.
                    *quiet += u32::from(!matches!(self.position.gtids, Some(Gtids::MySql(_))));
                    return Ok(Settled::Nothing);
                }
                // By GTID a reader knows its place in the file only from what comes; a quiet source says it too.
                if let Some(file) = connected.assembler.whole_file() {
                    self.position.file = Some(file.clone());
                }
                Ok(Settled::Step(Step::Quiet))
            }
            Outcome::Txn(txn) if connected.proving.take().is_some() => {
                let Some(proof) = &self.proof else { return Ok(Settled::Nothing) };
                let is_it = proof.committed_at_us == txn.committed_at_us
                    && proof.checksum == txn.checksum
                    && self.position.gtids == txn.position.gtids;
                if !is_it {
                    return Err(foreign());
                }
                self.is_proven = true;
                Ok(Settled::Nothing)
            }
            Outcome::Txn(txn) => {
                self.waits.reset();
                let before = std::mem::replace(&mut self.position, txn.position.clone());
                let source = self.proof.take().map(|proof| proof.source);
                self.proof = Some(Proof {
                    source: source.or_else(|| self.server_name.clone()).unwrap_or_default(),
                    before,
                    committed_at_us: txn.committed_at_us,
                    checksum: txn.checksum,
                });
                Ok(Settled::Step(Step::Txn(*txn)))
            }
            asked @ (Outcome::Describe { .. } | Outcome::Charset(_)) => {
                connected.pending = Some(event);
                Ok(Settled::Asked(asked))
            }
        }
    }

    async fn connect(&mut self) -> Result<Connected> {
        let mut server = Server::connect(&self.source).await?;
        let mut waited = Duration::ZERO;
        while server.is_taken(&self.identity).await? {
            if waited >= TAKEN_WAIT {
                let id = self.identity.server_id;
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "server id {id} is taken by another replica or reader: give this one another `server_id`"
                    ),
                ));
            }
            tokio::time::sleep(TAKEN_STEP).await;
            waited += TAKEN_STEP;
        }
        self.recognise(&mut server).await?;
        let charsets = server.charsets().await?;
        let mut connection = Connection::open(&self.source).await?;
        let from = self.proof.as_ref().map_or(&self.position, |proof| &proof.before);
        let start = from.replay_from.as_deref().unwrap_or(from);
        connection.request(start, &self.identity, self.source.heartbeat).await?;
        info!(source = %self.source.url, position = %self.position, "reading the binary log");
        let limits =
            Limits { memory_bytes_max: self.source.memory_bytes_max, folder: self.source.folder.clone() };
        let assembler =
            Assembler::new(from.clone(), Arc::clone(&self.tables), charsets, limits, connection.is_mariadb());
        let proving = self.proof.as_ref().map(|_| 0);
        Ok(Connected { proving, connection, server: Some(server), assembler, pending: None })
    }

    /// Whether the server that answers can be the one that was read from, or one that took over from it.
    async fn recognise(&mut self, server: &mut Server) -> Result<()> {
        let name = server.identity().await?;
        if self.server_name.as_ref().is_some_and(|known| *known != name) {
            if self.position.gtids.is_none() {
                let text = "another server answers than the one that was read from, and without GTIDs its files say \
                            nothing of the other's";
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            info!(source = %self.source.url, server = name, "another server answers; reading goes on by GTID");
            self.position.forget_file();
            // Its log may put the same transaction into other events.
            self.proof = None;
        }
        self.server_name = Some(name);
        let Some(Gtids::MySql(read)) = &self.position.gtids else { return Ok(()) };
        if server.executed().await?.is_none_or(|executed| executed.includes(read)) {
            self.missing_since = None;
            return Ok(());
        }
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        let (kind, text) = if since.elapsed() < MISSING_WAIT {
            (ErrorKind::Outage, "the source has not executed yet all that was read from it")
        } else {
            let text = "the source lacks transactions that were read from it: it was reset, restored or lost them in a \
                        failover";
            (ErrorKind::Invalid, text)
        };
        Err(Error::new(kind, text))
    }
}

/// The error for a source with another history.
fn foreign() -> Error {
    let text = "the source has not the transaction that was read last: it was reset or restored, or is another server";
    Error::new(ErrorKind::Invalid, text)
}

fn ended() -> Error {
    Error::new(ErrorKind::Outage, "the source ended the stream")
}

impl Source {
    /// How long nothing may come before the connection counts as lost.
    fn silence(&self) -> Duration {
        self.heartbeat * 3
    }
}
