use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox()]
struct Product {
    id: i64,
}

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(entity = Product, aggregate = "product")]
struct NewProduct {
    #[outbox(skip)]
    id: i64,
    #[outbox(rename = "x")]
    name: String,
}

fn main() {}
