//! The cases of copies that are more than a table and what happens to it: several tables of one, several of a table,
//! hashed columns, tables of the target that differ.

use mysql_async::prelude::Queryable as _;
use outbox_relay::config::{ReplicationTableConfig, Secret};

use super::VARIABLE;
use crate::stage::Stage;

async fn lines(stage: &mut Stage, sql: &str) -> Vec<String> {
    stage.target.connection.query(sql).await.unwrap()
}

fn texts(columns: &[&str]) -> Vec<String> {
    columns.iter().map(ToString::to_string).collect()
}

/// M01, A02: changes of columns that are not copied write no row; a hot row is always there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_copied_writes_nothing() {
    let mut stage = Stage::new(VARIABLE, VARIABLE).await;
    stage
        .source
        .run(&[
            "create table product (id int primary key, name varchar(20), stock int)",
            "insert into product values (1, 'a', 0), (2, 'b', 0)",
        ])
        .await;
    stage.add_table("product").columns = texts(&["id", "name"]);
    let running = stage.start().await;
    stage.until_live().await;
    // What comes while the copy is being made is written, whatever it changes; after this it is not made any more.
    stage.catch_up().await;
    stage
        .target
        .run(&[
            "create table written (n int)",
            "create trigger i before insert on product for each row insert into written values (1)",
            "create trigger u after update on product for each row insert into written values (2)",
            "create trigger d after delete on product for each row insert into written values (3)",
        ])
        .await;
    for n in 0..200 {
        stage.source.run(&[&format!("update product set stock = {n} where id = 1")]).await;
    }
    stage.catch_up().await;
    assert_eq!(lines(&mut stage, "select count(*) from written").await, ["0"]);

    let mut reader = stage.target.connect().await;
    let reading = tokio::spawn(async move {
        let mut looks = 0;
        loop {
            let sql = "select count(*), max(name = 'end') from product where id = 1";
            let (found, is_end): (u64, u64) = reader.query_first(sql).await.unwrap().unwrap();
            assert_eq!(found, 1, "after {looks} looks");
            looks += 1;
            if is_end == 1 {
                return;
            }
        }
    });
    for n in 0..300 {
        stage.source.run(&[&format!("update product set name = 'n{n}' where id = 1")]).await;
    }
    stage.source.run(&["update product set name = 'end' where id = 1"]).await;
    reading.await.unwrap();
    running.end().await;
    stage.drop().await;
}

/// M07: tables of one form become one, with a column that tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn shards_become_one_table() {
    let mut stage = Stage::new(VARIABLE, VARIABLE).await;
    stage
        .target
        .run(&["create table product (shard varchar(5), id int, name varchar(20), primary key (shard, id))"])
        .await;
    for shard in 0..4 {
        stage
            .source
            .run(&[
                &format!("create table product_{shard} (id int primary key, name varchar(20))"),
                &format!("insert into product_{shard} values (1, 'of {shard}'), (2, 'gone')"),
            ])
            .await;
        stage.add(ReplicationTableConfig {
            target: Some("product".into()),
            columns: vec!["id".into(), "name".into(), format!("'s{shard}' as shard")],
            ..ReplicationTableConfig::new(format!("{}.product_{shard}", stage.source.database))
        });
    }
    let running = stage.start().await;
    stage.until_live().await;
    for shard in 0..4 {
        stage
            .source
            .run(&[
                &format!("insert into product_{shard} values (3, 'new in {shard}')"),
                &format!("delete from product_{shard} where id = 2"),
            ])
            .await;
    }
    stage.catch_up().await;
    let sql = "select concat(shard, ':', id, ':', name) from product order by shard, id";
    let expected: Vec<String> =
        (0..4).flat_map(|s| [format!("s{s}:1:of {s}"), format!("s{s}:3:new in {s}")]).collect();
    assert_eq!(lines(&mut stage, sql).await, expected);
    running.end().await;
    stage.drop().await;
}

/// M09: hashes of two tables join, and the clear text is nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn hashed_columns_join() {
    let mut stage = Stage::new(VARIABLE, VARIABLE).await;
    stage.config.hash_key = Some(Secret::new("a key of sixteen bytes or more"));
    for table in ["customer", "visitor"] {
        stage
            .source
            .run(&[
                &format!("create table {table} (id int primary key, email varchar(50), v int)"),
                &format!("insert into {table} values (1, 'ann@example.org', 1), (2, null, 2)"),
            ])
            .await;
        stage.add_table(table).columns = texts(&["id", "hash(email) as email_hash"]);
    }
    let running = stage.start().await;
    stage.until_live().await;
    for table in ["customer", "visitor"] {
        stage.source.run(&[&format!("insert into {table} values (3, 'bob@example.org', 3)")]).await;
    }
    stage.catch_up().await;
    let sql = "select concat(c.id, ':', length(c.email_hash) >= 32, ':', c.email_hash like '%@%') \
               from customer c join visitor v on v.email_hash = c.email_hash order by c.id";
    assert_eq!(lines(&mut stage, sql).await, ["1:1:0", "3:1:0"]);
    running.end().await;
    stage.drop().await;
}

/// M10: a table becomes two copies with other rows each.
#[tokio::test(flavor = "multi_thread")]
async fn one_table_becomes_two() {
    let mut stage = Stage::new(VARIABLE, VARIABLE).await;
    stage
        .source
        .run(&[
            "create table product (id int primary key, status varchar(10))",
            "insert into product values (1, 'new'), (2, 'sold'), (3, 'new')",
        ])
        .await;
    for (target, filter) in [("fresh", "status = 'new'"), ("gone", "status = 'sold'")] {
        let config = stage.add_table("product");
        config.target = Some(target.into());
        config.filter = Some(filter.into());
    }
    let running = stage.start().await;
    stage.until_live().await;
    stage
        .source
        .run(&["update product set status = 'sold' where id = 1", "insert into product values (4, 'new')"])
        .await;
    stage.catch_up().await;
    assert_eq!(lines(&mut stage, "select id from fresh order by id").await, ["3", "4"]);
    assert_eq!(lines(&mut stage, "select id from gone order by id").await, ["1", "2"]);
    running.end().await;
    stage.drop().await;
}

/// A09: a unique key that only the target has: the second of two is set aside, the table goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_rival_of_the_target_s_own_key_is_set_aside() {
    let mut stage = Stage::new(VARIABLE, VARIABLE).await;
    stage.source.run(&["create table product (id int primary key, name varchar(20))"]).await;
    stage.target.run(&["create table product (id int primary key, name varchar(20), unique (name))"]).await;
    stage.add_table("product").create = false;
    let running = stage.start().await;
    stage.until_live().await;
    stage.source.run(&["insert into product values (1, 'x')"]).await;
    stage.catch_up().await;
    stage.source.run(&["insert into product values (2, 'x')", "insert into product values (3, 'y')"]).await;
    stage.catch_up().await;
    let rows = "select concat(id, ':', name) from product order by id";
    assert_eq!(lines(&mut stage, rows).await, ["1:x", "3:y"]);
    assert_eq!(lines(&mut stage, "select count(*) from outbox_aside").await, ["1"]);
    assert!(stage.states().await.iter().all(|(_, state, _)| state == "ready"));
    // With the rival gone, a later change of the row brings it.
    stage
        .source
        .run(&["delete from product where id = 1", "update product set name = 'z' where id = 2"])
        .await;
    stage.catch_up().await;
    assert_eq!(lines(&mut stage, rows).await, ["2:z", "3:y"]);
    assert_eq!(lines(&mut stage, "select count(*) from outbox_aside").await, ["0"]);
    running.end().await;
    stage.drop().await;
}

/// A17, A18: a row that somebody deleted from the copy is back with the source's next change; a child may come before
/// its parent.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_come_back_and_children_wait_for_nobody() {
    let mut stage = Stage::new(VARIABLE, VARIABLE).await;
    for place in [&mut stage.source, &mut stage.target] {
        place
            .run(&[
                "create table parent (id int primary key, v int)",
                "create table child (id int primary key, parent int, foreign key (parent) references parent (id))",
            ])
            .await;
    }
    for table in ["child", "parent"] {
        stage.add_table(table).create = false;
    }
    let running = stage.start().await;
    stage.until_live().await;
    stage
        .source
        .run(&[
            "insert into parent values (1, 1)",
            "set foreign_key_checks = 0",
            "begin",
            "insert into child values (1, 2)",
            "insert into parent values (2, 2)",
            "commit",
            "set foreign_key_checks = 1",
        ])
        .await;
    stage.catch_up().await;
    assert_eq!(lines(&mut stage, "select parent from child").await, ["2"]);
    stage.target.run(&["delete from parent where id = 1"]).await;
    stage.source.run(&["update parent set v = 7 where id = 1"]).await;
    stage.catch_up().await;
    assert_eq!(lines(&mut stage, "select v from parent order by id").await, ["7", "2"]);
    running.end().await;
    stage.drop().await;
}

/// A14: what cannot be kept is held before anything is written, with what helps; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_held() {
    let mut stage = Stage::new(VARIABLE, VARIABLE).await;
    stage
        .source
        .run(&["create table keyless (id int, v int)", "insert into keyless values (1, 1), (1, 1)"])
        .await;
    stage.add_table("keyless");
    let running = stage.start().await;
    let reason = stage.until_held("keyless").await;
    assert!(reason.contains("key"), "{reason}");
    stage.catch_up().await;
    running.end().await;
    stage.drop().await;
}
