//! The statements for SQLite. Other processes may use the file at the same time: a transaction of more than
//! one statement takes the write lock at once (`BEGIN IMMEDIATE`), since one that asks for it later fails
//! with "database is locked" however long it would wait. Times are milliseconds since 1970.

use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Nullable};
use diesel::{QueryableByName, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

use super::clock::Clock;
use super::dead::{Words, dead_letters};
use super::inbox::inboxes;
use super::pause::pauses;
use super::resync::resyncs;
use super::row::{
    Alive, Ask, Backlog, Body, Bucket, Depth, Failure, Head, HeldKey, LeaseRow, Meta, Owner, Setting,
};
use super::statement::{self, Statement, list, pairs};
use super::{Kind, Probe};

type Connection = SyncConnectionWrapper<SqliteConnection>;

/// What every session sets. `synchronous = full`: with `normal` a power cut brings back all that was
/// confirmed and deleted since the last checkpoint, and it is published again; one fsync per batch is cheap.
pub(super) const SESSION: &[&str] =
    &["pragma busy_timeout = 5000", "pragma journal_mode = wal", "pragma synchronous = full"];

/// What a session sets that only looks: the journal mode would stay in the file.
pub(super) const LOOKING_SESSION: &[&str] = &["pragma busy_timeout = 5000"];

/// Enough rights are those of the file; only the tables are tried.
pub(super) const PROBES: &[Probe] = &[
    Probe { table: "outbox_meta", right: "SELECT", text: "select generation from outbox_meta limit 0" },
    Probe { table: "outbox", right: "SELECT", text: "select id from outbox limit 0" },
    Probe { table: "outbox", right: "DELETE", text: "delete from outbox where id = -1" },
    Probe {
        table: "outbox_lease",
        right: "UPDATE",
        text: "update outbox_lease set lease_ms = 0 where bucket = -1",
    },
    Probe { table: "outbox_relay", right: "DELETE", text: "delete from outbox_relay where owner = ''" },
    Probe { table: "outbox_key", right: "DELETE", text: "delete from outbox_key where aggregate_type = ''" },
];

/// The clock, in milliseconds.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}

pub(super) async fn meta(c: &mut Connection) -> QueryResult<Meta> {
    Statement::fixed(
        "select generation, buckets, bucket_hash,
           (select count(unclean) from outbox_lease where bucket between 0 and 63) as leases
         from outbox_meta where id = 1",
    )
    .get_result(c)
    .await
}

/// `+o.bucket` keeps SQLite from taking the index on buckets and sorting.
pub(super) async fn heads(c: &mut Connection, ask: &Ask<'_>) -> QueryResult<Vec<Head>> {
    let text = format!(
        "select o.id, o.message_id, o.bucket, cast(o.aggregate_type as blob) as aggregate_type,
           cast(o.aggregate_id as blob) as aggregate_id, cast(o.event_type as blob) as event_type,
           o.created_at as created_at_us,
           length(cast(o.headers as blob)) + length(cast(o.payload as blob)) as bytes,
           case when length(cast(o.headers as blob)) + length(cast(o.payload as blob)) <= {inline}
             then o.headers end as headers,
           case when length(cast(o.headers as blob)) + length(cast(o.payload as blob)) <= {inline}
             then o.payload end as payload,
           k.attempts, k.head_id,
           (select generation from outbox_meta where id = 1) as generation
         from outbox o
         left join outbox_key k on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id
         where +o.bucket in ({held}) {except} {besides}
           and (k.attempts is null or (not k.parked and k.next_at <= {now}))
         order by o.id limit {rows}",
        inline = super::INLINE_BYTES_MAX,
        held = list(ask.held),
        except = except(ask.except),
        besides = besides(ask.besides),
        now = now!(),
        rows = ask.rows,
    );
    if ask.except.is_empty() && ask.besides.is_empty() {
        Statement::fixed(text)
    } else {
        Statement::once(text)
    }
    .load(c)
    .await
}

fn except(ids: &[i64]) -> String {
    if ids.is_empty() { String::new() } else { format!("and +o.id not in ({})", list(ids)) }
}

fn besides(ids: &[i64]) -> String {
    if ids.is_empty() {
        return String::new();
    }
    format!(
        "and not exists (select 1 from outbox h where h.id in ({})
           and h.aggregate_type = o.aggregate_type and h.aggregate_id = o.aggregate_id)",
        list(ids)
    )
}

pub(super) async fn bodies(c: &mut Connection, ids: &[i64]) -> QueryResult<Vec<Body>> {
    let text = format!("select id, headers, payload from outbox where id in ({})", list(ids));
    Statement::once(text).load(c).await
}

pub(super) async fn settle(
    c: &mut Connection,
    owner: &str,
    fence: &[(u16, i64)],
    ids: &[i64],
) -> QueryResult<usize> {
    let text = format!(
        "delete from outbox
         where id in ({}) and exists (
           select 1 from outbox_lease l
           where l.bucket = outbox.bucket and l.owner = ? and (l.bucket, l.epoch) in (values {}))",
        list(ids),
        pairs(fence),
    );
    Statement::once(text).text(owner).execute(c).await
}

pub(super) async fn clear_keys(
    c: &mut Connection,
    owner: &str,
    fence: &[(u16, i64)],
    ids: &[i64],
) -> QueryResult<usize> {
    let text = format!(
        "delete from outbox_key
         where (aggregate_type, aggregate_id) in (
           select o.aggregate_type, o.aggregate_id
           from outbox o join outbox_lease l on l.bucket = o.bucket
           where o.id in ({}) and l.owner = ? and (l.bucket, l.epoch) in (values {}))",
        list(ids),
        pairs(fence),
    );
    Statement::once(text).text(owner).execute(c).await
}

pub(super) async fn fail(c: &mut Connection, owner: &str, failures: &[Failure]) -> QueryResult<()> {
    c.batch_execute("begin immediate").await?;
    for failure in failures {
        Statement::fixed(concat!(
            "insert into outbox_key
               (aggregate_type, aggregate_id, head_id, attempts, parked, next_at, last_error)
             select o.aggregate_type, o.aggregate_id, o.id, ?, ?, ",
            now!(),
            " + ?, ?
             from outbox o join outbox_lease l on l.bucket = o.bucket
             where o.id = ? and l.owner = ? and l.bucket = ? and l.epoch = ?
             on conflict (aggregate_type, aggregate_id) do update
             set head_id = excluded.head_id, attempts = excluded.attempts, parked = excluded.parked,
               next_at = excluded.next_at, last_error = excluded.last_error",
        ))
        .int(failure.attempts)
        .int(failure.parked)
        .int(failure.wait_ms)
        .text(&failure.error)
        .int(failure.id)
        .text(owner)
        .int(failure.bucket)
        .int(failure.epoch)
        .execute(c)
        .await?;
    }
    c.batch_execute("commit").await
}

pub(super) async fn heartbeat(c: &mut Connection, owner: &str, ttl_ms: i64) -> QueryResult<usize> {
    Statement::fixed(concat!(
        "insert into outbox_relay (owner, lease_ms, expires_at) values (?, ?, ",
        now!(),
        " + ?)
         on conflict (owner) do update set lease_ms = excluded.lease_ms, expires_at = excluded.expires_at",
    ))
    .text(owner)
    .int(ttl_ms)
    .int(ttl_ms)
    .execute(c)
    .await
}

pub(super) async fn forget_dead(c: &mut Connection) -> QueryResult<usize> {
    Statement::fixed(concat!("delete from outbox_relay where expires_at < ", now!(), " - 3600000"))
        .execute(c)
        .await
}

pub(super) async fn leave(c: &mut Connection, owner: &str) -> QueryResult<usize> {
    Statement::fixed("delete from outbox_relay where owner = ?").text(owner).execute(c).await
}

pub(super) async fn renew(c: &mut Connection, owner: &str, ttl_ms: i64) -> QueryResult<usize> {
    Statement::fixed(concat!(
        "update outbox_lease set lease_ms = ?, expires_at = ",
        now!(),
        " + ? where owner = ?"
    ))
    .int(ttl_ms)
    .int(ttl_ms)
    .text(owner)
    .execute(c)
    .await
}

pub(super) async fn acquire(c: &mut Connection, owner: &str, ttl_ms: i64, count: u16) -> QueryResult<usize> {
    Statement::fixed(format!(
        "update outbox_lease
         set unclean = case when owner is null or owner = ? then unclean else min(unclean + 1, 1000) end,
           epoch = epoch + 1, owner = ?, expires_at = {now} + ?, lease_ms = ?
         where bucket in (
           select bucket from outbox_lease
           where owner is null or expires_at < {now} or expires_at > {now} + 2 * lease_ms
           order by bucket limit {count})",
        now = now!(),
    ))
    .text(owner)
    .text(owner)
    .int(ttl_ms)
    .int(ttl_ms)
    .execute(c)
    .await
}

pub(super) async fn leases(c: &mut Connection, owner: &str) -> QueryResult<Vec<LeaseRow>> {
    Statement::fixed(format!(
        "select l.bucket, l.epoch, l.unclean, n.live, n.rank_, n.waiting, n.parked
         from (select
             (select count(*) from outbox_relay
              where expires_at >= {now} and expires_at <= {now} + 2 * lease_ms) as live,
             (select count(*) from outbox_relay
              where expires_at >= {now} and expires_at <= {now} + 2 * lease_ms and owner < ?) as rank_,
             (select count(*) from outbox_key where not parked) as waiting,
             (select count(*) from outbox_key where parked) as parked) n
         left join outbox_lease l on l.owner = ? and l.expires_at >= {now}",
        now = now!(),
    ))
    .text(owner)
    .text(owner)
    .load(c)
    .await
}

pub(super) async fn release(c: &mut Connection, owner: &str, buckets: &[u16]) -> QueryResult<usize> {
    Statement::once(format!(
        "update outbox_lease set owner = null, expires_at = 0 where owner = ? and bucket in ({})",
        list(buckets),
    ))
    .text(owner)
    .execute(c)
    .await
}

pub(super) async fn forgive(c: &mut Connection, owner: &str) -> QueryResult<usize> {
    Statement::fixed("update outbox_lease set unclean = 0 where owner = ? and unclean > 0")
        .text(owner)
        .execute(c)
        .await
}

#[derive(QueryableByName)]
struct Top {
    #[diesel(sql_type = Nullable<BigInt>)]
    id: Option<i64>,
}

pub(super) async fn top(c: &mut Connection) -> QueryResult<Option<i64>> {
    let top: Top = Statement::fixed("select max(id) as id from outbox").get_result(c).await?;
    Ok(top.id)
}

pub(super) async fn is_left(c: &mut Connection, top: i64, movable: bool) -> QueryResult<bool> {
    let rows: Vec<Top> = Statement::fixed(format!(
        "select o.id from outbox o
         left join outbox_key k on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id
         where o.id <= ? {} order by o.id limit 1",
        if movable { "and (k.parked is null or not k.parked)" } else { "" },
    ))
    .int(top)
    .load(c)
    .await?;
    Ok(!rows.is_empty())
}

pub(super) async fn backlog(c: &mut Connection) -> QueryResult<Backlog> {
    Statement::fixed(concat!(
        "select (select min(id) from outbox) as first_id, (select max(id) from outbox) as last_id,
           (select ",
        now!(),
        " - created_at / 1000 from outbox order by id limit 1) as oldest_ms",
    ))
    .get_result(c)
    .await
}

/// By the index on buckets and ids alone.
pub(super) async fn buckets(c: &mut Connection) -> QueryResult<Vec<Bucket>> {
    Statement::fixed(format!(
        "select l.bucket, l.owner,
           (select id from outbox where bucket = l.bucket order by bucket, id limit 1) as first_id,
           (select id from outbox where bucket = l.bucket order by bucket desc, id desc limit 1)
             as last_id,
           (select {now} - created_at / 1000
            from outbox where bucket = l.bucket order by bucket, id limit 1) as oldest_ms
         from outbox_lease l order by l.bucket",
        now = now!(),
    ))
    .load(c)
    .await
}

pub(super) async fn depths(c: &mut Connection, buckets: &[u16]) -> QueryResult<Vec<Depth>> {
    Statement::once(statement::depths(buckets, "indexed by outbox_bucket", "")).load(c).await
}

pub(super) async fn relays(c: &mut Connection) -> QueryResult<Vec<Alive>> {
    Statement::fixed(concat!(
        "select owner from outbox_relay where expires_at >= ",
        now!(),
        " order by owner"
    ))
    .load(c)
    .await
}

/// By the primary key: lines are written in the order of their time.
pub(super) async fn prune_audit(c: &mut Connection, seconds: i64) -> QueryResult<usize> {
    let last: Top = Statement::fixed(concat!(
        "select max(id) as id from (select id, at from outbox_audit order by id limit 1000) oldest
             where at < (",
        now!(),
        " - ? * 1000) * 1000"
    ))
    .int(seconds)
    .get_result(c)
    .await?;
    match last.id {
        Some(id) => Statement::fixed("delete from outbox_audit where id <= ?").int(id).execute(c).await,
        None => Ok(0),
    }
}

pub(super) async fn owners(c: &mut Connection) -> QueryResult<Vec<Owner>> {
    Statement::fixed(concat!(
        "select owner, count(*) as buckets, min(expires_at - ",
        now!(),
        ") as expires_in_ms from outbox_lease group by owner order by owner",
    ))
    .load(c)
    .await
}

pub(super) async fn held_keys(c: &mut Connection, limit: u32) -> QueryResult<Vec<HeldKey>> {
    Statement::fixed(format!(
        "select aggregate_type, aggregate_id, head_id, attempts, parked, next_at - {now} as next_in_ms, last_error
         from outbox_key order by parked desc, next_at limit {limit}",
        now = now!(),
    ))
    .load(c)
    .await
}

pub(super) async fn settings(c: &mut Connection) -> QueryResult<Vec<Setting>> {
    Statement::fixed(
        "select 'version' as name, sqlite_version() as value
         union all select 'journal_mode', journal_mode from pragma_journal_mode",
    )
    .load(c)
    .await
}

pub(super) async fn ask<T>(c: &mut Connection, text: &str) -> QueryResult<Vec<T>>
where
    T: diesel::QueryableByName<diesel::sqlite::Sqlite> + Send + 'static,
{
    Statement::once(text).load(c).await
}

pub(super) async fn probe(c: &mut Connection, text: &str) -> QueryResult<()> {
    c.batch_execute(text).await
}

const WORDS: Words = Words {
    key_as_text: "k.aggregate_id",
    event_as_text: "o.event_type",
    parked_ms: concat!("(", now!(), " - k.next_at)"),
    now: now!(),
    // `begin immediate` has locked everything.
    locking: "",
    yes: "1",
    no: "0",
};
dead_letters!(Connection, WORDS, "begin immediate");
pauses!(
    Connection,
    "(cast((julianday('now') - 2440587.5) * 86400 as integer) - at / 1000000)",
    "insert into outbox_pause (id, actor, reason) values (1, ?, ?) on conflict do nothing",
    "begin immediate"
);
resyncs!(Connection, Clock(Kind::Sqlite), "begin immediate");
inboxes!(Connection, Clock(Kind::Sqlite), "begin immediate");
