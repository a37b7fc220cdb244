//! A copy: takes only what is newer, whatever Diesel derives it lacks.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::testing::{memory_pool, run_until_idle};
use outbox_core::{Image, Message, OutboxConnection, Replica, Subscriber};
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
    let (pool, broker) = (memory_pool(), MemoryBroker::new());
    let subscriber =
        Subscriber::new("ui", broker.clone(), pool.clone()).copy::<ProductCopy>().copy::<Presence>();
    let mut connection = pool.get().unwrap();
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
    let of = |price: serde_json::Value| {
        json!({
            "id": 7, "name": "kite", "price_cents": price, "more": 1,
            "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7,
        })
    };
    assert_eq!((ProductCopy::AGGREGATE, ProductCopy::COPY), ("product", "product_copies"));
    assert!(
        ProductCopy::from_image(&image(json!({ "id": 7 }))).unwrap_err().to_string().contains("field name")
    );

    let mut tell = |aggregate: &str, event: &str, row: serde_json::Value| {
        let side = if event == "deleted" { "before" } else { "after" };
        let payload = json!({ side: row }).to_string().into_bytes();
        let message = Message::new(aggregate, "7", event, payload).unwrap();
        connection
            .outbox_transaction(|tx| {
                tx.record_message(message);
                Ok(())
            })
            .unwrap();
        run_until_idle(&mut *connection, &broker, &[&subscriber]).unwrap();
    };
    tell("product", "created", of(json!(100)));
    tell("product", "updated", of(json!(null)));
    tell("presence", "created", json!({ "tenant": "t", "id": 1 }));
    tell("presence", "updated", json!({ "tenant": "t", "id": 1 }));

    use schema::{presences as p, product_copies as t};
    let mut other = pool.get().unwrap();
    let now: (i64, Option<i64>, i32, i64, i64, i16) = t::table
        .select((t::product_id, t::price, t::g, t::outbox_generation, t::outbox_id, t::outbox_bucket))
        .get_result(&mut other)
        .unwrap();
    assert_eq!(now, (7, None, 7, 1, 2, 41));
    let presence: (String, i32, i64) =
        p::table.select((p::tenant, p::id, p::outbox_id)).get_result(&mut other).unwrap();
    assert_eq!(presence, ("t".to_owned(), 1, 4));

    tell("product", "deleted", of(json!(null)));
    assert_eq!(t::table.count().get_result::<i64>(&mut other).unwrap(), 0);
}
