use outbox_core::OutboxEvent;
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "order", event = "placed", key = id)]
struct Placed {
    id: i64,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", key = id)]
enum Many {
    Seen { id: i64 },
    Sold { id: i64 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Elsewhere {
    Placed(Placed),
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Nested {
    Many(Many),
}

fn main() {}
