//! A21: a source that has deleted the log with the transaction by which it is known again may be a restored one. It is
//! gone on from, but that is told until somebody has compared the copies or made them anew.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_relay::replication::report::{self, Report};
use outbox_relay::replication::verify::{self, Show};
use outbox_tests::lab_client::PrivateServer;

use super::{KIND, VARIABLE};
use crate::pair::{Pair, TIMEOUT};

/// Deletes all of the source's log but for a new file.
pub(super) async fn purge(pair: &mut Pair) {
    pair.source.run(&["flush binary logs"]).await;
    let began = Instant::now();
    loop {
        let files: Vec<mysql_async::Row> = pair.source.connection.query("show binary logs").await.unwrap();
        if files.len() == 1 {
            return;
        }
        assert!(began.elapsed() < TIMEOUT, "somebody reads the old files for ever");
        // A file that a reader which has just gone had open is kept.
        let last: String = files.last().unwrap().get(0).unwrap();
        pair.source.run(&[&format!("purge binary logs to '{last}'")]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn told(pair: &Pair) -> (Option<String>, String) {
    let report = Report::of(&pair.config).await;
    assert!(report.error.is_none(), "{report}");
    (report.unproven_since.clone(), report.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_prove_its_history_is_told_of_until_copies_are_compared() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source.run(&["create table t (id int primary key, v int)", "insert into t values (1, 1)"]).await;
    pair.copy(&["t"]);
    assert_eq!(pair.until_idle().await, None);
    pair.source.run(&["insert into t values (2, 2)"]).await;
    assert_eq!(pair.until_idle().await, None);
    // As long as the transaction is there it is proved each time.
    pair.source.run(&["flush binary logs"]).await;
    assert_eq!(pair.until_idle().await, None);
    assert_eq!(told(&pair).await.0, None);

    purge(&mut pair).await;
    assert_eq!(pair.until_idle().await, None);
    let (since, text) = told(&pair).await;
    assert!(since.is_some() && text.contains("UNPROVEN"), "{text}");

    // It goes on, and what comes next is proved again; the doubt stays, through restarts too.
    let running = pair.run();
    running.until_live().await;
    pair.source.run(&["insert into t values (3, 3)"]).await;
    running.until("it is applied", |s| s.progress.upserted == 1).await;
    assert!(!running.status.snapshot().progress.lineage_proven);
    running.end().await;
    let running = pair.run();
    running.until_live().await;
    assert!(!running.status.snapshot().progress.lineage_proven);
    assert!(told(&pair).await.0.is_some());

    // A comparison that finds something proves nothing.
    pair.target.run(&["update t set v = 77 where id = 1"]).await;
    let compared = verify::replication(&pair.config, &Show::default(), &mut |_| {}).await;
    compared.unwrap();
    assert!(told(&pair).await.0.is_some());
    pair.target.run(&["update t set v = 1 where id = 1"]).await;
    verify::replication(&pair.config, &Show::default(), &mut |_| {}).await.unwrap();
    assert_eq!(told(&pair).await.0, None);
    running.until("the process knows it too", |s| s.progress.lineage_proven).await;
    running.end().await;

    // So does a copy that was made since.
    purge(&mut pair).await;
    assert_eq!(pair.until_idle().await, None);
    assert!(told(&pair).await.0.is_some());
    report::remake(&pair.config, None).await.unwrap();
    assert_eq!(pair.until_idle().await, None);
    assert_eq!(told(&pair).await.0, None);
    pair.assert_equal("t", "id, v").await;
    pair.target.drop().await;
}
