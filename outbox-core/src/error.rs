//! The one error of this crate: what kind of trouble, what was being done, and the cause.

use std::error::Error as StdError;
use std::fmt;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input can never work: a key that is too long, a payload that is not UTF-8, a message that does
    /// not decode. Trying again does not help.
    Invalid,
    /// A row that had to exist does not: an update or delete of a missing entity.
    NotFound,
    /// The database refused the statement for a reason of its own (a constraint, missing table, no grant).
    Database,
    /// The database or the broker cannot be reached, or is busy in a way that passes: try again later,
    /// the message is not to blame.
    Outage,
    /// The broker is there but does not fit: missing exchange, queue with other arguments, no permission.
    Broker,
    /// An error of the application's own, returned from a closure or a handler.
    Application,
}

/// What went wrong, where, and why.
///
/// The text names what was being done and on which table, key or id; it never holds payload values.
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause below it.
    ///
    /// ```
    /// use outbox_core::{Error, ErrorKind};
    ///
    /// let error = Error::new(ErrorKind::Invalid, "the list is empty").context("importing products");
    /// assert_eq!(error.to_string(), "importing products: the list is empty");
    /// ```
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error with its cause.
    ///
    /// ```
    /// use outbox_core::{Error, ErrorKind};
    ///
    /// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    /// assert!(Error::with_source(ErrorKind::Outage, "asking the price list", refused).is_outage());
    /// ```
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// Wraps an error of the application, so that it can leave a closure that returns [`Result`].
    ///
    /// ```
    /// let error = outbox_core::Error::application("out of stock");
    /// assert_eq!(error.kind(), outbox_core::ErrorKind::Application);
    /// ```
    pub fn application(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind: ErrorKind::Application, context: String::new(), source: Some(source.into()) }
    }

    pub(crate) fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether waiting and trying again can help: the database or the broker is at fault, not the message.
    pub fn is_outage(&self) -> bool {
        self.kind == ErrorKind::Outage
    }

    /// The cause that the application put in with [`Error::application`], or a database's error below.
    ///
    /// ```
    /// #[derive(Debug, PartialEq)]
    /// struct SoldOut { sku: String }
    /// # impl std::fmt::Display for SoldOut {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("sold out") }
    /// # }
    /// impl std::error::Error for SoldOut {}
    ///
    /// let error = outbox_core::Error::application(SoldOut { sku: "A1".into() });
    /// assert_eq!(error.downcast_ref(), Some(&SoldOut { sku: "A1".into() }));
    /// ```
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.source.as_ref()?.downcast_ref()
    }

    /// The same error, with what was being done put before its text.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.context = if self.context.is_empty() {
            context.to_string()
        } else {
            format!("{context}: {}", self.context)
        };
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.context.is_empty()) {
            (Some(source), true) => write!(f, "{source}"),
            (Some(source), false) => write!(f, "{}: {source}", self.context),
            (None, _) => write!(f, "{}", self.context),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The source's text is part of Display already; the chain goes on below it.
        self.source.as_ref().and_then(|source| source.source())
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        let kind = database_kind(&error);
        Self { kind, context: String::new(), source: Some(Box::new(error)) }
    }
}

impl From<diesel::r2d2::PoolError> for Error {
    fn from(error: diesel::r2d2::PoolError) -> Self {
        Self::with_source(ErrorKind::Outage, "no database connection from the pool", error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::with_source(ErrorKind::Invalid, "JSON", error)
    }
}

/// Texts by which the drivers name trouble that passes; Diesel keeps no error numbers.
/// MySQL and MariaDB: 1205, 1213, 2006, 2013, 1040, 1053, 1290, 1836; PostgreSQL: 40P01, 57P01, 53300, 25006;
/// SQLite: SQLITE_BUSY, SQLITE_LOCKED.
const PASSING: [&str; 20] = [
    "deadlock",
    "lock wait timeout",
    "server has gone away",
    "lost connection",
    "too many connections",
    "server shutdown in progress",
    "read-only",
    "read only",
    "terminating connection",
    "connection closed",
    "closed the connection",
    "connection refused",
    "connection reset",
    "broken pipe",
    "too many clients",
    "the database system is",
    "database is locked",
    "database table is locked",
    "can't connect",
    "could not connect",
];

/// The kind of a database error: an outage when trying the same statement again can succeed.
pub(crate) fn database_kind(error: &diesel::result::Error) -> ErrorKind {
    use diesel::result::{DatabaseErrorKind as Db, Error as Diesel};
    match error {
        Diesel::NotFound => ErrorKind::NotFound,
        Diesel::DatabaseError(
            Db::SerializationFailure | Db::ReadOnlyTransaction | Db::ClosedConnection,
            _,
        )
        | Diesel::DatabaseError(Db::UnableToSendCommand, _)
        | Diesel::BrokenTransactionManager => ErrorKind::Outage,
        Diesel::DatabaseError(_, information) => {
            let text = information.message().to_ascii_lowercase();
            if PASSING.iter().any(|passing| text.contains(passing)) {
                ErrorKind::Outage
            } else {
                ErrorKind::Database
            }
        }
        Diesel::RollbackErrorOnCommit { rollback_error, .. } => database_kind(rollback_error),
        _ => ErrorKind::Database,
    }
}

#[cfg(test)]
mod tests {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};

    use super::*;

    #[test]
    fn deadlock_is_an_outage_and_a_constraint_is_not() {
        let error = |text: &str| -> Error {
            Diesel::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned())).into()
        };
        assert!(error("Deadlock found when trying to get lock").is_outage());
        assert!(error("database is locked").is_outage());
        assert_eq!(error("Unknown column 'x'").kind(), ErrorKind::Database);
    }

    #[test]
    fn context_stands_before_the_cause() {
        let error = Error::application("no stock").context("handler of order.placed");
        assert_eq!(error.to_string(), "handler of order.placed: no stock");
    }
}
