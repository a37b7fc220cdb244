//! Errors of connections to MySQL and MariaDB, as ours.

use std::fmt::Display;

use outbox_core::{Error, ErrorKind};

/// `Outage` where the connection is lost or was never had, `Database` where the server has answered.
pub(crate) fn kind(error: &mysql_async::Error) -> ErrorKind {
    if error.is_fatal() { ErrorKind::Outage } else { ErrorKind::Database }
}

/// What was being done, and why it failed.
pub(crate) fn failed(doing: impl Display, error: &mysql_async::Error) -> Error {
    Error::new(kind(error), format!("{doing}: {error}"))
}
