use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    #[outbox(skip)]
    id: i64,
}

fn main() {}
