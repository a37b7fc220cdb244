//! What the service keeps: products, and the event of a price that rose.

use diesel::prelude::*;
use outbox_core::{Outbox, OutboxEvent};
use serde::{Deserialize, Serialize};

diesel::table! {
    product (id) {
        id -> BigInt,
        sku -> Text,
        name -> Text,
        price_cents -> BigInt,
        cost_cents -> BigInt,
    }
}

/// A product. Each write of it is recorded as `product.created`, `product.updated` or `product.deleted`.
#[derive(Debug, Clone, Serialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = product)]
#[outbox(aggregate = "product")]
pub(crate) struct Product {
    pub(crate) id: i64,
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) price_cents: i64,
    /// What it costs us is nobody else's business: in no message and in no answer.
    #[outbox(skip)]
    #[serde(skip)]
    pub(crate) cost_cents: i64,
}

/// A product before the database gave it an id: the body of a request.
#[derive(Debug, Deserialize, Insertable, Outbox)]
#[diesel(table_name = product)]
#[outbox(entity = Product)]
pub(crate) struct NewProduct {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) price_cents: i64,
    pub(crate) cost_cents: i64,
}

/// A price rose: `product.price_raised`.
#[derive(Debug, Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "price_raised", key = product_id)]
pub(crate) struct PriceRaised {
    pub(crate) product_id: i64,
    pub(crate) from_cents: i64,
    pub(crate) to_cents: i64,
}
