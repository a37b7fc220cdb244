//! Copies: tables that follow the entities of another service, row by row, whatever arrives twice or late.

mod mark;
pub(crate) mod resync;
mod sql;

use std::collections::HashMap;

pub use mark::{DeleteMark, Marks, marks};
use sql::Change;

use crate::connection::OutboxConnection;
use crate::entity::{EntityChange, EventNames, Image};
use crate::error::{Error, Result};
use crate::message::Recorded;
use crate::statement::Fragment;

/// A row of a copy; derive it with `#[derive(Replica)]`.
///
/// Beside the replicated columns the table has `outbox_generation` and `outbox_id` (the version of the
/// row's last change, both `BIGINT NOT NULL`) and `outbox_bucket` (`SMALLINT NOT NULL`). Its key is the primary
/// key, or unique. Columns that the derive does not name, or names `local`, belong to the service: they are never
/// touched, and need a default.
/// With `soft_delete` a delete marks the row in a column and a later change unmarks it. Unique keys beside that
/// one, and foreign keys, do not go with a copy fed by messages: different keys arrive in no particular order.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the row of a copy",
    note = "add `#[derive(Replica)]` and `#[replica(of = \"…\")]` to it"
)]
pub trait Replica: Sized + Send {
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

/// The pieces of a copy's statements on a backend; `#[derive(Replica)]` writes them.
#[diagnostic::on_unimplemented(
    message = "the copy `{Self}` cannot be kept on `{DB}`",
    note = "derive `Replica` on it, and enable outbox-core's feature for that database"
)]
pub trait ReplicaSql<DB: diesel::backend::Backend>: Replica {
    /// The name of the table.
    fn table() -> Fragment<'static, DB>;
    /// The replicated columns, the key's among them.
    fn columns() -> Vec<&'static str>;
    /// Their values, in the same order.
    fn values(&self) -> Vec<Fragment<'_, DB>>;
    /// The columns of the key.
    fn key_columns() -> Vec<&'static str>;
    /// Their values, in the same order.
    fn key_values(&self) -> Vec<Fragment<'_, DB>>;
    /// The same of a row of which no more is known than the key.
    ///
    /// # Errors
    /// As [`Replica::from_image`].
    fn key_of(image: &Image) -> Result<Vec<Fragment<'static, DB>>>;
    /// The column that marks deleted rows.
    fn mark() -> Option<(&'static str, Marks)> {
        None
    }
}

/// A copy that can be kept on a connection: what `#[derive(Replica)]` is on all databases of this build.
#[diagnostic::on_unimplemented(
    message = "the copy `{Self}` cannot be kept on `{C}`",
    note = "derive `Replica` on it, and enable outbox-core's feature for that database"
)]
pub trait ReplicaOn<C: OutboxConnection>: ReplicaSql<C::Backend> {}

impl<C: OutboxConnection, R: ReplicaSql<C::Backend>> ReplicaOn<C> for R {}

/// What changes did to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The copy now shows them.
    All,
    /// For one of them it has a newer state, or shows that the key was deleted since; for this one, if known.
    /// What the others did is to be rolled back.
    Stale(Option<usize>),
}

/// The row in a message.
///
/// # Errors
/// `Invalid`, saying what is missing or does not convert.
pub(crate) fn read<R: Replica>(recorded: &Recorded) -> Result<R> {
    let change: EntityChange = serde_json::from_slice(recorded.message.payload())?;
    let image =
        change.image().ok_or_else(|| Error::invalid("the payload has neither `after` nor `before`"))?;
    R::from_image(image)
}

/// Applies changes in the order of their arrival to a copy, inside the caller's transaction: of each key the last
/// one, all rows in one statement.
pub(crate) fn apply<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[(&Recorded, &R)],
) -> Result<Applied> {
    let mut last = HashMap::new();
    for (place, (recorded, _)) in changes.iter().enumerate() {
        let earlier = last.insert(recorded.message.key(), place).and_then(|earlier| changes.get(earlier));
        if earlier.is_some_and(|(earlier, _)| earlier.version >= recorded.version) {
            return Ok(Applied::Stale(Some(place)));
        }
    }
    let keys: Vec<_> = last.keys().copied().collect();
    let mut revived = Vec::new();
    for (key, deleted) in connection.deleted_among(R::COPY, &keys)? {
        let Some(&place) = last.get(key.as_str()) else { continue };
        if changes.get(place).is_some_and(|(change, _)| deleted >= change.version) {
            return Ok(Applied::Stale(Some(place)));
        }
        revived.push(key);
    }
    // In one order for all, against deadlocks.
    let mut last: Vec<_> = last.into_iter().collect();
    last.sort_unstable();
    let is_delete = |(change, _): &(&Recorded, &R)| change.message.event() == R::EVENTS.deleted;
    let (mut deleted, mut written) = (Vec::new(), Vec::new());
    for (key, place) in last {
        let Some(change) = changes.get(place) else { continue };
        if !is_delete(change) {
            written.push(change);
            continue;
        }
        deleted.push(change);
        // The row that the delete marks may have come just before it.
        if R::mark().is_some() {
            let of_key = changes.iter().take(place).rev().filter(|(change, _)| change.message.key() == key);
            written.extend(of_key.filter(|change| !is_delete(change)).take(1));
        }
    }
    let is_current = write(connection, &written, sql::upsert)? && write(connection, &deleted, sql::delete)?;
    if !is_current {
        return Ok(Applied::Stale(None));
    }
    revived.retain(|key| written.iter().any(|(change, _)| change.message.key() == key));
    let revived: Vec<_> = revived.iter().map(String::as_str).collect();
    connection.forget_deleted(R::COPY, &revived)?;
    resync::note_late::<R, C>(connection, written.iter().map(|(recorded, _)| *recorded))?;
    let deleted: Vec<_> = deleted
        .iter()
        .map(|(change, _)| (change.message.key(), change.message.bucket(), change.version))
        .collect();
    connection.remember_deleted(R::COPY, &deleted)?;
    Ok(Applied::All)
}

/// In as few statements as the database takes; false as soon as the copy had something newer.
fn write<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[&(&Recorded, &R)],
    statement: impl Fn(&mut C, &[Change<'_, R>]) -> diesel::QueryResult<bool>,
) -> Result<bool> {
    let changes: Vec<_> = changes
        .iter()
        .map(|(recorded, row)| Change {
            row: *row,
            version: recorded.version,
            bucket: recorded.message.bucket(),
        })
        .collect();
    for changes in changes.chunks(sql::rows_max::<R, C::Backend>()) {
        if !statement(connection, changes)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A column's name.
pub fn column_name<C: diesel::Column>(_: C) -> &'static str {
    C::NAME
}

/// Checks the types of the columns of a version.
pub fn version_columns<G, I, B>(_generation: G, _id: I, _bucket: B)
where
    G: diesel::Expression<SqlType = diesel::sql_types::BigInt>,
    I: diesel::Expression<SqlType = diesel::sql_types::BigInt>,
    B: diesel::Expression<SqlType = diesel::sql_types::SmallInt>,
{
}

/// A value as the column's type.
pub fn column_value<'a, C, T, DB>(_column: C, value: T) -> Fragment<'a, DB>
where
    DB: diesel::backend::Backend,
    C: diesel::Expression<SqlType: diesel::sql_types::SqlType + diesel::expression::TypedExpressionType>,
    T: diesel::expression::AsExpression<C::SqlType>,
    T::Expression: diesel::query_builder::QueryFragment<DB> + 'a,
{
    Box::new(value.as_expression())
}

/// The table itself.
pub fn table_name<T, DB>(table: T) -> Fragment<'static, DB>
where
    DB: diesel::backend::Backend,
    T: diesel::query_builder::QueryFragment<DB> + 'static,
{
    Box::new(table)
}
