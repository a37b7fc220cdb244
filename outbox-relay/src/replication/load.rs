//! Many new rows at once: LOAD DATA LOCAL takes a row in half the time of an INSERT's VALUES, since no statement has to
//! be parsed. What it bends or skips it only counts; then it is rolled back, and INSERT says which row is at fault.

use std::fmt::Write as _;
use std::sync::Arc;

use mysql_async::InfileData;
use mysql_async::prelude::Queryable as _;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::plan::{CopyPlan, Key, Projected};
use super::session::{Refusal, failed, refusal};
use super::sql::{field, is_field, quoted};
use super::write::{Trouble, Writer};
use crate::change::{Column, ColumnType, Value};

/// Fewer rows are not worth the two statements more.
const ROWS_MIN: usize = 200;
/// Bytes of a part, and how many of them wait for the connection.
const PART_BYTES: usize = 64 << 10;
const PARTS_AHEAD: usize = 8;
/// So often loads and joins of a copy may have been refused before they are given up, until the next session.
pub(super) const REFUSED_MAX: u32 = 8;

impl Writer<'_> {
    /// Inserts rows that are not there; gives those that have to go the other way, which may be all.
    pub(super) async fn load<'r>(
        &mut self,
        at: usize,
        rows: &[(&'r Key, &'r Projected)],
    ) -> Result<Vec<(&'r Key, &'r Projected)>, Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let can_load = self.dialect.can_load && self.are_new && !self.is_refused(&plan);
        if !can_load || rows.len() < ROWS_MIN {
            return Ok(rows.to_vec());
        }
        let (plain, rest): (Vec<_>, Vec<_>) = rows.iter().copied().partition(|(_, row)| is_plain(&plan, row));
        if plain.len() < ROWS_MIN {
            return Ok(rows.to_vec());
        }
        self.state("savepoint outbox_load").await?;
        match self.send(&plan, &plain).await {
            Ok(true) => {
                self.applied.upserted += plain.len() as u64;
                self.applied.loaded += plain.len() as u64;
                return Ok(rest);
            }
            Ok(false) => {}
            Err(error) if refusal(&error) == Refusal::Passes => {
                // Should it be the load that breaks the connection, it is not tried again.
                if !matches!(error, mysql_async::Error::Server(_)) {
                    self.refuse(&plan, REFUSED_MAX);
                }
                return Err(Trouble::Wait(failed(&format!("loading table {}", plan.image.name), &error)));
            }
            Err(_) => {}
        }
        self.state("rollback to savepoint outbox_load").await?;
        self.refuse(&plan, 1);
        Ok(rows.to_vec())
    }

    /// Whether the target has refused too often what is faster than to write row by row.
    pub(super) fn is_refused(&self, plan: &CopyPlan) -> bool {
        self.refused.get(plan.name()).is_some_and(|count| *count >= REFUSED_MAX)
    }

    /// The target has refused it; so often as `count` says.
    pub(super) fn refuse(&mut self, plan: &CopyPlan, count: u32) {
        let refused = self.refused.entry(plan.name().to_owned()).or_default();
        *refused = refused.saturating_add(count);
    }

    /// Whether all of it went in as it is.
    async fn send(
        &mut self,
        plan: &CopyPlan,
        rows: &[(&Key, &Projected)],
    ) -> Result<bool, mysql_async::Error> {
        let (mut into, from) = tokio::io::duplex(PARTS_AHEAD * PART_BYTES);
        let parts = ReaderStream::with_capacity(from, PART_BYTES);
        self.connection.set_infile_handler(async move { Ok(Box::pin(parts) as InfileData) });
        let feed = async move {
            let mut rest = rows;
            while !rest.is_empty() {
                let text = lines(plan, &mut rest);
                // Only if the server has ended the statement, whose answer says why.
                if into.write_all(text.as_bytes()).await.is_err() {
                    break;
                }
            }
        };
        {
            let loading = self.connection.query_drop(statement(plan));
            tokio::pin!(loading);
            tokio::select! {
                biased;
                done = &mut loading => done?,
                () = feed => loading.await?,
            }
        }
        let info = self.connection.info();
        let all = format!("Records: {} ", rows.len());
        Ok(info.starts_with(&all) && info.contains("Skipped: 0 ") && info.ends_with("Warnings: 0"))
    }
}

fn statement(plan: &CopyPlan) -> String {
    let mut sql = String::from("load data local infile 'outbox' into table ");
    // Everything else as by default: tabs between the fields, a line a row, backslashes before what is meant otherwise.
    let _ = write!(sql, "{} character set utf8mb4 (", quoted(&plan.image.name));
    let mut set = Vec::new();
    for (at, column) in plan.image.columns.iter().enumerate() {
        sql.push_str(if at > 0 { ", " } else { "" });
        if is_bytes(column) {
            let _ = write!(sql, "@outbox_{at}");
            set.push(format!("{} = unhex(@outbox_{at})", quoted(&column.name)));
        } else {
            sql.push_str(&quoted(&column.name));
        }
    }
    sql.push(')');
    if !set.is_empty() {
        let _ = write!(sql, " set {}", set.join(", "));
    }
    sql
}

/// Whether a row means the same as a line of a file.
fn is_plain(plan: &CopyPlan, row: &Projected) -> bool {
    let columns = &plan.image.columns;
    // With SET, MariaDB numbers a row anew whose AUTO_INCREMENT column is 0, whatever the mode.
    let is_numbered = |at: &usize| matches!(row.0[*at], Value::Int(0) | Value::UInt(0));
    let mut keys = plan.image.primary_key.iter().chain(plan.unique_keys.iter().flat_map(|key| &key.columns));
    row.0.iter().zip(columns).all(|(value, column)| is_field(value, column))
        && !(columns.iter().any(is_bytes) && keys.any(is_numbered))
}

fn is_bytes(column: &Column) -> bool {
    matches!(column.kind, ColumnType::Bytes { .. })
}

/// The next rows as lines, of about [`PART_BYTES`]; they are taken off.
fn lines(plan: &CopyPlan, rows: &mut &[(&Key, &Projected)]) -> String {
    let mut text = String::with_capacity(PART_BYTES + PART_BYTES / 8);
    while let Some(((_, row), rest)) = rows.split_first().filter(|_| text.len() < PART_BYTES) {
        *rows = rest;
        for (at, (value, column)) in row.0.iter().zip(&plan.image.columns).enumerate() {
            text.push_str(if at > 0 { "\t" } else { "" });
            field(&mut text, value, column);
        }
        text.push('\n');
    }
    text
}
