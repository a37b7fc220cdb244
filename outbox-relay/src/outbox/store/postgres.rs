//! The statements for PostgreSQL. Sessions run READ COMMITTED and are told to use indexes: an outbox is
//! empty whenever ANALYZE looks at it, and a plan made for an empty table reads the whole backlog.

use diesel::QueryableByName;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use diesel::sql_types::{BigInt, Nullable};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use outbox_core::Result;

use super::clock::Clock;
use super::dead::{Words, dead_letters};
use super::inbox::inboxes;
use super::pause::pauses;
use super::resync::resyncs;
use super::row::{
    Alive, Ask, Backlog, Body, Bucket, Depth, Doorbell, Failure, Head, HeldKey, LeaseRow, Meta, Owner,
    Setting,
};
use super::statement::{self, Statement, list, pairs};
use super::{Kind, Probe};

/// What every session sets: a lock wait is given up long before the statement's own limit, so that the
/// server's words for it reach the log. A relay that vanishes in a transaction does not keep its locks.
pub(super) const SESSION: &[&str] = &["set default_transaction_isolation = 'read committed'; \
     set lock_timeout = '10s'; set statement_timeout = '30s'; \
     set idle_in_transaction_session_timeout = '20s'; set jit = off; \
     set enable_seqscan = off; set enable_sort = off; set enable_bitmapscan = off; \
     set application_name = 'outbox-relay'"];

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
        text: "insert into outbox_relay (owner, lease_ms, expires_at) select '', 0, now() where false",
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
               select '', '', 0, 0, true, now(), '' where false",
    },
    Probe {
        table: "outbox_key",
        right: "UPDATE",
        text: "update outbox_key set attempts = 0 where aggregate_type = ''",
    },
    Probe { table: "outbox_key", right: "DELETE", text: "delete from outbox_key where aggregate_type = ''" },
];

const META: &str = "select generation, buckets, bucket_hash,
       (select count(unclean) from outbox_lease where bucket between 0 and 63) as leases
     from outbox_meta where id = 1";

/// A table that is missing is told in words that are known, see [`probe`].
pub(super) async fn meta(c: &mut AsyncPgConnection) -> QueryResult<Meta> {
    let result = Statement::fixed(META).get_result(c).await;
    if let Err(Error::DatabaseError(DatabaseErrorKind::Unknown, _)) = &result {
        probe(c, META).await?;
    }
    result
}

pub(super) async fn heads(c: &mut AsyncPgConnection, ask: &Ask<'_>) -> QueryResult<Vec<Head>> {
    let text = format!(
        "select o.id, o.message_id, o.bucket, convert_to(o.aggregate_type, 'UTF8') as aggregate_type,
           convert_to(o.aggregate_id, 'UTF8') as aggregate_id, convert_to(o.event_type, 'UTF8') as event_type,
           (extract(epoch from o.created_at) * 1000000)::bigint as created_at_us,
           (octet_length(o.headers) + octet_length(o.payload))::bigint as bytes,
           case when octet_length(o.headers) + octet_length(o.payload) <= {inline} then o.headers end as headers,
           case when octet_length(o.headers) + octet_length(o.payload) <= {inline} then o.payload end as payload,
           k.attempts, k.head_id,
           (select generation from outbox_meta where id = 1) as generation
         from outbox o
         left join outbox_key k on k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id
         where o.bucket in ({held}) {except} {besides}
           and (k.attempts is null or (not k.parked and k.next_at <= statement_timestamp()))
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
        "and not exists (select 1 from outbox h where h.id in ({})
           and h.aggregate_type = o.aggregate_type and h.aggregate_id = o.aggregate_id)",
        list(ids)
    )
}

/// Ids as one value, an array in its text form, so that the text of the statement stays the same.
fn array(ids: &[i64]) -> String {
    format!("{{{}}}", list(ids))
}

pub(super) async fn bodies(c: &mut AsyncPgConnection, ids: &[i64]) -> QueryResult<Vec<Body>> {
    Statement::fixed("select id, headers, payload from outbox where id = any((?)::bigint[])")
        .text(array(ids))
        .load(c)
        .await
}

/// The buckets that are still held under the lease they were read with, once per statement. `+ 0` keeps the
/// planner from taking the index on buckets, which it would enter once per bucket and id.
fn fenced(fence: &[(u16, i64)]) -> String {
    format!(
        "o.bucket + 0 = any(array(
           select l.bucket + 0 from outbox_lease l where l.owner = ? and (l.bucket, l.epoch) in ({})))",
        pairs(fence)
    )
}

pub(super) async fn settle(
    c: &mut AsyncPgConnection,
    owner: &str,
    fence: &[(u16, i64)],
    ids: &[i64],
) -> QueryResult<usize> {
    let text = format!("delete from outbox o where o.id = any((?)::bigint[]) and {}", fenced(fence));
    Statement::once(text).text(array(ids)).text(owner).execute(c).await
}

pub(super) async fn clear_keys(
    c: &mut AsyncPgConnection,
    owner: &str,
    fence: &[(u16, i64)],
    ids: &[i64],
) -> QueryResult<usize> {
    let text = format!(
        "delete from outbox_key k using outbox o
         where k.aggregate_type = o.aggregate_type and k.aggregate_id = o.aggregate_id
           and o.id = any((?)::bigint[]) and {}",
        fenced(fence)
    );
    Statement::once(text).text(array(ids)).text(owner).execute(c).await
}

pub(super) async fn fail(c: &mut AsyncPgConnection, owner: &str, failures: &[Failure]) -> QueryResult<()> {
    c.batch_execute("begin").await?;
    // Held until the end: a relay that takes a bucket over meanwhile would otherwise find its key parked for
    // a message that it has delivered.
    let fence: Vec<_> = failures.iter().map(|failure| (failure.bucket, failure.epoch)).collect();
    let text = format!(
        "select 1 from outbox_lease where owner = ? and (bucket, epoch) in ({}) order by bucket for share",
        pairs(&fence),
    );
    Statement::once(text).text(owner).execute(c).await?;
    for failure in failures {
        Statement::fixed(
            "insert into outbox_key
               (aggregate_type, aggregate_id, head_id, attempts, parked, next_at, last_error)
             select o.aggregate_type, o.aggregate_id, o.id, (?)::integer, (?)::integer = 1,
               clock_timestamp() + ? * interval '1 millisecond', ?
             from outbox o join outbox_lease l on l.bucket = o.bucket
             where o.id = ? and l.owner = ? and l.bucket = ? and l.epoch = ?
             on conflict (aggregate_type, aggregate_id) do update
             set head_id = excluded.head_id, attempts = excluded.attempts, parked = excluded.parked,
               next_at = excluded.next_at, last_error = excluded.last_error",
        )
        .int(failure.attempts)
        .int(failure.parked)
        .int(failure.wait_ms)
        .text(failure.error.replace('\0', " "))
        .int(failure.id)
        .text(owner)
        .int(failure.bucket)
        .int(failure.epoch)
        .execute(c)
        .await?;
    }
    c.batch_execute("commit").await
}

pub(super) async fn heartbeat(c: &mut AsyncPgConnection, owner: &str, ttl_ms: i64) -> QueryResult<usize> {
    Statement::fixed(
        "insert into outbox_relay (owner, lease_ms, expires_at)
         values (?, ?, clock_timestamp() + ? * interval '1 millisecond')
         on conflict (owner) do update set lease_ms = excluded.lease_ms, expires_at = excluded.expires_at",
    )
    .text(owner)
    .int(ttl_ms)
    .int(ttl_ms)
    .execute(c)
    .await
}

pub(super) async fn forget_dead(c: &mut AsyncPgConnection) -> QueryResult<usize> {
    Statement::fixed("delete from outbox_relay where expires_at < clock_timestamp() - interval '1 hour'")
        .execute(c)
        .await
}

pub(super) async fn leave(c: &mut AsyncPgConnection, owner: &str) -> QueryResult<usize> {
    Statement::fixed("delete from outbox_relay where owner = ?").text(owner).execute(c).await
}

pub(super) async fn renew(c: &mut AsyncPgConnection, owner: &str, ttl_ms: i64) -> QueryResult<usize> {
    Statement::fixed(
        "update outbox_lease
         set lease_ms = ?, expires_at = clock_timestamp() + ? * interval '1 millisecond'
         where owner = ?",
    )
    .int(ttl_ms)
    .int(ttl_ms)
    .text(owner)
    .execute(c)
    .await
}

pub(super) async fn acquire(
    c: &mut AsyncPgConnection,
    owner: &str,
    ttl_ms: i64,
    count: u16,
) -> QueryResult<usize> {
    Statement::fixed(format!(
        "update outbox_lease
         set unclean = case when owner is null or owner = ? then unclean else least(unclean + 1, 1000) end,
           epoch = epoch + 1, owner = ?, expires_at = clock_timestamp() + ? * interval '1 millisecond',
           lease_ms = ?
         where bucket in (
           select bucket from outbox_lease
           where owner is null or expires_at < clock_timestamp()
             or expires_at > clock_timestamp() + 2 * lease_ms * interval '1 millisecond'
           order by bucket limit {count} for update skip locked)",
    ))
    .text(owner)
    .text(owner)
    .int(ttl_ms)
    .int(ttl_ms)
    .execute(c)
    .await
}

pub(super) async fn leases(c: &mut AsyncPgConnection, owner: &str) -> QueryResult<Vec<LeaseRow>> {
    Statement::fixed(
        "select l.bucket, l.epoch, l.unclean, n.live, n.rank_, n.waiting, n.parked
         from (select
             (select count(*) from outbox_relay
              where expires_at >= clock_timestamp()
                and expires_at <= clock_timestamp() + 2 * lease_ms * interval '1 millisecond') as live,
             (select count(*) from outbox_relay
              where expires_at >= clock_timestamp()
                and expires_at <= clock_timestamp() + 2 * lease_ms * interval '1 millisecond' and owner < ?) as rank_,
             (select count(*) from outbox_key where not parked) as waiting,
             (select count(*) from outbox_key where parked) as parked) n
         left join outbox_lease l on l.owner = ? and l.expires_at >= clock_timestamp()",
    )
    .text(owner)
    .text(owner)
    .load(c)
    .await
}

pub(super) async fn release(c: &mut AsyncPgConnection, owner: &str, buckets: &[u16]) -> QueryResult<usize> {
    Statement::once(format!(
        "update outbox_lease set owner = null, expires_at = '1970-01-02 00:00:00+00'
         where owner = ? and bucket in ({})",
        list(buckets),
    ))
    .text(owner)
    .execute(c)
    .await
}

pub(super) async fn forgive(c: &mut AsyncPgConnection, owner: &str) -> QueryResult<usize> {
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

pub(super) async fn top(c: &mut AsyncPgConnection) -> QueryResult<Option<i64>> {
    let top: Top = Statement::fixed("select max(id) as id from outbox").get_result(c).await?;
    Ok(top.id)
}

pub(super) async fn is_left(c: &mut AsyncPgConnection, top: i64, movable: bool) -> QueryResult<bool> {
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

pub(super) async fn backlog(c: &mut AsyncPgConnection) -> QueryResult<Backlog> {
    Statement::fixed(
        "select (select min(id) from outbox) as first_id, (select max(id) from outbox) as last_id,
           (select (extract(epoch from clock_timestamp() - created_at) * 1000)::bigint
            from outbox order by id limit 1) as oldest_ms",
    )
    .get_result(c)
    .await
}

/// By the index on buckets and ids alone.
pub(super) async fn buckets(c: &mut AsyncPgConnection) -> QueryResult<Vec<Bucket>> {
    Statement::fixed(
        "select l.bucket, l.owner,
           (select id from outbox where bucket = l.bucket order by bucket, id limit 1) as first_id,
           (select id from outbox where bucket = l.bucket order by bucket desc, id desc limit 1)
             as last_id,
           (select (extract(epoch from clock_timestamp() - created_at) * 1000)::bigint
            from outbox where bucket = l.bucket order by bucket, id limit 1) as oldest_ms
         from outbox_lease l order by l.bucket",
    )
    .load(c)
    .await
}

pub(super) async fn depths(c: &mut AsyncPgConnection, buckets: &[u16]) -> QueryResult<Vec<Depth>> {
    Statement::once(statement::depths(buckets, "", "::bigint")).load(c).await
}

pub(super) async fn relays(c: &mut AsyncPgConnection) -> QueryResult<Vec<Alive>> {
    Statement::fixed("select owner from outbox_relay where expires_at >= clock_timestamp() order by owner")
        .load(c)
        .await
}

/// By the primary key: lines are written in the order of their time.
pub(super) async fn prune_audit(c: &mut AsyncPgConnection, seconds: i64) -> QueryResult<usize> {
    let last: Top = Statement::fixed(
        "select max(id) as id from (select id, at from outbox_audit order by id limit 1000) oldest
         where at < clock_timestamp() - ? * interval '1 second'",
    )
    .int(seconds)
    .get_result(c)
    .await?;
    match last.id {
        Some(id) => Statement::fixed("delete from outbox_audit where id <= ?").int(id).execute(c).await,
        None => Ok(0),
    }
}

pub(super) async fn owners(c: &mut AsyncPgConnection) -> QueryResult<Vec<Owner>> {
    Statement::fixed(
        "select owner, count(*) as buckets,
           min((extract(epoch from expires_at - clock_timestamp()) * 1000)::bigint) as expires_in_ms
         from outbox_lease group by owner order by owner",
    )
    .load(c)
    .await
}

pub(super) async fn held_keys(c: &mut AsyncPgConnection, limit: u32) -> QueryResult<Vec<HeldKey>> {
    Statement::fixed(format!(
        "select aggregate_type, aggregate_id, head_id, attempts, parked,
           (extract(epoch from next_at - clock_timestamp()) * 1000)::bigint as next_in_ms, last_error
         from outbox_key order by parked desc, next_at limit {limit}",
    ))
    .load(c)
    .await
}

/// Keeps an error's text, which tells the language: settings do not, as the server's environment has its say.
const SAY_SOMETHING: &str = "do $say$ begin perform 1 / 0; exception when division_by_zero then \
                             perform set_config('outbox.said', sqlerrm, false); end $say$";

pub(super) async fn settings(c: &mut AsyncPgConnection) -> QueryResult<Vec<Setting>> {
    c.batch_execute(SAY_SOMETHING).await?;
    Statement::fixed(
        "select 'version' as name, current_setting('server_version') as value
         union all select 'transaction_isolation', current_setting('transaction_isolation')
         union all select 'transaction_read_only', current_setting('transaction_read_only')
         union all select n.prefix || s.name, case n.prefix when '' then s.setting else s.source end
           from pg_settings s, (values (''), ('source of ')) n (prefix)
           where s.name in ('autovacuum', 'track_counts', 'fsync', 'full_page_writes', 'synchronous_commit',
             'default_transaction_read_only', 'lc_messages')
         union all select 'language',
           coalesce(nullif(current_setting('outbox.said', true), 'division by zero'), 'en')
         union all select 'user', quote_ident(current_user)
         union all select 'database', quote_ident(current_database())
         union all select 'in_recovery', pg_is_in_recovery()::text",
    )
    .load(c)
    .await
}

/// The connection that hears the doorbell has a name of its own, so that people can tell it from the others.
pub(super) const LISTEN: &str = "set application_name = 'outbox-relay-bell'; listen outbox";

/// A trigger that is not ours is told by what it does; type 4 is after INSERT and for each statement.
pub(super) async fn doorbell(c: &mut AsyncPgConnection) -> QueryResult<Doorbell> {
    Statement::fixed(
        "select coalesce((
             select case
               when t.tgenabled not in ('O', 'A') then 'disabled'
               when t.tgtype <> 4 or position('pg_notify(' in p.prosrc) = 0 then 'changed'
               else 'ready' end
             from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
             where t.tgrelid = to_regclass('outbox') and t.tgname = 'outbox_bell'), 'missing') as trigger_state,
           (select count(*) from pg_catalog.pg_stat_activity
            where datname = current_database() and application_name = 'outbox-relay-bell') as listeners,
           exists (select 1 from pg_listening_channels() as c (name) where c.name = 'outbox') as listening",
    )
    .get_result(c)
    .await
}

pub(super) async fn ask<T>(c: &mut AsyncPgConnection, text: &str) -> QueryResult<Vec<T>>
where
    T: diesel::QueryableByName<diesel::pg::Pg> + Send + 'static,
{
    Statement::once(text).load(c).await
}

/// Diesel keeps no SQLSTATE, and the server may speak any language, which only an administrator may change: so the
/// server itself names what is missing in words of ours, before its own.
pub(super) async fn probe(c: &mut AsyncPgConnection, text: &str) -> QueryResult<()> {
    let block = format!(
        "do $probe$ begin execute $text${text}$text$; \
         exception when insufficient_privilege then \
         raise insufficient_privilege using message = 'permission denied: ' || sqlerrm; \
         when undefined_table then raise undefined_table using message = 'no such table: ' || sqlerrm; \
         when undefined_column then raise undefined_column using message = 'no such column: ' || sqlerrm; end $probe$"
    );
    c.batch_execute(&block).await
}

/// SQLSTATEs of connections that are refused, a part of what English says, and what stands before other languages: words
/// that `retry` and `outbox_core` know.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("3D000", "does not exist", "the database does not exist"),
    ("28000", "for host", "authentication failed"),
    ("28P01", "password authentication failed", "password authentication failed"),
    ("42501", "permission denied", "permission denied"),
    ("53300", "too many", "too many connections"),
    ("57P03", "the database system is", "the database system is not ready"),
];

/// Opens a connection without TLS, as diesel-async does.
pub(super) async fn open(url: &str) -> Result<AsyncPgConnection> {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(|error| {
            refusal(&error).unwrap_or_else(|| {
                let text = Box::new(error.to_string());
                Error::DatabaseError(DatabaseErrorKind::UnableToSendCommand, text).into()
            })
        })?;
    AsyncPgConnection::try_from_client_and_connection(client, connection)
        .await
        .map_err(super::connect::refused)
}

/// What the server said against a connection, in whatever language, and that it did so in English.
pub(super) fn refusal(error: &tokio_postgres::Error) -> Option<outbox_core::Error> {
    let said = error.as_db_error()?;
    let known = REFUSALS.iter().find(|(code, _, _)| *code == said.code().code());
    let text = match known.filter(|(_, english, _)| !said.message().contains(english)) {
        Some((_, _, words)) => format!("{words}: {}", said.message()),
        None => said.message().to_owned(),
    };
    Some(Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text)).into())
}

const WORDS: Words = Words {
    key_as_text: "k.aggregate_id",
    event_as_text: "o.event_type",
    parked_ms: "(extract(epoch from clock_timestamp() - k.next_at) * 1000)::bigint",
    now: "clock_timestamp()",
    locking: "for update",
    yes: "true",
    no: "false",
};
dead_letters!(AsyncPgConnection, WORDS, "begin");
pauses!(
    AsyncPgConnection,
    "extract(epoch from clock_timestamp() - at)::bigint",
    "insert into outbox_pause (id, actor, reason) values (1, ?, ?) on conflict do nothing",
    "begin"
);
resyncs!(AsyncPgConnection, Clock(Kind::Postgres), "begin");
inboxes!(AsyncPgConnection, Clock(Kind::Postgres), "begin");
