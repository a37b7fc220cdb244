//! What a copy holds: which columns of which table, under which names, and by which key its rows are found.

use std::sync::Arc;

use outbox_core::{Error, ErrorKind, HashKey, Result};

use super::columns::{self, Written};
use super::facts::{ColumnFacts, KeyPart, TableFacts};
use super::filter::Filter;
use super::park;
use super::project::{Mappings, Origin};
use super::sql::quoted;
use crate::change::{Column, ColumnType, Row, Table, Value};
use crate::config::Secret;

/// What the configuration says of a copy.
#[derive(Debug, Clone, Default)]
pub struct CopySpec {
    /// Its name, unique in its replication; what commands and `outbox_copy` call it.
    pub name: String,
    /// The database of the source's table.
    pub source_database: String,
    /// The source's table.
    pub source_table: String,
    /// The table in the target's database.
    pub target_table: String,
    /// `name`, `price as unit_price`, `hash(email) as email_hash`, `'eu' as shard`; empty: all as they are.
    pub columns: Vec<String>,
    /// Which rows, as SQL over the source's columns; `None`: all.
    pub filter: Option<String>,
    /// A unique key of the source over columns that are NOT NULL, by the source's names; empty: the primary key.
    pub key: Vec<String>,
    /// For `hash(…)`; at least 16 bytes.
    pub hash_key: Option<Secret>,
}

/// A copy, resolved against its table in the source and in the target.
#[derive(Debug)]
pub struct CopyPlan {
    pub(super) name: String,
    pub(super) source: (String, String),
    pub(super) source_key: Vec<String>,
    /// The target's columns that are written, in order; the primary key's ordinals are those of the mapped key.
    pub(super) image: Table,
    pub(super) has_source_order: bool,
    pub(super) unique_keys: Vec<OtherKey>,
    /// Whether the target's table has any unique key besides the mapped one, be it over columns of its own.
    pub(super) has_other_keys: bool,
    pub(super) references: Vec<String>,
    pub(super) mappings: Mappings,
}

/// A unique key of the target besides the mapped one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherKey {
    /// The ordinals in the plan's image that its values depend on.
    pub(super) columns: Vec<usize>,
    /// Whether it is over a part of a column or an expression.
    pub(super) is_partial: bool,
    /// The ordinal of the column that is parked.
    pub(super) parked: usize,
}

/// A row of a copy, in the order of the plan's columns, with the values that the target's columns hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Projected(pub Vec<Value>);

/// The values of a row in the plan's key, in the key's order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(pub Vec<Value>);

impl CopyPlan {
    /// Puts a specification, the source's table and the target's together.
    ///
    /// # Errors
    /// `Invalid` with the remedy: there is no key, a column is unknown or does not fit, a unique key of the target
    /// could never be kept.
    pub fn resolve(spec: &CopySpec, source: &TableFacts, target: &TableFacts) -> Result<Self> {
        resolve(spec, source, target).map_err(|error| error.context(format!("copy {}", spec.name)))
    }

    /// The CREATE TABLE for a target that is missing: the columns that are projected and the key; no AUTO_INCREMENT,
    /// no foreign keys, generated columns as plain ones.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn create_table_sql(spec: &CopySpec, source: &TableFacts, target_is_mariadb: bool) -> Result<String> {
        create_table_sql(spec, source, target_is_mariadb)
            .map_err(|error| error.context(format!("copy {}", spec.name)))
    }

    /// Checks plans that write the same table of the target: their keys have to differ by a constant.
    ///
    /// # Errors
    /// `Invalid` with the remedy.
    pub fn check_together(plans: &[Arc<Self>]) -> Result<()> {
        for (at, plan) in plans.iter().enumerate() {
            let others = plans[..at].iter().filter(|other| other.image.name == plan.image.name);
            for other in others {
                let differs = plan.key_constants().any(|(name, value)| {
                    other.key_constants().any(|(n, v)| n.eq_ignore_ascii_case(name) && v != value)
                });
                if !differs {
                    return Err(invalid(format!(
                        "copies {} and {} write the same table `{}`, and their keys may be equal: give each a column \
                         like `'eu' as shard`, and make it part of the table's primary key",
                        other.name, plan.name, plan.image.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// The key's columns that are constant.
    pub(super) fn key_constants(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.image.primary_key.iter().filter_map(|ordinal| match &self.mappings.columns[*ordinal].0 {
            Origin::Constant(value) => Some((self.image.columns[*ordinal].name.as_str(), value)),
            _ => None,
        })
    }

    /// The name of the copy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Database and name of the source's table.
    pub fn source(&self) -> (&str, &str) {
        (&self.source.0, &self.source.1)
    }

    /// The key's columns in the source, in the key's order there: what the source's rows are read by in pieces.
    pub fn source_key(&self) -> &[String] {
        &self.source_key
    }

    /// The target's table as far as the copy writes it: its columns are those of [`Projected`], its primary key the
    /// columns of [`Key`]. A row of the target is read by `select_list(plan.image())` and `row(plan.image(), …)`.
    pub fn image(&self) -> &Table {
        &self.image
    }

    /// Whether the target surely sorts keys as the source does, so that a range of keys is the same range there.
    pub fn has_source_order(&self) -> bool {
        self.has_source_order
    }

    /// The row as the copy has it; `None` if the filter leaves it out. Columns are found by name in the table that
    /// the row is of.
    ///
    /// # Errors
    /// `Invalid` when the table has no longer the columns, or not of types that fit: the copy has to be held.
    pub fn project(&self, table: &Arc<Table>, row: &Row) -> Result<Option<Projected>> {
        let mapping = self.mappings.of(table)?;
        Ok(self.mappings.project(&mapping, row))
    }

    /// The key of a row.
    pub fn key(&self, row: &Projected) -> Key {
        Key(self.image.primary_key.iter().filter_map(|ordinal| row.0.get(*ordinal).cloned()).collect())
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

fn resolve(spec: &CopySpec, source: &TableFacts, target: &TableFacts) -> Result<CopyPlan> {
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
    let plan = CopyPlan {
        name: spec.name.clone(),
        source: (spec.source_database.clone(), spec.source_table.clone()),
        source_key,
        unique_keys: other_keys(&key_name, &image, target)?,
        has_other_keys: target.unique_keys.len() > 1,
        image,
        has_source_order,
        references: target.references.clone(),
        mappings: Mappings::new(mapped, filter, hash_key, target.is_mariadb),
    };
    // Types and filter, against the table as it is today.
    plan.mappings.of(&source.table)?;
    Ok(plan)
}

/// The columns that the specification lists, or all.
fn written(spec: &CopySpec, source: &TableFacts) -> Result<Vec<Written>> {
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

fn source_key(spec: &CopySpec, source: &TableFacts) -> Result<Vec<String>> {
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
        let is_of = |column: &Written, hashed: bool| match &column.origin {
            Origin::Column(origin) => !hashed && origin.eq_ignore_ascii_case(name),
            Origin::Hash(origin) => hashed && origin.eq_ignore_ascii_case(name),
            Origin::Constant(_) => false,
        };
        let find = |hashed| written.iter().position(|column| is_of(column, hashed));
        find(false).or_else(|| find(true)).ok_or_else(|| {
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
        let parked = free.iter().copied().find(|at| image.columns[*at].nullable);
        let parked =
            parked.or_else(|| free.iter().copied().find(|at| park::reserved(&image.columns[*at]).is_some()));
        let parked = parked.ok_or_else(|| {
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

fn create_table_sql(spec: &CopySpec, source: &TableFacts, target_is_mariadb: bool) -> Result<String> {
    let written = written(spec, source)?;
    let source_key = source_key(spec, source)?;
    let mut lines = Vec::new();
    let mut key: Vec<String> = Vec::new();
    for column in &written {
        let definition = match &column.origin {
            Origin::Constant(value) => {
                key.push(quoted(&column.name));
                match value {
                    Value::Text(text) => {
                        let length = text.chars().count().max(32);
                        format!("varchar({length}) character set utf8mb4 collate utf8mb4_bin not null")
                    }
                    _ => "bigint not null".to_owned(),
                }
            }
            Origin::Hash(name) | Origin::Column(name) => {
                let at = source.table.ordinal(name).ok_or_else(|| invalid(format!("no column `{name}`")))?;
                let kind = match column.origin {
                    Origin::Hash(_) => "char(64) character set ascii collate ascii_bin".to_owned(),
                    _ => column_sql(&source.columns[at], source.is_mariadb, target_is_mariadb),
                };
                let is_null = source.table.columns[at].nullable;
                format!("{kind} {}", if is_null { "null" } else { "not null" })
            }
        };
        lines.push(format!("  {} {definition}", quoted(&column.name)));
    }
    for name in &source_key {
        let is_of = |column: &&Written| match &column.origin {
            Origin::Column(origin) | Origin::Hash(origin) => origin.eq_ignore_ascii_case(name),
            Origin::Constant(_) => false,
        };
        let column = written.iter().find(is_of);
        let column = column
            .ok_or_else(|| invalid(format!("the key's column `{name}` is not among `columns`: add it")))?;
        key.push(quoted(&column.name));
    }
    lines.push(format!("  primary key ({})", key.join(", ")));
    Ok(format!("create table {} (\n{}\n) engine = InnoDB", quoted(&spec.target_table), lines.join(",\n")))
}

/// A column's type for the target's product.
fn column_sql(facts: &ColumnFacts, source_is_mariadb: bool, target_is_mariadb: bool) -> String {
    let is_same = source_is_mariadb == target_is_mariadb;
    let collation = facts.collation.as_deref().filter(|collation| *collation != "binary");
    let kind = match facts.column_type.to_ascii_lowercase().as_str() {
        "uuid" if !is_same => return "char(36) character set ascii".into(),
        "inet4" if !is_same => return "varchar(15) character set ascii".into(),
        "inet6" if !is_same => return "varchar(39) character set ascii".into(),
        "json" if !is_same => return "longtext character set utf8mb4 collate utf8mb4_bin".into(),
        vector if vector.starts_with("vector(") && !is_same => {
            let dimensions = vector[7..].trim_end_matches(')').parse::<u32>().unwrap_or(16_383);
            return format!("varbinary({})", u64::from(dimensions) * 4);
        }
        _ => &facts.column_type,
    };
    match collation {
        None => kind.to_owned(),
        // Known to one of the products only.
        Some(collation) if !is_same && (collation.contains("_0900_") || collation.contains("uca1400")) => {
            let charset = collation.split('_').next().unwrap_or("utf8mb4");
            format!("{kind} character set {charset}")
        }
        Some(collation) => format!("{kind} collate {collation}"),
    }
}
