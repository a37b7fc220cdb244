//! Copies: tables that follow the entities of another service, row by row, whatever arrives twice or late.

mod mark;

pub use mark::{DeleteMark, Mark, Marks, mark, marks};

use crate::connection::OutboxConnection;
use crate::entity::{EntityChange, EventNames, Image};
use crate::error::{Error, Result};
use crate::message::{Recorded, Version};

/// A row of a copy; derive it with `#[derive(Replica)]`.
///
/// Beside the replicated columns the table has `outbox_generation` and `outbox_id` (the version of the
/// row's last change, both `BIGINT NOT NULL`) and `outbox_bucket` (`SMALLINT NOT NULL`). Columns that the
/// derive does not name, or names `local`, belong to the service: they are never touched, and need a default.
/// With `soft_delete` a delete marks the row in a column and a later change unmarks it. Unique keys beside the primary key, and foreign keys, do not go with a copy fed by messages: different keys arrive
/// in no particular order.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the row of a copy",
    note = "add `#[derive(Replica)]` and `#[replica(of = \"…\")]` to it"
)]
pub trait Replica: Sized {
    /// The aggregate it follows.
    const AGGREGATE: &'static str;
    /// The copy's table.
    const COPY: &'static str;
    /// The event names of that aggregate's messages.
    const EVENTS: EventNames = EventNames::DEFAULT;

    /// The row in an entity's image.
    ///
    /// # Errors
    /// `Invalid`, naming the field that is missing or does not convert.
    fn from_image(image: &Image) -> Result<Self>;
}

/// The statements of a copy on one connection; `#[derive(Replica)]` writes them.
#[diagnostic::on_unimplemented(
    message = "the copy `{Self}` cannot be kept on `{C}`",
    note = "derive `Replica` on it, and enable outbox-core's feature for that database"
)]
pub trait ReplicaOn<C>: Replica {
    /// Updates the row if its version is older; the number of rows updated.
    #[doc(hidden)]
    fn update_older(&self, connection: &mut C, version: Version, bucket: u16) -> diesel::QueryResult<usize>;

    /// Whether a row of this key exists.
    #[doc(hidden)]
    fn exists(&self, connection: &mut C) -> diesel::QueryResult<bool>;

    /// Inserts the row.
    #[doc(hidden)]
    fn insert(&self, connection: &mut C, version: Version, bucket: u16) -> diesel::QueryResult<()>;

    /// Deletes or marks the row if its version is older; the number of rows deleted or marked.
    #[doc(hidden)]
    fn delete_older(&self, connection: &mut C, version: Version) -> diesel::QueryResult<usize>;
}

/// What a change did to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The copy now shows the change.
    Yes,
    /// The copy had a newer one.
    Stale,
}

/// Applies one change to a copy, inside the caller's transaction.
pub(crate) fn apply<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    recorded: &Recorded,
) -> Result<Applied> {
    let message = &recorded.message;
    let change: EntityChange = serde_json::from_slice(message.payload())?;
    let image = change.image().ok_or_else(|| {
        Error::new(crate::ErrorKind::Invalid, "the payload has neither `after` nor `before`")
    })?;
    let row = R::from_image(image)?;
    let (key, bucket, version) = (message.key(), message.bucket(), recorded.version);

    if message.event() == R::EVENTS.deleted {
        let gone = row.delete_older(connection, version)?;
        let newer =
            gone == 0 && (row.exists(connection)? || is_deleted_since::<R, C>(connection, key, version)?);
        if newer {
            return Ok(Applied::Stale);
        }
        connection.remember_deleted(R::COPY, key, bucket, version)?;
        return Ok(Applied::Yes);
    }

    if row.update_older(connection, version, bucket)? > 0 {
        return Ok(Applied::Yes);
    }
    if row.exists(connection)? || is_deleted_since::<R, C>(connection, key, version)? {
        return Ok(Applied::Stale);
    }
    row.insert(connection, version, bucket)?;
    connection.forget_deleted(R::COPY, key)?;
    Ok(Applied::Yes)
}

fn is_deleted_since<R: Replica, C: OutboxConnection>(
    connection: &mut C,
    key: &str,
    version: Version,
) -> Result<bool> {
    Ok(connection.deleted_version(R::COPY, key)?.is_some_and(|deleted| deleted >= version))
}
