//! A subscriber's tables as an earlier version left them, with rows that it wrote: upgraded, and what they say still
//! holds. The rows are texts of SQL, which no later version of the code changes.

use diesel::connection::SimpleConnection as _;
use diesel_migrations::MigrationHarness as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::migrate::{self, INBOX, Migrated as _};
use outbox_core::{Frame, Recorded, bucket_of};

use super::database::{connect, copies, ledger_entries};
use super::stage::{Handles as _, Held, Running, ask, change, copy, step, subscriber};
use super::{Connection, SERVER, TABLES};
use crate::harness::{Server, TestDatabase, until};
use crate::items::ItemCopy;

type Backend = <Connection as diesel::Connection>::Backend;

/// Applied before the upgrade.
const APPLIED: &str = "0197b3a0-0000-7000-8000-000000000001";
/// Set aside before it: two steps of one account, and what nobody could read.
const FIRST: &str = "0197b3a0-0000-7000-8000-000000000002";
const SECOND: &str = "0197b3a0-0000-7000-8000-000000000003";
const UNREADABLE: &str = "no uuid";

/// Bytes as this database's SQL has them.
fn bytes(of: &[u8]) -> String {
    let hex: String = of.iter().map(|byte| format!("{byte:02x}")).collect();
    if SERVER == Server::Postgres { format!("'\\x{hex}'::bytea") } else { format!("x'{hex}'") }
}

/// What both a text and a binary column take.
fn text(of: &str) -> String {
    format!("'{of}'")
}

fn headers(id: i64) -> String {
    format!(
        "{{{}, {}}}",
        r#""outbox-format":"1","outbox-source":"items","outbox-generation":"1","outbox-key":"x""#,
        format_args!(r#""outbox-id":"{id}","outbox-bucket":"7","outbox-time":"1751000000000000""#),
    )
}

fn step_payload(sequence: i64) -> String {
    format!(r#"{{"account":"x","sequence":{sequence}}}"#)
}

/// A row of `inbox_held` as the first version wrote it, with what later ones put beside it.
fn held(more: &[(&str, &str)], id: &str, key: &str, headers: &str, payload: &str, state: &str) -> String {
    let bucket = if key.is_empty() { -1 } else { i64::from(bucket_of("account", key)) };
    let names: String = more.iter().map(|(name, _)| format!(", {name}")).collect();
    let values: String = more.iter().map(|(_, value)| format!(", {value}")).collect();
    format!(
        "insert into inbox_held (consumer, message_id, bucket, kind, aggregate_id, state, attempts, error, \
         routing_key, headers, payload{names}) values ('test', {}, {bucket}, 'account.stepped', '{key}', '{state}', 1, \
         'it was so', 'account.stepped.00', {}, {}{values});",
        text(id),
        bytes(headers.as_bytes()),
        bytes(payload.as_bytes()),
    )
}

/// What a subscriber of this version has left: of the first one all is dead and holds nothing.
fn rows_of(version: usize) -> String {
    let id = outbox_core::MessageId::parse(APPLIED).unwrap();
    let mut rows = format!(
        "insert into inbox (consumer, message_id) values ('test', {});\
         insert into copy_source (copy, source) values ('item_copy', 'items');\
         insert into copy_deleted (copy, aggregate_id, bucket, generation, id) values ('item_copy', '9', {}, 1, 50);",
        bytes(id.as_bytes()),
        bucket_of("item", "9"),
    );
    let of_key = [("aggregate_type", "'account'"), ("holds", "'key'"), ("source", "'items'")];
    let (of_key, second): (&[_], _) = if version == 1 { (&[], "dead") } else { (&of_key, "waiting") };
    rows += &held(of_key, FIRST, "x", &headers(1001), &step_payload(1), "dead");
    rows += &held(of_key, SECOND, "x", &headers(1002), &step_payload(2), second);
    rows += &held(&[], UNREADABLE, "", "{}", "[", "dead");
    if version > 1 {
        rows += "insert into copy_begun (copy, bucket, generation, id) values ('item_copy', 0, 1, 1);\
                 insert into copy_late (copy, bucket, generation, id) values ('item_copy', 0, 1, 1);";
    }
    rows
}

fn of_version(version: usize) -> TestDatabase {
    let database = SERVER.empty();
    let mut connection = connect(&database);
    for _ in 0..version {
        connection.run_next_migration(Backend::of(&INBOX)).unwrap();
    }
    connection.batch_execute(TABLES).unwrap();
    connection.batch_execute(&rows_of(version)).unwrap();
    database
}

fn with_id(frame: &Frame, id: &str) -> Frame {
    Frame { message_id: id.to_owned(), ..frame.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_version_has_left_is_kept_and_served() {
    for version in 1..INBOX.versions().len() {
        let (database, broker) = (of_version(version), MemoryBroker::new());
        let mut connection = connect(&database);
        assert_eq!(migrate::run(&mut connection, &INBOX).unwrap(), INBOX.versions()[version..]);
        let subscriber = subscriber(&broker, &database).copy::<ItemCopy>().enter_steps();
        let mut running = Running::over(broker, database, subscriber, &[]).await;
        let held = running.rows();
        assert_eq!(held.len(), 3, "version {version}: {held:?}");
        assert!(held.iter().all(|row| row.error == "it was so" && row.attempts == 1), "{held:?}");

        // Known, and held: nothing happens.
        let again = [with_id(&step("y", 1), APPLIED), with_id(&step("x", 1), FIRST)];
        running.feed(&again).await;
        assert!(ledger_entries(&mut running.connection).is_empty(), "version {version}");
        assert_eq!((running.stats.duplicates(), running.rows().len()), (2, 3), "version {version}");

        // Older than the delete, newer than it, and of another outbox.
        let mut foreign = Recorded::from_frame(&change(1, "created", "b", 1)).unwrap();
        foreign.source = "elsewhere".into();
        running.feed(&[change(9, "updated", "late", 40)]).await;
        running.feed(&[change(9, "created", "again", 60), foreign.to_frame()]).await;
        assert_eq!(copies(&mut running.connection), [copy(9, "again", 60)], "version {version}");
        let errors: Vec<_> = running.rows().into_iter().map(|row| row.error).collect();
        for error in ["stale-unknown", "follows outbox items"] {
            assert!(errors.iter().any(|text| text.contains(error)), "version {version}: {errors:?}");
        }

        ask(&mut running.connection, "replay", "dead");
        running
            .until_held("the steps are applied", |held| held.iter().all(|row| row.aggregate_id != "x"))
            .await;
        let mut entries = ledger_entries(&mut running.connection);
        if version == 1 {
            // It knew of no order.
            entries.sort();
        }
        assert_eq!(entries, [("x".into(), 1), ("x".into(), 2)], "version {version}");
        running
            .until_held("the others are dead again", |held| held.iter().all(|row| row.state == "dead"))
            .await;
        let unreadable = running.rows().into_iter().find(|row| row.message_id == UNREADABLE).unwrap();
        assert!(unreadable.error.contains("outbox-format is missing"), "{unreadable:?}");
        ask(&mut running.connection, "discard", "dead");
        running.until_held("nothing is held", <[Held]>::is_empty).await;
        until("all is consumed", || async { running.broker.is_idle() }).await;
        running.stop().await;
    }
}
