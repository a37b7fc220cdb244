//! What a replication begins with: its copies as the configuration wants them, resolved against both databases as they
//! are, and what has changed since they were made.

use std::collections::BTreeMap;
use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::facts::{TableFacts, unlogged_actions};
use super::plan::{CopyPlan, CopySpec, NewTable};
use super::sql::quoted;
use super::state::{CopyPhase, CopyState};
use super::target::Target;
use crate::binlog::{Server, failed};
use crate::config::{ReplicationConfig, ReplicationTableConfig};

/// A copy at the start.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) spec: CopySpec,
    pub(super) state: CopyState,
    /// `None`: it is held.
    pub(super) plan: Option<Arc<CopyPlan>>,
    /// What a row takes in the source, on average, in bytes.
    pub(super) row_bytes: u64,
    /// Whether the target does not know it so.
    pub(super) is_changed: bool,
}

/// What a copy was made by. A copy whose specification is another one now is made anew; one whose table has changed
/// is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Definition {
    columns: Vec<String>,
    #[serde(rename = "where")]
    filter: Option<String>,
    key: Vec<String>,
    /// The types of the source's columns that it uses.
    source: BTreeMap<String, String>,
}

/// The specifications of a replication's copies.
pub fn specs(config: &ReplicationConfig) -> Vec<CopySpec> {
    let is_shared = |table: &ReplicationTableConfig| {
        config.table.iter().filter(|other| other.target_name() == table.target_name()).count() > 1
    };
    let tables = config.table.iter();
    tables
        .map(|table| {
            let (database, name) = table.source_name();
            CopySpec {
                name: if is_shared(table) { table.source.clone() } else { table.target_name().to_owned() },
                source_database: database.to_owned(),
                source_table: name.to_owned(),
                target_table: table.target_name().to_owned(),
                columns: table.columns.clone(),
                filter: table.filter.clone(),
                key: table.key.clone(),
                hash_key: config.hash_key.clone(),
            }
        })
        .collect()
}

/// What a copy is made by now, as text.
pub(super) fn definition(spec: &CopySpec, source: &TableFacts) -> Result<String> {
    serde_json::to_string(&Definition::of(spec, source))
        .map_err(|error| Error::with_source(ErrorKind::Invalid, "writing a copy's definition", error))
}

/// What has happened to the columns that a copy uses, if anything.
pub(super) fn difference(was: &str, is: &str) -> Option<String> {
    let (Ok(was), Ok(is)) = (serde_json::from_str::<Definition>(was), serde_json::from_str::<Definition>(is))
    else {
        return (was != is).then(|| "its definition cannot be read".to_owned());
    };
    let gone = was.source.iter().filter(|(name, _)| !is.source.contains_key(*name));
    let new = is.source.iter().filter(|(name, _)| !was.source.contains_key(*name));
    let other = is.source.iter().filter_map(|(name, kind)| {
        let was = was.source.get(name).filter(|was| *was != kind)?;
        Some(format!("column `{name}` is {kind} and was {was}"))
    });
    let told = gone.map(|(name, _)| format!("column `{name}` is gone"));
    let told = told.chain(new.map(|(name, kind)| format!("column `{name}` ({kind}) is new"))).chain(other);
    let told: Vec<_> = told.collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// What goes on when a table has changed.
pub(super) fn changed(spec: &CopySpec, replication: &str, what: &str) -> String {
    let CopySpec { name, source_database, source_table, target_table, .. } = spec;
    format!(
        "the source's table {source_database}.{source_table} was changed: {what}; alter {target_table} to fit, or the \
         copy's columns in the configuration, then run `outbox-relay snapshot {replication} {name}`"
    )
}

impl Definition {
    fn of(spec: &CopySpec, source: &TableFacts) -> Self {
        let texts: Vec<_> = spec
            .columns
            .iter()
            .chain(&spec.key)
            .chain(&spec.filter)
            .map(|text| text.to_lowercase())
            .collect();
        let is_used = |name: &str| spec.columns.is_empty() || texts.iter().any(|text| has_word(text, name));
        let table = &source.table;
        let is_key = |ordinal: usize| table.primary_key.contains(&ordinal);
        let columns = table.columns.iter().zip(&source.columns).enumerate();
        let used =
            columns.filter(|(ordinal, (column, _))| is_key(*ordinal) || is_used(&column.name.to_lowercase()));
        let source = used.map(|(_, (column, facts))| {
            let null = if column.nullable { "" } else { " not null" };
            (column.name.clone(), format!("{}{null}", facts.column_type))
        });
        Self {
            columns: spec.columns.clone(),
            filter: spec.filter.clone(),
            key: spec.key.clone(),
            source: source.collect(),
        }
    }

    fn is_spec_of(&self, other: &Self) -> bool {
        (&self.columns, &self.filter, &self.key) == (&other.columns, &other.filter, &other.key)
    }
}

/// Whether a text has a name in it, not as part of another one.
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_part)
            && !text[at + name.len()..].chars().next().is_some_and(is_part)
    })
}

/// The copies of a configuration, and those that are in it no longer.
pub(super) async fn copies(
    config: &ReplicationConfig,
    server: &mut Server,
    target: &mut Target,
    known: Vec<CopyState>,
) -> Result<Vec<Copy>> {
    let mut known = known;
    let mut copies = Vec::new();
    for (mut spec, table) in specs(config).into_iter().zip(&config.table) {
        as_stored(server, &mut spec).await?;
        let at = known.iter().position(|state| state.copy == spec.name);
        let known = at.map(|at| known.swap_remove(at));
        copies.push(copy(spec, table.create, &config.name, server, target, known).await?);
    }
    let plans: Vec<_> = copies.iter().filter_map(|copy| copy.plan.clone()).collect();
    CopyPlan::check_together(&plans)?;
    for state in known {
        copies.push(orphan(state, &config.name));
    }
    Ok(copies)
}

/// A copy that the configuration has no longer: it must not look fresh.
fn orphan(state: CopyState, replication: &str) -> Copy {
    let is_changed = state.phase != CopyPhase::Held;
    let reason = format!(
        "it is not in the configuration any more; drop it and its row in outbox_copy, or put it back and run \
         `outbox-relay snapshot {replication} {}`",
        state.copy
    );
    let state =
        if is_changed { CopyState { phase: CopyPhase::Held, reason: Some(reason), ..state } } else { state };
    Copy { spec: CopySpec::default(), state, plan: None, row_bytes: 0, is_changed }
}

async fn copy(
    spec: CopySpec,
    create: bool,
    replication: &str,
    server: &mut Server,
    target: &mut Target,
    known: Option<CopyState>,
) -> Result<Copy> {
    let (rows, row_bytes) = estimate(server, &spec).await?;
    let fresh = CopyState {
        copy: spec.name.clone(),
        source_table: format!("{}.{}", spec.source_database, spec.source_table),
        target_table: spec.target_table.clone(),
        phase: CopyPhase::Copying,
        reason: None,
        definition: None,
        after_key: None,
        rows_copied: 0,
        rows_estimated: rows,
        drifted: known.as_ref().map_or(0, |known| known.drifted),
    };
    if let Some(held) = known.as_ref().filter(|known| known.phase == CopyPhase::Held) {
        return Ok(Copy { spec, state: held.clone(), plan: None, row_bytes, is_changed: false });
    }
    let resolved = resolve(&spec, create, server, target).await.and_then(|(plan, definition)| {
        match plan.merging() {
            // One that works is not stopped for what may be.
            Some(why) if known.as_ref().is_some_and(|known| known.phase == CopyPhase::Ready) => {
                warn!(replication, copy = spec.name, why, "the copy may lack rows");
            }
            Some(why) => return Err(Error::new(ErrorKind::Invalid, why)),
            None => {}
        }
        Ok((plan, definition))
    });
    let (plan, definition) = match resolved {
        Ok(resolved) => resolved,
        Err(error) if error.is_outage() => return Err(error),
        Err(error) => {
            let way_on = format!("then run `outbox-relay snapshot {replication} {}`", spec.name);
            let reason = format!("{error}; {way_on}");
            warn!(replication, copy = spec.name, reason, "the copy is held");
            let state = known.unwrap_or(fresh);
            let state = CopyState { phase: CopyPhase::Held, reason: Some(reason), ..state };
            return Ok(Copy { spec, state, plan: None, row_bytes, is_changed: true });
        }
    };
    let fresh = CopyState { definition: Some(definition.clone()), ..fresh };
    let made_by = known.as_ref().and_then(|known| known.definition.clone());
    let (Some(known), Some(made_by)) = (known, made_by) else {
        if let Some(reason) = unsorted(&spec, &plan, replication, target).await? {
            warn!(replication, copy = spec.name, reason, "the copy is held");
            let state = CopyState { phase: CopyPhase::Held, reason: Some(reason), ..fresh };
            return Ok(Copy { spec, state, plan: None, row_bytes, is_changed: true });
        }
        info!(replication, copy = spec.name, rows, "the copy is made");
        return Ok(Copy { spec, state: fresh, plan: Some(plan), row_bytes, is_changed: true });
    };
    let parse = |text: &str| serde_json::from_str::<Definition>(text).ok();
    let is_same_spec = match (parse(&made_by), parse(&definition)) {
        (Some(was), Some(is)) => was.is_spec_of(&is) && known.target_table == spec.target_table,
        _ => false,
    };
    if !is_same_spec {
        info!(
            replication,
            copy = spec.name,
            rows,
            "the configuration of the copy has changed: it is made anew"
        );
        return Ok(Copy { spec, state: fresh, plan: Some(plan), row_bytes, is_changed: true });
    }
    if let Some(what) = difference(&made_by, &definition) {
        let reason = changed(&spec, replication, &what);
        warn!(replication, copy = spec.name, reason, "the copy is held");
        let state = CopyState { phase: CopyPhase::Held, reason: Some(reason), ..known };
        return Ok(Copy { spec, state, plan: None, row_bytes, is_changed: true });
    }
    Ok(Copy { spec, state: known, plan: Some(plan), row_bytes, is_changed: false })
}

/// The plan and the definition of a copy by what both databases are today. A target that is missing is created if it
/// may be.
async fn resolve(
    spec: &CopySpec,
    create: bool,
    server: &mut Server,
    target: &mut Target,
) -> Result<(Arc<CopyPlan>, String)> {
    let source = source_facts(server, spec).await?;
    let (database, table) = (&spec.source_database, &spec.source_table);
    for action in unlogged_actions(server.connection(), database, table).await? {
        warn!(
            copy = spec.name,
            "what foreign key {action} does to {database}.{table} is not in the source's log: the copy misses it"
        );
    }
    let facts = match target.describe(&spec.target_table).await? {
        Some(facts) => facts,
        None if create => {
            let is_mariadb = target.is_mariadb();
            let NewTable { sql, sql_without_keys, left_out } =
                CopyPlan::new_table(spec, &source, is_mariadb)?;
            if let Err(error) = target.create_table(&sql).await {
                // Too long, too many, of one name: a key is no reason to have no copy.
                if error.is_outage() || sql == sql_without_keys {
                    return Err(error);
                }
                target.create_table(&sql_without_keys).await?;
                warn!(table = spec.target_table, %error, "the copy's table has its primary key only");
            }
            info!(table = spec.target_table, "created the copy's table");
            if !left_out.is_empty() {
                let without = left_out.join("; ");
                warn!(table = spec.target_table, without, "the copy's table lacks keys of the source's");
            }
            target.describe(&spec.target_table).await?.ok_or_else(|| missing(spec))?
        }
        None => return Err(missing(spec)),
    };
    Ok((Arc::new(CopyPlan::resolve(spec, &source, &facts)?), definition(spec, &source)?))
}

/// Takes the names of a copy's table as the source stores them.
pub(super) async fn as_stored(server: &mut Server, spec: &mut CopySpec) -> Result<()> {
    (spec.source_database, spec.source_table) =
        server.stored_name(&spec.source_database, &spec.source_table).await?;
    Ok(())
}

/// The source's table as it is today.
pub(super) async fn source_facts(server: &mut Server, spec: &CopySpec) -> Result<TableFacts> {
    let (database, table) = (&spec.source_database, &spec.source_table);
    let facts = TableFacts::describe(server.connection(), database, table).await?;
    facts.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("the source has no table {database}.{table}")))
}

/// Why a copy whose target has rows already cannot be made: what of them is stale is found by ranges of keys.
async fn unsorted(
    spec: &CopySpec,
    plan: &CopyPlan,
    replication: &str,
    target: &mut Target,
) -> Result<Option<String>> {
    let CopySpec { name, target_table, .. } = spec;
    if plan.has_source_order() {
        return Ok(None);
    }
    let sql = format!("SELECT 1 FROM {} LIMIT 1", quoted(target_table));
    let row: Option<u8> = target
        .state()
        .connection()
        .query_first(sql)
        .await
        .map_err(|error| failed(format_args!("looking into table {target_table}"), &error))?;
    Ok(row.map(|_| {
        format!(
            "table {target_table} has rows, and its key is not sorted as the source's, so that stale ones would not be \
             found: give the key the source's types and collations, or empty the table, then run \
             `outbox-relay snapshot {replication} {name}`"
        )
    }))
}

fn missing(spec: &CopySpec) -> Error {
    let text = format!("the target has no table {}: create it, or set `create = true`", spec.target_table);
    Error::new(ErrorKind::Invalid, text)
}

/// About how many rows a table has, and how long they are in bytes.
async fn estimate(server: &mut Server, spec: &CopySpec) -> Result<(u64, u64)> {
    let sql = "SELECT COALESCE(TABLE_ROWS, 0), COALESCE(AVG_ROW_LENGTH, 0) FROM information_schema.TABLES \
               WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
    let names = (&spec.source_database, &spec.source_table);
    let found = server
        .connection()
        .exec_first(sql, names)
        .await
        .map_err(|error| failed("estimating the rows of a table", &error))?;
    Ok(found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named() {
        let definition = |columns: &[(&str, &str)]| {
            let source =
                columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
            let definition = Definition { columns: Vec::new(), filter: None, key: Vec::new(), source };
            serde_json::to_string(&definition).unwrap()
        };
        let was = definition(&[("id", "int"), ("price", "decimal(10,2)"), ("old", "int")]);
        let is = definition(&[("id", "int"), ("price", "decimal(12,4)"), ("new", "int")]);
        let told = difference(&was, &is).unwrap();
        assert_eq!(
            told,
            "column `old` is gone, column `new` (int) is new, column `price` is decimal(12,4) and was decimal(10,2)"
        );
        assert_eq!(difference(&was, &was), None);
    }

    #[test]
    fn names_are_found_as_words() {
        assert!(has_word("price as unit_price", "price") && has_word("hash(`e-mail`)", "e-mail"));
        assert!(!has_word("price as unit_price", "unit"));
    }
}
