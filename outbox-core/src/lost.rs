//! Whether the server has rolled a whole transaction back while it was open: MySQL and MariaDB do so after a deadlock,
//! savepoints included, and what follows would be committed statement by statement.
//!
//! The note of it is Diesel's own. It stands with the connection until its transaction ends, so that transactions nested
//! through the connection share it. Diesel makes it after a deadlock that it recognizes, and where it cannot roll back
//! to a savepoint, which is then gone.

use diesel::connection::TransactionManagerStatus;
use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::error::{Error, ErrorKind, Result};

pub(crate) fn note(status: &mut TransactionManagerStatus) {
    status.set_requires_rollback_maybe_up_to_top_level(true);
}

/// Only where a deadlock ends all does this mean that the transaction is lost; on PostgreSQL, of the sync connections,
/// that it or the innermost savepoint can only be rolled back.
pub(crate) fn is_noted(status: &mut TransactionManagerStatus) -> bool {
    let Ok(state) = status.transaction_state() else { return false };
    state.in_transaction.as_ref().is_some_and(|open| open.requires_rollback_maybe_up_to_top_level)
}

/// What a lost transaction ends with.
pub(crate) fn error() -> Error {
    let cause = "a deadlock in it was not passed on";
    Error::with_source(
        ErrorKind::Outage,
        "the server has rolled the whole transaction back; let errors of the database leave the closure",
        DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, Box::new(cause.to_owned())),
    )
}

/// The outcome of a savepoint. In a lost transaction that is contention whatever else it says, unless the connection is
/// lost too: the savepoint is gone, and releasing it fails with an error that hides the deadlock.
pub(crate) fn tell<T>(is_lost: bool, outcome: Result<T>) -> Result<T> {
    match outcome {
        Err(error) if error.is_outage() => Err(error),
        _ if is_lost => Err(error()),
        outcome => outcome,
    }
}
