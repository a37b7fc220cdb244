use outbox_core::{Outbox, Replica};

#[derive(Outbox)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
}

#[derive(Replica)]
#[replica(of = "product")]
struct ProductCopy {
    id: i64,
}

fn main() {}
