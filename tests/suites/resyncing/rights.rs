//! The rights of docs/operating.md, no more: a service that writes and serves resyncs, and a subscriber with a copy and a
//! handler, whose messages fail, wait, are replayed, and are forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Error, Freshness, OutboxConnection as _, Resync, RetryPolicy, Subscriber};
use outbox_relay::{Relay, Unrouted, resync};

use super::Connection;
use super::database::{connect, connect_url, copies, fresh, items, pool_at};
use super::role::{Rights, Role};
use super::stage::{Task, insert_silently, number, outbox_config, put_copy};
use crate::harness::until;
use crate::items::{Item, ItemCopy, NewItem, Stepped};

const ALL: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

const SERVICE: &Rights = &[
    ("outbox", &["SELECT", "INSERT"]),
    ("outbox_resync", &["SELECT", "UPDATE"]),
    ("outbox_resync_service", &["SELECT", "INSERT", "UPDATE"]),
    // Its own.
    ("item", ALL),
];

const SUBSCRIBER: &Rights = &[
    ("inbox", &["SELECT", "INSERT", "DELETE"]),
    ("inbox_held", ALL),
    ("inbox_consumer", &["SELECT", "INSERT", "UPDATE"]),
    ("inbox_progress", &["SELECT", "INSERT", "UPDATE"]),
    ("inbox_pause", &["SELECT"]),
    ("copy_deleted", ALL),
    ("copy_source", &["SELECT", "INSERT", "UPDATE"]),
    ("copy_begun", ALL),
    ("copy_late", ALL),
    // Its own.
    ("item_copy", ALL),
];

#[tokio::test(flavor = "multi_thread")]
async fn services_run_with_the_documented_rights() {
    let (source, target, broker) = (fresh(), fresh(), MemoryBroker::new());
    let service = Role::with(&source, &[SERVICE]);
    let consumer = Role::with(&target, &[SUBSCRIBER]);
    let (mut at_source, mut at_target) = (connect(&source), connect(&target));
    insert_silently(&mut at_source, 40);
    put_copy(&mut at_target, 9_999, 1);

    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let build = || {
        Subscriber::<_, Connection>::new("rights", broker.clone(), pool_at(&consumer.url()))
            .retry(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() })
            .copy::<ItemCopy>()
    };
    let subscriber =
        build().on("account.stepped", move |_, _: Stepped| match failing.load(Ordering::Relaxed) {
            true => Err(Error::application("it is told to")),
            false => Ok(()),
        });
    subscriber.declare().await.unwrap();
    let stats = subscriber.stats();
    let config = outbox_config(&source);
    let relay = Relay::new([config.clone()], broker.clone(), Unrouted::Queue).unwrap();
    let serving = Resync::<Item>::new(pool_at(&service.url())).page(10).poll(Duration::from_millis(50));
    let tasks = [
        Task::spawn(|end| subscriber.run(end)),
        Task::spawn(|end| relay.run(end)),
        Task::spawn(|end| serving.run(end)),
    ];
    // A right that is missing is no message's fault.
    consumer.execute(&format!("revoke insert on inbox from {}", consumer.user()));
    until("the service offers to send items again", || async {
        resync::ask(&config, Some("item"), &[], 0).await.is_ok()
    })
    .await;
    let ask = resync::ask(&config, Some("item"), &[], 0).await.unwrap();
    let id = resync::request(&config, &ask, "a test").await.unwrap()[0];
    until("they wait for the subscriber", || async { broker.depth("rights.0") >= 10 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((number(&mut at_target, "select count(*) from inbox_held"), stats.applied()), (0, 0));
    consumer.execute(&format!("grant insert on inbox to {}", consumer.user()));
    until("all are sent", || async { resync::reports(&config, &[id]).await.unwrap()[0].is_done() }).await;
    until("the copy is equal, without the stale row", || {
        let expected: Vec<_> = items(&mut at_source).iter().map(ItemCopy::from).collect();
        let is_equal = copies(&mut at_target) == expected;
        async move { is_equal }
    })
    .await;

    // Live writes, deletes among them, and messages that fail.
    let mut writer = connect_url(&service.url());
    writer
        .outbox_transaction(|tx| {
            let new = tx.insert(&NewItem { name: "new", amount: 1 })?;
            tx.delete(&new)?;
            for sequence in 1..=3 {
                tx.record(&Stepped { account: "a".into(), sequence })?;
            }
            Ok(())
        })
        .unwrap();
    let held = |connection: &mut Connection| number(connection, "select count(*) from inbox_held");
    until("one is set aside and two wait", || {
        let held = held(&mut at_target);
        async move { held == 3 }
    })
    .await;
    fails.store(false, Ordering::Relaxed);
    at_target.batch_execute("update inbox_held set state = 'replay' where state = 'dead'").unwrap();
    until("they are served", || {
        let held = held(&mut at_target);
        async move { held == 0 }
    })
    .await;
    let freshness = Freshness::<Connection>::new("rights", pool_at(&consumer.url()));
    until("how far it is, is told", || async { !freshness.reached().unwrap().is_empty() }).await;
    let pruning = build();
    until("the inbox is pruned", || async { pruning.prune().await.unwrap().ran }).await;
    assert!(stats.applied() >= 41, "{}", stats.applied());
    for task in tasks {
        task.stop().await;
    }
}
