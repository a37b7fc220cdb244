//! N01: a source that waits for a replica before it shows a commit has its rows in the log, and with every reader of
//! it, before any SELECT finds them. Here there is no replica, so each such commit waits as long as it may.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use outbox_relay::replication::status::State;
use outbox_tests::lab_client::PrivateServer;

use super::{IS_MARIADB, KIND, VARIABLE};
use crate::pair::Pair;

const STALL: Duration = Duration::from_millis(700);
const ROWS: usize = 300_000;

/// After a wait without an answer the server waits no more, until it is told to again.
async fn stall(connection: &mut Conn, statements: &str) {
    let (name, millis) = (if IS_MARIADB { "master" } else { "source" }, STALL.as_millis());
    let wait = format!(
        "set global rpl_semi_sync_{name}_timeout = {millis}; \
         set global rpl_semi_sync_{name}_wait_point = 'AFTER_SYNC'; \
         set global rpl_semi_sync_{name}_enabled = off; set global rpl_semi_sync_{name}_enabled = on"
    );
    connection.query_drop(wait).await.unwrap();
    let began = std::time::Instant::now();
    connection.query_drop(format!("begin; {statements}; commit")).await.unwrap();
    assert!(began.elapsed() >= STALL, "the server did not wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_in_the_log_before_it_is_visible_is_in_the_copy() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    let rows: Vec<_> = (0..ROWS).map(|id| format!("({}, repeat('x', 90))", id * 10)).collect();
    pair.source.run(&["create table t (id int primary key, v varchar(100))"]).await;
    for rows in rows.chunks(50_000) {
        pair.source.run(&[&format!("insert into t values {}", rows.join(","))]).await;
    }
    if !IS_MARIADB {
        pair.source.run(&["install plugin rpl_semi_sync_source soname 'semisync_source.so'"]).await;
    }
    pair.copy(&["t"]);

    // The beginning falls into one stall, the copying into others.
    let mut writer = pair.source.connect().await;
    let first =
        tokio::spawn(async move { stall(&mut writer, "insert into t values (5, 'at the beginning')").await });
    tokio::time::sleep(STALL / 3).await;
    let running = pair.run();
    first.await.unwrap();
    let mut writer = pair.source.connect().await;
    let mut copying = 0;
    for n in 1..=8 {
        let at = |part: usize| (n * 9 + part) % 80 * ROWS / 80 * 10;
        let statements = format!(
            "insert into t values ({}, 'stalled {n}'); update t set v = 'stalled {n}' where id = {}; \
             delete from t where id = {}",
            at(0) + 5,
            at(3),
            at(6)
        );
        copying += u32::from(running.status.snapshot().state != State::Live);
        stall(&mut writer, &statements).await;
    }
    assert!(copying >= 2, "the copy was complete before the second stall");
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    assert_eq!(pair.asked::<u64>("select count(*) from t where v like 'stalled%'").await, 16);
    pair.target.drop().await;
}
