use diesel::prelude::*;
use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt, name -> Text, price -> BigInt } }

#[derive(Queryable, Selectable)]
#[diesel(table_name = products)]
struct Product {
    id: i64,
}

#[derive(Insertable, Outbox)]
#[diesel(table_name = products)]
#[outbox(entity = Product)]
struct NewProduct {
    id: i64,
}

fn main() {}
