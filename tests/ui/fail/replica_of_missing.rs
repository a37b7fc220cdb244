use outbox_core::Replica;

diesel::table! { product_copies (id) { id -> BigInt, name -> Text } }

#[derive(Replica)]
#[diesel(table_name = product_copies)]
struct ProductCopy {
    id: i64,
}

fn main() {}
