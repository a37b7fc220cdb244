use outbox_core::{Outbox, OutboxEvent, Replica};

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(agregate = "product")]
struct Product {
    #[outbox(rename_to = "no")]
    id: i64,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen", key = id, skip)]
struct Seen {
    #[outbox(skip)]
    id: i64,
}

#[derive(Replica)]
#[replica(of = "product", table = products, entity = Product)]
struct ProductCopy {
    #[replica(rename = "no")]
    id: i64,
}

fn main() {}
