//! Errors of the database that a closure does not pass on: what is committed is recorded, and what is not committed
//! does not end well.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use outbox_core::{AsyncOutboxConnection as _, ErrorKind, OutboxConnection as _, Result};

use super::asynchronous::open;
use super::database::{connect, fresh, items, outbox};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase};
use crate::items::{Item, NewItem, Stepped, item};

fn new(name: &str) -> NewItem<'_> {
    NewItem { name, amount: 5 }
}

fn given(id: i64) -> Item {
    Item { id, name: "n".into(), amount: 1, note: None, secret: "s".into() }
}

#[derive(AsChangeset)]
#[diesel(table_name = item)]
struct Patch {
    amount: Option<i64>,
}

/// PostgreSQL rolls such a transaction back at COMMIT; the others go on.
fn check_spoiled(database: &TestDatabase, outcome: Result<()>) {
    let mut connection = connect(database);
    let ledger: i64 = crate::items::ledger::table.count().get_result(&mut connection).unwrap();
    if SERVER == Server::Postgres {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Application, "{error}");
        assert!(error.to_string().contains("was not passed on"), "{error}");
        assert_eq!(ledger, 0);
    } else {
        outcome.unwrap();
        assert_eq!(ledger, 1);
    }
}

const ENTRY: &str = "insert into ledger (id, account, sequence) values (7, 'a', 1)";

/// It is there.
const AGAIN: fn(DieselError) -> Result<()> = |error| match error {
    DieselError::DatabaseError(diesel::result::DatabaseErrorKind::UniqueViolation, _) => Ok(()),
    error => Err(error.into()),
};

#[test]
fn a_failed_statement_of_the_callers_does_not_pass_for_a_commit() {
    let database = fresh();
    let outcome = connect(&database).outbox_transaction(|tx| {
        diesel::sql_query(ENTRY).execute(tx.conn())?;
        diesel::sql_query(ENTRY).execute(tx.conn()).map(drop).or_else(AGAIN)
    });
    check_spoiled(&database, outcome);

    // Nor one that fails while it is prepared.
    if SERVER == Server::Postgres {
        let database = fresh();
        let outcome = connect(&database).outbox_transaction(|tx| {
            diesel::sql_query(ENTRY).execute(tx.conn())?;
            let unknown = diesel::dsl::sql::<diesel::sql_types::BigInt>("no_such_column");
            let asked = crate::items::ledger::table.select(unknown).load::<i64>(tx.conn());
            assert!(asked.is_err());
            Ok(())
        });
        check_spoiled(&database, outcome);
    }

    // With messages too.
    let database = fresh();
    let outcome = connect(&database).outbox_transaction(|tx| {
        diesel::sql_query(ENTRY).execute(tx.conn())?;
        tx.record(&Stepped { account: "a".into(), sequence: 1 })?;
        diesel::sql_query(ENTRY).execute(tx.conn()).map(drop).or_else(AGAIN)
    });
    check_spoiled(&database, outcome);

    // In a savepoint it harms nothing.
    let database = fresh();
    let mut connection = connect(&database);
    connection
        .outbox_transaction(|tx| {
            diesel::sql_query(ENTRY).execute(tx.conn())?;
            let again = tx.savepoint(|tx| Ok(diesel::sql_query(ENTRY).execute(tx.conn())?));
            assert!(again.is_err());
            let ignored =
                tx.savepoint(|tx| diesel::sql_query(ENTRY).execute(tx.conn()).map(drop).or_else(AGAIN));
            assert_eq!(ignored.is_err(), SERVER == Server::Postgres, "{ignored:?}");
            Ok(())
        })
        .unwrap();
    let ledger: i64 = crate::items::ledger::table.count().get_result(&mut connection).unwrap();
    assert_eq!(ledger, 1);
}

#[tokio::test]
async fn a_failed_statement_of_the_callers_does_not_pass_for_an_async_commit() {
    use diesel_async::RunQueryDsl;

    let database = fresh();
    let outcome = open(&database)
        .await
        .outbox_transaction(async |tx| {
            RunQueryDsl::execute(diesel::sql_query(ENTRY), tx.conn()).await?;
            RunQueryDsl::execute(diesel::sql_query(ENTRY), tx.conn()).await.map(drop).or_else(AGAIN)
        })
        .await;
    check_spoiled(&database, outcome);

    let database = fresh();
    let outcome = open(&database)
        .await
        .outbox_transaction(async |tx| {
            RunQueryDsl::execute(diesel::sql_query(ENTRY), tx.conn()).await?;
            tx.record(&Stepped { account: "a".into(), sequence: 1 })?;
            RunQueryDsl::execute(diesel::sql_query(ENTRY), tx.conn()).await.map(drop).or_else(AGAIN)
        })
        .await;
    check_spoiled(&database, outcome);

    // A savepoint that is not released takes nothing else along.
    let database = fresh();
    let mut connection = open(&database).await;
    connection
        .outbox_transaction(async |tx| {
            RunQueryDsl::execute(diesel::sql_query(ENTRY), tx.conn()).await?;
            let ignored = tx
                .savepoint(async |tx| {
                    let again = RunQueryDsl::execute(diesel::sql_query(ENTRY), tx.conn()).await;
                    again.map(drop).or_else(AGAIN)
                })
                .await;
            assert_eq!(ignored.is_err(), SERVER == Server::Postgres, "{ignored:?}");
            tx.record(&Stepped { account: "a".into(), sequence: 1 })
        })
        .await
        .unwrap();
    assert_eq!(outbox(&mut connect(&database)).len(), 1);
}

#[test]
fn an_empty_changeset_is_refused_and_harms_nothing() {
    let database = fresh();
    let mut connection = connect(&database);
    connection
        .outbox_transaction(|tx| {
            let lamp = tx.insert(&new("lamp"))?;
            let error = tx.update_with(&lamp, Patch { amount: None }).unwrap_err();
            assert!(error.to_string().contains("There are no changes to save"), "{error}");
            tx.update_with(&lamp, Patch { amount: Some(6) })
        })
        .unwrap();
    assert_eq!(outbox(&mut connection).len(), 2);
}

/// The server may store another key than the one that is given: then the row is not found again.
fn check_unfound(database: &TestDatabase, outcome: Result<bool>) {
    let mut connection: Connection = connect(database);
    match outcome {
        Ok(is_inserted) => {
            assert!(is_inserted);
            assert_eq!(outbox(&mut connection)[0].key, "0");
        }
        Err(error) => {
            assert!(matches!(SERVER, Server::Mysql | Server::Mariadb), "{error}");
            assert!(error.to_string().contains("not recorded"), "{error}");
        }
    }
    assert_eq!(items(&mut connection).len(), outbox(&mut connection).len());
}

#[test]
fn a_row_that_is_not_found_again_is_not_committed() {
    let database = fresh();
    let outcome = connect(&database).outbox_transaction(|tx| {
        let inserted = tx.insert(&given(0));
        if let Err(error) = &inserted {
            assert!(error.to_string().contains("was not found again"), "{error}");
        }
        Ok(inserted.is_ok())
    });
    check_unfound(&database, outcome);
}

#[tokio::test]
async fn a_row_that_is_not_found_again_is_not_committed_by_an_async_connection() {
    let database = fresh();
    let outcome =
        open(&database).await.outbox_transaction(async |tx| Ok(tx.insert(&given(0)).await.is_ok())).await;
    check_unfound(&database, outcome);
}

/// A column that the entity does not expect to be null.
#[test]
fn a_row_that_cannot_be_read_back_is_not_committed() {
    let database = fresh();
    let mut connection = connect(&database);
    let nullable = match SERVER {
        Server::Postgres => "alter table item alter column secret drop not null",
        Server::Mysql | Server::Mariadb => "alter table item modify secret varchar(100)",
        Server::Sqlite => {
            "drop table item; create table item (id integer not null primary key, name text not null, \
             amount bigint not null, note text, secret text)"
        }
    };
    connection.batch_execute(nullable).unwrap();
    let lamp = connection.outbox_transaction(|tx| tx.insert(&given(3))).unwrap();
    let error = connection
        .outbox_transaction(|tx| {
            let spoil = diesel::dsl::sql::<diesel::sql_types::Text>("null");
            assert!(tx.update_with(&lamp, item::secret.eq(spoil)).is_err());
            Ok(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("not recorded"), "{error}");
    assert_eq!(items(&mut connection), [given(3)]);

    // In a savepoint it takes that along alone; a constraint that has kept a row out takes nothing along.
    connection
        .outbox_transaction(|tx| {
            let spoil = diesel::dsl::sql::<diesel::sql_types::Text>("null");
            let spoiled = tx.savepoint(|tx| {
                assert!(tx.update_with(&lamp, item::secret.eq(spoil)).is_err());
                Ok(())
            });
            assert!(spoiled.unwrap_err().to_string().contains("not recorded"));
            assert!(tx.savepoint(|tx| tx.insert(&given(3))).is_err());
            tx.update_with(&lamp, item::amount.eq(9))
        })
        .unwrap();
    assert_eq!(items(&mut connection), [Item { amount: 9, ..given(3) }]);
}
