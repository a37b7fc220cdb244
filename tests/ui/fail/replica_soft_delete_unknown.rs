use outbox_core::Replica;

diesel::table! {
    product_copies (id) {
        id -> BigInt,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, soft_delete = gone)]
struct ProductCopy {
    id: i64,
}

fn main() {}
