//! What the story ends with: counts, both copies compared, latencies.

use hdrhistogram::Histogram;
use outbox_core::Result;
use serde::Serialize;

use crate::database::{Database, Times, Total};
use crate::order::ProductCopy;
use crate::product::Written;
use crate::purchase::StockedProduct;
use crate::story::Pools;

/// The differences of one copy that are shown.
const SHOWN_MAX: usize = 5;

/// The end of the story.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    transactions: u64,
    changes: u64,
    messages: u64,
    counts: Counts,
    kills: u32,
    seconds: f64,
    copies: Vec<Comparison>,
    latency_ms: Latency,
    price_alerts: i64,
    turnover: Vec<Total>,
    bought: Vec<Total>,
}

/// What relay and subscribers counted; of one that was killed, the counts are gone with it.
#[derive(Debug, Clone, Copy, Default, Serialize, serde::Deserialize)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) applied: u64,
    pub(crate) duplicates: u64,
    pub(crate) set_aside: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.applied += other.applied;
        self.duplicates += other.duplicates;
        self.set_aside += other.set_aside;
    }
}

/// A copy against what it should hold.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    copy: &'static str,
    rows: usize,
    /// The messages that made it; none by replication.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<i64>,
    differences: usize,
    first: Vec<String>,
}

impl Comparison {
    /// Whether it holds just that.
    pub(crate) fn is_equal(&self) -> bool {
        self.differences == 0
    }
}

/// From recording in the product service to applying in a subscriber; the writer's stamp is in milliseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Report {
    /// Reads the three databases and compares.
    pub(crate) fn read<C: Database>(
        pools: &Pools<C>,
        written: Written,
        counts: Counts,
        kills: u32,
        seconds: f64,
    ) -> Result<Self> {
        let (mut product, mut order, mut purchase) =
            (pools.product.get()?, pools.order.get()?, pools.purchase.get()?);
        let products = product.products()?;
        let mut times = order.times()?;
        let copies = vec![
            compare("order", Some(order.inbox_rows()?), &products, &order.product_copies()?, ProductCopy::of),
            compare(
                "purchase",
                Some(purchase.inbox_rows()?),
                &products,
                &purchase.stocked_products()?,
                StockedProduct::of,
            ),
        ];
        times.extend(purchase.times()?);
        Ok(Self {
            transactions: written.transactions,
            changes: written.changes,
            messages: written.changes + written.events,
            counts,
            kills,
            seconds,
            copies,
            latency_ms: latency(&times),
            price_alerts: order.price_alerts()?,
            turnover: order.turnover()?.into_iter().take(3).collect(),
            bought: purchase.bought()?.into_iter().take(3).collect(),
        })
    }

    /// Whether both copies equal the product database.
    pub(crate) fn is_equal(&self) -> bool {
        self.copies.iter().all(Comparison::is_equal)
    }

    /// The summary for people.
    pub(crate) fn print(&self) {
        let at_least = if self.kills > 0 { "at least " } else { "" };
        println!();
        println!(
            "  written     {} changes in {} transactions, {} messages, {:.1} s",
            self.changes, self.transactions, self.messages, self.seconds
        );
        if self.kills > 0 {
            println!("  killed      {} times: relay or a subscriber, started again at once", self.kills);
        }
        println!("  published   {at_least}{} messages, confirmed", self.counts.published);
        for copy in &self.copies {
            println!("  applied     {} messages in {}", copy.applied.unwrap_or_default(), copy.copy);
        }
        println!("  repeated    {at_least}{} deliveries, ignored", self.counts.duplicates);
        if self.counts.set_aside > 0 {
            println!("  set aside   {} messages in inbox_held", self.counts.set_aside);
        }
        let Latency { p50, p99, max } = self.latency_ms;
        println!("  latency     recorded → applied: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms");
        println!("  alerts      {} raised prices handled by order", self.price_alerts);
        println!("  local JOIN  turnover by category in order: {}", totals_text(&self.turnover, 100.0));
        println!("              pieces by batch in purchase: {}", totals_text(&self.bought, 1.0));
        print_comparisons(&self.copies);
    }
}

/// `name total, …`, each divided by a unit.
pub(crate) fn totals_text(totals: &[Total], unit: f64) -> String {
    let texts = totals.iter().map(|t| format!("{} {:.0}", t.name, t.total as f64 / unit));
    texts.collect::<Vec<_>>().join(", ")
}

/// A line for each copy, and what differs.
pub(crate) fn print_comparisons(copies: &[Comparison]) {
    for copy in copies {
        if copy.is_equal() {
            println!(
                "  EQUAL       the copy in {} equals the product database, {} rows",
                copy.copy, copy.rows
            );
        } else {
            println!("  DIFFERENT   the copy in {}: {} differences", copy.copy, copy.differences);
            copy.first.iter().for_each(|difference| println!("              {difference}"));
        }
    }
}

/// Compares row by row; both lists are in the order of their keys.
pub(crate) fn compare<S, T: PartialEq + std::fmt::Debug>(
    copy: &'static str,
    applied: Option<i64>,
    source: &[S],
    rows: &[T],
    project: impl Fn(&S) -> T,
) -> Comparison {
    let expected: Vec<T> = source.iter().map(project).collect();
    let missing = expected.iter().filter(|row| !rows.contains(row)).map(|row| format!("missing  {row:?}"));
    let surplus = rows.iter().filter(|row| !expected.contains(row)).map(|row| format!("surplus  {row:?}"));
    let all: Vec<_> = if expected == rows { Vec::new() } else { missing.chain(surplus).collect() };
    Comparison {
        copy,
        rows: rows.len(),
        applied,
        differences: all.len(),
        first: all.into_iter().take(SHOWN_MAX).collect(),
    }
}

fn latency(times: &[Times]) -> Latency {
    // One hour is more than any run takes; longer ones count as that.
    let hour_us = 3_600_000_000;
    let Ok(mut histogram) = Histogram::<u64>::new_with_bounds(1, hour_us, 3) else {
        return Latency { p50: f64::NAN, p99: f64::NAN, max: f64::NAN };
    };
    for time in times {
        let Some(made) = time.message.made_at() else { continue };
        let taken_us = time.applied_us - made.timestamp_micros();
        histogram.saturating_record(u64::try_from(taken_us).unwrap_or(0).max(1));
    }
    let ms = |us: u64| us as f64 / 1000.0;
    Latency {
        p50: ms(histogram.value_at_quantile(0.5)),
        p99: ms(histogram.value_at_quantile(0.99)),
        max: ms(histogram.max()),
    }
}
