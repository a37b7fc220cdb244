//! MySQL and MariaDB.

use diesel::mysql::MysqlConnection;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Integer, SmallInt, Text};

use super::lock::Slots;
use super::{
    BacklogSql, ConsumerSql, NumberRow, OutboxConnection, SourceRow, VersionRow, backlog_methods,
    consumer_methods, testing_methods,
};
use crate::error::Result;
use crate::inbox::HeldMessage;
use crate::message::{Message, MessageId, Version};

const SQL: ConsumerSql = ConsumerSql {
    record_applied: "insert ignore into inbox (consumer, message_id) values (?, ?)",
    hold_message: "insert into inbox_held \
        (consumer, message_id, bucket, kind, aggregate_id, state, attempts, error, routing_key, headers, payload) \
        values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
        on duplicate key update state = values(state), attempts = attempts + values(attempts), error = values(error)",
    deleted_version: "select generation, id from copy_deleted where copy = ? and aggregate_id = ?",
    remember_deleted: "insert into copy_deleted (copy, aggregate_id, bucket, generation, id) values (?, ?, ?, ?, ?) \
        on duplicate key update generation = values(generation), id = values(id)",
    forget_deleted: "delete from copy_deleted where copy = ? and aggregate_id = ?",
    claim_copy: "insert ignore into copy_source (copy, source) values (?, ?)",
    copy_source: "select source from copy_source where copy = ?",
};

/// Indexes are forced: a plan made for an empty table reads or sorts all of a full one. The rows are counted
/// off on the narrow index.
const BACKLOG: BacklogSql = BacklogSql {
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
};

impl OutboxConnection for MysqlConnection {
    const DEADLOCK_ENDS_ALL: bool = true;

    fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        let slots = Slots::of(keys);
        let locked = diesel::RunQueryDsl::load::<NumberRow>(diesel::sql_query(slots.sql()), self);
        slots.check(locked.map(|rows| rows.len()))
    }

    backlog_methods!(BACKLOG);
    consumer_methods!(SQL);
    testing_methods!("timestampdiff(microsecond, '1970-01-01 00:00:00', created_at)");
}
