use outbox_core::{Outbox, OutboxEvent, Replica};

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "shop.product")]
struct Product {
    id: i64,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "", event = "price raised", key = id)]
struct PriceRaised {
    id: i64,
}

#[derive(Replica)]
#[replica(of = "prodüct", table = products)]
struct ProductCopy {
    id: i64,
}

fn main() {}
