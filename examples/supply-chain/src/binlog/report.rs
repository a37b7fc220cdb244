//! What the story in binlog mode ends with.

use diesel::prelude::*;
use outbox_core::Result;
use serde::Serialize;

use super::{Connection, Watched, Written};
use crate::database::{Database, Total};
use crate::order::ProductCopy;
use crate::product::Product;
use crate::purchase::StockedProduct;
use crate::report::{Comparison, compare, print_comparisons, totals_text};
use crate::story::Pools;

/// What was counted on the way.
pub(super) struct Numbers {
    pub(super) written: Written,
    pub(super) kills: u32,
    pub(super) seconds: f64,
    pub(super) watched: Watched,
}

/// The end of the story.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    mode: &'static str,
    transactions: u64,
    changes: u64,
    kills: u32,
    seconds: f64,
    copies: Vec<Comparison>,
    looks: u64,
    torn: u64,
    turnover: Vec<Total>,
    bought: Vec<Total>,
}

/// How many products there are of a category, a batch or a warranty.
type Counted<K> = Vec<(K, i64)>;

impl Report {
    /// Reads the three databases and compares.
    pub(super) fn read(pools: &Pools<Connection>, numbers: Numbers) -> Result<Self> {
        use crate::schema::{order, product, purchase};
        let mut source = pools.product.get()?;
        let (mut ordered, mut purchased) = (pools.order.get()?, pools.purchase.get()?);
        let products = source.products()?;
        let stocked: Vec<Product> = products.iter().filter(|p| p.status == "active").cloned().collect();
        macro_rules! counted {
            ($connection:expr, $table:path, $key:ident) => {{
                use $table as table;
                table::table.order(table::$key).select((table::$key, table::products)).load($connection)?
            }};
        }
        let categories: Counted<String> = counted!(&mut source, product::category, name);
        let batches: Counted<String> = counted!(&mut source, product::batch, code);
        let warranties: Counted<i32> = counted!(&mut source, product::warranty, months);
        let category_copies: Counted<String> = counted!(&mut ordered, order::category, name);
        let warranty_copies: Counted<i32> = counted!(&mut ordered, order::warranty, months);
        let batch_copies: Counted<String> = counted!(&mut purchased, purchase::batch, code);
        let copies = vec![
            compare("order.product_copy", None, &products, &ordered.product_copies()?, ProductCopy::of),
            compare("order.category", None, &categories, &category_copies, Clone::clone),
            compare("order.warranty", None, &warranties, &warranty_copies, Clone::clone),
            compare(
                "purchase.stocked_product",
                None,
                &stocked,
                &purchased.stocked_products()?,
                StockedProduct::of,
            ),
            compare("purchase.batch", None, &batches, &batch_copies, Clone::clone),
        ];
        Ok(Self {
            mode: "binlog",
            transactions: numbers.written.transactions,
            changes: numbers.written.changes,
            kills: numbers.kills,
            seconds: numbers.seconds,
            copies,
            looks: numbers.watched.looks,
            torn: numbers.watched.torn,
            turnover: ordered.turnover()?.into_iter().take(3).collect(),
            bought: purchased.bought()?.into_iter().take(3).collect(),
        })
    }

    /// Whether all copies equal their tables, and nobody saw a part of a transaction.
    pub(crate) fn is_equal(&self) -> bool {
        self.torn == 0 && self.copies.iter().all(Comparison::is_equal)
    }

    /// The summary for people.
    pub(crate) fn print(&self) {
        println!();
        println!(
            "  written     {} changes in {} transactions, {:.1} s",
            self.changes, self.transactions, self.seconds
        );
        if self.kills > 0 {
            println!("  killed      {} times: the relay, started again at once", self.kills);
        }
        println!("  looked at   {} times, {} of them saw a part of a transaction", self.looks, self.torn);
        println!("  local JOIN  turnover by category in order: {}", totals_text(&self.turnover, 100.0));
        println!("              pieces by batch in purchase: {}", totals_text(&self.bought, 1.0));
        print_comparisons(&self.copies);
    }
}
