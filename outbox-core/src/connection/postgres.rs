//! PostgreSQL.

use std::num::NonZeroU32;

use diesel::connection::{
    AnsiTransactionManager, Connection as _, InstrumentationEvent, SimpleConnection as _,
    TransactionManager as _,
};
use diesel::pg::PgConnection;
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Integer};

use super::{
    OutboxConnection, append_methods, backlog, backlog_methods, columns, is_open, lock, rendered, spoiled,
    testing_methods,
};
use crate::error::Result;
use crate::lost;
use crate::message::Message;
use crate::transaction::{Appended, append_failed};

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
            self.append_messages(messages).map_err(|error| append_failed(Appended::of(messages), error))?;
            return Ok(self.commit_write()?);
        }
        self.instrumentation().on_connection_event(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
        let sent = self.batch_execute(&(rendered::insert(messages, &rendered::POSTGRES) + "; COMMIT"));
        // Diesel reads from the connection's state whether the transaction has ended: then it was the COMMIT.
        match sent {
            Err(error) if is_open(self)? => Err(append_failed(Appended::of(messages), error)),
            sent => Ok(sent?),
        }
    }

    /// Of a failed statement that nobody has noted, what goes with it fails too.
    fn commit_write(&mut self) -> QueryResult<()> {
        self.instrumentation().on_connection_event(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
        self.batch_execute("SELECT 1; COMMIT")
    }

    /// Diesel notes what libpq tells of the transaction after most statements.
    fn check_commits(&mut self) -> Result<()> {
        if lost::is_noted(AnsiTransactionManager::transaction_manager_status_mut(self)) {
            return Err(spoiled());
        }
        Ok(())
    }

    backlog_methods!(backlog::POSTGRES);
    append_methods!(|connection, run| columns::insert_columns!(run).execute(connection));
    testing_methods!(backlog::POSTGRES);
}
