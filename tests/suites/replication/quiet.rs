//! A source in which nothing happens to the copied tables: their copies stay fresh, and the position goes on.

use std::time::{Duration, Instant};

use super::VARIABLE;
use crate::pair::Pair;

/// Longer than the ten seconds after which a quiet replication writes its state.
const SOON: Duration = Duration::from_secs(40);

const STATE: &str = "select concat(r.position, '|', r.as_of) from outbox_replication r";

/// Waits for another state than this one, and gives it.
async fn another(pair: &mut Pair, before: &str) -> String {
    let began = Instant::now();
    loop {
        let state: String = pair.asked(STATE).await;
        if state != before {
            return state;
        }
        assert!(began.elapsed() < SOON, "still {before}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn parts(state: &str) -> (&str, &str) {
    state.split_once('|').unwrap()
}

/// D22, V07: by transactions of other tables, and by time alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_source_keeps_its_copies_fresh() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table t (id int primary key, v int)",
            "create table other (id int primary key)",
            "insert into t values (1, 1)",
        ])
        .await;
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    let first: String = pair.asked(STATE).await;
    for id in 0..50 {
        pair.source.run(&[&format!("insert into other values ({id})")]).await;
    }
    pair.source.run(&["analyze table other", "begin", "commit"]).await;
    let mut second = another(&mut pair, &first).await;
    while parts(&second).0 == parts(&first).0 {
        second = another(&mut pair, &second).await;
    }
    let third = another(&mut pair, &second).await;
    assert!(parts(&third).1 > parts(&second).1, "{second} then {third}");
    let lag: i64 = pair.asked("select lag_ms from outbox_freshness").await;
    assert!((0..15_000).contains(&lag), "{lag} ms");
    running.end().await;
    pair.drop().await;
}
