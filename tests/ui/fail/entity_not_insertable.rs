use diesel::prelude::*;
use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt, name -> Text, price -> BigInt } }

#[derive(Queryable, Selectable, Identifiable, AsChangeset, Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    name: String,
}

fn main() {}
