use diesel::prelude::*;
use outbox_core::Outbox;

diesel::table! {
    products (id) {
        id -> BigInt,
        name -> Text,
        rest -> Text,
    }
}

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    #[outbox(version)]
    name: String,
    rest: String,
}

fn main() {}
