//! A product service that serves resyncs, a relay, and two subscribers with copies, each a task.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::broker::Broker;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{OutboxConnection as _, Resync, RetryPolicy, Subscriber, bucket_of};
use outbox_relay::resync::{self, ResyncReport};
use outbox_relay::{OutboxConfig, Relay, Unrouted};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::{connect, copies, fresh, items, pool};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase, until};
use crate::items::{Item, ItemCopy, NewItem, TimedCopy, item, timed_copy};

/// A task that ends in order when it is told to.
pub(super) struct Task {
    pub(super) shutdown: CancellationToken,
    pub(super) handle: JoinHandle<outbox_core::Result<()>>,
}

impl Task {
    pub(super) fn spawn<F: Future<Output = outbox_core::Result<()>> + Send + 'static>(
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Self {
        let shutdown = CancellationToken::new();
        Self { shutdown: shutdown.clone(), handle: tokio::spawn(run(shutdown)) }
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.handle.await.unwrap().unwrap();
    }
}

/// The database of the product service and that of its copies.
pub(super) struct Stage {
    pub(super) source: TestDatabase,
    pub(super) target: TestDatabase,
    pub(super) broker: MemoryBroker,
    tasks: Vec<Task>,
}

pub(super) fn outbox_config(database: &TestDatabase) -> OutboxConfig {
    let mut config = OutboxConfig::new("items", &database.url);
    config.lease = Duration::from_secs(2).into();
    config
}

/// As the service runs it, impatient.
pub(super) fn resync_of(database: &TestDatabase) -> Resync<Item> {
    Resync::<Item>::new(pool(database)).page(20).poll(Duration::from_millis(50)).lease(Duration::from_secs(2))
}

pub(super) fn copier<B: Broker>(broker: B, target: &TestDatabase) -> Subscriber<B, Connection> {
    Subscriber::new("copies", broker, pool(target)).copy::<ItemCopy>().retry(once())
}

/// What fails is set aside at once.
fn once() -> RetryPolicy {
    RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }
}

impl Stage {
    /// Without a relay and without anybody who serves resyncs.
    pub(super) async fn new() -> Self {
        let (source, target, broker) = (fresh(), fresh(), MemoryBroker::new());
        let copier = copier(broker.clone(), &target).queues(3);
        let timed = Subscriber::<_, Connection>::new("timed", broker.clone(), pool(&target))
            .copy::<TimedCopy>()
            .retry(once());
        copier.declare().await.unwrap();
        timed.declare().await.unwrap();
        let tasks = vec![Task::spawn(|end| copier.run(end)), Task::spawn(|end| timed.run(end))];
        Self { source, target, broker, tasks }
    }

    pub(super) fn relay(&self) -> Task {
        let relay = Relay::new([outbox_config(&self.source)], self.broker.clone(), Unrouted::Queue).unwrap();
        Task::spawn(|end| relay.run(end))
    }

    pub(super) fn serve<E: 'static>(&self, resync: Resync<E>) -> Task {
        Task::spawn(|end| resync.run(end))
    }

    /// Starts a relay and the service's task, which end with the stage.
    pub(super) async fn all(mut self) -> Self {
        let (relay, serving) = (self.relay(), self.serve(resync_of(&self.source)));
        self.tasks.extend([relay, serving]);
        self.offered().await;
        self
    }

    /// Waits until the service has said that it is there.
    pub(super) async fn offered(&self) {
        let outbox = outbox_config(&self.source);
        until("the service offers to send items again", || async {
            resync::ask(&outbox, Some("item"), &[], 0).await.is_ok()
        })
        .await;
    }

    /// Asks for items; for all without keys.
    pub(super) async fn ask(&self, keys: &[&str], rows_per_second: u32) -> i64 {
        let outbox = outbox_config(&self.source);
        let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
        let ask = resync::ask(&outbox, Some("item"), &keys, rows_per_second).await.unwrap();
        resync::request(&outbox, &ask, "a test").await.unwrap()[0]
    }

    pub(super) async fn report(&self, id: i64) -> ResyncReport {
        resync::reports(&outbox_config(&self.source), &[id]).await.unwrap().remove(0)
    }

    pub(super) async fn is_over(&self, id: i64) -> ResyncReport {
        until("the resync is over", || async { self.report(id).await.is_over() }).await;
        self.report(id).await
    }

    /// Waits until both copies show the source's items, and no resync is under way in them.
    pub(super) async fn is_equal(&self) {
        until("the copies are equal", || async {
            let mut target = connect(&self.target);
            let is_over = number(&mut target, "select count(*) from copy_begun") == 0;
            let expected: Vec<ItemCopy> =
                items(&mut connect(&self.source)).iter().map(ItemCopy::from).collect();
            let names: Vec<_> = expected.iter().map(|copy| (copy.id, copy.name.clone())).collect();
            let timed: Vec<(i64, String)> = timed_copy::table
                .filter(timed_copy::deleted_at.is_null())
                .order(timed_copy::id)
                .select((timed_copy::id, timed_copy::name))
                .load(&mut target)
                .unwrap();
            is_over && copies(&mut target) == expected && timed == names
        })
        .await;
    }

    pub(super) async fn stop(self) {
        for task in self.tasks {
            task.stop().await;
        }
    }
}

/// Inserts items that no message tells of.
pub(super) fn insert_silently(connection: &mut Connection, count: i64) {
    let names: Vec<_> = (0..count).map(|number| format!("item {number}")).collect();
    for name in &names {
        diesel::insert_into(item::table)
            .values((item::name.eq(name), item::amount.eq(1)))
            .execute(connection)
            .unwrap();
    }
}

pub(super) fn insert(connection: &mut Connection, name: &str) -> Item {
    connection.outbox_transaction(|tx| tx.insert(&NewItem { name, amount: 1 })).unwrap()
}

pub(super) fn rename(connection: &mut Connection, id: i64, name: &str) {
    let renamed = connection.outbox_transaction(|tx| {
        let before: Item = tx.lock(&id)?;
        tx.update(&Item { name: name.into(), ..before })
    });
    renamed.unwrap();
}

/// Puts a row into both copies as if it had come with this version.
pub(super) fn put_copy(connection: &mut Connection, id: i64, version: i64) {
    let bucket = bucket_of("item", &id.to_string());
    let version = format!("1, {version}, {bucket}");
    for insert in [
        format!(
            "insert into item_copy (id, name, total, outbox_generation, outbox_id, outbox_bucket) \
             values ({id}, 'stale', 0, {version})"
        ),
        format!(
            "insert into timed_copy (id, name, outbox_generation, outbox_id, outbox_bucket) \
             values ({id}, 'stale', {version})"
        ),
    ] {
        connection.batch_execute(&insert).unwrap();
    }
}

pub(super) fn number(connection: &mut Connection, query: &str) -> i64 {
    diesel::dsl::sql::<diesel::sql_types::BigInt>(query).get_result(connection).unwrap()
}

/// What a restore of the database from a backup brings back: the items and the ids of the outbox.
pub(super) fn restore(connection: &mut Connection, items: &[Item], next_id: i64) {
    diesel::delete(item::table).execute(connection).unwrap();
    diesel::insert_into(item::table).values(items).execute(connection).unwrap();
    let ids = match SERVER {
        Server::Sqlite => format!("update sqlite_sequence set seq = {} where name = 'outbox'", next_id - 1),
        Server::Postgres => format!("alter table outbox alter column id restart with {next_id}"),
        Server::Mariadb | Server::Mysql => format!("alter table outbox auto_increment = {next_id}"),
    };
    connection.batch_execute(&ids).unwrap();
}
