//! P1 and P2 where they begin: a message exists exactly if its change does, and says what the row is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::prelude::*;
use outbox_core::{Error, ErrorKind, Message, OutboxConnection as _};
use serde_json::json;

use super::database::{connect, fresh, items, message, outbox, outbox_is_empty};
use crate::harness::Server;
use crate::items::{Item, NewItem, Stepped, item};

fn new(name: &str) -> NewItem<'_> {
    NewItem { name, amount: 5 }
}

#[test]
fn a_write_and_its_message_commit_together() {
    let database = fresh();
    let mut connection = connect(&database);
    let written = connection.outbox_transaction(|tx| tx.insert(&new("ä 'quoted' \"name\""))).unwrap();
    assert_eq!(items(&mut connection), std::slice::from_ref(&written));
    assert_eq!(written.secret, "hush", "the default of the database is read back");

    let pending = outbox(&mut connection);
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].kind, "item.created");
    assert_eq!(pending[0].key, written.id.to_string());
    let image = json!({"id": written.id, "name": "ä 'quoted' \"name\"", "amount": 5, "note": null});
    assert_eq!(pending[0].payload, json!({ "after": image }), "no skipped field is recorded");
    assert!(pending[0].headers["outbox-schema"].as_str().is_some_and(|schema| schema.len() == 16));
}

#[test]
fn the_ids_of_what_is_recorded_are_known_before_the_end() {
    let database = fresh();
    let mut connection = connect(&database);
    let ids = connection
        .outbox_transaction(|tx| {
            let item = tx.insert(&new("lamp"))?;
            tx.savepoint(|inner| inner.insert(&new("shade")))?;
            // What a savepoint takes back has no message.
            let undone = tx.savepoint(|inner| {
                inner.delete(&item)?;
                Err::<(), _>(Error::application("kept"))
            });
            assert!(undone.is_err());
            tx.record(&Stepped { account: "a".into(), sequence: 1 })?;
            Ok(tx.recorded_ids())
        })
        .unwrap();
    let pending = outbox(&mut connection);
    assert_eq!(ids.len(), 3);
    assert_eq!(pending.iter().map(|row| row.message_id).collect::<Vec<_>>(), ids);
}

#[test]
fn an_entity_with_its_key_is_inserted_as_it_is() {
    let database = fresh();
    let mut connection = connect(&database);
    let whole = Item { id: 77, name: "n".into(), amount: 1, note: Some("x".into()), secret: "s".into() };
    assert_eq!(connection.outbox_transaction(|tx| tx.insert(&whole)).unwrap(), whole);
    assert_eq!(outbox(&mut connection)[0].key, "77");
}

#[test]
fn a_rollback_leaves_neither() {
    let database = fresh();
    let mut connection = connect(&database);
    let result = connection.outbox_transaction(|tx| {
        tx.insert(&new("gone"))?;
        tx.record(&Stepped { account: "a".into(), sequence: 1 })?;
        Err::<(), _>(Error::application("changed my mind"))
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Application);
    assert!(items(&mut connection).is_empty());
    assert!(outbox_is_empty(&mut connection));
}

#[test]
fn an_update_records_the_row_as_it_is_then() {
    let database = fresh();
    let mut connection = connect(&database);
    let first = connection.outbox_transaction(|tx| tx.insert(&new("a"))).unwrap();
    let changed = Item { amount: 9, note: Some("n".into()), ..first.clone() };
    connection.outbox_transaction(|tx| tx.update_from(&first, &changed)).unwrap();
    connection.outbox_transaction(|tx| tx.update(&changed)).unwrap();

    let pending = outbox(&mut connection);
    assert_eq!(pending[1].kind, "item.updated");
    assert_eq!(pending[1].payload["after"]["amount"], 9);
    assert_eq!(pending[1].payload["changed"], json!(["amount", "note"]));
    assert_eq!(pending[2].payload.get("changed"), None, "without a before nobody knows");
    assert_eq!(items(&mut connection), [changed]);
}

#[test]
fn a_delete_records_the_last_row() {
    let database = fresh();
    let mut connection = connect(&database);
    let written = connection.outbox_transaction(|tx| tx.insert(&new("a"))).unwrap();
    let asked = Item { name: "what the caller thinks".into(), ..written.clone() };
    let last = connection.outbox_transaction(|tx| tx.delete(&asked)).unwrap();
    assert_eq!(last, written);
    let pending = outbox(&mut connection);
    assert_eq!(pending[1].kind, "item.deleted");
    assert_eq!(pending[1].payload["before"]["name"], "a");
    assert_eq!(pending[1].payload.get("after"), None);
    assert!(items(&mut connection).is_empty());
}

#[test]
fn writing_a_row_that_is_not_there_says_so_and_records_nothing() {
    let database = fresh();
    let mut connection = connect(&database);
    let ghost = Item { id: 404, name: "g".into(), amount: 1, note: None, secret: "s".into() };
    for result in [
        connection.outbox_transaction(|tx| tx.update(&ghost)),
        connection.outbox_transaction(|tx| tx.delete(&ghost)),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("item of key 404"), "{error}");
    }
    assert!(outbox_is_empty(&mut connection));
}

/// Diesel leaves a savepoint open whose closure panicked; the COMMIT or ROLLBACK that follows would be of it alone.
#[test]
fn a_savepoint_that_a_caught_panic_left_open_commits_nothing() {
    let database = fresh();
    let mut connection = connect(&database);
    for fails in [false, true] {
        let result = connection.outbox_transaction(|tx| {
            tx.insert(&new("outside"))?;
            let caught = catch_unwind(AssertUnwindSafe(|| {
                tx.savepoint(|tx| {
                    tx.insert(&new("inside"))?;
                    panic!("halfway");
                    #[allow(unreachable_code, reason = "the type of what never comes")]
                    Ok(())
                })
            }));
            assert!(caught.is_err());
            if fails { Err(Error::application("changed my mind")) } else { Ok(()) }
        });
        let error = result.unwrap_err().to_string();
        assert!(error.contains(if fails { "changed my mind" } else { "was left open" }), "{error}");
        let mut other = connect(&database);
        assert!(items(&mut other).is_empty(), "fails: {fails}");
        assert!(outbox_is_empty(&mut other));
    }
    let whole = connection.outbox_transaction(|tx| tx.insert(&new("whole"))).unwrap();
    assert_eq!(items(&mut connect(&database)), [whole], "the connection is of use");
}

#[test]
fn a_savepoint_that_rolls_back_takes_its_messages_along() {
    let database = fresh();
    let mut connection = connect(&database);
    connection
        .outbox_transaction(|tx| {
            tx.insert(&new("outer"))?;
            let inner = tx.savepoint(|tx| {
                tx.insert(&new("inner"))?;
                Err::<(), _>(Error::application("no"))
            });
            assert!(inner.is_err());
            tx.savepoint(|tx| tx.insert(&new("kept")))?;
            Ok(())
        })
        .unwrap();
    let names: Vec<_> = items(&mut connection).into_iter().map(|item| item.name).collect();
    assert_eq!(names, ["outer", "kept"]);
    let recorded: Vec<_> =
        outbox(&mut connection).into_iter().map(|row| row.payload["after"]["name"].clone()).collect();
    assert_eq!(recorded, ["outer", "kept"]);
}

#[test]
fn recording_needs_an_open_transaction_or_opens_one() {
    let database = fresh();
    let mut connection = connect(&database);
    let error = connection.record_in_open_transaction(|tx| tx.insert(&new("x"))).unwrap_err();
    assert!(error.to_string().contains("no transaction is open"), "{error}");
    assert!(items(&mut connection).is_empty());

    let rolled_back = connection.transaction(|connection| {
        connection.record_in_open_transaction(|tx| tx.insert(&new("x")))?;
        Err::<(), _>(Error::application("outer rolls back"))
    });
    assert!(rolled_back.is_err());
    assert!(outbox_is_empty(&mut connection));

    connection
        .transaction(|connection| {
            connection.record_in_open_transaction(|tx| tx.insert(&new("y"))).map(|_| ())
        })
        .unwrap();
    assert_eq!(outbox(&mut connection).len(), 1);
}

#[test]
fn no_message_is_seen_before_commit() {
    let database = fresh();
    let (mut writer, mut reader) = (connect(&database), connect(&database));
    writer
        .outbox_transaction(|tx| {
            tx.insert(&new("a"))?;
            tx.record(&Stepped { account: "a".into(), sequence: 1 })?;
            // Not even this transaction has them in the table yet: they go in last.
            let count: i64 = diesel::dsl::sql::<diesel::sql_types::BigInt>("select count(*) from outbox")
                .get_result(tx.conn())?;
            assert_eq!(count, 0);
            assert!(outbox_is_empty(&mut reader));
            Ok(())
        })
        .unwrap();
    assert_eq!(outbox(&mut reader).len(), 2);
}

#[test]
fn headers_of_a_transaction_go_with_its_messages() {
    let database = fresh();
    let mut connection = connect(&database);
    connection
        .outbox_transaction(|tx| {
            tx.record_message(message("k", "before"));
            tx.set_header("tenant", "7")?;
            assert!(tx.set_header("x-death", "1").is_err());
            tx.record_message(message("k", "with"));
            tx.record_message(message("k", "own").with_header("tenant", "8")?);
            tx.savepoint(|tx| {
                tx.set_header("step", "1")?;
                tx.record_message(message("k", "inner"));
                Ok(())
            })?;
            tx.record_message(message("k", "after"));
            Ok(())
        })
        .unwrap();
    let headers: Vec<_> = outbox(&mut connection).into_iter().map(|row| row.headers).collect();
    let tenant = json!({"tenant": "7"});
    assert_eq!(
        headers,
        [json!({}), tenant.clone(), json!({"tenant": "8"}), json!({"step": "1", "tenant": "7"}), tenant]
    );
}

#[test]
fn headers_that_grow_too_large_fail_the_transaction() {
    let database = fresh();
    let mut connection = connect(&database);
    let error = connection
        .outbox_transaction(|tx| {
            tx.set_header("one", "x".repeat(40_000))?;
            tx.set_header("two", "x".repeat(40_000))?;
            tx.record_message(message("k", "e"));
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("thing.e of key k: the headers have"), "{error}");
    assert!(outbox_is_empty(&mut connection));
}

#[test]
fn a_large_batch_keeps_its_order() {
    let database = fresh();
    let mut connection = connect(&database);
    connection
        .outbox_transaction(|tx| {
            (0..1100).for_each(|n| tx.record_message(message("k", &format!("e{n}"))));
            tx.record_message(Message::new("thing", "k", "large", vec![b' '; 3 * 1024 * 1024])?);
            tx.record_message(message("k", "last"));
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    #[derive(diesel::QueryableByName)]
    struct Kind {
        #[diesel(sql_type = diesel::sql_types::Text)]
        event_type: String,
    }
    let kinds: Vec<Kind> =
        diesel::sql_query("select event_type from outbox order by id").load(&mut connection).unwrap();
    let kinds: Vec<_> = kinds.into_iter().map(|kind| kind.event_type).collect();
    let expected: Vec<_> =
        (0..1100).map(|n| format!("e{n}")).chain(["large".into(), "last".into()]).collect();
    assert_eq!(kinds, expected);
}

#[test]
fn a_missing_outbox_table_is_named_with_the_remedy() {
    let database = super::SERVER.empty();
    let mut connection = connect(&database);
    let error = connection
        .outbox_transaction(|tx| {
            tx.record_message(message("k", "e"));
            Ok(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("outbox-relay migrate"), "{error}");
}

#[test]
fn concurrent_writers_of_one_key_get_ids_in_commit_order() {
    let database = fresh();
    let mut connection = connect(&database);
    let written = connection.outbox_transaction(|tx| tx.insert(&new("hot"))).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = connect(&database);
                let mut done = 0;
                while done < 25 {
                    // The increment tells the commit order; deadlocks and lock waits are tried again.
                    let result = connection.outbox_transaction(|tx| {
                        diesel::update(item::table.find(written.id))
                            .set(item::amount.eq(item::amount + 1))
                            .execute(tx.conn())?;
                        let now: Item =
                            item::table.find(written.id).select(Item::as_select()).first(tx.conn())?;
                        tx.update(&now)
                    });
                    match result {
                        Ok(_) => done += 1,
                        Err(error) => assert!(error.is_outage(), "{error}"),
                    }
                }
            });
        }
    });
    let amounts: Vec<_> = outbox(&mut connection)
        .into_iter()
        .map(|row| row.payload["after"]["amount"].as_i64().unwrap())
        .collect();
    assert_eq!(amounts, (5..=105).collect::<Vec<_>>());
}

/// It writes its messages at its own end, before those that the outer one has recorded so far.
#[test]
fn a_transaction_nested_through_the_connection_must_not_overtake_messages_of_its_key() {
    let database = fresh();
    let mut connection = connect(&database);
    connection
        .outbox_transaction(|tx| {
            tx.record_message(message("k", "first"));
            tx.conn().outbox_transaction(|tx| {
                tx.record_message(message("other", "nested"));
                Ok(())
            })?;
            let nested = tx.conn().outbox_transaction(|tx| {
                tx.insert(&new("nested"))?;
                tx.record_message(message("k", "second"));
                Ok(())
            });
            let error = nested.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("thing.second of key k"), "{error}");
            let deeper = tx.savepoint(|tx| {
                tx.conn().transaction(|connection| {
                    connection.record_in_open_transaction(|tx| {
                        tx.record_message(message("k", "third"));
                        Ok(())
                    })
                })
            });
            assert_eq!(deeper.unwrap_err().kind(), ErrorKind::Invalid);
            tx.record_message(message("k", "last"));
            Ok(())
        })
        .unwrap();
    let written: Vec<_> = outbox(&mut connection).into_iter().map(|row| (row.key, row.kind)).collect();
    let expected = [("other", "thing.nested"), ("k", "thing.first"), ("k", "thing.last")];
    assert_eq!(written, expected.map(|(key, kind)| (key.to_owned(), kind.to_owned())));
    assert!(items(&mut connection).is_empty(), "what was refused is rolled back");
    // Nothing is held back any more.
    connection
        .transaction(|connection| {
            connection.outbox_transaction(|tx| {
                tx.record_message(message("k", "later"));
                Ok(())
            })
        })
        .unwrap();
}

/// Where the server returns the row, it is recorded under both keys; elsewhere it cannot be found again.
#[test]
fn a_changeset_that_changes_the_primary_key_is_recorded_or_cannot_be_committed() {
    let database = fresh();
    let mut connection = connect(&database);
    let written = connection.outbox_transaction(|tx| tx.insert(&new("a"))).unwrap();
    let outcome = connection.outbox_transaction(|tx| {
        let moved = tx.update_with(&written, item::id.eq(written.id + 100));
        // An error that is swallowed.
        Ok(moved.map_err(|error| error.to_string()))
    });
    let kinds: Vec<_> = outbox(&mut connection).into_iter().map(|row| row.kind).collect();
    match super::SERVER {
        Server::Mysql | Server::Mariadb => {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Invalid);
            assert_eq!(items(&mut connection), std::slice::from_ref(&written));
            assert_eq!(kinds, ["item.created"]);
            let told =
                connection.outbox_transaction(|tx| tx.update_with(&written, item::id.eq(written.id + 100)));
            let told = told.unwrap_err().to_string();
            assert!(told.contains("must not change the primary key"), "{told}");
        }
        Server::Postgres | Server::Sqlite => {
            assert_eq!(outcome.unwrap().unwrap().id, written.id + 100);
            assert_eq!(kinds, ["item.created", "item.deleted", "item.created"]);
        }
    }
}
