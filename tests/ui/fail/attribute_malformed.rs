use outbox_core::{Outbox, OutboxEvent};

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate("product"))]
struct Product {
    #[outbox(skip = true)]
    id: i64,
}

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(entity = "Product", key())]
struct NewProduct {
    id: i64,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product" event = "seen")]
struct Seen {
    id: i64,
}

fn main() {}
