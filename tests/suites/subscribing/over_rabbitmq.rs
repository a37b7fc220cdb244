//! The same over RabbitMQ, where consumers come and go and messages come again by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outbox_core::Error;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker, Confirm, Publisher as _, Queue};
use rand::seq::SliceRandom as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::consumer::{Subscriber, on};
use super::database::{connect, copies, fresh, ledger_entries};
use super::poison::malformed;
use super::stage::{Handles as _, change, copy, held_rows, quick, step};
use super::storms::{check, story};
use crate::harness::{TestDatabase, server_url, unique, until, until_within};
use crate::items::ItemCopy;
use crate::report::{random, size};

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

/// A subscriber with a copy, at work, and who publishes for it.
struct Copying {
    exchange: String,
    broker: RabbitMq,
    database: TestDatabase,
    shutdown: CancellationToken,
    task: JoinHandle<outbox_core::Result<()>>,
    publisher: <RabbitMq as Broker>::Publisher,
}

impl Copying {
    async fn start(name: &str) -> Self {
        let exchange = unique(name);
        let url = server_url(outbox_tests::lab_client::AMQP_URL);
        let broker = RabbitMq::new(&url).unwrap().exchange(&exchange);
        let database = fresh();
        let subscriber = on(&exchange, broker.clone(), &database).retry(quick()).copy::<ItemCopy>();
        subscriber.declare().await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(subscriber.run(shutdown.clone()));
        let publisher = broker.publisher().await.unwrap();
        Self { exchange, broker, database, shutdown, task, publisher }
    }
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

/// Everything three times and more, in any order, while consumers are cut off and what they had comes again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_repetitions_has_each_effect_once() {
    let exchange = unique("storm");
    let broker = RabbitMq::new(&server_url(outbox_tests::lab_client::AMQP_URL)).unwrap().exchange(&exchange);
    let database = fresh();
    let mut connection = connect(&database);
    let build = || build(&exchange, &broker, &database).copy::<ItemCopy>();
    build().declare().await.unwrap();
    let mut publisher = broker.publisher().await.unwrap();
    let frames = story();
    let mut random = random();
    let (shutdown, mut last) = (CancellationToken::new(), None);
    for (place, part) in frames.chunks(36).enumerate() {
        let subscriber = build();
        let stats = subscriber.stats();
        let task = tokio::spawn(subscriber.run(shutdown.clone()));
        publisher.publish(part).await.unwrap();
        // Twice more what was published before, in the middle of what is new.
        let published = &frames[..place * 36 + part.len()];
        let mut again = [published, published].concat();
        again.shuffle(&mut random);
        publisher.publish(&again).await.unwrap();
        // The next one is there already, and takes over what it had.
        if let Some(before) = last.replace(task) {
            before.abort();
        }
        until("it works", || async { stats.applied() + stats.duplicates() > 40 }).await;
    }
    let steps = frames.iter().filter(|frame| frame.kind == "account.stepped").count();
    let look = std::cell::RefCell::new(&mut connection);
    until("all is applied and nothing is held", || async {
        let mut connection = look.borrow_mut();
        ledger_entries(&mut connection).len() >= steps && held_rows(&mut connection).is_empty()
    })
    .await;
    // What else there is comes again.
    for number in [0, 1] {
        let queue = Queue { name: format!("{exchange}.{number}"), bindings: Vec::new(), prefetch: 1 };
        until("all is delivered", || async { broker.depth(&queue).await.unwrap() == Some(0) }).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    shutdown.cancel();
    last.unwrap().await.unwrap().unwrap();
    check(&mut connection);
    assert!(held_rows(&mut connection).is_empty());
    broker.remove(&[format!("{exchange}.0"), format!("{exchange}.1")]).await.unwrap();
}

/// As `poison` does it with the broker in the process.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_malformed_is_set_aside_and_all_that_is_good_is_applied() {
    let count = size(600, 100_000);
    let Copying { exchange, broker, database, shutdown, task, mut publisher } =
        Copying::start("poison").await;
    let mut connection = connect(&database);
    let mut frames = Vec::new();
    for id in 1..=count {
        frames.push(change(id, "created", "good", id));
        if id % 10 == 0 {
            frames.push(malformed(usize::try_from(id / 10).unwrap()));
        }
    }
    for part in frames.chunks(1000) {
        let confirms = publisher.publish(part).await.unwrap();
        assert!(confirms.iter().all(|confirm| *confirm == Confirm::Confirmed), "{confirms:?}");
    }
    let bad = usize::try_from(count / 10).unwrap();
    let look = std::cell::RefCell::new(&mut connection);
    let limit = size(Duration::from_secs(60), Duration::from_secs(1500));
    until_within(limit, "all is consumed", || async {
        let mut connection = look.borrow_mut();
        held_rows(&mut connection).len() >= bad && copies(&mut connection).len() >= frames.len() - bad
    })
    .await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    let expected: Vec<_> = (1..=count).map(|id| copy(id, "good", id)).collect();
    assert_eq!(copies(&mut connection), expected);
    let held = held_rows(&mut connection);
    assert_eq!(held.len(), bad);
    assert!(held.iter().all(|row| row.state == "dead" && !row.error.is_empty()), "{held:?}");
    for name in ["0", "dead"] {
        let queue = Queue { name: format!("{exchange}.{name}"), bindings: Vec::new(), prefetch: 1 };
        assert_eq!(broker.depth(&queue).await.unwrap(), Some(0), "{name}");
    }
    broker.remove(&[format!("{exchange}.0")]).await.unwrap();
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

/// An operator's mistake. What was in the queue is gone with it; what is published from then on arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_somebody_deletes_is_declared_anew() {
    let Copying { exchange, broker, database, shutdown, task, mut publisher } =
        Copying::start("deleted").await;
    let mut connection = connect(&database);
    publisher.publish(&[change(1, "created", "before", 1)]).await.unwrap();
    until("it is applied", || async { copies(&mut connect(&database)).len() == 1 }).await;

    let queue = format!("{exchange}.0");
    let url = server_url(outbox_tests::lab_client::AMQP_URL);
    let operator = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = operator.create_channel().await.unwrap();
    channel.queue_delete(queue.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let mut version = 1;
    let arrived = async {
        while copies(&mut connection).len() < 2 {
            version += 1;
            publisher.publish(&[change(2, "created", "after", version)]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), arrived).await.expect("nothing arrives any more");
    shutdown.cancel();
    task.await.unwrap().unwrap();
    assert!(held_rows(&mut connection).is_empty());
    broker.remove(&[queue]).await.unwrap();
}

/// As large as a message may be, and no JSON.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_malformed_message_is_set_aside_and_the_next_one_is_applied() {
    let Copying { exchange, broker, database, shutdown, task, mut publisher } = Copying::start("large").await;
    let mut connection = connect(&database);
    let mut large = change(1, "created", "x", 1);
    let beginning = b"{\"after\": {\"id\": \"".as_slice();
    large.body = [beginning, &vec![b'x'; outbox_core::PAYLOAD_BYTES_MAX - beginning.len()]].concat();
    let confirms = publisher.publish(&[large, change(2, "created", "good", 2)]).await.unwrap();
    assert!(confirms.iter().all(|confirm| *confirm == Confirm::Confirmed), "{confirms:?}");
    until("both are done with", || async {
        let mut connection = connect(&database);
        held_rows(&mut connection).len() == 1 && copies(&mut connection).len() == 1
    })
    .await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    let held = held_rows(&mut connection);
    assert!(held[0].state == "dead" && !held[0].error.is_empty(), "{held:?}");
    assert_eq!(copies(&mut connection), [copy(2, "good", 2)]);
    broker.remove(&[format!("{exchange}.0")]).await.unwrap();
}
