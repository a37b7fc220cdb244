//! Enums of events: names, keys, a variant that holds an event, what serde renames.
#![deny(warnings)]

use outbox_core::{Event, EventSchema, OutboxEvent};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "renamed", key = product_id)]
struct Renamed {
    product_id: i64,
    name: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, OutboxEvent)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[outbox(aggregate = "product", key = product_id, version = 2, strict)]
enum ProductEvent {
    PriceRaised {
        product_id: i64,
        by_cents: i64,
    },
    /// Its fields are called otherwise.
    #[outbox(event = "delisted", key(shop, r#type))]
    #[serde(rename_all = "kebab-case")]
    TakenOff {
        shop: i64,
        #[serde(rename = "sort")]
        r#type: String,
        taken_by: Option<String>,
    },
    Renamed(Renamed),
    /// A name of its own for the event that it holds.
    #[outbox(event = "named")]
    First(Renamed),
}

/// One variant, a lifetime.
#[derive(Serialize, OutboxEvent)]
#[serde(untagged)]
#[outbox(aggregate = "shop")]
enum Borrowed<'a> {
    #[outbox(key = name)]
    Opened { name: &'a str },
    Closed(Closed<'a>),
}

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "shop", event = "closed", key = name)]
struct Closed<'a> {
    name: &'a str,
    why: &'a str,
}

macro_rules! events {
    ($name:ident, $field:ident: $ty:ty) => {
        #[derive(Serialize, OutboxEvent)]
        #[outbox(aggregate = "made", key = $field)]
        enum $name {
            Made { $field: $ty },
        }
    };
}
events!(Made, id: i64);

/// `event(name: type, …)` of each kind.
fn shown<E: Event>() -> Vec<String> {
    let shown = |schema: &EventSchema| {
        let fields: Vec<_> = schema.fields.iter().map(|field| format!("{}: {}", field.name, field.ty)).collect();
        format!("{}({})", schema.event, fields.join(", "))
    };
    E::EVENTS.iter().map(shown).collect()
}

fn main() {
    let renamed = || Renamed { product_id: 7, name: "kite".into() };
    let events = [
        (
            ProductEvent::PriceRaised { product_id: 7, by_cents: 5 },
            ("price_raised", "7", r#"{"type":"price_raised","productId":7,"byCents":5}"#),
        ),
        (
            ProductEvent::TakenOff { shop: 1, r#type: "a:b".into(), taken_by: None },
            ("delisted", r"1:a\:b", r#"{"type":"taken_off","shop":1,"sort":"a:b","taken-by":null}"#),
        ),
        (
            ProductEvent::Renamed(renamed()),
            ("renamed", "7", r#"{"type":"renamed","product_id":7,"name":"kite"}"#),
        ),
        (
            ProductEvent::First(renamed()),
            ("named", "7", r#"{"type":"first","product_id":7,"name":"kite"}"#),
        ),
    ];
    for (event, (name, key, payload)) in &events {
        let message = event.message().unwrap();
        assert_eq!((event.event(), message.event(), message.key()), (*name, *name, *key));
        assert_eq!(message.payload(), payload.as_bytes());
    }
    assert_eq!((ProductEvent::SCHEMA_VERSION, ProductEvent::STRICT), (2, true));

    assert_eq!(
        shown::<ProductEvent>(),
        [
            "price_raised(productId: i64, byCents: i64)",
            "delisted(shop: i64, sort: String, taken-by: Option<String>)",
            "renamed(product_id: i64, name: String)",
            "named(product_id: i64, name: String)",
        ]
    );

    // The fingerprint is that of the fields, whatever the kind.
    let schema = |index: usize| events[index].0.message().unwrap().schema().unwrap().to_owned();
    assert_eq!(schema(2), schema(3));
    assert_eq!(schema(2), renamed().message().unwrap().schema().unwrap());
    assert_ne!(schema(0), schema(2));

    let opened = Borrowed::Opened { name: "a" }.message().unwrap();
    assert_eq!((opened.kind().as_str(), opened.key()), ("shop.opened", "a"));
    assert_eq!(opened.payload(), br#"{"name":"a"}"#);
    let closed = Borrowed::Closed(Closed { name: "a", why: "rain" }).message().unwrap();
    assert_eq!((closed.kind().as_str(), closed.key()), ("shop.closed", "a"));
    assert_eq!(Borrowed::EVENTS[1].fields.len(), 2);
    assert_eq!(Made::Made { id: 1 }.key(), "1");
}
