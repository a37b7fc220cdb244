use diesel::prelude::*;
use outbox_core::Outbox;

diesel::table! {
    products (id) {
        id -> BigInt,
        name -> Text,
        rest -> Text,
    }
}

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, serde::Serialize, Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    #[serde(skip)]
    id: i64,
    #[serde(rename = "rest")]
    name: String,
    #[serde(flatten)]
    rest: String,
}

fn main() {}
