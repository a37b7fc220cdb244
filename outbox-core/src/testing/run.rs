//! From the outbox through the broker inside the process into subscribers, step by step in one thread.

use super::pending;
use crate::broker::Confirm;
use crate::broker::memory::MemoryBroker;
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Recorded;
use crate::subscriber::Subscriber;

/// How often messages may follow from messages before [`run_until_idle`] gives up.
pub(crate) const ROUNDS_MAX: usize = 100;

/// Publishes what this connection sees in the outbox to the broker, in the order of ids and in the form in
/// which a relay does, with the source [`SOURCE`](super::SOURCE), and deletes the rows; returns how many.
///
/// Inside a transaction of the caller's the deletes are part of it; what was published stays so when it
/// rolls back, as after a crash of a relay.
///
/// ```
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::{Message, OutboxConnection, Recorded, assert_nothing_recorded, testing};
///
/// let mut connection = testing::memory_outbox();
/// connection.outbox_transaction(|tx| {
///     tx.record_message(Message::new("product", "7", "seen", b"{}".to_vec())?);
///     Ok(())
/// })?;
/// let broker = MemoryBroker::new();
/// assert_eq!(testing::publish(&mut connection, &broker)?, 1);
/// assert_nothing_recorded!(connection);
///
/// // No queue wants it: the broker has kept it aside.
/// let published = Recorded::from_frame(&broker.unrouted()[0])?;
/// assert_eq!((published.message.kind().as_str(), published.source.as_str()), ("product.seen", testing::SOURCE));
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// # Errors
/// The database's; `Broker` when the broker is full or returns a message that no queue wants: that message
/// and those after it stay in the outbox.
pub fn publish<C: OutboxConnection>(connection: &mut C, broker: &MemoryBroker) -> Result<usize> {
    let (published, refused) = connection.write_transaction(|connection| {
        let (published, refused) = publish_all(&pending(connection)?, broker);
        connection.forget_messages(&published)?;
        Ok::<_, Error>((published.len(), refused))
    })?;
    refused.map_or(Ok(published), Err)
}

/// Publishes them one after the other until one is refused: the ids of those that are published, and why the rest
/// is not.
pub(crate) fn publish_all(pending: &[Recorded], broker: &MemoryBroker) -> (Vec<i64>, Option<Error>) {
    let mut published = Vec::new();
    for recorded in pending {
        let reason = match broker.publish_now(&recorded.to_frame()) {
            Some(Confirm::Confirmed) => {
                published.push(recorded.version.id);
                continue;
            }
            Some(Confirm::Returned(reason) | Confirm::Refused(reason)) => reason,
            None => "the broker is full; let subscribers apply what it holds".to_owned(),
        };
        let message = &recorded.message;
        let refused = format!("{} of key {} is not published: {reason}", message.kind(), message.key());
        return (published, Some(Error::new(ErrorKind::Broker, refused)));
    }
    (published, None)
}

/// A [`Subscriber`] on a [`MemoryBroker`], whatever its database: what [`run_until_idle`] takes.
///
/// Sealed: the hidden methods may change.
///
/// A helper of several tests takes subscribers of several databases:
///
/// ```
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::testing::{self, Applies};
/// use outbox_core::{Message, OutboxConnection, Result, Subscriber};
///
/// /// What is published when a product is seen.
/// fn see(broker: &MemoryBroker, subscribers: &[&dyn Applies]) -> Result<usize> {
///     let mut connection = testing::memory_outbox();
///     let seen = Message::new("product", "7", "seen", b"{}".to_vec())?;
///     connection.outbox_transaction(|tx| { tx.record_message(seen); Ok(()) })?;
///     testing::run_until_idle(&mut connection, broker, subscribers)
/// }
///
/// let broker = MemoryBroker::new();
/// let subscriber = |name| Subscriber::new(name, broker.clone(), testing::memory_pool());
/// let orders = subscriber("order").on_raw("product.seen", |_, _| Ok(()));
/// let archive = subscriber("archive").on_raw("product.*", |_, _| Ok(()));
/// assert_eq!(see(&broker, &[&orders, &archive])?, 1);
/// assert_eq!((orders.stats().applied(), archive.stats().applied()), (1, 1));
/// # Ok::<(), outbox_core::Error>(())
/// ```
pub trait Applies: sealed::Sealed {
    #[doc(hidden)]
    fn prepare_queues(&self, broker: &MemoryBroker) -> Result<()>;

    #[doc(hidden)]
    fn apply_queued(&self) -> Result<usize>;
}

mod sealed {
    pub trait Sealed {}
}

impl<C: OutboxConnection> sealed::Sealed for Subscriber<MemoryBroker, C> {}

impl<C: OutboxConnection> Applies for Subscriber<MemoryBroker, C> {
    fn prepare_queues(&self, broker: &MemoryBroker) -> Result<()> {
        self.prepare(broker)
    }

    fn apply_queued(&self) -> Result<usize> {
        self.drain()
    }
}

/// Publishes what the outbox holds and lets the subscribers apply it, again and again until outbox and queues
/// are empty; returns how many messages were published. What a handler records in the same database goes the
/// same way.
///
/// Each subscriber applies as in [`Subscriber::run`], on connections of its own pool, except that attempts
/// follow each other without a wait. So a transaction that is open on `connection` keeps a subscriber on the
/// same database waiting or out of sight: commit it before. No `run` of these subscribers may be under way.
///
/// ```
/// # #[derive(serde::Deserialize)] struct Seen { times: u32 }
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::{Error, Message, OutboxConnection, Subscriber, testing};
///
/// let (pool, broker) = (testing::memory_pool(), MemoryBroker::new());
/// let orders = Subscriber::new("order", broker.clone(), pool.clone())
///     .on("product.seen", |_, seen: Seen| if seen.times < 3 { Ok(()) } else { Err(Error::application("a bot")) });
///
/// let mut connection = pool.get()?;
/// let mut see = |payload: &[u8]| {
///     let message = Message::new("product", "7", "seen", payload.to_vec())?;
///     connection.outbox_transaction(|tx| { tx.record_message(message); Ok(()) })?;
///     testing::run_until_idle(&mut *connection, &broker, &[&orders])
/// };
/// assert_eq!(see(br#"{"times": 1}"#)?, 1);
/// assert!(see(br#"{"times": 9}"#).unwrap_err().to_string().ends_with("a bot"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// # Errors
/// - `Application`, with kind, key and error of each message that a subscriber has set aside.
/// - `Application` when there is no end after 100 rounds, with the kinds that go round.
/// - `Application`, naming the queues, when something is left that none of these subscribers takes.
/// - `Invalid` when a subscriber cannot run or is on another broker; as [`publish`]; an outage of a database.
///
/// See `docs/guide/testing.md` for an example.
pub fn run_until_idle<C: OutboxConnection>(
    connection: &mut C,
    broker: &MemoryBroker,
    subscribers: &[&dyn Applies],
) -> Result<usize> {
    for subscriber in subscribers {
        subscriber.prepare_queues(broker)?;
    }
    let mut total = 0;
    for _ in 0..ROUNDS_MAX {
        let published = publish(connection, broker)?;
        let mut applied = 0;
        for subscriber in subscribers {
            applied += subscriber.apply_queued()?;
        }
        total += published;
        if published == 0 && applied == 0 {
            return all_taken(broker).map(|()| total);
        }
    }
    Err(no_end(&pending(connection)?))
}

pub(crate) fn no_end(pending: &[Recorded]) -> Error {
    let mut kinds: Vec<_> = pending.iter().map(|recorded| recorded.message.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    Error::new(
        ErrorKind::Application,
        format!(
            "still messages in the outbox after {ROUNDS_MAX} rounds: {}; does a handler record what it handles?",
            kinds.join(", ")
        ),
    )
}

pub(crate) fn all_taken(broker: &MemoryBroker) -> Result<()> {
    let busy: Vec<_> =
        broker.busy().into_iter().map(|(queue, depth)| format!("queue {queue} holds {depth}")).collect();
    if busy.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Application,
        format!(
            "messages are left on the broker: {}; their subscriber is not among those given, or another \
             consumer has the queue",
            busy.join(", ")
        ),
    ))
}

/// A SQLite database in memory with the tables of both roles, outbox and inbox, and its only connection.
///
/// ```
/// use diesel::connection::SimpleConnection;
/// use outbox_core::testing;
///
/// let mut connection = testing::memory_outbox();
/// // The tables of the service come beside them.
/// connection.batch_execute("create table product (id integer primary key); select id from inbox_held")?;
/// assert!(testing::recorded(&mut connection).is_empty());
/// // Each is a database of its own.
/// assert!(testing::memory_outbox().batch_execute("select id from product").is_err());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Panics
/// When SQLite cannot create it.
#[cfg(feature = "sqlite")]
#[must_use]
#[track_caller]
pub fn memory_outbox() -> diesel::SqliteConnection {
    match open_memory(":memory:") {
        Ok(connection) => connection,
        Err(error) => panic!("a SQLite database in memory: {error}"),
    }
}

/// As [`memory_outbox`], with a pool of connections to the one database, which lives as long as the pool:
/// for a test whose [`Subscriber`] is on the same database.
///
/// ```
/// use outbox_core::{Message, OutboxConnection, testing};
///
/// let pool = testing::memory_pool();
/// let mut connection = pool.get()?;
/// connection.outbox_transaction(|tx| {
///     tx.record_message(Message::new("product", "7", "seen", b"{}".to_vec())?);
///     Ok(())
/// })?;
/// // Another connection of the pool sees it.
/// assert_eq!(testing::recorded(&mut *pool.get()?)[0].kind(), "product.seen");
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// # Panics
/// When SQLite cannot create it.
#[cfg(feature = "sqlite")]
#[must_use]
#[track_caller]
pub fn memory_pool() -> diesel::r2d2::Pool<diesel::r2d2::ConnectionManager<diesel::SqliteConnection>> {
    use diesel::r2d2::{ConnectionManager, Pool};

    let url = format!("file:outbox-{}?mode=memory&cache=shared", crate::message::MessageId::now());
    let pool = Pool::builder().max_size(4).build(ConnectionManager::new(&url)).map_err(Into::into);
    match pool.and_then(|pool| open_memory(&url).map(|_| pool)) {
        Ok(pool) => pool,
        Err(error) => panic!("a SQLite database in memory: {error}"),
    }
}

#[cfg(feature = "sqlite")]
fn open_memory(url: &str) -> Result<diesel::SqliteConnection, Box<dyn std::error::Error + Send + Sync>> {
    use crate::migrate;

    let mut connection = <diesel::SqliteConnection as diesel::Connection>::establish(url)?;
    migrate::run(&mut connection, &migrate::OUTBOX)?;
    migrate::run(&mut connection, &migrate::INBOX)?;
    Ok(connection)
}
