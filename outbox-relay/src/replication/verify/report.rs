//! Verifies whole replications, as the configuration has them.

use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result};
use serde::Serialize;

use super::{Comparison, OnProgress, Show, compare};
use crate::binlog::{Server, Source};
use crate::config::ReplicationConfig;
use crate::replication::setup;
use crate::replication::{CopyPhase, CopyPlan, CopySpec, State, TableFacts};

/// What was found of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The replication.
    pub replication: String,
    /// The copy.
    pub copy: String,
    /// The source's table, `database.table`.
    pub source: String,
    /// What was found.
    pub comparison: Option<Comparison>,
    /// Why it could not be compared.
    pub problem: Option<String>,
}

impl Verified {
    /// How many rows differ, as far as that was found.
    pub fn differences(&self) -> u64 {
        self.comparison.as_ref().map_or(0, Comparison::differences)
    }

    /// Whether it was compared and is equal.
    pub fn is_equal(&self) -> bool {
        self.comparison.is_some() && self.differences() == 0
    }
}

impl std::fmt::Display for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ", self.replication, self.copy)?;
        let Some(found) = &self.comparison else {
            return write!(f, "not compared: {}", self.problem.as_deref().unwrap_or_default());
        };
        if found.differences() == 0 {
            return write!(f, "equals {}, {} rows", self.source, found.rows);
        }
        write!(
            f,
            "differs from {} in {} of {} rows: {} missing, {} extra, {} different",
            self.source,
            found.differences(),
            found.rows + found.extra,
            found.missing,
            found.extra,
            found.different
        )?;
        for difference in &found.named {
            let columns = if difference.columns.is_empty() {
                String::new()
            } else {
                format!(" ({})", difference.columns.join(", "))
            };
            write!(f, "\n  {:<9} {}{columns}", difference.kind.to_string(), difference.key)?;
        }
        let left = found.differences() - found.named.len() as u64;
        if left > 0 { write!(f, "\n  and {left} more") } else { Ok(()) }
    }
}

/// Compares every copy of a replication, one after the other, and notes in the target what was found.
///
/// # Errors
/// When source or target cannot be reached. What is wrong with one copy is in its report.
pub async fn replication(
    config: &ReplicationConfig,
    show: &Show,
    progress: &mut OnProgress<'_>,
) -> Result<Vec<Verified>> {
    // The configured id is that of whoever runs the replication, of which this takes nothing away.
    let source = Source { server_id: None, ..config.source() };
    let mut server = Server::connect(&source).await?;
    let mut target = State::connect(&config.target(), &config.name).await?;
    let mut reports = Vec::new();
    for mut spec in setup::specs(config) {
        let compared = async {
            setup::as_stored(&mut server, &mut spec).await?;
            // What happens to the source while it is compared, the comparison may not have seen.
            let since = target.now().await?;
            let plan = plan(&spec, &mut server, &mut target).await?;
            let found = compare(&source, &mut target, &plan, show, progress).await?;
            // It may have been held, or begun anew, meanwhile.
            comparable(&spec, &mut target).await?;
            target.verified(&spec.name, &since, found.rows, found.differences()).await?;
            Ok::<_, Error>(found)
        };
        let (comparison, problem) = match compared.await {
            Ok(found) => (Some(found), None),
            Err(error) => (None, Some(error.to_string())),
        };
        reports.push(Verified {
            replication: config.name.clone(),
            source: format!("{}.{}", spec.source_database, spec.source_table),
            copy: spec.name,
            comparison,
            problem,
        });
    }
    Ok(reports)
}

/// The plan of a copy that can be compared.
async fn plan(spec: &CopySpec, server: &mut Server, target: &mut State) -> Result<Arc<CopyPlan>> {
    comparable(spec, target).await?;
    let source = setup::source_facts(server, spec).await?;
    let connection = target.connection();
    let asked = connection.query_first("select database()").await;
    let database: Option<String> =
        asked.map_err(|error| Error::new(ErrorKind::Database, format!("asking the target: {error}")))?;
    let copy = TableFacts::describe(connection, &database.unwrap_or_default(), &spec.target_table).await?;
    let gone =
        || Error::new(ErrorKind::Invalid, format!("the target has no table {} any more", spec.target_table));
    Ok(Arc::new(CopyPlan::resolve(spec, &source, &copy.ok_or_else(gone)?)?))
}

/// Only a copy that is complete and goes on can be compared.
async fn comparable(spec: &CopySpec, target: &mut State) -> Result<()> {
    let states = target.copies().await?;
    let why = match states.into_iter().find(|state| state.copy == spec.name) {
        None => "it was never begun: start the relay".into(),
        Some(state) => match state.phase {
            CopyPhase::Ready => return Ok(()),
            CopyPhase::Copying => "it is still being copied".into(),
            CopyPhase::Held => format!("it is held: {}", state.reason.unwrap_or_default()),
        },
    };
    Err(Error::new(ErrorKind::Invalid, why))
}
