//! The statements on dead letters, as texts: they differ between databases in a few words only.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};

use super::statement::{Statement, list};

/// A parked key with the message that was refused.
#[derive(Debug, Clone, QueryableByName)]
pub struct DeadLetter {
    /// The aggregate type.
    #[diesel(sql_type = Text)]
    pub aggregate_type: String,
    /// The key.
    #[diesel(sql_type = Text)]
    pub aggregate_id: String,
    /// The row of the refused message; the key's later rows wait behind it.
    #[diesel(sql_type = BigInt)]
    pub head_id: i64,
    /// How often it was refused.
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    /// Why.
    #[diesel(sql_type = Text)]
    pub last_error: String,
    /// How long ago it was parked, in milliseconds.
    #[diesel(sql_type = BigInt)]
    pub parked_ms: i64,
    /// What happened; missing when the row is gone.
    #[diesel(sql_type = Nullable<Text>)]
    pub event_type: Option<String>,
    /// The message's id, 16 bytes; missing when the row is gone.
    #[diesel(sql_type = Nullable<Binary>)]
    pub message_id: Option<Vec<u8>>,
}

/// Which dead letters: all that meet every condition given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// The row of the refused message.
    pub id: Option<i64>,
    /// The aggregate type.
    pub aggregate: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The event.
    pub event: Option<String>,
    /// A part of the error's text.
    pub error: Option<String>,
    /// Parked at least so many milliseconds ago.
    pub older_ms: Option<i64>,
    /// Parked at most so many milliseconds ago.
    pub newer_ms: Option<i64>,
}

/// What is done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadAction {
    /// It is published again, and what waits behind it afterwards.
    Replay,
    /// It is deleted, and what waits behind it goes on.
    Discard,
}

impl DeadAction {
    /// Its name in `outbox_audit`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }
}

/// The words that differ.
pub(super) struct Words {
    /// Of a text column that is stored in bytes: as text.
    pub(super) key_as_text: &'static str,
    /// The same for `outbox.event_type`.
    pub(super) event_as_text: &'static str,
    /// Milliseconds since a key was parked.
    pub(super) parked_ms: &'static str,
    /// The clock.
    pub(super) now: &'static str,
    /// The end of a read that locks what it finds.
    pub(super) locking: &'static str,
    pub(super) yes: &'static str,
    pub(super) no: &'static str,
}

const FROM: &str = "from outbox_key k left join outbox o on o.id = k.head_id";

impl Words {
    pub(super) fn dead(&self, filter: &DeadFilter, limit: u32) -> Statement {
        let Self { key_as_text, event_as_text, parked_ms, .. } = self;
        let statement = Statement::once(format!(
            "select k.aggregate_type, {key_as_text} as aggregate_id, k.head_id, k.attempts, k.last_error,
               {parked_ms} as parked_ms, {event_as_text} as event_type, o.message_id
             {FROM} where "
        ));
        self.conditions(statement, filter).and_text(format!(" order by k.next_at, k.head_id limit {limit}"))
    }

    pub(super) fn count(&self, filter: &DeadFilter) -> Statement {
        self.conditions(Statement::once(format!("select count(*) as number {FROM} where ")), filter)
    }

    fn conditions(&self, statement: Statement, filter: &DeadFilter) -> Statement {
        let mut statement = statement.and_text(format!("k.parked = {}", self.yes));
        let texts = [
            ("k.aggregate_type", &filter.aggregate),
            // Bytes on MySQL and MariaDB: compared as text, `ö` would be `O` there.
            ("k.aggregate_id", &filter.key),
            ("o.event_type", &filter.event),
        ];
        for (column, value) in texts {
            if let Some(value) = value {
                statement = statement.and_text(format!(" and {column} = ?")).text(value);
            }
        }
        if let Some(part) = &filter.error {
            let escaped = part.replace('!', "!!").replace('%', "!%").replace('_', "!_");
            statement =
                statement.and_text(" and k.last_error like ? escape '!'").text(format!("%{escaped}%"));
        }
        let parked_ms = self.parked_ms;
        let numbers = [
            ("k.head_id =".to_owned(), filter.id),
            (format!("{parked_ms} >="), filter.older_ms),
            (format!("{parked_ms} <="), filter.newer_ms),
        ];
        for (condition, value) in numbers {
            if let Some(value) = value {
                statement = statement.and_text(format!(" and {condition} ?")).int(value);
            }
        }
        statement
    }

    /// Locks those of the keys that are still parked.
    pub(super) fn lock(&self, ids: &[i64]) -> Statement {
        Statement::once(format!(
            "select head_id as id from outbox_key where parked = {} and head_id in ({}) {}",
            self.yes,
            list(ids),
            self.locking
        ))
    }

    /// Notes who did what to them.
    pub(super) fn audit(&self, actor: &str, action: DeadAction, ids: &[i64]) -> Statement {
        Statement::once(format!(
            "insert into outbox_audit (actor, action, aggregate_type, aggregate_id, event_type, message_id, detail)
             select ?, '{}', k.aggregate_type, k.aggregate_id, o.event_type, o.message_id, k.last_error
             {FROM} where k.head_id in ({})",
            action.name(),
            list(ids)
        ))
        .text(actor)
    }

    /// What the action is, in the order of its statements.
    pub(super) fn act(&self, action: DeadAction, ids: &[i64]) -> Vec<Statement> {
        let ids = list(ids);
        let texts = match action {
            DeadAction::Replay => vec![
                // Of a message that is gone, deleted by hand or by a restore, nothing is left to wait for.
                format!(
                    "delete from outbox_key where head_id in ({ids})
                       and not exists (select 1 from outbox where outbox.id = outbox_key.head_id)"
                ),
                format!(
                    "update outbox_key set parked = {}, attempts = 0, next_at = {} where head_id in ({ids})",
                    self.no, self.now
                ),
            ],
            DeadAction::Discard => vec![
                format!("delete from outbox where id in ({ids})"),
                format!("delete from outbox_key where head_id in ({ids})"),
            ],
        };
        texts.into_iter().map(Statement::once).collect()
    }
}

/// A row's id.
#[derive(Debug, QueryableByName)]
pub(super) struct Id {
    #[diesel(sql_type = BigInt)]
    pub(super) id: i64,
}

/// A count.
#[derive(Debug, QueryableByName)]
pub(super) struct Number {
    #[diesel(sql_type = BigInt)]
    pub(super) number: i64,
}

/// The functions of every database's own file; `$begin` opens a transaction that is going to write.
macro_rules! dead_letters {
    ($connection:ty, $words:expr, $begin:literal) => {
        pub(super) async fn dead(
            c: &mut $connection,
            filter: &super::DeadFilter,
            limit: u32,
        ) -> QueryResult<Vec<super::DeadLetter>> {
            $words.dead(filter, limit).load(c).await
        }

        pub(super) async fn count_dead(c: &mut $connection, filter: &super::DeadFilter) -> QueryResult<u64> {
            let count: super::dead::Number = $words.count(filter).get_result(c).await?;
            Ok(count.number.unsigned_abs())
        }

        pub(super) async fn act_on_dead(
            c: &mut $connection,
            action: super::DeadAction,
            ids: &[i64],
            actor: &str,
        ) -> QueryResult<usize> {
            c.batch_execute($begin).await?;
            let parked: Vec<super::dead::Id> = $words.lock(ids).load(c).await?;
            let parked: Vec<i64> = parked.into_iter().map(|row| row.id).collect();
            if !parked.is_empty() {
                $words.audit(actor, action, &parked).execute(c).await?;
                for statement in $words.act(action, &parked) {
                    statement.execute(c).await?;
                }
            }
            c.batch_execute("commit").await?;
            Ok(parked.len())
        }
    };
}
pub(super) use dead_letters;
