use outbox_core::Replica;

diesel::table! {
    product_copies (id) {
        id -> BigInt,
        name -> Text,
        note -> Text,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies)]
struct ProductCopy {
    #[replica(local)]
    id: i64,
    #[replica(local, from = "title")]
    name: String,
    #[replica(local, with = Into::into)]
    note: String,
}

#[derive(Replica)]
#[replica(of = "product", table = product_copies)]
struct Malformed {
    id: i64,
    #[replica(local = true, with = "Into::into")]
    name: String,
}

fn main() {}
