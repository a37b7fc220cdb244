//! What a soft delete writes: an expression of the marking column's type, the same on all databases.

use std::marker::PhantomData;

use diesel::backend::Backend;
use diesel::expression::{
    AppearsOnTable, Expression, SelectableExpression, TypedExpressionType, ValidGrouping, is_aggregate,
};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{Bool, Nullable, Timestamp};

/// The type of a column that can mark deleted rows.
#[diagnostic::on_unimplemented(
    message = "a column of type `{Self}` cannot mark deleted rows",
    label = "its type in `table!` is `{Self}`",
    note = "`soft_delete` takes a `Bool` column, or a nullable `Timestamp`, `Timestamptz`, `Datetime` or \
            `TimestamptzSqlite` one"
)]
pub trait DeleteMark {
    /// The SQL for a deleted row.
    const DELETED: &'static str;
    /// The SQL for a row that is there.
    const LIVE: &'static str;
}

impl DeleteMark for Bool {
    const DELETED: &'static str = "TRUE";
    const LIVE: &'static str = "FALSE";
}

macro_rules! marked_by_time {
    ($ty:ty) => {
        impl DeleteMark for Nullable<$ty> {
            const DELETED: &'static str = "CURRENT_TIMESTAMP";
            const LIVE: &'static str = "NULL";
        }
    };
}

marked_by_time!(Timestamp);
#[cfg(feature = "mysql")]
marked_by_time!(diesel::sql_types::Datetime);
#[cfg(feature = "postgres")]
marked_by_time!(diesel::sql_types::Timestamptz);
#[cfg(feature = "sqlite")]
marked_by_time!(diesel::sql_types::TimestamptzSqlite);

/// The SQL for a deleted row and for one that is there.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    deleted: &'static str,
    live: &'static str,
}

/// What marks a row in this column.
pub const fn marks<C>(_column: C) -> Marks
where
    C: Expression + Copy,
    C::SqlType: DeleteMark,
{
    Marks { deleted: C::SqlType::DELETED, live: C::SqlType::LIVE }
}

/// The value for a column of type `ST`. Its SQL depends on the type alone, so statements with it stay in the
/// cache of prepared ones, which Diesel's `sql` would keep them out of.
#[derive(Debug, Clone, Copy)]
pub struct Mark<ST, const DELETED: bool> {
    marks: Marks,
    ty: PhantomData<ST>,
}

/// The value that marks a row in this column as deleted, or as there.
pub fn mark<C: Expression, const DELETED: bool>(_column: C, marks: Marks) -> Mark<C::SqlType, DELETED> {
    Mark { marks, ty: PhantomData }
}

impl<ST: TypedExpressionType, const DELETED: bool> Expression for Mark<ST, DELETED> {
    type SqlType = ST;
}

impl<ST, G, const DELETED: bool> ValidGrouping<G> for Mark<ST, DELETED> {
    type IsAggregate = is_aggregate::Never;
}

impl<ST: 'static, const DELETED: bool> QueryId for Mark<ST, DELETED> {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<ST, DB: Backend, const DELETED: bool> QueryFragment<DB> for Mark<ST, DELETED> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql(if DELETED { self.marks.deleted } else { self.marks.live });
        Ok(())
    }
}

impl<ST: TypedExpressionType, QS, const DELETED: bool> AppearsOnTable<QS> for Mark<ST, DELETED> {}

impl<ST: TypedExpressionType, QS, const DELETED: bool> SelectableExpression<QS> for Mark<ST, DELETED> {}

#[cfg(all(test, feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod tests {
    use diesel::debug_query;
    use diesel::prelude::*;

    use super::*;

    diesel::table! {
        marked (id) {
            id -> BigInt,
            gone -> Bool,
            at -> Nullable<Timestamp>,
            at_zone -> Nullable<Timestamptz>,
            at_date -> Nullable<Datetime>,
            at_text -> Nullable<TimestamptzSqlite>,
        }
    }

    macro_rules! updates {
        ($db:ty, $column:ident) => {{
            let column = marked::$column;
            let values = (
                debug_query::<$db, _>(
                    &diesel::update(marked::table).set(column.eq(mark::<_, true>(column, marks(column)))),
                )
                .to_string(),
                debug_query::<$db, _>(&diesel::insert_into(marked::table).values((column.eq(mark::<
                    _,
                    false,
                >(
                    column,
                    marks(column),
                )),)))
                .to_string(),
            );
            (values.0.replace(['`', '"'], ""), values.1.replace(['`', '"'], ""))
        }};
    }

    #[test]
    fn every_kind_of_column_is_marked_in_its_own_words() {
        use diesel::{mysql::Mysql, pg::Pg, sqlite::Sqlite};
        let (deleted, live) = updates!(Pg, gone);
        assert_eq!(deleted, "UPDATE marked SET gone = TRUE -- binds: []");
        assert_eq!(live, "INSERT INTO marked (gone) VALUES (FALSE) -- binds: []");
        for (deleted, live) in [
            updates!(Mysql, at),
            updates!(Sqlite, at),
            updates!(Pg, at_zone),
            updates!(Mysql, at_date),
            updates!(Sqlite, at_text),
        ] {
            assert!(deleted.ends_with(" = CURRENT_TIMESTAMP -- binds: []"), "{deleted}");
            assert!(live.ends_with(" VALUES (NULL) -- binds: []"), "{live}");
        }
    }

    #[test]
    fn statements_with_a_mark_stay_in_the_cache() {
        fn id<T: QueryId>(_: &T) -> Option<std::any::TypeId> {
            T::query_id()
        }
        let deleted = id(&mark::<_, true>(marked::gone, marks(marked::gone)));
        let live = id(&mark::<_, false>(marked::gone, marks(marked::gone)));
        assert!(deleted.is_some() && live.is_some() && deleted != live);
        assert_ne!(live, id(&mark::<_, false>(marked::at, marks(marked::at))));
    }
}
