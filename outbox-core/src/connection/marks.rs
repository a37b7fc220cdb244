//! A consumer's marks of resyncs, per copy and bucket. Their Rust is equal on all databases.

use diesel::prelude::*;
use diesel::sql_types::{SmallInt, Text};

use super::NumberRow;
use super::inbox::Words;
use crate::message::Version;
use crate::schema::{copy_begun, copy_late};

/// A begin mark that a bucket of a copy has seen.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    pub bucket: u16,
    /// Of the mark.
    pub version: Version,
    /// The number of the request.
    pub resync: i64,
    /// What is stale is to be deleted.
    pub ended: bool,
}

/// The marks of resyncs on a connection.
///
/// Sealed with [`OutboxConnection`](super::OutboxConnection): the methods may change.
#[doc(hidden)]
pub trait MarkConnection {
    /// The marks of a copy.
    fn begun_marks(&mut self, copy: &str) -> QueryResult<Vec<Begun>>;

    /// Puts a mark in the place of the bucket's last one.
    fn begin_mark(&mut self, copy: &str, mark: &Begun) -> QueryResult<()>;

    /// Notes that the end mark has come.
    fn end_mark(&mut self, copy: &str, mark: &Begun) -> QueryResult<()>;

    /// Takes a mark away, unless another has taken its place.
    fn forget_mark(&mut self, copy: &str, mark: &Begun) -> QueryResult<()>;

    /// Notes that a version below the bucket's mark was applied after it.
    fn note_late(&mut self, copy: &str, bucket: u16, key: &str, version: Version) -> QueryResult<()>;

    /// Whether that was so of a key.
    fn is_late(&mut self, copy: &str, bucket: u16, key: &str) -> QueryResult<bool>;

    /// Whether messages of this aggregate and bucket are held that came after the mark.
    fn is_held_since(
        &mut self,
        consumer: &str,
        aggregate: &str,
        copy: &str,
        bucket: u16,
    ) -> QueryResult<bool>;
}

const HELD_SINCE: &str = "select count(*) as number from inbox_held h join copy_begun b \
     on b.copy = ? and b.bucket = ? \
     where h.consumer = ? and h.bucket = ? and h.aggregate_type = ? and h.held_at >= b.begun_at";

/// Buckets are below 64.
fn small(bucket: u16) -> i16 {
    bucket as i16
}

/// The methods of [`MarkConnection`]. A macro, because Diesel's bounds for a generic connection would outgrow the
/// bodies.
macro_rules! mark_connection {
    ($connection:ty, $words:path) => {
        impl MarkConnection for $connection {
            fn begun_marks(&mut self, copy: &str) -> QueryResult<Vec<Begun>> {
                let rows: Vec<(i16, i64, i64, i64, bool)> = copy_begun::table
                    .filter(copy_begun::copy.eq(copy))
                    .select((
                        copy_begun::bucket,
                        copy_begun::generation,
                        copy_begun::id,
                        copy_begun::resync,
                        copy_begun::ended,
                    ))
                    .load(self)?;
                let mark = |(bucket, generation, id, resync, ended): (i16, _, _, _, _)| Begun {
                    bucket: bucket.unsigned_abs(),
                    version: Version { generation, id },
                    resync,
                    ended,
                };
                Ok(rows.into_iter().map(mark).collect())
            }

            fn begin_mark(&mut self, copy: &str, mark: &Begun) -> QueryResult<()> {
                let bucket = small(mark.bucket);
                diesel::delete(copy_begun::table.find((copy, bucket))).execute(self)?;
                let late =
                    copy_late::table.filter(copy_late::copy.eq(copy).and(copy_late::bucket.eq(bucket)));
                diesel::delete(late).execute(self)?;
                let values = (
                    copy_begun::copy.eq(copy),
                    copy_begun::bucket.eq(bucket),
                    copy_begun::generation.eq(mark.version.generation),
                    copy_begun::id.eq(mark.version.id),
                    copy_begun::resync.eq(mark.resync),
                    copy_begun::ended.eq(mark.ended),
                );
                diesel::insert_into(copy_begun::table).values(values).execute(self).map(drop)
            }

            fn end_mark(&mut self, copy: &str, mark: &Begun) -> QueryResult<()> {
                let begun = copy_begun::table.find((copy, small(mark.bucket)));
                diesel::update(begun.filter(copy_begun::resync.eq(mark.resync)))
                    .set(copy_begun::ended.eq(true))
                    .execute(self)
                    .map(drop)
            }

            fn forget_mark(&mut self, copy: &str, mark: &Begun) -> QueryResult<()> {
                let bucket = small(mark.bucket);
                let is_mark = copy_begun::generation
                    .eq(mark.version.generation)
                    .and(copy_begun::id.eq(mark.version.id));
                let begun = copy_begun::table.find((copy, bucket)).filter(is_mark);
                if diesel::delete(begun).execute(self)? > 0 {
                    let late =
                        copy_late::table.filter(copy_late::copy.eq(copy).and(copy_late::bucket.eq(bucket)));
                    diesel::delete(late).execute(self)?;
                }
                Ok(())
            }

            fn note_late(&mut self, copy: &str, bucket: u16, key: &str, version: Version) -> QueryResult<()> {
                // A version is applied once; but a number that was left behind may come again.
                let late = copy_late::table.find((copy, small(bucket), version.generation, version.id));
                diesel::delete(late).execute(self)?;
                let values = (
                    copy_late::copy.eq(copy),
                    copy_late::bucket.eq(small(bucket)),
                    copy_late::generation.eq(version.generation),
                    copy_late::id.eq(version.id),
                    copy_late::aggregate_id.eq(key),
                );
                diesel::insert_into(copy_late::table).values(values).execute(self).map(drop)
            }

            fn is_late(&mut self, copy: &str, bucket: u16, key: &str) -> QueryResult<bool> {
                let late = copy_late::table
                    .filter(copy_late::copy.eq(copy).and(copy_late::bucket.eq(small(bucket))))
                    .filter(copy_late::aggregate_id.eq(key));
                diesel::select(diesel::dsl::exists(late)).get_result(self)
            }

            fn is_held_since(
                &mut self,
                consumer: &str,
                aggregate: &str,
                copy: &str,
                bucket: u16,
            ) -> QueryResult<bool> {
                let held: NumberRow = diesel::sql_query($words.of(HELD_SINCE))
                    .bind::<Text, _>(copy)
                    .bind::<SmallInt, _>(small(bucket))
                    .bind::<Text, _>(consumer)
                    .bind::<SmallInt, _>(small(bucket))
                    .bind::<Text, _>(aggregate)
                    .get_result(self)?;
                Ok(held.number > 0)
            }
        }
    };
}

#[cfg(feature = "mysql")]
mark_connection!(diesel::MysqlConnection, Words::MYSQL);
#[cfg(feature = "postgres")]
mark_connection!(diesel::PgConnection, Words::POSTGRES);
#[cfg(feature = "sqlite")]
mark_connection!(diesel::SqliteConnection, Words::SQLITE);
#[cfg(feature = "async-mysql")]
mark_connection!(crate::Awaited<diesel_async::AsyncMysqlConnection>, Words::MYSQL);
#[cfg(feature = "async-postgres")]
mark_connection!(crate::Awaited<diesel_async::AsyncPgConnection>, Words::POSTGRES);
#[cfg(feature = "async-sqlite")]
mark_connection!(crate::Awaited<crate::AsyncSqliteConnection>, Words::SQLITE);
