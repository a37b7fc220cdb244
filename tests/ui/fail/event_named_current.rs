use outbox_core::OutboxEvent;

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "current", key = id)]
struct Current {
    id: i64,
}

fn main() {}
