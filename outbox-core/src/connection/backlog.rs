//! How full the outbox is, and how old a row, as SQL: for sync and async connections alike.

/// The texts by which a writer looks at the backlog of one database.
#[doc(hidden)]
pub(crate) struct BacklogSql {
    pub(crate) ends: &'static str,
    pub(crate) oldest_movable: &'static str,
    pub(crate) exceeds: &'static str,
    /// When a row was written, in microseconds since 1970.
    #[cfg(feature = "testing")]
    pub(crate) created_at_us: &'static str,
}

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
pub(crate) const MYSQL: BacklogSql = BacklogSql {
    ends: "select (select min(id) from outbox) as first_id, (select max(id) from outbox) as last_id, \
        (select timestampdiff(microsecond, created_at, utc_timestamp(6)) div 1000 \
         from outbox force index (primary) order by id limit 1) as oldest_ms",
    oldest_movable: "select timestampdiff(microsecond, o.created_at, utc_timestamp(6)) div 1000 as number \
        from (select id, aggregate_type, aggregate_id, created_at \
              from outbox force index (primary) order by id limit 10000) o \
        left join outbox_key k force index (primary) \
          on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id \
        where k.parked is null or not k.parked order by o.id limit 1",
    exceeds: "select id as number from outbox force index (outbox_bucket) limit 1 offset ?",
    #[cfg(feature = "testing")]
    created_at_us: "timestampdiff(microsecond, '1970-01-01 00:00:00', created_at)",
};

#[cfg(any(feature = "postgres", feature = "async-postgres"))]
pub(crate) const POSTGRES: BacklogSql = BacklogSql {
    ends: "select (select min(id) from outbox) as first_id, (select max(id) from outbox) as last_id, \
        (select (extract(epoch from clock_timestamp() - created_at) * 1000)::bigint \
         from outbox order by id limit 1) as oldest_ms",
    oldest_movable: "select (extract(epoch from clock_timestamp() - o.created_at) * 1000)::bigint as number \
        from (select id, aggregate_type, aggregate_id, created_at from outbox order by id limit 10000) o \
        left join outbox_key k on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id \
        where k.parked is null or not k.parked order by o.id limit 1",
    // Without an order: a plan made for an empty table would sort all of a full one.
    exceeds: "select id as number from outbox limit 1 offset $1",
    #[cfg(feature = "testing")]
    created_at_us: "(extract(epoch from created_at) * 1000000)::bigint",
};

#[cfg(feature = "sqlite")]
pub(crate) const SQLITE: BacklogSql = BacklogSql {
    ends: "select (select min(id) from outbox) as first_id, (select max(id) from outbox) as last_id, \
        (select cast((julianday('now') - 2440587.5) * 86400000 as integer) - created_at / 1000 \
         from outbox order by id limit 1) as oldest_ms",
    oldest_movable: "select cast((julianday('now') - 2440587.5) * 86400000 as integer) - o.created_at / 1000 \
          as number \
        from (select id, aggregate_type, aggregate_id, created_at from outbox order by id limit 10000) o \
        left join outbox_key k on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id \
        where k.parked is null or not k.parked order by o.id limit 1",
    exceeds: "select id as number from outbox indexed by outbox_bucket limit 1 offset ?",
    #[cfg(feature = "testing")]
    created_at_us: "created_at",
};
