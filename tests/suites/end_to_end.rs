//! Entity → outbox → relay → broker → inbox → copy, on this database and on both brokers.

use std::time::Duration;

use diesel::prelude::*;
use outbox_core::broker::Broker;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::broker::rabbitmq::{RabbitMq, Unrouted};
use outbox_core::{Message, OutboxConnection as _, Subscriber};
use outbox_relay::{OutboxConfig, Relay, Snapshot, Status};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::database::{connect, copies, enter, fresh, items, ledger_entries, outbox, outbox_is_empty, pool};
use crate::harness::{TestDatabase, server_url, unique, until};
use crate::items::{Item, ItemCopy, NewItem, Stepped, item};

/// A relay as a task, on one outbox.
pub(super) struct RelayTask {
    status: Status,
    shutdown: CancellationToken,
    task: JoinHandle<outbox_core::Result<()>>,
}

pub(super) fn config(database: &TestDatabase) -> OutboxConfig {
    let mut config = OutboxConfig::new("items", &database.url);
    config.lease = Duration::from_secs(2).into();
    config.attempts = 3;
    config.retry_initial = Duration::from_millis(20).into();
    config.retry_max = Duration::from_millis(50).into();
    config
}

impl RelayTask {
    pub(super) fn start<B: Broker>(config: OutboxConfig, broker: B) -> Self {
        Self::start_with(config, broker, outbox_relay::Unrouted::Queue)
    }

    fn start_with<B: Broker>(config: OutboxConfig, broker: B, unrouted: outbox_relay::Unrouted) -> Self {
        let relay = Relay::new([config], broker, unrouted).unwrap();
        let (status, shutdown) = (relay.statuses()[0].clone(), CancellationToken::new());
        Self { status, shutdown: shutdown.clone(), task: tokio::spawn(relay.run(shutdown)) }
    }

    pub(super) fn now(&self) -> Snapshot {
        self.status.snapshot()
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it at whatever await point it is, leases and all left behind.
    pub(super) async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A broker of this test's own on the shared RabbitMQ: its exchange and queues have names of their own.
pub(super) struct OwnRabbit {
    pub(super) broker: RabbitMq,
    pub(super) subscriber: String,
}

pub(super) fn rabbit(unrouted: Unrouted) -> OwnRabbit {
    let name = unique("ex");
    let url = server_url(outbox_tests::lab_client::AMQP_URL);
    let broker = RabbitMq::new(&url).unwrap().exchange(&name).unrouted(unrouted);
    OwnRabbit { broker, subscriber: format!("sub-{name}") }
}

/// A subscriber that keeps the copy and the ledger.
pub(super) async fn subscribe<B: Broker>(
    name: &str,
    broker: B,
    database: &TestDatabase,
) -> (CancellationToken, JoinHandle<outbox_core::Result<()>>, outbox_core::SubscriberStats) {
    let subscriber = Subscriber::<_, Connection>::new(name, broker, pool(database))
        .copy::<ItemCopy>()
        .on("account.stepped", |tx, step: Stepped| Ok(enter(tx.conn(), &step.account, step.sequence)?));
    subscriber.declare().await.unwrap();
    let (shutdown, stats) = (CancellationToken::new(), subscriber.stats());
    (shutdown.clone(), tokio::spawn(subscriber.run(shutdown)), stats)
}

/// Random writes by one writer, some of them rolled back.
fn write_randomly(connection: &mut Connection, seed: u64, transactions: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut known: Vec<Item> = Vec::new();
    for number in 0..transactions {
        let before = known.clone();
        let committed = connection.outbox_transaction(|tx| {
            for _ in 0..random.random_range(1..4) {
                let index = (!known.is_empty()).then(|| random.random_range(0..known.len()));
                match (random.random_range(0..10), index) {
                    (0..3, _) | (_, None) => {
                        let name = format!("item ö {number}");
                        known.push(tx.insert(&NewItem { name: &name, amount: 1 })?);
                    }
                    (3..5, Some(index)) => {
                        tx.delete(&known.swap_remove(index))?;
                    }
                    (_, Some(index)) => {
                        let note = random.random_bool(0.5).then(|| format!("note {number}"));
                        let next = Item { amount: number as i64, note, ..known[index].clone() };
                        known[index] = tx.update_from(&known[index], &next)?;
                    }
                }
            }
            if random.random_bool(0.1) {
                return Err(outbox_core::Error::application("rolled back on purpose"));
            }
            Ok(())
        });
        if committed.is_err() {
            known = before;
        }
    }
}

async fn copies_become_equal<B: Broker>(broker: B, subscriber: &str) {
    let (source, target) = (fresh(), fresh());
    let (shutdown, subscription, stats) = subscribe(subscriber, broker.clone(), &target).await;
    let relay = RelayTask::start(config(&source), broker);
    let mut writer = connect(&source);
    let (mut writer, written) = tokio::task::spawn_blocking(move || {
        write_randomly(&mut writer, 7, 60);
        let written = items(&mut writer);
        (writer, written)
    })
    .await
    .unwrap();

    let expected: Vec<_> = written.iter().map(ItemCopy::from).collect();
    let mut reader = connect(&target);
    until("the outbox is empty", || {
        let empty = outbox_is_empty(&mut writer);
        async move { empty }
    })
    .await;
    until("the copy is equal", || {
        let equal = copies(&mut reader) == expected;
        async move { equal }
    })
    .await;
    assert_eq!(stats.set_aside(), 0);
    relay.stop().await;
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_becomes_equal_through_the_memory_broker() {
    copies_become_equal(MemoryBroker::new(), "sub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_becomes_equal_through_rabbitmq() {
    let own = rabbit(Unrouted::Queue);
    copies_become_equal(own.broker, &own.subscriber).await;
}

/// Writes steps of accounts from several threads as long as `goes_on` says so of a writer's count, with a
/// pause between; each account's sequence is counted under its row lock. Returns how many steps there are.
pub(super) fn step_accounts(
    url: &str,
    accounts: &[i64],
    writers: u64,
    pause: Duration,
    goes_on: impl Fn(usize) -> bool + Sync,
) -> usize {
    let write = |writer| {
        let mut connection = super::database::connect_url(url);
        let mut random = StdRng::seed_from_u64(writer);
        let mut done = 0;
        while goes_on(done) {
            let account = accounts[random.random_range(0..accounts.len())];
            match step_account(&mut connection, account) {
                Ok(()) => done += 1,
                Err(error) => assert!(error.is_outage(), "{error}"),
            }
            std::thread::sleep(pause);
        }
        done
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                let write = &write;
                scope.spawn(move || write(writer))
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    })
}

fn step_account(connection: &mut Connection, account: i64) -> outbox_core::Result<()> {
    connection.outbox_transaction(|tx| {
        diesel::update(item::table.find(account))
            .set(item::amount.eq(item::amount + 1))
            .execute(tx.conn())?;
        let sequence = item::table.find(account).select(item::amount).first(tx.conn())?;
        tx.record(&Stepped { account: account.to_string(), sequence })
    })
}

/// Makes accounts that start at zero.
pub(super) fn make_accounts(connection: &mut Connection, count: i64) -> Vec<i64> {
    let rows: Vec<_> = (1..=count)
        .map(|id| (item::id.eq(id), item::name.eq("account"), item::amount.eq(0), item::secret.eq("")))
        .collect();
    diesel::insert_into(item::table).values(rows).execute(connection).unwrap();
    (1..=count).collect()
}

/// Every committed step is in the ledger exactly once, and those of an account are in order.
pub(super) fn assert_ledger_is_whole(source: &mut Connection, target: &mut Connection) {
    let entries = ledger_entries(target);
    for account in items(source) {
        let name = account.id.to_string();
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=account.amount).collect::<Vec<_>>(), "account {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_per_key_holds_with_concurrent_writers_and_two_relays() {
    let (source, target) = (fresh(), fresh());
    let own = rabbit(Unrouted::Queue);
    let (shutdown, subscription, _) = subscribe(&own.subscriber, own.broker.clone(), &target).await;
    let mut first = RelayTask::start(config(&source), own.broker.clone());
    let second = RelayTask::start(config(&source), own.broker.clone());
    let mut connection = connect(&source);
    let accounts = make_accounts(&mut connection, 6);
    let url = source.url.clone();
    let writing = tokio::task::spawn_blocking(move || {
        step_accounts(&url, &accounts, 3, Duration::ZERO, |done| done < 60)
    });
    // One relay dies with its leases and comes back, in the middle of it.
    tokio::time::sleep(Duration::from_millis(400)).await;
    first.abort().await;
    first = RelayTask::start(config(&source), own.broker.clone());
    writing.await.unwrap();

    let mut reader = connect(&target);
    until("all 180 steps are in the ledger", || {
        let whole = ledger_entries(&mut reader).len() >= 180;
        async move { whole }
    })
    .await;
    until("both relays hold a share", || {
        let shared = !first.now().held.is_empty() && !second.now().held.is_empty();
        async move { shared }
    })
    .await;
    assert_ledger_is_whole(&mut connection, &mut reader);
    until("the outbox is empty", || {
        let empty = outbox_is_empty(&mut connection);
        async move { empty }
    })
    .await;
    first.stop().await;
    second.stop().await;
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

async fn an_unroutable_message_stays<B: Broker>(broker: B) {
    let source = fresh();
    let mut connection = connect(&source);
    connection
        .outbox_transaction(|tx| {
            for key in ["a", "b"] {
                tx.record_message(Message::new("nobody", key, "wants", b"1".to_vec())?);
                tx.record_message(Message::new("nobody", key, "this", b"2".to_vec())?);
            }
            Ok(())
        })
        .unwrap();
    let relay = RelayTask::start_with(config(&source), broker, outbox_relay::Unrouted::Refuse);
    until("both keys are parked", || {
        let parked = relay.now().parked_keys == 2;
        async move { parked }
    })
    .await;
    assert_eq!(outbox(&mut connection).len(), 4, "nothing is settled");
    assert_eq!(relay.now().published, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unroutable_message_is_not_settled_with_the_memory_broker() {
    an_unroutable_message_stays(MemoryBroker::refusing_unrouted()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unroutable_message_is_not_settled_with_rabbitmq() {
    an_unroutable_message_stays(rabbit(Unrouted::Refuse).broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_parks_its_key_and_the_others_flow() {
    let source = fresh();
    let mut connection = connect(&source);
    let record = |connection: &mut Connection, key: &str| {
        connection
            .outbox_transaction(|tx| {
                tx.record_message(Message::new("thing", key, "made", b"1".to_vec())?);
                Ok(())
            })
            .unwrap();
    };
    record(&mut connection, "bad");
    diesel::sql_query("update outbox set headers = payload").execute(&mut connection).unwrap();
    record(&mut connection, "bad");
    record(&mut connection, "good");
    let relay = RelayTask::start(config(&source), MemoryBroker::new());
    until("the good key is through and the bad one parked", || {
        let done = relay.now().published == 1 && relay.now().parked_keys == 1;
        async move { done }
    })
    .await;
    let left: Vec<_> = outbox_keys(&mut connection);
    assert_eq!(left, ["bad", "bad"], "the later row of the parked key waits behind it");
    relay.stop().await;
}

fn outbox_keys(connection: &mut Connection) -> Vec<String> {
    #[derive(diesel::QueryableByName)]
    struct Key {
        #[diesel(sql_type = diesel::sql_types::Text)]
        aggregate_id: String,
    }
    let keys: Vec<Key> =
        diesel::sql_query("select aggregate_id from outbox order by id").load(connection).unwrap();
    keys.into_iter().map(|key| key.aggregate_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_outbox_is_named_with_the_remedy() {
    let database = super::SERVER.empty();
    drop(connect(&database));
    let relay = Relay::new([config(&database)], MemoryBroker::new(), outbox_relay::Unrouted::Queue).unwrap();
    let error = relay.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("outbox-relay migrate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_payload_travels_whole() {
    let (source, target) = (fresh(), fresh());
    let broker = MemoryBroker::new();
    let subscriber = Subscriber::<_, Connection>::new("sub", broker.clone(), pool(&target))
        .on("thing.large", |tx, text: String| Ok(enter(tx.conn(), "large", text.len() as i64)?));
    subscriber.declare().await.unwrap();
    let shutdown = CancellationToken::new();
    let subscription = tokio::spawn(subscriber.run(shutdown.clone()));
    let mut config = config(&source);
    config.batch_bytes = (1024 * 1024).into();
    let relay = RelayTask::start(config, broker);
    let mut connection = connect(&source);
    for size in [10, 5000, 3_000_000, 100] {
        let payload = format!("\"{}\"", "x".repeat(size)).into_bytes();
        connection
            .outbox_transaction(|tx| {
                tx.record_message(Message::new("thing", "k", "large", payload)?);
                Ok(())
            })
            .unwrap();
    }
    let mut reader = connect(&target);
    until("all four arrived in order", || {
        let sizes: Vec<_> = ledger_entries(&mut reader).into_iter().map(|entry| entry.1).collect();
        async move { sizes == [10, 5000, 3_000_000, 100] }
    })
    .await;
    relay.stop().await;
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_of_different_names_do_not_share_an_outbox() {
    let source = fresh();
    let broker = MemoryBroker::new();
    // So long that it lives whatever the machine does.
    let config = OutboxConfig { lease: Duration::from_secs(120).into(), ..config(&source) };
    let first = RelayTask::start(config.clone(), broker.clone());
    until("it holds buckets", || {
        let held = first.now().held.len();
        async move { held > 0 }
    })
    .await;
    let misnamed = OutboxConfig { name: "things".into(), ..config.clone() };
    let relay = Relay::new([misnamed], broker.clone(), outbox_relay::Unrouted::Queue).unwrap();
    let error = relay.run(CancellationToken::new()).await.unwrap_err().to_string();
    for part in ["under the name \"items\"", "here it is \"things\"", "the same `name`"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
    let text = format!(
        "[broker]\nurl = \"amqp://127.0.0.1:1\"\n[[outbox]]\nname = \"things\"\ndatabase = {:?}\n",
        source.url
    );
    let wrong =
        outbox_relay::config::from_text(&text, &outbox_relay::config::Environment::default()).unwrap();
    let found = outbox_relay::check::all(&wrong).await;
    let told = |finding: &outbox_relay::check::Finding| finding.text.contains("under the name \"items\"");
    assert!(found.iter().any(told), "{found:?}");

    // Once nobody has another, any name is as good.
    first.stop().await;
    let renamed = RelayTask::start(OutboxConfig { name: "things".into(), ..config }, broker);
    until("it holds all buckets", || {
        let held = renamed.now().held.len();
        async move { held == 64 }
    })
    .await;
    renamed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_shown_by_bucket() {
    let source = fresh();
    let mut config = config(&source);
    (config.attempts, config.retry_max) = (1000, Duration::from_secs(3600).into());
    let relay =
        RelayTask::start_with(config, MemoryBroker::refusing_unrouted(), outbox_relay::Unrouted::Refuse);
    let recorded = connect(&source).outbox_transaction(|tx| {
        for payload in [b"1", b"2"] {
            tx.record_message(Message::new("thing", "k", "made", payload.to_vec())?);
        }
        Ok(())
    });
    recorded.unwrap();
    until("both rows of the key are seen", || {
        let now = relay.now();
        async move {
            now.held.len() == 64
                && now.buckets.len() == 64
                && now.buckets.iter().filter(|bucket| bucket.rows > 0).map(|bucket| bucket.rows).eq([2])
        }
    })
    .await;
    let now = relay.now();
    let filled = now.buckets.iter().find(|bucket| bucket.rows > 0).unwrap();
    assert_eq!(filled.bucket, outbox_core::bucket_of("thing", "k"));
    assert!(now.sent > 0 && now.published == 0, "{now:?}");
    relay.stop().await;
}
