use outbox_core::Outbox;

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    #[diesel(serialize_as = std::collections::BTreeMap<String, String>, column_name = name)]
    name: String,
}

fn main() {}
