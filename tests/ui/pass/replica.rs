//! A copy: takes only what is newer, whatever Diesel derives it lacks.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use outbox_core::{Image, Replica, ReplicaOn, Version};
use serde_json::json;

mod schema {
    diesel::table! {
        // The key of the copy need not be what Diesel takes for the primary key.
        product_copies (local) {
            local -> Nullable<Text>,
            product_id -> BigInt,
            name -> Text,
            price -> Nullable<BigInt>,
            a -> Integer, b -> Integer, c -> Integer, d -> Integer, e -> Integer, f -> Integer, g -> Integer,
            outbox_generation -> BigInt,
            outbox_id -> BigInt,
            outbox_bucket -> SmallInt,
        }
    }
    diesel::table! {
        presences (tenant, id) {
            tenant -> Text,
            id -> Integer,
            outbox_generation -> BigInt,
            outbox_id -> BigInt,
            outbox_bucket -> SmallInt,
        }
    }
}

#[derive(Debug, PartialEq, Replica)]
#[diesel(table_name = schema::product_copies)]
#[replica(of = "product", key(id))]
struct ProductCopy {
    #[diesel(column_name = product_id)]
    id: i64,
    name: String,
    #[replica(from = "price_cents")]
    price: Option<i64>,
    a: i32,
    b: i32,
    c: i32,
    d: i32,
    e: i32,
    f: i32,
    g: i32,
}

/// Nothing but a key.
#[derive(Replica)]
#[replica(of = "presence", table = crate::schema::presences, key(tenant, id))]
struct Presence {
    tenant: String,
    id: i32,
}

fn image(value: serde_json::Value) -> Image {
    value.as_object().unwrap().clone()
}

fn main() {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    connection
        .batch_execute(
            "create table product_copies (local text, product_id bigint primary key not null, name text not null, \
             price bigint, a int not null, b int not null, c int not null, d int not null, e int not null, \
             f int not null, g int not null, outbox_generation bigint not null, outbox_id bigint not null, \
             outbox_bucket smallint not null);
             create table presences (tenant text not null, id int not null, outbox_generation bigint not null, \
             outbox_id bigint not null, outbox_bucket smallint not null, primary key (tenant, id))",
        )
        .unwrap();
    let row = |price: serde_json::Value| {
        ProductCopy::from_image(&image(json!({
            "id": 7, "name": "kite", "price_cents": price, "more": 1,
            "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7,
        })))
        .unwrap()
    };
    let at = |generation, id| Version { generation, id };
    assert_eq!((ProductCopy::AGGREGATE, ProductCopy::COPY), ("product", "product_copies"));
    assert!(
        ProductCopy::from_image(&image(json!({ "id": 7 }))).unwrap_err().to_string().contains("field name")
    );

    let first = row(json!(100));
    assert_eq!(first.update_older(&mut connection, at(1, 5), 3).unwrap(), 0);
    assert!(!first.exists(&mut connection).unwrap());
    first.insert(&mut connection, at(1, 5), 3).unwrap();
    assert!(first.exists(&mut connection).unwrap());

    for (version, updated) in [(at(1, 5), 0), (at(1, 4), 0), (at(0, 9), 0), (at(1, 6), 1), (at(2, 1), 1)] {
        assert_eq!(row(json!(null)).update_older(&mut connection, version, 3).unwrap(), updated);
    }
    use schema::product_copies as t;
    let now: (i64, Option<i64>, i32, i64, i64, i16) = t::table
        .select((t::product_id, t::price, t::g, t::outbox_generation, t::outbox_id, t::outbox_bucket))
        .get_result(&mut connection)
        .unwrap();
    assert_eq!(now, (7, None, 7, 2, 1, 3));

    assert_eq!(first.delete_older(&mut connection, at(2, 1)).unwrap(), 0);
    assert_eq!(first.delete_older(&mut connection, at(2, 2)).unwrap(), 1);
    assert!(!first.exists(&mut connection).unwrap());

    let presence = Presence::from_image(&image(json!({ "tenant": "t", "id": 1 }))).unwrap();
    presence.insert(&mut connection, at(1, 1), 0).unwrap();
    assert_eq!(presence.update_older(&mut connection, at(1, 2), 0).unwrap(), 1);
    let other = Presence { tenant: "t".into(), id: 2 };
    assert!(!other.exists(&mut connection).unwrap());
}
