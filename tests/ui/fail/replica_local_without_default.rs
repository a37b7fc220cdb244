use outbox_core::Replica;

diesel::table! {
    product_copies (id) {
        id -> BigInt,
        note -> Text,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

struct Note(String);

#[derive(Replica)]
#[replica(of = "product", table = product_copies)]
struct ProductCopy {
    id: i64,
    #[replica(local)]
    note: Note,
}

fn main() {}
