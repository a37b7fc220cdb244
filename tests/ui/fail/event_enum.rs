use outbox_core::OutboxEvent;
use serde::Serialize;

// Each variant is an event of a name of its own.
#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "changed", key = id)]
enum Names {
    PriceRaised { id: i64 },
    #[outbox(event = "price_raised")]
    Raised { id: i64 },
    #[allow(non_camel_case_types)]
    price_raised { id: i64 },
    Current { id: i64 },
    #[outbox(event = "price raised")]
    Spaced { id: i64 },
    Größer { id: i64 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", key = id)]
enum Shapes {
    Unit,
    Empty(),
    Tuple(i64, String),
    #[serde(skip)]
    Skipped { id: i64 },
    Good { id: i64 },
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", key = id)]
enum Nothing {}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product")]
enum Generic<'a, T> {
    #[outbox(key = id)]
    Seen { id: &'a T },
}

#[derive(Serialize, OutboxEvent)]
enum NoAggregate {
    #[outbox(key = id)]
    Seen { id: i64 },
}

fn main() {}
