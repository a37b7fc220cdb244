//! Processes and tasks that end at any moment, without a farewell.

use std::time::Duration;

use rand::RngExt as _;

use super::stage::Stage;
use crate::report::{random, size};

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
    stage.finish(kills).await;
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
