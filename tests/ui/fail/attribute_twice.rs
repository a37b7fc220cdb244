use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product", key(id, id))]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
}

fn main() {}
