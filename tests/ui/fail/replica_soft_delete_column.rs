use outbox_core::Replica;

diesel::table! {
    product_copies (id) {
        id -> BigInt,
        note -> Text,
        deleted_at -> Timestamp,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, soft_delete = note)]
struct Text {
    id: i64,
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, soft_delete = deleted_at)]
struct NeverNull {
    id: i64,
}

fn main() {}
