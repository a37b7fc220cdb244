//! [`Subscriber`], [`Resync`] and [`Freshness`] on diesel-async. Handlers get an async transaction.

use std::ops::DerefMut;
use std::time::Duration;

use diesel_async::TransactionManager;
use serde::de::DeserializeOwned;

use super::awaited::{Awaited, connections, wait_for};
use super::connection::AsyncOutboxConnection;
use super::transaction::AsyncOutboxTx;
use crate::broker::Broker;
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::resync::{Resync, ResyncOn};
use crate::subscriber::{Freshness, Incoming, Subscriber};

impl<B: Broker, A: AsyncOutboxConnection> Subscriber<B, Awaited<A>>
where
    Awaited<A>: OutboxConnection,
{
    /// As [`new`](Self::new), on connections of diesel-async's, from any pool: the closure takes one from it.
    ///
    /// Give the pool a limit for how long it waits: an outage is what ends with an error.
    ///
    /// ```no_run
    /// # #[cfg(feature = "async-sqlite")]
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// # use diesel::prelude::*;
    /// # use diesel_async::RunQueryDsl;
    /// # use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool::Pool};
    /// # use outbox_core::{AsyncSqliteConnection, Subscriber, broker::memory::MemoryBroker};
    /// # #[derive(serde::Deserialize)] struct PriceRaised { by: i64 }
    /// let pool = Pool::builder(AsyncDieselConnectionManager::<AsyncSqliteConnection>::new("order.db")).build()?;
    /// Subscriber::new_async("order", MemoryBroker::new(), async move || pool.get().await)
    ///     .on_async("product.price_raised", async |tx, event: PriceRaised| {
    ///         diesel::sql_query("insert into price_alert (raised_by) values (?)")
    ///             .bind::<diesel::sql_types::BigInt, _>(event.by)
    ///             .execute(tx.conn())
    ///             .await?;
    ///         Ok(())
    ///     })
    ///     .run(Default::default())
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new_async<P, E>(
        name: impl Into<String>,
        broker: B,
        connect: impl AsyncFn() -> std::result::Result<P, E> + Send + Sync + 'static,
    ) -> Self
    where
        P: DerefMut<Target = A> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::over(name.into(), broker, connections(connect))
    }

    /// As [`on`](Self::on), with an async handler. One that takes longer than the
    /// [limit](Self::handler_limit) is cancelled, which counts as a failed attempt; its connection is thrown away.
    #[cfg_attr(
        all(feature = "async-sqlite", feature = "testing"),
        doc = async_example!(r##"
# connection.outbox_transaction(async |tx| {
#     tx.record_message(Message::new("product", "7", "price_raised", br#"{"by": 45}"#.to_vec())?);
#     Ok(())
# }).await?;
# #[derive(serde::Deserialize)] struct PriceRaised { by: i64 }
use outbox_core::{Message, Subscriber};

let orders = Subscriber::new_async("order", broker.clone(), async move || pool.get().await)
    .on_async("product.price_raised", async |tx, event: PriceRaised| {
        // What it records is published from this service's own outbox.
        tx.record_message(Message::new("alert", event.by.to_string(), "made", b"{}".to_vec())?);
        Ok(())
    });
# testing::run_until_idle_async(&mut connection, &broker, &[&orders]).await?;
assert_eq!(broker.unrouted()[0].routing_key.split('.').next(), Some("alert"));
"##)
    )]
    #[must_use]
    pub fn on_async<E: DeserializeOwned>(
        self,
        kind: impl Into<String>,
        handler: impl AsyncFn(&mut AsyncOutboxTx<'_, A>, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.handle(kind.into(), move |connection, incoming| {
            let event = incoming.payload()?;
            in_time(connection, incoming.limit(), async |tx| handler(tx, event).await)
        })
    }

    /// As [`on_with`](Self::on_with), with an async handler; see [`on_async`](Self::on_async).
    #[cfg_attr(
        all(feature = "async-sqlite", feature = "testing"),
        doc = async_example!(r##"
# connection.outbox_transaction(async |tx| {
#     tx.record_message(Message::new("product", "7", "price_raised", br#"{"by": 45}"#.to_vec())?);
#     Ok(())
# }).await?;
# #[derive(serde::Deserialize)] struct PriceRaised { by: i64 }
use outbox_core::{Message, Subscriber};

let orders = Subscriber::new_async("order", broker.clone(), async move || pool.get().await)
    .on_with_async("product.price_raised", async |tx, event: PriceRaised, incoming| {
        let key = incoming.message().key();
        let alert = format!("{} of {key}, attempt {}", event.by, incoming.attempt());
        tx.record_message(Message::new("alert", "1", "made", serde_json::to_vec(&alert)?)?);
        Ok(())
    });
# testing::run_until_idle_async(&mut connection, &broker, &[&orders]).await?;
assert_eq!(broker.unrouted()[0].body, br#""45 of 7, attempt 1""#);
"##)
    )]
    #[must_use]
    pub fn on_with_async<E: DeserializeOwned>(
        self,
        kind: impl Into<String>,
        handler: impl AsyncFn(&mut AsyncOutboxTx<'_, A>, E, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.handle(kind.into(), move |connection, incoming| {
            let event = incoming.payload()?;
            in_time(connection, incoming.limit(), async |tx| handler(tx, event, incoming).await)
        })
    }

    /// As [`on_raw`](Self::on_raw), with an async handler; see [`on_async`](Self::on_async).
    #[cfg_attr(
        all(feature = "async-sqlite", feature = "testing"),
        doc = async_example!(r##"
# connection.outbox_transaction(async |tx| {
#     tx.record_message(Message::new("product", "7", "price_raised", br#"{"by": 45}"#.to_vec())?);
#     Ok(())
# }).await?;
use outbox_core::{Message, Subscriber};

let archive = Subscriber::new_async("archive", broker.clone(), async move || pool.get().await)
    .on_raw_async("product.*", async |tx, incoming| {
        let payload = incoming.message().payload().to_vec();
        tx.record_message(Message::new("archive", incoming.id().to_string(), "filed", payload)?);
        Ok(())
    });
# testing::run_until_idle_async(&mut connection, &broker, &[&archive]).await?;
let filed = &broker.unrouted()[0];
assert_eq!((filed.kind.as_str(), filed.body.as_slice()), ("archive.filed", br#"{"by": 45}"#.as_slice()));
"##)
    )]
    #[must_use]
    pub fn on_raw_async(
        self,
        kind: impl Into<String>,
        handler: impl AsyncFn(&mut AsyncOutboxTx<'_, A>, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.handle(kind.into(), move |connection, incoming| {
            in_time(connection, incoming.limit(), async |tx| handler(tx, incoming).await)
        })
    }

    /// As [`on_event`](Self::on_event), with an async handler; see [`on_async`](Self::on_async).
    #[cfg_attr(
        all(feature = "async-sqlite", feature = "testing"),
        doc = async_example!(r##"
# #[derive(serde::Serialize, serde::Deserialize, outbox_core::OutboxEvent)]
# #[outbox(aggregate = "order", event = "confirmed", key = order)]
# struct Confirmed { order: i64 }
use outbox_core::{OutboxEvent, Subscriber};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, OutboxEvent)]
#[outbox(aggregate = "order", event = "placed", key = order)]
struct Placed { order: i64 }

let orders = Subscriber::new_async("order", broker.clone(), async move || pool.get().await)
    .on_event_async(async |tx, placed: Placed| tx.record(&Confirmed { order: placed.order }));
# connection.outbox_transaction(async |tx| tx.record(&Placed { order: 1 })).await?;
# testing::run_until_idle_async(&mut connection, &broker, &[&orders]).await?;
assert_eq!(broker.unrouted()[0].kind, "order.confirmed");
"##)
    )]
    #[must_use]
    pub fn on_event_async<E: Event + DeserializeOwned>(
        self,
        handler: impl AsyncFn(&mut AsyncOutboxTx<'_, A>, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.handle_events::<E>(move |connection, event, limit| {
            in_time(connection, limit, async |tx| handler(tx, event).await)
        })
    }
}

/// Runs a handler in the open transaction, with what it records, for so long.
fn in_time<A: AsyncOutboxConnection>(
    connection: &mut Awaited<A>,
    limit: Duration,
    handle: impl AsyncFnOnce(&mut AsyncOutboxTx<'_, A>) -> Result<()>,
) -> Result<()> {
    let connection: &mut A = &mut *connection;
    let handling = async {
        let mut tx = AsyncOutboxTx::new(connection);
        handle(&mut tx).await?;
        tx.flush().await
    };
    match wait_for(tokio::time::timeout(limit, handling))? {
        Ok(handled) => handled,
        Err(_) => {
            // Where it was cut off nobody knows: no statement follows, and the pool throws it away.
            A::TransactionManager::transaction_manager_status_mut(connection).set_in_error();
            Err(Error::new(ErrorKind::Application, format!("the handler was cancelled after {limit:?}")))
        }
    }
}

impl<E> Resync<E> {
    /// As [`new`](Self::new), on connections of diesel-async's; see [`Subscriber::new_async`].
    #[cfg_attr(
        all(feature = "async-sqlite", feature = "testing"),
        doc = async_example!(r##"
# use diesel::prelude::*;
# use outbox_core::Outbox;
# diesel::table! { product (id) { id -> BigInt, name -> Text, } }
# #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
# #[diesel(table_name = product)]
# #[outbox(aggregate = "product")]
# struct Product { id: i64, name: String }
# let shutdown = tokio_util::sync::CancellationToken::new();
# let at_once = shutdown.clone();
use outbox_core::Resync;

let resync = Resync::<Product>::new_async(async move || {
#   at_once.cancel();
    pool.get().await
});
resync.rows_per_second(2000).run(shutdown).await?;
// It has said that it is there, for whoever asks for a resync.
let served = diesel::dsl::sql::<diesel::sql_types::Text>("select aggregate_type from outbox_resync_service");
# let served: Vec<String> = diesel_async::RunQueryDsl::load(served, &mut connection).await?;
assert_eq!(served, ["product"]);
"##)
    )]
    pub fn new_async<A, P, X>(
        connect: impl AsyncFn() -> std::result::Result<P, X> + Send + Sync + 'static,
    ) -> Self
    where
        A: AsyncOutboxConnection,
        P: DerefMut<Target = A> + Send + 'static,
        X: Into<Box<dyn std::error::Error + Send + Sync>>,
        Awaited<A>: OutboxConnection,
        E: ResyncOn<Awaited<A>>,
    {
        Self::over(connections(connect))
    }
}

impl<A: AsyncOutboxConnection> Freshness<Awaited<A>>
where
    Awaited<A>: OutboxConnection,
{
    /// As [`new`](Self::new), on connections of diesel-async's; see [`Subscriber::new_async`]. What is blocking is
    /// called in [`tokio::task::spawn_blocking`].
    #[cfg_attr(
        all(feature = "async-sqlite", feature = "testing"),
        doc = async_example!(r##"
# use std::time::Duration;
# use outbox_core::{Message, Subscriber};
# let other = pool.clone();
# let orders = Subscriber::new_async("order", broker.clone(), async move || other.get().await)
#     .on_raw_async("product.*", async |_, _| Ok(()));
use outbox_core::{Freshness, Seen};

let freshness = Freshness::new_async("order", async move || pool.get().await);
# let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
# let id = message.id();
# connection.outbox_transaction(async |tx| { tx.record_message(message); Ok(()) }).await?;
// `id` came with the answer of the service that wrote.
assert_eq!(freshness.wait_for(id, Duration::ZERO).await?, Seen::NotYet);
# testing::run_until_idle_async(&mut connection, &broker, &[&orders]).await?;
// Later:
assert_eq!(freshness.wait_for(id, Duration::from_secs(2)).await?, Seen::Applied);
let seen = tokio::task::spawn_blocking(move || freshness.seen(id)).await??;
assert_eq!(seen, Seen::Applied);
"##)
    )]
    pub fn new_async<P, E>(
        consumer: impl Into<String>,
        connect: impl AsyncFn() -> std::result::Result<P, E> + Send + Sync + 'static,
    ) -> Self
    where
        P: DerefMut<Target = A> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::over(consumer.into(), connections(connect))
    }
}
