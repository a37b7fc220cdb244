//! The statements on a subscriber's tables: what it has set aside, and how far it has come. Acting on a message
//! sets its state; the subscriber does the rest, in order.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, SmallInt, Text};

use super::clock::Clock;
use super::statement::{Statement, list};
use super::{DeadFilter, Kind};

/// A message that a subscriber has set aside.
#[derive(Debug, Clone, QueryableByName)]
pub struct HeldLetter {
    /// Its number, in the order of arrival.
    #[diesel(sql_type = BigInt)]
    pub sequence: i64,
    /// `dead`, or what somebody has asked for.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// `{aggregate}.{event}`, as it arrived.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// The key; empty when it did not decode.
    #[diesel(sql_type = Text)]
    pub aggregate_id: String,
    /// The message's id, as it arrived.
    #[diesel(sql_type = Text)]
    pub message_id: String,
    /// How often it was tried.
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    /// Why it was set aside.
    #[diesel(sql_type = Text)]
    pub error: String,
    /// How long ago, in milliseconds.
    #[diesel(sql_type = BigInt)]
    pub held_ms: i64,
    /// How long ago it failed first, in milliseconds.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub first_failed_ms: Option<i64>,
    /// How long ago it failed last, in milliseconds.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub last_failed_ms: Option<i64>,
    /// The routing key with which it arrived.
    #[diesel(sql_type = Text)]
    pub routing_key: String,
    /// The outbox it came from; missing when it did not decode.
    #[diesel(sql_type = Nullable<Text>)]
    pub source: Option<String>,
    /// With the id its version.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub generation: Option<i64>,
    /// The row of the outbox that it was.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub id: Option<i64>,
}

/// How many messages are set aside, and the number of the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct HeldSpan {
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    /// The last one's number; 0 when there is none.
    #[diesel(sql_type = BigInt)]
    pub last: i64,
}

/// What a message carries that was set aside.
#[derive(Debug, Clone, QueryableByName)]
pub struct HeldBody {
    /// Its headers, JSON.
    #[diesel(sql_type = Binary)]
    pub headers: Vec<u8>,
    /// Its payload.
    #[diesel(sql_type = Binary)]
    pub payload: Vec<u8>,
    /// What its error came from, one in a line.
    #[diesel(sql_type = Nullable<Text>)]
    pub causes: Option<String>,
}

/// What is done with a message that was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldAction {
    /// The subscriber tries it again.
    Replay,
    /// As replay, also when the inbox may have forgotten that it was applied.
    Force,
    /// It is deleted, and what waits behind it goes on.
    Discard,
}

impl HeldAction {
    /// Its name as a state and in `inbox_audit`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Force => "force",
            Self::Discard => "discard",
        }
    }
}

/// How many messages of a subscriber are held, by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct HeldCounts {
    /// Until somebody decides.
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
    /// Tried again after a while.
    #[diesel(sql_type = BigInt)]
    pub retrying: i64,
    /// Behind an earlier message.
    #[diesel(sql_type = BigInt)]
    pub waiting: i64,
    /// Somebody has decided, and the subscriber has not done it yet.
    #[diesel(sql_type = BigInt)]
    pub decided: i64,
    /// Rows of `inbox`, of all consumers of the database, as statistics have it; without statistics up to 100 000
    /// are counted.
    #[diesel(sql_type = BigInt)]
    pub inbox_rows: i64,
}

/// How far a subscriber is with one queue and source.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Applied {
    /// The outbox.
    #[diesel(sql_type = Text)]
    pub source: String,
    /// The number of its queue.
    #[diesel(sql_type = SmallInt)]
    pub queue: i16,
    /// With the id the version of what was applied last.
    #[diesel(sql_type = BigInt)]
    pub generation: i64,
    /// The row of the outbox that it was.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// How long ago, in milliseconds.
    #[diesel(sql_type = BigInt)]
    pub applied_ms: i64,
    /// How long after it was recorded, in milliseconds, by the clocks of the two databases.
    #[diesel(sql_type = BigInt)]
    pub lag_ms: i64,
}

/// Copies in which a resync is under way.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Resyncing {
    /// The copy.
    #[diesel(sql_type = Text)]
    pub copy: String,
    /// In so many buckets.
    #[diesel(sql_type = BigInt)]
    pub buckets: i64,
    /// For so many milliseconds.
    #[diesel(sql_type = BigInt)]
    pub begun_ms: i64,
}

impl Clock {
    pub(super) fn held(self, consumer: &str, filter: &DeadFilter, after: i64, limit: u32) -> Statement {
        let [kind, key, id, routing_key] =
            ["kind", "aggregate_id", "message_id", "routing_key"].map(|column| self.text(column));
        let [held, first, last] =
            ["held_at", "first_failed_at", "last_failed_at"].map(|column| self.ms_since(column));
        let select = Statement::once(format!(
            "select sequence, state, {kind} as kind, {key} as aggregate_id, {id} as message_id, attempts, error,
               {held} as held_ms, {first} as first_failed_ms, {last} as last_failed_ms,
               {routing_key} as routing_key, source, generation, id
             from inbox_held where "
        ));
        let select = self.conditions(select, consumer, filter).and_text(" and sequence > ?").int(after);
        select.and_text(format!(" order by sequence limit {limit}"))
    }

    pub(super) fn count_held(self, consumer: &str, filter: &DeadFilter) -> Statement {
        let select = Statement::once(
            "select count(*) as count, coalesce(max(sequence), 0) as last from inbox_held where ",
        );
        self.conditions(select, consumer, filter)
    }

    fn conditions(self, select: Statement, consumer: &str, filter: &DeadFilter) -> Statement {
        let mut select = select.and_text("consumer = ? and state = 'dead'").text(consumer);
        let texts = [("aggregate_type", &filter.aggregate), ("aggregate_id", &filter.key)];
        for (column, value) in texts {
            if let Some(value) = value {
                select = select.and_text(format!(" and {column} = ?")).text(value);
            }
        }
        let like = |part: &str| part.replace('!', "!!").replace('%', "!%").replace('_', "!_");
        if let Some(event) = &filter.event {
            select = select.and_text(" and kind like ? escape '!'").text(format!("%.{}", like(event)));
        }
        if let Some(part) = &filter.error {
            select = select.and_text(" and error like ? escape '!'").text(format!("%{}%", like(part)));
        }
        let held = self.ms_since("held_at");
        let numbers = [
            ("sequence =".to_owned(), filter.id),
            (format!("{held} >="), filter.older_ms),
            (format!("{held} <="), filter.newer_ms),
        ];
        for (condition, value) in numbers {
            if let Some(value) = value {
                select = select.and_text(format!(" and {condition} ?")).int(value);
            }
        }
        select
    }

    pub(super) fn held_counts(self, consumer: &str) -> Statement {
        let rows = match self.0 {
            Kind::Mysql => {
                "(select cast(coalesce(max(table_rows), 0) as signed) from information_schema.tables
                  where table_schema = database() and table_name = 'inbox')"
            }
            Kind::Postgres => {
                "(select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass('inbox'))"
            }
            Kind::Sqlite => "(select count(*) from (select 1 from inbox limit 100000))",
        };
        let count = |states: &str| {
            format!("(select count(*) from inbox_held where consumer = ? and state in ({states}))")
        };
        let mut select = Statement::fixed(format!(
            "select {} as dead, {} as retrying, {} as waiting, {} as decided, {rows} as inbox_rows",
            count("'dead'"),
            count("'retry'"),
            count("'waiting'"),
            count("'replay', 'force', 'discard'"),
        ));
        for _ in 0..4 {
            select = select.text(consumer);
        }
        select
    }

    pub(super) fn applied(self, consumer: &str) -> Statement {
        Statement::fixed(format!(
            "select source, queue, generation, id, {} as applied_ms, {} as lag_ms
             from inbox_progress where consumer = ? order by source, queue",
            self.ms_since("applied_at"),
            self.ms_between("recorded_at", "applied_at"),
        ))
        .text(consumer)
    }

    pub(super) fn resyncing(self) -> Statement {
        Statement::fixed(format!(
            "select copy, count(*) as buckets, {} as begun_ms from copy_begun group by copy order by copy",
            self.ms_since("min(begun_at)")
        ))
    }

    pub(super) fn consumer_pause(self, consumer: &str) -> Statement {
        let seconds = self.ms_since("at");
        Statement::fixed(match self.0 {
            Kind::Mysql => {
                format!(
                    "select actor, reason, {seconds} div 1000 as seconds from inbox_pause where consumer = ?"
                )
            }
            Kind::Postgres | Kind::Sqlite => {
                format!(
                    "select actor, reason, {seconds} / 1000 as seconds from inbox_pause where consumer = ?"
                )
            }
        })
        .text(consumer)
    }

    /// Locks those that are still dead.
    pub(super) fn lock_held(self, consumer: &str, sequences: &[i64]) -> Statement {
        Statement::once(format!(
            "select sequence as id from inbox_held
             where consumer = ? and state = 'dead' and sequence in ({}) {}",
            list(sequences),
            self.locking()
        ))
        .text(consumer)
    }

    /// Notes who did what to them.
    pub(super) fn audit_held(self, actor: &str, action: HeldAction, sequences: &[i64]) -> Statement {
        Statement::once(format!(
            "insert into inbox_audit (actor, action, consumer, message_id, kind, aggregate_id, detail)
             select ?, '{}', consumer, message_id, kind, aggregate_id, error
             from inbox_held where sequence in ({})",
            action.name(),
            list(sequences)
        ))
        .text(actor)
    }

    /// Sets what the subscriber is to do.
    pub(super) fn decide_held(self, action: HeldAction, sequences: &[i64]) -> Statement {
        let state = action.name();
        Statement::once(format!(
            "update inbox_held set state = '{state}' where sequence in ({})",
            list(sequences)
        ))
    }
}

/// The functions of every database's own file; `$begin` opens a transaction that is going to write.
macro_rules! inboxes {
    ($connection:ty, $clock:expr, $begin:literal) => {
        pub(super) async fn held(
            c: &mut $connection,
            consumer: &str,
            filter: &super::DeadFilter,
            after: i64,
            limit: u32,
        ) -> QueryResult<Vec<super::HeldLetter>> {
            $clock.held(consumer, filter, after, limit).load(c).await
        }

        pub(super) async fn held_body(
            c: &mut $connection,
            sequence: i64,
        ) -> QueryResult<Vec<super::HeldBody>> {
            let body = "select headers, payload, causes from inbox_held where sequence = ?";
            Statement::fixed(body).int(sequence).load(c).await
        }

        pub(super) async fn count_held(
            c: &mut $connection,
            consumer: &str,
            filter: &super::DeadFilter,
        ) -> QueryResult<super::HeldSpan> {
            $clock.count_held(consumer, filter).get_result(c).await
        }

        pub(super) async fn act_on_held(
            c: &mut $connection,
            consumer: &str,
            action: super::HeldAction,
            sequences: &[i64],
            actor: &str,
        ) -> QueryResult<usize> {
            c.batch_execute($begin).await?;
            let dead: Vec<super::dead::Id> = $clock.lock_held(consumer, sequences).load(c).await?;
            let dead: Vec<i64> = dead.into_iter().map(|row| row.id).collect();
            if !dead.is_empty() {
                $clock.audit_held(actor, action, &dead).execute(c).await?;
                $clock.decide_held(action, &dead).execute(c).await?;
            }
            c.batch_execute("commit").await?;
            Ok(dead.len())
        }

        pub(super) async fn held_counts(
            c: &mut $connection,
            consumer: &str,
        ) -> QueryResult<super::HeldCounts> {
            $clock.held_counts(consumer).get_result(c).await
        }

        pub(super) async fn applied(c: &mut $connection, consumer: &str) -> QueryResult<Vec<super::Applied>> {
            $clock.applied(consumer).load(c).await
        }

        pub(super) async fn resyncing(c: &mut $connection) -> QueryResult<Vec<super::Resyncing>> {
            $clock.resyncing().load(c).await
        }

        pub(super) async fn consumer_pause(
            c: &mut $connection,
            consumer: &str,
        ) -> QueryResult<Vec<super::Pause>> {
            $clock.consumer_pause(consumer).load(c).await
        }
    };
}
pub(super) use inboxes;
