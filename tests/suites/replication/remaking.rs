//! Copies that are made anew by themselves: their table is gone, or they are wanted otherwise now.

use mysql_async::prelude::Queryable as _;
use outbox_relay::config::{ReplicationTableConfig, Secret};
use outbox_relay::replication::{CopyPhase, CopyState, Target, report};

use super::VARIABLE;
use crate::copies::options;
use crate::pair::Pair;

fn table(pair: &Pair, source: &str, target: &str, columns: &[&str]) -> ReplicationTableConfig {
    ReplicationTableConfig {
        target: Some(target.to_owned()),
        columns: columns.iter().map(ToString::to_string).collect(),
        create: true,
        ..ReplicationTableConfig::new(format!("{}.{source}", pair.source.database))
    }
}

/// A table that is created where one was is no empty copy: all that go into it are made anew, also when the process
/// died in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_is_filled_again() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table a (id int primary key, v int)",
            "create table b (id int primary key, v int)",
            "insert into a values (1, 1), (2, 2)",
            "insert into b values (1, 3)",
        ])
        .await;
    let tables = [("a", "'a' as shard"), ("b", "'b' as shard")];
    pair.config.table.extend(tables.map(|(name, shard)| table(&pair, name, "both", &["id", "v", shard])));
    assert_eq!(pair.until_idle().await, None);
    pair.target.run(&["drop table `both`"]).await;
    assert_eq!(pair.until_idle().await, None);
    let sql = "select group_concat(concat(shard, id, v) order by shard, id) from `both`";
    assert_eq!(pair.asked::<String>(sql).await, "a11,a22,b13");
    let notes = "select count(*) from outbox_copy where state = 'ready' and definition is not null and rows_copied > 0";
    assert_eq!(pair.asked::<u64>(notes).await, 2);

    // What a process notes before it creates the table, and then it is killed.
    pair.target.run(&["drop table `both`"]).await;
    let running = pair.run();
    let began = std::time::Instant::now();
    let is_there = "select count(*) from information_schema.tables where table_schema = database() and table_name = 'both'";
    while pair.asked::<u64>(is_there).await == 0 {
        assert!(began.elapsed() < crate::pair::TIMEOUT, "it is not created");
    }
    running.abort().await;
    assert_eq!(pair.until_idle().await, None);
    assert_eq!(pair.asked::<String>(sql).await, "a11,a22,b13");
    pair.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_source_or_key_for_hashes_makes_a_copy_anew() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table old (id int primary key, v varchar(20))",
            "create table new (id int primary key, v varchar(20))",
            "insert into old values (1, 'x'), (2, 'y')",
            "insert into new values (2, 'z')",
        ])
        .await;
    pair.config.hash_key = Some(Secret::new("a key of sixteen bytes"));
    pair.config.table.push(table(&pair, "old", "t", &["id", "v"]));
    pair.config.table.push(table(&pair, "old", "hashed", &["id", "hash(v) as v"]));
    assert_eq!(pair.until_idle().await, None);
    let hashes = "select group_concat(v order by id) from hashed";
    let (before, began): (String, String) = (
        pair.asked(hashes).await,
        pair.asked("select cast(started_at as char) from outbox_copy where copy = 't'").await,
    );

    pair.config.hash_key = Some(Secret::new("another key of as many bytes"));
    assert_eq!(pair.until_idle().await, None);
    let after: String = pair.asked(hashes).await;
    assert!(before != after && before.len() == after.len(), "{before} {after}");
    let still: String = pair.asked("select cast(started_at as char) from outbox_copy where copy = 't'").await;
    assert_eq!(began, still, "a copy without hashes is left alone");

    pair.config.table[0] = table(&pair, "new", "t", &["id", "v"]);
    assert_eq!(pair.until_idle().await, None);
    assert_eq!(pair.asked::<String>("select group_concat(concat(id, v)) from t").await, "2z");
    pair.drop().await;
}

/// What an earlier version did not note of a copy is noted as it is; the copy is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_earlier_version_goes_on() {
    let mut pair = Pair::fresh(VARIABLE).await;
    let create = "create table t (id varchar(10) primary key, v int, w int as (v + 1) stored)";
    pair.source.run(&[create, "insert into t (id, v) values ('a', 1)"]).await;
    pair.copy(&["t"]);
    assert_eq!(pair.until_idle().await, None);
    let notes = "select concat(started_at, definition) from outbox_copy";
    let noted: String = pair.asked(notes).await;
    for field in ["hash_key", "source_key", "collations", "generated"] {
        assert!(noted.contains(&format!("\"{field}\":")), "{noted}");
        pair.target
            .run(&[&format!("update outbox_copy set definition = json_remove(definition, '$.{field}')")])
            .await;
    }
    let earlier: String = pair.asked(notes).await;
    assert!(!earlier.contains("source_key"), "{earlier}");
    pair.source.run(&["insert into t (id, v) values ('b', 2)"]).await;
    assert_eq!(pair.until_idle().await, None);
    assert_eq!(pair.asked::<String>(notes).await, noted);
    pair.assert_equal("t", "id, v, w").await;
    pair.drop().await;
}

/// Where the target sorts keys otherwise than the source, rows that a narrower filter leaves out would not be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_sorted_otherwise_is_not_made_anew_over_its_rows() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table t (k enum('b', 'a', 'c') collate utf8mb4_bin primary key, v int)",
            "insert into t values ('b', 1), ('a', 2), ('c', 3)",
        ])
        .await;
    pair.target.run(&["create table t (k varchar(10) collate utf8mb4_bin primary key, v int)"]).await;
    pair.config.table.push(table(&pair, "t", "t", &[]));
    assert_eq!(pair.until_idle().await, None);
    pair.config.table[0].filter = Some("v > 1".to_owned());
    let left = pair.until_idle().await.expect("it is held");
    assert!(left.copies[0].reason.contains("is not sorted as the source's"), "{left:?}");
    pair.target.run(&["truncate table t"]).await;
    report::remake(&pair.config, Some("t")).await.unwrap();
    assert_eq!(pair.until_idle().await, None);
    assert_eq!(pair.asked::<String>("select group_concat(k order by k) from t").await, "a,c");
    pair.drop().await;
}

/// One that is asked for while the copy is being made is no less one.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_being_made_begins_anew_when_asked() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.make_filled("t", 1..20_001).await;
    pair.copy(&["t"]);
    let mut locker = pair.source.connect().await;
    let running = pair.run();
    running.until("it has begun", |s| s.progress.copies.iter().any(|copy| copy.rows_copied > 0)).await;
    // Nothing more is read until the request is seen.
    locker.query_drop("lock tables t write").await.unwrap();
    let is_half = |copies: &[outbox_relay::replication::status::CopyStatus]| {
        copies.iter().all(|copy| copy.state == "copying" && copy.rows_copied < 20_000)
    };
    assert!(is_half(&running.status.snapshot().progress.copies), "it was too fast for this test");
    pair.target.run(&["insert into t values (0, 'nobody wrote it')"]).await;
    report::remake(&pair.config, Some("t")).await.unwrap();
    running.until("it begins anew", |s| s.progress.copies.iter().all(|copy| copy.rows_copied == 0)).await;
    locker.query_drop("unlock tables").await.unwrap();
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// A source that lets only so many connections in for a while: that passes, and holds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_full_is_waited_for() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key)", "insert into t values (1), (2)"]).await;
    pair.copy(&["t"]);
    let (user, url) = pair.source.reader().await;
    pair.config.source = Secret::new(&url);
    pair.source.run(&[&format!("alter user {user}@'%' with max_user_connections 3")]).await;
    let running = pair.run();
    let began = std::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(3) {
        let states: Option<String> =
            pair.target.connection.query_first("select min(state) from outbox_copy").await.unwrap().flatten();
        assert!(states.as_deref().is_none_or(|state| state == "copying"), "{states:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    pair.source.run(&[&format!("alter user {user}@'%' with max_user_connections 0")]).await;
    running.until_live().await;
    running.end().await;
    pair.assert_equal("t", "id").await;
    pair.source.run(&[&format!("drop user {user}@'%'")]).await;
    pair.drop().await;
}

/// Between a process has read what is known of the copies and has noted what it makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_during_a_start_is_not_overwritten() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key)", "insert into t values (1)"]).await;
    pair.config.table.push(table(&pair, "t", "t", &["id"]));
    assert_eq!(pair.until_idle().await, None);
    let mut target = Target::open(options(&pair.target), &pair.config.name, "test").await.unwrap();
    let known = target.copies().await.unwrap().remove(0);
    let noted = CopyState { definition: Some("noted".into()), ..known.clone() };
    target.set_copy(Some(&known), &noted).await.unwrap();
    assert_eq!(target.copies().await.unwrap()[0].definition.as_deref(), Some("noted"));
    for phase in [CopyPhase::Ready, CopyPhase::Held, CopyPhase::Copying] {
        let known = CopyState { phase, ..noted.clone() };
        target.set_copy(None, &known).await.unwrap();
        report::remake(&pair.config, Some("t")).await.unwrap();
        target.set_copy(Some(&known), &noted).await.unwrap();
        let stands = target.copies().await.unwrap().remove(0);
        assert_eq!((stands.phase, stands.definition), (CopyPhase::Copying, None), "{phase:?}");
    }
    pair.drop().await;
}
