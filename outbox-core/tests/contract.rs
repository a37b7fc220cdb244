//! The contract of entities as the derive describes them.
#![cfg(all(feature = "derive", feature = "sqlite"))]
#![allow(missing_docs, reason = "of a table in a test")]

use diesel::prelude::*;
use outbox_core::Outbox;
use outbox_core::contract::Contract;

diesel::table! {
    product (id) {
        id -> BigInt,
        name -> Text,
        note -> Nullable<Text>,
        stock -> Integer,
        email -> Text,
        cost -> BigInt,
    }
}

mod domain {
    pub(super) type Stock = i32;
}

// Types that pass through a macro reach the derive in groups that cannot be seen.
macro_rules! product {
    ($name:ty, $note:ty) => {
        #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
        #[diesel(table_name = product)]
        #[outbox(aggregate = "product", deleted = "gone")]
        struct Product {
            id: i64,
            #[outbox(rename = "title")]
            name: $name,
            note: Option<$note>,
            stock: domain::Stock,
            #[outbox(hash)]
            email: String,
            #[outbox(redact)]
            cost: i64,
        }
    };
}
product!(std::string::String, std::string::String);

#[test]
fn a_derived_entity_has_the_fields_and_kinds_of_its_messages() {
    let json: serde_json::Value =
        serde_json::from_str(&Contract::new().entity::<Product>().to_json()).unwrap();
    let message = &json["messages"][0];
    assert_eq!(message["kinds"], serde_json::json!(["product.created", "product.updated", "product.gone"]));
    assert_eq!(
        message["fields"],
        serde_json::json!({
            "id": "i64",
            "title": "String",
            "note": "Option<String>",
            "stock": "Stock",
            "email": "hashed",
            "cost": "redacted",
        })
    );
}
