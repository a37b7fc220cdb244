//! Killed and restarted in the middle: nothing lost, no double effect, order kept. `cargo lab faults` runs
//! more rounds.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outbox_tests::lab_client::{AMQP_URL, FAULT_ROUNDS, PrivateServer};
use outbox_core::broker::rabbitmq::{RabbitMq, Unrouted};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::database::{connect, fresh, ledger_entries, outbox_is_empty};
use super::end_to_end::{
    RelayTask, assert_ledger_is_whole, config, make_accounts, rabbit, step_accounts, subscribe,
};
use crate::harness::{TestDatabase, program, server_url, unique, until};

const WRITERS: usize = 2;
const STEPS_PER_ROUND: i64 = 40;

/// How often something is killed; `cargo lab faults` asks for more.
fn rounds() -> i64 {
    std::env::var(FAULT_ROUNDS).map_or(3, |rounds| rounds.parse().unwrap())
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
    let mut connection = connect(&source);
    let accounts = make_accounts(&mut connection, 8);
    let (url, steps) = (source.url.clone(), STEPS_PER_ROUND * rounds());
    let writing = tokio::task::spawn_blocking(move || step_accounts(&url, &accounts, WRITERS, steps));

    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..rounds() {
        let relay = RelayProcess::start(&folder, &source, &exchange);
        // Long enough to take over the dead one's leases, short enough to die at work.
        tokio::time::sleep(Duration::from_millis(random.random_range(1100..2000))).await;
        drop(relay);
    }
    writing.await.unwrap();
    let _last = RelayProcess::start(&folder, &source, &exchange);
    settled(&source, &target, WRITERS as i64 * steps).await;
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
    let mut connection = connect(&source);
    let accounts = make_accounts(&mut connection, 8);
    let (url, steps) = (source.url.clone(), STEPS_PER_ROUND * rounds());
    let writing = tokio::task::spawn_blocking(move || step_accounts(&url, &accounts, WRITERS, steps));
    let mut random = StdRng::seed_from_u64(12);
    for _ in 0..rounds() {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        subscription.1.abort();
        subscription = subscribe(&own.subscriber, own.broker.clone(), &target).await;
    }
    writing.await.unwrap();
    settled(&source, &target, WRITERS as i64 * steps).await;
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
    let mut connection = connect(&source);
    let accounts = make_accounts(&mut connection, 8);
    let (url, steps) = (source.url.clone(), 400);
    let writing = tokio::task::spawn_blocking(move || step_accounts(&url, &accounts, WRITERS, steps));
    // A quorum queue that is younger than a second may not survive a kill of RabbitMQ 3.10.
    tokio::time::sleep(Duration::from_secs(3)).await;
    private.kill().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    private.start().unwrap();
    writing.await.unwrap();
    settled(&source, &target, WRITERS as i64 * steps).await;
    assert_eq!(stats.set_aside(), 0);
    relay.stop().await;
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

/// Waits until all steps are applied and settled, then checks each.
async fn settled(source: &TestDatabase, target: &TestDatabase, steps: i64) {
    let (mut connection, mut reader) = (connect(source), connect(target));
    until("every step is in the ledger", || {
        let all = ledger_entries(&mut reader).len() as i64 >= steps;
        async move { all }
    })
    .await;
    until("the outbox is empty", || {
        let empty = outbox_is_empty(&mut connection);
        async move { empty }
    })
    .await;
    assert_ledger_is_whole(&mut connection, &mut reader);
    assert_eq!(ledger_entries(&mut reader).len() as i64, steps);
}
