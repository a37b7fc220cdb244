//! A copy that converts, keeps columns of its own, marks deleted rows and follows other event names; the
//! same struct reads the table.
#![deny(warnings)]

use std::num::ParseIntError;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::testing::{memory_pool, run_until_idle};
use outbox_core::{EventNames, Image, Message, OutboxConnection, Replica, Subscriber};
use serde::Deserialize;
use serde_json::json;

diesel::table! {
    product_copies (id) {
        id -> BigInt,
        price_cents -> BigInt,
        city -> Text,
        note -> Text,
        stars -> Nullable<Integer>,
        gone -> Bool,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

diesel::table! {
    timed_copies (id) {
        id -> BigInt,
        deleted_at -> Nullable<Timestamp>,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Replica)]
#[diesel(table_name = product_copies)]
#[replica(of = "product", soft_delete = gone, created = "listed", deleted = "delisted")]
struct ProductCopy {
    // A key may be converted too.
    #[replica(with = number)]
    id: i64,
    #[replica(from = "price", with = Money::cents)]
    #[diesel(column_name = price_cents)]
    cents: i64,
    #[replica(from = "address", with = city)]
    city: String,
    #[replica(local)]
    note: String,
    #[replica(local)]
    stars: Option<i32>,
    #[replica(local)]
    gone: bool,
}

/// Nothing but a key and what the service adds.
#[derive(Replica)]
#[diesel(table_name = timed_copies)]
#[replica(of = "visit", soft_delete = deleted_at)]
struct Timed {
    id: i64,
}

fn number(text: String) -> Result<i64, ParseIntError> {
    text.parse()
}

#[derive(Deserialize)]
struct Money {
    units: i64,
    cents: i64,
}

impl Money {
    fn cents(self) -> Result<i64, &'static str> {
        let units = self.units.checked_mul(100).ok_or("is too large")?;
        units.checked_add(self.cents).ok_or("is too large")
    }
}

#[derive(Deserialize)]
struct Address {
    city: String,
}

fn city(address: Option<Address>) -> Result<String, std::convert::Infallible> {
    Ok(address.map_or_else(|| "nowhere".to_owned(), |address| address.city))
}

fn image(value: serde_json::Value) -> Image {
    value.as_object().unwrap().clone()
}

fn main() {
    let (pool, broker) = (memory_pool(), MemoryBroker::new());
    let copying = Subscriber::new("copy", broker.clone(), pool.clone()).copy::<ProductCopy>();
    let timing = Subscriber::new("timed", broker.clone(), pool.clone()).copy::<Timed>();
    let mut connection = pool.get().unwrap();
    connection
        .batch_execute(
            "create table product_copies (id bigint primary key not null, price_cents bigint not null, \
             city text not null, note text not null default 'none', stars int default 3, gone boolean not null, \
             outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null);
             create table timed_copies (id bigint primary key not null, deleted_at timestamp, \
             outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null)",
        )
        .unwrap();
    assert_eq!(
        ProductCopy::EVENTS,
        EventNames { created: "listed", updated: "updated", deleted: "delisted" }
    );
    assert_eq!(Timed::EVENTS, EventNames::DEFAULT);

    let of = |units: i64| {
        json!({
            "id": "7", "price": {"units": units, "cents": 5}, "address": {"city": "Ulm"}, "note": "theirs",
        })
    };
    let expected =
        ProductCopy { id: 7, cents: 105, city: "Ulm".into(), note: String::new(), stars: None, gone: false };
    assert_eq!(ProductCopy::from_image(&image(of(1))).unwrap(), expected);

    let mut tell = |kind: &str, row: serde_json::Value| {
        let (aggregate, event) = kind.split_once('.').unwrap();
        let side = if event.starts_with("de") { "before" } else { "after" };
        let payload = json!({ side: row }).to_string().into_bytes();
        let message = Message::new(aggregate, "7", event, payload).unwrap();
        connection
            .outbox_transaction(|tx| {
                tx.record_message(message);
                Ok(())
            })
            .unwrap();
        run_until_idle(&mut *connection, &broker, &[&copying, &timing]).unwrap();
    };
    let mut other = pool.get().unwrap();
    let read = |connection: &mut SqliteConnection| -> ProductCopy {
        product_copies::table.select(ProductCopy::as_select()).get_result(connection).unwrap()
    };
    tell("product.listed", of(1));
    let inserted = ProductCopy { note: "none".into(), stars: Some(3), ..expected };
    assert_eq!(read(&mut other), inserted);
    diesel::update(product_copies::table).set(product_copies::note.eq("ours")).execute(&mut *other).unwrap();

    tell("product.delisted", of(1));
    let ours = ProductCopy { note: "ours".into(), ..inserted };
    assert_eq!(read(&mut other), ProductCopy { gone: true, ..ours.clone() });
    tell("product.updated", of(2));
    assert_eq!(read(&mut other), ProductCopy { cents: 205, ..ours });

    let is_marked = |connection: &mut SqliteConnection| -> bool {
        timed_copies::table.select(timed_copies::deleted_at.is_not_null()).get_result(connection).unwrap()
    };
    for (event, marked) in [("visit.created", false), ("visit.deleted", true), ("visit.updated", false)] {
        tell(event, json!({ "id": 1 }));
        assert_eq!(is_marked(&mut other), marked, "{event}");
    }

    let refused = |value| ProductCopy::from_image(&image(value)).unwrap_err().to_string();
    let (id, price) = (json!("7"), json!({"units": 1, "cents": 1}));
    assert_eq!(refused(json!({ "id": "seven", "price": price })), "field id: invalid digit found in string");
    assert_eq!(
        refused(json!({ "id": id, "price": {"units": i64::MAX, "cents": 1} })),
        "field price: is too large"
    );
    assert_eq!(refused(json!({ "price": price })), "field id is missing");
    let told = refused(json!({ "id": id, "price": "secret" }));
    assert!(told.starts_with("field price: a string does not read as") && told.ends_with("Money"), "{told}");
}
