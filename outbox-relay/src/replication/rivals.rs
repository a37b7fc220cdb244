//! Rows that stand in another's way though they are set aside themselves: what the target has of them is old, and
//! nothing that the source has is lost when they give way. Without it two rows that have exchanged unique values would
//! wait for each other for ever.

use std::sync::Arc;

use mysql_async::Row;
use mysql_async::prelude::Queryable as _;

use super::aside::key_hash;
use super::plan::{CopyPlan, Key, OtherKey, Projected};
use super::session::said;
use super::sql::{self, literal, quoted};
use super::statement::key_in;
use super::write::{Trouble, Writer};
use crate::change::Value;
use crate::snapshot;

impl Writer<'_> {
    /// Takes the unique values that a row needs from rows that are set aside; whether any had them.
    pub(super) async fn make_way(&mut self, at: usize, key: &Key, row: &Projected) -> Result<bool, Trouble> {
        let plan = Arc::clone(&self.plans[at]);
        let mut has_moved = false;
        if !self.aside.contains(plan.name()) {
            return Ok(has_moved);
        }
        for other in &plan.unique_keys {
            let Some(rivals) = rivals_sql(&plan, other, key, row) else { continue };
            let mut aside = Vec::new();
            for rival in self.asked(at, &rivals).await? {
                let rival = snapshot::row(&plan.image, rival);
                let rival = rival.map_err(|error| Trouble::Copy(at, error.to_string()))?;
                let key = plan.key(&Projected(rival.0));
                let hash = key_hash(&sql::to_json(&key.0));
                let is_aside = format!(
                    "select 1 from outbox_aside where {} and key_hash = {hash} limit 1",
                    self.of_copy(at)
                );
                if !self.asked(at, &is_aside).await?.is_empty() {
                    aside.push(key);
                }
            }
            let aside: Vec<_> = aside.iter().collect();
            match self.park_rows(at, other, &aside).await {
                Ok(()) => has_moved |= !aside.is_empty(),
                // It is this row that waits then, not the whole copy.
                Err(Trouble::Copy(..)) => return Ok(false),
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(has_moved)
    }

    async fn asked(&mut self, at: usize, sql: &str) -> Result<Vec<Row>, Trouble> {
        // By the binary protocol: the other one rounds.
        let asked = self.connection.exec(sql, ()).await;
        asked.map_err(|error| {
            let lasting =
                || Trouble::Copy(at, format!("looking for the rows in another's way: {}", said(&error)));
            self.trouble(at, &error).unwrap_or_else(lasting)
        })
    }
}

/// The SELECT of the rows besides a row's own that have its values of a unique key; `None` where nobody can, or it cannot
/// be told by columns.
fn rivals_sql(plan: &CopyPlan, other: &OtherKey, key: &Key, row: &Projected) -> Option<String> {
    if other.is_partial || other.columns.iter().any(|at| row.0[*at] == Value::Null) {
        return None;
    }
    let same = other.columns.iter().map(|at| {
        let column = &plan.image.columns[*at];
        let mut sql = format!("{} = ", quoted(&column.name));
        literal(&mut sql, &row.0[*at], &column.kind);
        sql
    });
    Some(format!(
        "select {} from {} where {} and not {} for update",
        snapshot::select_list(&plan.image),
        quoted(&plan.image.name),
        same.collect::<Vec<_>>().join(" and "),
        key_in(plan, &[key], 0).0
    ))
}
