//! What a group does to a target, within its transaction: deletes, then movers out of the way, then upserts; what
//! the target does not take is set aside.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use outbox_core::Error;

use super::compact::Entry;
use super::park;
use super::plan::{CopyPlan, Key, OtherKey, Projected};
use super::session::{LAX, Refusal, STRICT, failed, refusal, said};
use super::sql::{literal, quoted};
use super::statement::{Rendered, Upsert, is_invalid, is_lax, key_in, of_copy, row_sql};
use super::target::Applied;
use super::work::{Work, movers, parents_first};
use crate::binlog::Link;
use crate::change::Value;

/// How often another reserved value is tried when a row has one already.
const PARK_ATTEMPTS: usize = 5;
/// A value that the target does not know: the truncation of an ENUM's invalid value, which is wanted.
const TRUNCATED: u16 = 1265;
const DEPRECATED: u16 = 1287;

/// Why a group's transaction is given up.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It passes: to be tried again.
    Wait(Error),
    /// One copy cannot go on.
    Copy(usize, String),
    /// Nothing can.
    Stop(Error),
}

/// What the writer knows of the target, whichever group it is.
#[derive(Debug, Clone)]
pub(super) struct Dialect {
    pub(super) is_mariadb: bool,
    /// Whether `VALUES (…) AS new` is known, instead of `VALUES(column)`.
    pub(super) has_row_alias: bool,
    /// Whether it takes LOAD DATA LOCAL.
    pub(super) can_load: bool,
    /// The longest statement to write, and the longest that the target takes.
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
}

/// Writes within one transaction.
pub(super) struct Writer<'t> {
    pub(super) connection: &'t mut Link,
    pub(super) dialect: &'t Dialect,
    pub(super) replication: &'t str,
    pub(super) position: &'t str,
    pub(super) plans: &'t [Arc<CopyPlan>],
    /// Copies that have rows set aside.
    pub(super) aside: &'t mut HashSet<String>,
    /// How often loads and joins of copies were refused.
    pub(super) refused: &'t mut HashMap<String, u32>,
    /// Whether rows that are inserted are not there: while a window is open, they may be.
    pub(super) are_new: bool,
    pub(super) applied: Applied,
    /// Whether the transaction has begun: it does with its first statement, in one round trip.
    pub(super) is_open: bool,
}

/// What a statement did.
pub(super) struct Done {
    affected: u64,
    /// Rows of an INSERT that were there.
    duplicates: u64,
    /// Rows that an UPDATE found.
    pub(super) matched: u64,
}

impl Writer<'_> {
    /// Everything that rows, one map per plan, say.
    pub(super) async fn write(&mut self, rows: &[HashMap<Key, Entry>]) -> Result<(), Trouble> {
        self.work(&rows.iter().map(Work::of).collect::<Vec<_>>()).await
    }

    /// What has to be done, one work per plan.
    pub(super) async fn work(&mut self, works: &[Work<'_>]) -> Result<(), Trouble> {
        let order = parents_first(self.plans);
        let mut failed: HashSet<(usize, &Key)> = HashSet::new();
        for &at in order.iter().rev() {
            self.delete(at, &works[at].deletes, &mut failed).await?;
        }
        for &at in &order {
            let table = &self.plans[at].image.name;
            let is_shared = works
                .iter()
                .zip(self.plans)
                .filter(|(work, plan)| {
                    plan.image.name == *table && !(work.updates.is_empty() && work.inserts.is_empty())
                })
                .count()
                > 1;
            self.park(at, &works[at], is_shared).await?;
        }
        for &at in &order {
            let whole = self.update(at, &works[at].updates).await?;
            let inserted = self.upsert(at, &whole, &mut failed).await?;
            self.drifted(at, inserted).await?;
            let inserts = self.load(at, &works[at].inserts).await?;
            self.upsert(at, &inserts, &mut failed).await?;
        }
        for (at, work) in works.iter().enumerate() {
            if self.aside.contains(self.plans[at].name()) {
                let applied: Vec<_> = work.keys().filter(|key| !failed.contains(&(at, *key))).collect();
                self.clear_aside(at, &applied).await?;
            }
        }
        Ok(())
    }

    /// Runs a statement and keeps what the server says of it.
    pub(super) async fn run(&mut self, sql: &str) -> Result<Done, mysql_async::Error> {
        if std::mem::replace(&mut self.is_open, true) {
            self.connection.query_drop(sql).await?;
        } else {
            self.connection.query_drop(format!("begin;{sql}")).await?;
        }
        let info = self.connection.info();
        let count = |name: &str| {
            let count = info.split(name).nth(1).and_then(|rest| rest.split_whitespace().next());
            count.and_then(|count| count.parse().ok()).unwrap_or(0)
        };
        let (duplicates, matched) = (count("Duplicates: "), count("Rows matched: "));
        Ok(Done { affected: self.connection.affected_rows(), duplicates, matched })
    }

    /// A statement that has nothing to do with rows of the source.
    pub(super) async fn state(&mut self, sql: &str) -> Result<u64, Trouble> {
        match self.run(sql).await {
            Ok(done) => Ok(done.affected),
            Err(error) => {
                let failed = failed("writing the tables of state", &error);
                Err(if failed.is_outage() { Trouble::Wait(failed) } else { Trouble::Stop(failed) })
            }
        }
    }

    /// Begins, for what is not written but read.
    pub(super) async fn open(&mut self) -> Result<(), Trouble> {
        if self.is_open { Ok(()) } else { self.state("do 0").await.map(drop) }
    }

    /// What an error of a copy's statement means; `None`: a row is at fault.
    pub(super) fn trouble(&self, at: usize, error: &mysql_async::Error) -> Option<Trouble> {
        let table = &self.plans[at].image.name;
        match refusal(error) {
            Refusal::Passes => Some(Trouble::Wait(failed(&format!("writing table {table}"), error))),
            Refusal::Table => {
                Some(Trouble::Copy(at, format!("table `{table}`: {}; correct it there", said(error))))
            }
            Refusal::Row => None,
        }
    }

    async fn delete<'e>(
        &mut self,
        at: usize,
        keys: &[&'e Key],
        failed: &mut HashSet<(usize, &'e Key)>,
    ) -> Result<(), Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let mut rest = keys;
        while !rest.is_empty() {
            let (condition, count) = key_in(&plan, rest, self.dialect.bytes);
            let (now, later) = rest.split_at(count);
            rest = later;
            let prefix = format!("delete from {} where ", quoted(&plan.image.name));
            match self.run(&format!("{prefix}{condition}")).await {
                Ok(done) => self.applied.deleted += done.affected,
                Err(error) => {
                    if let Some(trouble) = self.trouble(at, &error) {
                        return Err(trouble);
                    }
                    // A foreign key or a trigger keeps some of them.
                    for key in now {
                        let (condition, _) = key_in(&plan, &[key], 0);
                        match self.run(&format!("{prefix}{condition}")).await {
                            Ok(done) => self.applied.deleted += done.affected,
                            Err(error) => {
                                if let Some(trouble) = self.trouble(at, &error) {
                                    return Err(trouble);
                                }
                                self.set_aside(at, key, None, &said(&error)).await?;
                                failed.insert((at, *key));
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes rows whose unique values change out of each other's way, by an UPDATE: a DELETE would run the target's
    /// cascades.
    async fn park(&mut self, at: usize, work: &Work<'_>, is_shared: bool) -> Result<(), Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        if !is_shared && work.updates.len() + work.inserts.len() < 2 {
            return Ok(());
        }
        for key in &plan.unique_keys {
            self.park_rows(at, key, &movers(&plan, key, work, is_shared)).await?;
        }
        Ok(())
    }

    /// Takes their values of a unique key from these rows.
    pub(super) async fn park_rows(
        &mut self,
        at: usize,
        key: &OtherKey,
        rows: &[&Key],
    ) -> Result<(), Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let column = &plan.image.columns[key.parked];
        let name = quoted(&column.name);
        let mut rest = rows;
        while !rest.is_empty() {
            let mut attempts = 0;
            let count = loop {
                let (sql, count) = if column.nullable {
                    let (condition, count) = key_in(&plan, rest, self.dialect.bytes);
                    let table = quoted(&plan.image.name);
                    (format!("update {table} set {name} = null where {condition}"), count)
                } else {
                    self.park_apart(&plan, key, rest)
                };
                attempts += 1;
                match self.run(&sql).await {
                    Ok(_) => break count,
                    Err(error) => match self.trouble(at, &error) {
                        Some(trouble) => return Err(trouble),
                        // Somebody has the reserved value: there are others.
                        None if attempts < PARK_ATTEMPTS && !column.nullable => {}
                        None => {
                            let text = format!(
                                "table `{}`: rows swap values of a unique key and cannot be parked in column {name}: {}; \
                                 allow NULL there, or drop the key",
                                plan.image.name,
                                said(&error)
                            );
                            return Err(Trouble::Copy(at, text));
                        }
                    },
                }
            };
            rest = &rest[count..];
        }
        Ok(())
    }

    /// One UPDATE per row, each with a reserved value of its own.
    fn park_apart(&self, plan: &CopyPlan, key: &OtherKey, movers: &[&Key]) -> (String, usize) {
        let column = &plan.image.columns[key.parked];
        let mut sql = String::new();
        let mut count = 0;
        for mover in movers {
            if count > 0 && sql.len() > self.dialect.bytes {
                break;
            }
            let _ = write!(sql, "update {} set {} = ", quoted(&plan.image.name), quoted(&column.name));
            literal(&mut sql, &park::reserved(column).unwrap_or(Value::Null), &column.kind);
            let _ = write!(sql, " where {};", key_in(plan, &[mover], 0).0);
            count += 1;
        }
        sql.pop();
        (sql, count)
    }

    /// Inserts or updates rows; gives how many were not there.
    async fn upsert<'e>(
        &mut self,
        at: usize,
        rows: &[(&'e Key, &'e Projected)],
        failed: &mut HashSet<(usize, &'e Key)>,
    ) -> Result<u64, Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let statement = Upsert::of(&plan, self.dialect);
        let mut inserted = 0;
        let mut batch: Vec<Rendered<'_>> = Vec::new();
        let mut bytes = 0;
        for (key, row) in rows {
            let rendered = Rendered { key, row, sql: row_sql(&plan, row) };
            if is_lax(&plan, row) {
                inserted += self.upsert_lax(at, &statement, &rendered, failed).await?;
                continue;
            }
            if rendered.sql.len() + statement.bytes() > self.dialect.bytes_max {
                let why = "the row is larger than the target's max_allowed_packet";
                self.set_aside(at, key, Some(row), why).await?;
                failed.insert((at, key));
                continue;
            }
            if !batch.is_empty() && bytes + rendered.sql.len() + statement.bytes() > self.dialect.bytes {
                inserted += self.upsert_batch(at, &statement, &batch, failed).await?;
                batch.clear();
                bytes = 0;
            }
            bytes += rendered.sql.len() + 2;
            batch.push(rendered);
        }
        if !batch.is_empty() {
            inserted += self.upsert_batch(at, &statement, &batch, failed).await?;
        }
        Ok(inserted)
    }

    /// One statement; where the target refuses a row of it, halves, until the row stands alone.
    async fn upsert_batch<'e>(
        &mut self,
        at: usize,
        statement: &Upsert,
        batch: &[Rendered<'e>],
        failed: &mut HashSet<(usize, &'e Key)>,
    ) -> Result<u64, Trouble> {
        let mut inserted = 0;
        let mut ranges = vec![(0, batch.len())];
        while let Some((start, end)) = ranges.pop() {
            let rows = &batch[start..end];
            match self.run(&statement.sql(rows)).await {
                Ok(done) => {
                    let new = if rows.len() == 1 {
                        u64::from(done.affected == 1)
                    } else {
                        done.affected.saturating_sub(2 * done.duplicates)
                    };
                    inserted += new;
                    self.applied.upserted += rows.len() as u64;
                    // Before another row asks who is set aside: these are what the source has, and give way to nobody.
                    if self.aside.contains(self.plans[at].name()) {
                        let keys: Vec<_> = rows.iter().map(|row| row.key).collect();
                        self.clear_aside(at, &keys).await?;
                    }
                }
                Err(error) => {
                    if let Some(trouble) = self.trouble(at, &error) {
                        return Err(trouble);
                    }
                    if let [row] = rows {
                        if statement.is_rival(&error) && self.make_way(at, row.key, row.row).await? {
                            ranges.push((start, end));
                            continue;
                        }
                        let why = statement.why(&self.plans[at], &error);
                        self.set_aside(at, row.key, Some(row.row), &why).await?;
                        failed.insert((at, row.key));
                    } else {
                        let middle = start + rows.len() / 2;
                        ranges.extend([(middle, end), (start, middle)]);
                    }
                }
            }
        }
        Ok(inserted)
    }

    /// A row with the invalid value of an ENUM: only a lax mode takes it, which must not bend anything else.
    async fn upsert_lax<'e>(
        &mut self,
        at: usize,
        statement: &Upsert,
        row: &Rendered<'e>,
        failed: &mut HashSet<(usize, &'e Key)>,
    ) -> Result<u64, Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let expected =
            row.row.0.iter().zip(&plan.image.columns).filter(|(v, c)| is_invalid(v, &c.kind)).count();
        self.state(&format!("savepoint outbox_lax; set sql_mode = '{LAX}'")).await?;
        let done = self.run(&statement.sql(std::slice::from_ref(row))).await;
        let warnings = match &done {
            Ok(_) => self.connection.query::<(String, u16, String), _>("show warnings").await,
            Err(_) => Ok(Vec::new()),
        };
        self.state(&format!("set sql_mode = '{STRICT}'")).await?;
        let why = match (done, warnings) {
            (Ok(done), Ok(warnings)) => {
                let bent = warnings.iter().filter(|(_, code, _)| *code != DEPRECATED);
                let is_wanted =
                    bent.clone().all(|(_, code, _)| *code == TRUNCATED) && bent.count() <= expected;
                if is_wanted {
                    self.applied.upserted += 1;
                    return Ok(u64::from(done.affected == 1));
                }
                "a value does not fit into its column".to_owned()
            }
            (Err(error), _) | (_, Err(error)) => match self.trouble(at, &error) {
                Some(trouble) => return Err(trouble),
                None => statement.why(&plan, &error),
            },
        };
        self.state("rollback to savepoint outbox_lax").await?;
        self.set_aside(at, row.key, Some(row.row), &why).await?;
        failed.insert((at, row.key));
        Ok(0)
    }

    /// Counts rows that somebody had deleted here.
    async fn drifted(&mut self, at: usize, count: u64) -> Result<(), Trouble> {
        if count == 0 {
            return Ok(());
        }
        // Only of a copy that is complete: before, rows come in by the stream too.
        let sql = format!(
            "update outbox_copy set drifted = drifted + {count} where {} and state = 'ready'",
            self.of_copy(at)
        );
        if self.state(&sql).await? > 0 {
            self.applied.drifted += count;
        }
        Ok(())
    }

    /// `replication = … and copy = …`.
    pub(super) fn of_copy(&self, at: usize) -> String {
        of_copy(self.replication, self.plans[at].name())
    }
}
