//! MySQL and MariaDB.

use diesel::mysql::MysqlConnection;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Integer, SmallInt, Text};

use super::{
    BacklogSql, ConsumerSql, NumberRow, OutboxConnection, SourceRow, VersionRow, backlog_methods,
    consumer_methods, lock_hash,
};
use crate::error::{Error, ErrorKind, Result};
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

/// The rows of `outbox_slot`: as its migration made them.
const SLOTS: u64 = 1024;

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
    /// Row locks on slots: a key's hash names its slot, so that the table is bounded.
    fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        let slots: std::collections::BTreeSet<u64> =
            keys.iter().map(|(aggregate, key)| lock_hash(aggregate, key) % SLOTS).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = slots.iter().map(ToString::to_string).collect();
        let query = diesel::sql_query(format!(
            "select cast(slot as signed) as number from outbox_slot force index (primary) \
             where slot in ({}) order by slot for update",
            list.join(",")
        ));
        let locked: Vec<NumberRow> = diesel::RunQueryDsl::load(query, self).map_err(|error| {
            Error::from(error).context(
                "table outbox_slot (missing? run `outbox-relay migrate`; it needs SELECT and UPDATE)",
            )
        })?;
        if locked.len() == slots.len() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Database,
            "table outbox_slot lacks rows of 0 to 1023: insert the missing ones",
        ))
    }

    backlog_methods!(BACKLOG);
    consumer_methods!(SQL);
}
