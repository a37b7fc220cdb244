//! The test kit on connections of diesel-async's.

use std::panic::AssertUnwindSafe;

use diesel_async::AsyncConnection as _;
use diesel_async::SimpleAsyncConnection as _;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, deadpool};
use futures::FutureExt as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::testing::{publish_async, recorded_async, run_until_idle_async};
use outbox_core::{
    AsyncOutboxConnection as _, Error, ErrorKind, Subscriber, assert_not_recorded, assert_nothing_recorded,
    assert_recorded,
};

use super::AsyncConnection;
use super::database::{connect, copies, fresh, settings};
use crate::harness::TestDatabase;
use crate::items::{Item, ItemCopy, NewItem, Stepped};

fn pool(database: &TestDatabase) -> deadpool::Pool<AsyncConnection> {
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(|url| {
        let url = url.to_owned();
        async move {
            let mut connection = AsyncConnection::establish(&url).await?;
            let set = connection.batch_execute(settings()).await;
            set.map(|()| connection).map_err(diesel::ConnectionError::CouldntSetupConfiguration)
        }
        .boxed()
    });
    deadpool::Pool::builder(AsyncDieselConnectionManager::new_with_config(&database.url, config))
        .build()
        .unwrap()
}

async fn insert(connection: &mut AsyncConnection, name: &str) -> Item {
    connection.outbox_transaction(async |tx| tx.insert(&NewItem { name, amount: 5 }).await).await.unwrap()
}

#[tokio::test]
async fn assertions_take_what_an_async_connection_sees() {
    let database = fresh();
    let pool = pool(&database);
    let mut lent = pool.get().await.unwrap();
    let connection: &mut AsyncConnection = &mut lent;
    let seen = connection
        .transaction(async |connection| {
            let lamp = insert(connection, "lamp").await;
            assert_recorded!(recorded_async(connection).await, Item, created, key = lamp.id, after = {"amount": 5});
            assert_not_recorded!(recorded_async(connection).await, Item, deleted);
            Err::<(), _>(Error::application(recorded_async(connection).await.len().to_string()))
        })
        .await
        .unwrap_err();
    assert!(seen.to_string().contains('1'), "{seen}");
    assert_nothing_recorded!(recorded_async(connection).await);
    let missing = AssertUnwindSafe(async {
        assert_recorded!(recorded_async(connection).await, Item, created);
    });
    assert!(missing.catch_unwind().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_run_through_async_subscribers_until_none_is_left() {
    let database = fresh();
    let pool = pool(&database);
    let broker = MemoryBroker::new();
    let (for_copies, for_steps) = (pool.clone(), pool.clone());
    let copying = Subscriber::new_async("copying", broker.clone(), async move || for_copies.get().await)
        .copy::<ItemCopy>();
    let steps = Subscriber::new_async("steps", broker.clone(), async move || for_steps.get().await)
        .on_async("item.created", async |tx, change: outbox_core::EntityChange| {
            let name = change.image().and_then(|image| image["name"].as_str()).unwrap_or_default();
            tx.record(&Stepped { account: name.into(), sequence: 1 })
        })
        .on_event_async(async |tx, step: Stepped| {
            if step.sequence < 3 {
                tx.record(&Stepped { sequence: step.sequence + 1, ..step })
            } else {
                Ok(())
            }
        });
    let mut lent = pool.get().await.unwrap();
    let connection: &mut AsyncConnection = &mut lent;
    let lamp = insert(connection, "lamp").await;
    assert_eq!(run_until_idle_async(connection, &broker, &[&copying, &steps]).await.unwrap(), 4);
    assert_eq!(copies(&mut connect(&database)), [ItemCopy::from(&lamp)]);
    assert_nothing_recorded!(recorded_async(connection).await);
    assert_eq!((copying.stats().applied(), steps.stats().applied()), (1, 4));
    assert_eq!(run_until_idle_async(connection, &broker, &[&copying, &steps]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_the_broker_refuses_stays_in_the_outbox() {
    let database = fresh();
    let pool = pool(&database);
    let mut lent = pool.get().await.unwrap();
    let connection: &mut AsyncConnection = &mut lent;
    insert(connection, "lamp").await;
    let error = publish_async(connection, &MemoryBroker::refusing_unrouted()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
    assert_recorded!(recorded_async(connection).await, Item, created);
}
