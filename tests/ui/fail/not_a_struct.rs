use outbox_core::{Outbox, OutboxEvent, Replica};

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
enum Product {
    A,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen", key = id)]
struct Seen(i64);

#[derive(Replica)]
#[replica(of = "product", table = products)]
union ProductCopy {
    id: i64,
}

fn main() {}
