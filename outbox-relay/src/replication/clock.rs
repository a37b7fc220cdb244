//! The source's clock and ours: how late a copy is must not depend on how they differ.

use std::time::Instant;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Error, ErrorKind, Result};

use crate::binlog::Server;

/// The source's clock less ours, in microseconds.
pub(super) async fn clock(server: &mut Server) -> Result<i64> {
    let sql = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)";
    let asked = Instant::now();
    let there: Option<i64> =
        server.connection().query_first(sql).await.map_err(|error| {
            Error::new(ErrorKind::Outage, format!("asking the source for its time: {error}"))
        })?;
    let way_us = i64::try_from(asked.elapsed().as_micros() / 2).unwrap_or(0);
    Ok(there.unwrap_or_default() + way_us - now_us())
}

/// Our clock, in microseconds since 1970.
pub(super) fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}
