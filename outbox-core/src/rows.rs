//! Expressions over rows that Diesel has no dynamic form of, and the pairing of rows by their key.

use std::collections::HashMap;

use diesel::associations::Identifiable;
use diesel::backend::Backend;
use diesel::expression::{
    AppearsOnTable, Expression, NonAggregate, SelectableExpression, ValidGrouping, is_aggregate,
};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::{Error, QueryResult};
use diesel::sql_types::{Bool, BoolOrNullableBool, Integer};

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

/// `(a OR b OR …)` of any number of conditions of one form; none is false.
#[derive(Debug)]
pub struct AnyOf<E>(pub Vec<E>);

/// A condition, in a statement that is not to be kept prepared.
///
/// libmariadb waits for ever when it runs a prepared SELECT again whose last run ended in a deadlock between
/// its rows, as a locking read's may (seen with 10.11.19, on MySQL too).
#[derive(Debug)]
pub struct NotKept<E>(pub E);

/// The place of the first condition of one form that holds: `CASE WHEN a THEN 0 WHEN b THEN 1 … END`.
#[derive(Debug)]
pub struct FirstOf<E>(pub Vec<E>);

impl<E: Expression> Expression for AnyOf<E> {
    type SqlType = Bool;
}

impl<E: Expression> Expression for NotKept<E> {
    type SqlType = Bool;
}

impl<E: Expression> Expression for FirstOf<E> {
    type SqlType = Integer;
}

impl<E: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for AnyOf<E> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        let Some((first, rest)) = self.0.split_first() else {
            out.push_sql("1 = 0");
            return Ok(());
        };
        out.push_sql("(");
        first.walk_ast(out.reborrow())?;
        for condition in rest {
            out.push_sql(" OR ");
            condition.walk_ast(out.reborrow())?;
        }
        out.push_sql(")");
        Ok(())
    }
}

impl<E: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for NotKept<E> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql("(");
        self.0.walk_ast(out.reborrow())?;
        out.push_sql(")");
        Ok(())
    }
}

impl<E: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for FirstOf<E> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql("CASE");
        for (place, condition) in self.0.iter().enumerate() {
            out.push_sql(" WHEN ");
            condition.walk_ast(out.reborrow())?;
            out.push_sql(&format!(" THEN {place}"));
        }
        out.push_sql(" END");
        Ok(())
    }
}

macro_rules! expression_of_conditions {
    ($($name:ident),*) => {$(
        impl<E> QueryId for $name<E> {
            type QueryId = ();
            const HAS_STATIC_QUERY_ID: bool = false;
        }
        impl<E: AppearsOnTable<T>, T> AppearsOnTable<T> for $name<E> where Self: Expression {}
        impl<E: SelectableExpression<T>, T> SelectableExpression<T> for $name<E> where Self: AppearsOnTable<T> {}
        impl<E: NonAggregate> ValidGrouping<()> for $name<E> {
            type IsAggregate = is_aggregate::No;
        }
    )*};
}
expression_of_conditions!(AnyOf, FirstOf, NotKept);

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
    let order = order.filter(|_| places.len() == before.len()).ok_or_else(|| {
        Error::QueryBuilderError(
            "an update must not change the primary key: delete the entity and insert the new one".into(),
        )
    })?;
    drop(places);
    let mut after: Vec<_> = after.into_iter().map(Some).collect();
    // Each place is taken once: keys are distinct.
    Ok(before.into_iter().zip(order).filter_map(|(row, place)| Some((row, after[place].take()?))).collect())
}
