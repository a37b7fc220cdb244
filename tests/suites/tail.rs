//! `mode = "tail"` on PostgreSQL: commits ring, whatever becomes of the bell. Its tests for MySQL and MariaDB stand in
//! `relays/tail.rs`.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{OutboxConnection as _, migrate};
use outbox_relay::check::{self, Finding, Level};
use outbox_relay::config::{Environment, Mode, Secret, from_text};
use outbox_relay::outbox::store::{Database, Store};
use outbox_relay::{BellState, OutboxConfig};
use outbox_tests::lab_client::AMQP_URL;

use super::Connection;
use super::database::{connect, fresh, ledger_entries, message, outbox_is_empty};
use super::end_to_end::{RelayTask, assert_ledger_is_whole, config, make_accounts, step_accounts, subscribe};
use crate::harness::{TestDatabase, program, server_url, unique, until};

/// The longest wait of a poll in tests that must not pass by polling.
const NEVER: Duration = Duration::from_secs(60);
/// How long a ring may take on a busy machine: far less than [`NEVER`].
const RUNG: Duration = Duration::from_secs(25);

fn with_bell() -> TestDatabase {
    let database = fresh();
    connect(&database).batch_execute(migrate::POSTGRES_BELL).unwrap();
    database
}

fn tail(database: &TestDatabase) -> OutboxConfig {
    OutboxConfig { mode: Mode::Tail, ..config(database) }
}

/// A relay that finds a message only by being told of it, once its bell is heard.
async fn told(database: &TestDatabase) -> RelayTask {
    let config = OutboxConfig { poll_max: NEVER.into(), ..tail(database) };
    let relay = RelayTask::start(config, MemoryBroker::new());
    heard(&relay).await;
    relay
}

async fn heard(relay: &RelayTask) {
    until("the bell is heard", || {
        let now = relay.now();
        async move { now.bell == BellState::Heard && !now.held.is_empty() }
    })
    .await;
}

/// Waits for so many published messages, less long than the next poll would take.
async fn published(relay: &RelayTask, count: u64) {
    let published = until("it is published", || {
        let published = relay.now().published;
        async move { published >= count }
    });
    tokio::time::timeout(RUNG, published).await.expect("nothing rang, or nobody heard it");
}

fn record(connection: &mut Connection, keys: impl IntoIterator<Item = u32>) {
    let written = connection.outbox_transaction(|tx| {
        for key in keys {
            tx.record_message(message(&key.to_string(), "made"));
        }
        Ok(())
    });
    written.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_published_when_it_rings() {
    let source = with_bell();
    let relay = told(&source).await;
    let mut writer = connect(&source);
    for count in 1..=5 {
        record(&mut writer, [1]);
        published(&relay, count).await;
    }
    assert_eq!(relay.now().rings, 5);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_rings_once_if_it_commits_and_never_if_not() {
    let source = with_bell();
    let relay = told(&source).await;
    let mut writer = connect(&source);
    for _ in 0..3 {
        let rolled_back: outbox_core::Result<()> = writer.transaction(|connection| {
            connection.record_in_open_transaction(|tx| {
                tx.record_message(message("gone", "made"));
                Ok(())
            })?;
            Err(outbox_core::Error::application("rolled back on purpose"))
        });
        assert!(rolled_back.is_err());
    }
    let twice = writer.transaction(|connection| {
        for key in ["a", "b"] {
            connection.record_in_open_transaction(|tx| {
                tx.record_message(message(key, "made"));
                Ok(())
            })?;
        }
        Ok::<_, outbox_core::Error>(())
    });
    twice.unwrap();
    published(&relay, 2).await;
    assert_eq!(relay.now().rings, 1, "rings arrive in the order of the commits");

    // Nothing is there to be read when this rings.
    let columns = "message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload";
    writer
        .batch_execute(&format!("insert into outbox ({columns}) select {columns} from outbox where false"))
        .unwrap();
    record(&mut writer, [3]);
    published(&relay, 3).await;
    let now = relay.now();
    assert_eq!((now.published, now.rings, now.bell), (3, 3, BellState::Heard));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_rings_then() {
    let source = with_bell();
    let relay = told(&source).await;
    let (inserted, wait_inserted) = mpsc::channel();
    let (commit, wait_commit) = mpsc::channel::<()>();
    let mut slow = connect(&source);
    let slow = tokio::task::spawn_blocking(move || {
        let written = slow.transaction(|connection| {
            connection.record_in_open_transaction(|tx| {
                tx.record_message(message("slow", "made"));
                Ok(())
            })?;
            inserted.send(()).unwrap();
            wait_commit.recv().unwrap();
            Ok::<_, outbox_core::Error>(())
        });
        written.unwrap();
    });
    wait_inserted.recv().unwrap();
    let mut quick = connect(&source);
    record(&mut quick, [1]);
    published(&relay, 1).await;
    commit.send(()).unwrap();
    slow.await.unwrap();
    published(&relay, 2).await;
    relay.stop().await;
}

/// What was committed in buckets that nobody held has rung in vain.
#[tokio::test(flavor = "multi_thread")]
async fn buckets_taken_over_are_read_without_a_ring() {
    let source = with_bell();
    let first = told(&source).await;
    let second = told(&source).await;
    until("each has its half", || {
        let halves = [&first, &second].map(|relay| relay.now().held.len());
        async move { halves == [32, 32] }
    })
    .await;
    first.abort().await;
    record(&mut connect(&source), 0..200);
    published(&second, 200).await;
    second.stop().await;
}

/// Ends the connections that listen; how many there were.
fn silence(connection: &mut Connection) -> i64 {
    let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                 where datname = current_database() and application_name = 'outbox-relay-bell'";
    #[derive(QueryableByName)]
    struct Ended {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        count: i64,
    }
    diesel::sql_query(ended).get_result::<Ended>(connection).unwrap().count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_whose_connection_is_killed_comes_back_and_nothing_is_lost() {
    let (source, target) = (with_bell(), fresh());
    let broker = MemoryBroker::new();
    let (shutdown, subscription, stats) = subscribe("sub", broker.clone(), &target).await;
    let relay = RelayTask::start(tail(&source), broker);
    heard(&relay).await;

    let mut connection = connect(&source);
    let accounts = make_accounts(&mut connection, 8);
    let (url, stop) = (source.url.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let writing = tokio::task::spawn_blocking(move || {
        step_accounts(&url, &accounts, 2, Duration::from_millis(4), |_| !stopped.load(Ordering::Relaxed))
    });
    let mut killed = 0;
    until("the bell was killed ten times", || {
        killed += silence(&mut connection);
        async move { killed >= 10 }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let steps = writing.await.unwrap();
    let mut reader = connect(&target);
    until("every step is in the ledger", || {
        let all = ledger_entries(&mut reader).len() >= steps;
        async move { all }
    })
    .await;
    assert_ledger_is_whole(&mut connection, &mut reader);
    assert_eq!(ledger_entries(&mut reader).len(), steps);

    heard(&relay).await;
    let rings = relay.now().rings;
    record(&mut connection, [1]);
    until("it rings again", || {
        let rung = relay.now().rings > rings;
        async move { rung }
    })
    .await;
    until("the outbox is empty", || {
        let empty = outbox_is_empty(&mut connection);
        async move { empty }
    })
    .await;
    assert_eq!(stats.set_aside(), 0);
    relay.stop().await;
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_alternate_under_load_and_nothing_is_lost() {
    let (source, target) = (with_bell(), fresh());
    let broker = MemoryBroker::new();
    let (shutdown, subscription, stats) = subscribe("sub", broker.clone(), &target).await;
    let mut connection = connect(&source);
    let accounts = make_accounts(&mut connection, 8);
    let (url, stop) = (source.url.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let writing = tokio::task::spawn_blocking(move || {
        step_accounts(&url, &accounts, 2, Duration::from_millis(4), |_| !stopped.load(Ordering::Relaxed))
    });
    let modes = [Mode::Poll, Mode::Tail];
    for (run, mode) in modes.iter().cycle().take(6).enumerate() {
        let relay = RelayTask::start(OutboxConfig { mode: *mode, ..config(&source) }, broker.clone());
        until("it has published some", || {
            let published = relay.now().published;
            async move { published > 20 }
        })
        .await;
        // Killed ones leave their leases, and the next one waits for those.
        if run % 3 == 2 { relay.abort().await } else { relay.stop().await }
    }
    stop.store(true, Ordering::Relaxed);
    let steps = writing.await.unwrap();
    let last = RelayTask::start(tail(&source), broker);
    let mut reader = connect(&target);
    until("every step is in the ledger", || {
        let all = ledger_entries(&mut reader).len() >= steps;
        async move { all }
    })
    .await;
    assert_ledger_is_whole(&mut connection, &mut reader);
    assert_eq!(ledger_entries(&mut reader).len(), steps);
    assert_eq!(stats.set_aside(), 0);
    last.stop().await;
    shutdown.cancel();
    subscription.await.unwrap().unwrap();
}

/// What `check` says of the doorbell.
async fn finding(database: &TestDatabase, mode: &str) -> Option<Finding> {
    let text = format!(
        "[broker]\nurl = \"amqp://127.0.0.1:1\"\n[[outbox]]\nname = \"items\"\ndatabase = {:?}\nmode = {mode:?}\n",
        database.url
    );
    let findings = check::all(&from_text(&text, &Environment::default()).unwrap()).await;
    findings.into_iter().find(|finding| finding.text.contains("outbox_bell"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_that_is_missing_or_broken_is_told_and_the_relay_polls() {
    let source = fresh();
    let mut connection = connect(&source);
    let missing = finding(&source, "tail").await.unwrap();
    assert_eq!((missing.level, missing.fix.as_deref()), (Level::Bad, Some("outbox-relay migrate")));
    assert_eq!(finding(&source, "poll").await, None);

    let relay = RelayTask::start(tail(&source), MemoryBroker::new());
    record(&mut connection, [1]);
    published(&relay, 1).await;
    until("the silence is told", || {
        let bell = relay.now().bell;
        async move { matches!(bell, BellState::Silent { why } if why.contains("missing; outbox-relay migrate")) }
    })
    .await;

    let mut store = Store::new(Database::parse(&Secret::new(&source.url)).unwrap(), "");
    store.install_bell().await.unwrap();
    heard(&relay).await;
    assert_eq!(finding(&source, "tail").await.unwrap().level, Level::Ok);
    let poll = finding(&source, "poll").await.unwrap();
    assert_eq!(poll.level, Level::Warning);

    connection.batch_execute("alter table outbox disable trigger outbox_bell").unwrap();
    let disabled = finding(&source, "tail").await.unwrap();
    assert_eq!(disabled.level, Level::Bad);
    connection.batch_execute(&disabled.fix.unwrap()).unwrap();
    assert_eq!(finding(&source, "tail").await.unwrap().level, Level::Ok);
    connection.batch_execute("create or replace function outbox_bell() returns trigger language plpgsql as 'begin return null; end'").unwrap();
    assert_eq!(finding(&source, "tail").await.unwrap().level, Level::Bad);

    connection.batch_execute(&poll.fix.unwrap()).unwrap();
    assert_eq!(finding(&source, "poll").await, None);
    record(&mut connection, [2]);
    published(&relay, 2).await;
    relay.stop().await;
}

#[test]
fn the_verbs_install_and_show_it_where_it_is_asked_for() {
    let database = fresh();
    let folder = tempfile::tempdir().unwrap();
    let run = |mode: &str, arguments: &[&str]| {
        let (amqp, exchange) = (server_url(AMQP_URL), unique("ex"));
        let text = format!(
            "[broker]\nurl = {amqp:?}\nexchange = {exchange:?}\n\
             [[outbox]]\nname = \"items\"\ndatabase = {:?}\nmode = {mode:?}\n",
            database.url
        );
        std::fs::write(folder.path().join("outbox-relay.toml"), text).unwrap();
        let mut relay = Command::new(program("outbox-relay"));
        let output = relay.args(arguments).current_dir(folder.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, out) = run("poll", &["migrate"]);
    assert!(code == 0 && out.contains("up to date"), "{out}");
    assert_eq!(run("tail", &["check"]).0, 1);
    let (code, out) = run("tail", &["migrate"]);
    assert!(code == 0 && out.contains("outbox_bell"), "{out}");
    let (code, out) = run("tail", &["migrate"]);
    assert!(code == 0 && out.contains("up to date"), "{out}");
    let (code, out) = run("tail", &["check"]);
    assert!(code == 0 && out.contains("a ring arrives"), "{out}");
    record(&mut connect(&database), [1]);
    assert_eq!(run("tail", &["run", "--until-idle"]).0, 0);
    let (_, out) = run("tail", &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status[0]["bell"], serde_json::json!({"trigger": "ready", "listeners": 0}));
    assert!(outbox_is_empty(&mut connect(&database)));
}
