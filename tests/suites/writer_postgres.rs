//! What COMMIT itself can say on PostgreSQL, and serializable transactions.

use std::sync::Barrier;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use super::database::{connect, fresh, items, message, outbox, outbox_is_empty};
use super::writer::{retrying, two_items};
use crate::harness::TestDatabase;
use crate::items::{Item, item};

/// Write skew: each reads both items and writes the one that the other only reads. Both together would come
/// to a sum that neither has allowed.
#[test]
fn serializable_transactions_that_do_not_go_together_are_both_committed_once() {
    let database = fresh();
    let mut connection = connect(&database);
    let (a, b) = two_items(&mut connection);
    let barrier = Barrier::new(2);
    let attempts: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = [a, b]
            .into_iter()
            .map(|id| {
                let (barrier, database) = (&barrier, &database);
                scope.spawn(move || {
                    let mut connection = connect(database);
                    let mut attempts = 0;
                    let transaction = retrying(5).transaction(&mut connection, |tx| {
                        diesel::sql_query("set transaction isolation level serializable")
                            .execute(tx.conn())?;
                        attempts += 1;
                        let all: Vec<Item> = item::table.select(Item::as_select()).load(tx.conn())?;
                        if attempts == 1 {
                            barrier.wait();
                        }
                        let sum: i64 = all.iter().map(|item| item.amount).sum();
                        let mine = all.into_iter().find(|item| item.id == id).unwrap();
                        tx.update(&Item { amount: sum + 1, ..mine })
                    });
                    transaction.unwrap();
                    attempts
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(attempts, 3, "one of them ran twice");
    let mut amounts: Vec<_> = items(&mut connection).iter().map(|item| item.amount).collect();
    amounts.sort_unstable();
    assert_eq!(amounts, [1, 2], "as if one after the other");
    assert_eq!(outbox(&mut connection).len(), 2);
}

/// A trigger on the outbox that does this at the first COMMIT.
fn at_first_commit(action: &str) -> TestDatabase {
    let database = fresh();
    let script = format!(
        "create sequence commits;
         create function first_commit() returns trigger language plpgsql as $$
         begin
           if nextval('commits') = 1 then {action}; end if;
           return null;
         end $$;
         create constraint trigger first_commit after insert on outbox
           deferrable initially deferred for each row execute function first_commit();"
    );
    connect(&database).batch_execute(&script).unwrap();
    database
}

#[test]
fn a_serialization_failure_of_commit_itself_is_tried_again() {
    let database = at_first_commit("raise exception 'not now' using errcode = 'serialization_failure'");
    let mut connection = connect(&database);
    let mut calls = 0;
    let transaction = retrying(5).transaction(&mut connection, |tx| {
        calls += 1;
        tx.record_message(message("k", "e"));
        Ok(())
    });
    transaction.unwrap();
    assert_eq!(calls, 2);
    assert_eq!(outbox(&mut connection).len(), 1);
}

#[test]
fn a_connection_lost_in_commit_is_not_tried_again() {
    let database = at_first_commit("perform pg_terminate_backend(pg_backend_pid())");
    let mut connection = connect(&database);
    let mut calls = 0;
    let transaction = retrying(5).transaction(&mut connection, |tx| {
        calls += 1;
        tx.record_message(message("k", "e"));
        Ok(())
    });
    let error = transaction.unwrap_err();
    assert_eq!(calls, 1, "what the COMMIT did is not known: {error}");
    assert!(error.is_outage() && !error.is_contention(), "{error}");
    assert!(outbox_is_empty(&mut connect(&database)));
}
