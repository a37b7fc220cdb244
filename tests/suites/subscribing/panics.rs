//! Panics and ignored errors of the service's own code: each is the failure of its message, and of no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::prelude::*;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use outbox_core::Replica;
use outbox_core::broker::memory::MemoryBroker;
use serde::{Deserialize, Serialize};

use super::SERVER;
use super::database::{fresh, ledger_entries};
use super::stage::{Handles as _, Held, Running, ask, change, step, subscriber};
use crate::harness::{Server, until};
use crate::items::timed_copy;

/// A text of which one cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
#[serde(transparent)]
struct Fragile(String);

impl<DB: Backend> ToSql<Text, DB> for Fragile
where
    String: ToSql<Text, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        assert_ne!(self.0, "breaks", "not this text");
        self.0.to_sql(out)
    }
}

impl<DB: Backend> FromSql<Text, DB> for Fragile
where
    String: FromSql<Text, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
        String::from_sql(bytes).map(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = timed_copy)]
#[replica(of = "item")]
struct FragileCopy {
    id: i64,
    name: Fragile,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_writing_panics_is_set_aside_alone() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let subscriber = subscriber(&broker, &database).copy::<FragileCopy>().enter_steps();
    // All there before it starts, so that they are one batch.
    let name = |id| if id == 7 { "breaks" } else { "whole" };
    let mut frames: Vec<_> = (1..=20).map(|id| change(id, "created", name(id), id)).collect();
    frames.insert(10, step("x", 1));
    let mut running = Running::over(broker, database, subscriber, &frames).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    running.until_held("it is given up", |held| held.iter().all(|row| row.state == "dead")).await;
    let held = running.rows();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!((held[0].aggregate_id.as_str(), held[0].attempts), ("7", 5));
    let error = &held[0].error;
    assert!(
        error.contains("writing rows of copy timed_copy panicked") && error.contains("not this text"),
        "{error}"
    );

    // The others, and what comes after them.
    running.feed(&[change(7, "updated", "mended", 21), step("x", 2)]).await;
    let rows: Vec<FragileCopy> = timed_copy::table
        .order(timed_copy::id)
        .select(FragileCopy::as_select())
        .load(&mut running.connection)
        .unwrap();
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| row.name.0 == if row.id == 7 { "mended" } else { "whole" }), "{rows:?}");
    assert_eq!(ledger_entries(&mut running.connection), [("x".into(), 1), ("x".into(), 2)]);
    running.stop().await;
}

/// Diesel leaves the savepoint open: what comes next must not end it in the place of the transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_within_a_savepoint_fails_alone() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let panics = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&panics);
    let subscriber = subscriber(&broker, &database).steps_in_savepoint(move |step| {
        let is_at = step.account == "x" && step.sequence == 3;
        assert!(!(is_at && seen.load(Ordering::Relaxed)), "not three");
    });
    let frames: Vec<_> = (1..=5).flat_map(|sequence| [step("x", sequence), step("y", sequence)]).collect();
    let mut running = Running::over(broker, database, subscriber, &frames).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    running.until_held("it is given up", |held| held.iter().any(|row| row.state == "dead")).await;
    let held = running.rows();
    assert_eq!(held.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["dead", "waiting", "waiting"]);
    assert!(held[0].error.contains("account.stepped of key x: the handler panicked: not three"), "{held:?}");
    let of = |account: &str, entries: Vec<(String, i64)>| -> Vec<i64> {
        entries.into_iter().filter(|entry| entry.0 == account).map(|entry| entry.1).collect()
    };
    assert_eq!(of("x", ledger_entries(&mut running.connection)), [1, 2]);
    assert_eq!(of("y", ledger_entries(&mut running.connection)), [1, 2, 3, 4, 5]);

    panics.store(false, Ordering::Relaxed);
    ask(&mut running.connection, "replay", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    assert_eq!(of("x", ledger_entries(&mut running.connection)), [1, 2, 3, 4, 5]);
    running.stop().await;
}

/// PostgreSQL commits nothing of a transaction in which a statement has failed, and says so in a word that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_a_handler_ignores_loses_no_message() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let fails = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&fails);
    let subscriber = subscriber(&broker, &database)
        .steps_with_an_error(move |step| step.account == "x" && asked.load(Ordering::Relaxed));
    // The last of its batch: no other statement follows it.
    let frames = [step("y", 1), step("y", 2), step("x", 1)];
    let mut running = Running::over(broker, database, subscriber, &frames).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    if SERVER == Server::Postgres {
        running.until_held("it is given up", |held| held.iter().any(|row| row.state == "dead")).await;
        let held = running.rows();
        assert_eq!((held.len(), held[0].aggregate_id.as_str()), (1, "x"), "{held:?}");
        fails.store(false, Ordering::Relaxed);
        ask(&mut running.connection, "replay", "dead");
    }
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    let mut entries = ledger_entries(&mut running.connection);
    entries.sort();
    assert_eq!(entries, [("x".into(), 1), ("y".into(), 1), ("y".into(), 2)]);
    running.stop().await;
}
