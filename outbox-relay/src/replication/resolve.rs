//! A copy's specification and the tables on both sides → its plan, or what is wrong and mends it.

use outbox_core::{Error, ErrorKind, HashKey, Result};

use super::collation;
use super::columns::{self, Written};
use super::facts::{KeyPart, TableFacts};
use super::filter::Filter;
use super::park;
use super::plan::{CopyPlan, CopySpec, OtherKey};
use super::project::{Mappings, Origin};
use super::sql::quoted;
use crate::change::{Column, ColumnType, Table, Value};

pub(super) fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

/// As [`CopyPlan::resolve`], without the copy's name in the error.
pub(super) fn resolve(spec: &CopySpec, source: &TableFacts, target: &TableFacts) -> Result<CopyPlan> {
    if ["outbox_replication", "outbox_copy", "outbox_aside"].contains(&spec.source_table.as_str()) {
        return Err(invalid("the tables of replications are not copied: each copy would change them again"));
    }
    let mut written = written(spec, source)?;
    // What the target computes it does not take.
    written.retain(|column| {
        target.table.ordinal(&column.name).is_none_or(|at| !target.columns[at].is_generated)
    });
    let mut image = Table {
        database: target.table.database.clone(),
        name: target.table.name.clone(),
        columns: Vec::new(),
        primary_key: Vec::new(),
    };
    let mut mapped = Vec::new();
    for column in &written {
        let name = &column.name;
        let at = target.table.ordinal(name).ok_or_else(|| {
            invalid(format!(
                "table `{}` has no column `{name}`: add it, or list `columns` without it",
                image.name
            ))
        })?;
        let there = target.table.columns[at].clone();
        mapped.push((origin_for(&column.origin, &there, source)?, there.kind.clone()));
        image.columns.push(there);
    }
    check_left_out(target, &image)?;
    let source_key = source_key(spec, source)?;
    let (key_name, key) = target_key(&source_key, &written, &image, target)?;
    image.primary_key = key;
    let has_source_order = has_source_order(&source_key, &written, &image, source, target);
    let filter = spec.filter.as_deref().map(Filter::parse).transpose()?;
    let hash_key = match &spec.hash_key {
        Some(key) => Some(HashKey::new(key.expose().as_bytes())?),
        None if mapped.iter().any(|(origin, _)| matches!(origin, Origin::Hash(_))) => {
            return Err(invalid("hash(…) needs a `hash_key`"));
        }
        None => None,
    };
    let touched = image.columns.iter().enumerate().filter(|(_, column)| {
        target.table.ordinal(&column.name).is_some_and(|at| target.columns[at].is_touched)
    });
    let primary_key = spec.key.is_empty().then(|| source_key.clone());
    let plan = CopyPlan {
        touched: touched.map(|(at, _)| at).collect(),
        name: spec.name.clone(),
        source: (spec.source_database.clone(), spec.source_table.clone()),
        source_key,
        merging: merging(&written, &image, source, target),
        unique_keys: other_keys(&key_name, &image, target)?,
        has_other_keys: target.unique_keys.len() > 1,
        image,
        has_source_order,
        references: target.references.clone(),
        mappings: Mappings { primary_key, ..Mappings::new(mapped, filter, hash_key, target.is_mariadb) },
    };
    // Types and filter, against the table as it is today.
    plan.mappings.of(&source.table)?;
    Ok(plan)
}

/// The columns that the specification lists, or all.
pub(super) fn written(spec: &CopySpec, source: &TableFacts) -> Result<Vec<Written>> {
    let written: Vec<_> = if spec.columns.is_empty() {
        let all = source
            .table
            .columns
            .iter()
            .map(|column| Written { origin: Origin::Column(column.name.clone()), name: column.name.clone() });
        all.collect()
    } else {
        spec.columns.iter().map(|column| columns::parse(column)).collect::<Result<_>>()?
    };
    for (at, column) in written.iter().enumerate() {
        if let Origin::Column(name) | Origin::Hash(name) = &column.origin
            && source.table.ordinal(name).is_none()
        {
            return Err(invalid(format!("{} has no column `{name}`", source.table)));
        }
        if written[..at].iter().any(|other| other.name.eq_ignore_ascii_case(&column.name)) {
            return Err(invalid(format!("column `{}` stands twice", column.name)));
        }
    }
    Ok(written)
}

/// The origin with its constant made a value of the target's column.
fn origin_for(origin: &Origin, there: &Column, source: &TableFacts) -> Result<Origin> {
    let name = &there.name;
    match (origin, &there.kind) {
        (Origin::Constant(Value::Int(number)), ColumnType::Int { unsigned: true, .. }) => {
            u64::try_from(*number)
                .map(|number| Origin::Constant(Value::UInt(number)))
                .map_err(|_| invalid(format!("column `{name}` takes no negative number")))
        }
        (Origin::Constant(Value::Int(_)), ColumnType::Int { .. })
        | (Origin::Constant(Value::Text(_)), ColumnType::Text { .. }) => Ok(origin.clone()),
        (Origin::Constant(Value::Text(label)), ColumnType::Enum { labels }) if labels.contains(label) => {
            Ok(origin.clone())
        }
        (Origin::Constant(_), _) => Err(invalid(format!(
            "column `{name}` is not of the type of its constant: use a text or integer column"
        ))),
        (Origin::Hash(_), ColumnType::Text { bytes, .. } | ColumnType::Bytes { bytes, .. })
            if *bytes >= 64 =>
        {
            Ok(origin.clone())
        }
        (Origin::Hash(_), _) => {
            Err(invalid(format!("column `{name}` takes a hash: make it CHAR(64) CHARACTER SET ascii")))
        }
        // NULLs of the source would fail one by one.
        (Origin::Column(column), _) => match source.table.ordinal(column) {
            Some(at) if source.table.columns[at].nullable && !there.nullable => Err(invalid(format!(
                "column `{name}` is NOT NULL and the source's `{column}` is not: allow NULL in the target"
            ))),
            _ => Ok(origin.clone()),
        },
    }
}

/// Columns of the target's own have to get along without us.
fn check_left_out(target: &TableFacts, image: &Table) -> Result<()> {
    let own = target.table.columns.iter().zip(&target.columns);
    let missing = own.filter(|(column, facts)| {
        image.ordinal(&column.name).is_none() && !facts.is_generated && !facts.has_default
    });
    match missing.map(|(column, _)| &column.name).next() {
        Some(name) => Err(invalid(format!(
            "column `{name}` of table `{}` is not copied and has no default: give it one, or allow NULL",
            image.name
        ))),
        None => Ok(()),
    }
}

/// The key's columns by the source's names.
pub(super) fn source_key(spec: &CopySpec, source: &TableFacts) -> Result<Vec<String>> {
    let table = &source.table;
    let names = |ordinals: &[usize]| ordinals.iter().map(|at| table.columns[*at].name.clone()).collect();
    if spec.key.is_empty() {
        if table.primary_key.is_empty() {
            return Err(invalid(format!(
                "{table} has no primary key: add one, or name a unique key over columns that are NOT NULL as `key`"
            )));
        }
        return Ok(names(&table.primary_key));
    }
    let ordinals = spec.key.iter().map(|name| {
        table
            .ordinal(name)
            .ok_or_else(|| invalid(format!("{table} has no column `{name}`, which `key` names")))
    });
    let ordinals = ordinals.collect::<Result<Vec<_>>>()?;
    let is_unique = source.unique_keys.iter().any(|key| {
        key.parts.len() == ordinals.len()
            && key.parts.iter().all(|part| matches!(part, KeyPart::Column(at) if ordinals.contains(at)))
    });
    if !is_unique || ordinals.iter().any(|at| table.columns[*at].nullable) {
        return Err(invalid(format!(
            "`key` of {table} has to be a unique key over columns that are NOT NULL"
        )));
    }
    Ok(names(&ordinals))
}

/// The unique key of the target by which rows are found: its name, and its columns' ordinals in the image.
fn target_key(
    source_key: &[String],
    written: &[Written],
    image: &Table,
    target: &TableFacts,
) -> Result<(String, Vec<usize>)> {
    let parts = source_key.iter().map(|name| {
        columns::place(written, name).ok_or_else(|| {
            invalid(format!(
                "the key's column `{name}` is not among `columns`, or the target computes it: add it"
            ))
        })
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    for key in &target.unique_keys {
        let columns = key.parts.iter().map(|part| match part {
            KeyPart::Column(at) => image.ordinal(&target.table.columns[*at].name),
            _ => None,
        });
        let Some(columns) = columns.collect::<Option<Vec<_>>>() else { continue };
        let is_key = parts.iter().all(|part| columns.contains(part))
            && columns.iter().all(|at| {
                (parts.contains(at) || matches!(written[*at].origin, Origin::Constant(_)))
                    && !image.columns[*at].nullable
            });
        if is_key {
            return Ok((key.name.clone(), columns));
        }
    }
    let names: Vec<_> = parts.iter().map(|at| quoted(&image.columns[*at].name)).collect();
    Err(invalid(format!(
        "table `{}` has no primary or unique key over {} alone (and constants), NOT NULL: add it",
        image.name,
        names.join(", ")
    )))
}

/// Why the target may take two keys of the source for one, so that a row would be written over by another.
fn merging(written: &[Written], image: &Table, source: &TableFacts, target: &TableFacts) -> Option<String> {
    for column in image.primary_key.iter().map(|at| &written[*at]) {
        let Origin::Column(origin) = &column.origin else { continue };
        // An ENUM or SET has a collation, and is compared by its number.
        let is_text = |at: usize| matches!(target.table.columns[at].kind, ColumnType::Text { .. });
        if !target.table.ordinal(&column.name).is_some_and(is_text) {
            continue;
        }
        let collation = |facts: &TableFacts, name: &str| {
            facts.table.ordinal(name).and_then(|at| facts.columns[at].collation.clone())
        };
        let (Some(here), Some(there)) = (collation(source, origin), collation(target, &column.name)) else {
            continue;
        };
        if collation::may_merge(&here, &there) {
            return Some(format!(
                "column `{}` of the key: {there} may take for equal what {here} of the source tells apart, so that a row \
                 would be written over by another: empty the table and give it `collate {}`",
                column.name,
                collation::apart(&here, source.is_mariadb, target.is_mariadb)
            ));
        }
    }
    None
}

/// Whether keys have the same order on both sides.
fn has_source_order(
    source_key: &[String],
    written: &[Written],
    image: &Table,
    source: &TableFacts,
    target: &TableFacts,
) -> bool {
    let of_columns: Vec<_> = image
        .primary_key
        .iter()
        .filter_map(|at| match &written[*at].origin {
            Origin::Constant(_) => None,
            origin => Some((*at, origin)),
        })
        .collect();
    of_columns.len() == source_key.len()
        && of_columns.iter().zip(source_key).all(|((at, origin), name)| {
            let Origin::Column(column) = origin else { return false };
            let there = target.table.ordinal(&image.columns[*at].name);
            let (Some(here), Some(there)) = (source.table.ordinal(column), there) else { return false };
            let (from, to) = (&source.table.columns[here].kind, &target.table.columns[there].kind);
            let is_alike = match (from, to) {
                (ColumnType::Text { .. }, ColumnType::Text { .. }) => {
                    source.columns[here].collation == target.columns[there].collation
                }
                (ColumnType::Enum { labels }, ColumnType::Enum { labels: other })
                | (ColumnType::Set { labels }, ColumnType::Set { labels: other }) => labels == other,
                (ColumnType::Timestamp { .. }, ColumnType::DateTime { .. }) => true,
                (ColumnType::Address(_) | ColumnType::Json | ColumnType::Geometry, _) => false,
                _ => std::mem::discriminant(from) == std::mem::discriminant(to),
            };
            column.eq_ignore_ascii_case(name) && is_alike
        })
}

/// The unique keys besides the mapped one that written columns decide, each with the column to park.
fn other_keys(mapped: &str, image: &Table, target: &TableFacts) -> Result<Vec<OtherKey>> {
    let mut keys = Vec::new();
    for key in target.unique_keys.iter().filter(|key| key.name != mapped) {
        let ordinals = key.parts.iter().flat_map(|part| match part {
            KeyPart::Column(at) | KeyPart::Prefix(at) => std::slice::from_ref(at),
            KeyPart::Expression(columns) => columns.as_slice(),
        });
        let columns: Vec<_> =
            ordinals.filter_map(|at| image.ordinal(&target.table.columns[*at].name)).collect();
        let is_unique_anyway = image.primary_key.iter().all(|at| {
            let is_whole = |part: &KeyPart| {
                matches!(part, KeyPart::Column(there)
                if target.table.columns[*there].name == image.columns[*at].name)
            };
            key.parts.iter().any(is_whole)
        });
        let free: Vec<_> = columns.iter().copied().filter(|at| !image.primary_key.contains(at)).collect();
        if free.is_empty() || is_unique_anyway {
            continue;
        }
        let parked = park::column(&image.columns, &free).ok_or_else(|| {
            invalid(format!(
                "unique key `{}` of table `{}`: rows that swap its values have to be parked, and its columns have no \
                 room for that: allow NULL in one of them, or drop the key",
                key.name, image.name
            ))
        })?;
        let is_partial = key.parts.iter().any(|part| !matches!(part, KeyPart::Column(_)));
        keys.push(OtherKey { columns, is_partial, parked });
    }
    Ok(keys)
}
