//! What a network does to a relay: connections cut in the middle of a confirm, latency, a narrow line, and
//! packets that vanish without a word.

use std::time::Duration;

use rand::RngExt as _;

use super::SERVER;
use super::stage::Stage;
use crate::harness::{Server, until, until_within};
use crate::proxy::{Proxy, Way};
use crate::relay::{RelayConfig, RelayProcess};
use crate::report::{random, size};

const BOTH: [Way; 2] = [Way::ToServer, Way::ToRelay];
/// A statement without an answer is given up after 30 seconds, a dead broker is noticed after two heartbeats.
const NOTICED: Duration = Duration::from_secs(60);
/// What orchestrators give a process between SIGTERM and SIGKILL.
const ORCHESTRATOR: Duration = Duration::from_secs(30);

/// A stage with a proxy before each server.
struct Lines {
    stage: Stage,
    broker: Proxy,
    database: Proxy,
    config: RelayConfig,
}

impl Lines {
    async fn new(fault: &'static str) -> Self {
        let stage = Stage::new(fault).await;
        let mut config = stage.relay();
        let (broker, amqp) = Proxy::before(&config.amqp).await;
        let (database, url) = Proxy::before(&config.database).await;
        (config.amqp, config.database) = (amqp, url);
        Self { stage, broker, database, config }
    }

    async fn start(&mut self) -> RelayProcess {
        // Some of these last half a minute, and what piles up has to drain.
        self.stage.write_slowly(size(Duration::from_millis(100), Duration::from_millis(12)));
        let relay = self.config.start();
        self.stage.flows(200).await;
        relay
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_cut_at_any_byte_lose_nothing() {
    let mut random = random();
    let mut lines = Lines::new("network: cut, also within a frame").await;
    let relay = lines.start().await;
    let cuts = size(10, 150);
    for _ in 0..cuts {
        let line = if random.random_bool(0.5) { &lines.broker } else { &lines.database };
        match random.random_bool(0.3) {
            true => line.cut(),
            // A confirm is an answer: it is cut within its frame on the way back. Few bytes come that way.
            false if random.random_bool(0.5) => line.cut_after(Way::ToRelay, random.random_range(0..2_000)),
            false => line.cut_after(Way::ToServer, random.random_range(0..20_000)),
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..600))).await;
    }
    for line in [&lines.broker, &lines.database] {
        BOTH.iter().for_each(|way| line.cut_after(*way, -1));
    }
    lines.stage.flows(200).await;
    assert_eq!(relay.status().unwrap().refused, 0, "a cut is no refusal");
    lines.stage.finish(cuts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_and_a_narrow_line_only_delay() {
    let mut lines = Lines::new("network: 200 ms, then 64 KiB/s").await;
    lines.config.lease = "10s";
    let relay = lines.start().await;
    for line in [&lines.broker, &lines.database] {
        line.set_latency(Duration::from_millis(100));
    }
    lines.stage.flows(size(500, 10_000)).await;
    for line in [&lines.broker, &lines.database] {
        line.set_latency(Duration::ZERO);
        line.set_bandwidth(Some(64 * 1024));
    }
    lines.stage.flows(size(300, 5000)).await;
    for line in [&lines.broker, &lines.database] {
        line.set_bandwidth(None);
    }
    assert_eq!(relay.status().unwrap().refused, 0, "a slow line is no refusal");
    lines.stage.finish(2).await;
}

/// The old connections stay open and silent for good; a relay that waits for them would never go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_to_the_broker_is_noticed() {
    let mut lines = Lines::new("network: half-open to the broker").await;
    let relay = lines.start().await;
    let times = size(1, 5);
    for _ in 0..times {
        lines.broker.freeze();
        until_within(NOTICED, "the relay says so", || async { relay.is("paused") }).await;
        until_within(NOTICED, "it goes on", || async { relay.is("running") }).await;
        lines.stage.flows(200).await;
    }
    assert_eq!(relay.status().unwrap().refused, 0, "silence is no refusal");
    lines.stage.finish(times).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_to_the_database_is_noticed() {
    let mut lines = Lines::new("network: half-open to the database").await;
    let relay = lines.start().await;
    let times = size(1, 5);
    for _ in 0..times {
        lines.database.freeze();
        until_within(NOTICED, "the relay says so", || async { relay.is("paused") }).await;
        until_within(NOTICED, "it goes on", || async { relay.is("running") }).await;
        lines.stage.flows(200).await;
    }
    assert_eq!(relay.status().unwrap().refused, 0, "silence is no refusal");
    lines.stage.finish(times).await;
}

/// Only answers vanish, and new connections too: the relay must pause, burn nothing, and resume.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_swallows_answers_pauses_the_relay_until_it_passes_them_again() {
    let mut lines = Lines::new("network: answers vanish").await;
    let relay = lines.start().await;
    for line in [&lines.broker, &lines.database] {
        line.hole(&[Way::ToRelay], true);
        until_within(NOTICED, "the relay says so", || async { relay.is("paused") }).await;
        line.hole(&[Way::ToRelay], false);
        until_within(NOTICED, "it goes on", || async { relay.is("running") }).await;
        lines.stage.flows(200).await;
    }
    assert_eq!(relay.status().unwrap().refused, 0, "silence is no refusal");
    lines.stage.finish(2).await;
}

/// Behind a dead line, in a transaction that holds leases: another relay has to get them.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_vanishes_within_a_transaction_does_not_keep_its_leases() {
    let mut lines = Lines::new("network: half-open within a settling transaction").await;
    let vanished = lines.start().await;
    let text = match SERVER {
        Server::Postgres => "delete from outbox",
        _ => "lock in share mode",
    };
    lines.database.freeze_behind(text);
    until("it settles something", || async { lines.database.has_frozen() }).await;
    lines.database.freeze();
    lines.database.hole(&BOTH, true);
    let heir = lines.stage.relay().start();
    lines.stage.flows(500).await;
    drop(vanished);
    assert_eq!(heir.status().unwrap().refused, 0, "a lost lease is no refusal");
    lines.stage.finish(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_reaches_nothing_ends_when_it_is_asked_to() {
    let mut lines = Lines::new("network: nothing passes, SIGTERM").await;
    let relay = lines.start().await;
    lines.database.hole(&BOTH, true);
    lines.broker.hole(&BOTH, true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = relay.terminate(ORCHESTRATOR).await;
    assert!(status.success(), "{status}");
    // From the start, too.
    let relay = lines.config.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = relay.terminate(ORCHESTRATOR).await;
    assert!(status.success(), "{status}");
    lines.database.hole(&BOTH, false);
    lines.broker.hole(&BOTH, false);
    let _next = lines.config.start();
    lines.stage.flows(200).await;
    lines.stage.finish(2).await;
}
