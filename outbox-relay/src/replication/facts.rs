//! What `information_schema` says of a table, for plans: keys, collations, defaults.

use std::sync::Arc;

use mysql_async::Row;
use mysql_async::prelude::Queryable as _;
use outbox_core::Result;

use super::sql::quoted;
use crate::binlog::{Link, failed};
use crate::change::Table;
use crate::snapshot;

/// A table as `information_schema` has it today, with more than its rows' values need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// Its columns and its primary key.
    pub table: Arc<Table>,
    /// What else there is of each column, in the same order.
    pub columns: Vec<ColumnFacts>,
    /// All unique keys, the primary key first where there is one.
    pub unique_keys: Vec<UniqueKey>,
    /// All keys, unique or not, in the same order.
    pub indexes: Vec<Index>,
    /// The tables of the same database that its foreign keys point to.
    pub references: Vec<String>,
    /// Whether the server is MariaDB.
    pub is_mariadb: bool,
}

/// What is not in [`Column`](crate::change::Column).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnFacts {
    /// The type in SQL: `decimal(10,2) unsigned`.
    pub column_type: String,
    /// The collation of text.
    pub collation: Option<String>,
    /// Whether the server computes it.
    pub is_generated: bool,
    /// By which expression, as the server prints it.
    pub generation: Option<String>,
    /// Whether an INSERT may leave it out.
    pub has_default: bool,
    /// Whether an UPDATE that leaves it out sets it to the time.
    pub is_touched: bool,
}

/// A unique key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueKey {
    /// Its name.
    pub name: String,
    /// Its parts, in order.
    pub parts: Vec<KeyPart>,
}

/// A key of a table as far as another table can have it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Whether no two rows have the same values in it.
    pub is_unique: bool,
    /// The ordinals of its columns, in order.
    pub columns: Vec<usize>,
    /// What it has besides whole columns in ascending order, if anything: `it is over a part of a column`.
    pub special: Option<String>,
}

/// A part of a [`UniqueKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// The ordinal of a column.
    Column(usize),
    /// The first characters or bytes of the column of this ordinal.
    Prefix(usize),
    /// An expression over these columns, as far as its text names them.
    Expression(Vec<usize>),
}

/// Of a key: its name, whether it is unique, the column, how much of it, the expression, `D` if it descends, its type.
type Part = (String, bool, Option<String>, Option<u64>, Option<String>, Option<String>, String);

impl TableFacts {
    /// The table of this name; `None` if there is none.
    ///
    /// # Errors
    /// As [`describe`](crate::snapshot::describe).
    pub async fn describe(connection: &mut Link, database: &str, name: &str) -> Result<Option<Self>> {
        let failed = |error| failed(format_args!("describing {database}.{name}"), &error);
        let of_table = (database, name);
        let version: Option<String> = connection.query_first("SELECT @@version").await.map_err(failed)?;
        let is_mariadb = version.is_some_and(|version| version.contains("MariaDB"));
        // MySQL alone has keys over expressions; MariaDB has them over generated columns, as MySQL too.
        let expression = if is_mariadb { "NULL" } else { "EXPRESSION" };
        let sql = format!(
            "SELECT INDEX_NAME, NON_UNIQUE = 0, COLUMN_NAME, SUB_PART, {expression}, COLLATION, INDEX_TYPE \
             FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? \
             ORDER BY INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX"
        );
        let parts: Vec<Part> = connection.exec(sql, of_table).await.map_err(failed)?;
        let sql = "SELECT DISTINCT REFERENCED_TABLE_NAME FROM information_schema.KEY_COLUMN_USAGE \
                   WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND REFERENCED_TABLE_SCHEMA = TABLE_SCHEMA";
        let references: Vec<String> = connection.exec(sql, of_table).await.map_err(failed)?;
        // Last, by one statement; what was said of keys before is by names.
        let described = snapshot::describe_whole(connection, database, name).await?;
        let Some((table, described)) = described else { return Ok(None) };
        let generated =
            |name: &str| described.iter().find(|column| column.name == name)?.generation.as_deref();
        let indexes = indexes(&table, &parts);
        let mut unique_keys: Vec<UniqueKey> = Vec::new();
        for (key, _, column, prefix, expression, ..) in
            parts.into_iter().filter(|(_, is_unique, ..)| *is_unique)
        {
            let part = match (column, expression) {
                (Some(column), _) => match (table.ordinal(&column), generated(&column)) {
                    (Some(_), Some(expression)) => KeyPart::Expression(named(&table, expression)),
                    (Some(ordinal), None) if prefix.is_some() => KeyPart::Prefix(ordinal),
                    (Some(ordinal), None) => KeyPart::Column(ordinal),
                    (None, _) => continue,
                },
                (None, Some(expression)) => KeyPart::Expression(named(&table, &expression)),
                (None, None) => continue,
            };
            match unique_keys.last_mut().filter(|last| last.name == key) {
                Some(last) => last.parts.push(part),
                None => unique_keys.push(UniqueKey { name: key, parts: vec![part] }),
            }
        }
        let columns = described.iter().map(|column| ColumnFacts {
            column_type: column.column_type.clone(),
            collation: column.collation.clone(),
            is_generated: column.generation.is_some(),
            generation: column.generation.clone(),
            has_default: column.has_default,
            is_touched: column.is_touched,
        });
        let columns = columns.collect();
        Ok(Some(Self { table: Arc::new(table), columns, unique_keys, indexes, references, is_mariadb }))
    }
}

/// Why a table's log does not tell what its rows are, if so.
pub(crate) async fn unreadable(connection: &mut Link, database: &str, name: &str) -> Result<Option<String>> {
    let sql = "SELECT TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
    let asked = connection.exec_first(sql, (database, name)).await;
    let kind: Option<String> =
        asked.map_err(|error| failed(format_args!("asking what {database}.{name} is"), &error))?;
    Ok(kind.filter(|kind| kind.eq_ignore_ascii_case("SYSTEM VERSIONED")).map(|_| {
        format!(
            "{database}.{name} is system-versioned: its log does not tell rows of its history from rows that are; it \
             cannot be copied before `alter table {name} drop system versioning`"
        )
    }))
}

/// What foreign keys do to rows of a table without a word in the binary log, as `fk ON DELETE CASCADE`: storage engines
/// act on their own, except in MySQL from 9.6 on, whose server does it for them and logs it.
pub(crate) async fn unlogged_actions(
    connection: &mut Link,
    database: &str,
    name: &str,
) -> Result<Vec<String>> {
    let failed = |error| failed(format_args!("asking for the foreign keys of {database}.{name}"), &error);
    let sql = "SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'";
    let by_engine: Option<(String, String)> = connection.query_first(sql).await.map_err(failed)?;
    if by_engine.is_some_and(|(_, value)| value.eq_ignore_ascii_case("OFF")) {
        return Ok(Vec::new());
    }
    // What information_schema has of foreign keys, MariaDB hides from who may only read the table.
    let sql = format!("SHOW CREATE TABLE {}.{}", quoted(database), quoted(name));
    // Of a view there are other columns.
    let row: Option<Row> = connection.query_first(sql).await.map_err(failed)?;
    let text = row.and_then(|mut row| row.take_opt::<String, _>("Create Table"));
    Ok(text.and_then(|text| text.ok()).map_or_else(Vec::new, |text| actions(&text)))
}

/// Of a CREATE TABLE as the servers print it, each key on a line: `CONSTRAINT key FOREIGN KEY (…) REFERENCES … (…) ON …`.
fn actions(create: &str) -> Vec<String> {
    let keys = create.lines().filter_map(|line| {
        let (key, rest) = line.trim().strip_prefix("CONSTRAINT ")?.split_once(" FOREIGN KEY ")?;
        Some((key, rest.rsplit(')').next()?.trim_end_matches(',')))
    });
    let told = keys.flat_map(|(key, rules)| {
        let rules = rules.split(" ON ").filter(|rule| rule.contains("CASCADE") || rule.contains(" SET "));
        rules.map(move |rule| format!("{key} ON {rule}"))
    });
    told.collect()
}

/// The keys that these parts are of.
fn indexes(table: &Table, parts: &[Part]) -> Vec<Index> {
    let mut indexes: Vec<Index> = Vec::new();
    for (name, is_unique, column, prefix, expression, order, kind) in parts {
        let special = if kind != "BTREE" {
            Some(format!("it is of type {kind}"))
        } else if expression.is_some() {
            Some("it is over an expression".to_owned())
        } else if prefix.is_some() {
            Some("it is over a part of a column".to_owned())
        } else if order.as_deref() == Some("D") {
            Some("it descends".to_owned())
        } else {
            None
        };
        let ordinal = column.as_deref().and_then(|column| table.ordinal(column));
        // The table was altered meanwhile.
        let special = special.or_else(|| ordinal.is_none().then(|| "its column is gone".to_owned()));
        if indexes.last().is_none_or(|last| last.name != *name) {
            let (name, is_unique) = (name.clone(), *is_unique);
            indexes.push(Index { name, is_unique, columns: Vec::new(), special: None });
        }
        let Some(index) = indexes.last_mut() else { continue };
        index.columns.extend(ordinal);
        index.special = index.special.take().or(special);
    }
    indexes
}

/// The columns that an expression names; the servers put names in backticks.
fn named(table: &Table, expression: &str) -> Vec<usize> {
    let is_named = |name: &str| expression.contains(&quoted(name));
    (0..table.columns.len()).filter(|ordinal| is_named(&table.columns[*ordinal].name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_of_foreign_keys_are_read() {
        let create = "CREATE TABLE `c` (\n  `a` int,\n  KEY `x` (`a`),\n  \
                      CONSTRAINT `one` FOREIGN KEY (`a`) REFERENCES `p )` (`id`) ON DELETE CASCADE ON UPDATE SET NULL,\n  \
                      CONSTRAINT `two` FOREIGN KEY (`a`, `b`) REFERENCES `d`.`p` (`id`, `b`) ON DELETE RESTRICT,\n  \
                      CONSTRAINT `three` FOREIGN KEY (`a`) REFERENCES `q` (`id`)\n) ENGINE=InnoDB COMMENT=' ON DELETE CASCADE'";
        assert_eq!(actions(create), ["`one` ON DELETE CASCADE", "`one` ON UPDATE SET NULL"]);
    }
}
