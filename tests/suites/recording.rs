//! What each write of an outbox transaction does to the table, and what it records.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Error, ErrorKind, Outbox, OutboxConnection as _};
use serde_json::{Value, json};

use super::Connection;
use super::database::{Pending, connect, fresh, items, outbox};
use crate::harness::TestDatabase;
use crate::items::{Item, NewItem, item};

diesel::table! {
    shelf (shop, sku) {
        shop -> BigInt,
        sku -> Text,
        title -> Text,
        price -> BigInt,
        edition -> Integer,
        owner -> Text,
        email -> Nullable<Text>,
    }
}

/// The same text for every server.
const SHELF: &str = "create table shelf (shop bigint not null, sku varchar(40) not null, \
    title varchar(100) not null default 'untitled', price bigint not null, edition integer not null default 1, \
    owner varchar(100) not null default 'us', email varchar(100), primary key (shop, sku))";

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = shelf, primary_key(shop, sku), treat_none_as_null = true)]
#[outbox(aggregate = "shelf", created = "filled", deleted = "emptied")]
struct Shelf {
    shop: i64,
    sku: String,
    #[outbox(rename = "name")]
    title: String,
    price: i64,
    #[outbox(version)]
    edition: i32,
    #[outbox(redact)]
    owner: String,
    #[outbox(hash)]
    email: Option<String>,
}

#[derive(Debug, Insertable, Outbox)]
#[diesel(table_name = shelf, primary_key(shop, sku))]
#[outbox(entity = Shelf)]
struct NewShelf<'a> {
    shop: i64,
    sku: &'a str,
    price: i64,
}

fn shelves() -> (TestDatabase, Connection) {
    outbox_core::set_hash_key(b"a key for these tests").unwrap();
    let database = fresh();
    let mut connection = connect(&database);
    connection.batch_execute(SHELF).unwrap();
    (database, connection)
}

fn plain() -> (TestDatabase, Connection) {
    let database = fresh();
    let connection = connect(&database);
    (database, connection)
}

fn new(name: &str, amount: i64) -> NewItem<'_> {
    NewItem { name, amount }
}

/// Inserts items and forgets what that recorded.
fn stocked(connection: &mut Connection, names: &[&str]) -> Vec<Item> {
    let new: Vec<_> = names.iter().map(|name| new(name, 5)).collect();
    let stocked = connection.outbox_transaction(|tx| tx.insert_all(&new)).unwrap();
    connection.batch_execute("delete from outbox").unwrap();
    stocked
}

fn kinds(pending: &[Pending]) -> Vec<(&str, &str)> {
    pending.iter().map(|row| (row.kind.as_str(), row.key.as_str())).collect()
}

#[test]
fn many_are_inserted_in_order_with_their_generated_keys() {
    let (_database, mut connection) = plain();
    let names: Vec<_> = (0..1203).map(|number| format!("n{number}")).collect();
    let new: Vec<_> = names.iter().map(|name| new(name, 1)).collect();
    let written = connection.outbox_transaction(|tx| tx.insert_all(&new)).unwrap();
    assert_eq!(written.iter().map(|item| &item.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    assert_eq!(written[7].secret, "hush");
    assert_eq!(items(&mut connection), written);
    let recorded: Vec<_> = outbox(&mut connection).into_iter().map(|row| row.key).collect();
    assert_eq!(recorded, written.iter().map(|item| item.id.to_string()).collect::<Vec<_>>());
    assert!(connection.outbox_transaction(|tx| tx.insert_all::<NewItem<'_>>(&[])).unwrap().is_empty());
}

#[test]
fn many_with_keys_of_their_own_come_back_in_the_order_given() {
    let (_database, mut connection) = shelves();
    let skus = ["c", "a", "b", "ö"];
    let new: Vec<_> = skus.iter().map(|sku| NewShelf { shop: 1, sku, price: 3 }).collect();
    let written = connection.outbox_transaction(|tx| tx.insert_all(&new)).unwrap();
    assert_eq!(written.iter().map(|shelf| shelf.sku.as_str()).collect::<Vec<_>>(), skus);
    assert_eq!(written[0].title, "untitled", "the default of the database");
    let whole: Vec<_> = (2..140).rev().map(|shop| Shelf { shop, edition: 4, ..written[0].clone() }).collect();
    assert_eq!(connection.outbox_transaction(|tx| tx.insert_all(&whole)).unwrap(), whole);
    assert_eq!(kinds(&outbox(&mut connection))[..2], [("shelf.filled", "1:c"), ("shelf.filled", "1:a")]);
}

#[derive(Debug, Insertable)]
#[diesel(table_name = shelf)]
struct Offer<'a> {
    title: &'a str,
    price: i64,
}

#[derive(Debug, Insertable, Outbox)]
#[diesel(table_name = shelf, primary_key(shop, sku))]
#[outbox(entity = Shelf)]
struct NewOffered<'a> {
    shop: i64,
    sku: &'a str,
    #[diesel(embed)]
    offer: Offer<'a>,
}

#[test]
fn an_insertable_may_embed_columns_beside_its_key() {
    let (_database, mut connection) = shelves();
    let offered = |sku| NewOffered { shop: 1, sku, offer: Offer { title: "on offer", price: 2 } };
    let (one, many) = connection
        .outbox_transaction(|tx| {
            Ok((tx.insert(&offered("a"))?, tx.insert_all(&[offered("c"), offered("b")])?))
        })
        .unwrap();
    assert_eq!((one.title.as_str(), one.price, one.owner.as_str()), ("on offer", 2, "us"));
    assert_eq!(many.iter().map(|shelf| shelf.sku.as_str()).collect::<Vec<_>>(), ["c", "b"]);
    let pending = outbox(&mut connection);
    assert_eq!(kinds(&pending), [("shelf.filled", "1:a"), ("shelf.filled", "1:c"), ("shelf.filled", "1:b")]);
    assert_eq!(pending[1].payload["after"]["name"], "on offer");
}

#[test]
fn fields_travel_as_the_entity_says() {
    let (_database, mut connection) = shelves();
    let shelf = Shelf {
        shop: 1,
        sku: "x:y".into(),
        title: "T".into(),
        price: 9,
        edition: 3,
        owner: "somebody".into(),
        email: Some("a@b.c".into()),
    };
    connection
        .outbox_transaction(|tx| {
            tx.insert(&shelf)?;
            tx.insert(&Shelf { shop: 2, email: Some("a@b.c".into()), ..shelf.clone() })?;
            tx.insert(&Shelf { shop: 3, email: None, ..shelf.clone() })?;
            tx.delete(&shelf)
        })
        .unwrap();
    let pending = outbox(&mut connection);
    let after = |at: usize| pending[at].payload["after"].clone();
    assert_eq!(after(0)["name"], "T");
    assert_eq!(after(0)["owner"], outbox_core::REDACTED);
    assert_eq!(after(0)["email"].as_str().map(str::len), Some(64));
    assert_eq!(after(0)["email"], after(1)["email"], "copies still join by it");
    assert_eq!(after(2)["email"], Value::Null);
    assert_eq!(pending[3].kind, "shelf.emptied");
    assert!(!pending.iter().any(|row| row.payload.to_string().contains("somebody")));
    assert!(!pending.iter().any(|row| row.payload.to_string().contains("a@b.c")));
}

#[test]
fn a_changeset_updates_one_row_and_the_message_names_what_changed() {
    let (_database, mut connection) = plain();
    let [lamp, other] = <[Item; 2]>::try_from(stocked(&mut connection, &["lamp", "other"])).unwrap();
    let after = connection
        .outbox_transaction(|tx| {
            tx.update_with(&lamp, (item::amount.eq(item::amount + 4), item::secret.eq("new")))
        })
        .unwrap();
    assert_eq!(after, Item { amount: 9, secret: "new".into(), ..lamp.clone() });
    let pending = outbox(&mut connection);
    assert_eq!(pending[0].payload["changed"], json!(["amount"]), "a skipped field is no change that travels");
    assert_eq!(items(&mut connection), [after, other]);

    let gone = Item { id: 404, ..lamp };
    let error = connection.outbox_transaction(|tx| tx.update_with(&gone, item::amount.eq(1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_statement_records_every_row_that_it_changes() {
    let (_database, mut connection) = plain();
    let stocked = stocked(&mut connection, &["a", "b", "c"]);
    connection.outbox_transaction(|tx| tx.update_with(&stocked[1], item::note.eq("x"))).unwrap();
    let changed: Vec<Item> = connection
        .outbox_transaction(|tx| tx.update_where(item::note.is_null(), item::amount.eq(item::amount * 10)))
        .unwrap();
    assert_eq!(
        changed.iter().map(|item| (item.name.as_str(), item.amount)).collect::<Vec<_>>(),
        [("a", 50), ("c", 50)]
    );
    // A comparison that may be NULL is a condition as well.
    let none: Vec<Item> = connection
        .outbox_transaction(|tx| tx.update_where(item::note.eq("nothing like it"), item::amount.eq(1)))
        .unwrap();
    assert!(none.is_empty());
    let pending = outbox(&mut connection);
    assert_eq!(pending.len(), 3);
    assert_eq!(pending[2].payload["changed"], json!(["amount"]));
    assert_eq!(pending[2].payload["after"]["amount"], 50);
}

#[test]
fn a_row_that_a_statement_leaves_as_it_was_is_recorded_as_unchanged() {
    let (_database, mut connection) = plain();
    stocked(&mut connection, &["a"]);
    let same: Vec<Item> =
        connection.outbox_transaction(|tx| tx.update_where(item::amount.eq(5), item::amount.eq(5))).unwrap();
    assert_eq!(same.len(), 1);
    assert_eq!(outbox(&mut connection)[0].payload["changed"], json!([]));
}

#[test]
fn a_statement_must_not_change_primary_keys() {
    let (_database, mut connection) = plain();
    stocked(&mut connection, &["a"]);
    let error = connection
        .outbox_transaction(|tx| {
            tx.update_where::<Item, _, _>(item::amount.eq(5), item::id.eq(item::id + 100))
        })
        .unwrap_err();
    assert!(error.to_string().contains("must not change the primary key"), "{error}");
    assert!(outbox(&mut connection).is_empty());
}

#[test]
fn rows_go_by_key_and_by_condition() {
    let (_database, mut connection) = shelves();
    let new: Vec<_> = (0..6).map(|shop| NewShelf { shop, sku: "a", price: shop }).collect();
    connection.outbox_transaction(|tx| tx.insert_all(&new)).unwrap();
    let one: Shelf = connection.outbox_transaction(|tx| tx.delete_by_id(&(5, "a".to_owned()))).unwrap();
    assert_eq!((one.shop, one.price), (5, 5));
    let mut some: Vec<Shelf> =
        connection.outbox_transaction(|tx| tx.delete_where(shelf::price.lt(3))).unwrap();
    some.sort_by_key(|shelf| shelf.shop);
    assert_eq!(some.iter().map(|shelf| shelf.shop).collect::<Vec<_>>(), [0, 1, 2]);
    let dearer: Vec<Shelf> = connection
        .outbox_transaction(|tx| tx.update_where(shelf::price.ge(3), shelf::price.eq(shelf::price + 1)))
        .unwrap();
    assert_eq!(dearer.len(), 2);
    let error =
        connection.outbox_transaction(|tx| tx.delete_by_id::<Shelf>(&(5, "a".to_owned()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let pending = outbox(&mut connection);
    assert_eq!(kinds(&pending)[6], ("shelf.emptied", "5:a"));
    assert_eq!(pending.len(), 12);
}

#[test]
fn an_upsert_inserts_or_updates_and_says_which() {
    let (_database, mut connection) = shelves();
    let first = Shelf {
        shop: 1,
        sku: "a".into(),
        title: "T".into(),
        price: 1,
        edition: 1,
        owner: "o".into(),
        email: None,
    };
    let second = Shelf { price: 2, ..first.clone() };
    connection
        .outbox_transaction(|tx| {
            assert_eq!(tx.upsert(&first)?, first);
            assert_eq!(tx.upsert(&second)?, second);
            assert_eq!(tx.upsert(&second)?, second);
            Ok(())
        })
        .unwrap();
    let pending = outbox(&mut connection);
    let kinds: Vec<_> = pending.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds, ["shelf.filled", "shelf.updated", "shelf.updated"]);
}

#[test]
fn a_locked_row_is_the_present_one_and_others_wait() {
    let (database, mut connection) = plain();
    let lamp = stocked(&mut connection, &["lamp"]).remove(0);
    let mut other = connect(&database);
    let (locked, is_locked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            is_locked.recv().unwrap();
            other.outbox_transaction(|tx| Ok(tx.lock::<Item>(&lamp.id)?.amount)).unwrap()
        });
        connection
            .outbox_transaction(|tx| {
                let found = tx.lock::<Item>(&lamp.id)?;
                locked.send(()).unwrap();
                // Time enough to read it without waiting.
                std::thread::sleep(std::time::Duration::from_millis(300));
                tx.update_with(&found, item::amount.eq(found.amount + 1))
            })
            .unwrap();
        assert_eq!(waiting.join().unwrap(), 6);
    });
    let error = connection.outbox_transaction(|tx| tx.lock::<Item>(&404)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_message_key_that_changes_is_a_delete_and_a_create() {
    #[derive(Debug, Clone, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
    #[diesel(table_name = item, treat_none_as_null = true)]
    #[outbox(aggregate = "named", key(name))]
    struct Named {
        id: i64,
        name: String,
        amount: i64,
        note: Option<String>,
    }
    let (_database, mut connection) = plain();
    let old = Named { id: 1, name: "old".into(), amount: 1, note: None };
    connection
        .outbox_transaction(|tx| {
            let old = tx.insert(&old)?;
            tx.update_from(&old, &Named { name: "new".into(), ..old.clone() })
        })
        .unwrap();
    assert_eq!(
        kinds(&outbox(&mut connection)),
        [("named.created", "old"), ("named.deleted", "old"), ("named.created", "new")]
    );
}

#[test]
fn a_failed_batch_leaves_nothing_behind() {
    let (_database, mut connection) = shelves();
    let twice = [NewShelf { shop: 1, sku: "a", price: 1 }, NewShelf { shop: 1, sku: "a", price: 2 }];
    let error = connection.outbox_transaction(|tx| tx.insert_all(&twice)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    connection
        .outbox_transaction(|tx| {
            tx.insert(&twice[0])?;
            // The savepoint keeps PostgreSQL's transaction usable.
            let again = tx.savepoint(|tx| tx.insert(&twice[1]));
            assert!(again.is_err());
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(kinds(&outbox(&mut connection)), [("shelf.filled", "1:a")]);
}

#[test]
fn a_row_whose_message_cannot_be_taken_is_not_committed_even_if_the_error_is_swallowed() {
    let (_database, mut connection) = shelves();
    let unrecorded = Shelf {
        shop: 1,
        sku: "a".into(),
        title: "T".into(),
        price: 1,
        edition: 1,
        owner: "o".into(),
        email: None,
    };
    #[derive(Debug, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
    #[diesel(table_name = item, treat_none_as_null = true)]
    #[outbox(aggregate = "named", key(note_key))]
    struct Keyed {
        id: i64,
        name: String,
        amount: i64,
        #[diesel(column_name = secret)]
        note_key: String,
    }
    let keyless = Keyed { id: 9, name: "n".into(), amount: 1, note_key: String::new() };
    let error = connection
        .outbox_transaction(|tx| {
            tx.insert(&unrecorded)?;
            // An empty key is refused when the message is made, after the row was written.
            assert!(tx.insert(&keyless).is_err());
            Ok(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("not recorded"), "{error}");
    assert!(items(&mut connection).is_empty());
    assert!(outbox(&mut connection).is_empty());
}

#[test]
fn a_batch_that_fails_halfway_leaves_no_row_unrecorded() {
    let (_database, mut connection) = shelves();
    let one = |shop: i64| Shelf {
        shop,
        sku: "a".into(),
        title: "T".into(),
        price: 1,
        edition: 1,
        owner: "o".into(),
        email: None,
    };
    let twice: Vec<_> = (0..150).chain([7]).map(one).collect();
    let outcome = connection.outbox_transaction(|tx| {
        let _ = tx.savepoint(|tx| tx.insert_all(&twice[..3]));
        let _ = tx.insert_all(&twice);
        Ok(())
    });
    let recorded = outbox(&mut connection).len() as i64;
    let rows: i64 = shelf::table.count().get_result(&mut connection).unwrap();
    assert_eq!(recorded, rows, "{outcome:?}");
}

#[test]
fn an_upsert_that_meets_another_row_by_a_second_unique_key_is_not_committed() {
    let (_database, mut connection) = shelves();
    connection.batch_execute("create unique index shelf_title on shelf (title)").unwrap();
    let one = |shop: i64| Shelf {
        shop,
        sku: "a".into(),
        title: "same".into(),
        price: shop,
        edition: 1,
        owner: "o".into(),
        email: None,
    };
    connection.outbox_transaction(|tx| tx.upsert(&one(2))).unwrap();
    let outcome = connection.outbox_transaction(|tx| {
        assert!(tx.upsert(&one(1)).is_err());
        Ok(())
    });
    // Where the failed statement has changed nothing, the transaction may end well.
    if matches!(super::SERVER, crate::harness::Server::Mysql | crate::harness::Server::Mariadb) {
        assert!(outcome.unwrap_err().to_string().contains("not recorded"));
    }
    let rows: Vec<Shelf> = shelf::table.select(Shelf::as_select()).load(&mut connection).unwrap();
    assert_eq!(rows, [one(2)]);
    assert_eq!(outbox(&mut connection).len(), 1);
}
