//! Tables that the relay creates: which keys of the source's they have, and that rows which swap unique values come
//! through them.

use outbox_relay::replication::{CopyPlan, CopySpec};

use super::{IS_MARIADB, MANY, VARIABLE};
use crate::copies::{Copies, columns, facts, spec};
use crate::pair::Pair;

/// The keys of a table of the target: `name`, `u` if it is unique, its columns.
const KEYS: &str = "select concat_ws(' ', index_name, if(max(non_unique) = 0, 'u', 'k'), \
                    group_concat(column_name order by seq_in_index)) from information_schema.statistics \
                    where table_schema = database() and table_name = '{t}' group by index_name order by index_name";

async fn keys(copies: &mut Copies, table: &str) -> Vec<String> {
    copies.ask(&KEYS.replace("{t}", table)).await
}

/// Some servers set the first TIMESTAMP of a table to the time with each UPDATE, if the table does not say otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn no_column_of_a_created_table_is_set_by_the_target() {
    let table = "create table t (id int primary key, at timestamp(3) not null default current_timestamp(3), \
                 late timestamp not null default current_timestamp on update current_timestamp, \
                 perhaps timestamp null)";
    let mut copies = Copies::of(VARIABLE, &[table], &[], vec![spec("t")]).await;
    let facts = facts(&copies.source, "t").await;
    let sql = CopyPlan::new_table(&spec("t"), &facts, IS_MARIADB).unwrap().sql;
    copies.there.run(&["drop table t", "set session explicit_defaults_for_timestamp = off", &sql]).await;
    let touched = "select count(*) from information_schema.columns where table_schema = database() \
                   and table_name = 't' and extra like '%on update%'";
    assert_eq!(copies.ask(touched).await, ["0"]);
    copies.run(&["insert into t (id, at, late) values (1, '2001-01-01 00:00:00.5', '2002-01-01')"]).await;
    copies.run(&["update t set perhaps = '2003-01-01', late = late"]).await;
    copies.assert_equal().await;
    copies.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_table_has_the_keys_over_its_columns() {
    let extra = if IS_MARIADB { "" } else { ", key of_expression ((lower(name))), key descending (v desc)" };
    let table = format!(
        "create table t (id int primary key, sku varchar(20) not null, name varchar(50), email varchar(80), \
         flag tinyint not null, v int, cost int, upper_sku varchar(20) generated always as (upper(sku)) virtual, \
         unique of_sku (sku), unique of_email (email), unique of_flag (flag, v), unique few (flag), \
         unique of_cost (cost), key of_name (name, v), key of_part (name(4)), key with_cost (v, cost), \
         key of_generated (upper_sku), fulltext key words (name){extra})"
    );
    let spec = CopySpec {
        hash_key: Some(outbox_relay::config::Secret::new("0123456789abcdef")),
        ..columns("t", &["sku as code", "id", "name", "hash(email) as mail", "flag", "v", "upper_sku"])
    };
    let mut copies = Copies::of(VARIABLE, &[&table], &[], vec![spec.clone()]).await;
    let expected = [
        "few k flag",
        "of_email u mail",
        "of_flag u flag,v",
        "of_generated k upper_sku",
        "of_name k name,v",
        "of_sku u code",
        "PRIMARY u id",
    ];
    assert_eq!(keys(&mut copies, "t").await, expected);
    let told = CopyPlan::new_table(&spec, &facts(&copies.source, "t").await, IS_MARIADB).unwrap().left_out;
    let mut expected = vec![
        ("`few`", "is not unique there: rows that swap its values could not be parked"),
        ("`of_cost`", "its column `cost` is not copied"),
        ("`of_part`", "a part of a column"),
        ("`with_cost`", "its column `cost` is not copied"),
        ("`words`", "FULLTEXT"),
    ];
    if !IS_MARIADB {
        expected.extend([("`of_expression`", "an expression"), ("`descending`", "descends")]);
    }
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (key, why) in expected {
        assert!(told.iter().any(|line| line.contains(key) && line.contains(why)), "{key}: {why}: {told:?}");
    }

    // A05, A06, A08 into such a table; NULLs and a case that the collation does not see.
    let insert = "insert into t (id, sku, name, email, flag, v, cost) values \
                  (1, 'A', 'a', 'a@x', 1, 1, 1), (2, 'B', 'b', 'b@x', 2, 2, 2), (3, 'C', null, null, 3, null, null), \
                  (4, 'D', null, null, 4, null, null)";
    assert_eq!(copies.run(&[insert]).await.set_aside, 0);
    let applied = copies
        .run(&[
            "begin",
            "update t set sku = 'T', email = null, flag = 9 where id = 1",
            "update t set sku = 'a', email = 'a@x', flag = 1 where id = 2",
            "update t set sku = 'B', email = 'b@x', flag = 2 where id = 1",
            "commit",
            "update t set sku = 'x' where id = 3",
            "update t set sku = 'c' where id = 4",
            "update t set sku = 'd' where id = 3",
        ])
        .await;
    assert_eq!(applied.set_aside, 0);
    copies.assert_equal().await;
    copies.drop().await;
}

/// A key that is named instead of the primary one: that one is a key like others.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_key_leaves_the_primary_one_a_unique_key() {
    let table =
        "create table t (id int primary key, a int not null, b int not null, v int, unique of_ab (a, b))";
    let named = CopySpec { key: vec!["a".into(), "b".into()], ..spec("t") };
    let mut copies = Copies::of(VARIABLE, &[table], &[], vec![named]).await;
    assert_eq!(keys(&mut copies, "t").await, ["PRIMARY u a,b", "source_primary u id"]);
    copies.run(&["insert into t values (1, 1, 1, 1), (2, 1, 2, 2)"]).await;
    copies
        .run(&[
            "begin",
            "update t set id = 3 where id = 1",
            "update t set id = 1 where id = 2",
            "update t set id = 2 where id = 3",
            "commit",
        ])
        .await;
    copies.assert_equal().await;
    assert_eq!(copies.ask("select count(*) from outbox_aside").await, ["0"]);
    copies.drop().await;
}

/// M07: what is unique in each source is so together with the constant that tells the sources apart.
#[tokio::test(flavor = "multi_thread")]
async fn shards_are_unique_each_by_itself() {
    let shard = |name: &str| CopySpec {
        target_table: "all_of_them".into(),
        ..columns(name, &["id", "sku", &format!("'{name}' as shard")])
    };
    let create = |name: &str| {
        format!(
            "create table {name} (id int primary key, sku varchar(20) not null, unique (sku), key (sku, id))"
        )
    };
    let mut copies =
        Copies::of(VARIABLE, &[&create("a"), &create("b")], &[], vec![shard("a"), shard("b")]).await;
    assert_eq!(
        keys(&mut copies, "all_of_them").await,
        ["PRIMARY u shard,id", "sku u sku,shard", "sku_2 k sku,id"]
    );
    copies.run(&["insert into a values (1, 'A'), (2, 'B')", "insert into b values (1, 'A'), (2, 'B')"]).await;
    copies
        .run(&[
            "begin",
            "update a set sku = 'T' where id = 1",
            "update a set sku = 'A' where id = 2",
            "update b set sku = 'T' where id = 1",
            "update a set sku = 'B' where id = 1",
            "commit",
        ])
        .await;
    let rows = copies.ask("select concat_ws(':', shard, id, sku) from all_of_them order by 1").await;
    assert_eq!(rows, ["a:1:B", "a:2:A", "b:1:T", "b:2:B"]);
    assert_eq!(copies.ask("select count(*) from outbox_aside").await, ["0"]);
    copies.drop().await;
}

/// Rows swap their unique values while the table is copied, again and again; also when it is made anew in place, over
/// rows that are stale and have each other's values.
#[tokio::test(flavor = "multi_thread")]
async fn unique_values_move_while_a_table_is_copied() {
    const ROWS: u32 = 20_000;
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table t (id int primary key, sku int not null, code varchar(30), pad varchar(200), \
             unique (sku), unique (code))",
            MANY,
        ])
        .await;
    let numbers =
        format!("with recursive n as (select 1 as i union all select i + 1 from n where i < {ROWS}) select");
    pair.source
        .run(&[&format!("insert into t {numbers} i, i, concat('c', i), repeat('x', 150) from n")])
        .await;
    pair.copy(&["t"]);
    for round in 0..2 {
        let running = pair.run();
        let (mut swaps, mut step) = (0_u32, 7_919_u32);
        loop {
            step = step.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let (one, other) = (1 + (step >> 8) % ROWS, 1 + (step >> 12) % ROWS);
            if one != other {
                swaps += 1;
                pair.source
                    .run(&[
                        "begin",
                        &format!("select sku, code into @s, @c from t where id = {one}"),
                        &format!("select sku, code into @s2, @c2 from t where id = {other}"),
                        &format!("update t set sku = -1, code = null where id = {one}"),
                        &format!("update t set sku = @s, code = @c where id = {other}"),
                        &format!("update t set sku = @s2, code = @c2 where id = {one}"),
                        "commit",
                    ])
                    .await;
            }
            let snapshot = running.status.snapshot();
            let is_complete = snapshot.progress.copies.iter().all(|copy| copy.state == "ready");
            if is_complete && !snapshot.progress.copies.is_empty() && swaps > 50 {
                break;
            }
        }
        running.until_live().await;
        running.end().await;
        assert_eq!(pair.until_idle().await, None, "round {round}");
        pair.assert_equal("t", "id, sku, code").await;
        // Rows far apart have each other's values here, so that neither can come in before the other.
        pair.target
            .run(&[
                "create temporary table old as select id, sku, code from t where id <= 30 or id > 19970",
                "update t set sku = -id, code = null where id <= 30 or id > 19970",
                "update t join old on old.id = 20001 - t.id set t.sku = old.sku, t.code = old.code",
                "drop temporary table old",
            ])
            .await;
        outbox_relay::replication::report::remake(&pair.config, None).await.unwrap();
    }
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, sku, code").await;
    let keys = "select count(*) from information_schema.statistics where table_schema = database() and table_name = 't' \
                and index_name in ('sku', 'code') and non_unique = 0";
    let keys: u64 = pair.asked(keys).await;
    assert_eq!(keys, 2);
    pair.drop().await;
}

/// What the target alone has unique: a row that was just applied gives way to nobody, although it was set aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_applied_again_gives_way_to_nobody() {
    let there = "create table t (id int primary key, v int, unique (v))";
    let mut copies =
        Copies::of(VARIABLE, &["create table t (id int primary key, v int)"], &[there], vec![spec("t")])
            .await;
    let applied =
        copies.run(&["insert into t values (1, 1), (3, 10)", "update t set v = 10 where id = 1"]).await;
    assert_eq!(applied.set_aside, 1);
    copies
        .run(&[
            "begin",
            "delete from t where id = 3",
            "update t set v = 20 where id = 1",
            "insert into t values (4, 20)",
            "commit",
        ])
        .await;
    assert_eq!(copies.ask("select concat_ws(':', id, v) from t order by id").await, ["1:20"]);
    assert_eq!(copies.ask("select count(*) from outbox_aside").await, ["1"]);
    copies.drop().await;
}
