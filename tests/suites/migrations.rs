//! The embedded migrations: up, again, down, up; from an older version with messages waiting; and by other
//! tools, from SQL.

use std::sync::{Arc, Barrier};

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel_migrations::MigrationHarness as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::migrate::{self, Dialect, INBOX, Migrated as _, OUTBOX};
use outbox_core::{OutboxConnection as _, Result};
use outbox_relay::check::{self, Level};
use outbox_relay::config::Secret;
use outbox_relay::outbox::store::{Database, Store};

use super::database::{connect, connect_url, message, outbox};
use super::end_to_end::{RelayTask, config};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase, until};

type Backend = <super::Connection as diesel::Connection>::Backend;

const OUTBOX_VERSIONS: [&str; 6] = [
    "0000outbox0001",
    "0000outbox0002",
    "0000outbox0003",
    "0000outbox0004",
    "0000outbox0005",
    "0000outbox0006",
];

fn revert_all(connection: &mut Connection) {
    for (role, versions) in [(&OUTBOX, OUTBOX_VERSIONS.len()), (&INBOX, INBOX.versions().len())] {
        for _ in 0..versions {
            connection.revert_last_migration(Backend::of(role)).unwrap();
        }
    }
}

#[test]
fn up_twice_down_and_up() {
    let database = SERVER.empty();
    let mut connection = connect(&database);
    assert_eq!(migrate::run(&mut connection, &OUTBOX).unwrap(), OUTBOX_VERSIONS);
    assert_eq!(migrate::run(&mut connection, &INBOX).unwrap(), INBOX.versions());
    assert!(migrate::run(&mut connection, &OUTBOX).unwrap().is_empty());

    // Diesel reverts the newest version of the database, whoever made it.
    revert_all(&mut connection);
    assert!(connection.applied_migrations().unwrap().is_empty());
    assert_eq!(migrate::run(&mut connection, &OUTBOX).unwrap().len(), OUTBOX_VERSIONS.len());
}

/// A database of the first version, with messages of two keys, of which one is parked.
fn first_version() -> TestDatabase {
    let database = SERVER.empty();
    let mut connection = connect(&database);
    connection.run_next_migration(Backend::of(&OUTBOX)).unwrap();
    let written = connection.outbox_transaction(|tx| {
        for (key, event) in [("parked", "first"), ("free", "first"), ("free", "second")] {
            tx.record_message(message(key, event));
        }
        Ok(())
    });
    written.unwrap();
    let now = if SERVER == Server::Sqlite { "0" } else { "current_timestamp" };
    let park = format!(
        "insert into outbox_key (aggregate_type, aggregate_id, head_id, attempts, parked, next_at, last_error) \
         values ('thing', 'parked', 1, 5, true, {now}, 'no')"
    );
    connection.batch_execute(&park).unwrap();
    database
}

fn record_strictly(connection: &mut Connection) -> Result<()> {
    connection.outbox_transaction(|tx| {
        tx.keep_strict("thing", "strict");
        tx.record_message(message("strict", "event"));
        Ok(())
    })
}

async fn findings(database: &TestDatabase) -> Vec<check::Finding> {
    let text = format!(
        "[broker]\nurl = \"amqp://127.0.0.1:1\"\n[[outbox]]\nname = \"items\"\ndatabase = {:?}\n",
        database.url
    );
    let config =
        outbox_relay::config::from_text(&text, &outbox_relay::config::Environment::of_process()).unwrap();
    let mut findings = check::all(&config).await;
    findings.retain(|finding| finding.about == "outbox items");
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_in_use_is_upgraded_and_goes_on() {
    let database = first_version();
    let mut connection = connect(&database);
    let before = outbox(&mut connection);

    let pending: Vec<_> =
        findings(&database).await.into_iter().filter(|finding| finding.level != Level::Ok).collect();
    let (strict, needs_table) =
        (record_strictly(&mut connection), matches!(SERVER, Server::Mariadb | Server::Mysql));
    if needs_table {
        let error = strict.unwrap_err();
        assert!(error.to_string().contains("outbox-relay migrate"), "{error}");
    } else {
        strict.unwrap();
        connection.batch_execute("delete from outbox where aggregate_id = 'strict'").unwrap();
    }
    for version in &OUTBOX_VERSIONS[1..] {
        let told = pending.iter().find(|finding| finding.text.contains(version)).unwrap();
        assert_eq!(told.level, Level::Warning, "the relay itself works");
        assert_eq!(told.fix.as_deref(), Some("outbox-relay migrate"));
    }
    assert_eq!(outbox(&mut connection), before);

    let mut store = Store::new(Database::parse(&Secret::new(&database.url)).unwrap(), "");
    assert_eq!(store.migrate(&OUTBOX).await.unwrap(), OUTBOX_VERSIONS[1..]);
    assert_eq!(outbox(&mut connection), before, "what was pending is still pending");
    assert!(!findings(&database).await.iter().any(|finding| finding.text.contains("migration")));
    record_strictly(&mut connection).unwrap();

    let relay = RelayTask::start(config(&database), MemoryBroker::new());
    until("all but the parked key is published", || {
        let left: Vec<_> = outbox(&mut connection).into_iter().map(|row| row.key).collect();
        async move { left == ["parked"] }
    })
    .await;
    relay.stop().await;
}

#[test]
fn newer_versions_can_be_taken_back_while_messages_wait() {
    let database = first_version();
    let mut connection = connect(&database);
    let before = outbox(&mut connection);
    for _ in 0..2 {
        assert_eq!(migrate::run(&mut connection, &OUTBOX).unwrap(), OUTBOX_VERSIONS[1..]);
        record_strictly(&mut connection).unwrap();
        connection.batch_execute("delete from outbox where aggregate_id = 'strict'").unwrap();
        for _ in &OUTBOX_VERSIONS[1..] {
            connection.revert_last_migration(Backend::of(&OUTBOX)).unwrap();
        }
        assert_eq!(outbox(&mut connection), before);
    }
    let written = connection.outbox_transaction(|tx| {
        tx.record_message(message("free", "third"));
        Ok(())
    });
    written.unwrap();
    assert_eq!(outbox(&mut connection).len(), before.len() + 1);
}

/// As services that start together do it, on connections of both kinds.
#[test]
fn of_many_that_migrate_at_once_one_does_it() {
    for _ in 0..3 {
        let database = SERVER.empty();
        // Makes the file of SQLite.
        connect(&database).batch_execute("select 1").unwrap();
        let barrier = Arc::new(Barrier::new(8));
        let services = (0..8).map(|number| {
            let (url, barrier) = (database.url.clone(), barrier.clone());
            std::thread::spawn(move || {
                if number % 2 == 0 {
                    let mut connection = connect_url(&url);
                    barrier.wait();
                    [&OUTBOX, &INBOX].map(|role| migrate::run(&mut connection, role).unwrap()).concat()
                } else {
                    let runtime =
                        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
                    runtime.unwrap().block_on(async {
                        let mut store = Store::new(Database::parse(&Secret::new(&url)).unwrap(), "");
                        store.top().await.unwrap_err();
                        barrier.wait();
                        [store.migrate(&OUTBOX).await.unwrap(), store.migrate(&INBOX).await.unwrap()].concat()
                    })
                }
            })
        });
        let services: Vec<_> = services.collect();
        let mut versions: Vec<_> = services.into_iter().flat_map(|service| service.join().unwrap()).collect();
        versions.sort();
        assert_eq!(versions, [INBOX.versions(), OUTBOX.versions()].concat(), "each was applied once");
        record_strictly(&mut connect(&database)).unwrap();
    }
}

/// A service that has nothing to migrate starts while others write.
#[test]
fn who_has_nothing_to_migrate_waits_for_no_writer() {
    let database = super::database::fresh();
    let (mut writer, mut starting) = (connect(&database), connect(&database));
    if SERVER == Server::Sqlite {
        starting.batch_execute("pragma busy_timeout = 0").unwrap();
    }
    let written = writer.transaction(|writer| {
        writer.batch_execute("delete from outbox_key where aggregate_type = 'none'")?;
        assert!(migrate::run(&mut starting, &OUTBOX).unwrap().is_empty());
        diesel::result::QueryResult::Ok(())
    });
    written.unwrap();
}

/// The caller's transaction takes the migrations with it. On MySQL and MariaDB there can be none around DDL.
#[test]
fn migrations_run_in_a_transaction_of_the_caller() {
    if matches!(SERVER, Server::Mariadb | Server::Mysql) {
        return;
    }
    let database = SERVER.empty();
    let mut connection = connect(&database);
    let migrated = connection.transaction(|connection| {
        assert_eq!(migrate::run(connection, &OUTBOX).unwrap(), OUTBOX_VERSIONS);
        Err::<(), _>(diesel::result::Error::RollbackTransaction)
    });
    migrated.unwrap_err();
    assert_eq!(migrate::run(&mut connect(&database), &OUTBOX).unwrap(), OUTBOX_VERSIONS);
}

/// On MySQL and MariaDB DDL commits: a migration may have been cut short.
#[test]
fn a_migration_that_was_cut_short_is_finished() {
    let database = first_version();
    let mut connection = connect(&database);
    migrate::run(&mut connection, &OUTBOX).unwrap();
    let forget = "delete from __diesel_schema_migrations where version = '0000outbox0002'";
    connection.batch_execute(forget).unwrap();
    if matches!(SERVER, Server::Mariadb | Server::Mysql) {
        connection.batch_execute("delete from outbox_slot where slot >= 500").unwrap();
        let error = (0..64)
            .map(|n| {
                connection.outbox_transaction(|tx| {
                    tx.keep_strict("thing", &n.to_string());
                    tx.record_message(message(&n.to_string(), "event"));
                    Ok(())
                })
            })
            .find_map(Result::err)
            .unwrap();
        assert!(error.to_string().contains("outbox_slot lacks rows"), "never without the lock: {error}");
    }
    assert_eq!(migrate::run(&mut connection, &OUTBOX).unwrap(), OUTBOX_VERSIONS[1..2]);
    record_strictly(&mut connection).unwrap();
}

#[test]
fn the_printed_sql_makes_the_same_tables_and_leaves_nothing_to_migrate() {
    let dialect = match SERVER {
        Server::Sqlite => Dialect::Sqlite,
        Server::Postgres => Dialect::Postgres,
        Server::Mariadb | Server::Mysql => Dialect::Mysql,
    };
    let database = SERVER.empty();
    let mut connection = connect(&database);
    connection.batch_execute(&OUTBOX.sql(dialect)).unwrap();
    connection.batch_execute(&INBOX.sql(dialect)).unwrap();
    for migrations in [&OUTBOX, &INBOX] {
        assert!(migrate::run(&mut connection, migrations).unwrap().is_empty());
    }
    record_strictly(&mut connection).unwrap();
    assert_eq!(outbox(&mut connection).len(), 1);
    revert_all(&mut connection);
}
