//! Requests to send entities again, as SQL: what the service that serves them asks of one database.

use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Integer, Nullable, Text};
use diesel::{QueryableByName, RunQueryDsl as _};

use super::NumberRow;

/// Requests to send entities again on a connection.
///
/// Sealed with [`OutboxConnection`](super::OutboxConnection): the methods may change.
#[doc(hidden)]
pub trait ResyncConnection {
    /// Says that somebody serves requests to send this aggregate's entities again.
    fn offer_resync(&mut self, aggregate: &str) -> QueryResult<()>;

    /// Takes the aggregate's first request that is not over, or keeps it, for so long; `None` when there is
    /// none or another process has it.
    fn take_resync(
        &mut self,
        aggregate: &str,
        owner: &str,
        lease_ms: i64,
    ) -> QueryResult<Option<ResyncRequest>>;

    /// Writes how far a request is; false when another process has it.
    fn save_resync(&mut self, owner: &str, request: &ResyncRequest) -> QueryResult<bool>;

    fn release_resync(&mut self, owner: &str) -> QueryResult<()>;

    /// The highest id of the outbox that this transaction sees, 0 when there is none.
    fn outbox_top(&mut self) -> QueryResult<i64>;

    /// Whether a `current` message of the aggregate is left up to this id.
    fn current_is_pending(&mut self, aggregate: &str, last_id: i64) -> QueryResult<bool>;
}

/// A row of `outbox_resync`, as far as its service needs it.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct ResyncRequest {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// A JSON array; none for all entities.
    #[diesel(sql_type = Nullable<Text>)]
    pub key_list: Option<String>,
    /// 0 is no limit.
    #[diesel(sql_type = Integer)]
    pub rows_per_second: i32,
    #[diesel(sql_type = Text)]
    pub state: String,
    #[diesel(sql_type = Text)]
    pub after_id: String,
    #[diesel(sql_type = BigInt)]
    pub rows_done: i64,
    #[diesel(sql_type = BigInt)]
    pub keys_gone: i64,
    #[diesel(sql_type = BigInt)]
    pub last_id: i64,
    #[diesel(sql_type = Text)]
    pub error: String,
}

/// The texts of one database, in the order of their binds.
struct ResyncSql {
    offer: &'static str,
    take: &'static str,
    taken: &'static str,
    save: &'static str,
    release: &'static str,
    top: &'static str,
    pending: &'static str,
}

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
const MYSQL: ResyncSql = ResyncSql {
    offer: "insert into outbox_resync_service (aggregate_type) values (?) \
        on duplicate key update seen_at = utc_timestamp(6)",
    take: "update outbox_resync set owner = ?, lease_until = utc_timestamp(6) + interval ? * 1000 microsecond \
        where id = (select id from (select min(id) as id from outbox_resync \
                    where aggregate_type = ? and state not in ('done', 'failed')) first) \
          and (owner is null or owner = ? or lease_until < utc_timestamp(6))",
    taken: "select id, key_list, rows_per_second, state, after_id, rows_done, keys_gone, last_id, error \
        from outbox_resync where owner = ? and aggregate_type = ? and state not in ('done', 'failed') \
        order by id limit 1",
    save: "update outbox_resync set state = ?, after_id = ?, rows_done = ?, keys_gone = ?, last_id = ?, error = ?, \
        begun_at = coalesce(begun_at, utc_timestamp(6)), \
        ended_at = case when state in ('done', 'failed') then utc_timestamp(6) end \
        where id = ? and owner = ?",
    release: "update outbox_resync set owner = null where owner = ?",
    top: "select coalesce(max(id), 0) as number from outbox",
    pending: "select id as number from outbox force index (primary) \
        where id <= ? and aggregate_type = ? and event_type = 'current' order by id limit 1",
};

#[cfg(any(feature = "postgres", feature = "async-postgres"))]
const POSTGRES: ResyncSql = ResyncSql {
    offer: "insert into outbox_resync_service (aggregate_type) values ($1) \
        on conflict (aggregate_type) do update set seen_at = clock_timestamp()",
    take: "update outbox_resync set owner = $1, lease_until = clock_timestamp() + $2 * interval '1 millisecond' \
        where id = (select min(id) from outbox_resync \
                    where aggregate_type = $3 and state not in ('done', 'failed')) \
          and (owner is null or owner = $4 or lease_until < clock_timestamp())",
    taken: "select id, key_list, rows_per_second, state, after_id, rows_done, keys_gone, last_id, error \
        from outbox_resync where owner = $1 and aggregate_type = $2 and state not in ('done', 'failed') \
        order by id limit 1",
    save: "update outbox_resync set state = $1, after_id = $2, rows_done = $3, keys_gone = $4, last_id = $5, \
        error = $6, begun_at = coalesce(begun_at, clock_timestamp()), \
        ended_at = case when $1 in ('done', 'failed') then clock_timestamp() end \
        where id = $7 and owner = $8",
    release: "update outbox_resync set owner = null where owner = $1",
    top: "select coalesce(max(id), 0) as number from outbox",
    pending: "select id as number from outbox \
        where id <= $1 and aggregate_type = $2 and event_type = 'current' order by id limit 1",
};

#[cfg(feature = "sqlite")]
const SQLITE: ResyncSql = ResyncSql {
    offer: "insert into outbox_resync_service (aggregate_type) values (?) on conflict (aggregate_type) do update \
        set seen_at = cast((julianday('now') - 2440587.5) * 86400000000 as integer)",
    take: "update outbox_resync set owner = ?, \
          lease_until = cast((julianday('now') - 2440587.5) * 86400000000 as integer) + ? * 1000 \
        where id = (select min(id) from outbox_resync \
                    where aggregate_type = ? and state not in ('done', 'failed')) \
          and (owner is null or owner = ? \
            or lease_until < cast((julianday('now') - 2440587.5) * 86400000000 as integer))",
    taken: "select id, key_list, rows_per_second, state, after_id, rows_done, keys_gone, last_id, error \
        from outbox_resync where owner = ? and aggregate_type = ? and state not in ('done', 'failed') \
        order by id limit 1",
    save: "update outbox_resync set state = ?1, after_id = ?2, rows_done = ?3, keys_gone = ?4, last_id = ?5, \
        error = ?6, \
        begun_at = coalesce(begun_at, cast((julianday('now') - 2440587.5) * 86400000000 as integer)), \
        ended_at = case when ?1 in ('done', 'failed') \
          then cast((julianday('now') - 2440587.5) * 86400000000 as integer) end \
        where id = ?7 and owner = ?8",
    release: "update outbox_resync set owner = null where owner = ?",
    top: "select coalesce(max(id), 0) as number from outbox",
    pending: "select id as number from outbox \
        where id <= ? and aggregate_type = ? and event_type = 'current' order by id limit 1",
};

/// The methods of [`ResyncConnection`]. A macro, because Diesel's bounds for a generic connection would outgrow
/// the bodies.
macro_rules! resync_connection {
    ($connection:ty, $sql:expr) => {
        impl ResyncConnection for $connection {
            fn offer_resync(&mut self, aggregate: &str) -> QueryResult<()> {
                diesel::sql_query($sql.offer).bind::<Text, _>(aggregate).execute(self).map(drop)
            }

            fn take_resync(
                &mut self,
                aggregate: &str,
                owner: &str,
                lease_ms: i64,
            ) -> QueryResult<Option<ResyncRequest>> {
                let take = diesel::sql_query($sql.take)
                    .bind::<Text, _>(owner)
                    .bind::<BigInt, _>(lease_ms)
                    .bind::<Text, _>(aggregate)
                    .bind::<Text, _>(owner);
                if take.execute(self)? == 0 {
                    return Ok(None);
                }
                let taken = diesel::sql_query($sql.taken).bind::<Text, _>(owner).bind::<Text, _>(aggregate);
                let rows: Vec<ResyncRequest> = taken.load(self)?;
                Ok(rows.into_iter().next())
            }

            fn save_resync(&mut self, owner: &str, request: &ResyncRequest) -> QueryResult<bool> {
                let save = diesel::sql_query($sql.save)
                    .bind::<Text, _>(&request.state)
                    .bind::<Text, _>(&request.after_id)
                    .bind::<BigInt, _>(request.rows_done)
                    .bind::<BigInt, _>(request.keys_gone)
                    .bind::<BigInt, _>(request.last_id)
                    .bind::<Text, _>(&request.error)
                    .bind::<BigInt, _>(request.id)
                    .bind::<Text, _>(owner);
                Ok(save.execute(self)? > 0)
            }

            fn release_resync(&mut self, owner: &str) -> QueryResult<()> {
                diesel::sql_query($sql.release).bind::<Text, _>(owner).execute(self).map(drop)
            }

            fn outbox_top(&mut self) -> QueryResult<i64> {
                let row: NumberRow = diesel::sql_query($sql.top).get_result(self)?;
                Ok(row.number)
            }

            fn current_is_pending(&mut self, aggregate: &str, last_id: i64) -> QueryResult<bool> {
                let pending =
                    diesel::sql_query($sql.pending).bind::<BigInt, _>(last_id).bind::<Text, _>(aggregate);
                let rows: Vec<NumberRow> = pending.load(self)?;
                Ok(!rows.is_empty())
            }
        }
    };
}

#[cfg(feature = "mysql")]
resync_connection!(diesel::MysqlConnection, MYSQL);
#[cfg(feature = "postgres")]
resync_connection!(diesel::PgConnection, POSTGRES);
#[cfg(feature = "sqlite")]
resync_connection!(diesel::SqliteConnection, SQLITE);
#[cfg(feature = "async-mysql")]
resync_connection!(crate::Awaited<diesel_async::AsyncMysqlConnection>, MYSQL);
#[cfg(feature = "async-postgres")]
resync_connection!(crate::Awaited<diesel_async::AsyncPgConnection>, POSTGRES);
#[cfg(feature = "async-sqlite")]
resync_connection!(crate::Awaited<crate::AsyncSqliteConnection>, SQLITE);
