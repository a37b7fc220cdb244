use outbox_core::{Outbox, OutboxEvent};

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: Option<i64>,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen", key = id)]
struct Seen {
    id: std::option::Option<i64>,
}

fn main() {}
