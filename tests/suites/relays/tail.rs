//! `mode = "tail"` by the binary log: commits ring, whatever becomes of the bell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::OutboxConnection as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_relay::check::{self, Finding, Level};
use outbox_relay::config::{Environment, Mode, from_text};
use outbox_relay::outbox::store::{Database, Store};
use outbox_relay::{BellState, OutboxConfig};
use outbox_tests::lab_client::PrivateServer;

use super::database::{connect, connect_url, fresh, message, outbox_is_empty, with_tables};
use super::{Connection, KIND, SERVER};
use crate::certificates::Authority;
use crate::harness::{Server, TestDatabase, unique, until, until_within};
use crate::running::{Arrivals, Running, config, record};

/// The longest wait of a poll in tests that must not pass by polling.
const NEVER: Duration = Duration::from_secs(60);
/// How long a ring may take on a busy machine, whose log is everybody's.
const RUNG: Duration = Duration::from_secs(50);

fn tail(url: &str) -> OutboxConfig {
    OutboxConfig { mode: Mode::Tail, ..config(url) }
}

/// A relay that finds a message only by being told of it, once its bell is heard.
async fn told(url: &str, broker: &MemoryBroker) -> Running {
    told_as(tail(url), broker).await
}

async fn told_as(config: OutboxConfig, broker: &MemoryBroker) -> Running {
    let relay = Running::start(OutboxConfig { poll_max: NEVER.into(), ..config }, broker);
    heard(&relay).await;
    relay
}

async fn heard(relay: &Running) {
    until_within(Duration::from_secs(120), "the bell is heard", || {
        let now = relay.now();
        async move { now.bell == BellState::Heard && !now.held.is_empty() }
    })
    .await;
}

/// Waits for so many published messages, less long than the next poll would take.
async fn published(relay: &Running, count: u64) {
    until_within(RUNG, "something rings", || {
        let published = relay.now().published;
        async move { published >= count }
    })
    .await;
}

/// A user with rights on the tables alone, and the outbox's URL for it.
fn user_of(source: &TestDatabase) -> (String, String) {
    let name = unique("u");
    let mut url = url::Url::parse(&source.url).unwrap();
    let database = url.path().trim_start_matches('/').to_owned();
    connect(source)
        .batch_execute(&format!(
            "create user {name}@'%' identified by 'secret'; \
             grant select, insert, update, delete on {database}.* to {name}@'%'"
        ))
        .unwrap();
    url.set_username(&name).unwrap();
    url.set_password(Some("secret")).unwrap();
    (name, url.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_published_when_it_rings() {
    let source = fresh();
    let relay = told(&source.url, &MemoryBroker::new()).await;
    let mut writer = connect(&source);
    for count in 1..=5 {
        let rolled_back: outbox_core::Result<()> = writer.transaction(|connection| {
            connection.record_in_open_transaction(|tx| {
                tx.record_message(message("gone", "made"));
                Ok(())
            })?;
            Err(outbox_core::Error::application("rolled back on purpose"))
        });
        assert!(rolled_back.is_err());
        record(&mut writer, &["a".into(), "b".into()], count);
        published(&relay, 2 * count as u64).await;
    }
    assert_eq!(relay.now().rings, 5, "once for each transaction that committed");
    relay.stop().await;
}

/// The server takes no connection without TLS, that of a reader of its log least of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_rings_over_tls() {
    let authority = Authority::new();
    let server = PrivateServer::spawn_with_tls(KIND, authority.folder(), false).unwrap();
    // The C library takes `localhost` for a socket, and the server's certificate has that name.
    let service = |database: &str| {
        let mut url = url::Url::parse(server.url()).unwrap();
        url.set_path(database);
        let ca = authority.ca();
        url.query_pairs_mut()
            .append_pair("ssl_mode", "verify_ca")
            .append_pair("ssl_ca", ca.to_str().unwrap());
        connect_url(url.as_str())
    };
    service("").batch_execute("create database shop").unwrap();
    let mut url = url::Url::parse(server.url()).unwrap();
    url.set_host(Some("localhost")).unwrap();
    url.set_path("shop");
    let config = OutboxConfig { tls: true, ca: Some(authority.ca()), ..tail(url.as_str()) };
    assert!(config.problems().is_empty(), "{:?}", config.problems());
    let mut store = Store::new(Database::of(&config).unwrap(), "");
    store.migrate(&outbox_core::migrate::OUTBOX).await.unwrap();

    let more = format!("tls = true\nca = {:?}\n", authority.ca());
    let found = findings_with(url.as_str(), &more).await;
    assert_eq!(of_log(&found).level, Level::Ok, "{found:?}");
    let relay = told_as(config, &MemoryBroker::new()).await;
    record(&mut service("shop"), &["a".into()], 1);
    published(&relay, 1).await;
    assert_eq!(relay.now().rings, 1);
    relay.stop().await;
}

/// A server that compares names without case finds a database by any spelling; its log has the stored one.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_rings_in_a_database_of_another_case() {
    let server = PrivateServer::spawn_lower_case(KIND).unwrap();
    let at = |database: &str| {
        let mut url = url::Url::parse(server.url()).unwrap();
        url.set_path(database);
        url.to_string()
    };
    connect_url(&at("")).batch_execute("create database Shop").unwrap();
    let config = tail(&at("SHOP"));
    let mut store = Store::new(Database::of(&config).unwrap(), "");
    store.migrate(&outbox_core::migrate::OUTBOX).await.unwrap();
    let relay = told_as(config, &MemoryBroker::new()).await;
    record(&mut connect_url(&at("shop")), &["a".into()], 1);
    published(&relay, 1).await;
    assert_eq!(relay.now().rings, 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_rings_for_the_relay_that_may_read_it() {
    let (source, broker) = (fresh(), MemoryBroker::new());
    let first = told(&source.url, &broker).await;
    let second = told(&source.url, &broker).await;
    until("each has its half", || {
        let halves = [&first, &second].map(|relay| relay.now().held.len());
        async move { halves == [32, 32] }
    })
    .await;
    let mut writer = connect(&source);
    let keys: Vec<String> = (0..40).map(|key| format!("key-{key}")).collect();
    for key in &keys {
        record(&mut writer, std::slice::from_ref(key), 1);
    }
    until_within(RUNG, "all are published", || {
        let sum = first.now().published + second.now().published;
        async move { sum >= 40 }
    })
    .await;
    let rings = [&first, &second].map(|relay| relay.now().rings);
    assert!(rings[0] + rings[1] == 40 && rings[0] > 0 && rings[1] > 0, "{rings:?}");

    // What was committed in buckets that nobody held has rung in vain.
    let before = second.now().published;
    first.abort().await;
    record(&mut writer, &keys, 2);
    published(&second, before + 40).await;
    second.stop().await;
}

/// Ends the connections over which a user reads the log; how many there were.
fn silence(connection: &mut Connection, user: &str) -> usize {
    #[derive(QueryableByName)]
    struct Process {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        id: i64,
    }
    let sql = match SERVER {
        Server::Mariadb => {
            "select cast(id as signed) as id from information_schema.processlist \
             where user = ? and command like 'Binlog Dump%'"
        }
        _ => {
            "select cast(processlist_id as signed) as id from performance_schema.threads \
             where processlist_user = ? and processlist_command like 'Binlog Dump%'"
        }
    };
    let found: Vec<Process> =
        diesel::sql_query(sql).bind::<diesel::sql_types::Text, _>(user).load(connection).unwrap();
    let kill = |process: Process| connection.batch_execute(&format!("kill {}", process.id)).is_ok();
    found.into_iter().map(kill).filter(|killed| *killed).count()
}

/// Writes to these keys until it is told to stop; the last sequence.
fn write_on(source: &TestDatabase, keys: &[String], stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<i64> {
    let (mut writer, keys, stop) = (connect(source), keys.to_vec(), Arc::clone(stop));
    tokio::task::spawn_blocking(move || {
        let mut sequence = 0;
        while !stop.load(Ordering::Relaxed) {
            sequence += 1;
            record(&mut writer, &keys, sequence);
            std::thread::sleep(Duration::from_millis(5));
        }
        sequence
    })
}

async fn all_arrive(arrivals: &Arrivals, keys: &[String], last: i64) {
    let all: BTreeMap<String, i64> = keys.iter().map(|key| (key.clone(), last)).collect();
    until("all has arrived, in order", || async { arrivals.tally().check(&all).is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_whose_connection_is_killed_comes_back_and_nothing_is_lost() {
    let (source, broker) = (fresh(), MemoryBroker::new());
    let arrivals = Arrivals::of(&broker).await;
    let (user, url) = user_of(&source);
    let mut root = connect(&source);
    root.batch_execute(&format!("grant replication slave, replication client on *.* to {user}@'%'")).unwrap();
    let relay = Running::start(tail(&url), &broker);
    heard(&relay).await;
    let keys: Vec<String> = (0..8).map(|key| format!("key-{key}")).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = write_on(&source, &keys, &stop);
    let mut killed = 0;
    until("the bell was killed four times", || {
        killed += silence(&mut root, &user);
        async move { killed >= 4 }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let last = writing.await.unwrap();
    all_arrive(&arrivals, &keys, last).await;

    heard(&relay).await;
    let rings = relay.now().rings;
    record(&mut root, &keys, last + 1);
    until("it rings again", || {
        let rung = relay.now().rings > rings;
        async move { rung }
    })
    .await;
    all_arrive(&arrivals, &keys, last + 1).await;
    until("the outbox is empty", || {
        let empty = outbox_is_empty(&mut root);
        async move { empty }
    })
    .await;
    relay.stop().await;
    root.batch_execute(&format!("drop user {user}@'%'")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_alternate_under_load_and_nothing_is_lost() {
    let (source, broker) = (fresh(), MemoryBroker::new());
    let arrivals = Arrivals::of(&broker).await;
    let keys: Vec<String> = (0..8).map(|key| format!("key-{key}")).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = write_on(&source, &keys, &stop);
    for (run, mode) in [Mode::Poll, Mode::Tail].iter().cycle().take(6).enumerate() {
        let relay = Running::start(OutboxConfig { mode: *mode, ..config(&source.url) }, &broker);
        until("it has published some", || {
            let published = relay.now().published;
            async move { published > 20 }
        })
        .await;
        // Killed ones leave their leases, and the next one waits for those.
        if run % 3 == 2 { relay.abort().await } else { relay.stop().await }
    }
    stop.store(true, Ordering::Relaxed);
    let last = writing.await.unwrap();
    let relay = Running::start(tail(&source.url), &broker);
    all_arrive(&arrivals, &keys, last).await;
    relay.stop().await;
}

/// What `check` says of tail mode, and of rights.
async fn findings(url: &str) -> Vec<Finding> {
    findings_with(url, "").await
}

/// The same with more keys of the outbox.
async fn findings_with(url: &str, more: &str) -> Vec<Finding> {
    let text = format!(
        "[broker]\nurl = \"amqp://127.0.0.1:1\"\n[[outbox]]\nname = \"items\"\ndatabase = {url:?}\nmode = \"tail\"\n{more}"
    );
    check::all(&from_text(&text, &Environment::default()).unwrap()).await
}

fn of_log(findings: &[Finding]) -> &Finding {
    let found =
        findings.iter().find(|f| f.text.contains("tail") || f.text.contains("binary log can be read"));
    found.unwrap_or_else(|| panic!("{findings:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_told_and_the_relay_polls() {
    let (source, broker) = (fresh(), MemoryBroker::new());
    let (user, url) = user_of(&source);
    let before = findings(&url).await;
    let denied = of_log(&before);
    assert_eq!(denied.level, Level::Bad, "{denied}");
    let grant = denied.fix.clone().unwrap();
    assert_eq!(grant, format!("grant replication slave, replication client on *.* to '{user}'@'%';"));

    let relay = Running::start(tail(&url), &broker);
    let mut root = connect(&source);
    record(&mut root, &["a".into()], 1);
    published(&relay, 1).await;
    until("the silence is told", || {
        let bell = relay.now().bell;
        async move { matches!(bell, BellState::Silent { why } if why.to_lowercase().contains("access denied")) }
    })
    .await;

    root.batch_execute(&grant).unwrap();
    heard(&relay).await;
    let after = findings(&url).await;
    assert_eq!(of_log(&after).level, Level::Ok, "{after:?}");
    assert!(!after.iter().any(|f| f.text.contains("rights on the whole server")), "{after:?}");
    relay.stop().await;
    root.batch_execute(&format!("drop user {user}@'%'")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_keep_rows_out_of_the_log_are_told_with_the_statement() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let source = with_tables(SERVER.empty_at(server.url().to_owned()));
    let (mut root, broker) = (connect_url(&source.url), MemoryBroker::new());
    root.batch_execute("set global sync_binlog = 0").unwrap();
    let relay = Running::start(tail(&source.url), &broker);
    heard(&relay).await;
    let metadata = if SERVER == Server::Mariadb { "NO_LOG" } else { "MINIMAL" };
    for setting in [
        format!("binlog_row_metadata = '{metadata}'"),
        "binlog_row_image = 'MINIMAL'".to_owned(),
        "binlog_format = 'MIXED'".to_owned(),
    ] {
        root.batch_execute(&format!("set global {setting}")).unwrap();
        let found = findings(&source.url).await;
        let fault = of_log(&found);
        let name = setting.split(' ').next().unwrap();
        assert!(fault.level == Level::Bad && fault.text.contains(name), "{fault}");
        let sync = found.iter().find(|finding| finding.text.contains("sync_binlog is 0")).unwrap();
        assert_eq!(sync.level, Level::Warning);
        let fix = fault.fix.as_deref().unwrap().split(';').next().unwrap();
        root.batch_execute(fix).unwrap();
        assert_eq!(of_log(&findings(&source.url).await).level, Level::Ok);
    }

    // A session of a writer that logs otherwise: the bell falls silent for a while, and polling finds the row.
    let mut writer = connect_url(&source.url);
    writer.batch_execute("set session binlog_row_image = 'MINIMAL'").unwrap();
    record(&mut writer, &["a".into()], 1);
    published(&relay, 1).await;
    record(&mut root, &["a".into()], 2);
    published(&relay, 2).await;
    heard(&relay).await;
    relay.stop().await;
}
