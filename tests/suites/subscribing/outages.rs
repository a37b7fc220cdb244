//! The consumer's database is killed, has no room, or gives a transaction up: on a server of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::prelude::*;
use outbox_core::SubscriberStats;
use outbox_core::broker::memory::MemoryBroker;
use outbox_tests::lab_client::PrivateServer;
use tokio_util::sync::CancellationToken;

use super::SERVER;
use super::database::{connect, fresh, ledger_entries, with_tables};
use super::stage::{Handles as _, change, held_rows, publish, quick, step, subscriber};
use crate::harness::{TestDatabase, until_within};
use crate::items::{ItemCopy, Stepped, item_copy};
use crate::report::size;

/// A server is up again, and the subscriber has noticed, within this.
const BACK: Duration = Duration::from_secs(120);
const ACCOUNTS: usize = 5;

/// So many messages wait at most, so that a slow machine is not left behind for ever.
const WAITING_MAX: u64 = 600;

/// Publishes steps of each account without an end, until it is told to; then tells how many.
fn feed(broker: MemoryBroker, stats: SubscriberStats, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<i64> {
    tokio::spawn(async move {
        let (mut sequence, mut published) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            if published > stats.applied() + WAITING_MAX {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            sequence += 1;
            published += ACCOUNTS as u64 + 1;
            let steps: Vec<_> = (0..ACCOUNTS).map(|a| step(&format!("a{a}"), sequence)).collect();
            publish(&broker, &steps).await;
            publish(&broker, &[change(1, "updated", "x", sequence)]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sequence
    })
}

/// Runs a subscriber while `fault` happens, and tells what must hold afterwards.
async fn through(database: TestDatabase, fault: impl AsyncFnOnce(&dyn Fn() -> u64)) {
    let broker = MemoryBroker::new();
    let subscriber = subscriber(&broker, &database).retry(quick()).copy::<ItemCopy>().enter_steps();
    subscriber.declare().await.unwrap();
    let (shutdown, stats) = (CancellationToken::new(), subscriber.stats());
    let task = tokio::spawn(subscriber.run(shutdown.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let feeding = feed(broker.clone(), stats.clone(), Arc::clone(&stop));
    let applied = {
        let stats = stats.clone();
        move || stats.applied()
    };
    fault(&applied).await;
    stop.store(true, Ordering::Relaxed);
    let steps = feeding.await.unwrap();
    until_within(BACK, "all is consumed", || async { broker.is_idle() }).await;
    let mut connection = connect(&database);
    let entries = ledger_entries(&mut connection);
    for account in 0..ACCOUNTS {
        let account = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == account).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=steps).collect::<Vec<_>>(), "{account}");
    }
    let total: i64 = item_copy::table.find(1).select(item_copy::total).first(&mut connection).unwrap();
    assert_eq!(total, steps);
    assert!(held_rows(&mut connection).is_empty());
    assert_eq!((stats.set_aside(), stats.retries()), (0, 0), "an outage is no failure of a message");
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_killed_and_restarted_loses_and_repeats_nothing() {
    let server = PrivateServer::spawn(SERVER.lab_kind()).unwrap();
    let database = with_tables(SERVER.empty_at(server.url().to_owned()));
    through(database, async |applied| {
        for _ in 0..size(1, 10) {
            let before = applied();
            until_within(BACK, "it works", || async { applied() > before + 50 }).await;
            server.kill().unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let before = applied();
            server.start().unwrap();
            until_within(BACK, "it goes on", || async { applied() > before }).await;
        }
    })
    .await;
}

/// Whatever the server does about it, down to ending itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_everything_up_and_loses_nothing() {
    let server = PrivateServer::spawn_small(SERVER.lab_kind()).unwrap();
    let database = with_tables(SERVER.empty_at(server.url().to_owned()));
    through(database, async |applied| {
        for _ in 0..size(1, 3) {
            let before = applied();
            until_within(BACK, "it works", || async { applied() > before + 50 }).await;
            server.fill().unwrap();
            // Some go on for as long as what they have reserved lasts.
            tokio::time::sleep(Duration::from_secs(8)).await;
            server.free().unwrap();
            server.start().unwrap();
            let before = applied();
            until_within(BACK, "it goes on", || async { applied() > before }).await;
        }
    })
    .await;
}

/// Queues whose handlers lock the same two rows in opposite orders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_run_again_and_count_as_nothing() {
    const STEPS: i64 = 40;
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    for id in 1..=2 {
        let row = (item_copy::id.eq(id), item_copy::name.eq("locked"), item_copy::total.eq(0));
        let version = (item_copy::outbox_generation.eq(0), item_copy::outbox_id.eq(0));
        let bucket = item_copy::outbox_bucket.eq(0);
        diesel::insert_into(item_copy::table)
            .values((row, version, bucket))
            .execute(&mut connection)
            .unwrap();
    }
    let subscriber =
        subscriber(&broker, &database).queues(4).batch(4).on("account.stepped", |tx, step: Stepped| {
            super::database::enter(tx.conn(), &step.account, step.sequence)?;
            let first = 1 + step.sequence % 2;
            for id in [first, 3 - first] {
                diesel::update(item_copy::table.find(id))
                    .set(item_copy::total.eq(item_copy::total + 1))
                    .execute(tx.conn())?;
            }
            Ok(())
        });
    subscriber.declare().await.unwrap();
    let frames: Vec<_> =
        (1..=STEPS).flat_map(|sequence| (0..8).map(move |a| step(&format!("a{a}"), sequence))).collect();
    publish(&broker, &frames).await;
    let (shutdown, stats) = (CancellationToken::new(), subscriber.stats());
    let task = tokio::spawn(subscriber.run(shutdown.clone()));
    until_within(BACK, "all is consumed", || async { broker.is_idle() }).await;
    let entries = ledger_entries(&mut connection);
    for account in 0..8 {
        let account = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == account).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=STEPS).collect::<Vec<_>>(), "{account}");
    }
    let totals: Vec<i64> = item_copy::table.select(item_copy::total).load(&mut connection).unwrap();
    assert_eq!(totals, [8 * STEPS, 8 * STEPS]);
    assert_eq!((stats.set_aside(), stats.retries()), (0, 0));
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
