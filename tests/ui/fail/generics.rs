use outbox_core::{Outbox, OutboxEvent, Replica};

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product<'a, T, const N: usize> {
    id: &'a T,
}

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(entity = Plain)]
struct NewProduct<'a, T> {
    id: &'a T,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen", key = id)]
struct Seen<'a, T> {
    id: &'a T,
}

#[derive(Replica)]
#[replica(of = "product", table = products)]
struct ProductCopy<'a> {
    id: &'a str,
}

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "plain", key())]
struct Plain {
    id: i64,
}

fn main() {}
