//! Copies that are made while their tables are written, made anew while they are read, and followed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use outbox_relay::config::{ReplicationConfig, ReplicationTableConfig};
use outbox_relay::replication::report;
use outbox_relay::replication::status::State;
use outbox_tests::lab_client::PrivateServer;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use super::{KIND, VARIABLE};
use crate::pair::Pair;
use crate::source::TestSource;

/// A table with a key that is hard to page by: its name, columns, and the key of a number.
struct Hard {
    name: &'static str,
    columns: &'static str,
    key: fn(u32) -> String,
    shown: &'static str,
}

const HARD: &[Hard] = &[
    Hard {
        name: "negative",
        columns: "id bigint primary key, v int, pad varchar(200)",
        key: |n| (i64::from(n) * 7 - 9000).to_string(),
        shown: "id, v, pad",
    },
    Hard {
        name: "words",
        columns: "id varchar(40) collate utf8mb4_unicode_ci primary key, v int, pad varchar(200)",
        key: |n| format!("'{}{n}'", ["ß", "é", "E", "ss", "_%"][n as usize % 5]),
        shown: "hex(id), v, pad",
    },
    Hard {
        name: "pairs",
        columns: "a varchar(20) collate utf8mb4_unicode_ci, b int unsigned, v int, pad varchar(200), primary key (a, b)",
        key: |n| format!("'{}', {}", ["x", "Y", "ä"][n as usize % 3], n / 3),
        shown: "hex(a), b, v, pad",
    },
    Hard {
        name: "bytes",
        columns: "id binary(16) primary key, v int, pad varchar(200)",
        key: |n| format!("unhex(rpad(lpad(hex({n} * 7919 % 65536), 4, '0'), 32, '00'))"),
        shown: "hex(id), v, pad",
    },
    Hard {
        name: "amounts",
        columns: "id decimal(12,3) primary key, v int, pad varchar(200)",
        key: |n| format!("{}.{:03}", i64::from(n) - 800, n % 1000),
        shown: "id, v, pad",
    },
    Hard {
        name: "kinds",
        columns: "kind enum('z', 'b', 'a'), n smallint, v int, pad varchar(200), primary key (kind, n)",
        key: |n| format!("'{}', {}", ["z", "b", "a"][n as usize % 3], i64::from(n / 3) - 200),
        shown: "kind, n, v, pad",
    },
];

const KEYS: u32 = 1600;

async fn make_hard(source: &mut TestSource) {
    for hard in HARD {
        source.run(&[&format!("create table {} ({})", hard.name, hard.columns)]).await;
        // Two of three keys are there.
        let keys: Vec<_> = (0..KEYS).filter(|n| n % 3 != 1).collect();
        for keys in keys.chunks(400) {
            let rows: Vec<_> =
                keys.iter().map(|n| format!("({}, 0, repeat('p', 100))", (hard.key)(*n))).collect();
            source.run(&[&format!("insert into {} values {}", hard.name, rows.join(", "))]).await;
        }
    }
}

/// Writers that change all the tables in transactions until they are told to stop.
fn write(source: &TestSource, writers: u64, stop: &Arc<AtomicBool>, made: &Arc<AtomicU32>) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for seed in 0..writers {
        let (stop, made) = (Arc::clone(stop), Arc::clone(made));
        let connecting = mysql_async::Opts::from_url(&source.url).unwrap();
        let database = source.database.clone();
        running.spawn(async move {
            let mut connection = Conn::new(connecting).await.unwrap();
            connection.query_drop(format!("use {database}")).await.unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            while !stop.load(Ordering::Relaxed) {
                let mut statements = vec!["begin".to_owned()];
                for _ in 0..rng.random_range(1..5) {
                    let hard = &HARD[rng.random_range(0..HARD.len())];
                    let key = (hard.key)(rng.random_range(0..KEYS));
                    let v = rng.random_range(1..1_000_000);
                    let by = match hard.name {
                        "pairs" => format!("(a, b) = ({key})"),
                        "kinds" => format!("(kind, n) = ({key})"),
                        _ => format!("id = {key}"),
                    };
                    statements.push(match rng.random_range(0..10) {
                        0..4 => format!(
                            "insert into {0} values ({key}, {v}, 'new') on duplicate key update v = {v}",
                            hard.name
                        ),
                        4..7 => format!("update {} set v = {v} where {by}", hard.name),
                        7..9 => format!("delete from {} where {by}", hard.name),
                        _ => format!("replace into {} values ({key}, {v}, 'replaced')", hard.name),
                    });
                }
                statements.push(if rng.random_range(0..10) == 0 { "rollback" } else { "commit" }.into());
                for statement in statements {
                    if connection.query_drop(&statement).await.is_err() {
                        // A deadlock with another writer.
                        let _ = connection.query_drop("rollback").await;
                        break;
                    }
                }
                made.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        });
    }
    running
}

async fn ended(stop: &Arc<AtomicBool>, mut writers: JoinSet<()>) {
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}

async fn assert_all_equal(pair: &mut Pair) {
    for hard in HARD {
        pair.assert_equal(hard.name, hard.shown).await;
    }
}

/// N08 and the handing over: every row once, whatever the key's type, while the tables are written.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_copied_while_they_are_written() {
    let mut pair = Pair::fresh(VARIABLE).await;
    make_hard(&mut pair.source).await;
    pair.copy(&HARD.iter().map(|hard| hard.name).collect::<Vec<_>>());
    let (stop, made) = (Arc::default(), Arc::default());
    let writers = write(&pair.source, 4, &stop, &made);
    let running = pair.run();
    let live = running.until_live().await;
    assert!(live.progress.copies.iter().all(|copy| copy.state == "ready"), "{live:?}");
    assert!(live.progress.copies.iter().all(|copy| copy.rows_copied > 500), "{live:?}");
    assert!(made.load(Ordering::Relaxed) > 0, "nothing was written meanwhile");
    ended(&stop, writers).await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    assert_all_equal(&mut pair).await;
    let fresh: u64 = pair.asked("select count(*) from outbox_freshness where ready and consistent").await;
    assert_eq!(fresh, HARD.len() as u64);
    pair.drop().await;
}

/// Crashes at random places of snapshot and stream lose and repeat nothing.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_lose_nothing() {
    let mut pair = Pair::fresh(VARIABLE).await;
    make_hard(&mut pair.source).await;
    pair.copy(&HARD.iter().map(|hard| hard.name).collect::<Vec<_>>());
    let (stop, made) = (Arc::default(), Arc::default());
    let writers = write(&pair.source, 2, &stop, &made);
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..25 {
        let running = pair.run();
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300) + round * 8)).await;
        running.abort().await;
    }
    ended(&stop, writers).await;
    assert_eq!(pair.until_idle().await, None);
    assert_all_equal(&mut pair).await;
    pair.drop().await;
}

/// A copy that is added while another one is followed, and one that is taken away.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_added_while_another_is_followed() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table a (id int primary key, v int)",
            "create table b (id int primary key, v int)",
            "insert into a values (1, 1)",
            "insert into b values (1, 1), (2, 2)",
        ])
        .await;
    pair.copy(&["a"]);
    assert_eq!(pair.until_idle().await, None);
    pair.source.run(&["update a set v = 2", "update b set v = 7 where id = 1"]).await;
    pair.copy(&["b"]);
    let running = pair.run();
    let both = running
        .until("both are there", |s| s.progress.copies.iter().filter(|c| c.state == "ready").count() == 2);
    both.await;
    pair.source.run(&["begin", "update a set v = 3", "update b set v = 3", "commit"]).await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("a", "id, v").await;
    pair.assert_equal("b", "id, v").await;
    // Out of the configuration it must not look fresh.
    pair.config.table.remove(0);
    let left = pair.until_idle().await.expect("a is left");
    assert!(
        left.copies[0].copy == "a" && left.copies[0].reason.contains("not in the configuration"),
        "{left:?}"
    );
    let ready: bool = pair.asked("select ready from outbox_freshness where copy = 'a'").await;
    assert!(!ready);
    pair.drop().await;
}

/// N07: a reader never misses a row while the copy is made anew, and what somebody else did to it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_made_anew_in_place() {
    const ROWS: u64 = 4000;
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key, v int, pad varchar(200))"]).await;
    for from in (0..ROWS).step_by(1000) {
        let rows: Vec<_> =
            (from..from + 1000).map(|id| format!("({}, 0, repeat('x', 90))", id * 2)).collect();
        pair.source.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    }
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    // Nobody logs these: the stream cannot mend them.
    pair.target
        .run(&["update t set v = 9 where id < 100", "insert into t values (101, 1, ''), (99999, 1, '')"])
        .await;
    let mut reader = pair.target.connect().await;
    let stop = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let row: Option<u32> = reader.query_first("select id from t where id = 4000").await.unwrap();
                assert_eq!(row, Some(4000), "the row blinked");
                let count: Option<u64> = reader.query_first("select count(*) from t").await.unwrap();
                assert!(count >= Some(ROWS), "the count dipped to {count:?}");
                reads += 1;
            }
            reads
        }
    });
    report::remake(&pair.config, Some("t")).await.unwrap();
    pair.source.run(&["update t set v = v + 1 where id % 8 = 0"]).await;
    running.until("the request is seen", |s| s.progress.copies.iter().any(|c| c.state == "copying")).await;
    running.until_live().await;
    stop.store(true, Ordering::Relaxed);
    assert!(reading.await.unwrap() > 0);
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v, pad").await;
    pair.drop().await;
}

/// A reader that joins two copies sees whole transactions only, also while a copy is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn no_reader_sees_half_a_transaction() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table product (id int primary key, version int)",
            "create table category (id int primary key, version int)",
            "insert into product values (1, 0), (2, 0), (3, 0)",
            "insert into category values (1, 0), (2, 0), (3, 0)",
        ])
        .await;
    pair.copy(&["product", "category"]);
    let running = pair.run();
    running.until_live().await;
    let mut reader = pair.target.connect().await;
    let stop = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let sql = "select count(*), count(distinct version) from \
                       (select p.version from product p join category c using (id) union all \
                        select c.version from product p join category c using (id)) as v";
            while !stop.load(Ordering::Relaxed) {
                let seen: Option<(u64, u64)> = reader.query_first(sql).await.unwrap();
                assert_eq!(seen, Some((6, 1)), "rows, versions");
            }
        }
    });
    for version in 1..120 {
        if version == 40 {
            report::remake(&pair.config, Some("category")).await.unwrap();
        }
        pair.source
            .run(&[
                "begin",
                &format!("update product set version = {version}"),
                &format!("update category set version = {version}"),
                "commit",
            ])
            .await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.until("the request is seen", |s| s.progress.copies.iter().all(|c| c.state == "ready")).await;
    stop.store(true, Ordering::Relaxed);
    reading.await.unwrap();
    running.end().await;
    pair.until_idle().await;
    pair.assert_equal("product", "id, version").await;
    pair.drop().await;
}

/// Transactions that touch far more keys than may be remembered, while the tables are copied: by a key whose order
/// is known, and by one whose order only the database knows.
#[tokio::test(flavor = "multi_thread")]
async fn large_transactions_may_touch_all_of_a_table_that_is_copied() {
    const ROWS: u32 = 30_000;
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table numbers (id int primary key, v int, pad varchar(200))",
            "create table words (id varchar(40) collate utf8mb4_unicode_ci primary key, v int, pad varchar(200))",
        ])
        .await;
    for from in (0..ROWS).step_by(5000) {
        for (table, key) in [("numbers", ""), ("words", "'a key of some length ")] {
            let end = if key.is_empty() { "" } else { "'" };
            let rows: Vec<_> =
                (from..from + 5000).map(|n| format!("({key}{n}{end}, 0, repeat('p', 150))")).collect();
            pair.source.run(&[&format!("insert into {table} values {}", rows.join(", "))]).await;
        }
    }
    // An eighth of it may go to such keys: those of 10,000 of these words.
    pair.config.memory_bytes = (8 << 20).into();
    pair.copy(&["numbers", "words"]);
    let running = pair.run();
    let mut copying = 0;
    for n in 1..=3 {
        let is_begun = |copy: &outbox_relay::replication::status::CopyStatus| copy.rows_copied > 0;
        running
            .until("both have begun", |s| s.progress.copies.iter().filter(|c| is_begun(c)).count() == 2)
            .await;
        copying += u32::from(running.status.snapshot().state == State::Copying);
        let mut statements = vec!["begin".to_owned()];
        for table in ["numbers", "words"] {
            statements.push(format!("update {table} set v = v + {n}"));
            statements
                .push(format!("delete from {table} where pad like 'p%' and v % 7 = 3 and id like '%{n}7'"));
        }
        statements.push(format!("insert into numbers values (-{n}, 0, 'new'), ({}, 0, 'new')", ROWS + n));
        statements.push(format!("insert into words values ('A {n}', 0, 'new'), ('z {n}', 0, 'new')"));
        statements.push("commit".into());
        let statements: Vec<_> = statements.iter().map(String::as_str).collect();
        pair.source.run(&statements).await;
    }
    assert!(copying > 0, "the copies were complete before the first of them");
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    for table in ["numbers", "words"] {
        pair.assert_equal(table, "id, v, pad").await;
    }
    pair.drop().await;
}

/// Columns, names and rows of its own; M01: what is not copied writes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_columns_and_rows_it_asks_for() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source
        .run(&[
            "create table product (id int primary key, name varchar(50), price decimal(10,2), stock int, status varchar(9))",
            "insert into product values (1, 'a', 1.50, 5, 'on'), (2, 'b', 2, 5, 'draft'), (3, 'c', 3, 5, 'on')",
        ])
        .await;
    pair.config.table.push(ReplicationTableConfig {
        target: Some("product_copy".into()),
        columns: ["id", "name", "price as unit_price"].map(str::to_owned).into(),
        filter: Some("status <> 'draft'".into()),
        create: true,
        ..ReplicationTableConfig::new(format!("{}.product", pair.source.database))
    });
    let running = pair.run();
    let live = running.until_live().await;
    // What comes while the copy is being made is written, whatever it changes; after this it is not made any more.
    pair.source.run(&["update product set name = 'A' where id = 1"]).await;
    let before = running.until("a change came", |s| s.progress.upserted > live.progress.upserted).await;
    pair.source
        .run(&["update product set stock = stock + 1", "update product set stock = 0 where id = 1"])
        .await;
    pair.source
        .run(&[
            "update product set status = 'on' where id = 2",
            "update product set status = 'draft' where id = 3",
        ])
        .await;
    let after = running.until("both changes came", |s| {
        s.progress.upserted + s.progress.deleted >= before.progress.upserted + 2
    });
    let after = after.await;
    assert_eq!((after.progress.upserted - before.progress.upserted, after.progress.deleted), (1, 1));
    let rows: String = pair
        .asked("select group_concat(id, name, unit_price order by id separator ' ') from product_copy")
        .await;
    assert_eq!(rows, "1A1.50 2b2.00");
    running.end().await;
    pair.drop().await;
}

/// XA: seen only after its commit, never after a rollback, through a restart in between.
#[tokio::test(flavor = "multi_thread")]
async fn xa_transactions_wait_for_their_commit() {
    // Of its own: whoever begins to read while a transaction is prepared has to refuse its commit.
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source.run(&["create table t (id int primary key)", "insert into t values (0)"]).await;
    pair.copy(&["t"]);
    assert_eq!(pair.until_idle().await, None);
    let (kept, dropped) = (format!("'{}k'", pair.source.database), format!("'{}d'", pair.source.database));
    let mut other = pair.source.connect().await;
    for (connection, xid, id) in [(&mut pair.source.connection, &kept, 1), (&mut other, &dropped, 2)] {
        for sql in [
            format!("xa start {xid}"),
            format!("insert into t values ({id})"),
            format!("xa end {xid}"),
            format!("xa prepare {xid}"),
        ] {
            connection.query_drop(sql).await.unwrap();
        }
    }
    // As far as the log is, the target is: without the prepared rows.
    assert_eq!(pair.until_idle().await, None);
    let count: u64 = pair.asked("select count(*) from t").await;
    assert_eq!(count, 1);
    pair.source.run(&[&format!("xa commit {kept}")]).await;
    other.query_drop(format!("xa rollback {dropped}")).await.unwrap();
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id").await;

    // One that begins while a transaction is prepared would not know its rows: it waits, and says for what.
    for sql in ["xa start 'early'", "insert into t values (3)", "xa end 'early'", "xa prepare 'early'"] {
        other.query_drop(sql).await.unwrap();
    }
    report::remake(&pair.config, None).await.unwrap();
    let running = pair.run();
    let is_told = |state: &State| matches!(state, State::Paused { why } if why.contains("X'6561726c79'"));
    running.until("it waits for the transaction", |snapshot| is_told(&snapshot.state)).await;
    other.query_drop("xa commit 'early'").await.unwrap();
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id").await;
    pair.target.drop().await;
}

/// Two replications of one source go on by themselves: one whose target is away delays nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_delays_no_other() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key)", "insert into t values (1)"]).await;
    pair.copy(&["t"]);
    let away = ReplicationConfig {
        name: "away".into(),
        // Nobody listens there.
        target: outbox_relay::config::Secret::new("mysql://root@127.0.0.1:1/nowhere"),
        ..pair.config.clone()
    };
    let shutdown = outbox_relay::CancellationToken::new();
    let away = outbox_relay::replication::Replication::from_config(&away).unwrap();
    let (here, away_status) = (pair.replication(), away.status());
    let status = here.status();
    let all = tokio::spawn(outbox_relay::replication::run_all(vec![away, here], shutdown.clone()));
    crate::pair::until(|| status.snapshot().state == outbox_relay::replication::status::State::Live).await;
    crate::pair::until(|| away_status.snapshot().state.name() == "paused").await;
    shutdown.cancel();
    all.await.unwrap();
    pair.assert_equal("t", "id").await;
    pair.drop().await;
}

/// What `status` says of a copy that is half done, also when nothing runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_tells_how_long_a_copy_takes() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key)", "insert into t values (1)"]).await;
    pair.copy(&["t"]);
    assert_eq!(pair.until_idle().await, None);
    assert_eq!(report::Report::of(&pair.config).await.copies[0].eta_seconds, None);
    pair.target
        .run(&["update outbox_copy set state = 'copying', rows_copied = 50, rows_estimated = 150, \
                started_at = utc_timestamp(6) - interval 10 second"])
        .await;
    let report = report::Report::of(&pair.config).await;
    let left = report.copies[0].eta_seconds.expect("it is told");
    assert!((20..60).contains(&left), "{left}");
    assert!(report.to_string().contains(&format!("50 of about 150 rows, {left} s left")), "{report}");
    // A copy that begins anew has not been at it since the first time.
    report::remake(&pair.config, Some("t")).await.unwrap();
    assert_eq!(report::Report::of(&pair.config).await.copies[0].eta_seconds, None);
    pair.drop().await;
}
