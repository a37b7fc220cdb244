//! The write side and the consumer side of a transactional outbox, for services on Diesel.
//!
//! A service that owns data derives [`Outbox`](derive@Outbox) on its entities and writes them in an
//! [outbox transaction](OutboxConnection::outbox_transaction): each write also inserts a row into the table
//! `outbox`, in the same transaction. The relay (crate `outbox-relay`) publishes these rows. A service that
//! needs the data keeps a [copy](Subscriber::copy) or [handles](Subscriber::on) the messages, each with one
//! effect, through a [`Subscriber`].
//!
#![cfg_attr(
    all(feature = "derive", feature = "sqlite"),
    doc = r#"
```
use diesel::prelude::*;
use outbox_core::{Outbox, OutboxConnection, OutboxEvent, migrate};
use serde::{Deserialize, Serialize};

diesel::table! {
    product (id) { id -> BigInt, name -> Text, price_cents -> BigInt, cost_cents -> BigInt, }
}

/// Messages: `product.created`, `product.updated`, `product.deleted`, without what it costs us.
#[derive(Debug, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = product)]
#[outbox(aggregate = "product")]
struct Product { id: i64, name: String, price_cents: i64, #[outbox(skip)] cost_cents: i64 }

#[derive(Serialize, Deserialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "price_raised", key = product_id)]
struct PriceRaised { product_id: i64, by_cents: i64 }

let mut connection = SqliteConnection::establish(":memory:")?;
migrate::run(&mut connection, &migrate::OUTBOX)?;
diesel::sql_query(
    "create table product (id integer primary key, name text, price_cents bigint, cost_cents bigint)",
)
.execute(&mut connection)?;

connection.outbox_transaction(|tx| {
    let lamp = tx.insert(&Product { id: 7, name: "lamp".into(), price_cents: 950, cost_cents: 500 })?;
    let dearer = tx.update(&Product { price_cents: 995, ..lamp })?;
    tx.record(&PriceRaised { product_id: dearer.id, by_cents: 45 })?;
    // Anything else in the same transaction; what is written like this is not recorded.
    diesel::sql_query("update product set cost_cents = 501").execute(tx.conn())?;
    Ok(())
})?;

let pending = diesel::dsl::sql::<diesel::sql_types::BigInt>("select count(*) from outbox");
assert_eq!(pending.get_result::<i64>(&mut connection)?, 3);
# Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
```
"#
)]
//!
//! Features: `derive` and `sqlite` (both on), `mysql` and `postgres` (link the C client library of the
//! database), `async-sqlite`, `async-mysql` and `async-postgres` (the same on diesel-async, the latter two in pure Rust),
//! `rabbitmq`, `tls` (`amqps://` with rustls), `opentelemetry` (messages carry the caller's trace context), `testing`
//! (for tests of a service, without a broker).

#![cfg_attr(
    not(any(feature = "mysql", feature = "postgres", feature = "sqlite")),
    allow(dead_code, unused_imports, unused_macros, reason = "what no database uses")
)]

// Before those whose documentation uses it.
#[macro_use]
mod doc_example;

#[cfg(feature = "async")]
mod asynchronous;
pub mod broker;
mod buffer;
mod connection;
mod connections;
pub mod contract;
mod copy;
mod entity;
mod error;
mod event;
#[cfg(doctest)]
mod guide;
mod hash;
mod inbox;
mod lost;
mod message;
pub mod migrate;
mod model;
mod nested;
mod panics;
mod resync;
mod retry;
mod rows;
mod schema;
mod statement;
mod subscriber;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
mod trace;
mod transaction;
mod write;
mod writer;

#[cfg(feature = "async-sqlite")]
pub use asynchronous::AsyncSqliteConnection;
#[cfg(feature = "async")]
pub use asynchronous::{
    AsyncEntityOn, AsyncInsertOn, AsyncOutboxConnection, AsyncOutboxTx, AsyncUpsertOn, Awaited,
};
pub use connection::OutboxConnection;
#[cfg(feature = "async")]
pub use connections::Lent;
pub use copy::{Replica, ReplicaOn};
pub use entity::{Entity, EntityChange, EventNames, FieldSchema, FieldWriter, Image, Operation};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventSchema};
pub use hash::{HashKey, REDACTED, set_hash_key};
pub use inbox::HeldState;
pub use message::{
    BUCKET_HASH, BUCKETS, Frame, HEADERS_BYTES_MAX, Headers, KEY_BYTES_MAX, Message, MessageId,
    NAME_BYTES_MAX, OutboxRow, PAYLOAD_BYTES_MAX, Recorded, Version, WIRE_FORMAT, bucket_of,
};
/// Records what is written to an entity:
///
/// ```
/// use diesel::prelude::*;
/// use outbox_core::{Entity, Outbox};
///
/// diesel::table! {
///     products (id) { id -> BigInt, name -> Text, price_cents -> BigInt, }
/// }
///
/// #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
/// #[diesel(table_name = products)]
/// #[outbox(aggregate = "product")]
/// struct Product {
///     id: i64,
///     name: String,
///     price_cents: i64,
/// }
///
/// #[derive(Insertable, Outbox)]
/// #[diesel(table_name = products)]
/// #[outbox(entity = Product)]
/// struct NewProduct<'a> {
///     name: &'a str,
/// }
///
/// let lamp = Product { id: 7, name: "lamp".into(), price_cents: 950 };
/// assert_eq!((Product::AGGREGATE, lamp.key().as_str()), ("product", "7"));
/// ```
///
#[cfg(feature = "derive")]
pub use outbox_macros::Outbox;
/// Names a domain event:
///
/// ```
/// use outbox_core::{Event, OutboxEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, OutboxEvent)]
/// #[outbox(aggregate = "product", event = "recalled", key = id)]
/// struct Recalled {
///     id: i64,
/// }
///
/// #[derive(Serialize, OutboxEvent)]
/// #[outbox(aggregate = "product", event = "price_raised", key = product_id)]
/// struct PriceRaised {
///     product_id: i64,
///     by_cents: i64,
/// }
///
/// #[derive(Serialize, Deserialize, OutboxEvent)]
/// #[serde(tag = "type")]
/// #[outbox(aggregate = "product", key = product_id)]
/// enum ProductEvent {
///     PriceRaised { product_id: i64, by_cents: i64 }, // product.price_raised
///     #[outbox(event = "taken_off", key = id)]
///     Delisted { id: i64 }, // product.taken_off
///     Recalled(Recalled), // product.recalled; the key is that of the event inside
/// }
///
/// let event = ProductEvent::Delisted { id: 7 };
/// assert_eq!((event.event(), event.key().as_str()), ("taken_off", "7"));
/// ```
///
#[cfg(feature = "derive")]
pub use outbox_macros::OutboxEvent;
/// Follows an entity of another service in a table:
///
/// ```
/// use outbox_core::Replica;
///
/// diesel::table! {
///     product_copies (id) {
///         id -> BigInt,
///         name -> Text,
///         price -> Double,
///         note -> Text,
///         outbox_generation -> BigInt,
///         outbox_id -> BigInt,
///         outbox_bucket -> SmallInt,
///     }
/// }
///
/// fn euros(cents: i64) -> Result<f64, std::convert::Infallible> {
///     Ok(cents as f64 / 100.0)
/// }
///
/// #[derive(Replica)]
/// #[diesel(table_name = product_copies)]
/// #[replica(of = "product")]
/// struct ProductCopy {
///     id: i64,
///     name: String,
///     #[replica(from = "price_cents", with = euros)]
///     price: f64,
///     #[replica(local)]
///     note: String,
/// }
/// ```
///
#[cfg(feature = "derive")]
pub use outbox_macros::Replica;
pub use resync::{Resync, ResyncOn};
pub use retry::{RetryPolicy, Waits};
pub use rows::Condition;
pub use subscriber::{
    FailurePolicy, Freshness, Hanging, Incoming, Pruned, Reached, Seen, Subscriber, SubscriberStats,
};
pub use transaction::OutboxTx;
pub use write::{EntityOn, InsertOn, UpsertOn, Upserted};
pub use writer::{BacklogLimit, WhenFull, Writer};

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod gates;
