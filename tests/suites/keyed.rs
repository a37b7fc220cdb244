//! Entities whose message key is not their primary key, and keys of many columns and rows.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Outbox, OutboxConnection as _};
use serde_json::json;

use super::Connection;
use super::asynchronous::open;
use super::database::{connect, fresh, outbox};
use crate::harness::TestDatabase;

diesel::table! {
    label (shop, place) {
        shop -> BigInt,
        place -> BigInt,
        sku -> Text,
        price -> BigInt,
    }
}

diesel::table! {
    tag (shop, word) {
        shop -> BigInt,
        word -> Text,
        note -> Nullable<Text>,
    }
}

/// The same text for every server.
const TABLES: &str = "create table label (shop bigint not null, place bigint not null, sku varchar(40) not null, \
    price bigint not null, primary key (shop, place)); \
    create table tag (shop bigint not null, word varchar(40) not null, note varchar(40), primary key (shop, word))";

/// Copies know it by what stands on it.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = label, primary_key(shop, place))]
#[outbox(aggregate = "label", key(sku))]
struct Label {
    shop: i64,
    place: i64,
    sku: String,
    price: i64,
}

/// An entity that has nothing but its key, where the note is not given.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = tag, primary_key(shop, word))]
#[outbox(aggregate = "tag")]
struct Tag {
    shop: i64,
    word: String,
    note: Option<String>,
}

fn tables() -> (TestDatabase, Connection) {
    let database = fresh();
    let mut connection = connect(&database);
    connection.batch_execute(TABLES).unwrap();
    (database, connection)
}

fn label(sku: &str, price: i64) -> Label {
    Label { shop: 1, place: 2, sku: sku.into(), price }
}

/// Kind and key of each message.
fn recorded(connection: &mut Connection) -> Vec<(String, String)> {
    outbox(connection).into_iter().map(|pending| (pending.kind, pending.key)).collect()
}

fn expected(messages: &[(&str, &str)]) -> Vec<(String, String)> {
    messages.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect()
}

#[test]
fn an_update_that_gives_a_row_another_message_key_takes_leave_of_the_old_one() {
    let (_database, mut connection) = tables();
    connection
        .outbox_transaction(|tx| {
            tx.insert(&label("a", 1))?;
            tx.update(&label("b", 1))?;
            tx.update(&label("b", 2))
        })
        .unwrap();
    let messages =
        [("label.created", "a"), ("label.deleted", "a"), ("label.created", "b"), ("label.updated", "b")];
    assert_eq!(recorded(&mut connection), expected(&messages));
    let pending = outbox(&mut connection);
    assert_eq!(pending[1].payload["before"], json!({"shop": 1, "place": 2, "sku": "a", "price": 1}));
    assert_eq!(pending[2].payload["after"]["sku"], "b");
}

#[test]
fn an_upsert_that_gives_a_row_another_message_key_takes_leave_of_the_old_one() {
    let (_database, mut connection) = tables();
    for (sku, price) in [("a", 1), ("a", 2), ("b", 2)] {
        let row = connection.outbox_transaction(|tx| tx.upsert(&label(sku, price))).unwrap();
        assert_eq!(row, label(sku, price));
    }
    let messages =
        [("label.created", "a"), ("label.updated", "a"), ("label.deleted", "a"), ("label.created", "b")];
    assert_eq!(recorded(&mut connection), expected(&messages));
}

/// What the caller takes for the row before need not be it.
#[test]
fn an_update_from_an_old_row_takes_leave_of_the_key_that_the_row_had() {
    let (_database, mut connection) = tables();
    connection
        .outbox_transaction(|tx| {
            let old = tx.insert(&label("a", 1))?;
            tx.update(&label("b", 1))?;
            tx.update_from(&old, &label("c", 1))
        })
        .unwrap();
    let messages = recorded(&mut connection);
    assert_eq!(messages[3..], expected(&[("label.deleted", "b"), ("label.created", "c")]));
}

#[tokio::test]
async fn async_writes_take_leave_of_an_old_message_key_too() {
    use outbox_core::AsyncOutboxConnection as _;

    let (database, mut connection) = tables();
    open(&database)
        .await
        .outbox_transaction(async |tx| {
            tx.upsert(&label("a", 1)).await?;
            tx.upsert(&label("b", 1)).await?;
            tx.update(&label("c", 1)).await
        })
        .await
        .unwrap();
    let messages = [
        ("label.created", "a"),
        ("label.deleted", "a"),
        ("label.created", "b"),
        ("label.deleted", "b"),
        ("label.created", "c"),
    ];
    assert_eq!(recorded(&mut connection), expected(&messages));
}

#[test]
fn an_upsert_with_nothing_to_set_gives_the_row_that_is_there() {
    let (_database, mut connection) = tables();
    let noted = Tag { shop: 1, word: "new".into(), note: Some("n".into()) };
    connection.outbox_transaction(|tx| tx.insert(&noted)).unwrap();
    let row = connection.outbox_transaction(|tx| tx.upsert(&Tag { note: None, ..noted.clone() })).unwrap();
    assert_eq!(row, noted);
    let other = Tag { shop: 2, word: "new".into(), note: None };
    assert_eq!(connection.outbox_transaction(|tx| tx.upsert(&other)).unwrap(), other);
    let kinds: Vec<_> = recorded(&mut connection).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["tag.created", "tag.updated", "tag.created"]);
}

/// SQLite refuses an expression that is deeper than 1000.
#[test]
fn thousands_of_rows_with_a_key_of_several_columns_are_updated_at_once() {
    let (_database, mut connection) = tables();
    let many: Vec<_> =
        (0..2500).map(|place| Label { shop: 1, place, sku: place.to_string(), price: 1 }).collect();
    let updated: Vec<Label> = connection
        .outbox_transaction(|tx| {
            tx.insert_all(&many)?;
            tx.update_where(label::price.eq(1), label::price.eq(2))
        })
        .unwrap();
    assert_eq!(updated.len(), many.len());
    assert!(updated.iter().all(|row| row.price == 2));
    let gone: Vec<Label> = connection.outbox_transaction(|tx| tx.delete_where(label::price.eq(2))).unwrap();
    assert_eq!(gone.len(), many.len());
    assert_eq!(recorded(&mut connection).len(), 3 * many.len());
}

/// With other names on the wire.
#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, serde::Serialize, Outbox)]
#[diesel(table_name = label, primary_key(shop, place))]
#[serde(rename_all = "UPPERCASE")]
#[outbox(aggregate = "renamed")]
struct Renamed {
    #[serde(rename = "theShop")]
    shop: i64,
    place: i64,
    #[outbox(rename = "PRICE_")]
    price: i64,
    // Its name is free: another field's was changed.
    #[outbox(rename = "price")]
    sku: String,
}

/// By them a resync tells a copy which row is gone, and the copy finds them in what it has got.
#[test]
fn the_fields_of_a_key_are_known_by_their_names_in_a_message() {
    use outbox_core::__private::EntityTable as _;
    use outbox_core::Entity as _;

    let row = Renamed { shop: 1, place: 2, sku: "a".into(), price: 3 };
    let image = row.image().unwrap();
    assert_eq!(
        serde_json::Value::Object(image),
        json!({"theShop": 1, "PLACE": 2, "PRICE_": 3, "price": "a"})
    );
    assert_eq!(Renamed::KEY_FIELDS, ["theShop", "PLACE"]);
    assert_eq!(row.key(), "1:2");
}
