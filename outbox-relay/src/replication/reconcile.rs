//! The end of a window: the target's rows in its range become those that were read, but for what the stream has
//! touched meanwhile, which is newer.

use std::collections::HashMap;
use std::sync::Arc;

use mysql_async::prelude::Queryable as _;

use super::chunks::rank;
use super::compact::{ClosedWindow, Entry};
use super::plan::{CopyPlan, Key, Projected};
use super::session::failed;
use super::sql::{self, literal, quoted};
use super::work::Work;
use super::write::{Trouble, Writer};
use crate::change::{Column, ColumnType, Value};
use crate::snapshot;

/// Rows of the target that are looked at together.
const PAGE_ROWS: usize = 2000;

impl Writer<'_> {
    /// `windows`: of one copy, each with the range behind the one before; one at least.
    pub(super) async fn reconcile(&mut self, at: usize, windows: &[ClosedWindow]) -> Result<(), Trouble> {
        let [first, ..] = windows else { return Ok(()) };
        let plan = Arc::clone(&self.plans[at]);
        let through = windows.last().and_then(|last| last.through.as_ref());
        let is_all = first.after.is_none() && through.is_none();
        // Where the target sorts otherwise, a range of keys would be other rows there.
        self.are_new = plan.has_source_order || is_all;
        let keys: Vec<_> = windows.iter().flat_map(|window| &window.rows).map(|row| plan.key(row)).collect();
        let fresh = untouched(windows, &keys);
        if self.are_new {
            let page = self.page(at, &plan, first.after.as_ref(), through).await?;
            if page.is_empty() {
                // A copy that is made for the first time.
                let mut works: Vec<_> = self.plans.iter().map(|_| Work::default()).collect();
                works[at] = Work::of_new(fresh);
                self.work(&works).await?;
            } else {
                self.compare(at, windows, fresh, page).await?;
            }
        } else {
            self.write_one(at, inserted(fresh)).await?;
        }
        let progress: Vec<_> = windows.iter().filter_map(|window| window.progress.as_ref()).collect();
        let Some(last) = progress.last() else { return Ok(()) };
        let rows: u64 = progress.iter().map(|progress| progress.rows).sum();
        let mut update = format!("update outbox_copy set rows_copied = rows_copied + {rows}");
        if let Some(key) = &last.after_key {
            update.push_str(", after_key = ");
            sql::text(&mut update, &sql::to_json(&key.0));
        }
        if last.is_last {
            update.push_str(", state = 'ready', reason = null, ready_at = utc_timestamp(6)");
        }
        let update = format!("{update} where {} and state <> 'held'", self.of_copy(at));
        self.state(&update).await.map(drop)
    }

    /// `page`: the target's first rows of the range.
    async fn compare(
        &mut self,
        at: usize,
        windows: &[ClosedWindow],
        fresh: Vec<(&Key, &Projected)>,
        mut page: Vec<Projected>,
    ) -> Result<(), Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let through = windows.last().and_then(|last| last.through.as_ref());
        let mut fresh = inserted(fresh);
        loop {
            let is_last = page.len() < PAGE_ROWS;
            let after = page.last().map(|row| plan.key(row));
            let mut gone: HashMap<Key, Entry> = HashMap::new();
            for row in page {
                let key = plan.key(&row);
                match fresh.get_mut(&key) {
                    Some(entry) if entry.after.as_ref() == Some(&row) => {
                        fresh.remove(&key);
                    }
                    Some(entry) => entry.before = Some(row),
                    // They are closed together: what was touched in one's range, it was open for.
                    None if windows.iter().any(|window| window.touched.contains(&key)) => {}
                    None => {
                        gone.insert(key, Entry { before: Some(row), after: None, was_gone: true });
                    }
                }
            }
            self.write_one(at, gone).await?;
            if is_last {
                return self.write_one(at, fresh).await;
            }
            page = self.page(at, &plan, after.as_ref(), through).await?;
        }
    }

    async fn write_one(&mut self, at: usize, rows: HashMap<Key, Entry>) -> Result<(), Trouble> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut of: Vec<_> = self.plans.iter().map(|_| HashMap::new()).collect();
        of[at] = rows;
        self.write(&of).await
    }

    /// The target's next rows of a range, in its order, locked.
    async fn page(
        &mut self,
        at: usize,
        plan: &CopyPlan,
        after: Option<&Key>,
        through: Option<&Key>,
    ) -> Result<Vec<Projected>, Trouble> {
        let order: Vec<_> =
            plan.image.primary_key.iter().map(|at| quoted(&plan.image.columns[*at].name)).collect();
        let sql = format!(
            "select {} from {} where {} order by {} limit {PAGE_ROWS} for update",
            snapshot::select_list(&plan.image),
            quoted(&plan.image.name),
            range(plan, after, through),
            order.join(", ")
        );
        self.open().await?;
        // By the binary protocol: the other one rounds.
        let answers: Vec<mysql_async::Row> = match self.connection.exec(sql, ()).await {
            Ok(answers) => answers,
            Err(error) => {
                let why = failed(&format!("reading table {}", plan.image.name), &error);
                let trouble =
                    if why.is_outage() { Trouble::Wait(why) } else { Trouble::Copy(at, why.to_string()) };
                return Err(trouble);
            }
        };
        let rows =
            answers.into_iter().map(|answer| snapshot::row(&plan.image, answer).map(|row| Projected(row.0)));
        rows.collect::<outbox_core::Result<_>>().map_err(|error| Trouble::Copy(at, error.to_string()))
    }
}

/// The rows that the stream has not touched meanwhile; `keys`: of all of them.
fn untouched<'w>(windows: &'w [ClosedWindow], keys: &'w [Key]) -> Vec<(&'w Key, &'w Projected)> {
    let rows = windows.iter().flat_map(|window| window.rows.iter().map(move |row| (window, row)));
    let untouched = keys.iter().zip(rows).filter(|(key, (window, _))| !window.touched.contains(key));
    untouched.map(|(key, (_, row))| (key, row)).collect()
}

fn inserted(rows: Vec<(&Key, &Projected)>) -> HashMap<Key, Entry> {
    let entry = |row: &Projected| Entry { before: None, after: Some(row.clone()), was_gone: false };
    rows.into_iter().map(|(key, row)| (key.clone(), entry(row))).collect()
}

/// The keys of the copy after one and up to another.
fn range(plan: &CopyPlan, after: Option<&Key>, through: Option<&Key>) -> String {
    let mut conditions = Vec::new();
    for (name, value) in plan.key_constants() {
        let mut sql = format!("{} = ", quoted(name));
        if let Some(column) = plan.image.columns.iter().find(|column| column.name == name) {
            literal(&mut sql, value, &column.kind);
        }
        conditions.push(sql);
    }
    let columns: Vec<_> = plan.image.primary_key.iter().map(|at| &plan.image.columns[*at]).collect();
    for (key, comparison) in [(after, ">"), (through, "<=")] {
        let Some(key) = key else { continue };
        let names: Vec<_> = columns.iter().map(|column| sorted_name(column)).collect();
        let values: Vec<_> =
            columns.iter().zip(&key.0).map(|(column, value)| sorted(value, &column.kind)).collect();
        if let ([name], [value]) = (&names[..], &values[..]) {
            conditions.push(format!("{name} {comparison} {value}"));
            continue;
        }
        conditions.push(format!("({}) {comparison} ({})", names.join(", "), values.join(", ")));
        // Servers find a range of an index by its first column, not by a row of them.
        if let (Some(name), Some(value)) = (names.first(), values.first()) {
            conditions.push(format!("{name} {}= {value}", &comparison[..1]));
        }
    }
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" and ") }
}

/// A column of a key as it is sorted: labels by their numbers, which a comparison with a text would not do.
fn sorted_name(column: &Column) -> String {
    match column.kind {
        ColumnType::Enum { .. } | ColumnType::Set { .. } => format!("{} + 0", quoted(&column.name)),
        _ => quoted(&column.name),
    }
}

fn sorted(value: &Value, kind: &ColumnType) -> String {
    if let Some(number) = rank(value, kind) {
        return number.to_string();
    }
    let mut sql = String::new();
    literal(&mut sql, value, kind);
    sql
}
