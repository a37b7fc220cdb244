//! SQLite.

use diesel::connection::Connection as _;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Integer, SmallInt, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};

use super::{
    ConsumerSql, OutboxConnection, SourceRow, VersionRow, append_methods, backlog, backlog_methods,
    consumer_methods, testing_methods,
};
use crate::error;
use crate::inbox::HeldMessage;
use crate::message::{Message, MessageId, Version};
use crate::schema::{NewOutboxRow, outbox};

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
    append_methods!(|connection, run| insert_run(connection, run));
    consumer_methods!(SQL);
    testing_methods!("created_at");
}

/// Rows of the statement that stays prepared: one of hundreds takes as long to parse as to run.
const KEPT_ROWS: usize = 50;

fn insert_run(connection: &mut SqliteConnection, run: &[Message]) -> QueryResult<()> {
    for part in run.chunks(KEPT_ROWS) {
        let rows: Vec<_> = part.iter().map(NewOutboxRow::of).collect();
        if rows.len() == KEPT_ROWS {
            connection.execute_returning_count(&KeptRows(rows))?;
        } else {
            diesel::RunQueryDsl::execute(diesel::insert_into(outbox::table).values(rows), connection)?;
        }
    }
    Ok(())
}

/// The INSERT of [`KEPT_ROWS`] rows.
struct KeptRows<'a>(Vec<NewOutboxRow<'a>>);

impl QueryId for KeptRows<'_> {
    type QueryId = KeptRows<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Sqlite> for KeptRows<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql(
            "insert into outbox \
             (message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload) values (",
        );
        for (place, row) in self.0.iter().enumerate() {
            out.push_sql(if place == 0 { "" } else { "), (" });
            out.push_bind_param::<Binary, _>(row.message_id)?;
            out.push_sql(", ");
            out.push_bind_param::<SmallInt, _>(&row.bucket)?;
            for text in [row.aggregate_type, row.aggregate_id, row.event_type] {
                out.push_sql(", ");
                out.push_bind_param::<Text, _>(text)?;
            }
            for bytes in [&row.headers, row.payload] {
                out.push_sql(", ");
                out.push_bind_param::<Binary, _>(bytes)?;
            }
        }
        out.push_sql(")");
        Ok(())
    }
}
