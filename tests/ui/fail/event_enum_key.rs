use outbox_core::{Event, OutboxEvent};
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", key(id, id))]
enum Inherited {
    Listed { id: i64 },
    Raised { product: i64 },
    Maybe { id: Option<i64> },
    #[outbox(key = nope)]
    Delisted { product: i64 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Nowhere {
    Listed { id: i64 },
    Raised { id: i64 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Somewhere {
    #[outbox(key = id)]
    Listed { id: i64 },
    Raised { id: i64 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", key = id)]
enum Unused {
    #[outbox(key = product)]
    Listed { id: i64, product: i64 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "held", key = id)]
struct Held {
    id: i64,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Holding {
    #[outbox(key = id)]
    Held(Held),
}

fn is_event<E: Event>() {}

fn main() {
    is_event::<Inherited>();
    is_event::<Nowhere>();
}
