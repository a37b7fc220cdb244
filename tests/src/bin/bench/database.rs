//! Filling an outbox, and the bare optimum of emptying it.

use std::time::Instant;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Message, OutboxConnection as _, migrate};

use crate::{Failure, Size};

/// The rows of one bare SELECT and DELETE: the batch of the relay.
const BATCH: usize = 1000;
/// Keys as many as rows divided by this: an entity is written a few times.
const ROWS_PER_KEY: usize = 4;
/// Payloads of one filling transaction, at most.
const TRANSACTION_BYTES: usize = 8 * 1024 * 1024;

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    id: i64,
    #[diesel(sql_type = diesel::sql_types::Binary)]
    payload: Vec<u8>,
}

/// The operations that need a connection's own type; the same text for each.
macro_rules! connection {
    ($module:ident, $connection:ty, $message_id:literal) => {
        pub(crate) mod $module {
            use super::*;

            /// A database of that name with outbox tables.
            pub(crate) fn create(server: &str, name: &str) -> Result<String, Failure> {
                let mut admin = <$connection>::establish(server)?;
                admin.batch_execute(&format!("drop database if exists {name}"))?;
                admin.batch_execute(&format!("create database {name}"))?;
                let mut url = url::Url::parse(server)?;
                url.set_path(name);
                migrate::run(&mut <$connection>::establish(url.as_str())?, &migrate::OUTBOX)?;
                Ok(url.to_string())
            }

            /// Fills the outbox as a service does: through transactions that record messages.
            pub(crate) fn fill(url: &str, size: Size) -> Result<(), Failure> {
                let mut connection = <$connection>::establish(url)?;
                let payload = format!("\"{}\"", "x".repeat(size.payload_bytes - 2)).into_bytes();
                let keys = (size.rows / ROWS_PER_KEY).max(1);
                let rows = (TRANSACTION_BYTES / size.payload_bytes).clamp(1, 5000);
                for first in (0..size.rows).step_by(rows) {
                    connection.outbox_transaction(|tx| {
                        for number in first..(first + rows).min(size.rows) {
                            let key = (number % keys).to_string();
                            tx.record_message(Message::new("bench", key, "updated", payload.clone())?);
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            }

            /// Puts so many copies of all rows behind them.
            pub(crate) fn multiply(url: &str, copies: usize) -> Result<(), Failure> {
                let mut connection = <$connection>::establish(url)?;
                let top = diesel::dsl::sql::<diesel::sql_types::BigInt>("select max(id) from outbox");
                let top: i64 = top.get_result(&mut connection)?;
                let columns = "bucket, aggregate_type, aggregate_id, event_type, headers, payload";
                for _ in 0..copies {
                    connection.batch_execute(&format!(
                        "insert into outbox (message_id, {columns})
                         select {}, {columns} from outbox where id <= {top} order by id",
                        $message_id
                    ))?;
                }
                Ok(())
            }

            /// Rows a second of SELECT and DELETE by id alone, nothing published.
            pub(crate) fn bare_rate(url: &str, size: Size) -> Result<f64, Failure> {
                let mut connection = <$connection>::establish(url)?;
                let started = Instant::now();
                let mut gone = 0;
                loop {
                    let rows: Vec<Row> = diesel::sql_query(format!(
                        "select id, payload from outbox order by id limit {BATCH}"
                    ))
                    .load(&mut connection)?;
                    if rows.is_empty() {
                        break;
                    }
                    gone += rows.iter().filter(|row| row.payload.len() == size.payload_bytes).count();
                    let ids: Vec<_> = rows.iter().map(|row| row.id.to_string()).collect();
                    connection
                        .batch_execute(&format!("delete from outbox where id in ({})", ids.join(",")))?;
                }
                if gone != size.rows {
                    return Err(format!("the outbox held {gone} rows, not {}", size.rows).into());
                }
                Ok(gone as f64 / started.elapsed().as_secs_f64())
            }

            /// How many rows are left.
            pub(crate) fn left(url: &str) -> Result<i64, Failure> {
                let mut connection = <$connection>::establish(url)?;
                let count = diesel::dsl::sql::<diesel::sql_types::BigInt>("select count(*) from outbox");
                Ok(count.get_result(&mut connection)?)
            }

            /// Drops the database.
            pub(crate) fn drop(server: &str, name: &str) -> Result<(), Failure> {
                Ok(<$connection>::establish(server)?.batch_execute(&format!("drop database {name}"))?)
            }
        }
    };
}

connection!(mysql, diesel::MysqlConnection, "unhex(replace(uuid(), '-', ''))");
connection!(postgres, diesel::PgConnection, "decode(replace(gen_random_uuid()::text, '-', ''), 'hex')");

/// Makes commits ring, for a relay in tail mode.
pub(crate) fn ring(url: &str) -> Result<(), Failure> {
    Ok(diesel::PgConnection::establish(url)?.batch_execute(migrate::POSTGRES_BELL)?)
}
