use outbox_core::OutboxEvent;
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", key = id, evnt = "x")]
enum Product {
    #[outbox(aggregate = "other")]
    Listed { id: i64 },
    #[outbox(event = delisted, event = "gone", event = "gone")]
    Delisted { id: i64 },
    #[outbox(kee = product)]
    Raised {
        #[outbox(skip)]
        product: i64,
    },
}

fn main() {}
