//! The statements for MySQL and MariaDB. Sessions run READ COMMITTED: under REPEATABLE READ a locking read
//! that reaches the end of the table stalls every writer. All times are UTC.

use diesel::QueryableByName;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Nullable, SmallInt, Text};
use diesel_async::{AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection};

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

/// What every session sets: a lock wait is given up long before the statement's own limit, so that the
/// server's words for it reach the log.
pub(super) const SESSION: &[&str] = &[
    "set session transaction isolation level read committed",
    "set session time_zone = '+00:00', session innodb_lock_wait_timeout = 10",
    // Errors are known by their texts: Diesel keeps no numbers.
    "set session lc_messages = 'en_US'",
];

/// A relay that vanishes in the middle, behind a cut cable or stopped, must not hold its share of the leases
/// until the server's own eight hours are over: nobody could take them.
const BEGIN: &str = "set session wait_timeout = 20; start transaction";
const COMMIT: &str = "commit; set session wait_timeout = default";

pub(super) const PROBES: &[Probe] = &[
    Probe { table: "outbox_meta", right: "SELECT", text: "select generation from outbox_meta limit 0" },
    Probe { table: "outbox", right: "SELECT", text: "select id from outbox limit 0" },
    Probe { table: "outbox", right: "DELETE", text: "delete from outbox where id = -1" },
    Probe { table: "outbox_lease", right: "SELECT", text: "select bucket from outbox_lease limit 0" },
    Probe {
        table: "outbox_lease",
        right: "UPDATE",
        text: "update outbox_lease set lease_ms = 0 where bucket = -1",
    },
    Probe { table: "outbox_relay", right: "SELECT", text: "select owner from outbox_relay limit 0" },
    Probe {
        table: "outbox_relay",
        right: "INSERT",
        text: "insert into outbox_relay (owner, lease_ms, expires_at) \
               select '', 0, utc_timestamp(6) from (select 1 as n) one where n = 0",
    },
    Probe {
        table: "outbox_relay",
        right: "UPDATE",
        text: "update outbox_relay set lease_ms = 0 where owner = ''",
    },
    Probe { table: "outbox_relay", right: "DELETE", text: "delete from outbox_relay where owner = ''" },
    Probe { table: "outbox_key", right: "SELECT", text: "select head_id from outbox_key limit 0" },
    Probe {
        table: "outbox_key",
        right: "INSERT",
        text: "insert into outbox_key \
               (aggregate_type, aggregate_id, head_id, attempts, parked, next_at, last_error) \
               select '', '', 0, 0, true, utc_timestamp(6), '' from (select 1 as n) one where n = 0",
    },
    Probe {
        table: "outbox_key",
        right: "UPDATE",
        text: "update outbox_key set attempts = 0 where aggregate_type = ''",
    },
    Probe { table: "outbox_key", right: "DELETE", text: "delete from outbox_key where aggregate_type = ''" },
];

pub(super) async fn meta(c: &mut AsyncMysqlConnection) -> QueryResult<Meta> {
    Statement::fixed(
        "select generation, buckets, bucket_hash,
           (select count(unclean) from outbox_lease where bucket between 0 and 63) as leases
         from outbox_meta where id = 1",
    )
    .get_result(c)
    .await
}

/// Both indexes are forced: an outbox is empty whenever statistics are taken, and a plan made for an empty
/// table sorts the whole backlog for each read.
pub(super) async fn heads(c: &mut AsyncMysqlConnection, ask: &Ask<'_>) -> QueryResult<Vec<Head>> {
    let text = format!(
        "select o.id, o.message_id, o.bucket, o.aggregate_type, o.aggregate_id, o.event_type,
           timestampdiff(microsecond, '1970-01-01 00:00:00', o.created_at) as created_at_us,
           octet_length(o.headers) + octet_length(o.payload) as bytes,
           case when octet_length(o.headers) + octet_length(o.payload) <= {inline} then o.headers end as headers,
           case when octet_length(o.headers) + octet_length(o.payload) <= {inline} then o.payload end as payload,
           k.attempts, k.head_id,
           (select generation from outbox_meta where id = 1) as generation
         from outbox o force index (primary)
         left join outbox_key k force index (primary)
           on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id
         where o.bucket in ({held}) {except} {besides}
           and (k.attempts is null or (not k.parked and k.next_at <= utc_timestamp(6)))
         order by o.id limit {rows}",
        inline = super::INLINE_BYTES_MAX,
        held = list(ask.held),
        except = except(ask.except),
        besides = besides(ask.besides),
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
    if ids.is_empty() { String::new() } else { format!("and o.id not in ({})", list(ids)) }
}

fn besides(ids: &[i64]) -> String {
    if ids.is_empty() {
        return String::new();
    }
    format!(
        "and not exists (select 1 from outbox h force index (primary) where h.id in ({})
           and h.aggregate_type = o.aggregate_type and h.aggregate_id = o.aggregate_id)",
        list(ids)
    )
}

pub(super) async fn bodies(c: &mut AsyncMysqlConnection, ids: &[i64]) -> QueryResult<Vec<Body>> {
    let text = format!("select id, headers, payload from outbox where id in ({})", list(ids));
    Statement::once(text).load(c).await
}

/// Opens a transaction and holds those of the leases that are still this owner's, in the order in which
/// they are renewed: a DELETE that met them row by row would deadlock with that.
async fn hold_leases(
    c: &mut AsyncMysqlConnection,
    owner: &str,
    fence: &[(u16, i64)],
) -> QueryResult<Vec<LeaseEpoch>> {
    c.batch_execute(BEGIN).await?;
    let text = format!(
        "select bucket, epoch from outbox_lease where owner = ? and (bucket, epoch) in ({})
         order by bucket lock in share mode",
        pairs(fence),
    );
    Statement::once(text).text(owner).load(c).await
}

#[derive(QueryableByName)]
struct LeaseEpoch {
    #[diesel(sql_type = SmallInt)]
    bucket: i16,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// Runs a statement on rows of the buckets that are still held. An error leaves the transaction to the end of
/// the connection.
async fn fenced(
    c: &mut AsyncMysqlConnection,
    owner: &str,
    fence: &[(u16, i64)],
    statement: impl FnOnce(&str) -> String,
) -> QueryResult<usize> {
    let held = hold_leases(c, owner, fence).await?;
    let mut rows = 0;
    if !held.is_empty() {
        let buckets = list(held.iter().map(|lease| lease.bucket));
        rows = Statement::once(statement(&buckets)).execute(c).await?;
    }
    c.batch_execute(COMMIT).await?;
    Ok(rows)
}

pub(super) async fn settle(
    c: &mut AsyncMysqlConnection,
    owner: &str,
    fence: &[(u16, i64)],
    ids: &[i64],
) -> QueryResult<usize> {
    fenced(c, owner, fence, |buckets| {
        // By the primary key: the index on buckets would lead to rows that a writer has not committed yet.
        format!(
            "delete o from outbox o force index (primary) where o.id in ({}) and o.bucket in ({buckets})",
            list(ids)
        )
    })
    .await
}

pub(super) async fn clear_keys(
    c: &mut AsyncMysqlConnection,
    owner: &str,
    fence: &[(u16, i64)],
    ids: &[i64],
) -> QueryResult<usize> {
    fenced(c, owner, fence, |buckets| {
        format!(
            "delete k from outbox o force index (primary)
             straight_join outbox_key k force index (primary)
               on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id
             where o.id in ({}) and o.bucket in ({buckets})",
            list(ids)
        )
    })
    .await
}

pub(super) async fn fail(c: &mut AsyncMysqlConnection, owner: &str, failures: &[Failure]) -> QueryResult<()> {
    let fence: Vec<_> = failures.iter().map(|failure| (failure.bucket, failure.epoch)).collect();
    let held = hold_leases(c, owner, &fence).await?;
    let is_held = |failure: &&Failure| {
        held.iter().any(|l| l.bucket == failure.bucket as i16 && l.epoch == failure.epoch)
    };
    for failure in failures.iter().filter(is_held) {
        Statement::fixed(
            "insert into outbox_key
               (aggregate_type, aggregate_id, head_id, attempts, parked, next_at, last_error)
             select o.aggregate_type, o.aggregate_id, o.id, ?, ?, utc_timestamp(6) + interval ? * 1000 microsecond, ?
             from outbox o where o.id = ?
             on duplicate key update head_id = values(head_id), attempts = values(attempts),
               parked = values(parked), next_at = values(next_at), last_error = values(last_error)",
        )
        .int(failure.attempts)
        .int(failure.parked)
        .int(failure.wait_ms)
        .text(&failure.error)
        .int(failure.id)
        .execute(c)
        .await?;
    }
    c.batch_execute(COMMIT).await
}

pub(super) async fn heartbeat(c: &mut AsyncMysqlConnection, owner: &str, ttl_ms: i64) -> QueryResult<usize> {
    Statement::fixed(
        "insert into outbox_relay (owner, lease_ms, expires_at)
         values (?, ?, utc_timestamp(6) + interval ? * 1000 microsecond)
         on duplicate key update lease_ms = values(lease_ms), expires_at = values(expires_at)",
    )
    .text(owner)
    .int(ttl_ms)
    .int(ttl_ms)
    .execute(c)
    .await
}

pub(super) async fn forget_dead(c: &mut AsyncMysqlConnection) -> QueryResult<usize> {
    Statement::fixed("delete from outbox_relay where expires_at < utc_timestamp(6) - interval 1 hour")
        .execute(c)
        .await
}

pub(super) async fn leave(c: &mut AsyncMysqlConnection, owner: &str) -> QueryResult<usize> {
    Statement::fixed("delete from outbox_relay where owner = ?").text(owner).execute(c).await
}

pub(super) async fn renew(c: &mut AsyncMysqlConnection, owner: &str, ttl_ms: i64) -> QueryResult<usize> {
    Statement::fixed(
        "update outbox_lease
         set lease_ms = ?, expires_at = utc_timestamp(6) + interval ? * 1000 microsecond
         where owner = ?",
    )
    .int(ttl_ms)
    .int(ttl_ms)
    .text(owner)
    .execute(c)
    .await
}

pub(super) async fn acquire(
    c: &mut AsyncMysqlConnection,
    owner: &str,
    ttl_ms: i64,
    count: u16,
) -> QueryResult<usize> {
    // Leases that a vanished relay has locked in the middle of a transaction must not keep all others from being taken:
    // an UPDATE would wait for them, SKIP LOCKED does not.
    c.batch_execute(BEGIN).await?;
    let free: Vec<FreeBucket> = Statement::fixed(format!(
        "select bucket from outbox_lease
         where owner is null or expires_at < utc_timestamp(6)
           or expires_at > utc_timestamp(6) + interval lease_ms * 2000 microsecond
         order by bucket limit {count} for update skip locked",
    ))
    .load(c)
    .await?;
    let mut rows = 0;
    if !free.is_empty() {
        // The order of the assignments matters here: the server runs them from left to right.
        rows = Statement::once(format!(
            "update outbox_lease
             set unclean = case when owner is null or owner = ? then unclean else least(unclean + 1, 1000) end,
               epoch = epoch + 1, owner = ?, expires_at = utc_timestamp(6) + interval ? * 1000 microsecond,
               lease_ms = ?
             where bucket in ({})",
            list(free.iter().map(|free| free.bucket))
        ))
        .text(owner)
        .text(owner)
        .int(ttl_ms)
        .int(ttl_ms)
        .execute(c)
        .await?;
    }
    c.batch_execute(COMMIT).await?;
    Ok(rows)
}

#[derive(QueryableByName)]
struct FreeBucket {
    #[diesel(sql_type = SmallInt)]
    bucket: i16,
}

pub(super) async fn leases(c: &mut AsyncMysqlConnection, owner: &str) -> QueryResult<Vec<LeaseRow>> {
    Statement::fixed(
        "select l.bucket, l.epoch, l.unclean, n.live, n.rank_, n.waiting, n.parked
         from (select
             (select count(*) from outbox_relay
              where expires_at >= utc_timestamp(6)
                and expires_at <= utc_timestamp(6) + interval lease_ms * 2000 microsecond) as live,
             (select count(*) from outbox_relay
              where expires_at >= utc_timestamp(6)
                and expires_at <= utc_timestamp(6) + interval lease_ms * 2000 microsecond and owner < ?) as rank_,
             (select count(*) from outbox_key where not parked) as waiting,
             (select count(*) from outbox_key where parked) as parked) n
         left join outbox_lease l on l.owner = ? and l.expires_at >= utc_timestamp(6)",
    )
    .text(owner)
    .text(owner)
    .load(c)
    .await
}

pub(super) async fn release(
    c: &mut AsyncMysqlConnection,
    owner: &str,
    buckets: &[u16],
) -> QueryResult<usize> {
    Statement::once(format!(
        "update outbox_lease set owner = null, expires_at = '1970-01-02 00:00:00'
         where owner = ? and bucket in ({})",
        list(buckets),
    ))
    .text(owner)
    .execute(c)
    .await
}

pub(super) async fn forgive(c: &mut AsyncMysqlConnection, owner: &str) -> QueryResult<usize> {
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

pub(super) async fn top(c: &mut AsyncMysqlConnection) -> QueryResult<Option<i64>> {
    let top: Top = Statement::fixed("select max(id) as id from outbox").get_result(c).await?;
    Ok(top.id)
}

pub(super) async fn is_left(c: &mut AsyncMysqlConnection, top: i64, movable: bool) -> QueryResult<bool> {
    let rows: Vec<Top> = Statement::fixed(format!(
        "select o.id from outbox o force index (primary)
         left join outbox_key k force index (primary)
           on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id
         where o.id <= ? {} order by o.id limit 1",
        if movable { "and (k.parked is null or not k.parked)" } else { "" },
    ))
    .int(top)
    .load(c)
    .await?;
    Ok(!rows.is_empty())
}

pub(super) async fn backlog(c: &mut AsyncMysqlConnection) -> QueryResult<Backlog> {
    Statement::fixed(
        "select (select min(id) from outbox) as first_id, (select max(id) from outbox) as last_id,
           (select timestampdiff(microsecond, created_at, utc_timestamp(6)) div 1000
            from outbox order by id limit 1) as oldest_ms",
    )
    .get_result(c)
    .await
}

/// By the index on buckets and ids alone.
pub(super) async fn buckets(c: &mut AsyncMysqlConnection) -> QueryResult<Vec<Bucket>> {
    Statement::fixed(
        "select l.bucket, l.owner,
           (select id from outbox force index (outbox_bucket) where bucket = l.bucket order by bucket, id limit 1) as first_id,
           (select id from outbox force index (outbox_bucket) where bucket = l.bucket order by bucket desc, id desc limit 1)
             as last_id,
           (select timestampdiff(microsecond, created_at, utc_timestamp(6)) div 1000
            from outbox force index (outbox_bucket) where bucket = l.bucket order by bucket, id limit 1) as oldest_ms
         from outbox_lease l order by l.bucket",
    )
    .load(c)
    .await
}

pub(super) async fn depths(c: &mut AsyncMysqlConnection, buckets: &[u16]) -> QueryResult<Vec<Depth>> {
    Statement::once(statement::depths(buckets, "force index (outbox_bucket)", "")).load(c).await
}

pub(super) async fn relays(c: &mut AsyncMysqlConnection) -> QueryResult<Vec<Alive>> {
    Statement::fixed("select owner from outbox_relay where expires_at >= utc_timestamp(6) order by owner")
        .load(c)
        .await
}

/// By the primary key: lines are written in the order of their time.
pub(super) async fn prune_audit(c: &mut AsyncMysqlConnection, seconds: i64) -> QueryResult<usize> {
    let last: Top = Statement::fixed(
        "select max(id) as id from (select id, at from outbox_audit order by id limit 1000) oldest
         where at < utc_timestamp(6) - interval ? second",
    )
    .int(seconds)
    .get_result(c)
    .await?;
    match last.id {
        Some(id) => Statement::fixed("delete from outbox_audit where id <= ?").int(id).execute(c).await,
        None => Ok(0),
    }
}

pub(super) async fn owners(c: &mut AsyncMysqlConnection) -> QueryResult<Vec<Owner>> {
    Statement::fixed(
        "select owner, count(*) as buckets,
           min(timestampdiff(microsecond, utc_timestamp(6), expires_at) div 1000) as expires_in_ms
         from outbox_lease group by owner order by owner",
    )
    .load(c)
    .await
}

pub(super) async fn held_keys(c: &mut AsyncMysqlConnection, limit: u32) -> QueryResult<Vec<HeldKey>> {
    Statement::fixed(format!(
        "select aggregate_type, convert(aggregate_id using utf8mb4) as aggregate_id, head_id, attempts, parked,
           timestampdiff(microsecond, utc_timestamp(6), next_at) div 1000 as next_in_ms, last_error
         from outbox_key order by parked desc, next_at limit {limit}",
    ))
    .load(c)
    .await
}

#[derive(QueryableByName)]
struct Variable {
    #[diesel(sql_type = Text, column_name = "Variable_name")]
    name: String,
    #[diesel(sql_type = Text, column_name = "Value")]
    value: String,
}

pub(super) async fn settings(c: &mut AsyncMysqlConnection) -> QueryResult<Vec<Setting>> {
    let variables: Vec<Variable> = Statement::fixed(
        "show session variables where variable_name in ('version', 'tx_isolation', 'transaction_isolation',
           'auto_increment_increment', 'wsrep_on', 'group_replication_single_primary_mode', 'read_only',
           'transaction_read_only', 'tx_read_only', 'log_bin', 'binlog_format', 'sql_mode', 'max_allowed_packet',
           'innodb_flush_log_at_trx_commit')",
    )
    .load(c)
    .await?;
    // What sessions have that choose none, as the relay's do.
    let language = "select 'language' as name, cast(@@global.lc_messages as char) as value";
    let mut settings: Vec<Setting> = Statement::fixed(language).load(c).await?;
    settings.extend(variables.into_iter().map(|v| Setting { name: v.name, value: v.value }));
    Ok(settings)
}

pub(super) async fn ask<T>(c: &mut AsyncMysqlConnection, text: &str) -> QueryResult<Vec<T>>
where
    T: diesel::QueryableByName<diesel::mysql::Mysql> + Send + 'static,
{
    Statement::once(text).load(c).await
}

pub(super) async fn probe(c: &mut AsyncMysqlConnection, text: &str) -> QueryResult<()> {
    c.batch_execute(text).await
}

const WORDS: Words = Words {
    key_as_text: "convert(k.aggregate_id using utf8mb4)",
    event_as_text: "convert(o.event_type using utf8mb4)",
    parked_ms: "timestampdiff(microsecond, k.next_at, utc_timestamp(6)) div 1000",
    now: "utc_timestamp(6)",
    locking: "for update",
    yes: "true",
    no: "false",
};
dead_letters!(AsyncMysqlConnection, WORDS, "start transaction");
pauses!(
    AsyncMysqlConnection,
    "timestampdiff(second, at, utc_timestamp(6))",
    "insert ignore into outbox_pause (id, actor, reason) values (1, ?, ?)",
    "start transaction"
);
resyncs!(AsyncMysqlConnection, Clock(Kind::Mysql), "start transaction");
inboxes!(AsyncMysqlConnection, Clock(Kind::Mysql), "start transaction");
