//! Rows that the target does not take: kept with their later images, and tried again.

use std::sync::Arc;

use mysql_async::prelude::Queryable as _;

use super::plan::{CopyPlan, Key, Projected};
use super::session::failed;
use super::sql::{self, quoted};
use super::statement::{Rendered, Upsert, is_lax, key_in, row_sql};
use super::write::{Trouble, Writer};

/// Rows set aside that are tried again at a time.
const RETRIED_MAX: usize = 50;

impl Writer<'_> {
    /// Keeps a row that the target does not take; `None`: one that it does not let go.
    pub(super) async fn set_aside(
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
    pub(super) async fn clear_aside(&mut self, at: usize, keys: &[&Key]) -> Result<(), Trouble> {
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
            let is_applied = match aside_row(&plan, &key, &image) {
                // Of an earlier definition of the copy, or lax: a later change of the row releases it.
                None => false,
                Some((key, row)) => self.try_again(at, &statement, &key, row.as_ref()).await?,
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

    /// Writes a row that was set aside, or deletes it; whether the target takes it now.
    async fn try_again(
        &mut self,
        at: usize,
        statement: &Upsert,
        key: &Key,
        row: Option<&Projected>,
    ) -> Result<bool, Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let sql = match row {
            None => format!("delete from {} where {}", quoted(&plan.image.name), key_in(&plan, &[key], 0).0),
            Some(row) => statement.sql(&[Rendered { key, row, sql: row_sql(&plan, row) }]),
        };
        if sql.len() > self.dialect.bytes_max {
            return Ok(false);
        }
        loop {
            let Err(error) = self.run(&sql).await else { return Ok(true) };
            if let Some(trouble) = self.trouble(at, &error) {
                return Err(trouble);
            }
            let Some(row) = row.filter(|_| statement.is_rival(&error)) else { return Ok(false) };
            if !self.make_way(at, key, row).await? {
                return Ok(false);
            }
        }
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

/// A key, as JSON, as `outbox_aside` finds it: an expression.
pub(super) fn key_hash(key: &str) -> String {
    let mut sql = String::from("unhex(sha2(");
    sql::text(&mut sql, key);
    sql.push_str(", 256))");
    sql
}
