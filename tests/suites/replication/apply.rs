//! Applying: whole transactions, in one transaction of the target with their checkpoint.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use outbox_core::ErrorKind;
use outbox_relay::change::{Change, Image, Row, Txn, Value};
use outbox_relay::replication::{CopyPlan, CopySpec, Fenced, Group, Key, Projected, State, Target};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::VARIABLE;
use crate::copies::{Copies, ROOMY, columns, options, spec, txn};

/// A03, and a target's own columns stay as they are; a row that was deleted and comes again begins anew, in one group
/// as in two (A9).
#[tokio::test(flavor = "multi_thread")]
async fn columns_of_the_targets_own_are_not_touched() {
    let mut copies = Copies::of(
        VARIABLE,
        &["create table t (a int, b int, v varchar(20), primary key (a, b))"],
        &["create table t (own int not null default 7, a int, b int, v varchar(20), primary key (a, b))"],
        vec![spec_without_own()],
    )
    .await;
    copies.run(&["insert into t values (1, 1, 'x'), (1, 2, 'y'), (1, 3, 'z')"]).await;
    copies.assert_equal().await;
    copies.there.run(&["update t set own = 10 + b"]).await;
    copies.run(&["update t set v = 'changed' where b = 1"]).await;
    let own = "select concat(b, ':', own, ':', v) from t order by b";
    assert_eq!(copies.ask(own).await, ["1:11:changed", "2:12:y", "3:13:z"]);
    copies.run(&["delete from t where b = 2", "insert into t values (1, 2, 'y')"]).await;
    copies.run_each(&["delete from t where b = 3", "insert into t values (1, 3, 'z')"]).await;
    assert_eq!(copies.ask(own).await, ["1:11:changed", "2:7:y", "3:7:z"]);
    copies.assert_equal().await;
    copies.drop().await;
}

fn spec_without_own() -> CopySpec {
    columns("t", &["a", "b", "v"])
}

/// A05, A06, A08: values of unique keys that move between rows, whatever the key is over.
#[tokio::test(flavor = "multi_thread")]
async fn unique_values_move_between_rows() {
    let table = "create table t (id int primary key, sku varchar(20) not null, n int null, e varchar(20) not null, \
                 lower_e varchar(20) generated always as (lower(e)) virtual, unique (sku), unique (n), \
                 unique prefix_ (sku(4)), unique (lower_e))";
    let mut copies = Copies::of(VARIABLE, &[table], &[table], vec![spec("t")]).await;
    let rows = "insert into t (id, sku, n, e) values (1, 'A', 1, 'EA'), (2, 'C', 2, 'eb'), (3, 'D', null, 'ec'), \
                (4, 'E', null, 'ed')";
    copies.run(&[rows]).await;
    copies.assert_equal().await;
    for in_one in [true, false] {
        let statements = [
            "begin",
            "update t set sku = 'B' where id = 1",
            "update t set sku = 'A' where id = 2",
            "commit",
            "begin",
            "update t set sku = 'T', n = null, e = 'tt' where id = 1",
            "update t set sku = 'B', n = 1, e = 'ea' where id = 2",
            "update t set sku = 'A', n = 2, e = 'EB' where id = 1",
            "commit",
            // The same over three transactions, and a case that the collation does not see.
            "update t set sku = 'temp' where id = 1",
            "update t set sku = 'A' where id = 2",
            "update t set sku = 'b' where id = 1",
            "update t set sku = 'C' where id = 2",
            "update t set e = 'x', n = 9 where id = 1",
            "update t set e = 'eb', n = 2 where id = 2",
            "update t set sku = 'A', e = 'EA' where id = 1",
            "delete from t where id = 3",
            "insert into t (id, sku, n, e) values (30, 'D', null, 'EC')",
            "update t set sku = 'E2' where id = 4",
            "insert into t (id, sku, n, e) values (5, 'E', null, 'ee')",
            "delete from t where id = 5",
            "update t set sku = 'E' where id = 4",
            "delete from t where id = 30",
            "insert into t (id, sku, n, e) values (3, 'D', null, 'ec')",
        ];
        if in_one {
            assert_eq!(copies.run(&statements).await.set_aside, 0);
        } else {
            copies.run_each(&statements).await;
        }
        copies.assert_equal().await;
    }
    assert_eq!(copies.ask("select count(*) from outbox_aside").await, ["0"]);
    copies.drop().await;
}

/// A09: a unique key that only the target has. The row waits aside with its later images; the table goes on; the row
/// comes in by itself once it can.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_does_not_take_waits_aside() {
    let mut copies = Copies::of(
        VARIABLE,
        &["create table t (id int primary key, name varchar(20) not null, v int)"],
        &["create table t (id int primary key, name varchar(20) not null unique, v int)"],
        vec![spec("t")],
    )
    .await;
    let consistent = "select concat(consistent, ':', set_aside) from outbox_freshness";
    let applied = copies.run(&["insert into t values (1, 'x', 1), (2, 'x', 1), (3, 'y', 1)"]).await;
    assert_eq!(applied.set_aside, 1);
    assert_eq!(copies.ask("select group_concat(name order by name) from t").await, ["x,y"]);
    assert_eq!(copies.ask(consistent).await, ["0:1"]);
    // Its next image too, and the others go on. Which of the two stands aside is not said.
    copies.run(&["update t set v = 2"]).await;
    assert_eq!(copies.ask("select count(*) from outbox_aside").await, ["2"]);
    assert_eq!(copies.ask("select count(*) from t where v = 2").await, ["2"]);
    let reasons = copies.ask("select distinct reason from outbox_aside").await;
    assert!(reasons[0].contains("unique key"), "{reasons:?}");
    // Its rival moves: it comes in with its last image.
    let waiting = copies.ask("select max(json_value(key_text, '$[0].int')) from outbox_aside").await;
    let rival = if waiting[0] == "2" { 1 } else { 2 };
    let applied = copies.run(&[&format!("update t set name = 'z' where id = {rival}")]).await;
    assert_eq!(applied.released, 2);
    copies.assert_equal().await;
    assert_eq!(copies.ask(consistent).await, ["1:0"]);
    // A delete releases too.
    copies.run(&["insert into t values (4, 'y', 1)"]).await;
    assert_eq!(copies.ask(consistent).await, ["0:1"]);
    copies.run(&["delete from t where id = 4"]).await;
    assert_eq!(copies.ask(consistent).await, ["1:0"]);
    // And so does what somebody changes here, by the clock.
    copies.there.run(&["insert into t values (99, 'w', 0)"]).await;
    copies.run(&["insert into t values (5, 'w', 1)"]).await;
    assert_eq!(copies.ask(consistent).await, ["0:1"]);
    copies.there.run(&["delete from t where id = 99"]).await;
    let group = Group::new(&copies.plans, ROOMY);
    assert_eq!(copies.target.apply(group, &copies.checkpoint).await.unwrap().released, 1);
    copies.assert_equal().await;
    copies.drop().await;
}

/// Values that do not fit are the row's fault; no text of an error quotes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_sets_its_row_aside() {
    let mut copies = Copies::of(
        VARIABLE,
        &["create table t (id int primary key, v varchar(100) character set utf8mb4)"],
        &["create table t (id int primary key, v varchar(10) character set latin1)"],
        vec![spec("t")],
    )
    .await;
    let applied = copies
        .run(&["insert into t values (1, 'fits'), (2, 'secret, and far too long'), (3, 'русский'), (4, 'fits too')"])
        .await;
    assert_eq!((applied.set_aside, applied.held.len()), (2, 0));
    assert_eq!(copies.ask("select id from t order by id").await, ["1", "4"]);
    for reason in copies.ask("select reason from outbox_aside").await {
        assert!(
            !reason.contains("secret") && !reason.contains("рус") && reason.contains("column"),
            "{reason}"
        );
    }
    copies.run(&["update t set v = 'short' where id = 2", "delete from t where id = 3"]).await;
    copies.assert_equal().await;
    copies.drop().await;
}

/// A17: a row that somebody deleted here comes back with its next change, and is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_deleted_by_hand_comes_back() {
    let table = "create table t (id int primary key, v int)";
    let mut copies = Copies::of(VARIABLE, &[table], &[], vec![spec("t")]).await;
    copies.run(&["insert into t values (1, 1), (2, 1), (3, 1), (4, 1)"]).await;
    copies.there.run(&["delete from t where id in (2, 3)"]).await;
    assert_eq!(copies.run(&["update t set v = 2"]).await.drifted, 2);
    copies.assert_equal().await;
    copies.there.run(&["delete from t where id = 1"]).await;
    assert_eq!(copies.run(&["update t set v = 3 where id = 1"]).await.drifted, 1);
    assert_eq!(copies.ask("select drifted from outbox_copy").await, ["3"]);
    copies.assert_equal().await;
    copies.drop().await;
}

/// A18, and movers of a NOT NULL unique key whose rows have children here that a DELETE would take along.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_of_the_target_hold() {
    let parent = "create table parent (id int primary key, sku varchar(30) not null unique)";
    let mut copies = Copies::between(
        VARIABLE,
        VARIABLE,
        &[parent, "create table child (id int primary key, parent int)"],
        &[
            parent,
            "create table child (id int primary key, parent int, foreign key (parent) references parent (id))",
            "create table own (id int primary key, parent int, \
             foreign key (parent) references parent (id) on delete cascade)",
        ],
        // The child's table first.
        vec![spec("child"), spec("parent")],
        |options| outbox_relay::replication::TargetOptions { foreign_key_checks: true, ..options },
    )
    .await;
    copies
        .run(&[
            "begin",
            "insert into child values (1, 1), (2, 2)",
            "insert into parent values (1, 'A'), (2, 'B')",
            "commit",
        ])
        .await;
    copies.assert_equal().await;
    copies.there.run(&["insert into own values (1, 1), (2, 2)"]).await;
    copies
        .run(&[
            "begin",
            "update parent set sku = 'T' where id = 1",
            "update parent set sku = 'A' where id = 2",
            "update parent set sku = 'B' where id = 1",
            "commit",
        ])
        .await;
    assert_eq!(copies.ask("select count(*) from own").await, ["2"]);
    copies.assert_equal().await;
    copies
        .run(&["begin", "delete from parent where id = 2", "delete from child where id = 2", "commit"])
        .await;
    assert_eq!(copies.ask("select count(*) from own").await, ["1"]);
    copies.assert_equal().await;
    assert_eq!(copies.ask("select count(*) from outbox_aside").await, ["0"]);
    copies.drop().await;
}

/// M01, M03, M04, M10: columns, filters, and two copies of one table.
#[tokio::test(flavor = "multi_thread")]
async fn rows_move_in_and_out_of_a_filter() {
    let table = "create table t (id int primary key, status varchar(10), price decimal(10,2), stock int)";
    let filtered = |name: &str, filter: &str| CopySpec {
        name: name.into(),
        target_table: name.into(),
        filter: Some(filter.into()),
        ..columns("t", &["id", "status", "price as unit_price"])
    };
    let specs = vec![filtered("on_sale", "status = 'ON'"), filtered("cheap", "price < 10 or status is null")];
    let mut copies = Copies::of(VARIABLE, &[table], &[], specs).await;
    copies
        .run(&["insert into t values (1, 'ON', 5, 1), (2, 'OFF', 50, 1), (3, 'ON', 50, 1), (4, 'OFF', 5, 1)"])
        .await;
    copies.assert_equal().await;
    assert_eq!(copies.ask("select group_concat(id order by id) from on_sale").await, ["1,3"]);
    // M01: nothing to write.
    copies.source.run(&["update t set stock = stock + 1"]).await;
    let txns = copies.read().await;
    let mut group = Group::new(&copies.plans, ROOMY);
    for txn in txns {
        group.push(txn, None).unwrap();
    }
    assert!(group.is_empty());
    // M03, M04.
    for statement in [
        "update t set status = 'ON' where id = 2",
        "update t set status = 'OFF' where id = 1",
        "update t set status = 'OFF' where id = 4",
        "update t set id = 30, status = 'OFF' where id = 3",
        "update t set id = 10, status = 'ON', price = 1 where id = 1",
        "update t set status = null",
    ] {
        copies.run(&[statement]).await;
        copies.assert_equal().await;
    }
    copies.drop().await;
}

/// M07: shards with equal keys into one table.
#[tokio::test(flavor = "multi_thread")]
async fn shards_go_into_one_table_by_a_constant() {
    let shard = |n: usize| CopySpec {
        name: format!("shard{n}"),
        target_table: "product".into(),
        ..columns(&format!("product_{n}"), &["id", "sku", &format!("'{n}' as shard")])
    };
    let create = |n| format!("create table product_{n} (id int primary key, sku varchar(20) not null)");
    let mut copies = Copies::of(VARIABLE, &[&create(0), &create(1)], &[], vec![shard(0), shard(1)]).await;
    let sql = [
        "insert into product_0 values (1, 'a'), (2, 'b')",
        "insert into product_1 values (1, 'c'), (2, 'd')",
    ];
    copies.run(&sql).await;
    copies.run(&["delete from product_0 where id = 1", "update product_1 set id = 3 where id = 2"]).await;
    let rows = "select group_concat(concat(shard, id, sku) order by shard, id) from product";
    assert_eq!(copies.ask(rows).await, ["02b,11c,13d"]);
    let plain = |n: usize| CopySpec { columns: vec!["id".into(), "sku".into()], ..shard(n) };
    let here = crate::copies::facts(&copies.source, "product_0").await;
    copies.there.run(&["create table plain (id int primary key, sku varchar(20) not null)"]).await;
    let there = copies.target.describe("plain").await.unwrap().unwrap();
    let plan = |n| {
        let spec = CopySpec { target_table: "plain".into(), ..plain(n) };
        Arc::new(outbox_relay::replication::CopyPlan::resolve(&spec, &here, &there).unwrap())
    };
    let refused = outbox_relay::replication::CopyPlan::check_together(&[plan(0), plan(1)]).unwrap_err();
    assert!(refused.to_string().contains("as shard"), "{refused}");
    copies.drop().await;
}

/// M09: hashes join, and the clear text is nowhere in the target.
#[tokio::test(flavor = "multi_thread")]
async fn hashed_columns_join_and_hide() {
    let hashed = |table: &str| CopySpec {
        hash_key: Some(outbox_relay::config::Secret::new("a key of sixteen bytes and more")),
        ..columns(table, &["id", "hash(email) as email_hash"])
    };
    let create = |table| format!("create table {table} (id int primary key, email varchar(50))");
    let there = "create table b (id int primary key, email_hash char(64) character set ascii unique)";
    let mut copies =
        Copies::of(VARIABLE, &[&create("a"), &create("b")], &[there], vec![hashed("a"), hashed("b")]).await;
    copies
        .run(&[
            "insert into a values (1, 'ann@example.org'), (2, null)",
            "insert into b values (7, 'ann@example.org'), (8, 'bob@example.org'), (9, 'bob@example.org')",
        ])
        .await;
    assert_eq!(copies.ask("select concat(a.id, b.id) from a join b using (email_hash)").await, ["17"]);
    assert_eq!(copies.ask("select email_hash from a where id = 2").await, ["NULL"]);
    let aside = copies.ask("select concat(key_text, row_image, reason) from outbox_aside").await;
    assert!(aside.len() == 1 && !aside[0].contains("bob"), "{aside:?}");
    copies.drop().await;
}

/// F15, F20: of two processes the newer one writes; without a position none begins.
#[tokio::test(flavor = "multi_thread")]
async fn one_process_writes_and_none_without_a_position() {
    let table = "create table t (id int primary key, v int)";
    let mut copies = Copies::of(VARIABLE, &[table], &[], vec![spec("t")]).await;
    copies.run(&["insert into t values (1, 1)"]).await;
    let mut newer = Target::open(options(&copies.there), "r", "newer").await.unwrap();
    assert_eq!(newer.epoch(), copies.target.epoch() + 1);
    copies.source.run(&["update t set v = 2"]).await;
    let txns = copies.read().await;
    let plans = copies.plans.clone();
    let group = |txns: &[Txn]| {
        let mut group = Group::new(&plans, ROOMY);
        txns.iter().for_each(|txn| drop(group.push(txn.clone(), None).unwrap()));
        group
    };
    let refused = copies.target.apply(group(&txns), &copies.checkpoint).await.unwrap_err();
    assert!(refused.downcast_ref::<Fenced>().is_some(), "{refused}");
    assert!(copies.target.hold("t", "no").await.unwrap_err().downcast_ref::<Fenced>().is_some());
    assert_eq!(copies.ask("select v from t").await, ["1"]);
    copies.checkpoint.position = txns[0].position.clone();
    newer.apply(group(&txns), &copies.checkpoint).await.unwrap();
    copies.assert_equal().await;
    assert_eq!(newer.checkpoint().await.unwrap().as_ref(), Some(&copies.checkpoint));
    assert_eq!(newer.idle(&copies.checkpoint).await.unwrap(), None);

    copies.there.run(&["delete from outbox_replication"]).await;
    let mut none = Target::open(options(&copies.there), "r", "third").await.unwrap();
    let refused = none.checkpoint().await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Invalid && refused.to_string().contains("no position"), "{refused}");
    assert!(none.start(&copies.checkpoint, &[]).await.is_err());
    let mut fresh = Target::open(options(&copies.there), "another", "fourth").await.unwrap();
    assert_eq!(fresh.checkpoint().await.unwrap(), None);
    copies.drop().await;
}

/// Whoever looks and pauses does not take the replication over.
#[tokio::test(flavor = "multi_thread")]
async fn commands_claim_nothing() {
    let table = "create table t (id int primary key, v int)";
    let mut copies = Copies::of(VARIABLE, &[table], &[], vec![spec("t")]).await;
    let mut state = State::connect(&options(&copies.there), "r").await.unwrap();
    state.pause("me", "because").await.unwrap();
    assert_eq!(copies.target.state().pause_state().await.unwrap().unwrap().actor, "me");
    // The same again: its row is there, though nothing changes.
    state.resume().await.unwrap();
    state.resume().await.unwrap();
    assert_eq!(state.pause_state().await.unwrap(), None);
    let since = state.now().await.unwrap();
    state.verified("t", &since, 5, 0).await.unwrap();
    assert_eq!(state.verified("other", &since, 5, 0).await.unwrap_err().kind(), ErrorKind::NotFound);
    copies.run(&["insert into t values (1, 1)"]).await;
    copies.assert_equal().await;
    copies.drop().await;
}

/// A copy whose table is broken is held; the others go on, and the text says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_table_holds_its_copy_only() {
    let create = |table| format!("create table {table} (id int primary key, v int)");
    let mut copies =
        Copies::of(VARIABLE, &[&create("a"), &create("b")], &[], vec![spec("a"), spec("b")]).await;
    copies.run(&["insert into a values (1, 1)", "insert into b values (1, 1)"]).await;
    copies.there.run(&["alter table a drop column v"]).await;
    let applied = copies.run(&["begin", "update a set v = 2", "update b set v = 2", "commit"]).await;
    assert_eq!((applied.held.len(), applied.held[0].copy.as_str()), (1, "a"));
    assert_eq!(copies.ask("select v from b").await, ["2"]);
    let state =
        copies.ask("select concat(copy, state, coalesce(reason, '')) from outbox_copy order by copy").await;
    assert!(state[0].starts_with("aheldtable `a`") && state[1] == "bready", "{state:?}");
    copies.drop().await;
}

/// A20: a transaction that memory does not hold is applied as a whole, its unique values moving about.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_applied_as_a_whole() {
    const ROWS: usize = 6000;
    let table = "create table t (id int primary key, u int not null unique, v varchar(200))";
    let mut copies = Copies::of(VARIABLE, &[table], &[table], vec![spec("t")]).await;
    let rows: Vec<_> = (0..ROWS).map(|n| format!("({n}, {n}, repeat('x', 100))")).collect();
    let insert = format!("insert into t values {}", rows.join(", "));
    let reader = copies.there.connect().await;
    let reading = tokio::spawn(async move {
        let mut reader = reader;
        let mut seen = HashSet::new();
        loop {
            let count: Option<usize> = reader.query_first("select count(*) from t").await.unwrap();
            seen.insert(count.unwrap());
            if count.unwrap() > 1 {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let last = ROWS - 1;
    copies
        .source
        .run(&[
            "begin",
            &insert,
            &format!("update t set u = u + {ROWS} order by u desc"),
            &format!("update t set u = u - {ROWS} order by u"),
            &format!("update t set u = -1 where id = {last}"),
            &format!("update t set u = {last} where id = 0"),
            &format!("update t set u = 0 where id = {last}"),
            "delete from t where id = 7",
            "commit",
        ])
        .await;
    let txns = copies.read().await;
    assert_eq!(txns.len(), 1);
    let applied = copies.apply_within(txns, 64 << 10).await;
    assert_eq!(applied.set_aside, 0);
    copies.assert_equal().await;
    let seen = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    assert!(seen.is_subset(&HashSet::from([0, last])), "{seen:?}");
    copies.drop().await;
}

/// Rows that are few bytes in the log take many times that in memory: what counts is the latter.
#[tokio::test(flavor = "multi_thread")]
async fn small_rows_are_weighed_as_they_are_in_memory() {
    const ROWS: usize = 20_000;
    let tables = ["create table t (id int primary key)", "create table u (id int primary key)"];
    let mut copies = Copies::of(VARIABLE, &tables, &[], vec![spec("t"), spec("u")]).await;
    let rows: Vec<_> = (0..ROWS).map(|n| format!("({n})")).collect();
    let insert = format!("insert into t values {}", rows.join(", "));
    copies.source.run(&["insert into u values (1), (2)", &insert, "insert into u values (3)"]).await;
    let txns = copies.read().await;
    let [first, large, last] = txns.as_slice() else { panic!("{} transactions", txns.len()) };
    let limit = first.changes.weight_bytes() + large.changes.weight_bytes() + 1000;
    assert!(limit < 20 * ROWS as u64, "{limit} bytes of the log");
    let mut touches = 0;
    for has_window in [false, true] {
        let mut group = Group::new(&copies.plans, limit);
        for txn in [first, large] {
            assert!(group.fits(txn));
            let mut touch = |_: &Arc<CopyPlan>, _: &Key| touches += 1;
            let touched: Option<&mut outbox_relay::replication::Touched<'_>> =
                if has_window { Some(&mut touch) } else { None };
            assert_eq!(group.push(txn.clone(), touched).unwrap(), []);
            assert!(group.weight_bytes() <= limit, "{} bytes", group.weight_bytes());
        }
        assert!(!group.fits(last), "it is the last one of its group");
        if !has_window {
            copies.checkpoint.position = large.position.clone();
            copies.target.apply(group, &copies.checkpoint).await.unwrap();
        }
    }
    assert_eq!(touches, ROWS + 2, "whoever has a window open hears of every key, once");
    copies.apply(vec![last.clone()]).await;
    copies.assert_equal().await;
    copies.drop().await;
}

/// A column that the target would set to the time has the source's, whatever else of its row changes.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_the_target_would_touch_are_the_sources() {
    let table = "create table t (id int primary key, u int not null unique, v int, \
                 at timestamp(6) not null default current_timestamp(6) on update current_timestamp(6))";
    let mut copies = Copies::of(VARIABLE, &[table], &[table], vec![spec("t")]).await;
    let rows: Vec<_> = (1..=60).map(|n| format!("({n}, {n}, 0, '2001-02-03 04:05:06.7')")).collect();
    copies.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    let applied = copies.run(&["update t set v = 1, at = at where id <= 30"]).await;
    assert_eq!(applied.joined, 30);
    copies.assert_equal().await;
    // Parked on their way.
    copies
        .run(&[
            "begin",
            "update t set u = -u, at = at where id > 30",
            "update t set u = 91 + u, at = at where id > 30",
            "commit",
        ])
        .await;
    copies.assert_equal().await;
    let kept = copies.ask("select count(*) from t where at = '2001-02-03 04:05:06.7'").await;
    assert_eq!(kept, ["60"]);
    copies.drop().await;
}

/// A lock that somebody holds here is waited for, however often the server gives up.
#[tokio::test(flavor = "multi_thread")]
async fn locks_are_waited_for() {
    let table = "create table t (id int primary key, v int)";
    let mut copies = Copies::of(VARIABLE, &[table], &[], vec![spec("t")]).await;
    copies.run(&["insert into t values (1, 1), (2, 1)"]).await;
    copies.there.run(&["begin", "update t set v = 9 where id = 1"]).await;
    copies.source.run(&["update t set v = 2"]).await;
    let txns = copies.read().await;
    let mut other = copies.there.connect().await;
    let mut group = Group::new(&copies.plans, ROOMY);
    for txn in txns {
        group.push(txn, None).unwrap();
    }
    let Copies { target, checkpoint, there, .. } = &mut copies;
    let (applied, ()) = tokio::join!(target.apply(group, checkpoint), async {
        // Longer than the server waits for a lock.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let seen: Vec<i64> = other.query("select v from t order by id").await.unwrap();
        assert_eq!(seen, [1, 1], "nothing of it before all of it");
        there.run(&["rollback"]).await;
    });
    applied.unwrap();
    copies.assert_equal().await;
    copies.drop().await;
}

/// F02: connections are killed at any moment, within COMMIT too: nothing is lost, nothing done twice.
#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_neither_lose_nor_double() {
    const TXNS: usize = 120;
    let table = "create table t (id int primary key, v int)";
    // A trigger counts what an update does: a second application would show.
    let mut copies = Copies::of(
        VARIABLE,
        &[table],
        &[
            table,
            "create table counted (n int)",
            "create trigger counting after update on t for each row insert into counted values (1)",
        ],
        vec![spec("t")],
    )
    .await;
    copies.run(&["insert into t values (1, 0)"]).await;
    for _ in 0..TXNS {
        copies.source.run(&["update t set v = v + 1"]).await;
    }
    let txns = copies.read().await;
    let mut killer = copies.source.connect().await;
    let (database, own) = (copies.there.database.clone(), copies.there.connection.id());
    let killed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&killed);
    let killing = tokio::spawn(async move {
        loop {
            let sql = "select id from information_schema.processlist where db = ? and id <> ?";
            let ids: Vec<u64> = killer.exec(sql, (&database, own)).await.unwrap_or_default();
            for id in ids {
                let is_killed = killer.query_drop(format!("kill {id}")).await.is_ok();
                count.fetch_add(usize::from(is_killed), Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    });
    for (n, txn) in txns.into_iter().enumerate() {
        // The last ones in peace.
        if n == TXNS - 20 {
            killing.abort();
        }
        copies.apply(vec![txn]).await;
    }
    assert!(killed.load(Ordering::Relaxed) > 0, "nobody was killed");
    copies.assert_equal().await;
    assert_eq!(copies.ask("select count(*) from counted").await, [TXNS.to_string()]);
    copies.drop().await;
}

/// Random transactions over two tables with unique keys and keys that change, in groups of random size: after each
/// group the target is as the source was at that commit.
#[tokio::test(flavor = "multi_thread")]
async fn random_streams_end_equal_at_every_commit() {
    let tables = [
        "create table a (id int primary key, sku varchar(20) not null unique, n int null unique, v varchar(20))",
        "create table b (x int, y varchar(10), u int not null unique, w text, primary key (x, y))",
    ];
    let mut copies = Copies::of(VARIABLE, &tables, &tables, vec![spec("a"), spec("b")]).await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..250 {
        copies.source.run(&["begin"]).await;
        for _ in 0..rng.random_range(1..5) {
            // A statement may hit a unique key; then it has done nothing.
            let _ = copies.source.connection.query_drop(statement(&mut rng)).await;
        }
        copies.source.run(&["commit"]).await;
    }
    let txns = copies.read().await;
    let mut model: [BTreeMap<String, Projected>; 2] = Default::default();
    let mut rest = txns.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rng.random_range(1..=rest.len().min(12)));
        rest = later;
        for change in crate::source::changes(now) {
            follow(&copies, &mut model, &change);
        }
        let limit = if rng.random_bool(0.3) { 200 } else { ROOMY };
        if limit == ROOMY {
            copies.apply(now.to_vec()).await;
        } else {
            // Each is large.
            for txn in now {
                copies.apply_within(vec![txn.clone()], limit).await;
            }
        }
        for (plan, model) in model.iter().enumerate() {
            let expected: Vec<_> = model.values().cloned().collect();
            assert_eq!(copies.rows_there(plan).await, expected, "seed {seed}");
        }
    }
    copies.assert_equal().await;
    assert_eq!(copies.ask("select count(*) from outbox_aside").await, ["0"]);
    copies.drop().await;
}

fn statement(rng: &mut StdRng) -> String {
    let (p, q, r) = (rng.random_range(0..12), rng.random_range(0..12), rng.random_range(0..12));
    match rng.random_range(0..12) {
        0 | 1 => format!("insert into a values ({p}, 'S{q}', {r}, 'new')"),
        2 => format!("update a set sku = 's{q}', v = 'moved' where id = {p}"),
        3 => format!("update a set id = {q} where id = {p}"),
        4 => format!("update a set n = if(n = {q}, null, {q}) where id = {p}"),
        5 => format!("delete from a where id = {p}"),
        6 => format!("replace into a values ({p}, 'S{q}', {r}, 'replaced')"),
        7 => format!("insert into b values ({}, 'y{q}', {r}, repeat('w', {p}))", p % 4),
        8 => format!("update b set u = {q}, y = 'Y{r}' where u = {p}"),
        9 => format!("update b set x = {} where u = {p}", q % 4),
        10 => format!("update b set w = 'text' where x = {}", p % 4),
        _ => format!("delete from b where u = {p}"),
    }
}

fn follow(copies: &Copies, model: &mut [BTreeMap<String, Projected>; 2], change: &Change) {
    let at = copies.plans.iter().position(|plan| plan.source().1 == change.table.name).unwrap();
    let plan = &copies.plans[at];
    let project = |row: &Row| plan.project(&change.table, row.clone()).unwrap().unwrap();
    if let Some(before) = change.before().map(project) {
        assert!(model[at].remove(&format!("{:?}", plan.key(&before))).is_some());
    }
    if let Some(after) = change.after().map(project) {
        model[at].insert(format!("{:?}", plan.key(&after)), after);
    }
}

/// Values of every type, at random, rendered and inserted, come back as they were.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_survive() {
    let kinds = kinds();
    let names: Vec<_> = kinds.keys().copied().collect();
    let list: Vec<_> = names.iter().map(|name| format!("{name} {}", kinds[name])).collect();
    let create = format!("create table t (id int primary key, {}) default charset utf8mb4", list.join(", "));
    let mut copies = Copies::of(VARIABLE, &[&create], &[], vec![spec("t")]).await;
    let table = Arc::new(copies.source.select("t").await.0);
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rows = Vec::new();
    for id in 0..150 {
        let mut row = vec![Value::Int(id)];
        for name in &names {
            row.push(if rng.random_bool(0.05) { Value::Null } else { random(&mut rng, name) });
        }
        rows.push(Row(row));
    }
    let inserts = rows
        .iter()
        .map(|row| Change { table: Arc::clone(&table), image: Image::Insert { after: row.clone() } });
    let applied = copies.apply(vec![txn(inserts.collect())]).await;
    assert_eq!(applied.set_aside, 0, "{:?}", copies.ask("select reason from outbox_aside").await);
    assert_there(&mut copies, &table, &rows, seed).await;
    // And as keys, each of them: found again for a DELETE.
    let deletes = rows
        .iter()
        .map(|row| Change { table: Arc::clone(&table), image: Image::Delete { before: row.clone() } });
    let applied = copies.apply(vec![txn(deletes.collect())]).await;
    assert_eq!(applied.deleted, 150);
    copies.drop().await;
}

/// Names and types of columns, in an order that a seed does not depend on.
fn kinds() -> BTreeMap<&'static str, &'static str> {
    let mut kinds: BTreeMap<&str, &str> = super::APPLY_KINDS.iter().copied().collect();
    kinds.extend([
        ("i8", "tinyint"),
        ("u8", "tinyint unsigned"),
        ("i24", "mediumint"),
        ("i64", "bigint"),
        ("u64", "bigint unsigned"),
        ("f32", "float"),
        ("f64", "double"),
        ("de", "decimal(65,30)"),
        ("dec0", "decimal(10,0)"),
        ("bits", "bit(64)"),
        ("y", "year"),
        ("d", "date"),
        ("t", "time(6)"),
        ("dt", "datetime(6)"),
        ("ts", "timestamp(6) null"),
        ("vc", "varchar(60)"),
        ("ch", "char(20)"),
        ("tx", "text character set utf16"),
        ("bin", "binary(16)"),
        ("vb", "varbinary(40)"),
        ("bl", "blob"),
        ("en", "enum('S','it''s','ü','L\\\\')"),
        ("st", "set('a','b','c d')"),
        ("geo", "geometry"),
    ]);
    kinds
}

/// Fails unless the first copy has these rows.
async fn assert_there(
    copies: &mut Copies,
    table: &Arc<outbox_relay::change::Table>,
    rows: &[Row],
    seed: u64,
) {
    let there = copies.rows_there(0).await;
    let plan = Arc::clone(&copies.plans[0]);
    for (there, here) in there.iter().zip(crate::copies::projected(&plan, table, rows)) {
        for ((there, here), column) in there.0.iter().zip(&here.0).zip(&plan.image().columns) {
            assert_eq!(there, here, "seed {seed}, column {}", column.name);
        }
    }
    assert_eq!(there.len(), rows.len());
}

/// Many new rows are loaded as a file and many changes joined, of which each has only its new values: what comes of it is
/// the same, whatever the values.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_of_every_type_survive() {
    const ROWS: i64 = 2400;
    let mut kinds = kinds();
    // Rows with these go the other way.
    kinds.retain(|_, kind| !["bit", "geometry", "vector"].iter().any(|other| kind.starts_with(other)));
    let names: Vec<_> = kinds.keys().copied().collect();
    let list: Vec<_> = names.iter().map(|name| format!("{name} {}", kinds[name])).collect();
    let create = format!("create table t (id int primary key, {}) default charset utf8mb4", list.join(", "));
    let mut copies = Copies::of(VARIABLE, &[&create], &[], vec![spec("t")]).await;
    let table = Arc::new(copies.source.select("t").await.0);
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let value = |rng: &mut StdRng, name: &str| {
        if rng.random_bool(0.05) { Value::Null } else { random(rng, name) }
    };
    let mut rows: Vec<Row> = (0..ROWS)
        .map(|id| {
            let others = names.iter().map(|name| value(&mut rng, name));
            Row(std::iter::once(Value::Int(id)).chain(others).collect())
        })
        .collect();
    let insert =
        |row: &Row| Change { table: Arc::clone(&table), image: Image::Insert { after: row.clone() } };
    let applied = copies.apply(vec![txn(rows.iter().map(insert).collect())]).await;
    assert_eq!(applied.set_aside, 0, "{:?}", copies.ask("select reason from outbox_aside").await);
    assert_eq!(applied.upserted, ROWS as u64);
    assert!(applied.loaded >= ROWS as u64 / 10, "seed {seed}: {applied:?}");
    assert_there(&mut copies, &table, &rows, seed).await;

    // Every column once, some with another; and one row of those that change, which somebody had deleted.
    let mut changes = Vec::new();
    for (number, row) in rows.iter_mut().enumerate() {
        let before = row.clone();
        let column = number % names.len();
        for at in [column, if column % 3 == 0 { (column + 1) % names.len() } else { column }] {
            row.0[at + 1] = value(&mut rng, names[at]);
        }
        if *row != before {
            let image = Image::Update { before, after: row.clone() };
            changes.push(Change { table: Arc::clone(&table), image });
        }
    }
    let deleted = crate::source::int(changes[0].after().unwrap(), 0);
    copies.there.run(&[&format!("delete from t where id = {deleted}")]).await;
    let changed = changes.len() as u64;
    let applied = copies.apply(vec![txn(changes)]).await;
    assert_eq!((applied.set_aside, applied.upserted), (0, changed), "seed {seed}");
    assert!(applied.joined >= changed / 2, "seed {seed}: {changed}, {applied:?}");
    assert_there(&mut copies, &table, &rows, seed).await;

    // A column that becomes NULL everywhere.
    let mut changes = Vec::new();
    for row in &mut rows {
        let before = row.clone();
        row.0[1] = Value::Null;
        if *row != before {
            let image = Image::Update { before, after: row.clone() };
            changes.push(Change { table: Arc::clone(&table), image });
        }
    }
    let changed = changes.len() as u64;
    assert_eq!(copies.apply(vec![txn(changes)]).await.joined, changed, "seed {seed}");
    assert_there(&mut copies, &table, &rows, seed).await;
    copies.drop().await;
}

/// Keys of several columns, of bytes and of the largest numbers are found by a join; a key of 0 stays 0, also where the
/// target numbers rows.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_are_found_by_any_key() {
    let mut copies = Copies::of(
        VARIABLE,
        &[
            "create table t (k binary(16), n bigint unsigned, v int, primary key (k, n))",
            "create table numbered (id int primary key, b varbinary(9))",
        ],
        &[
            "create table t (k binary(16), n bigint unsigned, v int, primary key (k, n))",
            "create table numbered (id int auto_increment primary key, b varbinary(9))",
        ],
        vec![spec("t"), spec("numbered")],
    )
    .await;
    let rows: Vec<_> =
        (0..300_u64).map(|n| format!("(unhex(left(sha2({n}, 256), 32)), {}, 0)", u64::MAX - n)).collect();
    let numbered: Vec<_> = (0..300).map(|id| format!("({id}, x'00ff0a09')")).collect();
    let applied = copies
        .run(&[
            "set sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
            &format!("insert into t values {}", rows.join(", ")),
            &format!("insert into numbered values {}", numbered.join(", ")),
        ])
        .await;
    assert_eq!((applied.loaded, applied.upserted), (599, 600));
    copies.assert_equal().await;
    let applied = copies.run(&["update t set v = 1", "update numbered set b = x'5c'"]).await;
    assert_eq!(applied.joined, 600);
    copies.assert_equal().await;
    copies.drop().await;
}

/// What a load bends or skips goes the other way, which says what is wrong with which row; rows that were deleted by
/// hand come back when many change.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_or_joined_is_written_row_by_row() {
    let mut copies = Copies::of(
        VARIABLE,
        &["create table t (id int primary key, sku varchar(20) not null, v varchar(20), w int)"],
        &["create table t (id int primary key, sku varchar(20) not null unique, v varchar(8), w int)"],
        vec![spec("t")],
    )
    .await;
    let rows = |from: u32, to: u32| -> String {
        let rows: Vec<_> = (from..to).map(|id| format!("({id}, 's{id}', 'v', 0)")).collect();
        format!("insert into t values {}", rows.join(", "))
    };
    assert_eq!(copies.run(&[&rows(0, 500)]).await.loaded, 500);
    copies.assert_equal().await;
    // A value that is too long here, and a row that somebody has put in the way.
    copies.there.run(&["insert into t values (-1, 's777', 'mine', 0)"]).await;
    let applied = copies.run(&[&rows(500, 1000), "update t set v = 'more than eight' where id = 600"]).await;
    assert_eq!((applied.loaded, applied.upserted, applied.set_aside), (0, 498, 2));
    let reasons = copies.ask("select reason from outbox_aside order by reason").await;
    assert!(reasons[0].contains("longer") && reasons[1].contains("another row"), "{reasons:?}");
    // Both are mended. Where rows are set aside, rows are written whole.
    copies.there.run(&["delete from t where id = -1"]).await;
    let applied = copies.run(&["update t set v = 'short' where id in (600, 777)"]).await;
    assert_eq!((applied.set_aside, applied.joined), (0, 0));
    copies.assert_equal().await;
    copies.there.run(&["delete from t where id between 10 and 14"]).await;
    let applied = copies.run(&["update t set w = id"]).await;
    assert_eq!((applied.joined, applied.upserted, applied.drifted), (0, 999, 5));
    copies.assert_equal().await;
    let applied = copies.run(&["update t set w = id + 1, v = if(id % 2, v, 'even')"]).await;
    assert_eq!((applied.joined, applied.drifted), (1000, 0));
    copies.assert_equal().await;
    copies.drop().await;
}

/// Rows that are parked in a column of a unique key which itself does not change, and values longer than a statement.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_move_and_are_long() {
    let table =
        "create table t (id int primary key, a int not null, b int not null, v longtext, unique (a, b))";
    let mut copies = Copies::between(VARIABLE, VARIABLE, &[table], &[table], vec![spec("t")], |options| {
        outbox_relay::replication::TargetOptions { statement_bytes_max: 300_000, ..options }
    })
    .await;
    let rows: Vec<_> = (0..300).map(|id| format!("({id}, 1, {id}, 'v')")).collect();
    copies.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    let applied = copies.run(&["update t set b = b + 1 order by b desc"]).await;
    assert_eq!(applied.joined, 300);
    copies.assert_equal().await;
    // Thirty of these fit into a statement, two of the longer ones do not.
    let applied = copies.run(&["update t set v = repeat('ä', 4000 + id)"]).await;
    assert_eq!((applied.upserted, applied.set_aside), (300, 0));
    assert!(applied.joined >= 200, "{applied:?}");
    copies.assert_equal().await;
    copies.run(&["update t set v = repeat('long ', 40000 + id) where id < 30"]).await;
    copies.assert_equal().await;
    copies.drop().await;
}

fn random(rng: &mut StdRng, name: &str) -> Value {
    use outbox_relay::change::{Date, DateTime};
    let text = |rng: &mut StdRng, count: usize| -> String {
        const CHARACTERS: &[char] =
            &['a', 'Z', '\'', '"', '\\', '\0', '\n', '%', '?', '`', ' ', 'é', '中', '😀', '\u{1a}'];
        (0..count).map(|_| CHARACTERS[rng.random_range(0..CHARACTERS.len())]).collect()
    };
    let bytes = |rng: &mut StdRng, count: usize| -> Vec<u8> { (0..count).map(|_| rng.random()).collect() };
    let date = |rng: &mut StdRng| match rng.random_range(0..4) {
        0 => Date { year: 0, month: 0, day: 0 },
        1 => Date { year: 2024, month: rng.random_range(0..3), day: 0 },
        2 => Date { year: 2023, month: 2, day: rng.random_range(1..32) },
        _ => Date {
            year: rng.random_range(1..10_000),
            month: rng.random_range(1..13),
            day: rng.random_range(1..29),
        },
    };
    let length = rng.random_range(0..12);
    match name {
        "i8" => Value::Int(rng.random::<i8>().into()),
        "u8" => Value::UInt(rng.random::<u8>().into()),
        "i24" => Value::Int(rng.random_range(-8_388_608..8_388_608)),
        "i64" => Value::Int([i64::MIN, i64::MAX, rng.random()][rng.random_range(0..3)]),
        "u64" => Value::UInt([u64::MAX, 0, rng.random()][rng.random_range(0..3)]),
        "f32" => loop {
            let number =
                [f32::from_bits(rng.random()), -0.0, 0.1, f32::MAX, f32::MIN_POSITIVE / 4.0, 16_777_217.0];
            let number = number[rng.random_range(0..6)];
            if number.is_finite() {
                break Value::Float(number);
            }
        },
        "f64" => loop {
            let number = [f64::from_bits(rng.random()), -0.0, 0.1, f64::MAX, 5e-324, f64::MIN_POSITIVE / 3.0];
            let number = number[rng.random_range(0..6)];
            if number.is_finite() {
                break Value::Double(number);
            }
        },
        "de" => {
            let digits = |rng: &mut StdRng, count| -> String {
                (0..count).map(|_| char::from(b'0' + rng.random_range(0..10_u8))).collect()
            };
            // The first is no zero, as the server writes none there.
            let (first, whole) = (rng.random_range(1..10), rng.random_range(0..35));
            let (sign, whole, part) =
                (["", "-"][rng.random_range(0..2)], digits(rng, whole), digits(rng, 30));
            Value::Decimal(format!("{sign}{first}{whole}.{part}"))
        }
        "dec0" => Value::Decimal(rng.random_range(-9_999_999_999_i64..9_999_999_999).to_string()),
        "bits" => Value::Bit([u64::MAX, 1, rng.random()][rng.random_range(0..3)]),
        "y" => Value::Year([0, 1901, 2155, rng.random_range(1901..2156)][rng.random_range(0..4)]),
        "d" => Value::Date(date(rng)),
        "t" => Value::Time(
            [
                -3_020_399_000_000,
                3_020_399_000_000,
                -1,
                rng.random_range(-3_020_399_000_000..3_020_399_000_000),
            ][rng.random_range(0..4)],
        ),
        "dt" => {
            let date = date(rng);
            let is_zero = date.year == 0;
            let part = |rng: &mut StdRng, to: u32| if is_zero { 0 } else { rng.random_range(0..to) };
            Value::DateTime(DateTime {
                date,
                hour: part(rng, 24) as u8,
                minute: part(rng, 60) as u8,
                second: part(rng, 60) as u8,
                micros: part(rng, 1_000_000),
            })
        }
        "ts" => Value::Timestamp(
            [0, 1_000_000, 2_147_483_647_999_999, rng.random_range(1_000_000..2_147_483_647_000_000)]
                [rng.random_range(0..4)],
        ),
        "vc" | "tx" => Value::Text(text(rng, length)),
        // The server takes trailing spaces for padding.
        "ch" => Value::Text(text(rng, length).trim_end_matches(' ').to_owned()),
        "bin" => Value::Bytes(bytes(rng, 16)),
        "vb" | "bl" => Value::Bytes(bytes(rng, length)),
        "en" => Value::Text(["S", "it's", "ü", "L\\", ""][rng.random_range(0..5)].to_owned()),
        "st" => Value::Text(["", "a", "a,c d", "a,b,c d"][rng.random_range(0..4)].to_owned()),
        "geo" => {
            // SRID 0, then WKB of a point.
            let mut point = vec![0, 0, 0, 0, 1, 1, 0, 0, 0];
            for _ in 0..2 {
                point.extend(f64::from(rng.random_range(-90_000..90_000_i32)).to_le_bytes());
            }
            Value::Geometry(point)
        }
        "js" => {
            let documents = [
                "null",
                "2.0",
                "{\"a\": 1.5, \"b\": [1, \"it's \\\\ \\\"q\\\" 😀\"]}",
                "[]",
                "\"\\n\"",
                "-0.0",
            ];
            Value::Json(documents[rng.random_range(0..documents.len())].to_owned())
        }
        "vec" => Value::Vector((0..3).flat_map(|_| rng.random_range(-9.0..9.0_f32).to_le_bytes()).collect()),
        "uu" => {
            Value::Text(format!("{:08x}-0000-7000-8000-0000{:08x}", rng.random::<u32>(), rng.random::<u32>()))
        }
        "i4" => Value::Text(format!("10.1.{}.{}", rng.random::<u8>(), rng.random::<u8>())),
        "i6" => Value::Text(format!("fd00::{:x}", rng.random_range(1..65_536))),
        other => panic!("{other}"),
    }
}
