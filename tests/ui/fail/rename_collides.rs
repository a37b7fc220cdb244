use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    #[outbox(rename = "id")]
    number: i64,
    #[outbox(rename = "title")]
    name: String,
    #[outbox(rename = "title")]
    label: String,
    #[outbox(skip, rename = "secret")]
    hidden: String,
    #[outbox(rename = "")]
    empty: String,
}

fn main() {}
