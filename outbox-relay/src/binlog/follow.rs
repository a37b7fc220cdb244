//! Follows a source's binary log: connects, reads whole transactions, connects again after a loss, from the last
//! whole transaction that was given out.

use std::sync::Arc;
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Result, RetryPolicy};
use tracing::{info, warn};
use uuid::Uuid;

use super::Source;
use super::connection::{Connection, Identity};
use super::position::Position;
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

/// The transactions of a source, in its order.
pub struct Stream {
    source: Source,
    tables: Arc<Tables>,
    identity: Identity,
    position: Position,
    connected: Option<Connected>,
    waits: outbox_core::Waits,
    skipped_events: u64,
}

struct Connected {
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
            match self.step().await {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => {}
                Err(error) if error.is_outage() => {
                    self.connected = None;
                    let wait = self.waits.next_wait();
                    warn!(source = %self.source.url, %error, ?wait, "lost the source; reading goes on by itself");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    self.connected = None;
                    return Err(error.context(&self.source.url));
                }
            }
        }
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
        let outcome = if event.len() > LARGE_EVENT_BYTES {
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
        self.take(outcome).await
    }

    async fn take(&mut self, (event, outcome): (Vec<u8>, Outcome)) -> Result<Option<Step>> {
        let Some(connected) = &mut self.connected else { return Ok(None) };
        self.skipped_events = self.skipped_events.max(connected.assembler.skipped_events());
        match outcome {
            Outcome::Nothing => Ok(None),
            Outcome::Quiet => {
                self.waits.reset();
                // By GTID a reader knows its place in the file only from what comes; a quiet source says it too.
                if let Some(file) = connected.assembler.whole_file() {
                    self.position.file = Some(file.clone());
                }
                Ok(Some(Step::Quiet))
            }
            Outcome::Txn(txn) => {
                self.waits.reset();
                self.position = txn.position.clone();
                Ok(Some(Step::Txn(*txn)))
            }
            asked @ (Outcome::Describe { .. } | Outcome::Charset(_)) => {
                connected.pending = Some(event);
                connected.answer(&self.source, asked).await?;
                Ok(None)
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
        let charsets = server.charsets().await?;
        let mut connection = Connection::open(&self.source).await?;
        let start = self.position.replay_from.as_deref().unwrap_or(&self.position);
        connection.request(start, &self.identity, self.source.heartbeat).await?;
        info!(source = %self.source.url, position = %self.position, "reading the binary log");
        let limits =
            Limits { memory_bytes_max: self.source.memory_bytes_max, folder: self.source.folder.clone() };
        let assembler = Assembler::new(
            self.position.clone(),
            Arc::clone(&self.tables),
            charsets,
            limits,
            connection.is_mariadb(),
        );
        Ok(Connected { connection, server: Some(server), assembler, pending: None })
    }
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
