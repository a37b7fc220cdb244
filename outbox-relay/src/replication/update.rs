//! Many rows that change: only the columns that differ (and those that the target would set itself), by a join with their new values. It takes half the time of an
//! INSERT … ON DUPLICATE KEY UPDATE, which first tries to insert each row with all its columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::load::REFUSED_MAX;
use super::plan::{CopyPlan, Key, Projected};
use super::session::{Refusal, failed, refusal};
use super::sql::{is_field, literal, quoted};
use super::write::{Trouble, Writer};
use crate::change::{ColumnType, Value};

/// Fewer rows are written whole.
const ROWS_MIN: usize = 20;
/// A disk or a temporary table is full, which writing row by row does not need.
const NO_ROOM: [u16; 5] = [1021, 1030, 1037, 1041, 1114];

/// A row with its key, as it was and as it is.
pub(super) type Changed<'r> = (&'r Key, &'r Projected, &'r Projected);

impl Writer<'_> {
    /// Updates rows that are as they were; gives those that have to be written whole, which may be all.
    pub(super) async fn update<'r>(
        &mut self,
        at: usize,
        rows: &[Changed<'r>],
    ) -> Result<Vec<(&'r Key, &'r Projected)>, Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        // Where a row is set aside, or a window is open, the target's may be older than what the source changed.
        let are_known = self.are_new && !self.aside.contains(plan.name()) && !self.is_refused(&plan);
        let has_values = self.dialect.is_mariadb || self.dialect.has_row_alias;
        if rows.len() < ROWS_MIN || !are_known || !has_values || !has_plain_key(&plan) {
            return Ok(rows.iter().map(|(key, _, after)| (*key, *after)).collect());
        }
        let mut whole = Vec::new();
        let mut by_columns: BTreeMap<Vec<usize>, Vec<Changed<'r>>> = BTreeMap::new();
        for row @ (key, before, after) in rows.iter().copied() {
            let differing = differing(&plan, before, after);
            let is_plain =
                |at: &usize| joins(&after.0[*at]) && is_field(&after.0[*at], &plan.image.columns[*at]);
            if !differing.is_empty() && differing.iter().chain(&plan.image.primary_key).all(is_plain) {
                by_columns.entry(differing).or_default().push(row);
            } else {
                whole.push((key, after));
            }
        }
        for (columns, rows) in by_columns {
            let mut rest = rows.as_slice();
            while !rest.is_empty() {
                let (sql, count) = statement(&plan, &columns, rest, self.dialect.bytes);
                let (now, later) = rest.split_at(count);
                rest = later;
                let is_done = count >= ROWS_MIN && self.joined(at, &sql, count).await?;
                if !is_done {
                    whole.extend(now.iter().map(|(key, _, after)| (*key, *after)));
                }
            }
        }
        Ok(whole)
    }

    /// Whether all rows were there and took their values; else nothing has been done.
    async fn joined(&mut self, at: usize, sql: &str, count: usize) -> Result<bool, Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        match self.run(&format!("savepoint outbox_join;{sql}")).await {
            Ok(done) if done.matched == count as u64 => {
                self.applied.upserted += count as u64;
                self.applied.joined += count as u64;
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) if refusal(&error) == Refusal::Passes => {
                if matches!(&error, mysql_async::Error::Server(server) if NO_ROOM.contains(&server.code)) {
                    self.refuse(&plan, REFUSED_MAX);
                }
                return Err(Trouble::Wait(failed(&format!("changing table {}", plan.image.name), &error)));
            }
            // A server, or one before it, that does not know such a statement; or a row, which is looked for then.
            Err(_) => self.refuse(&plan, 1),
        }
        self.state("rollback to savepoint outbox_join").await?;
        Ok(false)
    }
}

/// The columns that are to be written.
fn differing(plan: &CopyPlan, before: &Projected, after: &Projected) -> Vec<usize> {
    let mut differing: Vec<_> = (0..after.0.len()).filter(|at| before.0[*at] != after.0[*at]).collect();
    // A row may have been parked in a column of a unique key that itself does not differ.
    for key in &plan.unique_keys {
        if !differing.contains(&key.parked) && key.columns.iter().any(|at| differing.contains(at)) {
            differing.push(key.parked);
        }
    }
    // Left out they would become the time of the write here.
    if !differing.is_empty() {
        differing
            .extend(plan.touched.iter().filter(|at| !differing.contains(at)).copied().collect::<Vec<_>>());
    }
    differing
}

/// Whether a value can stand among others of its column in a list of rows, which has one type: a negative zero is a
/// text.
fn joins(value: &Value) -> bool {
    let is_negative_zero = match value {
        Value::Float(number) => *number == 0.0 && number.is_sign_negative(),
        Value::Double(number) => *number == 0.0 && number.is_sign_negative(),
        _ => false,
    };
    !is_negative_zero
}

/// Whether the key is compared the same, and by its index, with a column of another table. Texts have the collation of
/// either, and a date would be compared with a text.
fn has_plain_key(plan: &CopyPlan) -> bool {
    let kinds = plan.image.primary_key.iter().map(|at| &plan.image.columns[*at].kind);
    kinds
        .into_iter()
        .all(|kind| matches!(kind, ColumnType::Int { .. } | ColumnType::Bytes { .. } | ColumnType::Date))
}

/// The statement for as many rows, one at least, as fit into about so many bytes; and how many.
fn statement(plan: &CopyPlan, columns: &[usize], rows: &[Changed<'_>], bytes: usize) -> (String, usize) {
    let image = &plan.image;
    let key = &image.primary_key;
    let table = quoted(&image.name);
    let pairs = |columns: &[usize], first: usize| -> Vec<String> {
        let pair = |(at, column): (usize, &usize)| {
            format!("{table}.{} = outbox_new.c{}", quoted(&image.columns[*column].name), first + at)
        };
        columns.iter().enumerate().map(pair).collect()
    };
    let (on, set) = (pairs(key, 0).join(" and "), pairs(columns, key.len()).join(", "));
    let tail = format!(") outbox_new straight_join {table} on {on} set {set}");
    let from: Vec<usize> = key.iter().chain(columns).copied().collect();
    let nulls: Vec<_> = (0..from.len()).map(|at| format!("null as c{at}")).collect();
    // The names of a list of rows cannot be given on every server; those of what it is added to can.
    let mut sql = format!("update (select {} from dual where false union all values ", nulls.join(", "));
    let mut count = 0;
    for (_, _, after) in rows {
        let before = sql.len();
        sql.push_str(if count > 0 { ", " } else { "" });
        sql.push_str(if plan.mappings.is_mariadb { "(" } else { "row(" });
        for (at, column) in from.iter().enumerate() {
            sql.push_str(if at > 0 { ", " } else { "" });
            literal(&mut sql, &after.0[*column], &image.columns[*column].kind);
        }
        sql.push(')');
        // Never longer than the target takes: it would end the connection.
        if count > 0 && sql.len() + tail.len() > bytes {
            sql.truncate(before);
            break;
        }
        count += 1;
    }
    sql.push_str(&tail);
    (sql, count)
}
