//! The order service: keeps a copy of the products beside its lines, and notes raised prices.

use diesel::prelude::*;
use outbox_core::Replica;

use crate::product::Product;
use crate::schema::order::{order_line, price_alert, product_copy};

/// The columns of a product that orders need; `favourite` is this service's own and never touched.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = product_copy)]
#[replica(of = "product")]
pub(crate) struct ProductCopy {
    pub(crate) id: i64,
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) warranty_months: i32,
    #[replica(from = "price_cents")]
    pub(crate) unit_price_cents: i64,
}

impl ProductCopy {
    /// What is to be copied of a product.
    pub(crate) fn of(product: &Product) -> Self {
        Self {
            id: product.id,
            sku: product.sku.clone(),
            name: product.name.clone(),
            category: product.category.clone(),
            warranty_months: product.warranty_months,
            unit_price_cents: product.price_cents,
        }
    }
}

/// A line of an order.
#[derive(Debug, Insertable)]
#[diesel(table_name = order_line)]
pub(crate) struct NewOrderLine {
    pub(crate) product_id: i64,
    pub(crate) quantity: i32,
}

/// A price that rose, for the people who quote.
#[derive(Debug, Insertable)]
#[diesel(table_name = price_alert)]
pub(crate) struct NewPriceAlert {
    pub(crate) product_id: i64,
    pub(crate) raised_cents: i64,
}
