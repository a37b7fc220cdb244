use diesel::prelude::*;
use outbox_core::{Outbox, OutboxEvent};

diesel::table! { products (id) { id -> BigInt, tags -> Binary } }

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product", key(id, tags))]
struct Product {
    id: i64,
    tags: Vec<u8>,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen", key = tags)]
struct Seen {
    tags: Vec<u8>,
}

fn main() {}
