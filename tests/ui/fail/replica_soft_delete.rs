use outbox_core::Replica;

diesel::table! {
    product_copies (id) {
        id -> BigInt,
        gone -> Bool,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, soft_delete = gone)]
struct Followed {
    id: i64,
    gone: bool,
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, soft_delete = outbox_bucket)]
struct Version {
    id: i64,
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, soft_delete = "gone")]
struct Quoted {
    id: i64,
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies, soft_delete)]
struct Flag {
    id: i64,
}

fn main() {}
