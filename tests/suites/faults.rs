//! Killed and restarted in the middle: nothing lost, no double effect, order kept. `cargo lab faults` runs
//! more rounds.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_core::broker::rabbitmq::{RabbitMq, Unrouted};
use outbox_tests::lab_client::{AMQP_URL, FAULT_ROUNDS, PrivateServer};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;

use super::database::{connect, fresh, ledger_entries, outbox_is_empty};
use super::end_to_end::{
    RelayTask, assert_ledger_is_whole, config, make_accounts, rabbit, step_accounts, subscribe,
};
use crate::harness::{TestDatabase, program, server_url, unique, until};

const WRITERS: u64 = 2;
/// Between two steps of a writer: so that writing goes on as long as the faults do.
const PAUSE: Duration = Duration::from_millis(4);

/// How often something is killed; `cargo lab faults` asks for more.
fn rounds() -> i64 {
    std::env::var(FAULT_ROUNDS).map_or(3, |rounds| rounds.parse().unwrap())
}

/// Writers that go on until they are told to stop.
struct Writing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Writing {
    fn start(source: &TestDatabase) -> Self {
        let accounts = make_accounts(&mut connect(source), 8);
        let (url, stop) = (source.url.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let task = tokio::task::spawn_blocking(move || {
            step_accounts(&url, &accounts, WRITERS, PAUSE, |_| !stopped.load(Ordering::Relaxed))
        });
        Self { stop, task }
    }

    /// How many steps were written.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// The relay as a process of its own.
struct RelayProcess {
    child: Child,
}

impl RelayProcess {
    fn start(folder: &tempfile::TempDir, source: &TestDatabase, exchange: &str) -> Self {
        let config = folder.path().join("outbox-relay.toml");
        let amqp = server_url(AMQP_URL);
        let text = format!(
            "[broker]\nurl = {amqp:?}\nexchange = {exchange:?}\n\n\
             [[outbox]]\nname = \"items\"\ndatabase = {:?}\nlease = \"1s\"\n",
            source.url
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(program("outbox-relay"))
            .arg("-c")
            .arg(&config)
            .arg("run")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }
}

impl Drop for RelayProcess {
    /// SIGKILL.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_at_random_loses_nothing_and_repeats_no_effect() {
    let (source, target) = (fresh(), fresh());
    let exchange = unique("ex");
    let broker = RabbitMq::new(&server_url(AMQP_URL)).unwrap().exchange(&exchange);
    let name = format!("sub-{exchange}");
    let (shutdown, subscription, stats) = subscribe(&name, broker, &target).await;
    let writing = Writing::start(&source);

    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..rounds() {
        let relay = RelayProcess::start(&folder, &source, &exchange);
        // The dead one's leases last a second: this one takes over, finds a backlog and dies at work.
        tokio::time::sleep(Duration::from_millis(random.random_range(900..1500))).await;
        drop(relay);
    }
    let steps = writing.stop().await;
    let _last = RelayProcess::start(&folder, &source, &exchange);
    settled(&source, &target, steps).await;
    assert_eq!(stats.set_aside(), 0);
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_aborted_at_random_applies_everything_once() {
    let (source, target) = (fresh(), fresh());
    let own = rabbit(Unrouted::Queue);
    let mut subscription = subscribe(&own.subscriber, own.broker.clone(), &target).await;
    let relay = RelayTask::start(config(&source), own.broker.clone());
    let writing = Writing::start(&source);
    let mut random = StdRng::seed_from_u64(12);
    for _ in 0..rounds() {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        subscription.1.abort();
        subscription = subscribe(&own.subscriber, own.broker.clone(), &target).await;
    }
    let steps = writing.stop().await;
    settled(&source, &target, steps).await;
    relay.stop().await;
    subscription.0.cancel();
    subscription.1.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_restarted_in_the_middle_loses_nothing() {
    let (source, target) = (fresh(), fresh());
    let private = PrivateServer::spawn("rabbitmq").unwrap();
    let broker = RabbitMq::new(private.url()).unwrap();
    let (shutdown, subscription, stats) = subscribe("sub", broker.clone(), &target).await;
    let relay = RelayTask::start(config(&source), broker);
    let writing = Writing::start(&source);
    // A quorum queue that is younger than a second may not survive a kill of RabbitMQ 3.10.
    tokio::time::sleep(Duration::from_secs(3)).await;
    private.kill().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    private.start().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let steps = writing.stop().await;
    settled(&source, &target, steps).await;
    assert_eq!(stats.set_aside(), 0);
    relay.stop().await;
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

/// Waits until all steps are applied and settled, then checks each.
async fn settled(source: &TestDatabase, target: &TestDatabase, steps: usize) {
    let (mut connection, mut reader) = (connect(source), connect(target));
    until("every step is in the ledger", || {
        let all = ledger_entries(&mut reader).len() >= steps;
        async move { all }
    })
    .await;
    until("the outbox is empty", || {
        let empty = outbox_is_empty(&mut connection);
        async move { empty }
    })
    .await;
    assert_ledger_is_whole(&mut connection, &mut reader);
    assert_eq!(ledger_entries(&mut reader).len(), steps);
}
