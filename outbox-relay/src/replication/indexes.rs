//! Which keys of the source's table a copy gets besides the one by which its rows are found, when the relay creates it.

use super::collation;
use super::columns::{self, Written};
use super::facts::{Index, TableFacts};
use super::park;
use super::project::Origin;
use super::sql::quoted;
use crate::change::ColumnType;

/// The keys of a table that is created.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// Lines of its CREATE TABLE.
    pub(super) lines: Vec<String>,
    /// Keys of the source that it does not have, or not so, each with the reason.
    pub(super) left_out: Vec<String>,
}

/// Those of a copy with these columns whose rows are found by these columns of the source.
pub(super) fn of_copy(
    written: &[Written],
    source_key: &[String],
    source: &TableFacts,
    target_is_mariadb: bool,
) -> Indexes {
    let key: Vec<_> = source_key.iter().filter_map(|name| source.table.ordinal(name)).collect();
    let constants = written.iter().filter(|column| matches!(column.origin, Origin::Constant(_)));
    let constants: Vec<_> = constants.map(|column| quoted(&column.name)).collect();
    let mut found = Indexes::default();
    for index in &source.indexes {
        let is_key = index.columns.len() == key.len() && key.iter().all(|at| index.columns.contains(at));
        if is_key && index.is_unique && (index.special.is_none() || index.name == "PRIMARY") {
            continue;
        }
        let columns = match there(index, written, source) {
            Ok(columns) => columns,
            Err(why) => {
                found.left_out.push(format!("key {}: {why}", quoted(&index.name)));
                continue;
            }
        };
        let mut names: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
        // The name of a primary key is no name.
        let name = if index.name == "PRIMARY" { "source_primary" } else { &index.name };
        let kind = match index
            .is_unique
            .then(|| why_not_unique(index, &columns, &key, source, target_is_mariadb))
        {
            None => "key",
            Some(None) => {
                // Unique within its source only, where several become one table.
                names.extend(constants.iter().cloned());
                "unique key"
            }
            Some(Some(why)) => {
                found.left_out.push(format!("unique key {} is not unique there: {why}", quoted(&index.name)));
                "key"
            }
        };
        found.lines.push(format!("{kind} {} ({})", quoted(name), names.join(", ")));
    }
    found
}

/// The copy's columns for those of a key, or why it cannot have it.
fn there<'w>(index: &Index, written: &'w [Written], source: &TableFacts) -> Result<Vec<&'w Written>, String> {
    if let Some(special) = &index.special {
        return Err(special.clone());
    }
    let columns = index.columns.iter().map(|at| {
        let name = &source.table.columns[*at].name;
        columns::place(written, name)
            .map(|at| &written[at])
            .ok_or_else(|| format!("its column {} is not copied", quoted(name)))
    });
    columns.collect()
}

/// Why a unique key of the source would refuse rows as a unique key of the copy; `None` if it would not.
fn why_not_unique(
    index: &Index,
    columns: &[&Written],
    key: &[usize],
    source: &TableFacts,
    target_is_mariadb: bool,
) -> Option<String> {
    let is_same = source.is_mariadb == target_is_mariadb;
    for (at, column) in index.columns.iter().zip(columns) {
        // The same values have the same hash, so that others need not be looked at.
        if let (Origin::Column(_), Some(collation)) = (&column.origin, &source.columns[*at].collation)
            && !is_same
            && !collation::is_common(collation)
            // An ENUM or SET is compared by its number.
            && matches!(source.table.columns[*at].kind, ColumnType::Text { .. })
        {
            return Some(format!("the target has no {collation}, by which values of {} differ", column.name));
        }
    }
    let free: Vec<_> = index.columns.iter().copied().filter(|at| !key.contains(at)).collect();
    let has_key = key.iter().all(|at| index.columns.contains(at));
    let is_hashed = |at: &usize| {
        let place = index.columns.iter().position(|column| column == at);
        place.is_some_and(|place| matches!(columns[place].origin, Origin::Hash(_)))
    };
    let has_room = park::column(&source.table.columns, &free).is_some() || free.iter().any(is_hashed);
    if free.is_empty() || has_key || has_room {
        return None;
    }
    Some(
        "rows that swap its values could not be parked, as its columns are NOT NULL and have few values"
            .to_owned(),
    )
}
