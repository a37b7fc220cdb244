//! The CREATE TABLE for a copy that is missing.

use outbox_core::Result;

use super::collation;
use super::columns;
use super::facts::{ColumnFacts, TableFacts};
use super::indexes::{self, Indexes};
use super::plan::{CopySpec, NewTable};
use super::project::Origin;
use super::resolve::{invalid, source_key, written};
use super::sql::quoted;
use crate::change::{ColumnType, Value};

/// As [`CopyPlan::new_table`](super::CopyPlan::new_table), without the copy's name in the error.
pub(super) fn new_table(spec: &CopySpec, source: &TableFacts, target_is_mariadb: bool) -> Result<NewTable> {
    let written = written(spec, source)?;
    let source_key = source_key(spec, source)?;
    let places = source_key.iter().map(|name| {
        columns::place(&written, name)
            .ok_or_else(|| invalid(format!("the key's column `{name}` is not among `columns`: add it")))
    });
    let places = places.collect::<Result<Vec<_>>>()?;
    let mut lines = Vec::new();
    let mut key: Vec<String> = Vec::new();
    for (place, column) in written.iter().enumerate() {
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
                    _ => {
                        let is_key = places.contains(&place);
                        column_sql(&source.columns[at], is_key, source.is_mariadb, target_is_mariadb)
                    }
                };
                match (source.table.columns[at].nullable, &source.table.columns[at].kind) {
                    (true, _) => format!("{kind} null"),
                    // Without a default some servers set the first of a table to the time with each UPDATE.
                    (false, ColumnType::Timestamp { .. }) if matches!(column.origin, Origin::Column(_)) => {
                        format!("{kind} not null default '1970-01-02 00:00:00'")
                    }
                    (false, _) => format!("{kind} not null"),
                }
            }
        };
        lines.push(format!("{} {definition}", quoted(&column.name)));
    }
    key.extend(places.iter().map(|place| quoted(&written[*place].name)));
    lines.push(format!("primary key ({})", key.join(", ")));
    let indexes = indexes::of_copy(&written, &source_key, source, target_is_mariadb);
    let Indexes { lines: of_indexes, left_out } = indexes;
    let create = |lines: &[String]| {
        format!("create table {} (\n  {}\n) engine = InnoDB", quoted(&spec.target_table), lines.join(",\n  "))
    };
    let sql_without_keys = create(&lines);
    lines.extend(of_indexes);
    Ok(NewTable { sql: create(&lines), sql_without_keys, left_out })
}

/// A column's type for the target's product.
fn column_sql(facts: &ColumnFacts, is_key: bool, source_is_mariadb: bool, target_is_mariadb: bool) -> String {
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
        // Known to one of the products only: the target's own for the character set, but for a key one in which it is
        // as unique as it was.
        Some(collation) if !is_same && !collation::is_common(collation) => {
            if is_key {
                let apart = collation::apart(collation, source_is_mariadb, target_is_mariadb);
                return format!("{kind} character set utf8mb4 collate {apart}");
            }
            let charset = collation.split('_').next().unwrap_or("utf8mb4");
            format!("{kind} character set {charset}")
        }
        Some(collation) => format!("{kind} collate {collation}"),
    }
}
