//! What only MariaDB writes: tables of several engines in one transaction, several domains, compressed events.

use outbox_tests::lab_client::PrivateServer;

use super::VARIABLE;
use crate::source::{TestSource, changes, inserted};

/// D15: what could not be rolled back appears, the rest does not.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_engine_without_transactions_stay() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source
        .run(&["create table t (id int primary key)", "create table m (id int primary key) engine = myisam"])
        .await;
    let from = source.position().await;
    source
        .run(&[
            "begin",
            "insert into t values (6)",
            "insert into m values (7)",
            "rollback",
            "begin",
            "insert into t values (8)",
            "savepoint a",
            "insert into m values (9)",
            "insert into t values (10)",
            "rollback to a",
            "commit",
        ])
        .await;
    let mut seen: Vec<i64> = inserted(&source.since(&["t", "m"], &from).await).concat();
    seen.sort_unstable();
    assert_eq!(seen, [7, 8, 9]);
    source.drop().await;
}

/// D13: places in several domains.
#[tokio::test(flavor = "multi_thread")]
async fn several_domains_are_read_and_resumed() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key)"]).await;
    let from = source.position().await;
    source
        .run(&[
            "insert into t values (1)",
            "set session gtid_domain_id = 7",
            "insert into t values (2)",
            "set session gtid_domain_id = 0",
            "insert into t values (3)",
        ])
        .await;
    let txns = source.since(&["t"], &from).await;
    assert_eq!(inserted(&txns), [[1], [2], [3]]);
    let rest = source.since(&["t"], &txns[1].position).await;
    assert_eq!(inserted(&rest), [[3]]);
    source.drop().await;
}

/// P11: compressed rows and statements, which only the whole server can be set to.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_events_are_read() {
    let server = PrivateServer::spawn("mariadb").unwrap();
    let mut source = TestSource::fresh_at(server.url().to_owned()).await;
    source
        .run(&[
            "set global log_bin_compress = on, global log_bin_compress_min_len = 10",
            "create table t (id int primary key, v varchar(2000))",
        ])
        .await;
    let from = source.position().await;
    source
        .run(&[
            "insert into t values (1, repeat('one', 500)), (2, repeat('two', 500))",
            "update t set v = repeat('more', 400) where id = 1",
            &format!("alter table t comment '{}'", "long ".repeat(100)),
            "delete from t where id = 2",
        ])
        .await;
    let (_, selected) = source.select("t").await;
    let changes = changes(&source.since(&["t"], &from).await);
    assert_eq!(changes.len(), 4);
    assert_eq!(changes[2].after(), selected.first());
    assert_eq!(changes[3].before(), changes[1].after());
    drop(server);
}
