//! The relay on an SQLite file with a broker in the process.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Message, bucket_of};
use outbox_relay::outbox::store::{Database, Store};
use outbox_relay::{CancellationToken, OutboxConfig, Relay, Unrouted, config::Secret};

struct File {
    _folder: tempfile::TempDir,
    url: String,
}

impl File {
    async fn migrated() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("product.db").display());
        let mut store = Store::new(Database::parse(&Secret::new(&url)).unwrap(), "test");
        assert!(store.meta().await.unwrap_err().to_string().contains("unable to open"));
        let versions = store.migrate(&outbox_core::migrate::OUTBOX).await.unwrap();
        assert_eq!(versions, outbox_core::migrate::OUTBOX.versions());
        Self { _folder: folder, url }
    }

    fn connect(&self) -> SqliteConnection {
        let mut connection = SqliteConnection::establish(&self.url).unwrap();
        diesel::sql_query("pragma busy_timeout = 5000").execute(&mut connection).unwrap();
        connection
    }

    fn record(&self, keys: u32, rows: u32, payload: &str) {
        self.connect()
            .immediate_transaction(|connection| {
                for row in 0..rows {
                    let key = (row % keys).to_string();
                    let message = Message::new("product", &key, "updated", payload.as_bytes().to_vec()).unwrap();
                    diesel::sql_query(
                        "insert into outbox (message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload)
                         values (?, ?, 'product', ?, 'updated', cast('{}' as blob), ?)",
                    )
                    .bind::<diesel::sql_types::Binary, _>(message.id().as_bytes().to_vec())
                    .bind::<diesel::sql_types::Integer, _>(i32::from(bucket_of("product", &key)))
                    .bind::<diesel::sql_types::Text, _>(key)
                    .bind::<diesel::sql_types::Binary, _>(payload.as_bytes().to_vec())
                    .execute(connection)?;
                }
                QueryResult::Ok(())
            })
            .unwrap();
    }

    fn config(&self) -> OutboxConfig {
        OutboxConfig::new("product", &self.url)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_rows_are_published_in_order_and_deleted() {
    let file = File::migrated().await;
    file.record(10, 5000, "{}");
    let broker = MemoryBroker::new();
    let relay = Relay::new([file.config()], broker.clone(), Unrouted::Queue).unwrap();
    let status = relay.statuses().remove(0);
    assert!(relay.run_until_idle(CancellationToken::new()).await.unwrap().is_empty());
    let snapshot = status.snapshot();
    assert_eq!((snapshot.published, snapshot.settled), (5000, 5000));
    let ids: Vec<i64> = broker
        .unrouted()
        .iter()
        .map(|frame| frame.headers.get("outbox-id").unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids.len(), 5000);
    for key in 0..10 {
        let of_key: Vec<_> = ids.iter().filter(|id| (*id - 1) % 10 == key).collect();
        assert!(of_key.is_sorted(), "key {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_cloud_events_where_asked() {
    let file = File::migrated().await;
    file.record(1, 1, "{}");
    let broker = MemoryBroker::new();
    let outbox = OutboxConfig { cloudevents: true, ..file.config() };
    let relay = Relay::new([outbox], broker.clone(), Unrouted::Queue).unwrap();
    assert!(relay.run_until_idle(CancellationToken::new()).await.unwrap().is_empty());
    let frame = broker.unrouted().remove(0);
    assert_eq!(frame.headers.get("cloudEvents_source"), Some("/outbox/product"));
    assert_eq!(frame.headers.get("cloudEvents_type"), Some("product.updated"));
    assert_eq!(frame.headers.get("outbox-id"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_payloads_keep_to_the_bytes_of_a_batch() {
    let file = File::migrated().await;
    file.record(40, 40, &format!("\"{}\"", "x".repeat(50_000)));
    let broker = MemoryBroker::new();
    let config = OutboxConfig { batch_bytes: (200 * 1024).into(), ..file.config() };
    let relay = Relay::new([config], broker.clone(), Unrouted::Queue).unwrap();
    let status = relay.statuses().remove(0);
    assert!(relay.run_until_idle(CancellationToken::new()).await.unwrap().is_empty());
    assert_eq!(broker.unrouted().len(), 40);
    assert!(broker.unrouted().iter().all(|frame| frame.body.len() == 50_002));
    assert_eq!(status.snapshot().batches, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_wants_parks_its_key_and_nothing_else() {
    let file = File::migrated().await;
    file.record(2, 6, "{}");
    let config =
        OutboxConfig { attempts: 2, retry_initial: Duration::from_millis(20).into(), ..file.config() };
    let relay = Relay::new([config], MemoryBroker::refusing_unrouted(), Unrouted::Refuse).unwrap();
    let status = relay.statuses().remove(0);
    let left = relay.run_until_idle(CancellationToken::new()).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].keys.len(), 2);
    assert!(left[0].keys.iter().all(|key| key.attempts == 2 && key.last_error.contains("no queue is bound")));
    assert_eq!(status.snapshot().refused, 4, "two keys, two attempts; their later messages are not tried");
    assert_eq!(status.snapshot().settled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_share_the_buckets() {
    let file = File::migrated().await;
    let broker = MemoryBroker::new();
    let config = OutboxConfig { lease: Duration::from_secs(1).into(), ..file.config() };
    let shutdown = CancellationToken::new();
    let (mut statuses, mut running) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let relay = Relay::new([config.clone()], broker.clone(), Unrouted::Queue).unwrap();
        statuses.push(relay.statuses().remove(0));
        running.push(tokio::spawn(relay.run(shutdown.clone())));
    }
    let is_shared = || statuses.iter().all(|status| status.snapshot().held.len() == 32);
    for _ in 0..100 {
        if is_shared() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_shared());
    file.record(500, 500, "{}");
    while statuses.iter().map(|status| status.snapshot().settled).sum::<u64>() < 500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(statuses.iter().all(|status| status.snapshot().published > 100));
    assert_eq!(broker.unrouted().len(), 500, "nothing twice");
    shutdown.cancel();
    for relay in running {
        relay.await.unwrap().unwrap();
    }
    let mut store = Store::new(Database::parse(&Secret::new(&file.url)).unwrap(), "test");
    let owners = store.owners().await.unwrap();
    assert_eq!((owners.len(), owners[0].owner.clone()), (1, None), "all leases were given back");
}
