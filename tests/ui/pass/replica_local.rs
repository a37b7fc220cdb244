//! A copy that converts, keeps columns of its own, marks deleted rows and follows other event names; the
//! same struct reads the table.
#![deny(warnings)]

use std::num::ParseIntError;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use outbox_core::{EventNames, Image, Replica, ReplicaOn, Version};
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
#[replica(of = "product", soft_delete = deleted_at)]
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
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
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

    let row = |units: i64| {
        ProductCopy::from_image(&image(json!({
            "id": "7", "price": {"units": units, "cents": 5}, "address": {"city": "Ulm"}, "note": "theirs",
        })))
        .unwrap()
    };
    let expected = ProductCopy {
        id: 7,
        cents: 105,
        city: "Ulm".into(),
        note: String::new(),
        stars: None,
        gone: false,
    };
    assert_eq!(row(1), expected);

    let at = |id| Version { generation: 1, id };
    let read = |connection: &mut SqliteConnection| -> ProductCopy {
        product_copies::table.select(ProductCopy::as_select()).get_result(connection).unwrap()
    };
    row(1).insert(&mut connection, at(1), 3).unwrap();
    let inserted = ProductCopy { note: "none".into(), stars: Some(3), ..expected };
    assert_eq!(read(&mut connection), inserted);
    diesel::update(product_copies::table).set(product_copies::note.eq("ours")).execute(&mut connection).unwrap();

    assert_eq!(row(1).delete_older(&mut connection, at(1)).unwrap(), 0);
    assert_eq!(row(1).delete_older(&mut connection, at(2)).unwrap(), 1);
    let ours = ProductCopy { note: "ours".into(), ..inserted };
    assert_eq!(read(&mut connection), ProductCopy { gone: true, ..ours.clone() });
    assert_eq!(row(1).delete_older(&mut connection, at(2)).unwrap(), 0);
    assert_eq!(row(1).update_older(&mut connection, at(2), 3).unwrap(), 0);
    assert!(row(1).exists(&mut connection).unwrap());
    assert_eq!(row(2).update_older(&mut connection, at(3), 3).unwrap(), 1);
    assert_eq!(read(&mut connection), ProductCopy { cents: 205, ..ours });

    let timed = Timed::from_image(&image(json!({ "id": 1 }))).unwrap();
    let is_marked = |connection: &mut SqliteConnection| -> bool {
        timed_copies::table.select(timed_copies::deleted_at.is_not_null()).get_result(connection).unwrap()
    };
    timed.insert(&mut connection, at(1), 0).unwrap();
    assert!(!is_marked(&mut connection));
    assert_eq!(timed.delete_older(&mut connection, at(2)).unwrap(), 1);
    assert!(is_marked(&mut connection));
    assert_eq!(timed.update_older(&mut connection, at(3), 0).unwrap(), 1);
    assert!(!is_marked(&mut connection));

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
