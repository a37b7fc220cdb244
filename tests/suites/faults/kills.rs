//! Processes and tasks that end at any moment, without a farewell.

use std::time::Duration;

use rand::RngExt as _;

use super::stage::Stage;
use crate::harness::{until, until_within};
use crate::relay::RelayProcess;
use crate::report::{random, size};

/// A second for the lease, the rest for a machine that is busy.
const TAKEN_OVER: Duration = Duration::from_secs(6);

fn held(relay: &RelayProcess) -> Vec<u16> {
    relay.status().map(|status| status.held).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_killed_at_random_lose_nothing_and_repeat_no_effect() {
    let mut random = random();
    let mut stage = Stage::new("relay: SIGKILL").await;
    stage.write();
    let mut config = stage.relay();
    config.lease = "1s";
    let mut relays = [config.start(), config.start()];
    let kills = size(8, 100);
    for _ in 0..kills {
        // The dead one's leases last a second: some kills meet a relay that has just taken them over.
        tokio::time::sleep(Duration::from_millis(random.random_range(300..1200))).await;
        let victim = random.random_range(0..relays.len());
        relays[victim] = config.start();
    }
    let [killed, left] = relays;
    until("both hold buckets", || async { [&killed, &left].iter().all(|relay| !held(relay).is_empty()) })
        .await;
    drop(killed);
    until_within(TAKEN_OVER, "what the killed one held is taken over", || async { held(&left).len() == 64 })
        .await;
    stage.finish(kills + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_aborted_at_random_applies_everything_once() {
    let mut random = random();
    let mut stage = Stage::new("subscriber: aborted").await;
    stage.write();
    let _relay = stage.relay().start();
    let aborts = size(5, 100);
    for _ in 0..aborts {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..600))).await;
        stage.restart_subscriber().await;
    }
    stage.finish(aborts).await;
}
