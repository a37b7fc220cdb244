//! What a copy does with the marks of a resync: between begin and end it notes what comes late, and after the end
//! it deletes, in pieces, what the resync did not send.
//!
//! Stale is a row of the bucket whose version is below that of the begin mark and was not applied after it. Its
//! own version is enough to find it again: no message has two rows. Nothing is remembered of its key: whatever is
//! older than such a row was applied, or stands in `inbox_held`, before the end mark.

use super::sql;
use super::{ReplicaOn, ReplicaSql};
use crate::connection::OutboxConnection;
use crate::connection::marks::Begun;
use crate::error::Result;
use crate::message::Recorded;
use crate::resync::mark::{At, Notice};

/// How many rows one transaction deletes.
const PIECE: usize = 2000;

/// Follows a notice, inside the caller's transaction.
pub(crate) fn follow<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    recorded: &Recorded,
    notice: &Notice,
) -> Result<()> {
    let (bucket, version) = (recorded.message.bucket(), recorded.version);
    let marks = connection.begun_marks(R::COPY)?;
    let begun = marks.into_iter().find(|begun| begun.bucket == bucket);
    // Of another resync than the one that has begun: its begin was not seen here, so its end says nothing.
    let of_same = |resync: i64| begun.filter(|begun| begun.resync == resync && !begun.ended);
    match notice {
        Notice::Mark(mark) if mark.at == At::Begin => {
            if begun.is_none_or(|begun| begun.version < version) {
                let begun = Begun { bucket, version, resync: mark.resync, ended: false };
                connection.begin_mark(R::COPY, &begun)?;
            }
        }
        Notice::Mark(mark) => match of_same(mark.resync) {
            Some(begun) if mark.all => connection.end_mark(R::COPY, &begun)?,
            Some(begun) => connection.forget_mark(R::COPY, &begun)?,
            None => {}
        },
        Notice::Gone { resync, key } => {
            if let Some(begun) = of_same(*resync)
                && !connection.is_late(R::COPY, bucket, recorded.message.key())?
            {
                let values = || <R as ReplicaSql<C::Backend>>::key_of(key);
                sql::delete_key::<R, C>(connection, [values()?, values()?], begun.version)?;
            }
        }
    }
    Ok(())
}

/// Notes which of the rows that were just written are older than the begin mark of their bucket.
pub(super) fn note_late<'m, R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    written: impl Iterator<Item = &'m Recorded>,
) -> Result<()> {
    let marks = connection.begun_marks(R::COPY)?;
    if marks.is_empty() {
        return Ok(());
    }
    for Recorded { message, version, .. } in written {
        // Of another generation it is not late but lost.
        let is_late = |mark: &&Begun| {
            mark.bucket == message.bucket()
                && mark.version.generation == version.generation
                && version.id < mark.version.id
        };
        if marks.iter().any(|mark| is_late(&mark)) {
            connection.note_late(R::COPY, message.bucket(), message.key(), *version)?;
        }
    }
    Ok(())
}

/// Deletes a piece of what is stale where the end mark has come; whether there may be more.
///
/// While messages are held that came after the begin mark of a bucket, its rows stay: what was set aside may be the
/// state of a row that is still there.
pub(crate) fn sweep<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    consumer: &str,
) -> Result<bool> {
    let mut ready = Vec::new();
    for mark in connection.begun_marks(R::COPY)?.into_iter().filter(|mark| mark.ended) {
        if !connection.is_held_since(consumer, R::AGGREGATE, R::COPY, mark.bucket)? {
            ready.push(mark);
        }
    }
    if ready.is_empty() {
        return Ok(false);
    }
    let deleted = connection.write_transaction(|connection| {
        let stale = sql::stale::<R, C>(connection, &ready, PIECE)?;
        if !stale.is_empty() {
            sql::delete_versions::<R, C>(connection, &stale)?;
        }
        if stale.len() < PIECE {
            for mark in &ready {
                connection.forget_mark(R::COPY, mark)?;
            }
        }
        Ok(stale.len())
    })?;
    if deleted > 0 {
        tracing::info!(
            copy = R::COPY,
            deleted,
            "rows that are gone at the source were deleted after a resync"
        );
    }
    Ok(deleted >= PIECE)
}
