use diesel::prelude::*;
use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt, name -> Text, price -> BigInt } }

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    name: String,
}

#[derive(Insertable, Outbox)]
#[diesel(table_name = products)]
#[outbox(entity = Product, key(nam))]
struct NewProduct {
    name: String,
}

fn main() {}
