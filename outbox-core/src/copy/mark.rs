//! What a soft delete writes: SQL of the marking column's type, the same on all databases.

use diesel::expression::Expression;
use diesel::sql_types::{Bool, Nullable, Timestamp};

/// The type of a column that can mark deleted rows.
#[diagnostic::on_unimplemented(
    message = "a column of type `{Self}` cannot mark deleted rows",
    label = "its type in `table!` is `{Self}`",
    note = "`soft_delete` takes a `Bool` column, or a nullable `Timestamp`, `Timestamptz`, `Datetime` or \
            `TimestamptzSqlite` one"
)]
pub trait DeleteMark {
    /// The SQL for a deleted row.
    const DELETED: &'static str;
    /// The SQL for a row that is there.
    const LIVE: &'static str;
}

impl DeleteMark for Bool {
    const DELETED: &'static str = "TRUE";
    const LIVE: &'static str = "FALSE";
}

macro_rules! marked_by_time {
    ($ty:ty) => {
        impl DeleteMark for Nullable<$ty> {
            const DELETED: &'static str = "CURRENT_TIMESTAMP";
            const LIVE: &'static str = "NULL";
        }
    };
}

marked_by_time!(Timestamp);
#[cfg(feature = "mysql")]
marked_by_time!(diesel::sql_types::Datetime);
#[cfg(feature = "postgres")]
marked_by_time!(diesel::sql_types::Timestamptz);
#[cfg(feature = "sqlite")]
marked_by_time!(diesel::sql_types::TimestamptzSqlite);

/// The SQL for a deleted row and for one that is there.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    deleted: &'static str,
    live: &'static str,
}

/// What marks a row in this column.
pub const fn marks<C>(_column: C) -> Marks
where
    C: Expression + Copy,
    C::SqlType: DeleteMark,
{
    Marks { deleted: C::SqlType::DELETED, live: C::SqlType::LIVE }
}

impl Marks {
    pub(crate) fn deleted(self) -> &'static str {
        self.deleted
    }

    pub(crate) fn live(self) -> &'static str {
        self.live
    }
}
