//! SQLite.

use diesel::connection::Connection as _;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, SmallInt, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};

use super::{OutboxConnection, append_methods, backlog, backlog_methods, testing_methods};
use crate::error;
use crate::message::Message;
use crate::schema::{NewOutboxRow, outbox};

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
    testing_methods!(backlog::SQLITE);
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
