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
    /// The outbox holds more than the [`Writer`](crate::Writer)'s limit: the relay is down or does not keep up.
    /// Nothing was written; try again later.
    Backlog,
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

    /// Whether the database gave the transaction up in favour of another one: a serialization failure, a
    /// deadlock, a lock wait that ran out, SQLite's busy or locked. It has rolled the work back, or will;
    /// the same transaction can succeed when it runs again from its start, as [`Writer`](crate::Writer) does.
    ///
    /// False for a lost connection: what a COMMIT has done before the loss is not known. False also for an
    /// error inside [`Error::application`]. Known by the servers' English texts, as Diesel keeps no error
    /// numbers: PostgreSQL's deadlocks and lock timeouts are missed under another `lc_messages`.
    pub fn is_contention(&self) -> bool {
        self.kind == ErrorKind::Outage && self.downcast_ref().is_some_and(is_contention)
    }

    /// Whether a right is missing in the database, which is no message's fault and somebody may give. By the English
    /// texts of MySQL, MariaDB and PostgreSQL.
    pub(crate) fn is_denied(&self) -> bool {
        use diesel::result::{DatabaseErrorKind::Unknown, Error as Diesel};
        let Some(Diesel::DatabaseError(Unknown, information)) = self.downcast_ref() else { return false };
        let text = information.message();
        text.contains("command denied to user") || text.starts_with("permission denied for")
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
/// MySQL and MariaDB: 1205, 1213, 2006, 2013, 1040, 1053, 1290, 1836, 1021, 1114, 3; PostgreSQL: 40P01, 57P01,
/// 53300, 25006, 53100; SQLite: SQLITE_BUSY, SQLITE_LOCKED, SQLITE_FULL; mysql_async: whatever is `Io`, and that its
/// connection is closed.
const PASSING: [&str; 26] = [
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
    "input/output error: ",
    "driver error: `connection to the server is closed",
    "too many clients",
    "the database system is",
    "database is locked",
    "database table is locked",
    "can't connect",
    "could not connect",
    "no space left on device",
    "disk full",
    "disk is full",
    "' is full",
];

/// The beginnings of the texts by which the drivers name contention.
/// MySQL and MariaDB: 1205, 1213, 1020 (a stale snapshot; it rolls back), 3572; PostgreSQL: 40P01, 55P03;
/// SQLite: SQLITE_BUSY, SQLITE_LOCKED.
const CONTENTION: [&str; 11] = [
    "deadlock found",
    "deadlock detected",
    "wsrep detected deadlock",
    "lock wait timeout exceeded",
    "record has changed since last read",
    "statement aborted because lock(s) could not be acquired",
    "canceling statement due to lock timeout",
    "could not obtain lock on",
    "database is locked",
    "database table is locked",
    "database schema is locked",
];

/// See [`Error::is_contention`].
fn is_contention(error: &diesel::result::Error) -> bool {
    use diesel::result::{DatabaseErrorKind as Db, Error as Diesel};
    match error {
        Diesel::DatabaseError(Db::SerializationFailure, _) => true,
        // Any other kind is no contention, and its text may hold values. A COMMIT's deadlock is Unknown too.
        Diesel::DatabaseError(Db::Unknown, information) => {
            let text = information.message().to_ascii_lowercase();
            CONTENTION.iter().any(|beginning| text.starts_with(beginning))
        }
        // What COMMIT said decides; that ROLLBACK failed too tells something about the connection only.
        Diesel::RollbackErrorOnCommit { commit_error, .. } => is_contention(commit_error),
        _ => false,
    }
}

/// The kind of a database error: an outage when trying the same statement again can succeed.
pub(crate) fn database_kind(error: &diesel::result::Error) -> ErrorKind {
    use diesel::result::{DatabaseErrorKind as Db, Error as Diesel};
    match error {
        Diesel::NotFound => ErrorKind::NotFound,
        _ if is_contention(error) => ErrorKind::Outage,
        Diesel::DatabaseError(
            Db::ReadOnlyTransaction | Db::ClosedConnection | Db::UnableToSendCommand,
            _,
        )
        | Diesel::BrokenTransactionManager => ErrorKind::Outage,
        // Constraints have kinds of their own, and texts with values in them.
        Diesel::DatabaseError(Db::Unknown, information) => {
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
        assert!(error("The table 'inbox' is full").is_outage());
        assert!(error("could not extend file \"base/5/1\": No space left on device").is_outage());
        assert!(error("database or disk is full").is_outage());
        let closed = "Driver error: `Connection to the server is closed.'";
        assert!(error(closed).is_outage());
        for cause in [
            closed,
            "Input/output error: Broken pipe (os error 32)",
            "Input/output error: unexpected end of file",
        ] {
            assert!(error(&format!("Input/output error: {cause}")).is_outage());
        }
        assert_eq!(error("Unknown column 'x'").kind(), ErrorKind::Database);
    }

    fn unknown(text: &str) -> Diesel {
        Diesel::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned()))
    }

    #[test]
    fn contention_is_what_rolls_back_and_a_lost_connection_is_not() {
        for text in [
            "Deadlock found when trying to get lock; try restarting transaction",
            "Lock wait timeout exceeded; try restarting transaction",
            "deadlock detected",
            "canceling statement due to lock timeout",
            "database is locked",
            "database table is locked: outbox",
        ] {
            let error = Error::from(unknown(text)).context("recording");
            assert!(error.is_contention() && error.is_outage(), "{text}");
        }
        for text in [
            "Lost connection to server during query",
            "Server has gone away",
            "canceling statement due to statement timeout",
            "Incorrect integer value: 'deadlock found'",
        ] {
            assert!(!Error::from(unknown(text)).is_contention(), "{text}");
        }
        let duplicate = "Duplicate entry 'deadlock' for key 'PRIMARY'".to_owned();
        let duplicate =
            Error::from(Diesel::DatabaseError(DatabaseErrorKind::UniqueViolation, Box::new(duplicate)));
        assert!(!duplicate.is_contention());
        assert_eq!(duplicate.kind(), ErrorKind::Database, "a value is no outage");
        assert!(!Error::application(unknown("database is locked")).is_contention());
    }

    #[test]
    fn what_commit_said_decides_whether_it_may_be_repeated() {
        let failed = |commit: &str, rollback: &str| {
            Error::from(Diesel::RollbackErrorOnCommit {
                commit_error: Box::new(unknown(commit)),
                rollback_error: Box::new(unknown(rollback)),
            })
        };
        assert!(failed("Deadlock found when", "Server has gone away").is_contention());
        assert!(!failed("Lost connection to server", "database is locked").is_contention());
    }

    #[test]
    fn context_stands_before_the_cause() {
        let error = Error::application("no stock").context("handler of order.placed");
        assert_eq!(error.to_string(), "handler of order.placed: no stock");
    }
}
