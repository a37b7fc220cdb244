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
#[replica(of = "product", table = product_copies, created = "listed", updated = "listed", deleted = "created")]
struct Same {
    id: i64,
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, created = "updated", deleted = "current")]
struct Taken {
    id: i64,
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, created = "", updated = changed, deleted = "de listed")]
struct Malformed {
    id: i64,
}

fn main() {}
