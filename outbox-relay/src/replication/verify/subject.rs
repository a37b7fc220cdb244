//! What is compared: a table, the copy that is made of it, and how rows and keys of the one become those of the other.

use std::sync::Arc;

use outbox_core::{Error, ErrorKind, Result};

use super::same::Comparing;
use super::side::Side;
use crate::binlog::Server;
use crate::change::{Row, Table, Value};
use crate::replication::project::Origin;
use crate::replication::sql::{literal, quoted};
use crate::replication::{CopyPlan, Key, Projected};
use crate::snapshot;

/// A copy and its source, both as tables that can be read.
pub(super) struct Subject {
    plan: Arc<CopyPlan>,
    pub(super) source: Side,
    pub(super) copy: Side,
    /// For each part of the source's key its place in the copy's key.
    places: Vec<usize>,
    /// How the values of each column are compared.
    comparing: Vec<Comparing>,
}

impl Subject {
    /// The copy of a plan, with the source's table as it is today.
    pub(super) async fn of(plan: &Arc<CopyPlan>, source: &mut Server) -> Result<Self> {
        let (database, name) = plan.source();
        let invalid =
            |text: String| Error::new(ErrorKind::Invalid, format!("table {database}.{name}: {text}"));
        let table = snapshot::describe(source, database, name).await?;
        let table = table.ok_or_else(|| invalid("is not there any more".into()))?;
        let key = plan.source_key().iter().map(|column| {
            table.ordinal(column).ok_or_else(|| invalid(format!("has no column `{column}` any more")))
        });
        let key = key.collect::<Result<Vec<_>>>()?;
        let image = plan.image();
        let mut only = Vec::new();
        let mut places = vec![None; key.len()];
        for (place, ordinal) in image.primary_key.iter().enumerate() {
            match &plan.mappings.columns[*ordinal].0 {
                Origin::Column(name) => {
                    let part = plan.source_key().iter().position(|part| part.eq_ignore_ascii_case(name));
                    if let Some(part) = part {
                        places[part] = Some(place);
                    }
                }
                Origin::Hash(_) => {}
                Origin::Constant(value) => {
                    let column = &image.columns[*ordinal];
                    let mut text = format!("{} = ", quoted(&column.name));
                    literal(&mut text, value, &column.kind);
                    only.push(text);
                }
            }
        }
        let places: Option<Vec<usize>> = places.into_iter().collect();
        let origins = plan.mappings.columns.iter().map(|(origin, _)| match origin {
            Origin::Column(name) => table.ordinal(name).map(|ordinal| &table.columns[ordinal].kind),
            Origin::Hash(_) | Origin::Constant(_) => None,
        });
        let comparing =
            origins.zip(&image.columns).map(|(kind, column)| Comparing::of(kind, &column.kind)).collect();
        let hashed =
            || invalid("its key is hashed, so rows of the copy cannot be asked for in the source".into());
        Ok(Self {
            plan: Arc::clone(plan),
            source: Side::new(Arc::new(table), key, None),
            copy: Side::new(
                Arc::new(image.clone()),
                image.primary_key.clone(),
                (!only.is_empty()).then(|| only.join(" and ")),
            ),
            places: places.ok_or_else(hashed)?,
            comparing,
        })
    }

    /// What the copy should have of a row of the source as it is today; `None` if the filter leaves it out.
    pub(super) fn projected(&self, row: &Row) -> Result<Option<(Key, Projected)>> {
        self.projected_of(&self.source.table, row)
    }

    /// The same of a row of an earlier form of the table.
    pub(super) fn projected_of(&self, table: &Arc<Table>, row: &Row) -> Result<Option<(Key, Projected)>> {
        let projected = self.plan.project(table, row.clone())?;
        Ok(projected.map(|projected| (self.plan.key(&projected), projected)))
    }

    /// A row of the copy.
    pub(super) fn held(&self, row: Row) -> (Key, Projected) {
        let held = Projected(row.0);
        (self.plan.key(&held), held)
    }

    /// The values of the source's key for a row of the copy.
    pub(super) fn source_key(&self, key: &Key) -> Vec<Value> {
        self.places.iter().map(|place| key.0[*place].clone()).collect()
    }

    pub(super) fn are_equal(&self, projected: &Projected, held: &Projected) -> bool {
        let mut values = projected.0.iter().zip(&held.0).zip(&self.comparing);
        values.all(|((projected, held), comparing)| comparing.is_same(projected, held))
    }

    /// The columns that differ, with their values only if they were asked for.
    pub(super) fn different(
        &self,
        projected: &Projected,
        held: &Projected,
        show_values: bool,
    ) -> Vec<String> {
        let columns =
            self.copy.table.columns.iter().zip(&self.comparing).zip(projected.0.iter().zip(&held.0));
        let differing = columns
            .filter(|((_, comparing), (projected, held))| !comparing.is_same(projected, held))
            .map(|((column, _), values)| (column, values));
        differing
            .map(|(column, (projected, held))| {
                if show_values {
                    let (mut expected, mut found) = (String::new(), String::new());
                    literal(&mut expected, projected, &column.kind);
                    literal(&mut found, held, &column.kind);
                    format!("{}: {expected}, copy {found}", column.name)
                } else {
                    column.name.clone()
                }
            })
            .collect()
    }

    /// `id = 7, shard = 'eu'`.
    pub(super) fn key_text(&self, key: &Key) -> String {
        let columns = self.copy.key.iter().map(|ordinal| &self.copy.table.columns[*ordinal]);
        let parts = columns.zip(&key.0).map(|(column, value)| {
            let mut text = format!("{} = ", column.name);
            literal(&mut text, value, &column.kind);
            text
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}
