//! What comes between while a replication runs: a deadlock at the target, a line cut within a transaction, a clock that is
//! wrong, no place on the disk for a large transaction.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_relay::config::Secret;

use super::{IS_MARIADB, MANY, VARIABLE};
use crate::pair::{Pair, TIMEOUT, until};
use crate::program::Program;
use crate::proxy::{Harm, Proxy};

/// Larger than what this replication holds in memory of one transaction.
const LARGE: u32 = 40_000;

async fn made(columns: &str) -> Pair {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&[&format!("create table t (id int primary key, {columns})"), MANY]).await;
    pair.copy(&["t"]);
    pair
}

/// One transaction of many rows after this id; in its middle stands the word that a proxy looks for.
async fn large(pair: &mut Pair, after: u32) {
    let rows = format!(
        "insert into t with recursive n as (select 1 as i union all select i + 1 from n where i < {LARGE}) \
         select {after} + i, if(i between {0} and {0} + 50, repeat('needle ', 70), repeat('x', 500)) from n",
        LARGE / 2
    );
    pair.source.run(&[&rows]).await;
}

async fn until_there(pair: &mut Pair, rows: u64) {
    let began = Instant::now();
    loop {
        // A program that has just started has yet to create the table.
        let count: mysql_async::Result<Option<u64>> =
            pair.target.connection.query_first("select count(*) from t").await;
        if matches!(count, Ok(Some(count)) if count == rows) {
            return;
        }
        assert!(began.elapsed() < TIMEOUT, "{count:?}, not {rows} rows");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// F11: a transaction at the target and the relay's have locked what the other wants. The lighter one, the relay's, is
/// rolled back as a whole and tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_at_the_target_is_borne() {
    let mut pair = made("v int").await;
    let rows: Vec<_> = (1..=900).map(|id| format!("({id}, 0)")).collect();
    pair.source.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    let running = pair.run();
    running.until_live().await;
    pair.target.run(&["create table ballast as select * from t"]).await;
    for round in 1..=5 {
        let mut rival = pair.target.connect().await;
        // What has changed more is not the one that is given up.
        for sql in ["begin", "update ballast set v = v + 1", "select v from t where id = 800 for update"] {
            rival.query_drop(sql).await.unwrap();
        }
        pair.source.run(&[&format!("update t set v = {round} where id in (100, 800)")]).await;
        let connections = if IS_MARIADB {
            "select id from information_schema.processlist where db = database()"
        } else {
            "select processlist_id from performance_schema.threads where processlist_db = database()"
        };
        let waits = format!(
            "select count(*) from information_schema.innodb_trx where trx_state = 'LOCK WAIT' \
             and trx_mysql_thread_id in ({connections})"
        );
        let began = Instant::now();
        while pair.asked::<u64>(&waits).await == 0 {
            assert!(began.elapsed() < TIMEOUT, "the relay does not wait for the row");
            // InnoDB brings the table up to date only when nobody has looked for a tenth of a second.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        // Closes the circle: it returns at once, as the relay's transaction has been rolled back.
        rival.query_drop("select v from t where id = 100 for update").await.unwrap();
        let seen: Option<i32> = rival.query_first("select v from t where id = 100").await.unwrap();
        assert_eq!(seen, Some(round - 1), "nothing of the transaction is there");
        rival.query_drop("commit").await.unwrap();
        let sql = format!("select count(*) from t where v = {round}");
        let began = Instant::now();
        while pair.asked::<u64>(&sql).await != 2 {
            assert!(began.elapsed() < TIMEOUT, "{:?}", running.status.snapshot());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    running.until_live().await;
    running.end().await;
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// F12: what was read of the transaction is forgotten, and it is read from its beginning; nobody sees a part of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_cut_within_a_large_transaction_repeats_it_from_its_beginning() {
    let mut pair = made("v varchar(500)").await;
    let proxy = Proxy::start(pair.config.source.expose()).await;
    pair.config.source = Secret::new(&proxy.url);
    let running = pair.run();
    running.until_live().await;
    for round in 0..2_u32 {
        proxy.harm.send_replace(Harm::Cut);
        let connections = proxy.connections();
        large(&mut pair, round * LARGE).await;
        until(|| *proxy.harm.borrow() == Harm::None).await;
        // Once more in the next try.
        proxy.harm.send_replace(Harm::Cut);
        let (before, all) = (u64::from(round * LARGE), u64::from((round + 1) * LARGE));
        let began = Instant::now();
        loop {
            let count: u64 = pair.asked("select count(*) from t").await;
            assert!(count == before || count == all, "a part of it is seen: {count}");
            if count == all {
                break;
            }
            assert!(began.elapsed() < TIMEOUT, "{:?}", running.status.snapshot());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(*proxy.harm.borrow() == Harm::None && proxy.connections() >= connections + 2);
    }
    running.end().await;
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// What the package `faketime` brings; `cargo lab install` installs it.
fn faketime() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib").unwrap().flatten().find_map(|entry| {
        let path = entry.path().join("faketime/libfaketime.so.1");
        path.exists().then_some(path)
    });
    found.expect("libfaketime.so.1 is missing: run `cargo lab install`")
}

/// F14: the lag is told by the source's clock, whatever the relay's says.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_of_the_relay_changes_no_lag() {
    let mut pair = made("v int").await;
    for (id, offset) in [(1, "+10m"), (2, "-10m")] {
        let mut relay = Program::with(&pair, None);
        relay.environment = vec![
            ("LD_PRELOAD", faketime().display().to_string()),
            ("FAKETIME", offset.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let there = Command::new("date").arg("+%s").envs(relay.environment.iter().cloned()).output().unwrap();
        let there: i64 = String::from_utf8(there.stdout).unwrap().trim().parse().unwrap();
        let here =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((there - here).abs() > 500, "the clock is not shifted");
        let mut process = relay.start(&["run"]);
        let began = Instant::now();
        pair.source.run(&[&format!("insert into t values ({id}, 0)")]).await;
        until_there(&mut pair, id).await;
        // Twice what a quiet replication takes to write its state.
        let seen = "select concat_ws(' ', lag_ms, timestampdiff(second, as_of, utc_timestamp())) from outbox_freshness";
        while began.elapsed() < Duration::from_secs(22) {
            let state: String = pair.asked(seen).await;
            let (lag_ms, age_s) = state.split_once(' ').unwrap();
            let (lag_ms, age_s): (i64, i64) = (lag_ms.parse().unwrap(), age_s.parse().unwrap());
            assert!(
                (0..20_000).contains(&lag_ms) && (-2..40).contains(&age_s),
                "{offset}: {state}: {}",
                relay.log()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        process.kill().unwrap();
        process.wait().unwrap();
    }
    pair.drop().await;
}

/// F17: a large transaction finds no place for what memory does not hold. It is read again until there is one, from its
/// beginning; that is said, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_waits_for_its_place_on_the_disk() {
    let mut pair = made("v varchar(500)").await;
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let mut relay = Program::with(&pair, None);
    relay.environment = vec![("TMPDIR", spool.display().to_string())];
    let mut process = relay.start(&["run"]);
    pair.source.run(&["insert into t values (-1, 'small')"]).await;
    until_there(&mut pair, 1).await;
    for round in 0..2_u32 {
        let said = relay.log().matches("writing a large transaction to disk").count();
        large(&mut pair, round * LARGE).await;
        until(|| relay.log().matches("writing a large transaction to disk").count() > said + 1).await;
        assert!(process.try_wait().unwrap().is_none(), "{}", relay.log());
        until_there(&mut pair, u64::from(round * LARGE) + 1).await;
        std::fs::create_dir(&spool).unwrap();
        until_there(&mut pair, u64::from((round + 1) * LARGE) + 1).await;
        std::fs::remove_dir_all(&spool).unwrap();
    }
    process.kill().unwrap();
    process.wait().unwrap();
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}
