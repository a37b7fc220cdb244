//! SQLite.

use diesel::result::QueryResult;
use diesel::sql_types::BigInt;
use diesel::sqlite::SqliteConnection;

use super::{OutboxConnection, append_methods, backlog, backlog_methods, testing_methods};
use crate::error;
use crate::message::Message;

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
    testing_methods!("created_at");
}
