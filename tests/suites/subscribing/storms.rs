//! Everything at once: messages that come again in any order, processes that come and go, failures now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Error, FailurePolicy, Frame};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::consumer::Subscriber;
use super::database::{connect, copies, fresh, ledger_entries};
use super::stage::{Handles as _, change, copy, held_rows, publish, step, subscriber};
use crate::harness::{TestDatabase, until};
use crate::items::ItemCopy;

const ACCOUNTS: usize = 6;
const STEPS: i64 = 12;

/// Two queues; steps are entered, one in ten fails the first time, items are copied.
fn build(broker: &MemoryBroker, database: &TestDatabase) -> Subscriber {
    let count = Arc::new(AtomicU32::new(0));
    subscriber(broker, database).queues(2).batch(10).copy::<ItemCopy>().steps(
        move |entries, step, incoming| {
            entries.enter(step);
            if incoming.attempt() == 1 && count.fetch_add(1, Ordering::Relaxed) % 10 == 9 {
                return Err(Error::application("now and then"));
            }
            Ok(())
        },
    )
}

/// Steps and changes, each key in its order.
pub(super) fn story() -> Vec<Frame> {
    let mut frames = Vec::new();
    for sequence in 1..=STEPS {
        for account in 0..ACCOUNTS {
            frames.push(step(&format!("a{account}"), sequence));
            let id = i64::try_from(account).unwrap() + 1;
            let event = if sequence == 1 { "created" } else { "updated" };
            frames.push(change(id, event, &format!("n{sequence}"), sequence * 10 + id));
        }
    }
    frames
}

/// Each effect of the story once, in order.
pub(super) fn check(connection: &mut Connection) {
    let entries = ledger_entries(connection);
    for account in 0..ACCOUNTS {
        let name = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=STEPS).collect::<Vec<_>>(), "{name}");
    }
    let expected: Vec<_> = (1..=i64::try_from(ACCOUNTS).unwrap())
        .map(|id| copy(id, &format!("n{STEPS}"), STEPS * 10 + id))
        .collect();
    assert_eq!(copies(connection), expected);
}

async fn settle(broker: &MemoryBroker, connection: &mut Connection) {
    let connection = std::cell::RefCell::new(connection);
    until("all is consumed and nothing is held", || async {
        broker.is_idle() && held_rows(&mut connection.borrow_mut()).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_three_times_in_any_order_has_one_effect() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    let subscriber = build(&broker, &database);
    subscriber.declare().await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(subscriber.run(shutdown.clone()));
    let frames = story();
    let mut random = StdRng::seed_from_u64(7);
    for (place, part) in frames.chunks(24).enumerate() {
        publish(&broker, part).await;
        // What was published before comes again, in any order, in the middle of what is new.
        let mut again = frames[..place * 24 + part.len()].to_vec();
        again.shuffle(&mut random);
        publish(&broker, &again).await;
    }
    settle(&broker, &mut connection).await;
    check(&mut connection);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_of_one_name_share_the_queues_and_keep_the_order() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    let shutdown = CancellationToken::new();
    let [first, second] = [build(&broker, &database), build(&broker, &database)];
    first.declare().await.unwrap();
    let tasks = [first, second].map(|subscriber| tokio::spawn(subscriber.run(shutdown.clone())));
    for part in story().chunks(16) {
        publish(&broker, part).await;
    }
    settle(&broker, &mut connection).await;
    check(&mut connection);
    shutdown.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

/// Aborted anywhere, a subscriber's deliveries come again to the next one, which may find the transaction of the
/// one before still under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_are_aborted_anywhere_lose_double_and_reorder_nothing() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    build(&broker, &database).declare().await.unwrap();
    let frames = story();
    let feeding = broker.clone();
    let feed = tokio::spawn(async move {
        for part in frames.chunks(4) {
            publish(&feeding, part).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..20 {
        let subscriber = build(&broker, &database);
        let task = tokio::spawn(subscriber.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_millis(random.random_range(1..60))).await;
        task.abort();
        let _ = task.await;
    }
    feed.await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(build(&broker, &database).run(shutdown.clone()));
    settle(&broker, &mut connection).await;
    check(&mut connection);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

/// A process that serves what is held stops at any of its steps; another one serves the same rows at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_is_served_once_by_many() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    let failing = |s: Subscriber| {
        s.steps(|_, _, _| Err(Error::new(outbox_core::ErrorKind::Invalid, "a version that cannot")))
    };
    let first = failing(subscriber(&broker, &database));
    first.declare().await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(first.run(shutdown.clone()));
    let frames: Vec<_> = (1..=5)
        .flat_map(|sequence| (0..8).map(move |account| step(&format!("a{account}"), sequence)))
        .collect();
    publish(&broker, &frames).await;
    until("all is held", || async { broker.is_idle() }).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    let held = held_rows(&mut connection);
    assert_eq!(held.iter().filter(|row| row.state == "dead").count(), 8, "one of each key");
    assert_eq!(held.len(), 40);

    diesel::sql_query("update inbox_held set state = 'replay' where state = 'dead'")
        .execute(&mut connection)
        .unwrap();
    let shutdown = CancellationToken::new();
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let s = subscriber(&broker, &database).enter_steps();
            tokio::spawn(s.run(shutdown.clone()))
        })
        .collect();
    settle(&broker, &mut connection).await;
    let entries = ledger_entries(&mut connection);
    assert_eq!(entries.len(), 40);
    for account in 0..8 {
        let name = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        assert_eq!(own, [1, 2, 3, 4, 5], "{name}");
    }
    shutdown.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

/// A message that was told to wait while the one before it was just leaving is found, though nothing wakes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_for_nothing_is_found() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    let failing = subscriber(&broker, &database)
        .steps(|_, _, _| Err(Error::new(outbox_core::ErrorKind::Invalid, "a version that cannot")));
    failing.declare().await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(failing.run(shutdown.clone()));
    publish(&broker, &[step("x", 1), step("x", 2), step("x", 3)]).await;
    until("all is held", || async { broker.is_idle() }).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    diesel::sql_query("delete from inbox_held where state = 'dead'").execute(&mut connection).unwrap();

    let shutdown = CancellationToken::new();
    let s =
        subscriber(&broker, &database).enter_steps().on_failure("account.stepped", FailurePolicy::Ordered);
    let task = tokio::spawn(s.run(shutdown.clone()));
    settle(&broker, &mut connection).await;
    assert_eq!(ledger_entries(&mut connection), [("x".into(), 2), ("x".into(), 3)]);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
