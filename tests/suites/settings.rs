//! What `check` says of a server's settings and of the outbox's tables, each set wrong on a server of the test's own:
//! it is told with a statement, and that statement mends it.

use std::process::Command;
use std::time::{Duration, Instant};

use outbox_relay::check::{Finding, Level};
use outbox_tests::lab_client::PrivateServer;

use super::SERVER;
use super::grants::Relay;
use crate::harness::{Server, faketime, program};

/// What sets something wrong, how it is told, and a part of what is told.
type Wrong = (&'static [&'static str], Level, &'static str);

/// PostgreSQL takes a changed configuration a moment later.
const SOON: Duration = Duration::from_secs(20);

const ON_ALL: &[Wrong] = &[
    (
        &["delete from outbox_lease where bucket > 9"],
        Level::Bad,
        "outbox_lease has rows for 10 of 64 buckets",
    ),
    (&["update outbox_meta set buckets = 32"], Level::Bad, "outbox_meta says 32 buckets by fnv1a64"),
    (&["update outbox_meta set bucket_hash = 'crc32'"], Level::Bad, "outbox_meta says 64 buckets by crc32"),
];

const ON_MYSQL_AND_MARIADB: &[Wrong] = &[
    (
        &["set global innodb_flush_log_at_trx_commit = 2"],
        Level::Warning,
        "innodb_flush_log_at_trx_commit is 2: a crash takes back",
    ),
    (&["set global sql_mode = ''"], Level::Warning, "sql_mode is \"\", not strict"),
    (&["set global sql_mode = 'NO_ENGINE_SUBSTITUTION'"], Level::Warning, "not strict"),
    (&["set global max_allowed_packet = 1048576"], Level::Warning, "max_allowed_packet is 1048576"),
    (&["set global lc_messages = 'de_DE'"], Level::Warning, "does not speak English (de_DE)"),
    (&["set global innodb_stats_persistent = off"], Level::Warning, "stats_persistent is off"),
    (&["set global innodb_stats_auto_recalc = off"], Level::Warning, "stats_auto_recalc is off"),
    // The table's own options stand over the server's.
    (&["alter table outbox stats_persistent = 0"], Level::Warning, "stats_persistent is off"),
    (&["alter table outbox stats_auto_recalc = 0"], Level::Warning, "stats_auto_recalc is off"),
    (&["set global auto_increment_increment = 2"], Level::Bad, "auto_increment_increment is 2"),
    (&["set global binlog_format = 'STATEMENT'"], Level::Bad, "binlog_format is STATEMENT"),
    (&["set global read_only = on"], Level::Bad, "the server is read only"),
    (&["set global transaction read only"], Level::Bad, "transactions of the relay's user are read only"),
    (&["alter table outbox_key engine = MyISAM"], Level::Bad, "outbox_key is of engine MyISAM"),
];

const ON_MYSQL: &[Wrong] = &[(&["set global super_read_only = on"], Level::Bad, "the server is read only")];

const ON_POSTGRES: &[Wrong] = &[
    (&["alter system set autovacuum = off", RELOAD], Level::Warning, "autovacuum is off: outbox grows"),
    (&["alter system set track_counts = off", RELOAD], Level::Warning, "track_counts is off"),
    (&["alter system set fsync = off", RELOAD], Level::Warning, "fsync is off"),
    (&["alter system set full_page_writes = off", RELOAD], Level::Warning, "full_page_writes is off"),
    (&["alter system set synchronous_commit = off", RELOAD], Level::Warning, "synchronous_commit is off"),
    (&["alter role {user} set synchronous_commit = off"], Level::Warning, "synchronous_commit is off"),
    (&["alter system set default_transaction_read_only = on", RELOAD], Level::Bad, "are read only"),
    (&["alter database {database} set default_transaction_read_only = on"], Level::Bad, "are read only"),
    (&["alter role {user} set default_transaction_read_only = on"], Level::Bad, "are read only"),
    (
        &["alter role {user} in database {database} set default_transaction_read_only = on"],
        Level::Bad,
        "are read only",
    ),
    (&["alter table outbox set (autovacuum_enabled = no)"], Level::Warning, "autovacuum is off for outbox"),
    (
        &["alter table outbox reset (autovacuum_vacuum_scale_factor)"],
        Level::Warning,
        "by a share of its rows",
    ),
    (
        &["alter table outbox set (autovacuum_vacuum_scale_factor = 0.2)"],
        Level::Warning,
        "by a share of its rows",
    ),
    (
        &["alter table outbox set (autovacuum_vacuum_threshold = 10000000)"],
        Level::Warning,
        "only after 10000000 deleted rows",
    ),
    // Statistics as an emptied outbox leaves them.
    (
        &["alter table outbox set (autovacuum_enabled = off)", "analyze outbox", FILL],
        Level::Warning,
        "statistics say 0 rows where about 120000 are",
    ),
    (&["delete from outbox"], Level::Warning, "outbox holds 120000 deleted rows"),
    (&[], Level::Warning, "autovacuum is off for outbox"),
];

const RELOAD: &str = "select pg_reload_conf()";
const FILL: &str = "insert into outbox \
                    (message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload) \
                    select decode(md5(n::text), 'hex'), n % 64, 'thing', n::text, 'made', '{}', '{}' \
                    from generate_series(1, 120000) n";

fn wrongs() -> Vec<Wrong> {
    let of_server: &[&[Wrong]] = match SERVER {
        Server::Mariadb => &[ON_MYSQL_AND_MARIADB],
        Server::Mysql => &[ON_MYSQL_AND_MARIADB, ON_MYSQL],
        Server::Postgres => &[ON_POSTGRES],
        Server::Sqlite => unreachable!("it has no server"),
    };
    ON_ALL.iter().chain(of_server.iter().copied().flatten()).copied().collect()
}

/// Runs what a finding says, one statement after the other as the database's own client does, without comments.
fn mend(relay: &Relay, fix: &str) {
    let statements = fix.split(" -- ").next().unwrap();
    relay.execute_all(&statements.split_terminator(';').map(str::trim).collect::<Vec<_>>());
}

/// What is no longer as it should be.
fn faults(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|f| matches!(f.level, Level::Bad | Level::Warning)).collect()
}

/// Looks until `is_so`, or until it would have been so for long.
async fn until(relay: &Relay, is_so: impl Fn(&[Finding]) -> bool) -> Vec<Finding> {
    let began = Instant::now();
    loop {
        let findings = relay.findings().await;
        if is_so(&findings) || began.elapsed() > SOON {
            return findings;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_wrong_is_told_and_the_statement_mends_it() {
    let server = PrivateServer::spawn(SERVER.lab_kind()).unwrap();
    let relay = Relay::on(SERVER.empty_at(server.url().to_owned()));
    let before = relay.findings().await;
    assert!(faults(&before).is_empty(), "{before:?}");
    for (wrong, level, told) in wrongs() {
        let wrong: Vec<_> = wrong.iter().map(|statement| relay.named(statement)).collect();
        relay.execute_all(&wrong);
        let is_it = |finding: &Finding| finding.level == level && finding.text.contains(told);
        let findings = until(&relay, |findings| findings.iter().any(is_it)).await;
        let found = findings.iter().find(|finding| is_it(finding));
        let fix = found.unwrap_or_else(|| panic!("{wrong:?}: {findings:?}")).fix.clone().unwrap();
        mend(&relay, &fix);
        let mended = until(&relay, |findings| !findings.iter().any(is_it)).await;
        assert!(!mended.iter().any(is_it), "{wrong:?}: {fix}: {mended:?}");
    }
    let after = relay.findings().await;
    assert!(faults(&after).is_empty(), "{after:?}");
}

/// Whatever the server's sessions run, those of the relay run READ COMMITTED.
#[tokio::test(flavor = "multi_thread")]
async fn the_isolation_of_the_server_is_not_the_relays() {
    let server = PrivateServer::spawn(SERVER.lab_kind()).unwrap();
    let relay = Relay::on(SERVER.empty_at(server.url().to_owned()));
    for level in ["serializable", "repeatable read", "read uncommitted"] {
        relay.execute_all(&match SERVER {
            Server::Postgres => {
                vec![
                    relay
                        .named(&format!("alter role {{user}} set default_transaction_isolation = '{level}'")),
                ]
            }
            _ => vec![format!("set global transaction isolation level {level}")],
        });
        let findings = relay.findings().await;
        assert!(faults(&findings).is_empty(), "{level}: {findings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_are_told() {
    let relay = Relay::on(SERVER.empty());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outbox-relay.toml"), relay.config("x")).unwrap();
    for (offset, told) in
        [("+10m", "ms behind the relay's: latencies are wrong"), ("-10m", "ms ahead of the relay's: ")]
    {
        let ended = Command::new(program("outbox-relay"))
            .args(["check", "--json"])
            .current_dir(folder.path())
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME", offset)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .output()
            .unwrap();
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&ended.stdout).unwrap();
        let clock = findings.iter().find(|f| f["text"].as_str().unwrap().contains("clock")).unwrap();
        let text = clock["text"].as_str().unwrap();
        assert!(clock["level"] == "warning" && text.contains(told), "{offset}: {clock}");
        assert!(clock["fix"].as_str().unwrap().starts_with("timedatectl set-ntp true"), "{clock}");
    }
}
