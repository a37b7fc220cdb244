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
