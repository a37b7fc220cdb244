//! Statements, put together from texts and Diesel's pieces of SQL. Diesel's own statements are types of all
//! columns, which the compiler checks anew for each method of each entity; these have one type per backend.

use std::marker::PhantomData;

use diesel::backend::Backend;
use diesel::connection::{Connection, DefaultLoadingMode, LoadConnection};
use diesel::deserialize;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::{EmptyChangeset, Error, QueryResult, UnexpectedEndOfRow};
use diesel::row::{Field, Row};

use crate::model::{EntitySql, FromRow, UpsertKey};

/// Values, a condition, a selection, …: a piece of SQL with its binds.
pub type Fragment<'a, DB> = Box<dyn QueryFragment<DB> + 'a>;

/// A kind of server, as far as statements differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// SQLite.
    Sqlite,
    /// MariaDB too.
    Mysql,
    /// PostgreSQL.
    Postgres,
}

/// A backend that statements are written for.
#[doc(hidden)]
pub trait Server: Backend + Default + 'static {
    const KIND: ServerKind;
    /// MariaDB has RETURNING for INSERT and DELETE, but Diesel's MySQL connection cannot read it.
    const HAS_RETURNING: bool;

    /// ` RETURNING …`, where the server has it.
    fn returning<'a>(selection: Fragment<'a, Self>) -> Fragment<'a, Self>;

    fn flag(value: Option<Self::RawValue<'_>>) -> deserialize::Result<bool>;

    fn number(value: Option<Self::RawValue<'_>>) -> deserialize::Result<i64>;

    /// The type of what `number` reads.
    fn number_type(lookup: &mut Self::MetadataLookup) -> Self::TypeMetadata;

    /// Whether this is one value that the server compares by a collation, which may take it for another one.
    fn is_collated(value: &Fragment<'_, Self>) -> QueryResult<bool>;
}

/// See [`Server::is_collated`]. The others compare text by its bytes, unless a column was made otherwise.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "async-postgres"))]
fn never<T: ?Sized>(_: &T) -> QueryResult<bool> {
    Ok(false)
}

/// See [`Server::is_collated`].
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
fn is_text(value: &Fragment<'_, diesel::mysql::Mysql>) -> QueryResult<bool> {
    use diesel::mysql::{Mysql, MysqlType};
    use diesel::query_builder::bind_collector::RawBytesBindCollector;
    let mut values = RawBytesBindCollector::<Mysql>::new();
    value.collect_binds(&mut values, &mut (), &Mysql)?;
    Ok(matches!(values.metadata.as_slice(), [MysqlType::String]))
}

macro_rules! server {
    ($backend:ty, $kind:ident, $has_returning:literal, $returning:expr, $is_collated:path) => {
        impl Server for $backend {
            const KIND: ServerKind = ServerKind::$kind;
            const HAS_RETURNING: bool = $has_returning;

            fn returning<'a>(selection: Fragment<'a, Self>) -> Fragment<'a, Self> {
                Box::new($returning(selection))
            }

            fn flag(value: Option<Self::RawValue<'_>>) -> deserialize::Result<bool> {
                deserialize::FromSql::<diesel::sql_types::Bool, Self>::from_nullable_sql(value)
            }

            fn number(value: Option<Self::RawValue<'_>>) -> deserialize::Result<i64> {
                deserialize::FromSql::<diesel::sql_types::BigInt, Self>::from_nullable_sql(value)
            }

            fn number_type(lookup: &mut Self::MetadataLookup) -> Self::TypeMetadata {
                <Self as diesel::sql_types::HasSqlType<diesel::sql_types::BigInt>>::metadata(lookup)
            }

            fn is_collated(value: &Fragment<'_, Self>) -> QueryResult<bool> {
                $is_collated(value)
            }
        }

        impl<R: FromRow<$backend>> diesel::expression::QueryMetadata<Columns<R>> for $backend {
            fn row_metadata(lookup: &mut Self::MetadataLookup, out: &mut Vec<Option<Self::TypeMetadata>>) {
                R::row_metadata(lookup, out);
            }
        }
    };
}
// Diesel's own clause: on SQLite the columns in it must not name a table that has a schema, and only it can say so.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "async-postgres"))]
use diesel::internal::derives::multiconnection::ReturningClause;
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
server!(diesel::mysql::Mysql, Mysql, false, std::convert::identity, is_text);
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
server!(diesel::pg::Pg, Postgres, true, ReturningClause, never);
#[cfg(feature = "sqlite")]
server!(diesel::sqlite::Sqlite, Sqlite, true, ReturningClause, never);

/// A sync connection that statements run on.
#[doc(hidden)]
pub trait StatementConnection: Connection<Backend: Server> {
    /// # Errors
    /// Any of Diesel's.
    fn load_all<R: FromRow<Self::Backend>>(
        &mut self,
        statement: Statement<'_, Self::Backend>,
    ) -> QueryResult<Vec<R>>;

    /// Executes an INSERT of many rows.
    ///
    /// # Errors
    /// Any of Diesel's.
    fn insert_many(&mut self, statement: &Statement<'_, Self::Backend>) -> QueryResult<()> {
        self.execute_returning_count(statement).map(drop)
    }
}

macro_rules! statement_connection {
    ($connection:ty $(, $insert_many:path)?) => {
        impl StatementConnection for $connection {
            $(
                fn insert_many(&mut self, statement: &Statement<'_, Self::Backend>) -> QueryResult<()> {
                    $insert_many(self, statement)
                }
            )?

            fn load_all<R: FromRow<Self::Backend>>(
                &mut self,
                statement: Statement<'_, Self::Backend>,
            ) -> QueryResult<Vec<R>> {
                let rows = LoadConnection::<DefaultLoadingMode>::load(self, statement.loading::<R>())?;
                rows.map(|row| from_row(&row?)).collect()
            }
        }
    };
}
#[cfg(feature = "mysql")]
statement_connection!(diesel::mysql::MysqlConnection, crate::connection::written_out::insert_many);
#[cfg(feature = "postgres")]
statement_connection!(diesel::pg::PgConnection);
#[cfg(feature = "sqlite")]
statement_connection!(diesel::sqlite::SqliteConnection);
#[cfg(feature = "async-mysql")]
statement_connection!(crate::Awaited<diesel_async::AsyncMysqlConnection>);
#[cfg(feature = "async-postgres")]
statement_connection!(crate::Awaited<diesel_async::AsyncPgConnection>);
#[cfg(feature = "async-sqlite")]
statement_connection!(crate::Awaited<crate::AsyncSqliteConnection>);

pub(crate) fn from_row<'r, R: FromRow<DB>, DB: Backend>(row: &impl Row<'r, DB>) -> QueryResult<R> {
    R::from_row(row).map_err(Error::DeserializationError)
}

/// What Diesel's `get_result` does.
pub(crate) fn first<R>(rows: Vec<R>) -> QueryResult<R> {
    rows.into_iter().next().ok_or(Error::NotFound)
}

enum Part<'a, DB: Backend> {
    Sql(&'static str),
    Identifier(&'static str),
    Number(usize),
    Text(String),
    Fragment(Fragment<'a, DB>),
}

/// A statement, or a piece of one.
pub struct Statement<'a, DB: Backend> {
    parts: Vec<Part<'a, DB>>,
    is_kept: bool,
}

impl<'a, DB: Backend> Statement<'a, DB> {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { parts: vec![Part::Sql(sql)], is_kept: true }
    }

    pub(crate) fn sql(mut self, sql: &'static str) -> Self {
        self.parts.push(Part::Sql(sql));
        self
    }

    pub(crate) fn number(mut self, number: usize) -> Self {
        self.parts.push(Part::Number(number));
        self
    }

    pub(crate) fn fragment(mut self, fragment: Fragment<'a, DB>) -> Self {
        self.parts.push(Part::Fragment(fragment));
        self
    }

    /// Text that was put together.
    pub(crate) fn text(mut self, sql: String) -> Self {
        self.parts.push(Part::Text(sql));
        self
    }

    pub(crate) fn identifier(mut self, name: &'static str) -> Self {
        self.parts.push(Part::Identifier(name));
        self
    }

    /// Not kept prepared: as Diesel does it with its own of the kind.
    pub(crate) fn not_kept(mut self) -> Self {
        self.is_kept = false;
        self
    }

    pub(crate) fn loading<R>(self) -> Loading<'a, R, DB> {
        Loading { statement: self, row: PhantomData }
    }
}

impl<DB: Backend> QueryFragment<DB> for Statement<'_, DB> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        if !self.is_kept {
            out.unsafe_to_cache_prepared();
        }
        for part in &self.parts {
            match part {
                Part::Sql(sql) => out.push_sql(sql),
                Part::Identifier(name) => out.push_identifier(name)?,
                Part::Number(number) => out.push_sql(&number.to_string()),
                Part::Text(text) => out.push_sql(text),
                Part::Fragment(fragment) => fragment.walk_ast(out.reborrow())?,
            }
        }
        Ok(())
    }
}

/// Kept prepared by its text.
impl<DB: Backend> QueryId for Statement<'_, DB> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

/// A statement that gives rows.
pub(crate) struct Loading<'a, R, DB: Backend> {
    statement: Statement<'a, DB>,
    row: PhantomData<R>,
}

/// The columns of a row, as a type of SQL.
#[cfg_attr(
    not(any(feature = "sqlite", feature = "mysql", feature = "postgres", feature = "async")),
    expect(unreachable_pub, reason = "only a backend names it")
)]
pub struct Columns<R>(PhantomData<R>);

impl<R, DB: Backend> Query for Loading<'_, R, DB> {
    type SqlType = Columns<R>;
}

impl<R, DB: Backend> QueryFragment<DB> for Loading<'_, R, DB> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.statement.walk_ast(out)
    }
}

impl<R, DB: Backend> QueryId for Loading<'_, R, DB> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

/// An upserted row, and whether it is new: the last column. Of PostgreSQL only.
pub(crate) struct RowAndNew<E> {
    pub(crate) row: E,
    pub(crate) is_new: bool,
}

impl<E: FromRow<DB>, DB: Server> FromRow<DB> for RowAndNew<E> {
    fn from_row<'r>(row: &impl Row<'r, DB>) -> deserialize::Result<Self> {
        let last = row.get(row.field_count().saturating_sub(1)).ok_or(UnexpectedEndOfRow)?;
        Ok(Self { is_new: DB::flag(last.value())?, row: E::from_row(row)? })
    }
}

pub(crate) fn insert<'a, E: EntitySql<DB>, DB: Server>(values: Fragment<'a, DB>) -> Statement<'a, DB> {
    Statement::new("INSERT INTO ").fragment(E::table()).sql(" ").fragment(values)
}

/// The statement with the rows that it writes as its result.
pub(crate) fn returning<E: EntitySql<DB>, DB: Server>(statement: Statement<'_, DB>) -> Statement<'_, DB> {
    statement.fragment(DB::returning(E::selection()))
}

/// As [`returning`], for an [`RowAndNew`]: a row version that an UPDATE made carries the locker in xmax.
pub(crate) fn returning_upserted<E: EntitySql<DB>, DB: Server>(
    statement: Statement<'_, DB>,
) -> Statement<'_, DB> {
    returning::<E, DB>(statement).sql(", (xmax = 0)")
}

pub(crate) fn select<'a, E: EntitySql<DB>, DB: Server>(condition: Fragment<'a, DB>) -> Statement<'a, DB> {
    Statement::new("SELECT ")
        .fragment(E::selection())
        .sql(" FROM ")
        .fragment(E::table())
        .sql(" WHERE ")
        .fragment(condition)
}

/// A read that holds the rows until the transaction ends; SQLite has one writer anyway.
pub(crate) fn select_locked<'a, E: EntitySql<DB>, DB: Server>(
    condition: Fragment<'a, DB>,
) -> Statement<'a, DB> {
    let select = select::<E, DB>(condition);
    match DB::KIND {
        ServerKind::Sqlite => select,
        ServerKind::Mysql | ServerKind::Postgres => select.sql(" FOR UPDATE"),
    }
}

/// A read of what is going to be updated, which waits for whom the UPDATE would wait.
pub(crate) fn select_present<'a, E: EntitySql<DB>, DB: Server>(
    condition: Fragment<'a, DB>,
) -> Statement<'a, DB> {
    match DB::KIND {
        ServerKind::Postgres => select::<E, DB>(condition).sql(" FOR NO KEY UPDATE"),
        ServerKind::Sqlite | ServerKind::Mysql => select_locked::<E, DB>(condition),
    }
}

/// [`select_locked`] by a condition of the caller's.
///
/// libmariadb waits for ever when it runs a prepared SELECT again whose last run ended in a deadlock between
/// its rows, as a locking read's may (seen with 10.11.19, on MySQL too).
pub(crate) fn select_matching<'a, E: EntitySql<DB>, DB: Server>(
    condition: Fragment<'a, DB>,
) -> Statement<'a, DB> {
    let select = select_locked::<E, DB>(condition);
    if DB::KIND == ServerKind::Mysql { select.not_kept() } else { select }
}

/// # Errors
/// `QueryBuilderError` when nothing is changed, as with Diesel's own.
pub(crate) fn update<'a, E: EntitySql<DB>, DB: Server>(
    condition: Fragment<'a, DB>,
    changes: Fragment<'a, DB>,
) -> QueryResult<Statement<'a, DB>> {
    if changes.is_noop(&DB::default())? {
        return Err(Error::QueryBuilderError(Box::new(EmptyChangeset)));
    }
    let update = Statement::new("UPDATE ").fragment(E::table()).sql(" SET ").fragment(changes);
    Ok(update.sql(" WHERE ").fragment(condition).not_kept())
}

pub(crate) fn delete<'a, E: EntitySql<DB>, DB: Server>(condition: Fragment<'a, DB>) -> Statement<'a, DB> {
    Statement::new("DELETE FROM ").fragment(E::table()).sql(" WHERE ").fragment(condition)
}

pub(crate) fn upsert<'a, E: EntitySql<DB> + UpsertKey, DB: Server>(
    values: Fragment<'a, DB>,
    changes: Fragment<'a, DB>,
) -> QueryResult<Statement<'a, DB>> {
    let changes_nothing = changes.is_noop(&DB::default())?;
    let mut upsert = insert::<E, DB>(values).not_kept();
    let between = |place: usize| if place > 0 { ", " } else { "" };
    if DB::KIND == ServerKind::Mysql {
        upsert = upsert.sql(" ON DUPLICATE KEY UPDATE ");
        if !changes_nothing {
            return Ok(upsert.fragment(changes));
        }
        for (place, column) in E::KEY_COLUMNS.iter().enumerate() {
            upsert = upsert.sql(between(place)).fragment(E::table()).sql(".").identifier(column);
            upsert = upsert.sql(" = ").fragment(E::table()).sql(".").identifier(column);
        }
        return Ok(upsert);
    }
    upsert = upsert.sql(" ON CONFLICT (");
    for (place, column) in E::KEY_COLUMNS.iter().enumerate() {
        upsert = upsert.sql(between(place)).identifier(column);
    }
    upsert = upsert.sql(") DO UPDATE SET ");
    if !changes_nothing {
        return Ok(upsert.fragment(changes));
    }
    // DO NOTHING would give no row back.
    for (place, column) in E::KEY_COLUMNS.iter().enumerate() {
        upsert = upsert.sql(between(place)).identifier(column).sql(" = excluded.").identifier(column);
    }
    Ok(upsert)
}
