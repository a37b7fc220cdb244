//! Serde's attributes on an entity are followed where ours say nothing else.

use diesel::prelude::*;
use outbox_core::{Entity, Outbox};
use serde::{Serialize, Serializer};

diesel::table! {
    products (id) {
        id -> BigInt,
        list_price -> BigInt,
        name -> Text,
        api_hidden -> Text,
        mail -> Text,
        edition -> Integer,
    }
}

fn in_euro<S: Serializer>(cents: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}.{:02}", cents / 100, cents % 100))
}

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Serialize, Outbox)]
#[diesel(table_name = products)]
#[serde(rename_all = "camelCase")]
#[outbox(aggregate = "product", created = "added", deleted = "removed", strict)]
struct Product {
    id: i64,
    #[serde(serialize_with = "in_euro")]
    list_price: i64,
    #[serde(rename = "title")]
    #[outbox(rename = "label")]
    name: String,
    #[serde(skip)]
    api_hidden: String,
    #[serde(skip)]
    #[outbox(redact)]
    mail: String,
    #[outbox(version)]
    edition: i32,
}

fn main() {
    let product = Product {
        id: 7,
        list_price: 1295,
        name: "lamp".into(),
        api_hidden: "hush".into(),
        mail: "a@b.c".into(),
        edition: 3,
    };
    let image = serde_json::to_value(product.image().unwrap()).unwrap();
    let expected = serde_json::json!({
        "id": 7, "listPrice": "12.95", "label": "lamp", "mail": outbox_core::REDACTED, "edition": 3
    });
    assert_eq!(image, expected);
    assert_eq!(product.version(), Some(3));
    assert_eq!((Product::EVENTS.created, Product::EVENTS.updated, Product::EVENTS.deleted), (
        "added", "updated", "removed"
    ));
    assert!(Product::STRICT);
    let fields: Vec<_> = Product::FIELDS.iter().map(|field| (field.name, field.ty)).collect();
    assert_eq!(fields, [
        ("id", "i64"), ("listPrice", "?"), ("label", "String"), ("mail", "redacted"), ("edition", "i32")
    ]);
}
