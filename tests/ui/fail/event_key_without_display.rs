use outbox_core::OutboxEvent;
use serde::Serialize;

#[derive(Serialize)]
struct Id(i64);

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Product {
    #[outbox(key(shop, id))]
    Seen { shop: i64, id: Id },
}

fn main() {}
