//! What RabbitMQ does to consumers on a server of the test's own: until 4.2 it closes the channel of one that does not
//! acknowledge within `consumer_timeout`, and gives what it has to the next one, and later ones are asked not to; it
//! blocks whoever publishes, and no consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker as _, Publisher as _, Queue};
use outbox_tests::lab_client::PrivateServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::consumer::{Subscriber, on};
use super::database::{connect, fresh, ledger_entries};
use super::stage::{Handles as _, held_rows, quick, step};
use crate::checker::Tally;
use crate::harness::{TestDatabase, unique, until_within};

/// What RabbitMQ waits for an acknowledgement here; it looks every half second.
const TIMEOUT: Duration = Duration::from_secs(2);
/// All is applied, and RabbitMQ has noticed, within this.
const LIMIT: Duration = Duration::from_secs(60);
const ACCOUNTS: usize = 4;
const STEPS: i64 = 30;
const ALL: usize = ACCOUNTS * STEPS as usize;

/// One server for all: it takes longer to start than they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_do_not_acknowledge_in_time_lose_and_repeat_nothing() {
    let server = PrivateServer::spawn("rabbitmq").unwrap();
    // Without blanks: the lab's commands are words.
    for (name, value) in [("consumer_timeout", TIMEOUT.as_millis()), ("channel_tick_interval", 500)] {
        server.rabbitmqctl(&format!("eval ok=application:set_env(rabbit,{name},{value}).")).unwrap();
    }
    // "4.3", in the words of the lab.
    let is_asked = "eval true=rabbit_misc:version_compare(rabbit_misc:version(),[52,46,51],gte).";
    let comes_again = server.rabbitmqctl(is_asked).is_err();
    a_handler_takes_longer_than_the_broker_waits(server.url(), comes_again).await;
    a_pause_takes_longer_than_the_broker_waits(server.url()).await;
    consumers_work_and_start_while_an_alarm_blocks_publishers(&server).await;
}

/// Two processes' worth of one subscriber, with messages published to it.
struct Stage {
    database: TestDatabase,
    connection: Connection,
    broker: RabbitMq,
    name: String,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<outbox_core::Result<()>>>,
    stats: Vec<outbox_core::SubscriberStats>,
}

impl Stage {
    async fn new(
        url: &str,
        name: &str,
        build: impl Fn(Subscriber<RabbitMq>) -> Subscriber<RabbitMq>,
    ) -> Self {
        let (database, name) = (fresh(), unique(name));
        let broker = RabbitMq::new(url).unwrap().exchange(&name);
        let connection = connect(&database);
        let (shutdown, tasks, stats) = (CancellationToken::new(), Vec::new(), Vec::new());
        let mut stage = Self { database, connection, broker, name, shutdown, tasks, stats };
        stage.start(build).await;
        stage
    }

    async fn start(&mut self, build: impl Fn(Subscriber<RabbitMq>) -> Subscriber<RabbitMq>) {
        self.shutdown = CancellationToken::new();
        for _ in 0..2 {
            let subscriber = on(&self.name, self.broker.clone(), &self.database).retry(quick()).batch(10);
            let subscriber = build(subscriber);
            subscriber.declare().await.unwrap();
            self.stats.push(subscriber.stats());
            self.tasks.push(tokio::spawn(subscriber.run(self.shutdown.clone())));
        }
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        for task in self.tasks.drain(..) {
            task.await.unwrap().unwrap();
        }
    }

    fn applied(&mut self) -> usize {
        ledger_entries(&mut self.connection).len()
    }

    async fn publish(&self, sequences: std::ops::RangeInclusive<i64>) {
        let steps =
            sequences.flat_map(|sequence| (0..ACCOUNTS).map(move |a| step(&format!("a{a}"), sequence)));
        let frames: Vec<_> = steps.collect();
        self.broker.publisher().await.unwrap().publish(&frames).await.unwrap();
    }

    fn queue(&self, what: &str) -> Queue {
        Queue { name: format!("{}.{what}", self.name), bindings: Vec::new(), prefetch: 1 }
    }

    /// How much came again, and was known.
    fn duplicates(&self) -> u64 {
        self.stats.iter().map(outbox_core::SubscriberStats::duplicates).sum()
    }

    /// Gives how much came again, and was known.
    async fn check(mut self) -> u64 {
        let look = std::cell::RefCell::new(&mut self.connection);
        until_within(LIMIT, "all is applied", || async {
            ledger_entries(&mut look.borrow_mut()).len() >= ALL
        })
        .await;
        let (own, dead) = (self.queue("0"), self.queue("dead"));
        until_within(LIMIT, "nothing waits", || async { self.broker.depth(&own).await.unwrap() == Some(0) })
            .await;
        self.stop().await;
        assert_eq!(self.broker.depth(&own).await.unwrap(), Some(0), "all is acknowledged");
        let mut tally = Tally::default();
        let mut connection = connect(&self.database);
        ledger_entries(&mut connection)
            .iter()
            .for_each(|(account, sequence)| tally.arrive(account, *sequence));
        let committed = (0..ACCOUNTS).map(|account| (format!("a{account}"), STEPS)).collect();
        assert_eq!(tally.check(&committed).unwrap().repeats, 0);
        assert!(held_rows(&mut connection).is_empty());
        assert_eq!(self.broker.depth(&dead).await.unwrap(), Some(0), "dead letters");
        self.duplicates()
    }
}

/// The other one waits for the inbox rows of the slow one's transaction meanwhile.
async fn a_handler_takes_longer_than_the_broker_waits(url: &str, comes_again: bool) {
    let is_slow = Arc::new(AtomicBool::new(true));
    let stage = Stage::new(url, "slow", |subscriber| {
        let is_slow = Arc::clone(&is_slow);
        subscriber.steps(move |entries, step, _| {
            entries.enter(step);
            if step.sequence == 5 && is_slow.swap(false, Ordering::Relaxed) {
                std::thread::sleep(3 * TIMEOUT);
            }
            Ok(())
        })
    })
    .await;
    stage.publish(1..=STEPS).await;
    if comes_again {
        let again = || async { stage.duplicates() > 0 };
        until_within(LIMIT, "what was not acknowledged in time came again", again).await;
    }
    let duplicates = stage.check().await;
    assert_eq!(duplicates > 0, comes_again, "{duplicates} came again");
}

/// Enters steps, and takes some time for each.
fn unhurried(subscriber: Subscriber<RabbitMq>) -> Subscriber<RabbitMq> {
    subscriber.steps(|entries, step, _| {
        entries.enter(step);
        std::thread::sleep(Duration::from_millis(25));
        Ok(())
    })
}

/// What was delivered before the pause is in memory all the time.
async fn a_pause_takes_longer_than_the_broker_waits(url: &str) {
    let mut stage = Stage::new(url, "paused", unhurried).await;
    stage.publish(1..=STEPS - 1).await;
    let pause =
        format!("insert into inbox_pause (consumer, actor, reason) values ('{}', 'me', 'lunch')", stage.name);
    stage.connection.batch_execute(&pause).unwrap();
    tokio::time::sleep(3 * TIMEOUT).await;
    assert!(stage.applied() < ALL - ACCOUNTS, "it was paused too late");
    stage.connection.batch_execute("delete from inbox_pause").unwrap();
    stage.publish(STEPS..=STEPS).await;
    stage.check().await;
}

/// The memory's: nothing may be published, and what waits is what has to be taken away.
async fn consumers_work_and_start_while_an_alarm_blocks_publishers(server: &PrivateServer) {
    let mut stage = Stage::new(server.url(), "alarmed", unhurried).await;
    stage.publish(1..=STEPS).await;
    stage.stop().await;
    assert!(stage.applied() < ALL, "nothing is left for later");
    server.rabbitmqctl("set_vm_memory_high_watermark 0.0001").unwrap();
    stage.start(unhurried).await;
    stage.check().await;
    server.rabbitmqctl("set_vm_memory_high_watermark 0.6").unwrap();
}
