//! Changes of the source's tables: what touches a copy holds it, with the way on; anything else passes unseen.

use std::time::Duration;

use outbox_relay::config::ReplicationTableConfig;
use outbox_relay::replication::{KeyPart, TableFacts, report};
use outbox_tests::lab_client::PrivateServer;

use super::{IS_MARIADB, KIND, VARIABLE};
use crate::pair::Pair;
use crate::source::TestSource;

async fn made(create: &[&str], tables: &[&str]) -> Pair {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(create).await;
    pair.copy(tables);
    assert_eq!(pair.until_idle().await, None);
    pair
}

const TWO: [&str; 4] = [
    "create table a (id int primary key, price decimal(10,2), note varchar(20))",
    "create table b (id int primary key, v int)",
    "insert into a values (1, 1.5, 'x'), (2, 2, 'y')",
    "insert into b values (1, 1)",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_touch_a_copy_passes() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&TWO).await;
    pair.config.table.push(ReplicationTableConfig {
        columns: ["id", "price"].map(str::to_owned).into(),
        create: true,
        ..ReplicationTableConfig::new(format!("{}.a", pair.source.database))
    });
    let running = pair.run();
    running.until_live().await;
    pair.source
        .run(&[
            "alter table a add column more int default 5, add index (price), drop column note",
            "insert into a (id, price) values (3, 3)",
            "create table unrelated (id int primary key)",
            "drop table unrelated",
            "alter table b modify v bigint",
            "truncate table b",
            "create procedure p() begin truncate table a; end",
            "alter table a comment 'drop partition p'",
            "update a set price = 4 where id = 1",
        ])
        .await;
    running.until("the last change came", |s| s.progress.upserted >= 4).await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("a", "id, price").await;
    pair.drop().await;
}

/// L16, L14, L15: held with the way on, and the others go on; made anew it is equal again.
#[tokio::test(flavor = "multi_thread")]
async fn what_touches_a_copy_holds_it_alone() {
    for (statement, told, mend) in [
        (
            "alter table a modify price decimal(12,4)",
            "column `price`",
            Some("alter table a modify price decimal(12,4)"),
        ),
        ("alter table a drop column note", "column `note` is gone", Some("alter table a drop column note")),
        ("truncate table a", "truncated", None),
        (
            "alter table a rename column note to remark",
            "column `note` is gone",
            Some("alter table a rename column note to remark"),
        ),
    ] {
        let mut pair = made(&TWO, &["a", "b"]).await;
        let running = pair.run();
        running.until_live().await;
        pair.source.run(&[statement, "insert into a (id) values (7)", "update b set v = 2"]).await;
        let why = running.until_held().await;
        assert!(why.contains(told) && why.contains("outbox-relay snapshot copies a"), "{statement}: {why}");
        let of_b = |s: &outbox_relay::replication::status::Snapshot| s.progress.upserted >= 1;
        running.until("b goes on", of_b).await;
        running.end().await;
        let left = pair.until_idle().await.expect("a is held");
        assert!(left.copies.len() == 1 && left.copies[0].copy == "a", "{left:?}");
        pair.assert_equal("b", "id, v").await;
        let rows: u64 = pair.asked("select count(*) from a").await;
        assert_eq!(rows, 2, "the copy is as it was");
        let (ready, consistent): (bool, bool) = (
            pair.asked("select ready from outbox_freshness where copy = 'a'").await,
            pair.asked("select consistent from outbox_freshness where copy = 'a'").await,
        );
        assert!(!ready && !consistent);
        if let Some(mend) = mend {
            pair.target.run(&[mend]).await;
        }
        report::remake(&pair.config, Some("a")).await.unwrap();
        assert_eq!(pair.until_idle().await, None, "{statement}");
        pair.assert_equal("a", "id, price").await;
        pair.drop().await;
    }
}

/// L22: rows come and go by a partition of another table, without any row event.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_exchanged_with_a_partition_hold_the_copy() {
    let mut statements = vec!["alter table parts exchange partition p0 with table a"];
    if IS_MARIADB {
        statements.push("alter table a convert table more to partition p1 values less than (200)");
        statements.push("alter table a convert partition p0 to table elsewhere");
    }
    for statement in statements {
        let parted = "create table parts (id int primary key, v int) partition by range (id) \
                      (partition p0 values less than (100), partition p2 values less than (120))";
        let plain = |name: &str| format!("create table {name} (id int primary key, v int)");
        let a = if statement.contains("exchange") { plain("a") } else { parted.replace("parts", "a") };
        let filled = ["insert into parts values (3, 3)", "insert into a values (1, 1), (2, 2)"];
        let mut pair = made(
            &[
                parted,
                &a,
                &plain("b"),
                &plain("more"),
                "insert into more values (150, 1)",
                filled[0],
                filled[1],
            ],
            &["a", "b"],
        )
        .await;
        let running = pair.run();
        running.until_live().await;
        pair.source.run(&[statement, "insert into b values (1, 1)"]).await;
        running.until("b goes on", |s| s.progress.upserted >= 1).await;
        let why = running.until_held().await;
        assert!(why.contains("changed by partitions"), "{statement}: {why}");
        running.end().await;
        let rows: u64 = pair.asked("select count(*) from a").await;
        assert_eq!(rows, 2, "the copy is as it was");
        report::remake(&pair.config, Some("a")).await.unwrap();
        assert_eq!(pair.until_idle().await, None, "{statement}");
        pair.assert_equal("a", "id, v").await;
        pair.drop().await;
    }
}

/// A source that compares names without case finds a table by any spelling; its log has the stored one.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_be_named_in_another_case() {
    let server = PrivateServer::spawn_lower_case(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source
        .run(&["create table Product (id int primary key, v int)", "insert into product values (1, 1)"])
        .await;
    let source = format!("{}.Product", pair.source.database.to_uppercase());
    let table = ReplicationTableConfig { create: true, ..ReplicationTableConfig::new(source) };
    pair.config.table.push(ReplicationTableConfig { target: Some("product".into()), ..table });
    let running = pair.run();
    running.until_live().await;
    pair.source.run(&["insert into PRODUCT values (2, 2)", "update product set v = 5 where id = 1"]).await;
    running.until("the changes came", |s| s.progress.upserted >= 2).await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("product", "id, v").await;
    pair.target.drop().await;
}

/// L06 and L24: what happened while nobody read is seen too, whether or not rows tell of it.
#[tokio::test(flavor = "multi_thread")]
async fn changes_while_it_did_not_run_are_seen() {
    let mut pair = made(&TWO, &["a", "b"]).await;
    pair.source.run(&["alter table a modify price decimal(6,1)", "drop table b"]).await;
    let left = pair.until_idle().await.expect("both are held");
    let reason = |name: &str| &left.copies.iter().find(|copy| copy.copy == name).unwrap().reason;
    assert!(reason("a").contains("decimal(6,1)"), "{left:?}");
    assert!(reason("b").contains("has no table"), "{left:?}");
    let rows: u64 = pair.asked("select count(*) from b").await;
    assert_eq!(rows, 1, "its data is kept");
    pair.drop().await;
}

/// N10: the table is altered while it is copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_be_altered_while_it_is_copied() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key, v varchar(200), other int)"]).await;
    for from in [0, 1000, 2000, 3000] {
        let rows: Vec<_> = (from..from + 1000).map(|id| format!("({id}, repeat('v', 150), {id})")).collect();
        pair.source.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    }
    pair.config.table.push(ReplicationTableConfig {
        columns: ["id", "v"].map(str::to_owned).into(),
        create: true,
        ..ReplicationTableConfig::new(format!("{}.t", pair.source.database))
    });
    let running = pair.run();
    running.until("it has begun", |s| s.progress.copies.iter().any(|copy| copy.rows_copied > 0)).await;
    pair.source
        .run(&[
            "alter table t add column more int first",
            "alter table t drop column other",
            "update t set v = 'w' where id < 50",
        ])
        .await;
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// N10: what is asked of a table by several statements is never put together from before and after an ALTER.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_altered_is_described_as_it_was_at_one_time() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key, v varchar(200), other int)"]).await;
    let mut reader = source.server().await;
    let (mut seen, database) = ([0, 0], source.database.clone());
    let alters = async {
        for pause in 0..40 {
            for alter in
                ["add column more int first, drop column other", "add column other int, drop column more"]
            {
                source.run(&[&format!("alter table t {alter}")]).await;
                tokio::time::sleep(Duration::from_millis(pause / 2)).await;
            }
        }
    };
    let describes = async {
        loop {
            match TableFacts::describe(reader.connection(), &database, "t").await {
                Ok(facts) => {
                    let facts = facts.unwrap();
                    let at = facts.table.ordinal("v").unwrap();
                    assert_eq!(facts.columns[at].column_type, "varchar(200)", "{facts:?}");
                    assert_eq!(facts.unique_keys[0].parts, [KeyPart::Column(at - 1)]);
                    seen[at - 1] += 1;
                }
                Err(error) => assert!(error.is_outage(), "{error}"),
            }
        }
    };
    tokio::select! {
        () = alters => {}
        () = describes => {}
    }
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
    source.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_created_without_keys_that_the_target_does_not_take() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            // The name that the relay gives to what is a primary key no more.
            "create table t (id int primary key, a int not null, v int, unique of_a (a), key source_primary (v))",
            "insert into t values (1, 1, 1)",
        ])
        .await;
    pair.config.table.push(ReplicationTableConfig {
        key: vec!["a".to_owned()],
        create: true,
        ..ReplicationTableConfig::new(format!("{}.t", pair.source.database))
    });
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, a, v").await;
    let keys: String = pair
        .asked(
            "select group_concat(index_name) from information_schema.statistics \
             where table_schema = database() and table_name = 't'",
        )
        .await;
    assert_eq!(keys, "PRIMARY");
    pair.drop().await;
}

/// Rows of the source that are one in the target: no such copy is made, and one that works is not stopped for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_keys_may_merge_is_not_made() {
    let table = |name: &str, collation: &str| {
        format!("create table {name} (id varchar(20) character set utf8mb4 collate {collation} primary key)")
    };
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&[&table("made", "utf8mb4_bin"), &table("late", "utf8mb4_bin")]).await;
    pair.target.run(&[&table("made", "utf8mb4_bin"), &table("late", "utf8mb4_general_ci")]).await;
    let copy =
        |pair: &Pair, name: &str| ReplicationTableConfig::new(format!("{}.{name}", pair.source.database));
    let made = copy(&pair, "made");
    pair.config.table.push(made);
    assert_eq!(pair.until_idle().await, None);
    pair.target
        .run(&["alter table made modify id varchar(20) character set utf8mb4 collate utf8mb4_general_ci"])
        .await;
    pair.source.run(&["insert into made values ('a')"]).await;
    let late = copy(&pair, "late");
    pair.config.table.push(late);
    let left = pair.until_idle().await.expect("one is held");
    let reason =
        |name: &str| left.copies.iter().find(|copy| copy.copy == name).map(|copy| copy.reason.clone());
    assert!(reason("late").is_some_and(|reason| reason.contains("written over by another")), "{left:?}");
    assert_eq!(reason("made"), None);
    pair.assert_equal("made", "id").await;
    pair.drop().await;
}
