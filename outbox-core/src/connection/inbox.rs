//! The consumer's statements. Their Rust is equal on all databases, and so is their SQL but for a few words.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, SmallInt, Text};

use super::NumberRow;
use crate::copy::misfit::{Misfit, misfits};
use crate::inbox::{Failure, HeldFrame, HeldMessage, HeldState, HeldTry};
use crate::message::{MessageId, Version};
use crate::schema::{copy_deleted, inbox, inbox_held, inbox_pause};
use crate::statement::Server;

/// The tables of a consumer on a connection.
///
/// Sealed with [`OutboxConnection`](super::OutboxConnection): the methods may change.
#[doc(hidden)]
pub trait InboxConnection {
    /// False when the consumer has applied the message before.
    fn record_applied(&mut self, consumer: &str, id: MessageId) -> QueryResult<bool>;

    /// Records them; how many of them the consumer had not applied before.
    fn record_all_applied(&mut self, consumer: &str, ids: &[MessageId]) -> QueryResult<usize>;

    /// Which of them the consumer has applied, as the 16 bytes of each.
    fn applied_among(&mut self, consumer: &str, ids: &[MessageId]) -> QueryResult<Vec<Vec<u8>>>;

    /// The most that a row of the consumer's holds: `all` before `key` before `nothing`; `None` without rows.
    fn held_most(&mut self, consumer: &str) -> QueryResult<Option<String>>;

    /// Which of these message ids are held.
    fn held_among(&mut self, consumer: &str, ids: &[&str]) -> QueryResult<Vec<String>>;

    /// Of these keys, those (aggregate, key) whose later messages have to wait.
    fn waited_for(&mut self, consumer: &str, keys: &[&str]) -> QueryResult<Vec<(String, String)>>;

    /// The most bytes that a statement may have with its values, where the server has such a limit.
    fn packet_bytes(&mut self) -> QueryResult<Option<usize>>;

    /// Stores a message, unless it is there already.
    fn hold_message(&mut self, held: &HeldMessage<'_>) -> QueryResult<()>;

    /// The message ids of what the subscriber has to do, in the order of arrival: what an operator asks for, and
    /// retries that are due within so many milliseconds.
    fn due_held(&mut self, consumer: &str, within_ms: i64, limit: i64) -> QueryResult<Vec<String>>;

    /// The message ids that stand first in their key and wait for nothing.
    fn freed_held(&mut self, consumer: &str) -> QueryResult<Vec<String>>;

    /// Takes the row until the end of the transaction; `None` when somebody else has it, or it is a retry that is
    /// not due within so many milliseconds, or it is gone.
    fn lock_held(
        &mut self,
        consumer: &str,
        message_id: &str,
        within_ms: i64,
    ) -> QueryResult<Option<HeldFrame>>;

    /// Takes the row as [`lock_held`](Self::lock_held) does, to begin a try, unless one was begun after so many
    /// milliseconds from now.
    fn lock_try(
        &mut self,
        consumer: &str,
        message_id: &str,
        within_ms: i64,
        begun_ms: i64,
    ) -> QueryResult<Option<HeldTry>>;

    /// Notes that a try begins, which counts as so many.
    fn begin_held(&mut self, consumer: &str, message_id: &str, count: i32) -> QueryResult<usize>;

    fn delete_held(&mut self, consumer: &str, message_id: &str) -> QueryResult<usize>;

    /// The message id of the first that stands in this key.
    fn first_of_key(&mut self, consumer: &str, aggregate: &str, key: &str) -> QueryResult<Option<String>>;

    /// Makes a waiting one due.
    fn free_held(&mut self, consumer: &str, message_id: &str) -> QueryResult<usize>;

    /// Notes a failed attempt on a row in state `from`.
    fn fail_held(
        &mut self,
        consumer: &str,
        message_id: &str,
        from: HeldState,
        next_in_ms: Option<i64>,
        failure: &Failure,
    ) -> QueryResult<usize>;

    /// Fails where `inbox_held` is of an earlier version.
    fn check_held(&mut self) -> QueryResult<()>;

    /// Whether an operator has paused the consumer.
    fn is_consumer_paused(&mut self, consumer: &str) -> QueryResult<bool>;

    /// The versions at which keys of a copy were deleted.
    fn deleted_among(&mut self, copy: &str, keys: &[&str]) -> QueryResult<Vec<(String, Version)>>;

    /// The version at which a key of a copy was deleted, locked until the end of the transaction. Where there is none
    /// it puts one there that is lower than any, to be forgotten or replaced in the same transaction.
    fn lock_deleted(&mut self, copy: &str, key: &str, bucket: u16) -> QueryResult<Version>;

    /// Of keys with their buckets.
    fn remember_deleted(&mut self, copy: &str, deleted: &[(&str, u16, Version)]) -> QueryResult<()>;

    fn forget_deleted(&mut self, copy: &str, keys: &[&str]) -> QueryResult<()>;

    /// What the copy's table has that does not go with it.
    fn misfits(&mut self, copy: &str) -> QueryResult<Vec<Misfit>>;

    /// Claims the copy for a source, unless another has it; returns the source that has it.
    fn claim_copy(&mut self, copy: &str, source: &str) -> QueryResult<String>;
}

/// What differs between the databases in the text of a statement.
pub(super) struct Words {
    /// Placeholders are numbered.
    is_numbered: bool,
    now: &'static str,
    /// So many milliseconds from now: of one placeholder.
    later: &'static str,
    /// At the end of an INSERT whose row may be there already; into a table of consumers, and of copies.
    keep: [&'static str; 2],
    /// At the end of an INSERT of deleted versions, for rows that are there already.
    replace: &'static str,
    /// The same, and locks the one that is there.
    keep_deleted: &'static str,
    /// How many bytes a statement may have.
    packet: Option<&'static str>,
    /// At the end of a SELECT: its rows are taken, and those that others have left out.
    lock: &'static str,
    /// At the end of a SELECT: it reads what is there now, not what was there when the transaction began to read.
    current: &'static str,
}

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
const MYSQL: Words = Words {
    is_numbered: false,
    now: "utc_timestamp(6)",
    later: "(utc_timestamp(6) + interval (? * 1000) microsecond)",
    keep: ["on duplicate key update consumer = consumer", "on duplicate key update copy = copy"],
    replace: "on duplicate key update generation = values(generation), id = values(id), deleted_at = {now}",
    keep_deleted: "on duplicate key update copy = copy",
    packet: Some(super::packet::LIMIT),
    lock: "for update skip locked",
    current: "for update",
};
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
const POSTGRES: Words = Words {
    is_numbered: true,
    now: "clock_timestamp()",
    later: "(clock_timestamp() + ?::double precision * interval '1 millisecond')",
    keep: ["on conflict do nothing"; 2],
    replace: "on conflict (copy, aggregate_id) do update set generation = excluded.generation, \
              id = excluded.id, deleted_at = {now}",
    keep_deleted: "on conflict (copy, aggregate_id) do update set copy = excluded.copy",
    packet: None,
    lock: "for update skip locked",
    current: "",
};
/// A writer of SQLite's is alone anyway.
#[cfg(feature = "sqlite")]
const SQLITE: Words = Words {
    is_numbered: false,
    now: "cast((julianday('now') - 2440587.5) * 86400000000 as integer)",
    later: "(cast((julianday('now') - 2440587.5) * 86400000000 as integer) + ? * 1000)",
    keep: ["on conflict do nothing"; 2],
    replace: "on conflict (copy, aggregate_id) do update set generation = excluded.generation, \
              id = excluded.id, deleted_at = {now}",
    keep_deleted: "on conflict do nothing",
    packet: None,
    lock: "",
    current: "",
};

impl Words {
    #[cfg(any(feature = "mysql", feature = "async-mysql"))]
    pub(super) const MYSQL: Self = MYSQL;
    #[cfg(any(feature = "postgres", feature = "async-postgres"))]
    pub(super) const POSTGRES: Self = POSTGRES;
    #[cfg(feature = "sqlite")]
    pub(super) const SQLITE: Self = SQLITE;

    /// A statement in these words.
    pub(super) fn of(&self, template: &str) -> String {
        let sql = template
            .replace("{later}", self.later)
            .replace("{keep}", self.keep[0])
            .replace("{keep_copy}", self.keep[1])
            .replace("{replace}", self.replace)
            .replace("{keep_deleted}", self.keep_deleted)
            .replace("{lock}", self.lock)
            .replace("{current}", self.current)
            .replace("{now}", self.now);
        if !self.is_numbered {
            return sql;
        }
        let mut numbered = String::with_capacity(sql.len() + 32);
        for (number, part) in sql.split('?').enumerate() {
            if number > 0 {
                numbered.push('$');
                numbered.push_str(&number.to_string());
            }
            numbered.push_str(part);
        }
        numbered
    }
}

const HOLD_MESSAGE: &str = "insert into inbox_held (consumer, message_id, bucket, kind, aggregate_type, \
     aggregate_id, state, holds, attempts, next_at, first_failed_at, last_failed_at, error, causes, source, \
     generation, id, routing_key, headers, payload) \
     values (?, ?, ?, ?, ?, ?, ?, ?, ?, {later}, {later}, {later}, ?, ?, ?, ?, ?, ?, ?, ?) {keep}";
const DUE_HELD: &str = "select message_id as name from inbox_held where consumer = ? and \
     (state in ('replay', 'force', 'discard') or (state = 'retry' and next_at <= {later})) \
     order by sequence limit ?";
const FREED_HELD: &str = "select h.message_id as name from inbox_held h join \
     (select min(sequence) as first from inbox_held where consumer = ? and holds = 'key' \
      group by aggregate_type, aggregate_id) heads on h.sequence = heads.first where h.state = 'waiting'";
const LOCK_HELD: &str = "select message_id, kind, aggregate_type, aggregate_id, state, attempts, \
     routing_key, headers, payload from inbox_held where consumer = ? and message_id = ? \
     and (state <> 'retry' or next_at <= {later}) {lock}";
const LOCK_TRY: &str = "select state, begun from inbox_held where consumer = ? and message_id = ? \
     and (state <> 'retry' or next_at <= {later}) and (begun_at is null or begun_at <= {later}) {lock}";
const BEGIN_HELD: &str = "update inbox_held set begun = begun + ?, begun_at = {now} \
     where consumer = ? and message_id = ?";
const FIRST_OF_KEY: &str = "select message_id as name from inbox_held where consumer = ? and \
     aggregate_type = ? and aggregate_id = ? and holds = 'key' order by sequence limit 1";
const FREE_HELD: &str = "update inbox_held set state = 'retry', next_at = {now} \
     where consumer = ? and message_id = ? and state = 'waiting'";
const FAIL_HELD: &str = "update inbox_held set attempts = attempts + 1, begun = 0, begun_at = null, state = ?, \
     next_at = {later}, error = ?, causes = ?, first_failed_at = coalesce(first_failed_at, {now}), last_failed_at = {now} \
     where consumer = ? and message_id = ? and state = ?";

const KEEP_DELETED: &str = "insert into copy_deleted (copy, aggregate_id, bucket, generation, id) \
     values (?, ?, ?, ?, ?) {keep_deleted}";
/// A read of what is there now, whatever the transaction has seen before.
const LOCK_DELETED: &str =
    "select generation, id from copy_deleted where copy = ? and aggregate_id = ? {current}";

/// So many values of a list every database takes.
const CHUNK: usize = 1000;

/// So many keys are looked for without asking first whether there is any.
const FEW: usize = 20;

fn remember_deleted(rows: usize) -> String {
    let rows = vec!["(?, ?, ?, ?, ?)"; rows].join(", ");
    format!("insert into copy_deleted (copy, aggregate_id, bucket, generation, id) values {rows} {{replace}}")
}

#[derive(diesel::QueryableByName)]
struct NameRow {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(diesel::QueryableByName)]
struct VersionRow {
    #[diesel(sql_type = BigInt)]
    generation: i64,
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// The methods of [`InboxConnection`]. A macro, because Diesel's bounds for a generic connection would outgrow
/// the bodies.
macro_rules! inbox_methods {
    ($words:expr, |$rows:ident| $ignoring:expr $(, $all_new:path)?) => {
        fn record_applied(&mut self, consumer: &str, id: MessageId) -> QueryResult<bool> {
            Ok(self.record_all_applied(consumer, &[id])? > 0)
        }

        fn record_all_applied(&mut self, consumer: &str, ids: &[MessageId]) -> QueryResult<usize> {
            let mut new = 0;
            for ids in ids.chunks(CHUNK) {
                $(
                    if ids.len() > 1 && $all_new(self, consumer, ids)? {
                        new += ids.len();
                        continue;
                    }
                )?
                let $rows: Vec<_> = ids
                    .iter()
                    .map(|id| (inbox::consumer.eq(consumer), inbox::message_id.eq(id.as_bytes().as_slice())))
                    .collect();
                new += $ignoring.execute(self)?;
            }
            Ok(new)
        }

        fn applied_among(&mut self, consumer: &str, ids: &[MessageId]) -> QueryResult<Vec<Vec<u8>>> {
            let mut applied = Vec::new();
            for ids in ids.chunks(CHUNK) {
                let ids = ids.iter().map(|id| id.as_bytes().as_slice());
                let known = inbox::table
                    .filter(inbox::consumer.eq(consumer).and(inbox::message_id.eq_any(ids)))
                    .select(inbox::message_id);
                applied.extend(known.load::<Vec<u8>>(self)?);
            }
            Ok(applied)
        }

        fn held_most(&mut self, consumer: &str) -> QueryResult<Option<String>> {
            inbox_held::table
                .filter(inbox_held::consumer.eq(consumer))
                .select(inbox_held::holds)
                .order(inbox_held::holds)
                .first(self)
                .optional()
        }

        fn held_among(&mut self, consumer: &str, ids: &[&str]) -> QueryResult<Vec<String>> {
            let mut held = Vec::new();
            for ids in ids.chunks(CHUNK) {
                let known = inbox_held::table
                    .filter(inbox_held::consumer.eq(consumer).and(inbox_held::message_id.eq_any(ids)))
                    .select(inbox_held::message_id);
                held.extend(known.load::<String>(self)?);
            }
            Ok(held)
        }

        fn waited_for(&mut self, consumer: &str, keys: &[&str]) -> QueryResult<Vec<(String, String)>> {
            let mut found = Vec::new();
            for keys in keys.chunks(CHUNK) {
                let rows = inbox_held::table
                    .filter(inbox_held::consumer.eq(consumer).and(inbox_held::holds.eq("key")))
                    .filter(inbox_held::aggregate_id.eq_any(keys))
                    .select((inbox_held::aggregate_type, inbox_held::aggregate_id))
                    .distinct();
                found.extend(rows.load::<(String, String)>(self)?);
            }
            Ok(found)
        }

        fn packet_bytes(&mut self) -> QueryResult<Option<usize>> {
            let Some(packet) = $words.packet else { return Ok(None) };
            let row: NumberRow = diesel::sql_query(packet).get_result(self)?;
            Ok(usize::try_from(row.number).ok())
        }

        fn hold_message(&mut self, held: &HeldMessage<'_>) -> QueryResult<()> {
            let failed = held.failure.map(|_| 0);
            let (source, generation, id) = match held.version {
                Some((source, generation, id)) => (Some(source), Some(generation), Some(id)),
                None => (None, None, None),
            };
            let insert = diesel::sql_query($words.of(HOLD_MESSAGE))
                .bind::<Text, _>(held.consumer)
                .bind::<Text, _>(held.message_id)
                .bind::<SmallInt, _>(held.bucket)
                .bind::<Text, _>(held.kind)
                .bind::<Text, _>(held.aggregate)
                .bind::<Text, _>(held.key)
                .bind::<Text, _>(held.state.name())
                .bind::<Text, _>(held.holds.name())
                .bind::<Integer, _>(held.attempts)
                .bind::<Nullable<BigInt>, _>(held.next_in_ms)
                .bind::<Nullable<BigInt>, _>(failed)
                .bind::<Nullable<BigInt>, _>(failed)
                .bind::<Text, _>(held.failure.map_or("", |failure| failure.error.as_str()))
                .bind::<Nullable<Text>, _>(held.failure.and_then(|failure| failure.causes.as_deref()))
                .bind::<Nullable<Text>, _>(source)
                .bind::<Nullable<BigInt>, _>(generation)
                .bind::<Nullable<BigInt>, _>(id)
                .bind::<Text, _>(held.routing_key)
                .bind::<Binary, _>(held.headers)
                .bind::<Binary, _>(held.payload);
            insert.execute(self).map(drop)
        }

        fn due_held(&mut self, consumer: &str, within_ms: i64, limit: i64) -> QueryResult<Vec<String>> {
            let query = diesel::sql_query($words.of(DUE_HELD))
                .bind::<Text, _>(consumer)
                .bind::<BigInt, _>(within_ms)
                .bind::<BigInt, _>(limit);
            let rows: Vec<NameRow> = query.load(self)?;
            Ok(rows.into_iter().map(|row| row.name).collect())
        }

        fn freed_held(&mut self, consumer: &str) -> QueryResult<Vec<String>> {
            let query = diesel::sql_query($words.of(FREED_HELD)).bind::<Text, _>(consumer);
            let rows: Vec<NameRow> = query.load(self)?;
            Ok(rows.into_iter().map(|row| row.name).collect())
        }

        fn lock_held(
            &mut self,
            consumer: &str,
            message_id: &str,
            within_ms: i64,
        ) -> QueryResult<Option<HeldFrame>> {
            let query = diesel::sql_query($words.of(LOCK_HELD))
                .bind::<Text, _>(consumer)
                .bind::<Text, _>(message_id)
                .bind::<BigInt, _>(within_ms);
            let rows: Vec<HeldFrame> = query.load(self)?;
            Ok(rows.into_iter().next())
        }

        fn lock_try(
            &mut self,
            consumer: &str,
            message_id: &str,
            within_ms: i64,
            begun_ms: i64,
        ) -> QueryResult<Option<HeldTry>> {
            let query = diesel::sql_query($words.of(LOCK_TRY))
                .bind::<Text, _>(consumer)
                .bind::<Text, _>(message_id)
                .bind::<BigInt, _>(within_ms)
                .bind::<BigInt, _>(begun_ms);
            let rows: Vec<HeldTry> = query.load(self)?;
            Ok(rows.into_iter().next())
        }

        fn begin_held(&mut self, consumer: &str, message_id: &str, count: i32) -> QueryResult<usize> {
            let update = diesel::sql_query($words.of(BEGIN_HELD))
                .bind::<Integer, _>(count)
                .bind::<Text, _>(consumer)
                .bind::<Text, _>(message_id);
            update.execute(self)
        }

        fn delete_held(&mut self, consumer: &str, message_id: &str) -> QueryResult<usize> {
            let row = inbox_held::table
                .filter(inbox_held::consumer.eq(consumer).and(inbox_held::message_id.eq(message_id)));
            diesel::delete(row).execute(self)
        }

        fn first_of_key(
            &mut self,
            consumer: &str,
            aggregate: &str,
            key: &str,
        ) -> QueryResult<Option<String>> {
            let query = diesel::sql_query($words.of(FIRST_OF_KEY))
                .bind::<Text, _>(consumer)
                .bind::<Text, _>(aggregate)
                .bind::<Text, _>(key);
            let rows: Vec<NameRow> = query.load(self)?;
            Ok(rows.into_iter().next().map(|row| row.name))
        }

        fn free_held(&mut self, consumer: &str, message_id: &str) -> QueryResult<usize> {
            let update =
                diesel::sql_query($words.of(FREE_HELD)).bind::<Text, _>(consumer).bind::<Text, _>(message_id);
            update.execute(self)
        }

        fn fail_held(
            &mut self,
            consumer: &str,
            message_id: &str,
            from: HeldState,
            next_in_ms: Option<i64>,
            failure: &Failure,
        ) -> QueryResult<usize> {
            let state = if next_in_ms.is_some() { HeldState::Retry } else { HeldState::Dead };
            let update = diesel::sql_query($words.of(FAIL_HELD))
                .bind::<Text, _>(state.name())
                .bind::<Nullable<BigInt>, _>(next_in_ms)
                .bind::<Text, _>(&failure.error)
                .bind::<Nullable<Text>, _>(failure.causes.as_deref())
                .bind::<Text, _>(consumer)
                .bind::<Text, _>(message_id)
                .bind::<Text, _>(from.name());
            update.execute(self)
        }

        fn check_held(&mut self) -> QueryResult<()> {
            let newest = diesel::sql_query("select begun as number from inbox_held where begun_at is null limit 0");
            newest.load::<NumberRow>(self).map(drop)
        }

        fn is_consumer_paused(&mut self, consumer: &str) -> QueryResult<bool> {
            diesel::select(diesel::dsl::exists(inbox_pause::table.find(consumer))).get_result(self)
        }

        fn deleted_among(&mut self, copy: &str, keys: &[&str]) -> QueryResult<Vec<(String, Version)>> {
            // Looking for hundreds of keys takes a tenth of their batch's time.
            let of_copy = copy_deleted::table.filter(copy_deleted::copy.eq(copy)).select(copy_deleted::copy);
            if keys.len() > FEW && of_copy.first::<String>(self).optional()?.is_none() {
                return Ok(Vec::new());
            }
            let mut deleted = Vec::new();
            for keys in keys.chunks(CHUNK) {
                let rows = copy_deleted::table
                    .filter(copy_deleted::copy.eq(copy).and(copy_deleted::aggregate_id.eq_any(keys)))
                    .select((copy_deleted::aggregate_id, copy_deleted::generation, copy_deleted::id));
                deleted.extend(rows.load::<(String, i64, i64)>(self)?);
            }
            Ok(deleted.into_iter().map(|(key, generation, id)| (key, Version { generation, id })).collect())
        }

        fn lock_deleted(&mut self, copy: &str, key: &str, bucket: u16) -> QueryResult<Version> {
            let keep = diesel::sql_query($words.of(KEEP_DELETED))
                .bind::<Text, _>(copy)
                .bind::<Text, _>(key)
                // Buckets are below 64.
                .bind::<SmallInt, _>(bucket as i16)
                .bind::<BigInt, _>(i64::MIN)
                .bind::<BigInt, _>(i64::MIN);
            keep.execute(self)?;
            let lock =
                diesel::sql_query($words.of(LOCK_DELETED)).bind::<Text, _>(copy).bind::<Text, _>(key);
            let VersionRow { generation, id } = lock.get_result(self)?;
            Ok(Version { generation, id })
        }

        fn remember_deleted(&mut self, copy: &str, deleted: &[(&str, u16, Version)]) -> QueryResult<()> {
            for deleted in deleted.chunks(CHUNK) {
                let sql = $words.of(&remember_deleted(deleted.len()));
                let mut insert = diesel::sql_query(sql).into_boxed();
                for (key, bucket, version) in deleted {
                    insert = insert
                        .bind::<Text, _>(copy)
                        .bind::<Text, _>(*key)
                        .bind::<SmallInt, _>(*bucket as i16)
                        .bind::<BigInt, _>(version.generation)
                        .bind::<BigInt, _>(version.id);
                }
                insert.execute(self)?;
            }
            Ok(())
        }

        fn forget_deleted(&mut self, copy: &str, keys: &[&str]) -> QueryResult<()> {
            for keys in keys.chunks(CHUNK) {
                let rows = copy_deleted::table
                    .filter(copy_deleted::copy.eq(copy).and(copy_deleted::aggregate_id.eq_any(keys)));
                diesel::delete(rows).execute(self)?;
            }
            Ok(())
        }

        fn misfits(&mut self, copy: &str) -> QueryResult<Vec<Misfit>> {
            let kind = <<Self as diesel::Connection>::Backend as Server>::KIND;
            // The name of a table in Rust has no quotes.
            diesel::sql_query(misfits(kind, &format!("table_name = '{copy}'"))).load(self)
        }

        fn claim_copy(&mut self, copy: &str, source: &str) -> QueryResult<String> {
            let known: Vec<NameRow> =
                diesel::sql_query($words.of("select source as name from copy_source where copy = ?"))
                    .bind::<Text, _>(copy)
                    .load(self)?;
            if let Some(NameRow { name }) = known.into_iter().next() {
                return Ok(name);
            }
            // Only the first transaction of all has others wait for it.
            let claim = $words.of("insert into copy_source (copy, source) values (?, ?) {keep_copy}");
            let claim = diesel::sql_query(claim).bind::<Text, _>(copy).bind::<Text, _>(source);
            claim.execute(self)?;
            // Somebody may have claimed it after this transaction began to read.
            let source = $words.of("select source as name from copy_source where copy = ? {current}");
            let NameRow { name } = diesel::sql_query(source).bind::<Text, _>(copy).get_result(self)?;
            Ok(name)
        }
    };
}

#[cfg(feature = "mysql")]
impl InboxConnection for diesel::MysqlConnection {
    inbox_methods!(
        MYSQL,
        |rows| diesel::insert_or_ignore_into(inbox::table).values(rows),
        super::mysql::record_all_new
    );
}

#[cfg(feature = "postgres")]
impl InboxConnection for diesel::PgConnection {
    inbox_methods!(POSTGRES, |rows| diesel::insert_into(inbox::table).values(rows).on_conflict_do_nothing());
}

#[cfg(feature = "sqlite")]
impl InboxConnection for diesel::SqliteConnection {
    inbox_methods!(SQLITE, |rows| diesel::insert_or_ignore_into(inbox::table).values(rows));
}

#[cfg(feature = "async-mysql")]
impl InboxConnection for crate::Awaited<diesel_async::AsyncMysqlConnection> {
    inbox_methods!(MYSQL, |rows| diesel::insert_or_ignore_into(inbox::table).values(rows));
}

#[cfg(feature = "async-postgres")]
impl InboxConnection for crate::Awaited<diesel_async::AsyncPgConnection> {
    inbox_methods!(POSTGRES, |rows| diesel::insert_into(inbox::table).values(rows).on_conflict_do_nothing());
}

#[cfg(feature = "async-sqlite")]
impl InboxConnection for crate::Awaited<crate::AsyncSqliteConnection> {
    inbox_methods!(SQLITE, |rows| diesel::insert_or_ignore_into(inbox::table).values(rows));
}
