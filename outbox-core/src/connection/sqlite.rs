//! SQLite.

use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Integer, SmallInt, Text};
use diesel::sqlite::SqliteConnection;

use super::{
    BacklogSql, ConsumerSql, OutboxConnection, SourceRow, VersionRow, backlog_methods, consumer_methods,
    testing_methods,
};
use crate::error;
use crate::error::Result;
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

const BACKLOG: BacklogSql = BacklogSql {
    ends: "select (select min(id) from outbox) as first_id, (select max(id) from outbox) as last_id, \
        (select cast((julianday('now') - 2440587.5) * 86400000 as integer) - created_at / 1000 \
         from outbox order by id limit 1) as oldest_ms",
    oldest_movable: "select cast((julianday('now') - 2440587.5) * 86400000 as integer) - o.created_at / 1000 \
          as number \
        from (select id, aggregate_type, aggregate_id, created_at from outbox order by id limit 10000) o \
        left join outbox_key k on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id \
        where k.parked is null or not k.parked order by o.id limit 1",
    exceeds: "select id as number from outbox indexed by outbox_bucket limit 1 offset ?",
};

impl OutboxConnection for SqliteConnection {
    /// `BEGIN IMMEDIATE`: a transaction that starts as a reader cannot become a writer behind another one.
    fn write_transaction<T, E: From<diesel::result::Error>>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        use diesel::connection::{AnsiTransactionManager, Connection, TransactionManager};
        let depth = AnsiTransactionManager::transaction_manager_status_mut(self).transaction_depth()?;
        if depth.is_some() { self.transaction(body) } else { self.immediate_transaction(body) }
    }

    /// Nothing to take: who has inserted a row is the only writer until its COMMIT.
    fn lock_keys(&mut self, _: &[(&str, &str)]) -> error::Result<()> {
        Ok(())
    }

    backlog_methods!(BACKLOG);
    consumer_methods!(SQL);
    testing_methods!("created_at");
}
