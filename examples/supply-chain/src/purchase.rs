//! The purchase service: keeps another copy of the products, with the columns that buyers need.

use diesel::prelude::*;
use outbox_core::Replica;

use crate::product::Product;
use crate::schema::purchase::{purchase_line, stocked_product};

/// The columns of a product that purchases need.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = stocked_product)]
#[replica(of = "product")]
pub(crate) struct StockedProduct {
    pub(crate) id: i64,
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) batch: String,
    pub(crate) status: String,
}

impl StockedProduct {
    /// What is to be copied of a product.
    pub(crate) fn of(product: &Product) -> Self {
        Self {
            id: product.id,
            sku: product.sku.clone(),
            name: product.name.clone(),
            batch: product.batch.clone(),
            status: product.status.clone(),
        }
    }
}

/// A line of a purchase.
#[derive(Debug, Insertable)]
#[diesel(table_name = purchase_line)]
pub(crate) struct NewPurchaseLine {
    pub(crate) product_id: i64,
    pub(crate) quantity: i32,
}
