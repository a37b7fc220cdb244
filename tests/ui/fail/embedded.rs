use outbox_core::{Outbox, Replica};

diesel::table! { products (id) { id -> BigInt } }

struct Rest;

#[derive(Outbox)]
#[diesel(table_name = products)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    #[diesel(embed)]
    rest: Rest,
}

#[derive(Replica)]
#[diesel(table_name = products)]
#[replica(of = "product")]
struct ProductCopy {
    id: i64,
    #[diesel(embed)]
    rest: Rest,
}

fn main() {}
