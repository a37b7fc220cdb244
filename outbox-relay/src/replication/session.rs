//! Connections to a target, and what its errors mean. Texts of the server that may quote values do not leave here.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Opts, OptsBuilder};
use outbox_core::{Error, ErrorKind, Result};

use super::target::TargetOptions;
use crate::binlog::{Link, kind};
use crate::outbox::store::{passes, staying};

/// Strict, and yet with all values that a source may hold: zero dates and days that do not exist.
pub(super) const STRICT: &str = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES";
/// For the invalid value of an ENUM, which a strict mode takes from nobody.
pub(super) const LAX: &str = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES";

/// What can be done about a target's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It passes: a deadlock, a lock, a server that goes down.
    Passes,
    /// The table is not as it has to be.
    Table,
    /// This row, or one of these rows.
    Row,
}

pub(super) async fn connect(options: &TargetOptions) -> Result<Link> {
    let about = |error: &mysql_async::Error| {
        let text = options.url.scrub(&error.to_string());
        Error::new(kind(error), format!("{}: connecting: {text}", options.url))
    };
    let opts = Opts::from_url(&staying(options.url.expose())).map_err(|_| {
        Error::new(ErrorKind::Invalid, "target: expected mysql://user:password@host:port/database")
    })?;
    if opts.db_name().is_none_or(str::is_empty) {
        return Err(Error::new(ErrorKind::Invalid, format!("{}: the URL names no database", options.url)));
    }
    let mut connection = Link::open(
        &options.url,
        OptsBuilder::from_opts(opts).stmt_cache_size(0),
        #[cfg(feature = "tls")]
        options.tls.clone(),
    )
    .await?;
    let foreign = u8::from(options.foreign_key_checks);
    let setup = format!(
        "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '{STRICT}', foreign_key_checks = {foreign}, \
         unique_checks = 1, innodb_lock_wait_timeout = 3; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    );
    connection.query_drop(setup).await.map_err(|error| about(&error))?;
    Ok(connection)
}

/// What was being done, and why it failed.
pub(super) fn failed(what: &str, error: &mysql_async::Error) -> Error {
    let kind = match refusal(error) {
        Refusal::Passes => ErrorKind::Outage,
        _ => ErrorKind::Database,
    };
    Error::new(kind, format!("{what}: {}", said(error)))
}

pub(super) fn refusal(error: &mysql_async::Error) -> Refusal {
    let mysql_async::Error::Server(error) = error else { return Refusal::Passes };
    match error.code {
        code if passes(code) => Refusal::Passes,
        // Unknown table, column, database; no grant; not updatable; generated; collations; a trigger that is broken.
        1044 | 1045 | 1046 | 1049 | 1051 | 1054 | 1064 | 1136 | 1142 | 1143 | 1146 | 1227 | 1267 | 1305
        | 1347 | 1348 | 1356 | 1364 | 1370 | 1471 | 1906 | 3105 => Refusal::Table,
        _ => Refusal::Row,
    }
}

/// An error in words that quote no value.
pub(super) fn said(error: &mysql_async::Error) -> String {
    let mysql_async::Error::Server(server) = error else { return error.to_string() };
    if refusal(error) != Refusal::Row {
        return format!("{} (error {})", server.message, server.code);
    }
    let what = match server.code {
        1062 | 1586 => "another row has the value of a unique key",
        1048 => "NULL for a column that is NOT NULL",
        1264 | 1690 => "a number is out of the column's range",
        1265 => "a value does not fit into its column",
        1292 | 1366 | 1411 => "a value is not valid for its column, or not in its character set",
        1300 | 3854 | 1977 => "a text is not in the column's character set",
        1406 => "a value is longer than its column",
        1451 | 1452 => "a foreign key of the target is against it",
        3140 | 3141 | 4025 | 3819 => "a check of the target is against it",
        1644 => "a trigger of the target is against it",
        _ => "the target refuses it",
    };
    // The name of a column, not a value: what stands behind this word.
    let column = server.message.split("olumn '").nth(1).and_then(|rest| rest.split('\'').next());
    match column {
        Some(column) => format!("{what}: column `{column}` (error {})", server.code),
        None => format!("{what} (error {})", server.code),
    }
}
