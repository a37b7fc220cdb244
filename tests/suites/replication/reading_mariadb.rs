//! What only MariaDB writes: tables of several engines in one transaction, several domains, compressed events.

use outbox_relay::binlog::{Source, follow};
use outbox_relay::check;
use outbox_relay::config::Config;
use outbox_tests::lab_client::PrivateServer;

use super::VARIABLE;
use crate::pair::Pair;
use crate::source::{TestSource, changes, first_error, inserted, until};

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

/// F08: with no more rights than the documentation asks for, nobody sees who else reads: the server ends the older one,
/// which says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_id_that_is_taken_is_told_without_a_right_to_look() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key)"]).await;
    let (user, url) = source.reader().await;
    let from = source.position().await;
    let settings = Source { server_id: Some(rand::random_range(100_000..1_000_000)), ..Source::new(&url) };
    let mut first = follow(settings.clone(), source.tables(&["t"]), from.clone());
    source.run(&["insert into t values (1)"]).await;
    let mark = source.mark().await;
    assert_eq!(inserted(&until(&mut first, &mark).await), [[1]]);
    let mut second = follow(settings, source.tables(&["t"]), from);
    assert_eq!(inserted(&until(&mut second, &mark).await), [[1]]);
    let error = first_error(&mut first).await;
    assert!(error.to_string().contains("uses this server id"), "{error}");
    drop((first, second));
    source.run(&[&format!("drop user {user}@'%'")]).await;
    source.drop().await;
}

/// L24: the log of a table that keeps its history has old rows among the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_history_is_refused() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table kept (id int primary key, v int) with system versioning",
            "create table later (id int primary key, v int)",
            "insert into kept values (1, 1)",
            "insert into later values (1, 1)",
        ])
        .await;
    pair.copy(&["kept", "later"]);
    let found = check::all(&Config { replication: vec![pair.config.clone()], ..Config::default() }).await;
    assert!(found.iter().any(|finding| finding.text.contains("kept is system-versioned")), "{found:?}");
    let left = pair.until_idle().await.expect("one is held");
    assert!(left.copies.len() == 1 && left.copies[0].reason.contains("kept is system-versioned"), "{left:?}");
    pair.source.run(&["alter table later add system versioning", "update later set v = 2"]).await;
    let left = pair.until_idle().await.expect("both are held");
    assert!(left.copies.iter().any(|copy| copy.reason.contains("later is system-versioned")), "{left:?}");
    pair.drop().await;
}
