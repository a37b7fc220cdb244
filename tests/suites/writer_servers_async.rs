//! On diesel-async, what a writer meets on a server only: deadlocks and lost connections.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use outbox_core::{AsyncOutboxConnection as _, AsyncOutboxTx, Error, Result, Writer};
use tokio::sync::Barrier;

use super::asynchronous::open;
use super::database::{connect, fresh, items, message, outbox, outbox_is_empty};
use super::writer::{retrying, two_items};
use super::{AsyncConnection, SERVER};
use crate::harness::{Server, TestDatabase};
use crate::items::{NewItem, item};

#[derive(diesel::QueryableByName)]
struct Session {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    id: i64,
}

/// Has another connection end this one.
async fn end_connection(connection: &mut AsyncConnection, database: &TestDatabase) {
    let ask = |statement: &str| -> Vec<Session> {
        diesel::RunQueryDsl::load(diesel::sql_query(statement), &mut connect(database)).unwrap()
    };
    let own = match SERVER {
        Server::Postgres => "select cast(pg_backend_pid() as bigint) as id",
        _ => "select cast(connection_id() as signed) as id",
    };
    let Session { id } = diesel::sql_query(own).get_result(connection).await.unwrap();
    let (kill, gone) = match SERVER {
        Server::Postgres => (
            format!("select cast(pg_terminate_backend({id}) as int)::bigint as id"),
            format!("select pid::bigint as id from pg_stat_activity where pid = {id}"),
        ),
        _ => (
            format!("kill connection {id}"),
            format!("select cast(id as signed) as id from information_schema.processlist where id = {id}"),
        ),
    };
    diesel::RunQueryDsl::execute(diesel::sql_query(kill), &mut connect(database)).unwrap();
    while !ask(&gone).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Where a transaction notices that its connection is gone.
#[derive(Debug, Clone, Copy)]
enum Noticed {
    Write,
    Query,
    Savepoint,
    Nested,
    Application,
    Append,
}

#[tokio::test]
async fn a_lost_connection_is_an_outage_wherever_it_is_noticed() {
    use Noticed::{Append, Application, Nested, Query, Savepoint, Write};
    let database = fresh();
    let mut sync = connect(&database);
    let mut wrong = Vec::new();
    for noticed in [Write, Query, Savepoint, Nested, Application, Append] {
        let mut connection = open(&database).await;
        let calls = AtomicU32::new(0);
        let lost: Result<()> = retrying(5)
            .transaction_async(&mut connection, async |tx| {
                calls.fetch_add(1, Ordering::Relaxed);
                tx.record_message(message("k", "e"));
                end_connection(tx.conn(), &database).await;
                match noticed {
                    Write => tx.insert(&NewItem { name: "x", amount: 1 }).await.map(drop),
                    Query => Ok(diesel::sql_query("select 1").execute(tx.conn()).await.map(drop)?),
                    Savepoint => tx.savepoint(async |_| Ok(())).await,
                    Nested => tx.conn().outbox_transaction(async |_| Ok(())).await,
                    Application => Err(Error::application("out of stock")),
                    Append => Ok(()),
                }
            })
            .await;
        let error = lost.unwrap_err();
        if !error.is_outage() || error.is_contention() || calls.into_inner() != 1 {
            wrong.push(format!("{noticed:?}: {error:?}"));
        }
        assert!(outbox_is_empty(&mut sync));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// In what a transaction meets its deadlock, each time by a statement on `conn()`.
#[derive(Debug, Clone, Copy)]
enum Inside {
    Savepoint,
    /// A transaction nested through the connection.
    Nested,
    /// A savepoint that does not pass it on.
    Silence,
}

fn insides() -> &'static [Inside] {
    match SERVER {
        // It takes no COMMIT after an error, in a savepoint either.
        Server::Postgres => &[Inside::Savepoint, Inside::Nested],
        _ => &[Inside::Savepoint, Inside::Nested, Inside::Silence],
    }
}

impl Inside {
    async fn add_one(self, tx: &mut AsyncOutboxTx<'_, AsyncConnection>, id: i64) -> Result<()> {
        match self {
            Self::Savepoint => tx.savepoint(async |tx| add_one(tx.conn(), id).await).await,
            Self::Nested => tx.conn().outbox_transaction(async |tx| add_one(tx.conn(), id).await).await,
            Self::Silence => {
                tx.savepoint(async |tx| {
                    let _ = add_one(tx.conn(), id).await;
                    Ok(())
                })
                .await
            }
        }
    }
}

async fn add_one(connection: &mut AsyncConnection, id: i64) -> Result<()> {
    diesel::update(item::table.find(id)).set(item::amount.eq(item::amount + 1)).execute(connection).await?;
    Ok(())
}

/// Two transactions that add one to two items in opposite orders, the second one inside of something; tells how they
/// ended, and after how many attempts in all.
async fn cross(
    database: &TestDatabase,
    (a, b): (i64, i64),
    writer: &Writer,
    inside: Inside,
    is_passed_on: bool,
) -> ([Result<()>; 2], u32) {
    let (barrier, attempts) = (Barrier::new(2), AtomicU32::new(0));
    let one = async |name: &str, first: i64, second: i64| {
        let mut connection = open(database).await;
        let is_first_attempt = AtomicBool::new(true);
        writer
            .transaction_async(&mut connection, async |tx| {
                attempts.fetch_add(1, Ordering::Relaxed);
                tx.record_message(message(name, "crossed"));
                add_one(tx.conn(), first).await?;
                if is_first_attempt.swap(false, Ordering::Relaxed) {
                    barrier.wait().await;
                }
                let added = inside.add_one(tx, second).await;
                if is_passed_on { added } else { Ok(()) }
            })
            .await
    };
    let ends = tokio::join!(one("one", a, b), one("two", b, a));
    (ends.into(), attempts.into_inner())
}

#[tokio::test]
async fn a_deadlock_by_the_connection_inside_of_something_is_run_again() {
    let database = fresh();
    let mut sync = connect(&database);
    let (a, b) = two_items(&mut sync);
    for (round, inside) in (1..).zip(insides()) {
        let (ends, attempts) = cross(&database, (a, b), &retrying(5), *inside, true).await;
        assert!(ends.iter().all(Result::is_ok), "{inside:?}: {ends:?}");
        assert!(attempts >= 3, "{inside:?}: one of the two was the victim");
        let amounts: Vec<_> = items(&mut sync).iter().map(|item| item.amount).collect();
        assert_eq!(amounts, [2 * round, 2 * round], "{inside:?}");
        assert_eq!(outbox(&mut sync).len(), 2 * round as usize, "{inside:?}");
    }
}

#[tokio::test]
async fn a_deadlock_by_the_connection_that_is_not_passed_on_commits_nothing() {
    for inside in insides() {
        let database = fresh();
        let mut sync = connect(&database);
        let (a, b) = two_items(&mut sync);
        let (ends, _) = cross(&database, (a, b), &Writer::new(), *inside, false).await;
        let amounts: Vec<_> = items(&mut sync).iter().map(|item| item.amount).collect();
        let recorded = outbox(&mut sync).len();
        if SERVER == Server::Postgres {
            // What is inside takes only its own writes along.
            assert!(ends.iter().all(Result::is_ok), "{inside:?}: {ends:?}");
            assert_eq!((amounts.iter().sum::<i64>(), recorded), (3, 2), "{inside:?}");
            continue;
        }
        let errors: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
        assert!(matches!(&errors[..], [error] if error.is_contention()), "{inside:?}: {errors:?}");
        assert_eq!((amounts, recorded), (vec![1, 1], 1), "{inside:?}: what the other one wrote");
    }
}
