//! What is written at the source: the product table, filled and changed the same way in every run.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::servers::Side;
use crate::Failure;

/// The product table, in the source and in each target.
pub(crate) const TABLE: &str = "product (
  id bigint not null primary key, sku varchar(40) not null, name varchar(200) not null, category varchar(40) not null,
  price decimal(10,2) not null, status enum('draft','active','retired') not null, weight double, attributes json,
  made datetime(3) not null, seen timestamp(3) not null default '2024-05-06 07:08:09', unique key (sku))";

/// Rows of a transaction of (a).
const BULK: usize = 500;
/// Changes of a transaction of (c).
const GROUP: usize = 100;
/// Statements that are sent together.
const PACKET: usize = 500;

/// The rows that there are, and how they change.
pub(crate) struct Workload {
    rng: StdRng,
    ids: Vec<usize>,
    next: usize,
}

impl Workload {
    /// Creates the table.
    pub(crate) async fn begin(source: &mut Side) -> Result<Self, Failure> {
        source.run("create database bench").await?;
        source.run(&format!("create table bench.{TABLE}")).await?;
        Ok(Self { rng: StdRng::seed_from_u64(6), ids: Vec::new(), next: 1 })
    }

    /// (a): rows in transactions of 500.
    pub(crate) async fn bulk(&mut self, source: &mut Side, rows: usize) -> Result<(), Failure> {
        let mut left = rows;
        while left > 0 {
            let count = left.min(BULK);
            let values: Vec<_> = (0..count).map(|_| self.row()).collect();
            source.run(&format!("insert into bench.product values {}", values.join(","))).await?;
            left -= count;
        }
        Ok(())
    }

    /// (b): transactions of one change.
    pub(crate) async fn single(&mut self, source: &mut Side, count: usize) -> Result<(), Failure> {
        self.changes(source, count, PACKET, ("", "")).await
    }

    /// (c): the same in transactions of 100.
    pub(crate) async fn grouped(&mut self, source: &mut Side, count: usize) -> Result<(), Failure> {
        self.changes(source, count, GROUP, ("begin;", ";commit")).await
    }

    /// One row, changed over and over.
    pub(crate) async fn hot(&mut self, source: &mut Side, count: usize) -> Result<(), Failure> {
        let id = self.ids[self.ids.len() / 2];
        for first in (0..count).step_by(PACKET) {
            let changes: Vec<_> = (first..(first + PACKET).min(count))
                .map(|n| {
                    format!("update bench.product set price = {n} / 100 + 1, weight = {n} where id = {id}")
                })
                .collect();
            source.run(&changes.join(";")).await?;
        }
        Ok(())
    }

    /// So many rows in one transaction, into the empty table.
    pub(crate) async fn large(&mut self, source: &mut Side, rows: usize) -> Result<(), Failure> {
        source.run("create table bench.digit (n int primary key)").await?;
        source.run("insert into bench.digit values (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)").await?;
        let number = (0..7)
            .map(|place| format!("d{place}.n * {}", 10_usize.pow(place)))
            .collect::<Vec<_>>()
            .join(" + ");
        let digits = (0..7)
            .rev()
            .map(|place| format!("bench.digit d{place}"))
            .collect::<Vec<_>>()
            .join(" straight_join ");
        source
            .run(&format!(
                "insert into bench.product select n, concat('sku-', n), concat('a name of a product ', n), 'category', \
                 n / 100, 'active', n, '{{\"n\": 1}}', '2024-05-06 07:08:09.123', '2024-05-06 07:08:09.123' \
                 from (select {number} as n from {digits}) numbers where n < {rows}"
            ))
            .await
    }

    async fn changes(
        &mut self,
        source: &mut Side,
        count: usize,
        together: usize,
        (begin, end): (&str, &str),
    ) -> Result<(), Failure> {
        for first in (0..count).step_by(together) {
            let changes: Vec<_> = (first..(first + together).min(count)).map(|_| self.change()).collect();
            source.run(&format!("{begin}{}{end}", changes.join(";"))).await?;
        }
        Ok(())
    }

    /// 70 % updates, most of few rows; 20 % inserts, 10 % deletes.
    fn change(&mut self) -> String {
        match self.rng.random_range(0..10) {
            0..7 => {
                let skewed: f64 = self.rng.random::<f64>().powi(3);
                let id = self.ids[(skewed * (self.ids.len() - 1) as f64) as usize];
                let (price, ms) = (self.rng.random_range(100..100_000), self.rng.random_range(0..1000));
                format!(
                    "update bench.product set price = {}.{:02}, seen = '2025-01-02 03:04:05.{ms:03}' where id = {id}",
                    price / 100,
                    price % 100
                )
            }
            7..9 => {
                let row = self.row();
                format!("insert into bench.product values {row}")
            }
            _ => {
                let at = self.rng.random_range(0..self.ids.len());
                let id = self.ids.swap_remove(at);
                format!("delete from bench.product where id = {id}")
            }
        }
    }

    fn row(&mut self) -> String {
        let id = self.next;
        self.next += 1;
        self.ids.push(id);
        let price = self.rng.random_range(100..100_000);
        format!(
            "({id},'sku-{id:010}','product {id}, a name of usual length','category {}',{}.{:02},'{}',{}.5,\
             '{{\"color\": \"red\", \"size\": {}}}','2024-05-06 07:08:09.123','2024-05-06 07:08:09.123')",
            id % 40,
            price / 100,
            price % 100,
            ["draft", "active", "retired"][id % 3],
            id % 1000,
            id % 50
        )
    }
}
