//! Events: a borrowed one, a key of several fields, what serde renames, a version.

use outbox_core::{Event, EventSchema, OutboxEvent};
use serde::Serialize;

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "price_raised", key = product_id)]
struct PriceRaised<'a> {
    product_id: i64,
    reason: &'a str,
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "order_line", event = "picked", version = 3, strict)]
#[outbox(key(order, r#type))]
#[serde(rename_all = "camelCase")]
struct Picked {
    order: i64,
    #[serde(rename = "kind")]
    r#type: String,
    picked_by: Option<String>,
    #[serde(skip)]
    #[allow(dead_code)]
    place: Place,
    #[serde(flatten)]
    more: std::collections::BTreeMap<String, String>,
}

#[allow(dead_code)]
#[derive(Default)]
struct Place;

/// The payload is another type: what it holds cannot be seen.
#[derive(Clone, Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "weighed", key = product_id)]
#[serde(into = "(i64, i64)")]
struct Weighed {
    product_id: i64,
    grams: i64,
}

impl From<Weighed> for (i64, i64) {
    fn from(weighed: Weighed) -> Self {
        (weighed.product_id, weighed.grams)
    }
}

/// `event(name: type, …)` of each kind.
fn shown<E: Event>() -> Vec<String> {
    let shown = |schema: &EventSchema| {
        let fields: Vec<_> = schema.fields.iter().map(|field| format!("{}: {}", field.name, field.ty)).collect();
        format!("{}({})", schema.event, fields.join(", "))
    };
    E::EVENTS.iter().map(shown).collect()
}

fn main() {
    let raised = PriceRaised { product_id: 7, reason: "wind" };
    let message = raised.message().unwrap();
    assert_eq!((message.kind().as_str(), message.key()), ("product.price_raised", "7"));
    assert_eq!(message.payload(), br#"{"product_id":7,"reason":"wind"}"#);
    assert_eq!(raised.event(), "price_raised");
    assert_eq!((PriceRaised::SCHEMA_VERSION, PriceRaised::STRICT), (1, false));
    assert_eq!(shown::<PriceRaised<'_>>(), ["price_raised(product_id: i64, reason: &'astr)"]);
    assert_eq!(message.schema().map(str::len), Some(16));

    let more = std::collections::BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let picked = Picked { order: 7, r#type: "a:b".into(), picked_by: None, place: Place, more };
    let message = picked.message().unwrap();
    assert_eq!(message.key(), r"7:a\:b");
    assert_eq!(message.payload(), br#"{"order":7,"kind":"a:b","pickedBy":null,"a":"b"}"#);
    assert_eq!((Picked::SCHEMA_VERSION, Picked::STRICT), (3, true));
    assert_eq!(
        shown::<Picked>(),
        ["picked(order: i64, kind: String, pickedBy: Option<String>, more: ?)"]
    );

    let weighed = Weighed { product_id: 7, grams: 100 };
    assert_eq!(weighed.message().unwrap().payload(), b"[7,100]");
    assert_eq!(shown::<Weighed>(), ["weighed(product_id: ?, grams: ?)"]);
}
