//! Many rows: conditions on them, how they are read back, and their pairing by key.

use std::collections::HashMap;
use std::fmt;

use diesel::associations::Identifiable;
use diesel::backend::Backend;
use diesel::expression::{AppearsOnTable, Expression, NonAggregate};
use diesel::query_builder::{QueryFragment, QueryId};
use diesel::result::{EmptyChangeset, Error, QueryResult};
use diesel::sql_types::BoolOrNullableBool;

use crate::entity::Operation;
use crate::model::{EntitySql, EntityTable, NewRowSql, ReadBack};
use crate::statement::{Fragment, Server, Statement, select};
use crate::write::Upserted;

/// A condition on the rows of a table, as Diesel's `filter` takes it.
///
/// ```standalone_crate
/// # include!("doc_setup.rs");
/// # fn main() -> Result<()> {
/// # let mut connection = connection();
/// use outbox_core::Condition;
///
/// fn clear<P>(connection: &mut SqliteConnection, which: P) -> Result<Vec<Product>>
/// where
///     P: Condition<product::table, diesel::sqlite::Sqlite>,
/// {
///     connection.outbox_transaction(|tx| tx.delete_where(which))
/// }
/// assert_eq!(clear(&mut connection, product::stock.gt(3).and(product::name.ne("pan")))?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a condition on rows of `{T}`",
    note = "use what Diesel's `filter` takes on that table alone, for example `product::stock.eq(0)`"
)]
pub trait Condition<T, DB: Backend>:
    Expression<SqlType: BoolOrNullableBool> + AppearsOnTable<T> + NonAggregate + QueryFragment<DB> + QueryId
{
}

impl<P, T, DB: Backend> Condition<T, DB> for P where
    P: Expression<SqlType: BoolOrNullableBool>
        + AppearsOnTable<T>
        + NonAggregate
        + QueryFragment<DB>
        + QueryId
{
}

/// Rows of one multi-row INSERT, as far as their values fit the servers' limits of placeholders.
const INSERT_ROWS_MAX: usize = 1000;
const PLACEHOLDERS_MAX: usize = 30_000;
/// Rows that are read back by conditions on each: their order costs the square of it.
const READ_BACK_ROWS_MAX: usize = 100;
/// Conditions in one chain of OR.
const CHAIN_MAX: usize = 64;

/// How many of these rows one INSERT takes.
pub(crate) fn of_one_insert<I: NewRowSql<DB>, DB: Backend>(new: &[I]) -> usize {
    let fit = INSERT_ROWS_MAX.min(PLACEHOLDERS_MAX / I::COLUMNS.max(1));
    match new.first().map(I::read_back) {
        Some(ReadBack::By(_)) => fit.min(READ_BACK_ROWS_MAX),
        _ => fit,
    }
}

/// Reads the row that was inserted last.
///
/// # Errors
/// `NotFound` where the INSERT returns it.
pub(crate) fn of_inserted<I, DB>(new: &I) -> QueryResult<Statement<'_, DB>>
where
    DB: Server,
    I: NewRowSql<DB, Entity: EntitySql<DB>>,
{
    match new.read_back() {
        ReadBack::Returned => Err(Error::NotFound),
        ReadBack::By(condition) => Ok(select::<I::Entity, DB>(condition)),
        ReadBack::Generated(column) => Ok(select::<I::Entity, DB>(column()).sql(" = LAST_INSERT_ID()")),
    }
}

/// Reads the rows of the last multi-row INSERT in its order.
///
/// # Errors
/// `NotFound` where the INSERT returns them.
pub(crate) fn of_all_inserted<I, DB>(new: &[I]) -> QueryResult<Statement<'_, DB>>
where
    DB: Server,
    I: NewRowSql<DB, Entity: EntitySql<DB>>,
{
    // InnoDB gives one INSERT of known length consecutive keys, of which `LAST_INSERT_ID()` is the first.
    if let Some(ReadBack::Generated(column)) = new.first().map(I::read_back) {
        let rows = select::<I::Entity, DB>(column())
            .sql(" >= LAST_INSERT_ID() AND @@auto_increment_increment = 1 ORDER BY ")
            .fragment(column())
            .sql(" ASC LIMIT ")
            .number(new.len());
        return Ok(rows.not_kept());
    }
    let conditions = || {
        new.iter().map(|row| match row.read_back() {
            ReadBack::By(condition) => Ok(condition),
            ReadBack::Returned | ReadBack::Generated(_) => Err(Error::NotFound),
        })
    };
    let any = any_of(conditions().collect::<QueryResult<Vec<_>>>()?);
    let mut rows = select::<I::Entity, DB>(any).sql(" ORDER BY CASE");
    for (place, condition) in conditions().enumerate() {
        rows = rows.sql(" WHEN ").fragment(condition?).sql(" THEN ").number(place);
    }
    Ok(rows.sql(" END").not_kept())
}

/// `(a OR b OR …)`; none is false.
pub fn any_of<'a, DB: Backend + 'a>(
    conditions: impl IntoIterator<Item = Fragment<'a, DB>>,
) -> Fragment<'a, DB> {
    Box::new(any(conditions.into_iter().collect()).not_kept())
}

/// As a tree: SQLite refuses an expression that is 1000 deep, and a chain is as deep as it is long.
fn any<'a, DB: Backend + 'a>(mut conditions: Vec<Fragment<'a, DB>>) -> Statement<'a, DB> {
    if conditions.len() > CHAIN_MAX {
        let later = any(conditions.split_off(conditions.len() / 2));
        let earlier = any(conditions);
        return Statement::new("(")
            .fragment(Box::new(earlier))
            .sql(" OR ")
            .fragment(Box::new(later))
            .sql(")");
    }
    let any = conditions.into_iter().fold(None, |any: Option<Statement<'a, DB>>, condition| {
        Some(any.map_or_else(|| Statement::new("("), |any| any.sql(" OR ")).fragment(condition))
    });
    any.unwrap_or_else(|| Statement::new("(1 = 0")).sql(")")
}

/// The rows, if as many were read back as were inserted.
pub(crate) fn all_of<T>(inserted: usize, rows: Vec<T>) -> QueryResult<Vec<T>> {
    if rows.len() == inserted {
        return Ok(rows);
    }
    Err(Error::QueryBuilderError(
        format!(
            "inserted {inserted} rows and found {} of them again: generated keys need \
             auto_increment_increment = 1, and given keys must be stored as they are given; \
             insert the entities one by one",
            rows.len()
        )
        .into(),
    ))
}

/// Brings each row as it is together with the row as it was, by primary key.
///
/// # Errors
/// `QueryBuilderError` when a key is in only one of the two: the update changed it.
pub fn pair<E>(before: Vec<E>, after: Vec<E>) -> QueryResult<Vec<(E, E)>>
where
    for<'e> &'e E: Identifiable,
{
    let places: HashMap<_, _> = after.iter().enumerate().map(|(place, row)| (row.id(), place)).collect();
    let order: Option<Vec<usize>> = before.iter().map(|row| places.get(&row.id()).copied()).collect();
    let order = order.filter(|_| places.len() == before.len()).ok_or_else(key_changed)?;
    drop(places);
    let mut after: Vec<_> = after.into_iter().map(Some).collect();
    // Each place is taken once: keys are distinct.
    Ok(before.into_iter().zip(order).filter_map(|(row, place)| Some((row, after[place].take()?))).collect())
}

/// An error after which the write stands, of the read that follows it. [`stands`] gives it back.
pub(crate) fn not_read_back(error: Error) -> Error {
    let error = match error {
        Error::NotFound => Error::QueryBuilderError(
            "the row is written and was not found again: its key must be stored as it is given, so no trigger may \
             change it, nor the server replace it (a 0 in an AUTO_INCREMENT column)"
                .into(),
        ),
        error => error,
    };
    Error::QueryBuilderError(Box::new(NotReadBack(error)))
}

/// The error of a statement that writes and gives its rows back: those that cannot be read are written.
pub(crate) fn not_returned(error: Error) -> Error {
    if matches!(error, Error::DeserializationError(_)) { not_read_back(error) } else { error }
}

#[derive(Debug)]
struct NotReadBack(Error);

impl fmt::Display for NotReadBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the row is written and could not be read again: {}", self.0)
    }
}

impl std::error::Error for NotReadBack {}

/// What a write has failed with, and whether it may stand nevertheless.
pub(crate) fn stands(error: Error) -> (bool, Error) {
    let reason = match error {
        Error::QueryBuilderError(reason) => reason,
        error => return (false, error),
    };
    match reason.downcast::<NotReadBack>() {
        Ok(written) => (true, written.0),
        // That nothing is changed is found out before, all else after the statement.
        Err(reason) => (!reason.is::<EmptyChangeset>(), Error::QueryBuilderError(reason)),
    }
}

/// The one row that an UPDATE has written, as far as it was found again by its key.
///
/// # Errors
/// `NotFound` when it wrote none, and `QueryBuilderError` when it changed the key.
pub(crate) fn of_updated<E>(updated: usize, found: Vec<E>) -> QueryResult<E> {
    let missing = if updated > 0 { key_changed() } else { Error::NotFound };
    found.into_iter().next().ok_or(missing)
}

/// What an upsert has done to a row, of which `found` is what was there.
///
/// # Errors
/// `QueryBuilderError` when a row was updated that was not there before.
pub(crate) fn of_upserted<E: EntityTable>(found: Vec<E>, row: E, is_new: bool) -> QueryResult<Upserted<E>> {
    let before = if E::KEEPS_KEY { None } else { found.into_iter().next() };
    if before.is_none() && !E::KEEPS_KEY && !is_new {
        return Err(Error::QueryBuilderError(
            "the row that the upsert has updated was not there just before: another transaction has inserted it, or a \
             trigger changes its key; run the transaction again"
                .into(),
        ));
    }
    Ok(Upserted { before, row, operation: Operation::of_upsert(is_new) })
}

fn key_changed() -> Error {
    Error::QueryBuilderError(
        "an update must not change the primary key: delete the entity and insert the new one".into(),
    )
}
