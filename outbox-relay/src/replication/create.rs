//! The CREATE TABLE for a copy that is missing.

use outbox_core::Result;

use super::columns::Written;
use super::facts::{ColumnFacts, TableFacts};
use super::plan::CopySpec;
use super::project::Origin;
use super::resolve::{invalid, source_key, written};
use super::sql::quoted;
use crate::change::Value;

/// As [`CopyPlan::create_table_sql`](super::CopyPlan::create_table_sql), without the copy's name in the error.
pub(super) fn create_table_sql(
    spec: &CopySpec,
    source: &TableFacts,
    target_is_mariadb: bool,
) -> Result<String> {
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
