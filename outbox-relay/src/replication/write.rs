//! What a group does to a target, within its transaction: deletes, then movers out of the way, then upserts; what
//! the target does not take is set aside.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use outbox_core::Error;

use super::compact::Entry;
use super::park;
use super::plan::{CopyPlan, Key, OtherKey, Projected};
use super::session::{LAX, Refusal, STRICT, failed, refusal, said};
use super::sql::{self, literal, quoted};
use super::target::Applied;
use crate::change::{ColumnType, Value};

/// How often another reserved value is tried when a row has one already.
const PARK_ATTEMPTS: usize = 5;
/// Rows set aside that are tried again at a time.
const RETRIED_MAX: usize = 50;
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
    /// The longest statement to write, and the longest that the target takes.
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
}

/// Writes within one transaction.
pub(super) struct Writer<'t> {
    pub(super) connection: &'t mut Conn,
    pub(super) dialect: &'t Dialect,
    pub(super) replication: &'t str,
    pub(super) position: &'t str,
    pub(super) plans: &'t [Arc<CopyPlan>],
    /// Copies that have rows set aside.
    pub(super) aside: &'t mut HashSet<String>,
    pub(super) applied: Applied,
    /// Whether the transaction has begun: it does with its first statement, in one round trip.
    pub(super) is_open: bool,
}

/// What a statement did.
struct Done {
    affected: u64,
    /// Rows of an INSERT that were there.
    duplicates: u64,
}

/// A row as it goes into an INSERT.
struct Rendered<'e> {
    key: &'e Key,
    row: &'e Projected,
    sql: String,
}

/// What has to be done to a copy's rows.
#[derive(Default)]
struct Work<'e> {
    deletes: Vec<&'e Key>,
    /// Before and after.
    updates: Vec<(&'e Key, &'e Projected, &'e Projected)>,
    inserts: Vec<(&'e Key, &'e Projected)>,
}

impl<'e> Work<'e> {
    fn of(rows: &'e HashMap<Key, Entry>) -> Self {
        let mut work = Self::default();
        for (key, entry) in rows {
            match (&entry.before, &entry.after) {
                (_, None) => work.deletes.push(key),
                (None, Some(after)) => work.inserts.push((key, after)),
                (Some(_), Some(after)) if entry.was_gone => {
                    work.deletes.push(key);
                    work.inserts.push((key, after));
                }
                (Some(before), Some(after)) => work.updates.push((key, before, after)),
            }
        }
        work
    }
}

impl Writer<'_> {
    /// Everything that rows, one map per plan, say.
    pub(super) async fn write(&mut self, rows: &[HashMap<Key, Entry>]) -> Result<(), Trouble> {
        let order = parents_first(self.plans);
        let works: Vec<_> = rows.iter().map(Work::of).collect();
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
            let updates: Vec<_> = works[at].updates.iter().map(|(key, _, after)| (*key, *after)).collect();
            let inserted = self.upsert(at, &updates, &mut failed).await?;
            self.drifted(at, inserted).await?;
            self.upsert(at, &works[at].inserts, &mut failed).await?;
        }
        for (at, rows) in rows.iter().enumerate() {
            if self.aside.contains(self.plans[at].name()) && !rows.is_empty() {
                let applied = rows.keys().filter(|key| !failed.contains(&(at, *key)));
                self.clear_aside(at, &applied.collect::<Vec<_>>()).await?;
            }
        }
        Ok(())
    }

    /// Runs a statement and keeps what the server says of it.
    async fn run(&mut self, sql: &str) -> Result<Done, mysql_async::Error> {
        if std::mem::replace(&mut self.is_open, true) {
            self.connection.query_drop(sql).await?;
        } else {
            self.connection.query_drop(format!("begin;{sql}")).await?;
        }
        let info = self.connection.info();
        let duplicates = info.split("Duplicates: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let duplicates = duplicates.and_then(|count| count.parse().ok()).unwrap_or(0);
        Ok(Done { affected: self.connection.affected_rows(), duplicates })
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
    fn trouble(&self, at: usize, error: &mysql_async::Error) -> Option<Trouble> {
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
            let movers = movers(&plan, key, work, is_shared);
            let column = &plan.image.columns[key.parked];
            let name = quoted(&column.name);
            let mut rest = movers.as_slice();
            while !rest.is_empty() {
                let mut attempts = 0;
                let count = loop {
                    let (sql, count) = if column.nullable {
                        let (condition, count) = key_in(&plan, rest, self.dialect.bytes);
                        (
                            format!(
                                "update {} set {name} = null where {condition}",
                                quoted(&plan.image.name)
                            ),
                            count,
                        )
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
                                    "table `{}`: rows swap values of a unique key and cannot be parked in column \
                                     {name}: {}; allow NULL there, or drop the key",
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
        let mut ranges: Vec<Range<usize>> = vec![0..batch.len()];
        while let Some(range) = ranges.pop() {
            let rows = &batch[range.clone()];
            match self.run(&statement.sql(rows)).await {
                Ok(done) => {
                    let new = if rows.len() == 1 {
                        u64::from(done.affected == 1)
                    } else {
                        done.affected.saturating_sub(2 * done.duplicates)
                    };
                    inserted += new;
                    self.applied.upserted += rows.len() as u64;
                }
                Err(error) => {
                    if let Some(trouble) = self.trouble(at, &error) {
                        return Err(trouble);
                    }
                    if let [row] = rows {
                        let why = statement.why(&self.plans[at], &error);
                        self.set_aside(at, row.key, Some(row.row), &why).await?;
                        failed.insert((at, row.key));
                    } else {
                        let middle = range.start + rows.len() / 2;
                        ranges.extend([middle..range.end, range.start..middle]);
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

    /// Keeps a row that the target does not take; `None`: one that it does not let go.
    async fn set_aside(
        &mut self,
        at: usize,
        key: &Key,
        row: Option<&Projected>,
        why: &str,
    ) -> Result<(), Trouble> {
        let key = sql::to_json(&key.0);
        let image = row.map_or_else(|| "null".to_owned(), |row| sql::to_json(&row.0));
        let mut statement = String::from(
            "insert into outbox_aside (replication, copy, key_hash, key_text, row_image, reason, position) values (",
        );
        for text in [self.replication, self.plans[at].name()] {
            sql::text(&mut statement, text);
            statement.push_str(", ");
        }
        statement.push_str(&key_hash(&key));
        for text in [key.as_str(), &image, why, self.position] {
            statement.push_str(", ");
            sql::text(&mut statement, text);
        }
        statement.push(')');
        if statement.len() > self.dialect.bytes_max {
            let text = "a row can neither be applied nor set aside, as it is larger than the target's \
                        max_allowed_packet: raise that";
            return Err(Trouble::Copy(at, text.to_owned()));
        }
        self.state(&statement).await?;
        self.aside.insert(self.plans[at].name().to_owned());
        self.applied.set_aside += 1;
        Ok(())
    }

    /// Forgets what was set aside of keys that are as the source has them.
    async fn clear_aside(&mut self, at: usize, keys: &[&Key]) -> Result<(), Trouble> {
        let mut rest = keys;
        while !rest.is_empty() {
            let mut sql = format!("delete from outbox_aside where {} and key_hash in (", self.of_copy(at));
            let mut count = 0;
            for key in rest {
                if count > 0 && sql.len() > self.dialect.bytes {
                    break;
                }
                sql.push_str(if count > 0 { ", " } else { "" });
                sql.push_str(&key_hash(&sql::to_json(&key.0)));
                count += 1;
            }
            sql.push(')');
            self.applied.released += self.state(&sql).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Tries rows again that are set aside, the oldest first: what was in their way may be gone.
    pub(super) async fn retry_aside(&mut self, at: usize) -> Result<(), Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let newest = format!(
            "select key_text, row_image from outbox_aside where id in (select max(id) from outbox_aside where {} \
             group by key_hash) order by attempted_at, id limit {RETRIED_MAX}",
            self.of_copy(at)
        );
        self.open().await?;
        let asked: Result<Vec<(String, String)>, _> = self.connection.query(newest).await;
        let rows = asked.map_err(|error| Trouble::Wait(failed("reading what is set aside", &error)))?;
        if rows.is_empty() {
            self.aside.remove(plan.name());
            return Ok(());
        }
        let statement = Upsert::of(&plan, self.dialect);
        for (key, image) in rows {
            let hash = key_hash(&key);
            let sql = match aside_row(&plan, &key, &image) {
                // Of an earlier definition of the copy, or lax: a later change of the row releases it.
                None => None,
                Some((key, None)) => {
                    let condition = key_in(&plan, &[&key], 0).0;
                    Some(format!("delete from {} where {condition}", quoted(&plan.image.name)))
                }
                Some((key, Some(row))) => {
                    let sql = row_sql(&plan, &row);
                    Some(statement.sql(&[Rendered { key: &key, row: &row, sql }]))
                }
            };
            let is_applied = match sql.filter(|sql| sql.len() <= self.dialect.bytes_max) {
                Some(sql) => match self.run(&sql).await {
                    Ok(_) => true,
                    Err(error) => match self.trouble(at, &error) {
                        Some(trouble) => return Err(trouble),
                        None => false,
                    },
                },
                None => false,
            };
            let of_key = format!("{} and key_hash = {hash}", self.of_copy(at));
            if is_applied {
                self.applied.released +=
                    self.state(&format!("delete from outbox_aside where {of_key}")).await?;
            } else {
                let noted = format!("update outbox_aside set attempted_at = utc_timestamp(6) where {of_key}");
                self.state(&noted).await?;
            }
        }
        Ok(())
    }
}

/// A key and a row that were set aside, if they still are of the plan's form.
fn aside_row(plan: &CopyPlan, key: &str, image: &str) -> Option<(Key, Option<Projected>)> {
    let key = Key(sql::from_json(key).ok()?);
    if key.0.len() != plan.image.primary_key.len() {
        return None;
    }
    if image == "null" {
        return Some((key, None));
    }
    let row = Projected(sql::from_json(image).ok()?);
    (row.0.len() == plan.image.columns.len() && !is_lax(plan, &row)).then_some((key, Some(row)))
}

/// The statement that inserts or updates rows of a copy.
struct Upsert {
    head: String,
    tail: String,
    /// The column that a guard sets to NULL when the row found has another key.
    guard: Option<String>,
}

impl Upsert {
    fn of(plan: &CopyPlan, dialect: &Dialect) -> Self {
        let table = quoted(&plan.image.name);
        let names: Vec<_> = plan.image.columns.iter().map(|column| quoted(&column.name)).collect();
        let new = |name: &str| {
            if dialect.has_row_alias { format!("outbox_new.{name}") } else { format!("values({name})") }
        };
        let is_key = |at: &usize| plan.image.primary_key.contains(at);
        let mut set = Vec::new();
        let guard =
            plan.image.primary_key.first().filter(|_| plan.has_other_keys).map(|first| &names[*first]);
        if let Some(first) = guard {
            // ON DUPLICATE KEY UPDATE takes whichever row has one of the unique values. Another row than the key's
            // must not be written over: NULL in its key is an error.
            let same: Vec<_> = plan
                .image
                .primary_key
                .iter()
                .map(|at| format!("{table}.{0} <=> {1}", names[*at], new(&names[*at])))
                .collect();
            set.push(format!("{first} = if({}, {}, null)", same.join(" and "), new(first)));
        }
        for (at, name) in names.iter().enumerate() {
            // A key's text may differ and yet be equal in its collation.
            let is_text = matches!(plan.image.columns[at].kind, ColumnType::Text { .. });
            if (!is_key(&at) || is_text) && Some(name) != guard {
                set.push(format!("{name} = {}", new(name)));
            }
        }
        if set.is_empty() {
            set.extend(names.first().map(|name| format!("{name} = {}", new(name))));
        }
        let alias = if dialect.has_row_alias { " as outbox_new" } else { "" };
        Self {
            head: format!("insert into {table} ({}) values ", names.join(", ")),
            tail: format!("{alias} on duplicate key update {}", set.join(", ")),
            guard: guard.cloned(),
        }
    }

    fn bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    fn sql(&self, rows: &[Rendered<'_>]) -> String {
        let bytes: usize = rows.iter().map(|row| row.sql.len() + 2).sum();
        let mut sql = String::with_capacity(self.bytes() + bytes);
        sql.push_str(&self.head);
        for (i, row) in rows.iter().enumerate() {
            sql.push_str(if i > 0 { ", " } else { "" });
            sql.push_str(&row.sql);
        }
        sql.push_str(&self.tail);
        sql
    }

    /// Why a row was refused.
    fn why(&self, plan: &CopyPlan, error: &mysql_async::Error) -> String {
        let said = said(error);
        let is_guard = matches!(error, mysql_async::Error::Server(server) if server.code == 1048)
            && self.guard.as_ref().is_some_and(|first| said.contains(first.as_str()));
        let is_key = matches!(error, mysql_async::Error::Server(server) if server.code == 1062);
        if is_guard || is_key {
            let table = &plan.image.name;
            return format!(
                "another row of table `{table}` has its value of a unique key that the source does not have"
            );
        }
        said
    }
}

fn key_hash(key: &str) -> String {
    let mut sql = String::from("unhex(sha2(");
    sql::text(&mut sql, key);
    sql.push_str(", 256))");
    sql
}

pub(super) fn of_copy(replication: &str, copy: &str) -> String {
    let mut sql = String::from("replication = ");
    sql::text(&mut sql, replication);
    sql.push_str(" and copy = ");
    sql::text(&mut sql, copy);
    sql
}

fn row_sql(plan: &CopyPlan, row: &Projected) -> String {
    let mut sql = String::from("(");
    for (i, (value, column)) in row.0.iter().zip(&plan.image.columns).enumerate() {
        sql.push_str(if i > 0 { ", " } else { "" });
        literal(&mut sql, value, &column.kind);
    }
    sql.push(')');
    sql
}

/// A condition for as many keys, one at least, as fit into about so many bytes; and how many.
pub(super) fn key_in(plan: &CopyPlan, keys: &[&Key], bytes: usize) -> (String, usize) {
    let (names, is_single) = (key_names(plan), plan.image.primary_key.len() == 1);
    let mut sql = format!("{names} in (");
    let mut count = 0;
    for key in keys {
        if count > 0 && sql.len() > bytes {
            break;
        }
        sql.push_str(if count > 0 { ", " } else { "" });
        sql.push_str(&key_sql(plan, key, is_single));
        count += 1;
    }
    sql.push(')');
    (sql, count)
}

/// `a`, `(a, b)`.
pub(super) fn key_names(plan: &CopyPlan) -> String {
    let names: Vec<_> =
        plan.image.primary_key.iter().map(|at| quoted(&plan.image.columns[*at].name)).collect();
    if names.len() == 1 { names.concat() } else { format!("({})", names.join(", ")) }
}

pub(super) fn key_sql(plan: &CopyPlan, key: &Key, is_single: bool) -> String {
    let mut sql = String::from(if is_single { "" } else { "(" });
    for (i, (value, at)) in key.0.iter().zip(&plan.image.primary_key).enumerate() {
        sql.push_str(if i > 0 { ", " } else { "" });
        literal(&mut sql, value, &plan.image.columns[*at].kind);
    }
    sql.push_str(if is_single { "" } else { ")" });
    sql
}

/// Rows whose values of a unique key change and may be another's now. Texts may be equal in their collation though
/// they differ, so there every row that changes counts.
fn movers<'e>(plan: &CopyPlan, key: &OtherKey, work: &Work<'e>, is_shared: bool) -> Vec<&'e Key> {
    let values =
        |row: &'e Projected| -> Vec<&'e Value> { key.columns.iter().map(|at| &row.0[*at]).collect() };
    let changed = work.updates.iter().filter(|(_, before, after)| values(before) != values(after));
    let is_exact = !is_shared
        && key.columns.iter().all(|at| {
            matches!(
                plan.image.columns[*at].kind,
                ColumnType::Int { .. } | ColumnType::Bytes { .. } | ColumnType::Date | ColumnType::Address(_)
            )
        })
        && !key.is_partial;
    if !is_exact {
        return changed.map(|(key, ..)| *key).collect();
    }
    let wanted: HashSet<_> = work
        .updates
        .iter()
        .map(|(_, _, after)| values(after))
        .chain(work.inserts.iter().map(|(_, after)| values(after)))
        .collect();
    changed.filter(|(_, before, _)| wanted.contains(&values(before))).map(|(key, ..)| *key).collect()
}

/// An ENUM's value of index 0, which is no label.
fn is_invalid(value: &Value, kind: &ColumnType) -> bool {
    matches!((value, kind), (Value::Text(text), ColumnType::Enum { labels })
        if text.is_empty() && !labels.iter().any(String::is_empty))
}

fn is_lax(plan: &CopyPlan, row: &Projected) -> bool {
    row.0.iter().zip(&plan.image.columns).any(|(value, column)| is_invalid(value, &column.kind))
}

/// The plans in an order in which no foreign key points to a later one, as far as there is such an order.
fn parents_first(plans: &[Arc<CopyPlan>]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    let mut rest: Vec<usize> = (0..plans.len()).collect();
    while !rest.is_empty() {
        let is_free = |at: &usize| {
            !rest.iter().any(|other| {
                let parent = &plans[*other].image.name;
                *parent != plans[*at].image.name && plans[*at].references.iter().any(|name| name == parent)
            })
        };
        let (mut free, later): (Vec<_>, Vec<_>) = rest.iter().copied().partition(is_free);
        if free.is_empty() {
            // A circle.
            order.extend(later);
            break;
        }
        order.append(&mut free);
        rest = later;
    }
    order
}
