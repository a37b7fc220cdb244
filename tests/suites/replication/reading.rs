//! Transactions: whole, in order, each once, whatever happens to the connection; and what must not be passed over.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use outbox_relay::binlog::{Source, Step, follow};
use outbox_relay::change::{Image, Position, Row, Undecodable};
use outbox_tests::lab_client::PrivateServer;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{IS_MARIADB, KIND, VARIABLE};
use crate::proxy::{Harm, Proxy};
use crate::source::{TestSource, changes, first_error, inserted, int, until};

/// P10, F12: a writer writes while the source ends the reader's connection again and again, by GTID and by file.
#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_and_repeat_nothing() {
    const TXNS: i64 = 300;
    const ROWS: i64 = 3;
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table a (n int, row_ int, primary key (n, row_))", "create table b like a"]).await;
    let (user, url) = source.reader().await;
    let from = source.position().await;
    let by_file = Position { gtids: None, ..from.clone() };
    let readers: Vec<_> = [from, by_file]
        .into_iter()
        .map(|from| {
            let (url, tables) = (url.clone(), source.tables(&["a", "b"]));
            tokio::spawn(async move {
                let mut stream = follow(Source::new(url), tables, from);
                let mut seen = Vec::new();
                while seen.len() < TXNS as usize {
                    match stream.next().await.unwrap() {
                        Step::Txn(txn) if !txn.changes.is_empty() => seen.push(txn),
                        _ => {}
                    }
                }
                seen
            })
        })
        .collect();
    let mut killer = source.connect().await;
    let killing = tokio::spawn(async move {
        let mut killed = 0;
        loop {
            // MySQL's information_schema fails on statements of others that hold bytes.
            let sql = if IS_MARIADB {
                "select id from information_schema.processlist where user = ? and command like 'Binlog Dump%'"
            } else {
                "select processlist_id from performance_schema.threads \
                 where processlist_user = ? and processlist_command like 'Binlog Dump%'"
            };
            let ids: Vec<u64> = killer.exec(sql, (&user,)).await.unwrap();
            for id in ids {
                killed += u32::from(killer.query_drop(format!("kill {id}")).await.is_ok());
            }
            if killed > 12 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    });
    let mut n = 0;
    while n < TXNS {
        let rows: Vec<String> = (0..ROWS).map(|row| format!("({n}, {row})")).collect();
        let rows = rows.join(", ");
        source
            .run(&[
                "begin",
                &format!("insert into a values {rows}"),
                &format!("insert into b values {rows}"),
                "commit",
            ])
            .await;
        n += 1;
        if !killing.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    killing.await.unwrap();
    for reader in readers {
        let read =
            tokio::time::timeout(Duration::from_secs(120), reader).await.expect("not all came").unwrap();
        for (n, txn) in read.iter().enumerate() {
            let rows = inserted(std::slice::from_ref(txn));
            assert_eq!(rows, [vec![n as i64; 2 * ROWS as usize]], "whole, in order, once");
        }
    }
    source.drop().await;
}

/// D16: whatever the statement, the rows of the log are the rows of the table.
#[tokio::test(flavor = "multi_thread")]
async fn changes_put_together_are_the_table() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source
        .run(&[
            "create table t (id int primary key, u int unique, v varchar(100))",
            "create table other (id int primary key, v int)",
        ])
        .await;
    let from = source.position().await;
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..150 {
        let (a, b) = (rng.random_range(0..40), rng.random_range(0..40));
        let statement = match rng.random_range(0..11) {
            0 => format!("replace into t values ({a}, {b}, 'replaced')"),
            1 => format!(
                "insert into t values ({a}, {b}, 'new') on duplicate key update v = concat('again ', {b})"
            ),
            2 => format!("insert ignore into t values ({a}, {b}, 'ignored')"),
            3 => format!("insert ignore into t select id + 1, u + 1, v from t where id > {a}"),
            4 => format!(
                "update t join other on other.id = t.id set t.v = 'joined', other.v = {b} where t.id > {a}"
            ),
            5 => format!("delete t, other from t join other on other.id = t.id where t.id = {a}"),
            6 => format!("update ignore t set id = {b} where id = {a}"),
            7 => format!("insert ignore into other values ({a}, {b})"),
            8 => "begin".into(),
            9 => "rollback".into(),
            _ => "commit".into(),
        };
        source.run(&[&statement]).await;
    }
    source.run(&["commit"]).await;
    let mut rows: BTreeMap<i64, Row> = BTreeMap::new();
    for change in changes(&source.since(&["t"], &from).await) {
        if let Some(before) = change.before() {
            assert_eq!(rows.remove(&int(before, 0)).as_ref(), Some(before), "seed {seed}");
        }
        if let Some(after) = change.after() {
            assert_eq!(rows.insert(int(after, 0), after.clone()), None, "seed {seed}");
        }
    }
    let (_, selected) = source.select("t").await;
    assert_eq!(rows.into_values().collect::<Vec<_>>(), selected, "seed {seed}");
    source.drop().await;
}

/// D09, D10: prepared rows appear with XA COMMIT or never, also when reading begins anew in between.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_are_held_until_their_end() {
    // Of its own: whoever begins to read while a transaction is prepared has to refuse its commit.
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut source = TestSource::fresh_at(server.url().to_owned()).await;
    source.run(&["create table t (id int primary key)"]).await;
    let from = source.position().await;
    let xid = |name: &str| format!("'{}_{name}'", source.database);
    let (kept, dropped) = (xid("kept"), xid("dropped"));
    let mut stream = source.follow(&["t"], from.clone());
    for (id, xid) in [(1, &kept), (2, &dropped)] {
        // The one who prepares has to be gone before another may commit.
        let mut other = source.connect().await;
        other.query_drop(format!("xa start {xid}")).await.unwrap();
        other.query_drop(format!("insert into t values ({id})")).await.unwrap();
        other.query_drop(format!("xa end {xid}")).await.unwrap();
        other.query_drop(format!("xa prepare {xid}")).await.unwrap();
        other.disconnect().await.unwrap();
    }
    source.run(&["insert into t values (3)"]).await;
    let mark = source.mark().await;
    assert_eq!(inserted(&until(&mut stream, &mark).await), [[3]]);
    let stored: Position = stream.position().to_string().parse().unwrap();
    assert!(stored.replay_from.is_some());

    for statement in
        [format!("xa commit {kept}"), format!("xa rollback {dropped}"), "insert into t values (4)".into()]
    {
        // Until the server has noticed that the other one is gone.
        while source.connection.query_drop(&statement).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let mark = source.mark().await;
    let mut again = source.follow(&["t"], stored);
    for stream in [&mut stream, &mut again] {
        assert_eq!(inserted(&until(stream, &mark).await), [[1], [4]]);
        assert_eq!(stream.position().replay_from, None);
    }
    // One that was prepared before reading began cannot be known.
    source.drop().await;
}

/// Savepoints: what was rolled back to one does not appear.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_committed_appears() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key)"]).await;
    let from = source.position().await;
    source
        .run(&[
            "begin",
            "insert into t values (1)",
            "savepoint a",
            "insert into t values (2)",
            "savepoint b",
            "insert into t values (3)",
            "rollback to b",
            "insert into t values (4)",
            "rollback to a",
            "insert into t values (5)",
            "commit",
            "begin",
            "insert into t values (6)",
            "rollback",
        ])
        .await;
    assert_eq!(inserted(&source.since(&["t"], &from).await), [[1, 5]]);
    source.drop().await;
}

/// D21: events that take several packets, and transactions that go to disk.
#[tokio::test(flavor = "multi_thread")]
async fn large_rows_and_large_transactions_are_read_whole() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key, a longblob, b longblob)"]).await;
    let from = source.position().await;
    source
        .run(&[
            "insert into t values (1, repeat('a', 9000000), repeat('b', 9000000))",
            "begin",
            "insert into t values (2, 'x', null)",
            "insert into t values (3, repeat('y', 300000), null)",
            "update t set b = repeat('z', 200000) where id > 1",
            "commit",
        ])
        .await;
    let (_, selected) = source.select("t").await;
    let mark = source.mark().await;
    let limited = Source { memory_bytes_max: 64 << 10, ..source.source() };
    let mut stream = follow(limited, source.tables(&["t"]), from);
    let txns = until(&mut stream, &mark).await;
    assert_eq!(txns.len(), 2);
    let mut last = BTreeMap::new();
    // Twice, since changes may be asked for again.
    for _ in 0..2 {
        for change in changes(&txns) {
            let after = change.after().unwrap().clone();
            last.insert(int(&after, 0), after);
        }
        assert!(last.values().eq(&selected));
    }
    source.drop().await;
}

/// D22: the position moves with transactions that are of no interest.
#[tokio::test(flavor = "multi_thread")]
async fn other_transactions_move_the_position() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key)", "create table other (id int primary key)"]).await;
    let from = source.position().await;
    let inserts: Vec<String> = (0..200).map(|id| format!("insert into other values ({id})")).collect();
    source.run(&inserts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    source.run(&["analyze table other", "create table gone (id int)", "drop table gone"]).await;
    let mark = source.mark().await;
    let mut stream = source.follow(&["t"], from);
    assert!(until(&mut stream, &mark).await.is_empty());
    source.drop().await;
}

/// D24: new files between transactions.
#[tokio::test(flavor = "multi_thread")]
async fn new_files_leave_no_gap() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key)"]).await;
    let from = source.position().await;
    for id in 0..20 {
        source.run(&[&format!("insert into t values ({id})"), "flush binary logs"]).await;
    }
    let mark = source.mark().await;
    for from in [Position { gtids: None, ..from.clone() }, Position { file: None, ..from }] {
        let mut stream = source.follow(&["t"], from);
        assert_eq!(inserted(&until(&mut stream, &mark).await).concat(), (0..20).collect::<Vec<_>>());
    }
    source.drop().await;
}

/// L02 in small: rows come with the table as it was, DDL as statements between them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_come_with_the_table_of_their_time() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key, a varchar(5), b varchar(5))"]).await;
    let from = source.position().await;
    source
        .run(&[
            "insert into t values (1, 'a', 'b')",
            "alter table t change a c varchar(5), change b a varchar(5)",
            "insert into t values (2, 'c', 'a')",
            "alter table t drop column c",
            "insert into t values (3, 'a')",
            "create table made as select * from t",
        ])
        .await;
    let mark = source.mark().await;
    let mut stream = source.follow(&["t", "made"], from);
    let (mut seen, mut ddl) = (Vec::new(), Vec::new());
    while stream.position().has_reached(&mark) != Some(true) {
        let Step::Txn(txn) = stream.next().await.unwrap() else { continue };
        ddl.extend(txn.statements.into_iter().filter(|s| s.database == source.database).map(|s| s.sql));
        for change in txn.changes.iter().unwrap().map(Result::unwrap) {
            let names: Vec<_> = change.table.columns.iter().map(|column| column.name.clone()).collect();
            seen.push((change.table.name.clone(), int(change.after().unwrap(), 0), names.join(" ")));
        }
    }
    let expected = [
        ("t", 1, "id a b"),
        ("t", 2, "id c a"),
        ("t", 3, "id a"),
        ("made", 1, "id a"),
        ("made", 2, "id a"),
        ("made", 3, "id a"),
    ];
    let expected = expected.map(|(table, id, columns)| (table.to_owned(), id, columns.to_owned()));
    assert_eq!(seen, expected);
    assert!(ddl.len() >= 3 && ddl[0].starts_with("alter table t change"), "{ddl:?}");
    source.drop().await;
}

/// D01: rows without all columns hold the table and say why, while others go on.
#[tokio::test(flavor = "multi_thread")]
async fn rows_without_all_columns_hold_their_table_only() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source
        .run(&[
            "create table t (id int primary key, a int, b int)",
            "create table other (id int primary key)",
            "insert into t values (1, 1, 1)",
        ])
        .await;
    let from = source.position().await;
    source
        .run(&[
            "set session binlog_row_image = 'minimal'",
            "begin",
            "update t set b = 2",
            "insert into other values (5)",
            "commit",
            "set session binlog_row_image = 'full'",
        ])
        .await;
    let txns = source.since(&["t", "other"], &from).await;
    let found: Vec<_> = txns[0].changes.iter().unwrap().collect();
    let error = found[0].as_ref().unwrap_err();
    let why: &Undecodable = error.downcast_ref().expect("an Undecodable");
    assert_eq!((why.database.as_str(), why.table.as_str()), (source.database.as_str(), "t"));
    assert!(why.reason.contains("binlog_row_image = 'FULL'"), "{why}");
    assert!(matches!(found[1].as_ref().unwrap().image, Image::Insert { .. }));
    source.drop().await;
}

/// Changes that were logged as statements are not passed over.
#[tokio::test(flavor = "multi_thread")]
async fn changes_logged_as_statements_stop_the_reader() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source
        .run(&["create table subscribed_table (id int primary key)", "create table t2 (id int primary key)"])
        .await;
    let from = source.position().await;
    source.run(&["set session binlog_format = 'statement'", "insert into t2 values (1)"]).await;
    source.run(&["insert into subscribed_table values (1)"]).await;
    let mut stream = source.follow(&["subscribed_table"], from);
    let error = first_error(&mut stream).await;
    assert!(error.to_string().contains("SET GLOBAL binlog_format = 'ROW'"), "{error}");
    source.drop().await;
}

/// F08: a second reader under the same id is told so and does not disturb the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_id_that_is_taken_is_refused() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key)"]).await;
    let from = source.position().await;
    let settings = Source { server_id: Some(rand::random_range(100_000..1_000_000)), ..source.source() };
    let mut first = follow(settings.clone(), source.tables(&["t"]), from.clone());
    source.run(&["insert into t values (1)"]).await;
    let mark = source.mark().await;
    assert_eq!(inserted(&until(&mut first, &mark).await), [[1]]);
    let mut second = follow(settings, source.tables(&["t"]), from);
    let error = first_error(&mut second).await;
    assert!(error.to_string().contains("is taken"), "{error}");
    source.run(&["insert into t values (2)"]).await;
    let mark = source.mark().await;
    assert_eq!(inserted(&until(&mut first, &mark).await), [[2]]);
    source.drop().await;
}

/// P1, P3: a place that the source does not have is an error, never "from now".
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_does_not_exist_is_an_error() {
    let source = TestSource::fresh(VARIABLE).await;
    let gtids = if IS_MARIADB { "mariadb:0-1-999999999999" } else { "file:bin.999999:4" };
    for position in [gtids, "file:nonsense.000001:4"] {
        let mut stream = source.follow(&["t"], position.parse().unwrap());
        let error = first_error(&mut stream).await;
        assert!(!error.is_outage(), "{error}");
    }
    let other = if IS_MARIADB { "mysql:" } else { "mariadb:0-1-1" };
    let error = first_error(&mut source.follow(&["t"], other.parse().unwrap())).await;
    assert!(error.to_string().contains("the position is"), "{error}");
    source.drop().await;
}

/// D06, F09: a proxy damages a byte, then goes silent; each is noticed, and nothing is lost or repeated.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_silent_connections_are_made_again() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key, v varchar(20))"]).await;
    let from = source.position().await;
    let proxy = Proxy::start(&source.url).await;
    let mut stream = follow(Source::new(&proxy.url), source.tables(&["t"]), from);
    let mut seen = Vec::new();
    for (id, harm) in [Harm::None, Harm::Damage, Harm::Silence, Harm::None].into_iter().enumerate() {
        proxy.harm.send_replace(harm);
        source.run(&[&format!("insert into t values ({id}, 'needle')")]).await;
        let mark = source.mark().await;
        seen.extend(inserted(&until(&mut stream, &mark).await));
    }
    assert_eq!(seen, [[0], [1], [2], [3]]);
    assert!(proxy.connections() >= 3, "{} connections to the log", proxy.connections());
    source.drop().await;
}

/// An event that takes longer to come than a silent source is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_event_may_come_slowly() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key, v mediumtext)"]).await;
    let from = source.position().await;
    let proxy = Proxy::start(&source.url).await;
    let settings = Source { heartbeat: Duration::from_millis(300), ..Source::new(&proxy.url) };
    let mut stream = follow(settings, source.tables(&["t"]), from);
    source.run(&["insert into t values (1, 'x')"]).await;
    let mark = source.mark().await;
    assert_eq!(inserted(&until(&mut stream, &mark).await).len(), 1);
    let connections = proxy.connections();
    proxy.slowness.store(16 << 10, std::sync::atomic::Ordering::Relaxed);
    source.run(&["insert into t values (2, repeat('y', 400000))"]).await;
    let mark = source.mark().await;
    let came = tokio::time::timeout(Duration::from_secs(30), until(&mut stream, &mark)).await;
    assert_eq!(crate::source::changes(&came.expect("it is read again and again")).len(), 1);
    assert_eq!(proxy.connections(), connections, "the connection was made again");
    source.drop().await;
}

/// A quiet source: the end is reached although no transaction came.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_reached_without_a_transaction() {
    // A server of its own, where nobody else writes.
    let server = PrivateServer::spawn(KIND).unwrap();
    let source = TestSource::fresh_at(server.url().to_owned()).await;
    let from = Position { file: None, ..source.position().await };
    let mark = source.mark().await;
    let mut stream = source.follow(&["t"], from);
    assert!(until(&mut stream, &mark).await.is_empty());
}

/// P1: what the source has purged is never passed over, by GTID and by file.
#[tokio::test(flavor = "multi_thread")]
async fn purged_files_are_an_error() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut source = TestSource::fresh_at(server.url().to_owned()).await;
    source.run(&["create table t (id int primary key)"]).await;
    let from = source.position().await;
    source.run(&["insert into t values (1)", "flush binary logs", "insert into t values (2)"]).await;
    let last = source.mark().await.file.unwrap().name;
    // A server keeps a file until its engine needs it no longer, which it finds out when something is written.
    for id in 3.. {
        source
            .run(&[&format!("insert into t values ({id})"), &format!("purge binary logs to '{last}'")])
            .await;
        let first: Option<mysql_async::Row> =
            source.connection.query_first("show binary logs").await.unwrap();
        if first.unwrap().get::<String, _>(0).as_deref() == Some(last.as_str()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for from in [Position { gtids: None, ..from.clone() }, Position { file: None, ..from }] {
        let error = first_error(&mut source.follow(&["t"], from)).await;
        assert!(error.to_string().contains("have to be built anew"), "{error}");
    }
}
