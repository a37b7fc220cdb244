//! For tests of a service: what it records, and what its subscribers apply, without a broker.
//!
//! [`recorded`] shows what the outbox holds, the macros [`assert_recorded!`](crate::assert_recorded),
//! [`assert_not_recorded!`](crate::assert_not_recorded) and
//! [`assert_nothing_recorded!`](crate::assert_nothing_recorded) compare it with what a test expects, and
//! [`run_until_idle`] takes it through a [`MemoryBroker`](crate::broker::memory::MemoryBroker) into
//! subscribers. No function here needs an async runtime, a relay or a thread, but those for connections of
//! diesel-async's, `recorded_async`, `publish_async` and `run_until_idle_async`.
//!
#![cfg_attr(
    all(feature = "derive", feature = "sqlite"),
    doc = r#"
```
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Outbox, OutboxConnection, assert_recorded, testing};

diesel::table! { product (id) { id -> BigInt, price_cents -> BigInt, } }

#[derive(Debug, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = product)]
#[outbox(aggregate = "product")]
struct Product { id: i64, price_cents: i64 }

let mut connection = testing::memory_outbox();
connection.batch_execute("create table product (id integer primary key, price_cents bigint)")?;
connection.outbox_transaction(|tx| {
    let lamp = tx.insert(&Product { id: 7, price_cents: 950 })?;
    tx.update_from(&lamp, &Product { id: 7, price_cents: 995 })
})?;

assert_recorded!(connection, Product, created, key = 7);
assert_recorded!(connection, Product, updated, changed = ["price_cents"], after = {"price_cents": 995});
# Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
```
"#
)]

use diesel::sql_types::{BigInt, Binary, Integer, Text};
use serde_json::Value;

use crate::connection::OutboxConnection;
use crate::entity::{Entity, Image, Operation};
use crate::error::Result;
use crate::message::{Headers, OutboxRow, Recorded};

mod expectation;
mod macros;
pub(crate) mod run;

#[doc(hidden)]
pub use expectation::{AssertRecorded, Expectation};
#[doc(hidden)]
pub use serde_json::json;

#[cfg(feature = "async")]
pub use crate::asynchronous::testing::{publish_async, recorded_async, run_until_idle_async};
pub use run::{Applies, publish, run_until_idle};
#[cfg(feature = "sqlite")]
pub use run::{memory_outbox, memory_pool};

/// The source that messages come from here, as a relay would have it from its configuration.
pub const SOURCE: &str = "test";

/// A message in the outbox, read for a test.
///
/// ```
/// # use diesel::connection::SimpleConnection as _;
/// # use diesel::prelude::*;
/// # use outbox_core::{Outbox, OutboxConnection};
/// # diesel::table! { product (id) { id -> BigInt, price_cents -> BigInt, } }
/// # #[derive(Debug, Clone, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
/// # #[diesel(table_name = product)]
/// # #[outbox(aggregate = "product")]
/// # struct Product { id: i64, price_cents: i64 }
/// # let mut connection = outbox_core::testing::memory_outbox();
/// # connection.batch_execute("create table product (id integer primary key, price_cents bigint not null)")?;
/// use outbox_core::testing;
///
/// connection.outbox_transaction(|tx| {
///     let lamp = tx.insert(&Product { id: 7, price_cents: 950 })?;
///     let dearer = tx.update_from(&lamp, &Product { price_cents: 995, ..lamp.clone() })?;
///     tx.delete(&dearer)
/// })?;
/// let recorded = testing::recorded(&mut connection);
/// let [created, updated, deleted] = &recorded[..] else { panic!("{recorded:?}") };
/// assert_eq!((created.kind().as_str(), created.key.as_str()), ("product.created", "7"));
/// assert_eq!(created.after().unwrap()["price_cents"], 950);
/// assert_eq!(created.changed(), None);
/// assert_eq!(updated.changed(), Some(vec!["price_cents"]));
/// assert_eq!(deleted.before().unwrap()["price_cents"], 995);
/// assert!(deleted.after().is_none() && created.id < deleted.id);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RecordedMessage {
    /// The row's id: rises in the order in which this connection recorded.
    pub id: i64,
    /// The aggregate type.
    pub aggregate: String,
    /// What happened.
    pub event: String,
    /// The key.
    pub key: String,
    /// The headers, `outbox-schema` among them.
    pub headers: Headers,
    /// The payload; a string where it is not JSON.
    pub payload: Value,
}

impl RecordedMessage {
    /// `{aggregate}.{event}`.
    pub fn kind(&self) -> String {
        format!("{}.{}", self.aggregate, self.event)
    }

    /// The row after the change, of an entity's message.
    pub fn after(&self) -> Option<&Image> {
        self.payload.get("after")?.as_object()
    }

    /// The last row, of an entity's `deleted`.
    pub fn before(&self) -> Option<&Image> {
        self.payload.get("before")?.as_object()
    }

    /// The fields that an update changed, where the writer said what was there before.
    pub fn changed(&self) -> Option<Vec<&str>> {
        Some(self.payload.get("changed")?.as_array()?.iter().filter_map(Value::as_str).collect())
    }
}

/// The messages in the outbox in the order of their ids, as this connection sees them: those of a
/// transaction that is open on it too, for example of Diesel's `begin_test_transaction`.
///
/// ```
/// use outbox_core::{Message, OutboxConnection, testing};
///
/// let mut connection = testing::memory_outbox();
/// connection.outbox_transaction(|tx| {
///     let photos = Message::new("product", "7", "photographed", br#"{"photos": 3}"#.to_vec())?;
///     tx.record_message(photos.with_header("tenant", "eu")?);
///     Ok(())
/// })?;
/// let recorded = testing::recorded(&mut connection);
/// assert_eq!(recorded.len(), 1);
/// assert_eq!(recorded[0].payload["photos"], 3);
/// assert_eq!(recorded[0].headers.get("tenant"), Some("eu"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// # Panics
/// When the outbox cannot be read or holds a row that could never be published.
#[track_caller]
pub fn recorded<C: OutboxConnection>(connection: &mut C) -> Vec<RecordedMessage> {
    shown(pending(connection))
}

#[track_caller]
pub(crate) fn shown(pending: Result<Vec<Recorded>>) -> Vec<RecordedMessage> {
    match pending {
        Ok(pending) => pending.into_iter().map(RecordedMessage::from).collect(),
        Err(error) => panic!("the outbox cannot be read: {error}"),
    }
}

/// Compares rows, as the database holds them now, with what is recorded of them, and names each whose newest
/// message in the outbox shows something else: a write went past the outbox. `7: price_cents, stock` is a key
/// with the fields that differ, `7: deleted` a row that is there although its delete is recorded.
///
/// Rows without a message in the outbox are not judged, nor are fields that the entity skips or redacts.
///
/// ```
/// # use diesel::connection::SimpleConnection as _;
/// # use diesel::prelude::*;
/// # use outbox_core::{Outbox, OutboxConnection};
/// # diesel::table! { product (id) { id -> BigInt, price_cents -> BigInt, } }
/// # #[derive(Debug, Clone, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
/// # #[diesel(table_name = product)]
/// # #[outbox(aggregate = "product")]
/// # struct Product { id: i64, price_cents: i64 }
/// # let mut connection = outbox_core::testing::memory_outbox();
/// # connection.batch_execute("create table product (id integer primary key, price_cents bigint not null)")?;
/// use outbox_core::testing;
///
/// connection.outbox_transaction(|tx| tx.insert(&Product { id: 7, price_cents: 950 }))?;
/// let rows: Vec<Product> = product::table.select(Product::as_select()).load(&mut connection)?;
/// assert!(testing::stale_images(&mut connection, &rows)?.is_empty());
///
/// diesel::update(product::table).set(product::price_cents.eq(1)).execute(&mut connection)?;
/// let rows: Vec<Product> = product::table.select(Product::as_select()).load(&mut connection)?;
/// assert_eq!(testing::stale_images(&mut connection, &rows)?, ["7: price_cents"]);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Errors
/// When the outbox cannot be read or a row does not serialize.
pub fn stale_images<E: Entity, C: OutboxConnection>(connection: &mut C, rows: &[E]) -> Result<Vec<String>> {
    let pending: Vec<RecordedMessage> = pending(connection)?.into_iter().map(From::from).collect();
    let events = Operation::ALL.map(|operation| E::EVENTS.of(operation));
    let mut stale = Vec::new();
    for row in rows {
        let key = row.key();
        let newest = pending.iter().rev().find(|message| {
            message.aggregate == E::AGGREGATE
                && message.key == key
                && events.contains(&message.event.as_str())
        });
        let Some(message) = newest else { continue };
        let Some(recorded) = message.after() else {
            stale.push(format!("{key}: deleted"));
            continue;
        };
        // Through text, as the recorded one: a float may not be the same one before it.
        let now: crate::EntityChange =
            serde_json::from_slice(&crate::entity::change_text("after", row, None)?)?;
        let now = now.after.unwrap_or_default();
        let mut fields: Vec<_> = now
            .keys()
            .chain(recorded.keys().filter(|name| !now.contains_key(*name)))
            .filter(|name| now.get(*name) != recorded.get(*name))
            .map(String::as_str)
            .collect();
        fields.sort_unstable();
        if !fields.is_empty() {
            stale.push(format!("{key}: {}", fields.join(", ")));
        }
    }
    Ok(stale)
}

fn pending<C: OutboxConnection>(connection: &mut C) -> Result<Vec<Recorded>> {
    read(connection.pending_messages()?)
}

/// The whole outbox in the order of ids.
pub(crate) fn select_pending(created_at_us: &str) -> diesel::query_builder::SqlQuery {
    diesel::sql_query(format!(
        "select id, message_id, aggregate_type, aggregate_id, event_type, headers, payload, \
         {created_at_us} as created_at_us, (select generation from outbox_meta where id = 1) as generation \
         from outbox order by id"
    ))
}

/// # Errors
/// When a row could never be published.
pub(crate) fn read(rows: Vec<PendingRow>) -> Result<Vec<Recorded>> {
    rows.into_iter()
        .map(|row| {
            let outbox_row = OutboxRow {
                id: row.id,
                message_id: row.message_id,
                aggregate_type: row.aggregate_type,
                aggregate_id: row.aggregate_id,
                event_type: row.event_type,
                headers: row.headers,
                payload: row.payload,
                created_at_us: row.created_at_us,
            };
            Recorded::from_row(SOURCE, row.generation, outbox_row)
        })
        .collect()
}

impl From<Recorded> for RecordedMessage {
    fn from(recorded: Recorded) -> Self {
        let message = &recorded.message;
        let payload = serde_json::from_slice(message.payload())
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(message.payload()).into_owned()));
        Self {
            id: recorded.version.id,
            aggregate: message.aggregate().to_owned(),
            event: message.event().to_owned(),
            key: message.key().to_owned(),
            headers: message.headers().clone(),
            payload,
        }
    }
}

#[doc(hidden)]
#[derive(Debug, diesel::QueryableByName)]
pub struct PendingRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Binary)]
    message_id: Vec<u8>,
    #[diesel(sql_type = Text)]
    aggregate_type: String,
    #[diesel(sql_type = Text)]
    aggregate_id: String,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = Binary)]
    headers: Vec<u8>,
    #[diesel(sql_type = Binary)]
    payload: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    created_at_us: i64,
    #[diesel(sql_type = BigInt)]
    generation: i64,
}

#[doc(hidden)]
#[derive(Debug, PartialEq, Eq, diesel::QueryableByName)]
pub struct HeldRow {
    #[diesel(sql_type = Text)]
    pub(crate) consumer: String,
    #[diesel(sql_type = Text)]
    pub(crate) message_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) kind: String,
    #[diesel(sql_type = Text)]
    pub(crate) aggregate_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) state: String,
    #[diesel(sql_type = Integer)]
    pub(crate) attempts: i32,
    #[diesel(sql_type = Text)]
    pub(crate) error: String,
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::message::Message;

    #[test]
    fn a_failed_assertion_points_at_its_own_line() {
        let mut connection = memory_outbox();
        connection.append_messages(&[Message::new("a", "1", "b", b"{}".to_vec()).unwrap()]).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (noted, own) = (Arc::clone(&seen), std::thread::current().id());
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == own {
                let location = panic.location().unwrap();
                noted.lock().unwrap().push((location.file().to_owned(), location.line()));
            } else {
                previous(panic);
            }
        }));
        let line = line!() + 1;
        let assertion = AssertUnwindSafe(|| crate::assert_nothing_recorded!(connection));
        let panicked = catch_unwind(assertion).is_err();
        drop(std::panic::take_hook());
        assert!(panicked);
        assert_eq!(*seen.lock().unwrap(), [(file!().to_owned(), line)]);
    }
}
