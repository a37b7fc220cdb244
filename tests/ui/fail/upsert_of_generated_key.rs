use diesel::prelude::*;
use outbox_core::Outbox;

diesel::table! {
    products (id) {
        id -> BigInt,
        name -> Text,
        rest -> Text,
    }
}

use outbox_core::OutboxTx;

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    #[diesel(skip_insertion)]
    id: i64,
    name: String,
    rest: String,
}

fn save(tx: &mut OutboxTx<'_, SqliteConnection>, product: &Product) {
    let _ = tx.upsert(product);
}

fn main() {}
