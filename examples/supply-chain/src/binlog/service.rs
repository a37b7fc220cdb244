//! The product service without an outbox: plain Diesel, and nothing that knows of replication.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text};

use crate::changes::{Change, Subject};
use crate::product::{NewProduct, Product};
use crate::schema::product::product;

/// Writes products, and with each how many there are of its category, batch and warranty.
#[derive(Debug, Default)]
pub(super) struct PlainService {
    products: Vec<Product>,
    pub(super) transactions: u64,
    pub(super) changes: u64,
}

impl PlainService {
    /// How many products there are.
    pub(super) fn len(&self) -> usize {
        self.products.len()
    }

    /// The id of a product.
    pub(super) fn id(&self, subject: Subject) -> Option<i64> {
        self.products.get(subject.index(self.products.len())?).map(|product| product.id)
    }

    /// Applies the changes in one transaction.
    pub(super) fn write(&mut self, connection: &mut MysqlConnection, changes: &[Change]) -> QueryResult<()> {
        let mut products = self.products.clone();
        let written = connection.transaction(|c| {
            let mut written = 0;
            for change in changes {
                let subject = change.subject().and_then(|subject| subject.index(products.len()));
                match (change, subject) {
                    (Change::Insert(new), _) => {
                        let after = insert(c, new)?;
                        count(c, &after, 1)?;
                        products.push(after);
                    }
                    (_, None) => continue,
                    (Change::Delete(_), Some(index)) => {
                        let before = products.swap_remove(index);
                        diesel::delete(&before).execute(c)?;
                        count(c, &before, -1)?;
                    }
                    (Change::Update(_, edit), Some(index)) => {
                        let after = edit.apply(&products[index]);
                        diesel::update(&after).set(&after).execute(c)?;
                        count(c, &products[index], -1)?;
                        count(c, &after, 1)?;
                        products[index] = after;
                    }
                }
                written += 1;
            }
            diesel::delete(crate::schema::product::batch::table)
                .filter(crate::schema::product::batch::products.eq(0))
                .execute(c)?;
            QueryResult::Ok(written)
        })?;
        self.products = products;
        self.changes += written;
        self.transactions += 1;
        Ok(())
    }
}

fn insert(connection: &mut MysqlConnection, new: &NewProduct) -> QueryResult<Product> {
    diesel::insert_into(product::table).values(new).execute(connection)?;
    product::table.order(product::id.desc()).select(Product::as_select()).first(connection)
}

/// Keeps the three tables beside the products in step with them.
fn count(connection: &mut MysqlConnection, product: &Product, by: i64) -> QueryResult<()> {
    let insert = |table: &str, key: &str| {
        format!(
            "insert into {table} ({key}, products) values (?, ?) on duplicate key update products = products + ?"
        )
    };
    for (table, key, value) in [("category", "name", &product.category), ("batch", "code", &product.batch)] {
        diesel::sql_query(insert(table, key))
            .bind::<Text, _>(value)
            .bind::<BigInt, _>(by)
            .bind::<BigInt, _>(by)
            .execute(connection)?;
    }
    diesel::sql_query(insert("warranty", "months"))
        .bind::<Integer, _>(product.warranty_months)
        .bind::<BigInt, _>(by)
        .bind::<BigInt, _>(by)
        .execute(connection)?;
    Ok(())
}
