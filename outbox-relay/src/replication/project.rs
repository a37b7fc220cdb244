//! Rows of the source → rows of a copy: columns by their names, values as the target's columns hold them.

use std::sync::{Arc, Mutex, PoisonError};

use outbox_core::{Error, ErrorKind, HashKey, Result};

use super::filter::{BoundFilter, Filter};
use super::plan::Projected;
use super::sql;
use crate::change::{AddressType, ColumnType, Row, Table, Value};

/// What a column of a copy is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A column of the source.
    Column(String),
    /// The keyed hash of one.
    Hash(String),
    /// The same for every row.
    Constant(Value),
}

/// How the columns of each version of the source's table become those of the copy.
#[derive(Debug)]
pub(super) struct Mappings {
    pub(super) columns: Vec<(Origin, ColumnType)>,
    pub(super) filter: Option<Filter>,
    pub(super) hash_key: Option<HashKey>,
    /// The primary key that rows are found by; `None`: they are found by another key.
    pub(super) primary_key: Option<Vec<String>>,
    /// Whether the target is MariaDB.
    pub(super) is_mariadb: bool,
    /// The last version that was asked for.
    pub(super) latest: Mutex<Option<(Arc<Table>, Arc<Mapping>)>>,
}

/// The same for one version.
#[derive(Debug)]
pub(super) struct Mapping {
    steps: Vec<Step>,
    filter: Option<BoundFilter>,
}

#[derive(Debug)]
enum Step {
    /// A column of the source; its value is taken out of the row where it is last used.
    #[allow(missing_docs)]
    Column {
        ordinal: usize,
        is_last: bool,
    },
    Hash(usize),
    Constant(Value),
}

impl Mappings {
    pub(super) fn new(
        columns: Vec<(Origin, ColumnType)>,
        filter: Option<Filter>,
        hash_key: Option<HashKey>,
        is_mariadb: bool,
    ) -> Self {
        Self { columns, filter, hash_key, primary_key: None, is_mariadb, latest: Mutex::new(None) }
    }

    /// The mapping for a version of the table.
    ///
    /// # Errors
    /// `Invalid` when a column is gone or of a type that does not fit, or the primary key is another one.
    pub(super) fn of(&self, table: &Arc<Table>) -> Result<Arc<Mapping>> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some((version, mapping)) if Arc::ptr_eq(version, table) || version == table => {
                return Ok(Arc::clone(mapping));
            }
            _ => {}
        }
        let mapping = Arc::new(self.bind(table)?);
        *latest = Some((Arc::clone(table), Arc::clone(&mapping)));
        Ok(mapping)
    }

    fn bind(&self, table: &Table) -> Result<Mapping> {
        if let Some(key) = &self.primary_key {
            let is_in = |name: &String| table.ordinal(name).is_some_and(|at| table.primary_key.contains(&at));
            if key.len() != table.primary_key.len() || !key.iter().all(is_in) {
                let text = format!("the primary key of {table} is not ({}) any more", key.join(", "));
                return Err(Error::new(ErrorKind::Invalid, text));
            }
        }
        let steps = self.columns.iter().map(|(origin, kind)| {
            let (name, is_hash) = match origin {
                Origin::Constant(value) => return Ok(Step::Constant(value.clone())),
                Origin::Column(name) => (name, false),
                Origin::Hash(name) => (name, true),
            };
            let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
            let ordinal =
                table.ordinal(name).ok_or_else(|| invalid(format!("{table} has no column `{name}`")))?;
            if is_hash {
                return Ok(Step::Hash(ordinal));
            }
            match misfit(&table.columns[ordinal].kind, kind) {
                None => Ok(Step::Column { ordinal, is_last: false }),
                Some(why) => Err(invalid(format!("{table}, column `{name}`: {why}"))),
            }
        });
        let mut steps = steps.collect::<Result<Vec<_>>>()?;
        let mut used = Vec::new();
        for step in steps.iter_mut().rev() {
            match step {
                Step::Column { ordinal, is_last } => {
                    *is_last = !used.contains(ordinal);
                    used.push(*ordinal);
                }
                Step::Hash(ordinal) => used.push(*ordinal),
                Step::Constant(_) => {}
            }
        }
        let filter = self.filter.as_ref().map(|filter| filter.bind(table)).transpose()?;
        Ok(Mapping { steps, filter })
    }

    /// The row as the copy has it; `None` if the filter leaves it out.
    pub(super) fn project(&self, mapping: &Mapping, mut row: Row) -> Option<Projected> {
        if mapping.filter.as_ref().is_some_and(|filter| !filter.takes(&row)) {
            return None;
        }
        let values = mapping.steps.iter().zip(&self.columns).map(|(step, (_, kind))| match step {
            Step::Column { ordinal, is_last } => {
                let value = match row.0.get_mut(*ordinal) {
                    Some(value) if *is_last => std::mem::replace(value, Value::Null),
                    Some(value) => value.clone(),
                    None => Value::Null,
                };
                match converted(value, kind) {
                    // MariaDB gives no negative zero back.
                    Value::Float(0.0) if self.is_mariadb => Value::Float(0.0),
                    Value::Double(0.0) if self.is_mariadb => Value::Double(0.0),
                    value => value,
                }
            }
            Step::Hash(ordinal) => {
                let digest = hashed(row.0.get(*ordinal).unwrap_or(&Value::Null), self.hash_key.as_ref());
                converted(digest, kind)
            }
            Step::Constant(value) => value.clone(),
        });
        Some(Projected(values.collect()))
    }
}

/// The hash of a text as it is and of any other value as its text in SQL; NULL stays NULL.
pub(super) fn hashed(value: &Value, key: Option<&HashKey>) -> Value {
    let mut text = String::new();
    match value {
        Value::Null => return Value::Null,
        Value::Text(value) | Value::Json(value) => text.clone_from(value),
        other => sql::literal(&mut text, other, &ColumnType::Double),
    }
    // A plan without a key has no hash.
    key.map_or(Value::Null, |key| Value::Text(key.hex(&text)))
}

/// Why values of a source's column do not all fit into a target's; `None` if they do. Texts and bytes may still be
/// too long, or have characters that the target's character set lacks: such a row is set aside.
pub(super) fn misfit(source: &ColumnType, target: &ColumnType) -> Option<String> {
    use ColumnType::*;
    let narrow = || Some("the target's column is narrower; widen it".to_owned());
    let fits = match (source, target) {
        (Int { bytes, unsigned }, Int { bytes: to, unsigned: to_unsigned }) => {
            let fits = match (unsigned, to_unsigned) {
                (false, true) => {
                    return Some("the source has negative numbers and the target has not".into());
                }
                (true, false) => bytes < to,
                _ => bytes <= to,
            };
            return if fits { None } else { narrow() };
        }
        (Decimal { precision, scale }, Decimal { precision: to, scale: to_scale }) => {
            let fits = scale <= to_scale && precision - scale <= to.saturating_sub(*to_scale);
            return if fits { None } else { narrow() };
        }
        (Bit { bits }, Bit { bits: to }) => return if bits <= to { None } else { narrow() },
        (Time { fraction }, Time { fraction: to })
        | (DateTime { fraction }, DateTime { fraction: to })
        | (Timestamp { fraction }, Timestamp { fraction: to } | DateTime { fraction: to }) => {
            return if fraction <= to { None } else { narrow() };
        }
        (Enum { labels }, Enum { labels: to }) | (Set { labels }, Set { labels: to }) => {
            return labels
                .iter()
                .find(|label| !to.contains(label))
                .map(|_| "the target's type lacks a label of the source's: add it there".to_owned());
        }
        (Vector { dimensions }, Vector { dimensions: to }) => {
            return if dimensions <= to { None } else { narrow() };
        }
        (Vector { dimensions }, Bytes { fixed: false, bytes }) => {
            return if u64::from(*dimensions) * 4 <= u64::from(*bytes) { None } else { narrow() };
        }
        (Address(kind), Address(to)) => kind == to,
        (Address(kind), Text { bytes, .. } | Bytes { fixed: false, bytes }) => {
            let longest = match kind {
                AddressType::Uuid => 36,
                AddressType::Inet4 => 15,
                AddressType::Inet6 => 39,
            };
            return if *bytes >= longest { None } else { narrow() };
        }
        (Bytes { fixed: true, bytes }, Bytes { fixed: true, bytes: to }) => bytes == to,
        (Float, Float | Double)
        | (Double, Double)
        | (Year, Year)
        | (Date, Date)
        | (Json, Json | Text { .. })
        | (Text { .. }, Text { .. } | Json)
        | (Enum { .. } | Set { .. }, Text { .. })
        | (Bytes { .. }, Bytes { .. })
        | (Geometry, Geometry | Bytes { fixed: false, .. }) => true,
        _ => false,
    };
    (!fits).then(|| "the target's column is of another type; give it the source's".to_owned())
}

/// A value as a column of this type gives it back, for types that fit.
pub(super) fn converted(value: Value, kind: &ColumnType) -> Value {
    match (value, kind) {
        (Value::Int(number), ColumnType::Int { unsigned: true, .. }) => {
            u64::try_from(number).map_or(Value::Int(number), Value::UInt)
        }
        (Value::UInt(number), ColumnType::Int { unsigned: false, .. }) => {
            i64::try_from(number).map_or(Value::UInt(number), Value::Int)
        }
        (Value::Float(number), ColumnType::Double) => Value::Double(number.into()),
        (Value::Decimal(digits), ColumnType::Decimal { scale, .. }) => {
            let (whole, part) = digits.split_once('.').unwrap_or((&digits, ""));
            let scale = usize::from(*scale);
            if part.len() == scale {
                return Value::Decimal(digits);
            }
            Value::Decimal(if scale == 0 { whole.to_owned() } else { format!("{whole}.{part:0<scale$}") })
        }
        (Value::Timestamp(micros), ColumnType::DateTime { .. }) => Value::DateTime(sql::date_time(micros)),
        (Value::Text(mut text), ColumnType::Text { fixed: true, .. }) => {
            text.truncate(text.trim_end_matches(' ').len());
            Value::Text(text)
        }
        (Value::Text(text), ColumnType::Bytes { .. }) => Value::Bytes(text.into_bytes()),
        (Value::Text(text), ColumnType::Set { labels }) if text.contains(',') => {
            let set: Vec<_> = text.split(',').collect();
            let ordered: Vec<_> = labels.iter().map(String::as_str).filter(|l| set.contains(l)).collect();
            Value::Text(ordered.join(","))
        }
        (Value::Text(text), ColumnType::Json) => Value::Json(text),
        (Value::Json(text), ColumnType::Text { .. }) => Value::Text(text),
        (Value::Bytes(mut bytes), ColumnType::Bytes { fixed: true, bytes: width }) => {
            bytes.resize(bytes.len().max(*width as usize), 0);
            Value::Bytes(bytes)
        }
        (Value::Geometry(bytes) | Value::Vector(bytes), ColumnType::Bytes { .. }) => Value::Bytes(bytes),
        (value, _) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Column;

    fn text() -> ColumnType {
        ColumnType::Text { charset: "utf8mb4".into(), fixed: false, bytes: 400 }
    }

    fn table(columns: &[&str]) -> Arc<Table> {
        let columns =
            columns.iter().map(|name| Column { name: (*name).into(), kind: text(), nullable: true });
        Arc::new(Table {
            database: "d".into(),
            name: "t".into(),
            columns: columns.collect(),
            primary_key: vec![0],
        })
    }

    fn row(values: &[&str]) -> Row {
        Row(values.iter().map(|value| Value::Text((*value).into())).collect())
    }

    #[test]
    fn columns_are_found_by_name_in_each_version() {
        let columns = vec![(Origin::Column("b".into()), text()), (Origin::Column("a".into()), text())];
        let mappings = Mappings::new(columns, None, None, false);
        for (names, values) in [(["a", "b"], ["1", "2"]), (["b", "a"], ["2", "1"])] {
            let mapping = mappings.of(&table(&names)).unwrap();
            assert_eq!(mappings.project(&mapping, row(&values)).unwrap().0, row(&["2", "1"]).0);
        }
        let error = mappings.of(&table(&["a", "c"])).unwrap_err();
        assert!(error.to_string().contains("d.t has no column `b`"), "{error}");
    }

    #[test]
    fn hashes_need_the_key_and_join() {
        let key = HashKey::new(b"sixteen bytes ok").unwrap();
        let columns = vec![(Origin::Hash("a".into()), text())];
        let mappings = Mappings::new(columns, None, Some(key.clone()), false);
        let table = table(&["a"]);
        let mapping = mappings.of(&table).unwrap();
        let hash = mappings.project(&mapping, row(&["x@y"])).unwrap();
        assert_eq!(hash.0, [Value::Text(key.hex("x@y"))]);
        assert!(!format!("{mappings:?}").contains("sixteen"));
    }

    #[test]
    fn labels_not_numbers_decide() {
        let set = |labels: &[&str]| ColumnType::Set {
            labels: labels.iter().map(ToString::to_string).collect::<Vec<_>>().into(),
        };
        assert_eq!(misfit(&set(&["a", "b"]), &set(&["b", "x", "a"])), None);
        assert!(misfit(&set(&["a", "b"]), &set(&["a"])).unwrap().contains("label"));
        assert_eq!(converted(Value::Text("a,b".into()), &set(&["b", "a"])), Value::Text("b,a".into()));
    }

    #[test]
    fn values_are_as_the_wider_column_holds_them() {
        let decimal = ColumnType::Decimal { precision: 12, scale: 4 };
        assert_eq!(converted(Value::Decimal("-1.50".into()), &decimal), Value::Decimal("-1.5000".into()));
        assert_eq!(converted(Value::Decimal("7".into()), &decimal), Value::Decimal("7.0000".into()));
        let fixed = ColumnType::Bytes { fixed: true, bytes: 4 };
        assert_eq!(converted(Value::Bytes(vec![1]), &fixed), Value::Bytes(vec![1, 0, 0, 0]));
        let int = |bytes, unsigned| ColumnType::Int { bytes, unsigned };
        assert!(
            misfit(&int(4, true), &int(4, false)).is_some()
                && misfit(&int(4, true), &int(8, false)).is_none()
        );
        assert!(misfit(&int(4, false), &int(8, true)).is_some());
        assert!(misfit(&ColumnType::Date, &int(8, false)).is_some());
    }
}
