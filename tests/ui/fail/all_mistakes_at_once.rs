//! One compile tells all of them, and nothing follows from the impls that are missing.

use outbox_core::{Entity, Outbox};

diesel::table! { products (id) { id -> BigInt } }

#[derive(Outbox)]
#[outbox(aggregate = "pro duct", tpoic = "x", key(nope, id))]
#[outbox(aggregate = "product")]
struct Product<T> {
    id: Option<i64>,
    #[outbox(rename = "id")]
    name: String,
    #[diesel(embed)]
    rest: T,
}

fn is_entity<E: Entity>() {}

fn main() {
    is_entity::<Product<()>>();
}
