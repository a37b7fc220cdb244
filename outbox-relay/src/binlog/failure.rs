//! Errors of connections to MySQL and MariaDB, as ours.

use std::fmt::Display;

use outbox_core::{Error, ErrorKind};

/// `Outage` where the connection is lost or was never had, or where the server's answer is another one a moment later;
/// `Database` for its other answers.
pub(crate) fn kind(error: &mysql_async::Error) -> ErrorKind {
    let is_passing = matches!(error, mysql_async::Error::Server(server) if passes(server.code));
    if is_passing || error.is_fatal() { ErrorKind::Outage } else { ErrorKind::Database }
}

/// Whether a server's error is one that passes: a deadlock, a lock, too many connections, a server that goes down.
pub(crate) fn passes(code: u16) -> bool {
    // Deadlock, lock wait, too many locks; too many connections, shutdown, killed; disk and table full; read-only;
    // interrupted.
    matches!(
        code,
        1213 | 1205
            | 1206
            | 3572
            | 1040
            | 1053
            | 1129
            | 1203
            | 1226
            | 1927
            | 3169
            | 4031
            | 1021
            | 1030
            | 1037
            | 1041
            | 1114
            | 1290
            | 1792
            | 1836
            | 1317
            | 1969
            | 3024
            | 1158..=1161 | 1180 | 1192 | 1223
    )
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
