//! P4 on the consumer's side: one effect per message, whatever comes twice, late, broken or out of turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::Utc;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::broker::{Broker as _, Publisher as _};
use outbox_core::{Error, ErrorKind, Frame, Message, Recorded, RetryPolicy, Subscriber, Version};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::database::{connect, copies, enter, fresh, ledger_entries, pool};
use crate::harness::{TestDatabase, until};
use crate::items::{ItemCopy, Stepped, inbox, inbox_held, item_copy};

fn quick() -> RetryPolicy {
    RetryPolicy { initial: Duration::from_millis(1), max: Duration::from_millis(5), ..Default::default() }
}

fn recorded(message: Message, id: i64) -> Frame {
    let version = Version { generation: 1, id };
    Recorded { message, source: "items".into(), version, recorded_at: Utc::now() }.to_frame()
}

fn change(id: i64, event: &str, name: &str, version: i64) -> Frame {
    let side = if event == "deleted" { "before" } else { "after" };
    let image = serde_json::json!({ side: {"id": id, "name": name, "amount": version, "note": null} });
    let payload = image.to_string().into_bytes();
    recorded(Message::new("item", id.to_string(), event, payload).unwrap(), version)
}

fn step(account: &str, sequence: i64) -> Frame {
    let payload = serde_json::to_vec(&Stepped { account: account.into(), sequence }).unwrap();
    recorded(Message::new("account", account, "stepped", payload).unwrap(), 1000 + sequence)
}

/// A subscriber on its own database, fed by hand.
struct Running {
    broker: MemoryBroker,
    database: TestDatabase,
    connection: Connection,
    shutdown: CancellationToken,
    task: JoinHandle<outbox_core::Result<()>>,
    stats: outbox_core::SubscriberStats,
}

impl Running {
    async fn start(
        build: impl FnOnce(Subscriber<MemoryBroker, Connection>) -> Subscriber<MemoryBroker, Connection>,
    ) -> Self {
        let (database, broker) = (fresh(), MemoryBroker::new());
        let subscriber = build(Subscriber::new("test", broker.clone(), pool(&database)).retry(quick()));
        subscriber.declare().await.unwrap();
        let (shutdown, stats) = (CancellationToken::new(), subscriber.stats());
        let task = tokio::spawn(subscriber.run(shutdown.clone()));
        let connection = connect(&database);
        Self { broker, database, connection, shutdown, task, stats }
    }

    async fn feed(&self, frames: &[Frame]) {
        self.broker.publisher().await.unwrap().publish(frames).await.unwrap();
        until("all is consumed", || async { self.broker.is_idle() }).await;
    }

    fn held(&mut self) -> Vec<(String, i32, String)> {
        inbox_held::table
            .order((inbox_held::attempts, inbox_held::message_id))
            .select((inbox_held::kind, inbox_held::attempts, inbox_held::error))
            .load(&mut self.connection)
            .unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn copy(id: i64, name: &str, version: i64) -> ItemCopy {
    ItemCopy { id, name: name.into(), total: version, note: None }
}

#[tokio::test]
async fn a_copy_follows_and_leaves_foreign_columns_alone() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "a", 1), change(2, "created", "b", 2)]).await;
    diesel::update(item_copy::table.find(1))
        .set(item_copy::own.eq("ours"))
        .execute(&mut running.connection)
        .unwrap();
    running.feed(&[change(1, "updated", "a2", 3), change(2, "deleted", "b", 4)]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "a2", 3)]);
    let own: String = item_copy::table.find(1).select(item_copy::own).first(&mut running.connection).unwrap();
    assert_eq!(own, "ours");
    assert_eq!((running.stats.applied(), running.stats.duplicates()), (4, 0));
    running.stop().await;
}

#[tokio::test]
async fn what_comes_again_has_no_second_effect() {
    let mut running = Running::start(|s| {
        s.copy::<ItemCopy>()
            .on("account.stepped", |tx, step: Stepped| Ok(enter(tx.conn(), &step.account, step.sequence)?))
    })
    .await;
    let frames = [change(1, "created", "a", 1), step("x", 1), change(1, "updated", "b", 2), step("x", 2)];
    for _ in 0..3 {
        running.feed(&frames).await;
    }
    running.feed(&[frames[2].clone(), frames[0].clone(), frames[1].clone()]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "b", 2)]);
    assert_eq!(ledger_entries(&mut running.connection), [("x".into(), 1), ("x".into(), 2)]);
    assert_eq!((running.stats.applied(), running.stats.duplicates()), (4, 11));
    running.stop().await;
}

#[tokio::test]
async fn an_older_unknown_change_is_set_aside_and_not_applied() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "new", 10), change(2, "created", "b", 11)]).await;
    running.feed(&[change(2, "deleted", "b", 12)]).await;
    // As after a restore of the outbox from a backup: ids start lower again.
    running.feed(&[change(1, "updated", "old", 5), change(2, "updated", "back", 6)]).await;
    running.feed(&[change(1, "deleted", "old", 7), change(2, "deleted", "b", 8)]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "new", 10)]);
    let held = running.held();
    assert_eq!(held.len(), 4);
    assert!(held.iter().all(|(_, _, error)| error.contains("stale-unknown")), "{held:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_row_may_be_created_again() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "a", 1), change(1, "deleted", "a", 2)]).await;
    running.feed(&[change(1, "created", "again", 3)]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "again", 3)]);
    assert!(running.held().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_failing_message_is_set_aside_and_the_others_flow() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let mut running = Running::start(move |s| {
        s.on("account.stepped", move |tx, step: Stepped| {
            enter(tx.conn(), &step.account, step.sequence)?;
            match step.sequence {
                2 => {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Err(Error::application("I do not like two"))
                }
                4 => panic!("four is my end"),
                _ => Ok(()),
            }
        })
    })
    .await;
    let frames: Vec<_> = (1..=5).map(|sequence| step("x", sequence)).collect();
    running.feed(&frames).await;
    let sequences: Vec<_> = ledger_entries(&mut running.connection).into_iter().map(|e| e.1).collect();
    assert_eq!(sequences, [1, 3, 5], "the failed ones left nothing behind");
    let held = running.held();
    assert_eq!(held.iter().map(|(_, attempts, _)| *attempts).collect::<Vec<_>>(), [5, 5]);
    assert!(held.iter().any(|(_, _, error)| error.contains("I do not like two")), "{held:?}");
    assert!(held.iter().any(|(_, _, error)| error.contains("panicked: four is my end")), "{held:?}");
    assert_eq!(running.stats.set_aside(), 2);
    // Alone in the batch or not: at least the five counted attempts, and the one with all others.
    assert!(attempts.load(Ordering::Relaxed) >= 5);
    running.stop().await;
}

#[tokio::test]
async fn an_outage_in_a_handler_is_waited_out_and_not_counted() {
    let outages = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&outages);
    let mut running = Running::start(move |s| {
        s.on("account.stepped", move |tx, step: Stepped| {
            enter(tx.conn(), &step.account, step.sequence)?;
            if step.sequence == 2 && counted.fetch_add(1, Ordering::Relaxed) < 20 {
                return Err(Error::new(ErrorKind::Outage, "the database is restarting"));
            }
            Ok(())
        })
    })
    .await;
    running.feed(&[step("x", 1), step("x", 2), step("x", 3)]).await;
    let sequences: Vec<_> = ledger_entries(&mut running.connection).into_iter().map(|e| e.1).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!((running.stats.set_aside(), running.stats.retries()), (0, 0));
    running.stop().await;
}

#[tokio::test]
async fn garbage_is_parked_with_its_reason_and_loses_nothing() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    let good = change(1, "created", "a", 1);
    let mut frames = vec![good.clone()];
    let mut broken = |id: &str, edit: &dyn Fn(&mut Frame)| {
        let mut frame = change(9, "created", "x", 9);
        frame.message_id = id.into();
        edit(&mut frame);
        frames.push(frame);
    };
    broken("0192e4a0-0000-7000-8000-000000000001", &|frame| frame.body = vec![0xff, 0xfe]);
    broken("0192e4a0-0000-7000-8000-000000000002", &|frame| frame.body = b"{\"after\"".to_vec());
    broken("0192e4a0-0000-7000-8000-000000000003", &|frame| frame.headers = Default::default());
    broken("no uuid \0 at all", &|_| {});
    broken("", &|_| {});
    broken("0192e4a0-0000-7000-8000-000000000004", &|frame| {
        frame.body = b"{\"after\": {\"id\": \"seven\"}}".to_vec();
    });
    broken("0192e4a0-0000-7000-8000-000000000005", &|frame| frame.body = b"{}".to_vec());
    broken("0192e4a0-0000-7000-8000-000000000006", &|frame| frame.kind = "item.exploded".into());
    frames.push(change(2, "created", "b", 2));
    running.feed(&frames).await;
    running.feed(&frames).await;

    assert_eq!(copies(&mut running.connection), [copy(1, "a", 1), copy(2, "b", 2)]);
    let held = running.held();
    assert_eq!(held.len(), 8, "{held:?}");
    for text in ["UTF-8", "JSON", "outbox-format is missing", "UUID", "field id", "neither", "no consumer"] {
        assert!(held.iter().any(|(_, _, error)| error.contains(text)), "{text}: {held:?}");
    }
    assert!(running.database.url.len() > 1);
    running.stop().await;
}

#[tokio::test]
async fn the_inbox_is_per_consumer() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "a", 1)]).await;
    let consumers: Vec<String> = inbox::table.select(inbox::consumer).load(&mut running.connection).unwrap();
    assert_eq!(consumers, ["test"]);
    running.stop().await;
}

#[tokio::test]
async fn a_copy_refuses_a_second_source() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    let mut foreign = Recorded::from_frame(&change(2, "created", "b", 2)).unwrap();
    foreign.source = "elsewhere".into();
    running.feed(&[change(1, "created", "a", 1), foreign.to_frame()]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "a", 1)]);
    assert!(running.held()[0].2.contains("follows outbox items"));
    running.stop().await;
}

#[tokio::test]
async fn several_queues_keep_order_per_key() {
    let mut running = Running::start(|s| {
        s.queues(4)
            .batch(7)
            .on("account.stepped", |tx, step: Stepped| Ok(enter(tx.conn(), &step.account, step.sequence)?))
    })
    .await;
    let frames: Vec<_> = (1..=20)
        .flat_map(|sequence| (0..10).map(move |account| step(&format!("a{account}"), sequence)))
        .collect();
    running.feed(&frames).await;
    let entries = ledger_entries(&mut running.connection);
    assert_eq!(entries.len(), 200);
    for account in 0..10 {
        let name = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=20).collect::<Vec<_>>());
    }
    running.stop().await;
}

#[tokio::test]
async fn two_consumers_of_one_kind_are_refused_at_start() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let subscriber = Subscriber::new("test", broker, pool(&database))
        .copy::<ItemCopy>()
        .on("item.created", |_, _: serde_json::Value| Ok(()));
    let error = subscriber.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("item.created has two consumers"), "{error}");
}

#[tokio::test]
async fn missing_inbox_tables_are_named_at_start() {
    let (database, broker) = (super::SERVER.empty(), MemoryBroker::new());
    let subscriber = Subscriber::new("test", broker, pool(&database)).copy::<ItemCopy>();
    let error = subscriber.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("outbox_core::migrate::run"), "{error}");
}
