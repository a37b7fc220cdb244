//! Errors of connections to MySQL and MariaDB, as ours.

use std::fmt::Display;

use outbox_core::{Error, ErrorKind};

use crate::outbox::store::passes;

/// `Outage` where the connection is lost or was never had, or where the server's answer is another one a moment later;
/// `Database` for its other answers.
pub(crate) fn kind(error: &mysql_async::Error) -> ErrorKind {
    let is_passing = matches!(error, mysql_async::Error::Server(server) if passes(server.code));
    if is_passing || error.is_fatal() { ErrorKind::Outage } else { ErrorKind::Database }
}

/// What was being done, and why it failed.
pub(crate) fn failed(doing: impl Display, error: &mysql_async::Error) -> Error {
    Error::new(kind(error), format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use mysql_async::ServerError;

    use super::*;

    #[test]
    fn what_passes_is_an_outage() {
        let server = |code| {
            let (message, state) = ("said by the server".to_owned(), "HY000".to_owned());
            mysql_async::Error::Server(ServerError { code, message, state })
        };
        for code in [1040, 1203, 1226, 1053, 1317, 1969, 3024] {
            assert_eq!(kind(&server(code)), ErrorKind::Outage, "{code}");
        }
        for code in [1045, 1146, 1142, 1064] {
            assert_eq!(kind(&server(code)), ErrorKind::Database, "{code}");
        }
    }
}
