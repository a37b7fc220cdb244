//! The writer's policy on a real database: what is run again and what never is, and order by locks on keys
//! alone. What only one kind of server can do stands in `writer_*.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use diesel::Connection as _;
use diesel::connection::{InstrumentationEvent, SimpleConnection as _};
use diesel::prelude::*;
use outbox_core::{Error, ErrorKind, OutboxConnection as _, OutboxTx, Result, RetryPolicy, Writer};

use super::database::{connect, fresh, items, message, outbox, outbox_is_empty};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase};
use crate::items::{Item, NewItem, item};

pub(super) fn retrying(max_attempts: u32) -> Writer {
    Writer::new().retry(RetryPolicy {
        initial: Duration::from_millis(5),
        max: Duration::from_millis(50),
        max_attempts,
        ..RetryPolicy::default()
    })
}

/// Two items with amount 0, without their messages.
pub(super) fn two_items(connection: &mut Connection) -> (i64, i64) {
    let mut insert =
        |name| connection.outbox_transaction(|tx| tx.insert(&NewItem { name, amount: 0 })).unwrap().id;
    let ids = (insert("a"), insert("b"));
    diesel::sql_query("delete from outbox").execute(connection).unwrap();
    ids
}

/// Adds one to an item and records it.
pub(super) fn add_one(tx: &mut OutboxTx<'_, Connection>, id: i64) -> Result<Item> {
    diesel::update(item::table.find(id)).set(item::amount.eq(item::amount + 1)).execute(tx.conn())?;
    let now: Item = item::table.find(id).select(Item::as_select()).first(tx.conn())?;
    tx.update(&now)
}

/// The statements from now on whose text has this in it.
pub(super) fn counting(connection: &mut Connection, text: &'static str) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    connection.set_instrumentation({
        let count = count.clone();
        move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event
                && query.to_string().contains(text)
            {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    count
}

/// Counts the transactions that are begun, however the database is told.
fn counting_begins(connection: &mut Connection) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    connection.set_instrumentation({
        let count = count.clone();
        move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::BeginTransaction { .. } = event {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    count
}

/// Lock waits end at once, or as soon as the server can.
fn make_impatient(connection: &mut Connection) {
    let setting = match SERVER {
        Server::Sqlite => "pragma busy_timeout = 0",
        Server::Postgres => "set lock_timeout = '50ms'",
        Server::Mariadb | Server::Mysql => "set session innodb_lock_wait_timeout = 1",
    };
    connection.batch_execute(setting).unwrap();
}

/// Changes an item and holds its COMMIT back until told, in a thread.
fn hold(database: &TestDatabase, id: i64) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let mut connection = connect(database);
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let transaction = connection.outbox_transaction(|tx| {
            add_one(tx, id)?;
            held.send(()).unwrap();
            // A test that panics drops its end, which releases too.
            let _ = released.recv();
            Ok(())
        });
        transaction.unwrap();
    });
    is_held.recv().unwrap();
    (release, thread)
}

#[test]
fn what_waits_too_long_for_a_lock_is_tried_again_until_it_is_free() {
    let database = fresh();
    let mut connection = connect(&database);
    let (a, _) = two_items(&mut connection);
    let (release, holder) = hold(&database, a);
    let mut writer = connect(&database);
    make_impatient(&mut writer);
    let began = counting_begins(&mut writer);
    let writer = std::thread::spawn(move || {
        retrying(1000).transaction(&mut writer, |tx| add_one(tx, a)).unwrap();
    });
    while began.load(Ordering::Relaxed) < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    release.send(()).unwrap();
    holder.join().unwrap();
    writer.join().unwrap();
    assert_eq!(items(&mut connection)[0].amount, 2);
    let amounts: Vec<_> =
        outbox(&mut connection).into_iter().map(|row| row.payload["after"]["amount"].clone()).collect();
    assert_eq!(amounts, [1, 2], "one message for each change");
}

#[test]
fn no_more_attempts_than_allowed_are_made_and_the_error_counts_them() {
    let database = fresh();
    let mut connection = connect(&database);
    let (a, _) = two_items(&mut connection);
    let (release, holder) = hold(&database, a);
    make_impatient(&mut connection);
    for (writer, attempts) in [(Writer::new(), 1), (retrying(2), 2)] {
        let began = counting_begins(&mut connection);
        let error = writer
            .transaction(&mut connection, |tx| {
                tx.record_message(message("never", "seen"));
                add_one(tx, a)
            })
            .unwrap_err();
        assert!(error.is_contention() && error.is_outage(), "{error}");
        assert_eq!(error.to_string().contains("given up after 2 attempts"), attempts == 2, "{error}");
        assert_eq!(began.load(Ordering::Relaxed), attempts);
    }
    release.send(()).unwrap();
    holder.join().unwrap();
    assert_eq!(outbox(&mut connection).len(), 1, "nothing of what was given up");
}

#[test]
fn errors_that_come_again_are_not_tried_again() {
    let database = fresh();
    let mut connection = connect(&database);
    let mut calls = 0;
    let refused: Result<()> = retrying(5).transaction(&mut connection, |tx| {
        calls += 1;
        tx.record_message(message("k", "e"));
        Err(Error::application("out of stock"))
    });
    assert_eq!((calls, refused.unwrap_err().to_string().as_str()), (1, "out of stock"));

    let existing =
        Item { id: 1, name: "database is locked".into(), amount: 1, note: None, secret: "s".into() };
    let mut calls = 0;
    let twice = retrying(5).transaction(&mut connection, |tx| {
        calls += 1;
        tx.insert(&existing)?;
        tx.insert(&existing)
    });
    assert_eq!((calls, twice.unwrap_err().kind()), (1, ErrorKind::Database));
    assert!(outbox_is_empty(&mut connection) && items(&mut connection).is_empty());
}

#[test]
fn only_the_outermost_transaction_is_taken() {
    let database = fresh();
    let mut connection = connect(&database);
    let mut ran = false;
    let error = connection
        .transaction(|connection| {
            Writer::new().transaction(connection, |_| {
                ran = true;
                Ok(())
            })
        })
        .unwrap_err();
    assert!(!ran);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("record_in_open_transaction"), "{error}");

    let inside: Result<()> = retrying(2).transaction(&mut connection, |tx| {
        tx.record_message(message("k", "e"));
        retrying(2).transaction(tx.conn(), |_| Ok(()))
    });
    assert_eq!(inside.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(outbox_is_empty(&mut connection));
}

#[test]
fn a_test_transaction_of_diesel_is_let_in_but_not_what_is_open_inside_it() {
    let database = fresh();
    let mut connection = connect(&database);
    connection.begin_test_transaction().unwrap();
    retrying(2)
        .transaction(&mut connection, |tx| {
            tx.record_message(message("k", "e"));
            Ok(())
        })
        .unwrap();
    assert_eq!(outbox(&mut connection).len(), 1);
    let inside: Result<()> =
        connection.transaction(|connection| retrying(2).transaction(connection, |_| Ok(())));
    assert_eq!(inside.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(outbox_is_empty(&mut connect(&database)), "it never commits");
}

/// Records an event of a key, in strict order.
fn record_strictly(tx: &mut OutboxTx<'_, Connection>, key: &str, event: &str) {
    tx.keep_strict("thing", key);
    tx.record_message(message(key, event));
}

#[test]
fn strict_events_of_one_key_get_ids_in_commit_order_without_a_row_to_lock() {
    let database = fresh();
    let (mut first, mut second) = (connect(&database), connect(&database));
    let (done, is_done) = mpsc::channel();
    let mut thread = None;
    first
        .transaction(|connection| {
            connection.record_in_open_transaction(|tx| {
                record_strictly(tx, "k", "first");
                record_strictly(tx, "other", "first");
                Ok(())
            })?;
            // The first has its ids; its COMMIT is to come.
            thread = Some(std::thread::spawn(move || {
                let transaction = second.outbox_transaction(|tx| {
                    // In the other order: locks are taken in one.
                    record_strictly(tx, "other", "second");
                    record_strictly(tx, "k", "second");
                    Ok(())
                });
                transaction.unwrap();
                done.send(()).unwrap();
            }));
            let early = is_done.recv_timeout(Duration::from_millis(400));
            assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout), "it must wait for the first's COMMIT");
            Ok::<_, Error>(())
        })
        .unwrap();
    is_done.recv_timeout(Duration::from_secs(20)).unwrap();
    thread.unwrap().join().unwrap();
    let order: Vec<_> = outbox(&mut first).into_iter().map(|row| (row.kind, row.key)).collect();
    let row = |kind: &str, key: &str| (format!("thing.{kind}"), key.to_owned());
    assert_eq!(order, [row("first", "k"), row("first", "other"), row("second", "other"), row("second", "k")]);
}

#[test]
fn a_strict_key_of_a_savepoint_that_is_kept_is_locked_too() {
    let database = fresh();
    let mut connection = connect(&database);
    let locks =
        counting(&mut connection, if SERVER == Server::Postgres { "advisory" } else { "outbox_slot" });
    for (fails, expected) in [(true, 0), (false, if SERVER == Server::Sqlite { 0 } else { 1 })] {
        connection
            .outbox_transaction(|tx| {
                let inner = tx.savepoint(|tx| {
                    record_strictly(tx, "k", "inner");
                    if fails { Err(Error::application("no")) } else { Ok(()) }
                });
                assert_eq!(inner.is_err(), fails);
                tx.record_message(message("k", "outer"));
                Ok(())
            })
            .unwrap();
        assert_eq!(locks.load(Ordering::Relaxed), expected, "one statement for all keys");
    }
}

#[test]
fn strict_writers_of_many_keys_do_not_deadlock() {
    let database = fresh();
    let keys: Vec<String> = (0..40).map(|n| format!("key{n}")).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (database, keys) = (&database, &keys);
            scope.spawn(move || {
                let mut connection = connect(database);
                for round in 0..10 {
                    let transaction = connection.outbox_transaction(|tx| {
                        // Each begins elsewhere, and every second one goes backwards.
                        for n in 0..keys.len() {
                            let n = if thread % 2 == 0 { n } else { keys.len() - 1 - n };
                            record_strictly(tx, &keys[(n + thread * 7) % keys.len()], &format!("e{round}"));
                        }
                        Ok(())
                    });
                    transaction.unwrap();
                }
            });
        }
    });
    assert_eq!(outbox(&mut connect(&database)).len(), 4 * 10 * 40, "in {:?}", began.elapsed());
}
