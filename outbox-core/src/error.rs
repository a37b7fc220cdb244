//! The one error of this crate: what kind of trouble, what was being done, and the cause.

use std::error::Error as StdError;
use std::fmt;

/// What a caller can do about an [`Error`].
///
/// ```
/// use outbox_core::{Error, ErrorKind, Message};
///
/// fn http_status(error: &Error) -> u16 {
///     match error.kind() {
///         ErrorKind::Invalid => 400,
///         ErrorKind::NotFound => 404,
///         ErrorKind::Application => 422,
///         ErrorKind::Outage | ErrorKind::Backlog => 503,
///         ErrorKind::Database | ErrorKind::Broker => 500,
///         _ => 500, // of a later version
///     }
/// }
/// assert_eq!(http_status(&Message::new("product", "", "sold", b"{}".to_vec()).unwrap_err()), 400);
/// assert_eq!(http_status(&diesel::result::Error::NotFound.into()), 404);
/// assert_eq!(http_status(&Error::application("out of stock")), 422);
/// ```
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
/// The text names what was being done and on which table, key or id, and never holds a payload. What the database said
/// is part of it, and may hold a value of its own choice (`Duplicate entry 'a@b.c' for key …`).
///
/// ```
/// use diesel::result::{DatabaseErrorKind, Error as Diesel};
/// use outbox_core::Error;
///
/// let gone = Diesel::DatabaseError(DatabaseErrorKind::Unknown, Box::new("MySQL server has gone away".to_owned()));
/// let error = Error::from(gone).context("selling product 7");
/// assert_eq!(error.to_string(), "selling product 7: MySQL server has gone away");
/// assert!(error.is_outage(), "what to do about it is known");
/// assert!(matches!(error.downcast_ref(), Some(Diesel::DatabaseError(..))), "and what it was is kept");
/// ```
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result with this crate's [`Error`].
///
/// ```
/// use outbox_core::{Error, ErrorKind, Result};
///
/// fn product_id(key: &str) -> Result<i64> {
///     key.parse().map_err(|e| Error::with_source(ErrorKind::Invalid, format!("product key {key:?}"), e))
/// }
/// assert_eq!(product_id("7")?, 7);
/// assert_eq!(product_id("x").unwrap_err().to_string(), "product key \"x\": invalid digit found in string");
/// # Ok::<(), Error>(())
/// ```
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
    ///
    /// ```
    /// use diesel::result::{DatabaseErrorKind, Error as Diesel};
    /// use outbox_core::{Error, Result};
    ///
    /// fn up_to_thrice<T>(mut run: impl FnMut() -> Result<T>) -> Result<T> {
    ///     for _ in 1..3 {
    ///         match run() {
    ///             Err(error) if error.is_contention() => {}
    ///             done => return done,
    ///         }
    ///     }
    ///     run()
    /// }
    ///
    /// let refused = || Diesel::DatabaseError(DatabaseErrorKind::SerializationFailure, Box::new("retry".to_owned()));
    /// let mut answers = [Err(refused().into()), Ok(7)].into_iter();
    /// assert_eq!(up_to_thrice(|| answers.next().unwrap_or(Ok(8)))?, 7);
    /// assert!(!Error::application(refused()).is_contention(), "inside of the application's own error");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn is_contention(&self) -> bool {
        self.kind == ErrorKind::Outage && self.downcast_ref().is_some_and(is_contention)
    }

    /// Whether a right is missing in the database, which is no message's fault and somebody may give. By the English
    /// texts of MySQL, MariaDB and PostgreSQL.
    pub(crate) fn is_denied(&self) -> bool {
        use diesel::result::{DatabaseErrorKind::Unknown, Error as Diesel};
        let Some(Diesel::DatabaseError(Unknown, information)) = self.downcast_ref() else { return false };
        let text = information.message();
        // Before it stand the names of rights alone; in a value it would be quoted.
        let denied = text.split_once("command denied to user '");
        denied.is_some_and(|(rights, _)| !rights.contains(['\'', '"', '`']))
            || text.starts_with("permission denied for")
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

/// How the texts begin by which the drivers name trouble that passes, and what follows somewhere: Diesel keeps no error
/// numbers, and what stands later in a text may be a value.
/// MySQL and MariaDB: 2006, 2013, 1927, 4031, 1040, 1053, 2002, 2003, 1290, 1792, 1836, 1874, 1036, 1021, 20, 1114, 1030,
/// 3, 1, 1026; mysql_async: whatever is `Io`, and that its connection is closed; PostgreSQL: 57P01, 53300, 57P03, 25006,
/// 53100, and what libpq says; SQLite: SQLITE_FULL. Those of contention are below.
const PASSING: [(&str, &str); 35] = [
    ("mysql server has gone away", ""),
    ("server has gone away", ""),
    ("lost connection to ", ""),
    ("connection was killed", ""),
    ("the client was disconnected by the server", ""),
    ("input/output error: ", ""),
    ("driver error: `connection to the server is closed", ""),
    ("too many connections", ""),
    ("server shutdown in progress", ""),
    ("can't connect to ", ""),
    ("the mysql server is running with the --", "read-only"),
    ("the mariadb server is running with the --", "read-only"),
    ("cannot execute statement in a read only transaction", ""),
    ("running in read-only mode", ""),
    ("innodb is in read only mode", ""),
    ("table '", "' is read only"),
    ("disk full (", ""),
    ("disk is full writing '", ""),
    ("the table '", "' is full"),
    ("got error 28 ", "no space left on device"),
    ("error writing file '", "no space left on device"),
    ("can't create/write to file '", "no space left on device"),
    ("terminating connection ", ""),
    ("sorry, too many clients already", ""),
    ("remaining connection slots are reserved", ""),
    ("the database system is ", ""),
    ("cannot execute ", " in a read-only transaction"),
    ("could not extend file \"", ""),
    ("could not ", ": no space left on device"),
    ("could not connect to ", ""),
    ("connection to server at ", " failed: "),
    ("server closed the connection", ""),
    ("could not receive data from server", ""),
    ("could not send data to server", ""),
    ("database or disk is full", ""),
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

/// How the texts begin by which MySQL and MariaDB (1153), their C libraries (2020) and mysql_async refuse a statement
/// that is larger than `max_allowed_packet`.
const TOO_LARGE: [&str; 3] = [
    "got a packet bigger than 'max_allowed_packet'",
    "got packet bigger than 'max_allowed_packet'",
    "input/output error: input/output error: packet too large",
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
            let passes = |(beginning, later): &(&str, &str)| {
                text.strip_prefix(beginning).is_some_and(|rest| rest.contains(later))
            };
            if TOO_LARGE.iter().any(|beginning| text.starts_with(beginning)) {
                ErrorKind::Invalid
            } else if PASSING.iter().any(passes) {
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn outages_are_told_by_the_texts_of_the_servers_and_drivers() {
        for text in [
            // MySQL and MariaDB, with their C libraries.
            "Deadlock found when trying to get lock; try restarting transaction",
            "Lock wait timeout exceeded; try restarting transaction",
            "MySQL server has gone away",
            "Server has gone away",
            "Lost connection to MySQL server during query",
            "Lost connection to server during query",
            "Lost connection to server at 'handshake: reading initial communication packet', system error: 111",
            "Connection was killed",
            "The client was disconnected by the server because of inactivity. See wait_timeout and \
             interactive_timeout for configuring this behavior.",
            "Too many connections",
            "Server shutdown in progress",
            "Can't connect to local server through socket '/run/mysqld/mysqld.sock' (2)",
            "Can't connect to MySQL server on '127.0.0.1:3306' (111)",
            "The MySQL server is running with the --super-read-only option so it cannot execute this statement",
            "The MariaDB server is running with the --read-only option so it cannot execute this statement",
            "Cannot execute statement in a READ ONLY transaction",
            "Table 'inbox' is read only",
            "Disk full (/tmp/#sql-temptable-1); waiting for someone to free some space... (errno: 28 \"No space left on \
             device\")",
            "The table 'inbox' is full",
            "Got error 28 \"No space left on device\" from storage engine InnoDB",
            "Got error 28 - 'No space left on device' from storage engine",
            "Error writing file '/tmp/MLfd=12' (OS errno 28 - No space left on device)",
            "Error writing file './binlog' (errno: 28 \"No space left on device\")",
            // mysql_async.
            "Driver error: `Connection to the server is closed.'",
            "Input/output error: Input/output error: Driver error: `Connection to the server is closed.'",
            "Input/output error: Input/output error: Broken pipe (os error 32)",
            // PostgreSQL and libpq.
            "deadlock detected",
            "canceling statement due to lock timeout",
            "terminating connection due to administrator command",
            "sorry, too many clients already",
            "the database system is starting up",
            "cannot execute INSERT in a read-only transaction",
            "could not extend file \"base/5/1\": No space left on device",
            "could not write to file \"pg_wal/xlogtemp.1\": No space left on device",
            "connection to server at \"127.0.0.1\", port 5432 failed: Connection refused",
            "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
            "could not receive data from server: Connection reset by peer",
            // SQLite.
            "database is locked",
            "database or disk is full",
        ] {
            assert!(Error::from(unknown(text)).is_outage(), "{text}");
        }
    }

    /// What says what the servers and drivers say of an outage, and its parts.
    fn treacherous() -> impl Strategy<Value = String> {
        let parts = PASSING.iter().flat_map(|(beginning, later)| [*beginning, *later]).chain(CONTENTION);
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        proptest::collection::vec(proptest::sample::select(parts), 1..4).prop_map(|parts| parts.join(" "))
    }

    proptest! {
        #[test]
        fn a_value_in_a_text_is_no_outage(value in treacherous()) {
            for text in [
                // 1366, 1292, 1265, 1264, 1406, 1411, 3140; a SIGNAL; 1054.
                format!("Incorrect integer value: '{value}' for column `t`.`item`.`amount` at row 1"),
                format!("Incorrect integer value: '{value}' for column 'amount' at row 1"),
                format!("Incorrect string value: '{value}' for column 'name' at row 1"),
                format!("Truncated incorrect DOUBLE value: '{value}'"),
                format!("Incorrect datetime value: '{value}' for column 'at' at row 1"),
                format!("Incorrect datetime value: '{value}' for function str_to_date"),
                format!("Invalid JSON text: \"Invalid value.\" at position 0 in value for column '{value}'."),
                format!("the order of {value} is refused"),
                format!("Unknown column '{value}' in 'field list'"),
                // 22P02, 22007, 22003, 42P01.
                format!("invalid input syntax for type integer: \"{value}\""),
                format!("invalid input syntax for type timestamp: \"{value}\""),
                format!("value \"{value}\" is out of range for type integer"),
                format!("relation \"{value}\" does not exist"),
                // SQLite.
                format!("no such table: {value}"),
            ] {
                let error = Error::from(unknown(&text));
                prop_assert_eq!(error.kind(), ErrorKind::Database, "{}", text);
            }
        }
    }

    #[test]
    fn a_right_that_is_missing_is_told_from_a_value_that_says_so() {
        for text in [
            "INSERT, UPDATE command denied to user 'order'@'localhost' for table `order`.`inbox`",
            "execute command denied to user 'order'@'%' for routine 't.f'",
            "permission denied for table inbox",
        ] {
            assert!(Error::from(unknown(text)).is_denied(), "{text}");
        }
        let value =
            "Incorrect integer value: 'INSERT command denied to user 'x'' for column 'amount' at row 1";
        assert!(!Error::from(unknown(value)).is_denied());
    }

    #[test]
    fn a_statement_that_is_too_large_is_no_outage() {
        for text in [
            "Got a packet bigger than 'max_allowed_packet' bytes",
            "Got packet bigger than 'max_allowed_packet' bytes",
            "Input/output error: Input/output error: packet too large",
        ] {
            assert_eq!(Error::from(unknown(text)).kind(), ErrorKind::Invalid, "{text}");
        }
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
