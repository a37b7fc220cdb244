//! MySQL and MariaDB.

use diesel::connection::SimpleConnection as _;
use diesel::mysql::MysqlConnection;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Binary, Integer, SmallInt, Text};

use super::lock::Slots;
use super::{
    ConsumerSql, NumberRow, OutboxConnection, SourceRow, VersionRow, append_methods, backlog,
    backlog_methods, consumer_methods, rendered, testing_methods,
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
impl OutboxConnection for MysqlConnection {
    const DEADLOCK_ENDS_ALL: bool = true;

    fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        let slots = Slots::of(keys);
        let locked = diesel::RunQueryDsl::load::<NumberRow>(diesel::sql_query(slots.sql()), self);
        slots.check(locked.map(|rows| rows.len()))
    }

    backlog_methods!(backlog::MYSQL);
    append_methods!(|connection, run| connection.batch_execute(&rendered::insert(run)));
    consumer_methods!(SQL);
    testing_methods!("timestampdiff(microsecond, '1970-01-01 00:00:00', created_at)");
}
