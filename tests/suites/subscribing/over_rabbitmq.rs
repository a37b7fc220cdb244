//! The same over RabbitMQ, where consumers come and go and messages come again by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outbox_core::Error;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker as _, Publisher as _};
use tokio_util::sync::CancellationToken;

use super::consumer::{Subscriber, on};
use super::database::{connect, fresh, ledger_entries};
use super::stage::{Handles as _, held_rows, quick, step};
use crate::harness::{TestDatabase, server_url, unique, until};

fn build(name: &str, broker: &RabbitMq, database: &TestDatabase) -> Subscriber<RabbitMq> {
    let count = Arc::new(AtomicU32::new(0));
    on(name, broker.clone(), database)
        .retry(quick())
        .retry_after([Duration::from_millis(1)])
        .queues(2)
        .batch(8)
        .steps(move |entries, step, incoming| {
            entries.enter(step);
            if incoming.attempt() == 1 && count.fetch_add(1, Ordering::Relaxed) % 10 == 9 {
                return Err(Error::application("now and then"));
            }
            Ok(())
        })
}

/// Two processes share two queues; one is aborted in the middle and its deliveries come to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_takes_over_from_one_that_was_cut_off_and_the_order_holds() {
    const ACCOUNTS: usize = 8;
    const STEPS: i64 = 10;
    let exchange = unique("subscribing");
    let broker = RabbitMq::new(&server_url(outbox_tests::lab_client::AMQP_URL)).unwrap().exchange(&exchange);
    let database = fresh();
    let mut connection = connect(&database);
    build(&exchange, &broker, &database).declare().await.unwrap();
    let shutdown = CancellationToken::new();
    let cut = tokio::spawn(build(&exchange, &broker, &database).run(CancellationToken::new()));
    let mut publisher = broker.publisher().await.unwrap();
    let mut other = None;
    for sequence in 1..=STEPS {
        let frames: Vec<_> = (0..ACCOUNTS).map(|account| step(&format!("a{account}"), sequence)).collect();
        publisher.publish(&frames).await.unwrap();
        if sequence == STEPS / 2 {
            other = Some(tokio::spawn(build(&exchange, &broker, &database).run(shutdown.clone())));
            cut.abort();
        }
    }
    let look = std::cell::RefCell::new(&mut connection);
    until("all is applied", || async {
        let mut connection = look.borrow_mut();
        ledger_entries(&mut connection).len() == ACCOUNTS * STEPS.unsigned_abs() as usize
            && held_rows(&mut connection).is_empty()
    })
    .await;
    let entries = ledger_entries(&mut connection);
    for account in 0..ACCOUNTS {
        let name = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=STEPS).collect::<Vec<_>>(), "{name}");
    }

    // Once all is acknowledged there is nothing left that waits, so the inbox may be pruned.
    let pruning = build(&exchange, &broker, &database);
    until("the queues are empty", || async { pruning.prune().await.unwrap().ran }).await;
    shutdown.cancel();
    other.unwrap().await.unwrap().unwrap();
    broker.remove(&[format!("{exchange}.0"), format!("{exchange}.1")]).await.unwrap();
}

/// From one queue to four as docs/guide/subscribing.md says: nothing is published in between.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_queues_is_raised_and_lowered_without_losing_the_order() {
    const ACCOUNTS: usize = 12;
    let exchange = unique("scaling");
    let broker = RabbitMq::new(&server_url(outbox_tests::lab_client::AMQP_URL)).unwrap().exchange(&exchange);
    let database = fresh();
    let mut connection = connect(&database);
    let names = |queues: u16| (0..queues).map(|number| format!("{exchange}.{number}")).collect::<Vec<_>>();
    let mut publisher = broker.publisher().await.unwrap();
    let mut sequence = 0;
    for queues in [1, 4, 2] {
        let scaled = || build(&exchange, &broker, &database).queues(queues);
        scaled().declare().await.unwrap();
        // Of the next number nothing is left over from the one before.
        let shutdown = CancellationToken::new();
        let tasks = [(); 2].map(|()| tokio::spawn(scaled().run(shutdown.clone())));
        for _ in 0..6 {
            sequence += 1;
            let frames: Vec<_> = (0..ACCOUNTS).map(|a| step(&format!("a{a}"), sequence)).collect();
            publisher.publish(&frames).await.unwrap();
        }
        // The outbox is paused here; what was published is drained.
        let look = std::cell::RefCell::new(&mut connection);
        until("all is applied", || async {
            let mut connection = look.borrow_mut();
            let entries = i64::try_from(ledger_entries(&mut connection).len()).unwrap();
            entries == ACCOUNTS as i64 * sequence && held_rows(&mut connection).is_empty()
        })
        .await;
        shutdown.cancel();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        broker.remove(&names(queues)).await.unwrap();
    }
    let entries = ledger_entries(&mut connection);
    for account in 0..ACCOUNTS {
        let name = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=sequence).collect::<Vec<_>>(), "{name}");
    }
}
