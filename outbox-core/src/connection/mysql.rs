//! MySQL and MariaDB.

use std::num::NonZeroU32;

use diesel::connection::{
    AnsiTransactionManager, Connection as _, InstrumentationEvent, SimpleConnection as _,
    TransactionDepthChange, TransactionManager as _, TransactionManagerStatus,
};
use diesel::mysql::{Mysql, MysqlConnection};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::BigInt;

use super::lock::Slots;
use super::{
    NumberRow, OutboxConnection, append_methods, backlog, backlog_methods, packet, rendered, testing_methods,
};
use crate::error::{ErrorKind, Result, database_kind};
use crate::message::{Message, MessageId};

/// Indexes are forced: a plan made for an empty table reads or sorts all of a full one. The rows are counted
/// off on the narrow index.
impl OutboxConnection for MysqlConnection {
    const DEADLOCK_ENDS_ALL: bool = true;

    fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        let slots = Slots::of(keys);
        let locked = diesel::RunQueryDsl::load::<NumberRow>(diesel::sql_query(slots.sql()), self);
        slots.check(locked.map(|rows| rows.len()))
    }

    fn begin_write(&mut self) -> QueryResult<()> {
        self.instrumentation().on_connection_event(InstrumentationEvent::begin_transaction(NonZeroU32::MIN));
        self.execute_returning_count(&Autocommit::<false>)?;
        deepen(self, TransactionDepthChange::IncreaseDepth)
    }

    fn commit_write(&mut self) -> QueryResult<()> {
        self.instrumentation().on_connection_event(InstrumentationEvent::commit_transaction(NonZeroU32::MIN));
        match self.execute_returning_count(&Autocommit::<true>) {
            Ok(_) => deepen(self, TransactionDepthChange::DecreaseDepth),
            Err(error) => match self.rollback_write() {
                Ok(()) => Err(error),
                Err(rollback) => {
                    AnsiTransactionManager::transaction_manager_status_mut(self).set_in_error();
                    Err(diesel::result::Error::RollbackErrorOnCommit {
                        rollback_error: Box::new(rollback),
                        commit_error: Box::new(error),
                    })
                }
            },
        }
    }

    fn rollback_write(&mut self) -> QueryResult<()> {
        AnsiTransactionManager::rollback_transaction(self)?;
        // Nothing is open that it could commit.
        let restored = self.execute_returning_count(&Autocommit::<true>);
        restored.map(drop).inspect_err(|_| {
            AnsiTransactionManager::transaction_manager_status_mut(self).set_in_error();
        })
    }

    backlog_methods!(backlog::MYSQL);
    append_methods!(
        |connection, run| connection.batch_execute(&rendered::insert(run, &rendered::MYSQL)),
        alone: check_packet
    );
    testing_methods!(backlog::MYSQL);
}

fn check_packet(connection: &mut MysqlConnection, message: &Message) -> QueryResult<()> {
    if !packet::is_large(message) {
        return Ok(());
    }
    let NumberRow { number } = diesel::RunQueryDsl::get_result(diesel::sql_query(packet::LIMIT), connection)?;
    packet::check(message, number)
}

/// Records that a consumer has applied these messages; false, with nothing done, when that did not work: then it is
/// for a prepared statement, which can tell how many of them were there and what else is wrong.
///
/// # Errors
/// An outage.
pub(super) fn record_all_new(
    connection: &mut MysqlConnection,
    consumer: &str,
    ids: &[MessageId],
) -> QueryResult<bool> {
    match connection.batch_execute(&rendered::insert_applied(consumer, ids, &rendered::MYSQL)) {
        Err(error) if database_kind(&error) != ErrorKind::Outage => Ok(false),
        result => result.map(|()| true),
    }
}

/// Opens a transaction with the next statement (off), or commits the open one (on).
///
/// Diesel sends BEGIN and COMMIT as a batch, which is three round trips on MySQL and MariaDB: several statements
/// are allowed, sent, and forbidden again. A prepared statement is one, and this one can be prepared on all
/// versions; BEGIN cannot on MySQL. After a deadlock, what follows is in a new transaction instead of committed
/// statement by statement.
#[derive(Debug)]
struct Autocommit<const ON: bool>;

impl<const ON: bool> QueryId for Autocommit<ON> {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const ON: bool> QueryFragment<Mysql> for Autocommit<ON> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        out.push_sql(if ON { "SET autocommit = 1" } else { "SET autocommit = 0" });
        Ok(())
    }
}

fn deepen(connection: &mut MysqlConnection, change: TransactionDepthChange) -> QueryResult<()> {
    match AnsiTransactionManager::transaction_manager_status_mut(connection) {
        TransactionManagerStatus::Valid(status) => status.change_transaction_depth(change),
        TransactionManagerStatus::InError => Err(diesel::result::Error::BrokenTransactionManager),
    }
}
