//! How many statements a transaction takes: what a round trip costs is paid as often.

use std::sync::{Arc, Mutex};

use diesel::Connection as _;
use diesel::connection::InstrumentationEvent;
use diesel::prelude::*;
use outbox_core::{Message, OutboxConnection as _, OutboxTx, Result};

use super::database::{connect, fresh, message, outbox};
use super::{Connection, SERVER};
use crate::harness::Server;
use crate::items::{Item, NewItem, item};

type Tx<'t, 'c> = &'t mut OutboxTx<'c, Connection>;

/// The first word of each statement that a transaction sends, and `outbox` for an INSERT into that. MySQL and
/// MariaDB begin and commit by the autocommit setting; on PostgreSQL the last INSERT brings the COMMIT along.
fn statements(
    connection: &mut Connection,
    body: impl FnOnce(&mut OutboxTx<'_, Connection>) -> Result<()>,
) -> String {
    let seen = Arc::new(Mutex::new(Vec::new()));
    connection.set_instrumentation({
        let seen = seen.clone();
        move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event {
                let text = query.to_string().to_lowercase().replace(['`', '"'], "");
                let word = match text.split_whitespace().next().unwrap_or_default() {
                    _ if text.starts_with("insert into outbox ") && text.ends_with("; commit") => {
                        "outbox commit"
                    }
                    _ if text.starts_with("insert into outbox ") => "outbox",
                    _ if text.starts_with("set autocommit = 0") => "begin",
                    _ if text.starts_with("set autocommit = 1") || text == "select 1; commit" => "commit",
                    word => word,
                };
                seen.lock().unwrap().push(word.to_owned());
            }
        }
    });
    connection.outbox_transaction(body).unwrap();
    connection.set_instrumentation(|_: InstrumentationEvent<'_>| {});
    let seen = seen.lock().unwrap();
    seen.join(" ")
}

/// The statements for recorded messages: one.
fn recorded(count: usize) -> &'static str {
    if count == 0 { "" } else { "outbox " }
}

fn new(name: &str) -> NewItem<'_> {
    NewItem { name, amount: 1 }
}

#[test]
fn each_write_takes_as_many_statements_as_its_server_needs() {
    let database = fresh();
    let mut connection = connect(&database);
    let stocked = |connection: &mut Connection| {
        let all = connection.outbox_transaction(|tx| tx.insert_all(&[new("a"), new("b"), new("c")]));
        all.unwrap().remove(0)
    };
    type Body = fn(Tx<'_, '_>, &Item) -> Result<()>;
    // What is done, on PostgreSQL, on SQLite, on MySQL and MariaDB, which have no RETURNING.
    let table: [(&str, Body, [&str; 3]); 15] = [
        ("nothing", |_, _| Ok(()), ["", "", ""]),
        ("a read", |tx, one| tx.lock::<Item>(&one.id).map(drop), ["select", "select", "select"]),
        (
            "insert",
            |tx, _| tx.insert(&new("x")).map(drop),
            ["insert outbox", "insert outbox", "insert select outbox"],
        ),
        // SQLite: Diesel inserts rows with defaults one by one, which crosses no network.
        (
            "insert_all of 3",
            |tx, _| tx.insert_all(&[new("x"), new("y"), new("z")]).map(drop),
            ["insert outbox", "savepoint insert insert insert release outbox", "insert select outbox"],
        ),
        ("insert_all of none", |tx, _| tx.insert_all::<NewItem<'_>>(&[]).map(drop), ["", "", ""]),
        // Only PostgreSQL says in the row whether it was new.
        (
            "upsert",
            |tx, one| tx.upsert(one).map(drop),
            ["insert outbox", "select insert outbox", "select insert select outbox"],
        ),
        (
            "update",
            |tx, one| tx.update(one).map(drop),
            ["update outbox", "update outbox", "update select outbox"],
        ),
        (
            "update_from",
            |tx, one| tx.update_from(one, one).map(drop),
            ["update outbox", "update outbox", "update select outbox"],
        ),
        (
            "update_with",
            |tx, one| tx.update_with(one, item::amount.eq(7)).map(drop),
            ["update outbox", "update outbox", "update select outbox"],
        ),
        (
            "update_where",
            |tx, _| tx.update_where::<Item, _, _>(item::amount.ge(0), item::amount.eq(7)).map(drop),
            ["select update outbox", "select update outbox", "select update select outbox"],
        ),
        (
            "update_where of none",
            |tx, _| tx.update_where::<Item, _, _>(item::amount.lt(0), item::amount.eq(7)).map(drop),
            ["select", "select", "select"],
        ),
        (
            "delete",
            |tx, one| tx.delete(one).map(drop),
            ["delete outbox", "delete outbox", "select delete outbox"],
        ),
        (
            "delete_where",
            |tx, _| tx.delete_where::<Item, _>(item::amount.ge(0)).map(drop),
            ["delete outbox", "delete outbox", "select delete outbox"],
        ),
        // All keys are locked together; on SQLite one transaction writes at a time.
        (
            "events of strict keys",
            |tx, _| {
                for key in ["a", "b"] {
                    tx.keep_strict("thing", key);
                    tx.record_message(message(key, "seen"));
                }
                Ok(())
            },
            ["select outbox", "outbox", "select outbox"],
        ),
        // MySQL and MariaDB are asked whether they take it.
        (
            "a message of 2 MiB",
            |tx, _| {
                let payload = format!("{:?}", "x".repeat(2 * 1024 * 1024)).into_bytes();
                tx.record_message(Message::new("thing", "a", "seen", payload)?);
                Ok(())
            },
            ["outbox", "outbox", "select outbox"],
        ),
    ];
    for (what, body, expected) in table {
        let one = stocked(&mut connection);
        let expected = match SERVER {
            Server::Postgres => expected[0],
            Server::Sqlite => expected[1],
            Server::Mysql | Server::Mariadb => expected[2],
        };
        diesel::sql_query("delete from outbox").execute(&mut connection).unwrap();
        let sent = statements(&mut connection, |tx| body(tx, &one));
        let count = outbox(&mut connection).len();
        let expected = expected.replace("outbox", recorded(count).trim());
        let between = sent.strip_prefix("begin").and_then(|sent| sent.strip_suffix("commit")).map(str::trim);
        assert_eq!(between, Some(&*expected), "{what}: {sent}");
    }
}

#[test]
fn all_that_a_transaction_records_goes_in_with_one_statement() {
    let database = fresh();
    let mut connection = connect(&database);
    // SQLite, where nothing crosses a network, runs one that stays prepared for each 50.
    let many = if SERVER == Server::Sqlite { 50 } else { 500 };
    for count in [0, 1, 10, many] {
        let sent = statements(&mut connection, |tx| {
            (0..count).for_each(|n| tx.record_message(message("k", &format!("e{n}"))));
            Ok(())
        });
        assert_eq!(sent, format!("begin {}commit", recorded(count)), "{count} messages");
    }
}

#[test]
fn a_savepoint_adds_its_two_statements_and_no_insert_of_its_own() {
    let database = fresh();
    let mut connection = connect(&database);
    let sent = statements(&mut connection, |tx| {
        tx.record_message(message("k", "outer"));
        tx.savepoint(|tx| {
            tx.record_message(message("k", "inner"));
            Ok(())
        })
    });
    assert_eq!(sent, format!("begin savepoint release {}commit", recorded(2)));
}

/// A transaction that fails leaves no trace in the session: the next plain statement is committed by itself.
#[test]
fn statements_commit_by_themselves_again_after_a_transaction_however_it_ended() {
    let database = fresh();
    let mut connection = connect(&database);
    let mut other = connect(&database);
    let insert = |connection: &mut Connection, name: &str| {
        diesel::insert_into(item::table).values(&new(name)).execute(connection).unwrap();
    };
    connection.outbox_transaction(|tx| tx.insert(&new("a")).map(drop)).unwrap();
    insert(&mut connection, "b");
    let failed = connection.outbox_transaction(|tx| {
        tx.insert(&new("c"))?;
        Err::<(), _>(outbox_core::Error::application("no"))
    });
    assert!(failed.is_err());
    insert(&mut connection, "d");
    let names: Vec<String> = item::table.order(item::id).select(item::name).load(&mut other).unwrap();
    assert_eq!(names, ["a", "b", "d"]);
    assert_eq!(outbox(&mut other).len(), 1);
}
