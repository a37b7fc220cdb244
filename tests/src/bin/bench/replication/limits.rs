//! What bounds a replication on either side: reading the log, and writing the rows that are there in the end.

use std::time::Instant;

use mysql_async::prelude::Queryable as _;
use outbox_relay::binlog::{Step, Tables, follow};
use outbox_relay::change::Position;

use super::servers::Side;
use super::workload::TABLE;
use crate::Failure;

/// Rows of a statement and of a transaction.
const ROWS: usize = 2000;

/// Reads the log to its end, without decoding a row; gives the number of transactions.
pub(crate) async fn read_only(source: &Side, from: &Position) -> Result<usize, Failure> {
    let until = outbox_relay::binlog::Server::connect(&source.source()).await?.high_mark().await?;
    let from = from.file.as_ref().ok_or("the source writes no binary log")?;
    let from = Position::at_file(&from.name, from.offset);
    let mut stream = follow(source.source(), Tables::from_iter::<[(&str, &str); 0]>([]), from);
    let mut count = 0;
    while stream.position().has_reached(&until) != Some(true) {
        if let Step::Txn(_) = stream.next().await? {
            count += 1;
        }
    }
    Ok(count)
}

/// Writes the rows that the source has now by multi-row upserts from two connections; gives the seconds.
pub(crate) async fn bare_upserts(source: &mut Side, target: &mut Side) -> Result<f64, Failure> {
    target.make("bare").await?;
    target.run(&format!("create table bare.{TABLE}")).await?;
    let rows: Vec<String> = source
        .sql
        .query(
            "select concat('(', id, ',', quote(sku), ',', quote(name), ',', quote(category), ',', price, ',', quote(status), \
             ',', weight, ',', quote(attributes), ',', quote(made), ',', quote(seen), ')') from bench.product order by id",
        )
        .await?;
    let names = ["id", "sku", "name", "category", "price", "status", "weight", "attributes", "made", "seen"];
    let set: Vec<_> = names[1..].iter().map(|name| format!("{name} = values({name})")).collect();
    let statements: Vec<String> = rows
        .chunks(ROWS)
        .map(|rows| {
            format!(
                "insert into product values {} on duplicate key update {}",
                rows.join(","),
                set.join(", ")
            )
        })
        .collect();
    let (mut first, mut second) = (target.applier("bare").await?, target.applier("bare").await?);
    let (front, back) = statements.split_at(statements.len() / 2);
    let write = async |connection: &mut mysql_async::Conn, statements: &[String]| {
        for statement in statements {
            connection.query_drop(statement).await?;
        }
        Ok::<_, mysql_async::Error>(())
    };
    let started = Instant::now();
    tokio::try_join!(write(&mut first, front), write(&mut second, back))?;
    Ok(started.elapsed().as_secs_f64())
}
