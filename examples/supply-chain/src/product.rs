//! The product service: its entity, its event, and how it writes.

use diesel::prelude::*;
use outbox_core::{EntityOn, InsertOn, Outbox, OutboxConnection, OutboxEvent, Result};
use serde::{Deserialize, Serialize};

use crate::changes::{Change, Subject};
use crate::schema::product::product;

/// A product. Each write of it is recorded as `product.created`, `product.updated` or `product.deleted`.
#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox,
)]
#[diesel(table_name = product)]
#[outbox(aggregate = "product")]
pub(crate) struct Product {
    pub(crate) id: i64,
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) batch: String,
    pub(crate) warranty_months: i32,
    pub(crate) price_cents: i64,
    /// What it costs us is nobody else's business: it never leaves this database.
    #[outbox(skip)]
    pub(crate) cost_cents: i64,
    pub(crate) status: String,
}

/// A product before the database gave it an id and a status.
#[derive(Debug, Clone, Insertable, Outbox)]
#[diesel(table_name = product)]
#[outbox(entity = Product)]
pub(crate) struct NewProduct {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) batch: String,
    pub(crate) warranty_months: i32,
    pub(crate) price_cents: i64,
    pub(crate) cost_cents: i64,
}

/// A price rose by a tenth or more.
#[derive(Debug, Clone, Serialize, Deserialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "price_raised", key = product_id)]
pub(crate) struct PriceRaised {
    pub(crate) product_id: i64,
    pub(crate) from_cents: i64,
    pub(crate) to_cents: i64,
}

/// What was written so far, for the summary.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub(crate) transactions: u64,
    pub(crate) changes: u64,
    pub(crate) events: u64,
}

/// The product service's writer: one transaction for each group of changes.
#[derive(Debug, Default)]
pub(crate) struct ProductService {
    products: Vec<Product>,
    pub(crate) written: Written,
}

impl ProductService {
    /// How many products there are.
    pub(crate) fn len(&self) -> usize {
        self.products.len()
    }

    /// The id of a product.
    pub(crate) fn id(&self, subject: Subject) -> Option<i64> {
        self.products.get(subject.index(self.products.len())?).map(|product| product.id)
    }

    /// Applies the changes in one transaction, each with its messages.
    pub(crate) fn write<C>(&mut self, connection: &mut C, changes: &[Change]) -> Result<()>
    where
        C: OutboxConnection,
        Product: EntityOn<C>,
        NewProduct: InsertOn<C, Entity = Product>,
    {
        let (mut products, mut written) = (self.products.clone(), self.written);
        connection.outbox_transaction(|tx| {
            for change in changes {
                let subject = change.subject().and_then(|subject| subject.index(products.len()));
                match (change, subject) {
                    (Change::Insert(new), _) => products.push(tx.insert(new)?),
                    (_, None) => continue,
                    (Change::Delete(_), Some(index)) => {
                        tx.delete(&products[index])?;
                        products.swap_remove(index);
                    }
                    (Change::Update(_, edit), Some(index)) => {
                        let before = &products[index];
                        let after = tx.update_from(before, &edit.apply(before))?;
                        if after.price_cents * 10 >= before.price_cents * 11 {
                            tx.record(&PriceRaised {
                                product_id: after.id,
                                from_cents: before.price_cents,
                                to_cents: after.price_cents,
                            })?;
                            written.events += 1;
                        }
                        products[index] = after;
                    }
                }
                written.changes += 1;
            }
            Ok(())
        })?;
        written.transactions += 1;
        (self.products, self.written) = (products, written);
        Ok(())
    }
}
