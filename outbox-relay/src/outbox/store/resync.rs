//! The statements on `outbox_resync`: requests that the service serves, and the generation that a restored
//! database needs.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::clock::Clock;
use super::statement::Statement;

/// An aggregate that a service offers to send again.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Offer {
    /// The aggregate type.
    #[diesel(sql_type = Text)]
    pub aggregate_type: String,
    /// How long ago the service last said so, in milliseconds.
    #[diesel(sql_type = BigInt)]
    pub seen_ms: i64,
}

/// A request as its row shows it.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Resync {
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// The aggregate type.
    #[diesel(sql_type = Text)]
    pub aggregate_type: String,
    /// `requested`, `begun`, `scanning`, `scanned`, `ended`, `done` or `failed`.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// The keys as a JSON array; none for all entities.
    #[diesel(sql_type = Nullable<Text>)]
    pub key_list: Option<String>,
    /// Rows recorded.
    #[diesel(sql_type = BigInt)]
    pub rows_done: i64,
    /// Keys that have no row.
    #[diesel(sql_type = BigInt)]
    pub keys_gone: i64,
    /// For how many milliseconds more a process has it; 0 when none has.
    #[diesel(sql_type = BigInt)]
    pub lease_ms: i64,
    /// Who asked.
    #[diesel(sql_type = Text)]
    pub requested_by: String,
    /// How long ago, in milliseconds.
    #[diesel(sql_type = BigInt)]
    pub requested_ms: i64,
    /// How long it took, or has been under way, in milliseconds; none before it begins.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub took_ms: Option<i64>,
    /// Why it failed.
    #[diesel(sql_type = Text)]
    pub error: String,
}

/// What to send again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResyncAsk {
    /// The aggregate types, a request each.
    pub aggregates: Vec<String>,
    /// The keys as a JSON array; none for all entities.
    pub key_list: Option<String>,
    /// 0 for no limit.
    pub rows_per_second: u32,
}

impl Clock {
    pub(super) fn offers(self) -> Statement {
        let seen = self.ms_since("seen_at");
        Statement::fixed(format!(
            "select aggregate_type, {seen} as seen_ms from outbox_resync_service order by aggregate_type"
        ))
    }

    /// The newest ones, or these.
    pub(super) fn resyncs(self, ids: &[i64], limit: u32) -> Statement {
        let condition = if ids.is_empty() {
            String::new()
        } else {
            format!("where id in ({})", super::statement::list(ids))
        };
        Statement::once(format!(
            "select id, aggregate_type, state, key_list, rows_done, keys_gone,
               case when owner is null or {lease} > 0 then 0 else -{lease} end as lease_ms,
               requested_by, {requested} as requested_ms, {took} as took_ms, error
             from outbox_resync {condition} order by id desc limit {limit}",
            lease = self.ms_since("lease_until"),
            requested = self.ms_since("requested_at"),
            took = self.ms_between("begun_at", &format!("coalesce(ended_at, {})", self.now())),
        ))
    }

    pub(super) fn fail_resyncs(self, why: &str) -> Statement {
        Statement::once(format!(
            "update outbox_resync set state = 'failed', ended_at = {}, error = ?
             where state not in ('done', 'failed')",
            self.now()
        ))
        .text(why)
    }
}

/// Asks for one aggregate.
pub(super) fn request(ask: &ResyncAsk, aggregate: &str, actor: &str) -> Statement {
    let (keys, has_keys) = match &ask.key_list {
        Some(keys) => (keys.as_str(), "?"),
        None => ("", "nullif(?, '')"),
    };
    Statement::once(format!(
        "insert into outbox_resync (aggregate_type, key_list, rows_per_second, requested_by)
         values (?, {has_keys}, {}, ?)",
        ask.rows_per_second.min(i32::MAX.unsigned_abs())
    ))
    .text(aggregate)
    .text(keys)
    .text(actor)
}

pub(super) fn audit(actor: &str, action: &str, aggregate: &str, detail: &str) -> Statement {
    Statement::once(
        "insert into outbox_audit (actor, action, aggregate_type, aggregate_id, detail) values (?, ?, ?, '', ?)",
    )
    .text(actor)
    .text(action)
    .text(aggregate)
    .text(detail)
}

/// The functions of every database's own file; `$begin` opens a transaction that is going to write.
macro_rules! resyncs {
    ($connection:ty, $clock:expr, $begin:literal) => {
        pub(super) async fn offers(c: &mut $connection) -> QueryResult<Vec<super::Offer>> {
            $clock.offers().load(c).await
        }

        pub(super) async fn resyncs(
            c: &mut $connection,
            ids: &[i64],
            limit: u32,
        ) -> QueryResult<Vec<super::Resync>> {
            $clock.resyncs(ids, limit).load(c).await
        }

        /// The numbers of the requests.
        pub(super) async fn request_resync(
            c: &mut $connection,
            ask: &super::ResyncAsk,
            actor: &str,
        ) -> QueryResult<Vec<i64>> {
            c.batch_execute($begin).await?;
            let ids = ask_for_all(c, ask, actor).await?;
            c.batch_execute("commit").await?;
            Ok(ids)
        }

        /// The new generation, and the numbers of the requests.
        pub(super) async fn raise_generation(
            c: &mut $connection,
            ask: &super::ResyncAsk,
            actor: &str,
        ) -> QueryResult<(i64, Vec<i64>)> {
            c.batch_execute($begin).await?;
            Statement::once("update outbox_meta set generation = generation + 1 where id = 1")
                .execute(c)
                .await?;
            let raised: super::resync::Raised =
                Statement::once("select generation from outbox_meta where id = 1").get_result(c).await?;
            let generation = raised.generation;
            // What was under way when the backup was made began in another generation.
            $clock.fail_resyncs("the generation was raised").execute(c).await?;
            super::resync::audit(actor, "generation", "", &format!("raised to {generation}"))
                .execute(c)
                .await?;
            let ids = ask_for_all(c, ask, actor).await?;
            c.batch_execute("commit").await?;
            Ok((generation, ids))
        }

        async fn ask_for_all(
            c: &mut $connection,
            ask: &super::ResyncAsk,
            actor: &str,
        ) -> QueryResult<Vec<i64>> {
            let mut ids = Vec::new();
            for aggregate in &ask.aggregates {
                super::resync::request(ask, aggregate, actor).execute(c).await?;
                // The highest is this one, or a later one of somebody else's for another aggregate.
                let own: super::dead::Number = Statement::once(
                    "select coalesce(max(id), 0) as number from outbox_resync
                     where aggregate_type = ? and requested_by = ?",
                )
                .text(aggregate)
                .text(actor)
                .get_result(c)
                .await?;
                ids.push(own.number);
                let detail = ask.key_list.as_deref().unwrap_or("all");
                super::resync::audit(actor, "resync", aggregate, detail).execute(c).await?;
            }
            Ok(ids)
        }
    };
}
pub(super) use resyncs;

/// The generation after it was raised.
#[derive(QueryableByName)]
pub(super) struct Raised {
    #[diesel(sql_type = BigInt)]
    pub(super) generation: i64,
}
