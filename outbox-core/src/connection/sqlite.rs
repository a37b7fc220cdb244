//! SQLite.

use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Integer, SmallInt, Text};
use diesel::sqlite::SqliteConnection;

use super::{
    ConsumerSql, OutboxConnection, SourceRow, VersionRow, append_methods, backlog, backlog_methods,
    consumer_methods,
    resync::{self, resync_methods},
    testing_methods,
};
use crate::error;
use crate::inbox::HeldMessage;
use crate::message::{Message, MessageId, Version};

const SQL: ConsumerSql = ConsumerSql {
    record_applied: "insert into inbox (consumer, message_id) values (?, ?) on conflict do nothing",
    hold_message: "insert into inbox_held \
        (consumer, message_id, bucket, kind, aggregate_id, state, attempts, error, routing_key, headers, payload) \
        values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
        on conflict (consumer, message_id) do update set state = excluded.state, \
        attempts = inbox_held.attempts + excluded.attempts, error = excluded.error",
    deleted_version: "select generation, id from copy_deleted where copy = ? and aggregate_id = ?",
    remember_deleted: "insert into copy_deleted (copy, aggregate_id, bucket, generation, id) values (?, ?, ?, ?, ?) \
        on conflict (copy, aggregate_id) do update set generation = excluded.generation, id = excluded.id",
    forget_deleted: "delete from copy_deleted where copy = ? and aggregate_id = ?",
    claim_copy: "insert into copy_source (copy, source) values (?, ?) on conflict do nothing",
    copy_source: "select source from copy_source where copy = ?",
};

impl OutboxConnection for SqliteConnection {
    /// `BEGIN IMMEDIATE`: a transaction that starts as a reader cannot become a writer behind another one.
    fn begin_write(&mut self) -> QueryResult<()> {
        diesel::connection::AnsiTransactionManager::begin_transaction_sql(self, "BEGIN IMMEDIATE")
    }

    /// Nothing to take: who has inserted a row is the only writer until its COMMIT.
    fn lock_keys(&mut self, _: &[(&str, &str)]) -> error::Result<()> {
        Ok(())
    }

    backlog_methods!(backlog::SQLITE);
    append_methods!();
    consumer_methods!(SQL);
    resync_methods!(resync::SQLITE);
    testing_methods!("created_at");
}
