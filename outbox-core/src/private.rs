//! What the derives call; not for use by hand.

pub use diesel;
use diesel::backend::Backend;
use diesel::expression::Expression;
use diesel::query_builder::QueryFragment;
use diesel::sql_types::{BigInt, Integer, SmallInt, TinyInt};
pub use serde;
pub use serde_json;

pub use ::core;

pub use crate::copy::misfit::{Misfit, misfits};
pub use crate::copy::{
    DeleteMark, Marks, ReplicaSql, column_name, column_value, marks, table_name, version_columns,
};
pub use crate::entity::join_key;
use crate::entity::{FieldWriter, Image};
pub use crate::event::held_fields;
pub use crate::hash::put_hashed;
pub use crate::model::{
    EntitySql, EntityTable, FromRow, NewRow, NewRowSql, ReadBack, UpsertKey, changes, from_row, row_metadata,
    selection,
};
pub use crate::rows::{any_of, pair};
pub use crate::statement::{Fragment, ServerKind};

/// A field of an image; a missing one is `null`, which an `Option` takes.
pub fn field<T: serde::de::DeserializeOwned>(image: &Image, name: &str) -> crate::Result<T> {
    let value = image.get(name);
    // Serde's own reason would repeat the value.
    T::deserialize(value.unwrap_or(&serde_json::Value::Null)).map_err(|_| {
        let ty = std::any::type_name::<T>();
        crate::Error::invalid(match value {
            Some(value) => format!("field {name}: {} does not read as {ty}", json_kind(value)),
            None => format!("field {name} is missing"),
        })
    })
}

/// A field of an image, converted by a function of the user's.
pub fn field_with<T, V, E>(
    image: &Image,
    name: &str,
    with: impl FnOnce(T) -> Result<V, E>,
) -> crate::Result<V>
where
    T: serde::de::DeserializeOwned,
    E: std::fmt::Display,
{
    with(field(image, name)?).map_err(|e| crate::Error::invalid(format!("field {name}: {e}")))
}

fn json_kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

/// Writes a field.
pub fn put<T: serde::Serialize>(
    fields: &mut impl FieldWriter,
    name: &'static str,
    value: &T,
) -> serde_json::Result<()> {
    fields.put(name, value)
}

/// Writes the mark of a field whose value is nobody's business.
pub fn put_redacted(fields: &mut impl FieldWriter, name: &'static str) -> serde_json::Result<()> {
    fields.put(name, crate::REDACTED)
}

/// An entity's own version number; none above the largest `i64`.
pub fn version<T: EntityVersion>(version: &T) -> Option<i64> {
    version.number()
}

/// A type that an entity's version can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an entity's version",
    label = "use an integer",
    note = "a version is an integer that rises with each change"
)]
pub trait EntityVersion {
    fn number(&self) -> Option<i64>;
}

macro_rules! entity_version {
    ($($integer:ty),*) => {$(
        impl EntityVersion for $integer {
            fn number(&self) -> Option<i64> {
                (*self).try_into().ok()
            }
        }
    )*};
}
entity_version!(i8, i16, i32, i64, u8, u16, u32, u64);

/// A type of column that AUTO_INCREMENT can be: compared with a text, `LAST_INSERT_ID()` would find some
/// other row.
#[diagnostic::on_unimplemented(
    message = "this key is no integer, so it cannot be an AUTO_INCREMENT column, and MySQL and MariaDB cannot tell the inserted row",
    note = "give the key a field, or name columns that find the row: `#[outbox(key(…))]`"
)]
pub trait AutoIncrement {}
impl AutoIncrement for TinyInt {}
impl AutoIncrement for SmallInt {}
impl AutoIncrement for Integer {}
impl AutoIncrement for BigInt {}
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
impl<T: AutoIncrement> AutoIncrement for diesel::sql_types::Unsigned<T> {}

/// A column whose values AUTO_INCREMENT generates.
pub fn generated<C, DB>(column: C) -> Fragment<'static, DB>
where
    DB: Backend,
    C: Expression<SqlType: AutoIncrement> + QueryFragment<DB> + 'static,
{
    Box::new(column)
}

diesel::table! {
    /// The table of a type whose derive failed.
    no_table (id) {
        id -> Integer,
    }
}
