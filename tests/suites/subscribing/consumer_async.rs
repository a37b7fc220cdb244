//! Subscribers on diesel-async, whose handlers are async.

use diesel::ExpressionMethods as _;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures::FutureExt as _;
use outbox_core::broker::Broker;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{AsyncOutboxTx, Awaited, Event, Incoming, Result};
use serde::de::DeserializeOwned;

use super::AsyncConnection;
use super::database::settings;
use super::stage::{Entries, FAILS, Handles};
use crate::harness::TestDatabase;
use crate::items::{Stepped, ledger};

pub(crate) type Subscriber<B = MemoryBroker> = outbox_core::Subscriber<B, Awaited<AsyncConnection>>;

pub(crate) fn on<B: Broker>(name: &str, broker: B, database: &TestDatabase) -> Subscriber<B> {
    at(name, broker, &database.url)
}

pub(crate) fn at<B: Broker>(name: &str, broker: B, url: &str) -> Subscriber<B> {
    let pool = pool_at(url);
    Subscriber::new_async(name, broker, async move || pool.get().await)
}

pub(crate) fn pool_at(url: &str) -> Pool<AsyncConnection> {
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(|url| {
        async move {
            let mut connection = AsyncConnection::establish(url).await?;
            let set = connection.batch_execute(settings()).await;
            set.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
            Ok(connection)
        }
        .boxed()
    });
    Pool::builder(AsyncDieselConnectionManager::new_with_config(url, config)).max_size(4).build().unwrap()
}

impl<B: Broker> Handles for Subscriber<B> {
    fn steps(
        self,
        handle: impl Fn(&mut Entries, &Stepped, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_with_async("account.stepped", async move |tx, step: Stepped, incoming| {
            let mut entries = Entries::default();
            let handled = handle(&mut entries, &step, incoming);
            write(tx, entries).await?;
            handled
        })
    }

    fn steps_in_savepoint(self, handle: impl Fn(&Stepped) + Send + Sync + 'static) -> Self {
        self.on_async("account.stepped", async move |tx, step: Stepped| {
            let mut entries = Entries::default();
            entries.enter(&step);
            write(tx, entries).await?;
            tx.savepoint(async |_| {
                handle(&step);
                Ok(())
            })
            .await
        })
    }

    fn steps_with_an_error(self, has_error: impl Fn(&Stepped) -> bool + Send + Sync + 'static) -> Self {
        self.on_async("account.stepped", async move |tx, step: Stepped| {
            let mut entries = Entries::default();
            entries.enter(&step);
            write(tx, entries).await?;
            if has_error(&step) {
                let _ = diesel_async::RunQueryDsl::execute(diesel::sql_query(FAILS), tx.conn()).await;
            }
            Ok(())
        })
    }

    fn raw(self, kind: &str, handle: impl Fn(&Incoming<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_raw_async(kind, async move |_, incoming| {
            tokio::task::yield_now().await;
            handle(incoming)
        })
    }

    fn events<E: Event + DeserializeOwned>(
        self,
        handle: impl Fn(&mut Entries, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_event_async::<E>(async move |tx, event| {
            let mut entries = Entries::default();
            let handled = handle(&mut entries, event);
            write(tx, entries).await?;
            handled
        })
    }
}

pub(crate) async fn write(tx: &mut AsyncOutboxTx<'_, AsyncConnection>, entries: Entries) -> Result<()> {
    for (account, sequence) in entries.0 {
        diesel::insert_into(ledger::table)
            .values((ledger::account.eq(account), ledger::sequence.eq(sequence)))
            .execute(tx.conn())
            .await?;
    }
    Ok(())
}
