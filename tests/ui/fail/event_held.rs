use outbox_core::OutboxEvent;
use serde::Serialize;

#[derive(Serialize)]
struct Plain {
    id: i64,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Product {
    Seen(Plain),
}

fn main() {}
