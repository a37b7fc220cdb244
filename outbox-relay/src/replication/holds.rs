//! What takes a copy out of what goes on: a statement of the log that no row event tells, a table that is another now,
//! a row that cannot be read. The others go on without it.

use outbox_core::Result;
use tracing::warn;

use super::conduct::Session;
use super::ddl::{self, Effect};
use super::definition::Definition;
use super::plan::CopySpec;
use super::setup;
use super::state::CopyPhase;
use crate::change::Txn;

impl Session<'_> {
    /// Whether statements of the log have done something to a table that its row events do not tell.
    pub(super) async fn look_at_statements(&mut self, txn: &Txn) -> Result<()> {
        for statement in &txn.statements {
            for (effect, database, table) in ddl::effects(&statement.database, &statement.sql) {
                let is_meant = |spec: &CopySpec| {
                    same(&spec.source_database, &database)
                        && table.as_ref().is_none_or(|table| same(&spec.source_table, table))
                };
                for (copy, name) in self.copies_of(is_meant) {
                    let Some(reason) = self.reason(&copy, &name, &effect) else { continue };
                    self.hold(&copy, reason);
                }
            }
            let text = statement.sql.to_lowercase();
            let is_mentioned = |spec: &CopySpec| text.contains(&spec.source_table.to_lowercase());
            for (copy, _) in self.copies_of(is_mentioned) {
                self.compare(&copy).await?;
            }
        }
        Ok(())
    }

    /// Why a copy cannot go on after what was done to its table; `None`: it can, as it does without the column.
    fn reason(&self, name: &str, table: &str, effect: &Effect) -> Option<String> {
        let Effect::Lost(columns) = effect else {
            return Some(format!(
                "the source's table {table} was {}; the copy is as it was before; run `outbox-relay snapshot {} {name}` to \
                 make it anew",
                effect.told(),
                self.config.name,
            ));
        };
        let copy = self.copies.iter().find(|copy| copy.state.copy == name)?;
        let made_by = Definition::read(copy.state.definition.as_deref().unwrap_or_default());
        let is_used = made_by.is_none_or(|made_by| columns.iter().any(|column| made_by.uses(column)));
        is_used.then(|| setup::changed(&copy.spec, &self.config.name, &effect.told()))
    }

    /// Holds a copy whose columns are not what they were when it was made.
    async fn compare(&mut self, name: &str) -> Result<()> {
        let Some(copy) = self.copies.iter().find(|copy| copy.state.copy == name && copy.plan.is_some())
        else {
            return Ok(());
        };
        let (spec, was) =
            (copy.spec.clone(), Definition::read(copy.state.definition.as_deref().unwrap_or_default()));
        let facts = setup::source_facts(&mut self.server, &spec).await;
        let what = match facts.and_then(|facts| Definition::of(&spec, &facts)) {
            Ok(is) => is.difference(was.as_ref()),
            Err(error) if error.is_outage() => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        if let Some(what) = what {
            self.hold(name, setup::changed(&spec, &self.config.name, &what));
        }
        Ok(())
    }

    /// The copies that are not held of tables that are meant, with their tables.
    fn copies_of(&self, is_meant: impl Fn(&CopySpec) -> bool) -> Vec<(String, String)> {
        let meant = self.copies.iter().filter(|copy| copy.plan.is_some() && is_meant(&copy.spec));
        meant.map(|copy| (copy.state.copy.clone(), copy.state.source_table.clone())).collect()
    }

    /// Takes a copy out of what goes on. The group notes it with its checkpoint, so that none is written that passes a
    /// change which the copy does not have.
    pub(super) fn hold(&mut self, name: &str, reason: String) {
        let Some(copy) = self.copies.iter_mut().find(|copy| copy.state.copy == name && copy.plan.is_some())
        else {
            return;
        };
        warn!(replication = self.config.name, copy = name, reason, "the copy is held");
        if let Some(at) = self.group.plans.iter().position(|plan| plan.name() == name) {
            self.group.hold(at, reason.clone());
        }
        self.has_holds = true;
        copy.state.phase = CopyPhase::Held;
        copy.state.reason = Some(reason);
        copy.plan = None;
        copy.copying = None;
        self.show();
    }
}

/// Names may be compared without case, depending on the source's file system: rather held once too often.
fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}
