//! What a replication begins with: its copies as the configuration wants them, resolved against both databases as they
//! are, and what has changed since they were made.

use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result};
use tracing::{info, warn};

use super::definition::Definition;
use super::facts::{TableFacts, unlogged_actions, unreadable};
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

/// What goes on when a table has changed.
pub(super) fn changed(spec: &CopySpec, replication: &str, what: &str) -> String {
    let CopySpec { name, source_database, source_table, target_table, .. } = spec;
    format!(
        "the source's table {source_database}.{source_table} was changed: {what}; alter {target_table} to fit, or the \
         copy's columns in the configuration, then run `outbox-relay snapshot {replication} {name}`"
    )
}

/// The copies of a configuration, and those that are in it no longer.
pub(super) async fn copies(
    config: &ReplicationConfig,
    server: &mut Server,
    target: &mut Target,
    mut known: Vec<CopyState>,
) -> Result<Vec<Copy>> {
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

/// Has copies whose table is gone begin anew, if it is created for them. They are noted so before it is created: a table
/// that is there and empty would look complete.
pub(super) async fn forget_gone(
    config: &ReplicationConfig,
    target: &mut Target,
    known: &mut [CopyState],
) -> Result<()> {
    for (spec, table) in specs(config).iter().zip(&config.table) {
        let Some(state) = known.iter_mut().find(|state| state.copy == spec.name) else { continue };
        let goes_on = state.phase != CopyPhase::Held && state.definition.is_some();
        if !table.create || !goes_on || target.describe(&spec.target_table).await?.is_some() {
            continue;
        }
        warn!(
            replication = config.name,
            copy = spec.name,
            table = spec.target_table,
            "the copy's table is gone: it is made anew"
        );
        let anew = CopyState {
            phase: CopyPhase::Copying,
            definition: None,
            after_key: None,
            rows_copied: 0,
            ..state.clone()
        };
        target.set_copy(Some(state), &anew).await?;
        *state = anew;
    }
    Ok(())
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
    let fresh = CopyState { definition: Some(definition.text()?), ..fresh };
    // One that the configuration wants otherwise now, or of another table, is made anew.
    let made_by = known.as_ref().and_then(|known| {
        let made_by = Definition::read(known.definition.as_deref()?);
        let is_same = made_by.as_ref().is_none_or(|made_by| made_by.is_spec_of(&definition))
            && (&known.source_table, &known.target_table) == (&fresh.source_table, &fresh.target_table);
        if !is_same {
            info!(replication, copy = spec.name, "the configuration of the copy has changed");
        }
        is_same.then_some(made_by)
    });
    let (Some(known), Some(made_by)) = (known, made_by) else {
        if let Some(reason) = unsorted(&spec, &plan, replication, target).await? {
            warn!(replication, copy = spec.name, reason, "the copy is held");
            let state = CopyState { phase: CopyPhase::Held, reason: Some(reason), ..fresh };
            return Ok(Copy { spec, state, plan: None, row_bytes, is_changed: true });
        }
        info!(replication, copy = spec.name, rows, "the copy is made");
        return Ok(Copy { spec, state: fresh, plan: Some(plan), row_bytes, is_changed: true });
    };
    if let Some(what) = definition.difference(made_by.as_ref()) {
        let reason = changed(&spec, replication, &what);
        warn!(replication, copy = spec.name, reason, "the copy is held");
        let state = CopyState { phase: CopyPhase::Held, reason: Some(reason), ..known };
        return Ok(Copy { spec, state, plan: None, row_bytes, is_changed: true });
    }
    // What is known of its table since an upgrade only is noted as it is now.
    let is_changed = known.definition != fresh.definition;
    let state = CopyState { definition: fresh.definition, ..known };
    Ok(Copy { spec, state, plan: Some(plan), row_bytes, is_changed })
}

/// The plan and the definition of a copy by what both databases are today. A target that is missing is created if it
/// may be.
async fn resolve(
    spec: &CopySpec,
    create: bool,
    server: &mut Server,
    target: &mut Target,
) -> Result<(Arc<CopyPlan>, Definition)> {
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
    Ok((Arc::new(CopyPlan::resolve(spec, &source, &facts)?), Definition::of(spec, &source)?))
}

/// Takes the names of a copy's table as the source stores them.
pub(super) async fn as_stored(server: &mut Server, spec: &mut CopySpec) -> Result<()> {
    (spec.source_database, spec.source_table) =
        server.stored_name(&spec.source_database, &spec.source_table).await?;
    Ok(())
}

/// The source's table as it is today.
///
/// # Errors
/// `Invalid` when there is none, or its log does not tell what its rows are.
pub(super) async fn source_facts(server: &mut Server, spec: &CopySpec) -> Result<TableFacts> {
    let (database, table) = (&spec.source_database, &spec.source_table);
    if let Some(why) = unreadable(server.connection(), database, table).await? {
        return Err(Error::new(ErrorKind::Invalid, why));
    }
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
