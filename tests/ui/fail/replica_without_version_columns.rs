use outbox_core::Replica;

diesel::table! { product_copies (id) { id -> BigInt, name -> Text } }

#[derive(Replica)]
#[diesel(table_name = product_copies)]
#[replica(of = "product")]
struct ProductCopy {
    id: i64,
    name: String,
}

fn main() {}
