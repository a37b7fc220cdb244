//! Domain events: what happened, beside the entity it happened to.

use serde::Serialize;

use crate::entity::FieldSchema;
use crate::error::{Error, Result};
use crate::message::Message;

/// One kind of event, as its contract has it.
///
#[cfg_attr(
    feature = "derive",
    doc = r#"
```
use outbox_core::{Event, FieldSchema, OutboxEvent};

#[derive(serde::Serialize, OutboxEvent)]
#[serde(tag = "type")]
#[outbox(aggregate = "product", key = product_id)]
enum ProductEvent {
    PriceRaised { product_id: i64, by_cents: i64 },
    Delisted { product_id: i64 },
}

let [raised, delisted] = ProductEvent::EVENTS else { panic!("two variants") };
assert_eq!((raised.event, delisted.event), ("price_raised", "delisted"));
assert!(raised.fields.contains(&FieldSchema { name: "by_cents", ty: "i64" }));
```
"#
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventSchema {
    /// What happened, second word of the message's kind.
    pub event: &'static str,
    /// The fields of the struct or variant, as they are called in the payload; of type `?` where serde writes
    /// something else in their place.
    pub fields: &'static [FieldSchema],
}

/// A domain event, or an enum of them; derive it with `#[derive(OutboxEvent)]`.
///
#[cfg_attr(
    feature = "derive",
    doc = r##"
```
use outbox_core::{Event, OutboxEvent};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, OutboxEvent)]
#[serde(tag = "type")]
#[outbox(aggregate = "product", key = product_id)]
enum ProductEvent {
    PriceRaised { product_id: i64, by_cents: i64 },
    #[outbox(event = "taken_off")]
    Delisted { product_id: i64 },
}

let raised = ProductEvent::PriceRaised { product_id: 7, by_cents: 45 };
assert_eq!((raised.event(), raised.key().as_str()), ("price_raised", "7"));
assert_eq!((ProductEvent::AGGREGATE, ProductEvent::SCHEMA_VERSION, ProductEvent::STRICT), ("product", 1, false));
let message = raised.message()?;
assert_eq!((message.kind().as_str(), message.key()), ("product.price_raised", "7"));
assert_eq!(message.payload(), br#"{"type":"PriceRaised","product_id":7,"by_cents":45}"#);
assert_eq!(ProductEvent::EVENTS[1].event, "taken_off");
# Ok::<(), outbox_core::Error>(())
```
"##
)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an outbox event",
    note = "add `#[derive(OutboxEvent)]` and `#[outbox(aggregate = \"…\", event = \"…\", key = field)]` to it"
)]
pub trait Event: Serialize {
    /// The aggregate type it belongs to.
    const AGGREGATE: &'static str;
    /// The kinds of event it can be: one for a struct, one for each variant of an enum.
    const EVENTS: &'static [EventSchema];
    /// The version of the payload's schema, 1 at first.
    const SCHEMA_VERSION: u32 = 1;
    /// Whether events of one key stay in order even where no transaction locks a row of that key.
    const STRICT: bool = false;

    /// What happened: the name of one of [`EVENTS`](Self::EVENTS).
    fn event(&self) -> &'static str;

    /// The key of the aggregate; messages of one key stay in order.
    fn key(&self) -> String;

    /// The event as a message, with the fingerprint of its fields.
    ///
    /// # Errors
    /// `Invalid` when it does not serialize or breaks a bound of [`Message::new`].
    fn message(&self) -> Result<Message> {
        let event = self.event();
        let key = self.key();
        let payload = serde_json::to_vec(self).map_err(|e| {
            Error::from(e).context(format!("{}.{event} of key {key} does not serialize", Self::AGGREGATE))
        })?;
        let message = Message::new(Self::AGGREGATE, key, event, payload)?;
        let schema = Self::EVENTS.iter().find(|schema| schema.event == event);
        Ok(match schema {
            Some(schema) => {
                message.with_schema_version(Self::SCHEMA_VERSION).with_schema(&fingerprint(schema.fields))
            }
            None => message,
        })
    }
}

/// FNV-1a 64 over `name:type;` of the fields in the order of their names, as 16 hex digits; the derive of
/// entities does the same at compile time.
fn fingerprint(fields: &[FieldSchema]) -> String {
    use std::hash::Hasher;
    let mut by_name: Vec<_> = fields.iter().collect();
    by_name.sort_by_key(|field| field.name);
    let mut hash = fnv::FnvHasher::default();
    for FieldSchema { name, ty } in by_name {
        hash.write(format!("{name}:{ty};").as_bytes());
    }
    format!("{:016x}", hash.finish())
}

/// The fields of the event that a newtype variant holds, for [`Event::EVENTS`] of its enum.
///
/// # Panics
/// At compile time, when the event inside has several kinds or another aggregate.
#[doc(hidden)]
pub const fn held_fields(
    aggregate: &str,
    events: &'static [EventSchema],
    of_enum: &str,
) -> &'static [FieldSchema] {
    let (aggregate, of_enum) = (aggregate.as_bytes(), of_enum.as_bytes());
    let mut is_same = aggregate.len() == of_enum.len();
    let mut at = 0;
    while is_same && at < aggregate.len() {
        is_same = aggregate[at] == of_enum[at];
        at += 1;
    }
    assert!(
        is_same,
        "the event in this variant belongs to another aggregate than the enum; give both the same"
    );
    match events {
        [only] => only.fields,
        _ => panic!("the event in this variant is an enum itself; let the variant hold a struct"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_that_of_the_derive() {
        // The same value is pinned in outbox-macros.
        let fields = [FieldSchema { name: "b", ty: "i64" }, FieldSchema { name: "a", ty: "Option<Vec<u8>>" }];
        assert_eq!(fingerprint(&fields), "607de5ddb58c5491");
        assert_eq!(fingerprint(&[]), "cbf29ce484222325");
    }
}
