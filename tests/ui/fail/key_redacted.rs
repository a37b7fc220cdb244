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
#[outbox(aggregate = "product", key(name))]
struct Product {
    id: i64,
    #[outbox(redact)]
    name: String,
    #[outbox(hash, redact)]
    rest: String,
}

fn main() {}
