//! On diesel-async, what a writer meets on a server only: deadlocks and lost connections.

use std::sync::atomic::{AtomicU32, Ordering};

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use outbox_core::{AsyncOutboxConnection as _, Error, Result};

use super::asynchronous::open;
use super::database::{connect, fresh, message, outbox_is_empty};
use super::writer::retrying;
use super::{AsyncConnection, SERVER};
use crate::harness::{Server, TestDatabase};
use crate::items::NewItem;

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
