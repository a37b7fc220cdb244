//! PostgreSQL.

use std::num::NonZeroU32;

use diesel::connection::{Connection as _, InstrumentationEvent, SimpleConnection as _};
use diesel::pg::PgConnection;
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Binary, Integer, SmallInt, Text};

use super::{
    ConsumerSql, OutboxConnection, SourceRow, VersionRow, append_methods, backlog, backlog_methods, columns,
    consumer_methods, is_open, lock, rendered,
    resync::{self, resync_methods},
    testing_methods,
};
use crate::error::Result;
use crate::inbox::HeldMessage;
use crate::message::{Message, MessageId, Version};
use crate::transaction::append_failed;

const SQL: ConsumerSql = ConsumerSql {
    record_applied: "insert into inbox (consumer, message_id) values ($1, $2) on conflict do nothing",
    hold_message: "insert into inbox_held \
        (consumer, message_id, bucket, kind, aggregate_id, state, attempts, error, routing_key, headers, payload) \
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
        on conflict (consumer, message_id) do update set state = excluded.state, \
        attempts = inbox_held.attempts + excluded.attempts, error = excluded.error",
    deleted_version: "select generation, id from copy_deleted where copy = $1 and aggregate_id = $2",
    remember_deleted: "insert into copy_deleted (copy, aggregate_id, bucket, generation, id) values ($1, $2, $3, $4, $5) \
        on conflict (copy, aggregate_id) do update set generation = excluded.generation, id = excluded.id",
    forget_deleted: "delete from copy_deleted where copy = $1 and aggregate_id = $2",
    claim_copy: "insert into copy_source (copy, source) values ($1, $2) on conflict do nothing",
    copy_source: "select source from copy_source where copy = $1",
};

/// So much is sent as text: more of it takes longer than the round trip that it saves.
const TOGETHER_ROWS_MAX: usize = 8;
const TOGETHER_BYTES_MAX: usize = 64 * 1024;

impl OutboxConnection for PgConnection {
    /// Advisory locks of the transaction, on 32 bits of a key's hash.
    fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        let query = diesel::sql_query(lock::POSTGRES)
            .bind::<Integer, _>(lock::CLASS)
            .bind::<Array<Integer>, _>(lock::advisory(keys));
        diesel::RunQueryDsl::execute(query, self)?;
        Ok(())
    }

    /// A few messages and COMMIT travel together, which saves a round trip.
    fn append_and_commit(&mut self, messages: &[Message]) -> Result<()> {
        let is_small = messages.len() <= TOGETHER_ROWS_MAX && rendered::bytes(messages) <= TOGETHER_BYTES_MAX;
        if messages.is_empty() || !is_small {
            self.append_messages(messages).map_err(|error| append_failed(messages.len(), error))?;
            return Ok(self.commit_write()?);
        }
        self.instrumentation().on_connection_event(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
        let sent = self.batch_execute(&(rendered::insert(messages, &rendered::POSTGRES) + "; COMMIT"));
        // Diesel reads from the connection's state whether the transaction has ended: then it was the COMMIT.
        match sent {
            Err(error) if is_open(self)? => Err(append_failed(messages.len(), error)),
            sent => Ok(sent?),
        }
    }

    backlog_methods!(backlog::POSTGRES);
    append_methods!(|connection, run| columns::insert_columns!(run).execute(connection));
    consumer_methods!(SQL);
    resync_methods!(resync::POSTGRES);
    testing_methods!("(extract(epoch from created_at) * 1000000)::bigint");
}
