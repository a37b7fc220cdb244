//! The statements of a copy: one for all rows of a batch.

use std::collections::BTreeMap;

use diesel::deserialize;
use diesel::result::{QueryResult, UnexpectedEndOfRow};
use diesel::row::{Field, Row};

use super::{ReplicaOn, ReplicaSql};
use crate::connection::OutboxConnection;
use crate::connection::marks::Begun;
use crate::message::Version;
use crate::model::FromRow;
use crate::statement::{Fragment, Server, ServerKind, Statement};

/// A row as it is to be, or the last image of one that is gone.
pub(super) struct Change<'a, R> {
    pub(super) row: &'a R,
    pub(super) version: Version,
    pub(super) bucket: u16,
}

/// So many values a statement takes on every database.
const PLACEHOLDERS_MAX: usize = 30_000;
const ROWS_MAX: usize = 1000;

const GENERATION: &str = "outbox_generation";
const ID: &str = "outbox_id";
const BUCKET: &str = "outbox_bucket";

/// How many rows one statement takes.
pub(super) fn rows_max<R: ReplicaSql<DB>, DB: Server>() -> usize {
    (PLACEHOLDERS_MAX / R::columns().len().max(1)).clamp(1, ROWS_MAX)
}

/// Writes rows whose version is newer than what the copy shows; false when one of them was not.
pub(super) fn upsert<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[Change<'_, R>],
) -> QueryResult<bool> {
    let statement = kept(insert_newer(changes), changes);
    if <C::Backend as Server>::KIND != ServerKind::Mysql {
        return Ok(connection.execute_returning_count(&statement)? == changes.len());
    }
    let written = match changes {
        [_] => connection.execute_returning_count(&statement).map(drop),
        _ => connection.insert_many(&statement),
    };
    match written {
        Err(error) if is_alarm(&error) => Ok(false),
        written => written.map(|()| true),
    }
}

/// Deletes or marks rows whose version is older; false when one of them is newer.
pub(super) fn delete<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[Change<'_, R>],
) -> QueryResult<bool> {
    // A marked row gets this version; one that has it before has it from another message.
    if R::mark().is_some() && count::<R, C>(connection, changes, "=")? > 0 {
        return Ok(false);
    }
    connection.execute_returning_count(&kept(delete_older(changes), changes))?;
    let newer = if R::mark().is_some() { ">" } else { ">=" };
    Ok(count::<R, C>(connection, changes, newer)? == 0)
}

/// Whether the copy has this version of the row or a newer one.
pub(super) fn is_known<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    change: Change<'_, R>,
) -> QueryResult<bool> {
    // What is there now, not what the transaction saw first.
    let select = count_of(&[change], ">=").sql(match C::Backend::KIND {
        ServerKind::Mysql => " LOCK IN SHARE MODE",
        ServerKind::Sqlite | ServerKind::Postgres => "",
    });
    // Not kept prepared: libmariadb may wait for ever for a locking read that is run again after a deadlock.
    let counts: Vec<Count> = connection.load_all(select.not_kept())?;
    Ok(counts.first().is_some_and(|count| count.0 > 0))
}

/// How many of the rows stand in this relation to the version of their change.
fn count<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[Change<'_, R>],
    relation: &'static str,
) -> QueryResult<usize> {
    let counts: Vec<Count> = connection.load_all(kept(count_of(changes, relation), changes))?;
    Ok(counts.first().map_or(0, |count| usize::try_from(count.0).unwrap_or(0)))
}

fn count_of<'a, R: ReplicaSql<DB>, DB: Server>(
    changes: &[Change<'a, R>],
    relation: &'static str,
) -> Statement<'a, DB> {
    let select = Statement::new("SELECT count(*) FROM ").fragment(R::table()).sql(" WHERE ");
    any_row(select, changes, relation)
}

/// That of one row is kept prepared.
fn kept<'a, R, DB: Server>(statement: Statement<'a, DB>, changes: &[Change<'_, R>]) -> Statement<'a, DB> {
    if changes.len() == 1 { statement } else { statement.not_kept() }
}

fn insert_newer<'a, R: ReplicaSql<DB>, DB: Server>(changes: &[Change<'a, R>]) -> Statement<'a, DB> {
    let columns = R::columns();
    let mut sql = Statement::new("INSERT INTO ").fragment(R::table()).sql(" (");
    for column in &columns {
        sql = sql.identifier(column).sql(", ");
    }
    if let Some((column, _)) = R::mark() {
        sql = sql.identifier(column).sql(", ");
    }
    sql = sql.identifier(BUCKET).sql(", ").identifier(ID).sql(", ").identifier(GENERATION).sql(") VALUES ");
    for (place, Change { row, version, bucket }) in changes.iter().enumerate() {
        sql = sql.sql(if place == 0 { "(" } else { ", (" });
        for value in row.values() {
            sql = sql.fragment(value).sql(", ");
        }
        if let Some((_, marks)) = R::mark() {
            sql = sql.sql(marks.live()).sql(", ");
        }
        sql = sql.text(format!("{bucket}, {}, {})", version.id, version.generation));
    }
    let written = columns.iter().copied().filter(|column| !R::key_columns().contains(column));
    let written: Vec<_> = written.chain(R::mark().map(|(column, _)| column)).chain([BUCKET]).collect();
    match DB::KIND {
        ServerKind::Mysql => on_duplicate_key::<R, DB>(sql, &written),
        ServerKind::Sqlite | ServerKind::Postgres => on_conflict::<R, DB>(sql, &written),
    }
}

fn on_conflict<'a, R: ReplicaSql<DB>, DB: Server>(
    mut sql: Statement<'a, DB>,
    written: &[&'static str],
) -> Statement<'a, DB> {
    sql = sql.sql(" ON CONFLICT (");
    for (place, column) in R::key_columns().into_iter().enumerate() {
        sql = sql.sql(if place == 0 { "" } else { ", " }).identifier(column);
    }
    sql = sql.sql(") DO UPDATE SET ");
    for (place, column) in written.iter().copied().chain([ID, GENERATION]).enumerate() {
        sql = sql.sql(if place == 0 { "" } else { ", " }).identifier(column);
        sql = sql.sql(" = excluded.").identifier(column);
    }
    sql = column::<R, DB>(sql.sql(" WHERE ("), GENERATION);
    sql = column::<R, DB>(sql.sql(", "), ID).sql(") < (excluded.").identifier(GENERATION);
    sql.sql(", excluded.").identifier(ID).sql(")")
}

/// What MySQL and MariaDB cannot add to an id, in any SQL mode: they have no condition for the update, and count a row
/// that stayed as it was like one that was inserted.
const ALARM: &str = "9223372036854775807";

/// A row that is not older ends the statement, and so does one that meets this one in another unique key. The id comes
/// first: assignments go from left to right, and it has to see the old version.
fn on_duplicate_key<'a, R: ReplicaSql<DB>, DB: Server>(
    mut sql: Statement<'a, DB>,
    written: &[&'static str],
) -> Statement<'a, DB> {
    sql = column::<R, DB>(sql.sql(" ON DUPLICATE KEY UPDATE "), ID).sql(" = if(");
    for name in R::key_columns() {
        // As bytes: a collation may take a row of another key for this one.
        sql = column::<R, DB>(sql.sql("cast("), name).sql(" AS BINARY) = cast(values(").identifier(name);
        sql = sql.sql(") AS BINARY) AND ");
    }
    sql = column::<R, DB>(sql.sql("("), GENERATION);
    sql = column::<R, DB>(sql.sql(", "), ID).sql(") < (values(").identifier(GENERATION);
    sql = sql.sql("), values(").identifier(ID).sql(")), values(").identifier(ID).sql("), abs(");
    sql = column::<R, DB>(sql, ID).sql(") + ").sql(ALARM).sql(" + 1)");
    for name in written.iter().copied().chain([GENERATION]) {
        sql = column::<R, DB>(sql.sql(", "), name).sql(" = values(").identifier(name).sql(")");
    }
    sql
}

fn is_alarm(error: &diesel::result::Error) -> bool {
    let diesel::result::Error::DatabaseError(_, information) = error else { return false };
    information.message().contains("out of range") && information.message().contains(ALARM)
}

/// Deletes, or marks and gives their version.
fn delete_older<'a, R: ReplicaSql<DB>, DB: Server>(changes: &[Change<'a, R>]) -> Statement<'a, DB> {
    let Some((mark, marks)) = R::mark() else {
        let delete = Statement::new("DELETE FROM ").fragment(R::table()).sql(" WHERE ");
        return any_row(delete, changes, "<");
    };
    let mut sql = Statement::new("UPDATE ").fragment(R::table()).sql(" SET ");
    sql = sql.identifier(mark).sql(" = ").sql(marks.deleted());
    for name in [GENERATION, ID] {
        sql = sql.sql(", ").identifier(name).sql(" = CASE");
        for change in changes {
            let number = if name == ID { change.version.id } else { change.version.generation };
            sql = is_row(sql.sql(" WHEN "), change).text(format!(" THEN {number}"));
        }
        sql = sql.sql(" END");
    }
    any_row(sql.sql(" WHERE "), changes, "<")
}

/// `(key = … AND (generation, id) < (…)) OR …`.
fn any_row<'a, R: ReplicaSql<DB>, DB: Server>(
    mut sql: Statement<'a, DB>,
    changes: &[Change<'a, R>],
    relation: &'static str,
) -> Statement<'a, DB> {
    for (place, change) in changes.iter().enumerate() {
        sql = is_row(sql.sql(if place == 0 { "(" } else { " OR (" }), change).sql(" AND (");
        sql = sql.identifier(GENERATION).sql(", ").identifier(ID).sql(") ").sql(relation);
        sql = sql.text(format!(" ({}, {}))", change.version.generation, change.version.id));
    }
    sql
}

/// The row of a change. Text is also compared as bytes, of one character set, where its collation may take another key
/// for this one.
fn is_row<'a, R: ReplicaSql<DB>, DB: Server>(
    mut sql: Statement<'a, DB>,
    change: &Change<'a, R>,
) -> Statement<'a, DB> {
    let row: &'a R = change.row;
    let again = row.key_values();
    for (place, ((name, value), again)) in
        R::key_columns().into_iter().zip(row.key_values()).zip(again).enumerate()
    {
        sql = is_value(sql.sql(if place == 0 { "" } else { " AND " }), name, value, again);
    }
    sql
}

/// A column has a value, which is given twice. Blanks at the end are the collation's matter: a CHAR may have lost them.
fn is_value<'a, DB: Server>(
    sql: Statement<'a, DB>,
    name: &'static str,
    value: Fragment<'a, DB>,
    again: Fragment<'a, DB>,
) -> Statement<'a, DB> {
    let is_collated = DB::is_collated(&value).unwrap_or(false);
    let sql = sql.identifier(name).sql(" = ").fragment(value);
    if !is_collated {
        return sql;
    }
    let sql = sql.sql(" AND cast(convert(trim(trailing ' ' from ").identifier(name);
    let sql = sql.sql(") USING utf8mb4) AS BINARY) = cast(convert(trim(trailing ' ' from ").fragment(again);
    sql.sql(") USING utf8mb4) AS BINARY)")
}

/// A column of the copy's, where two tables are in question.
fn column<'a, R: ReplicaSql<DB>, DB: Server>(
    sql: Statement<'a, DB>,
    name: &'static str,
) -> Statement<'a, DB> {
    sql.fragment(R::table()).sql(".").identifier(name)
}

/// Versions of rows that a resync did not send, this many at most.
pub(super) fn stale<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    marks: &[Begun],
    rows: usize,
) -> QueryResult<Vec<Version>> {
    let mut sql = column::<R, C::Backend>(Statement::new("SELECT "), GENERATION).sql(", ");
    sql = column::<R, C::Backend>(sql, ID).sql(" FROM ").fragment(R::table()).sql(" WHERE (");
    for (place, Begun { bucket, version, .. }) in marks.iter().enumerate() {
        sql = column::<R, C::Backend>(sql.sql(if place == 0 { "(" } else { " OR (" }), BUCKET);
        sql = column::<R, C::Backend>(sql.text(format!(" = {bucket} AND (")), GENERATION).sql(", ");
        sql = column::<R, C::Backend>(sql, ID);
        sql = sql.text(format!(") < ({}, {}))", version.generation, version.id));
    }
    sql = is_live::<R, C::Backend>(sql.sql(")"));
    // The name of a table in Rust has no quotes.
    sql = sql.text(format!(
        " AND NOT EXISTS (SELECT 1 FROM copy_late WHERE copy_late.copy = '{}' AND copy_late.bucket = ",
        R::COPY
    ));
    sql = column::<R, C::Backend>(sql, BUCKET).sql(" AND copy_late.generation = ");
    sql = column::<R, C::Backend>(sql, GENERATION).sql(" AND copy_late.id = ");
    sql = column::<R, C::Backend>(sql, ID).sql(") LIMIT ").number(rows);
    let stale: Vec<Stale> = connection.load_all(sql.not_kept())?;
    Ok(stale.into_iter().map(|Stale(version)| version).collect())
}

/// Deletes or marks the rows with these versions. A marked one keeps its version: nothing newer has come.
pub(super) fn delete_versions<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    versions: &[Version],
) -> QueryResult<usize> {
    let mut ids: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for Version { generation, id } in versions {
        ids.entry(*generation).or_default().push(id.to_string());
    }
    let mut sql = delete_or_mark::<R, C::Backend>();
    for (place, (generation, ids)) in ids.into_iter().enumerate() {
        sql = sql.sql(if place == 0 { "(" } else { " OR (" }).identifier(GENERATION);
        sql = sql
            .text(format!(" = {generation} AND "))
            .identifier(ID)
            .text(format!(" IN ({}))", ids.join(", ")));
    }
    connection.execute_returning_count(&sql.not_kept())
}

/// Deletes or marks the row of a key, whose values are given twice, if its version is older.
pub(super) fn delete_key<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    [key, again]: [Vec<Fragment<'_, C::Backend>>; 2],
    version: Version,
) -> QueryResult<usize> {
    let mut sql = delete_or_mark::<R, C::Backend>();
    for ((name, value), again) in R::key_columns().into_iter().zip(key).zip(again) {
        sql = is_value(sql, name, value, again).sql(" AND ");
    }
    sql = sql.sql("(").identifier(GENERATION).sql(", ").identifier(ID);
    sql = sql.text(format!(") < ({}, {})", version.generation, version.id));
    connection.execute_returning_count(&is_live::<R, C::Backend>(sql).not_kept())
}

fn delete_or_mark<'a, R: ReplicaSql<DB>, DB: Server>() -> Statement<'a, DB> {
    match R::mark() {
        None => Statement::new("DELETE FROM ").fragment(R::table()).sql(" WHERE "),
        Some((mark, marks)) => {
            let update = Statement::new("UPDATE ").fragment(R::table()).sql(" SET ").identifier(mark);
            update.sql(" = ").sql(marks.deleted()).sql(" WHERE ")
        }
    }
}

/// ` AND` the row is not marked as deleted.
fn is_live<R: ReplicaSql<DB>, DB: Server>(sql: Statement<'_, DB>) -> Statement<'_, DB> {
    let Some((mark, marks)) = R::mark() else { return sql };
    let is = if marks.live() == "NULL" { " IS " } else { " = " };
    column::<R, DB>(sql.sql(" AND "), mark).sql(is).sql(marks.live())
}

struct Stale(Version);

impl<DB: Server> FromRow<DB> for Stale {
    fn row_metadata(lookup: &mut DB::MetadataLookup, out: &mut Vec<Option<DB::TypeMetadata>>) {
        out.extend([Some(DB::number_type(lookup)), Some(DB::number_type(lookup))]);
    }

    fn from_row<'r>(row: &impl Row<'r, DB>) -> deserialize::Result<Self> {
        let number = |place: usize| DB::number(row.get(place).ok_or(UnexpectedEndOfRow)?.value());
        Ok(Self(Version { generation: number(0)?, id: number(1)? }))
    }
}

struct Count(i64);

impl<DB: Server> FromRow<DB> for Count {
    fn row_metadata(lookup: &mut DB::MetadataLookup, out: &mut Vec<Option<DB::TypeMetadata>>) {
        out.push(Some(DB::number_type(lookup)));
    }

    fn from_row<'r>(row: &impl Row<'r, DB>) -> deserialize::Result<Self> {
        DB::number(row.get(0).ok_or(UnexpectedEndOfRow)?.value()).map(Self)
    }
}
