//! The relay's clock is wrong, and jumps: leases use the database's.

use super::stage::Stage;
use crate::harness::{faketime, until};
use crate::report::size;

#[tokio::test(flavor = "multi_thread")]
async fn clocks_ten_minutes_apart_change_nothing() {
    let mut stage = Stage::new("clock: relays 10 minutes apart, jumping").await;
    stage.write();
    let folder = tempfile::tempdir().unwrap();
    let clock = |relay: usize| folder.path().join(format!("clock-{relay}"));
    let set = |offsets: [&str; 2]| {
        for (relay, offset) in offsets.into_iter().enumerate() {
            std::fs::write(clock(relay), format!("{offset}\n")).unwrap();
        }
    };
    set(["+10m", "-10m"]);
    let relays = [0, 1].map(|relay| {
        let mut config = stage.relay();
        // Long enough that only a wrong clock could lose it.
        config.lease = "10s";
        config.environment = vec![
            ("LD_PRELOAD", faketime().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", clock(relay).display().to_string()),
            // Read for every look at the clock, so that it can jump.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Only the time of day jumps on a real machine.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        config.start()
    });
    let share = || relays.iter().all(|relay| relay.status().is_some_and(|status| !status.held.is_empty()));
    until("each has its share", || async { share() }).await;
    stage.flows(500).await;
    let jumps = size(4, 40);
    for jump in 0..jumps {
        set(if jump % 2 == 0 { ["-10m", "+10m"] } else { ["+10m", "-10m"] });
        stage.flows(500).await;
        assert!(share(), "each keeps its share");
    }
    assert!(relays.iter().any(|relay| is_shifted(&relay.log())), "the clock was not shifted at all");
    for relay in &relays {
        assert!(!relay.log().contains("leases were lost"), "{}", relay.log());
        assert_eq!(relay.status().unwrap().refused, 0, "a clock is no refusal");
    }
    stage.finish(jumps).await;
}

/// Whether the log's times are those of another quarter of an hour.
fn is_shifted(log: &str) -> bool {
    let times = log
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<chrono::DateTime<chrono::Utc>>().ok());
    times.into_iter().any(|time| (chrono::Utc::now() - time).num_seconds().abs() > 400)
}
