//! What keeps a consumer's tables small, and tells how far it has come.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, SmallInt, Text};

use super::inbox::Words;
use crate::message::Version;

/// How far a consumer has come in one queue with the messages of one source.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
#[doc(hidden)]
pub struct ProgressRow {
    #[diesel(sql_type = Text)]
    pub source: String,
    #[diesel(sql_type = SmallInt)]
    pub queue: i16,
    #[diesel(sql_type = BigInt)]
    pub generation: i64,
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Microseconds since 1970.
    #[diesel(sql_type = BigInt)]
    pub recorded_us: i64,
    #[diesel(sql_type = BigInt)]
    pub applied_us: i64,
    /// How long ago it was recorded, by this database's clock.
    #[diesel(sql_type = BigInt)]
    pub age_us: i64,
}

/// The upkeep of a consumer's tables on a connection.
///
/// Sealed with [`OutboxConnection`](super::OutboxConnection): the methods may change.
#[doc(hidden)]
pub trait UpkeepConnection {
    /// Takes the turn to prune for so long; false while somebody else has it.
    fn claim_upkeep(&mut self, consumer: &str, for_ms: i64) -> QueryResult<bool>;

    fn release_upkeep(&mut self, consumer: &str) -> QueryResult<()>;

    /// Microseconds since 1970; `None` before anything was pruned.
    fn horizon_us(&mut self, consumer: &str) -> QueryResult<Option<i64>>;

    /// Raises the horizon to so long ago.
    fn raise_horizon(&mut self, consumer: &str, ago_ms: i64) -> QueryResult<()>;

    /// Deletes, of so many rows of the inbox after this id and before that one, those that were applied so long
    /// ago. Returns the id of the last one looked at, `None` when there were fewer, and how many were deleted.
    fn prune_inbox(
        &mut self,
        consumer: &str,
        ids: [&[u8]; 2],
        ago_ms: i64,
        count: i64,
    ) -> QueryResult<(Option<Vec<u8>>, usize)>;

    /// Deletes so many of the copy's oldest marks of deleted keys that are so old; how many there were.
    fn prune_deleted(&mut self, copy: &str, ago_ms: i64, count: i64) -> QueryResult<usize>;

    fn save_progress(
        &mut self,
        consumer: &str,
        source: &str,
        queue: i16,
        version: Version,
        recorded_us: i64,
    ) -> QueryResult<()>;

    fn progress(&mut self, consumer: &str) -> QueryResult<Vec<ProgressRow>>;
}

/// How a database counts time.
struct Clock {
    words: Words,
    /// A column as microseconds since 1970: what stands before and behind it.
    us: [&'static str; 2],
    /// Microseconds since 1970, of one placeholder, as a time.
    time: &'static str,
    /// At the end of an INSERT of progress.
    replace: &'static str,
}

impl Clock {
    fn of(&self, template: &str) -> String {
        let template = template
            .replace("{us:", self.us[0])
            .replace(":us}", self.us[1])
            .replace("{time}", self.time)
            .replace("{replace_progress}", self.replace);
        self.words.of(&template)
    }
}

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
const MYSQL: Clock = Clock {
    words: Words::MYSQL,
    us: ["timestampdiff(microsecond, '1970-01-01 00:00:00', ", ")"],
    time: "(cast('1970-01-01 00:00:00' as datetime(6)) + interval ? microsecond)",
    replace: "on duplicate key update generation = values(generation), id = values(id), \
              recorded_at = values(recorded_at), applied_at = values(applied_at)",
};
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
const POSTGRES: Clock = Clock {
    words: Words::POSTGRES,
    us: ["(extract(epoch from ", ") * 1000000)::bigint"],
    time: "('epoch'::timestamptz + ?::double precision * interval '1 microsecond')",
    replace: REPLACE,
};
#[cfg(feature = "sqlite")]
const SQLITE: Clock = Clock { words: Words::SQLITE, us: ["", ""], time: "?", replace: REPLACE };
#[cfg(any(feature = "postgres", feature = "async-postgres", feature = "sqlite"))]
const REPLACE: &str = "on conflict (consumer, source, queue) do update set generation = excluded.generation, \
    id = excluded.id, recorded_at = excluded.recorded_at, applied_at = excluded.applied_at";

const MAKE_CONSUMER: &str = "insert into inbox_consumer (consumer) values (?) {keep}";
const CLAIM_UPKEEP: &str = "update inbox_consumer set upkeep_until = {later} where consumer = ? and \
     (upkeep_until is null or upkeep_until < {now})";
const RELEASE_UPKEEP: &str = "update inbox_consumer set upkeep_until = null where consumer = ?";
const HORIZON: &str = "select {us:horizon:us} as number from inbox_consumer where consumer = ? and \
     horizon is not null";
const RAISE_HORIZON: &str = "update inbox_consumer set horizon = {later} where consumer = ? and \
     (horizon is null or horizon < {later})";
const LAST_OF_CHUNK: &str = "select message_id as id from inbox where consumer = ? and message_id > ? and \
     message_id < ? order by message_id limit 1 offset ?";
const PRUNE_INBOX: &str = "delete from inbox where consumer = ? and message_id > ? and message_id <= ? and \
     applied_at < {later}";
const OLD_DELETED: &str = "select aggregate_id as name from copy_deleted where copy = ? and deleted_at < {later} \
     order by deleted_at limit ?";
const PRUNE_DELETED: &str =
    "delete from copy_deleted where copy = ? and aggregate_id = ? and deleted_at < {later}";
const SAVE_PROGRESS: &str = "insert into inbox_progress (consumer, source, queue, generation, id, recorded_at, \
     applied_at) values (?, ?, ?, ?, ?, {time}, {now}) {replace_progress}";
const PROGRESS: &str = "select source, queue, generation, id, {us:recorded_at:us} as recorded_us, \
     {us:applied_at:us} as applied_us, ({us:{now}:us} - {us:recorded_at:us}) as age_us \
     from inbox_progress where consumer = ? order by source, queue";

#[derive(QueryableByName)]
struct NumberRow {
    #[diesel(sql_type = Nullable<BigInt>)]
    number: Option<i64>,
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = Binary)]
    id: Vec<u8>,
}

#[derive(QueryableByName)]
struct NameRow {
    #[diesel(sql_type = Text)]
    name: String,
}

/// The methods of [`UpkeepConnection`]. A macro, because Diesel's bounds for a generic connection would outgrow
/// the bodies.
macro_rules! upkeep_methods {
    ($clock:expr) => {
        fn claim_upkeep(&mut self, consumer: &str, for_ms: i64) -> QueryResult<bool> {
            diesel::sql_query($clock.of(MAKE_CONSUMER)).bind::<Text, _>(consumer).execute(self)?;
            let claim = diesel::sql_query($clock.of(CLAIM_UPKEEP));
            Ok(claim.bind::<BigInt, _>(for_ms).bind::<Text, _>(consumer).execute(self)? > 0)
        }

        fn release_upkeep(&mut self, consumer: &str) -> QueryResult<()> {
            diesel::sql_query($clock.of(RELEASE_UPKEEP)).bind::<Text, _>(consumer).execute(self).map(drop)
        }

        fn horizon_us(&mut self, consumer: &str) -> QueryResult<Option<i64>> {
            let query = diesel::sql_query($clock.of(HORIZON)).bind::<Text, _>(consumer);
            let rows: Vec<NumberRow> = query.load(self)?;
            Ok(rows.first().and_then(|row| row.number))
        }

        fn raise_horizon(&mut self, consumer: &str, ago_ms: i64) -> QueryResult<()> {
            diesel::sql_query($clock.of(RAISE_HORIZON))
                .bind::<BigInt, _>(-ago_ms)
                .bind::<Text, _>(consumer)
                .bind::<BigInt, _>(-ago_ms)
                .execute(self)
                .map(drop)
        }

        fn prune_inbox(
            &mut self,
            consumer: &str,
            [after, before]: [&[u8]; 2],
            ago_ms: i64,
            count: i64,
        ) -> QueryResult<(Option<Vec<u8>>, usize)> {
            let last = diesel::sql_query($clock.of(LAST_OF_CHUNK))
                .bind::<Text, _>(consumer)
                .bind::<Binary, _>(after)
                .bind::<Binary, _>(before)
                .bind::<BigInt, _>(count - 1);
            let last = last.load::<IdRow>(self)?.into_iter().next().map(|row| row.id);
            let deleted = diesel::sql_query($clock.of(PRUNE_INBOX))
                .bind::<Text, _>(consumer)
                .bind::<Binary, _>(after)
                .bind::<Binary, _>(last.as_deref().unwrap_or(before))
                .bind::<BigInt, _>(-ago_ms)
                .execute(self)?;
            Ok((last, deleted))
        }

        fn prune_deleted(&mut self, copy: &str, ago_ms: i64, count: i64) -> QueryResult<usize> {
            let old = diesel::sql_query($clock.of(OLD_DELETED))
                .bind::<Text, _>(copy)
                .bind::<BigInt, _>(-ago_ms)
                .bind::<BigInt, _>(count);
            let keys: Vec<_> = old.load::<NameRow>(self)?.into_iter().map(|row| row.name).collect();
            // One by one by the whole key: a key that was deleted again meanwhile keeps its mark.
            for key in &keys {
                diesel::sql_query($clock.of(PRUNE_DELETED))
                    .bind::<Text, _>(copy)
                    .bind::<Text, _>(key)
                    .bind::<BigInt, _>(-ago_ms)
                    .execute(self)?;
            }
            Ok(keys.len())
        }

        fn save_progress(
            &mut self,
            consumer: &str,
            source: &str,
            queue: i16,
            version: Version,
            recorded_us: i64,
        ) -> QueryResult<()> {
            diesel::sql_query($clock.of(SAVE_PROGRESS))
                .bind::<Text, _>(consumer)
                .bind::<Text, _>(source)
                .bind::<SmallInt, _>(queue)
                .bind::<BigInt, _>(version.generation)
                .bind::<BigInt, _>(version.id)
                .bind::<BigInt, _>(recorded_us)
                .execute(self)
                .map(drop)
        }

        fn progress(&mut self, consumer: &str) -> QueryResult<Vec<ProgressRow>> {
            diesel::sql_query($clock.of(PROGRESS)).bind::<Text, _>(consumer).load(self)
        }
    };
}

#[cfg(feature = "mysql")]
impl UpkeepConnection for diesel::MysqlConnection {
    upkeep_methods!(MYSQL);
}

#[cfg(feature = "postgres")]
impl UpkeepConnection for diesel::PgConnection {
    upkeep_methods!(POSTGRES);
}

#[cfg(feature = "sqlite")]
impl UpkeepConnection for diesel::SqliteConnection {
    upkeep_methods!(SQLITE);
}

#[cfg(feature = "async-mysql")]
impl UpkeepConnection for crate::Awaited<diesel_async::AsyncMysqlConnection> {
    upkeep_methods!(MYSQL);
}

#[cfg(feature = "async-postgres")]
impl UpkeepConnection for crate::Awaited<diesel_async::AsyncPgConnection> {
    upkeep_methods!(POSTGRES);
}

#[cfg(feature = "async-sqlite")]
impl UpkeepConnection for crate::Awaited<crate::AsyncSqliteConnection> {
    upkeep_methods!(SQLITE);
}
