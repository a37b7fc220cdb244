//! An entity and its insertable: written, read back and recorded.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use outbox_core::{Entity, Error, Outbox, OutboxConnection, migrate};

diesel::table! {
    products (id) {
        id -> BigInt,
        name -> Text,
        price_cents -> BigInt,
        note -> Nullable<Text>,
        r#type -> Text,
        secret_column -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = products, treat_none_as_null = true)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    name: String,
    #[outbox(rename = "price")]
    price_cents: i64,
    note: Option<String>,
    r#type: String,
    #[diesel(column_name = secret_column)]
    #[outbox(skip)]
    secret: String,
}

#[derive(Insertable, Outbox)]
#[diesel(table_name = products)]
#[outbox(entity = Product)]
struct NewProduct<'a> {
    name: &'a str,
    note: Option<&'a str>,
}

fn main() {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    connection
        .batch_execute(
            "create table products (id integer primary key not null, name text not null, \
             price_cents bigint not null default 100, note text, type text not null default 'toy', \
             secret_column text not null default 'hush')",
        )
        .unwrap();

    let kite = connection
        .outbox_transaction(|tx| {
            let kite = tx.insert(&NewProduct { name: "kite", note: None })?;
            let dearer = Product { price_cents: 150, note: Some("new".into()), ..kite.clone() };
            let kite = tx.update_from(&kite, &dearer)?;
            let kite = tx.update(&Product { note: None, ..kite })?;
            tx.insert(&Product { id: 9, ..kite.clone() })?;
            tx.delete(&kite)
        })
        .unwrap();
    let secret = "hush".to_owned();
    let expected =
        Product { id: 1, name: "kite".into(), price_cents: 150, note: None, r#type: "toy".into(), secret };
    assert_eq!(kite, expected);
    assert_eq!(products::table.select(products::id).load::<i64>(&mut connection).unwrap(), [9]);

    let image = serde_json::Value::Object(kite.image().unwrap());
    assert_eq!(
        image,
        serde_json::json!({ "id": 1, "name": "kite", "price": 150, "note": null, "type": "toy" })
    );
    assert_eq!((Product::AGGREGATE, kite.key().as_str()), ("product", "1"));
    // FNV-1a 64 of `id:i64;name:String;note:Option<String>;price:i64;type:String;`: a change here means
    // that all services which have this entity report a new schema.
    assert_eq!(Product::SCHEMA, "eadaea75831d7f5b");

    diesel::table! { outbox (id) { id -> BigInt, event_type -> Text, aggregate_id -> Text, payload -> Binary } }
    let rows: Vec<(String, String, Vec<u8>)> = outbox::table
        .select((outbox::event_type, outbox::aggregate_id, outbox::payload))
        .order(outbox::id)
        .load(&mut connection)
        .unwrap();
    let kinds: Vec<_> = rows.iter().map(|(event, key, _)| format!("{event} {key}")).collect();
    assert_eq!(kinds, ["created 1", "updated 1", "updated 1", "created 9", "deleted 1"]);
    let update: serde_json::Value = serde_json::from_slice(&rows[1].2).unwrap();
    assert_eq!(update["changed"], serde_json::json!(["note", "price"]));

    let gone: Result<Product, Error> = connection.outbox_transaction(|tx| tx.update(&kite));
    assert!(gone.unwrap_err().to_string().contains("no such row"));
    let gone: Result<Product, Error> = connection.outbox_transaction(|tx| tx.delete(&kite));
    assert!(gone.unwrap_err().to_string().contains("no such row"));
}
