use outbox_core::OutboxEvent;
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen", key = id, version = 0)]
struct Zero {
    id: i64,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "seen", key = id, version = "2", strict = true)]
struct Text {
    id: i64,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", key = id, version = -1)]
enum Negative {
    Seen { id: i64 },
}

fn main() {}
