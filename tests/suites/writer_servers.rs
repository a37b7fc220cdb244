//! What a writer meets on a server only: deadlocks and lost connections. (On SQLite one transaction writes at
//! a time, in the same process.)

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{OutboxConnection as _, Result, Writer};

use super::database::{connect, fresh, items, message, outbox, outbox_is_empty};
use super::writer::{add_one, retrying, two_items};
use super::{Connection, SERVER};
use crate::harness::Server;
use crate::items::{Item, NewItem};

#[test]
fn two_transactions_that_deadlock_are_both_committed_once() {
    let database = fresh();
    let mut connection = connect(&database);
    let (a, b) = two_items(&mut connection);
    let barrier = Barrier::new(2);
    let attempts = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for (first, second) in [(a, b), (b, a)] {
            let (barrier, attempts, database) = (&barrier, &attempts, &database);
            scope.spawn(move || {
                let mut connection = connect(database);
                let mut is_first_attempt = true;
                let transaction = retrying(5).transaction(&mut connection, |tx| {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    add_one(tx, first)?;
                    if std::mem::take(&mut is_first_attempt) {
                        barrier.wait();
                    }
                    add_one(tx, second)
                });
                transaction.unwrap();
            });
        }
    });
    assert!(attempts.into_inner() >= 3, "one of the two was the victim");
    assert!(items(&mut connection).iter().all(|item| item.amount == 2));
    let pending = outbox(&mut connection);
    assert_eq!(pending.len(), 4);
    for key in [a, b] {
        let amounts: Vec<_> = pending
            .iter()
            .filter(|row| row.key == key.to_string())
            .map(|row| row.payload["after"]["amount"].as_i64().unwrap())
            .collect();
        assert_eq!(amounts, [1, 2], "each change has one message");
    }
}

/// Whichever of the two is the victim swallows the deadlock in a savepoint and goes on.
#[test]
fn a_deadlock_that_is_not_passed_on_leaves_no_message_without_its_row() {
    let database = fresh();
    let mut connection = connect(&database);
    let (a, b) = two_items(&mut connection);
    let barrier = Barrier::new(2);
    let swallowed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for (name, first, second) in [("one", a, b), ("two", b, a)] {
            let (barrier, swallowed, database) = (&barrier, &swallowed, &database);
            scope.spawn(move || {
                let mut connection = connect(database);
                let outcome = connection.outbox_transaction(|tx| {
                    tx.insert(&NewItem { name, amount: 1 })?;
                    add_one(tx, first)?;
                    barrier.wait();
                    let inner = tx.savepoint(|tx| {
                        let row: Item = tx.lock(&second)?;
                        tx.update(&row)
                    });
                    if inner.is_err() {
                        swallowed.fetch_add(1, Ordering::Relaxed);
                    }
                    tx.insert(&NewItem { name: "afterwards", amount: 1 })?;
                    Ok(inner.is_err())
                });
                match (SERVER, outcome) {
                    // The savepoint takes only its own writes along.
                    (Server::Postgres, Ok(_)) | (_, Ok(false)) => {}
                    (Server::Mariadb | Server::Mysql, Err(error)) => {
                        assert!(error.is_contention(), "{error}");
                        assert!(error.to_string().contains("rolled the whole transaction back"), "{error}");
                    }
                    (_, outcome) => panic!("{outcome:?}"),
                }
            });
        }
    });
    assert_eq!(swallowed.into_inner(), 1, "one of the two was the victim");
    let rows = items(&mut connection);
    for row in outbox(&mut connection).iter().filter(|row| row.kind == "item.created") {
        assert!(rows.iter().any(|item| item.id.to_string() == row.key), "{row:?} has no row");
    }
}

/// As above, by statements sent as text, of whose errors Diesel knows no kinds; in a savepoint, and in a transaction
/// nested through the connection. Then as a writer does it, which runs it again.
#[test]
fn a_deadlock_in_text_is_neither_lost_in_a_savepoint_nor_in_a_nested_transaction() {
    for (is_nested, is_passed_on) in [(false, false), (true, false), (false, true), (true, true)] {
        let database = fresh();
        let mut connection = connect(&database);
        let (a, b) = two_items(&mut connection);
        let (barrier, failed) = (Barrier::new(2), AtomicU32::new(0));
        let add = |connection: &mut Connection, id: i64| -> Result<()> {
            Ok(connection.batch_execute(&format!("update item set amount = amount + 1 where id = {id}"))?)
        };
        std::thread::scope(|scope| {
            for (name, first, second) in [("one", a, b), ("two", b, a)] {
                let (barrier, failed, database) = (&barrier, &failed, &database);
                scope.spawn(move || {
                    let mut connection = connect(database);
                    let writer = if is_passed_on { retrying(5) } else { Writer::new() };
                    let mut is_first_attempt = true;
                    let outcome = writer.transaction(&mut connection, |tx| {
                        tx.record_message(message(name, "crossed"));
                        add(tx.conn(), first)?;
                        if std::mem::take(&mut is_first_attempt) {
                            barrier.wait();
                        }
                        let added = if is_nested {
                            tx.conn().outbox_transaction(|tx| add(tx.conn(), second))
                        } else {
                            tx.savepoint(|tx| add(tx.conn(), second))
                        };
                        if is_passed_on { added } else { Ok(()) }
                    });
                    if let Err(error) = outcome {
                        assert!(error.is_contention(), "{error}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let amounts: Vec<_> = items(&mut connection).iter().map(|item| item.amount).collect();
        let expected = match (is_passed_on, SERVER) {
            (true, _) => (4, 2, 0),
            // What is inside takes only its own writes along.
            (false, Server::Postgres) => (3, 2, 0),
            (false, _) => (2, 1, 1),
        };
        let seen = (amounts.iter().sum::<i64>(), outbox(&mut connection).len(), failed.into_inner());
        assert_eq!(seen, expected, "nested: {is_nested}, passed on: {is_passed_on}");
    }
}

/// Has the server end this connection.
fn end_connection(connection: &mut Connection) -> QueryResult<()> {
    let kill = match SERVER {
        Server::Postgres => "select pg_terminate_backend(pg_backend_pid())",
        _ => "kill connection connection_id()",
    };
    diesel::sql_query(kill).execute(connection)?;
    diesel::sql_query("select 1").execute(connection).map(|_| ())
}

#[test]
fn a_lost_connection_is_not_tried_again() {
    let database = fresh();
    let mut connection = connect(&database);
    let mut calls = 0;
    let lost: Result<()> = retrying(5).transaction(&mut connection, |tx| {
        calls += 1;
        tx.record_message(message("k", "e"));
        Ok(end_connection(tx.conn())?)
    });
    let error = lost.unwrap_err();
    assert!(!error.is_contention(), "{error}");
    assert_eq!(calls, 1, "{error}");
    assert!(outbox_is_empty(&mut connect(&database)));
}
