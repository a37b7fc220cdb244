//! The words in which databases differ where tables keep their times in the column type of the database:
//! microseconds since 1970 on SQLite.

use super::Kind;

/// The words of one database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(pub(super) Kind);

const SQLITE_NOW: &str = "cast((julianday('now') - 2440587.5) * 86400000000 as integer)";

impl Clock {
    /// The time.
    pub(super) fn now(self) -> &'static str {
        match self.0 {
            Kind::Mysql => "utc_timestamp(6)",
            Kind::Postgres => "clock_timestamp()",
            Kind::Sqlite => SQLITE_NOW,
        }
    }

    /// Milliseconds from a column's time until now.
    pub(super) fn ms_since(self, column: &str) -> String {
        self.ms_between(column, self.now())
    }

    /// Milliseconds between two times.
    pub(super) fn ms_between(self, from: &str, to: &str) -> String {
        match self.0 {
            Kind::Mysql => format!("(timestampdiff(microsecond, {from}, {to}) div 1000)"),
            Kind::Postgres => format!("(extract(epoch from {to} - {from}) * 1000)::bigint"),
            Kind::Sqlite => format!("(({to} - {from}) / 1000)"),
        }
    }

    /// A column of bytes on MySQL and MariaDB as text.
    pub(super) fn text(self, column: &str) -> String {
        match self.0 {
            Kind::Mysql => format!("convert({column} using utf8mb4)"),
            Kind::Postgres | Kind::Sqlite => column.to_owned(),
        }
    }

    /// The end of a read that locks what it finds; on SQLite the transaction has locked everything.
    pub(super) fn locking(self) -> &'static str {
        match self.0 {
            Kind::Mysql | Kind::Postgres => "for update",
            Kind::Sqlite => "",
        }
    }
}
