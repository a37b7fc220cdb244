//! Events: a borrowed one, a key of several fields.

use outbox_core::{Event, OutboxEvent};
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "price_raised", key = product_id)]
struct PriceRaised<'a> {
    product_id: i64,
    reason: &'a str,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "order_line", event = "picked")]
#[outbox(key(order, r#type))]
struct Picked {
    order: i64,
    #[serde(rename = "kind")]
    r#type: String,
}

fn main() {
    let raised = PriceRaised { product_id: 7, reason: "wind" };
    let message = raised.message().unwrap();
    assert_eq!((message.kind().as_str(), message.key()), ("product.price_raised", "7"));
    assert_eq!(message.payload(), br#"{"product_id":7,"reason":"wind"}"#);
    let picked = Picked { order: 7, r#type: "a:b".into() };
    assert_eq!(picked.message().unwrap().key(), r"7:a\:b");
}
