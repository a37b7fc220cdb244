//! The statements on `outbox_pause`: a row that all relays of an outbox see, restarts included.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text};
use outbox_core::Error;

/// Who has paused an outbox, and why.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Pause {
    /// Who.
    #[diesel(sql_type = Text)]
    pub actor: String,
    /// Why; may be empty.
    #[diesel(sql_type = Text)]
    pub reason: String,
    /// Since how many seconds, by the database's clock.
    #[diesel(sql_type = BigInt)]
    pub seconds: i64,
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = std::time::Duration::from_secs(self.seconds.max(0).unsigned_abs());
        write!(f, "paused by {} {since:?} ago", self.actor)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// Whether the database has no `outbox_pause` yet. A right that is missing is something else.
pub(super) fn is_without_table(error: &Error) -> bool {
    let text = error.to_string();
    // MySQL and MariaDB, PostgreSQL, SQLite.
    ["outbox_pause' doesn't exist", "relation \"outbox_pause\" does not exist", "no such table: outbox_pause"]
        .iter()
        .any(|words| text.contains(words))
}

/// The functions of every database's own file: the age of a row in seconds, an INSERT that lets a row that is there
/// be, and what opens a transaction that is going to write.
macro_rules! pauses {
    ($connection:ty, $seconds:literal, $insert:literal, $begin:literal) => {
        pub(super) async fn pause(c: &mut $connection) -> QueryResult<Option<super::Pause>> {
            let query = concat!("select actor, reason, ", $seconds, " as seconds from outbox_pause");
            let rows: Vec<super::Pause> = Statement::fixed(query).load(c).await?;
            Ok(rows.into_iter().next())
        }

        /// Whether it was not paused yet.
        pub(super) async fn set_pause(c: &mut $connection, actor: &str, reason: &str) -> QueryResult<bool> {
            c.batch_execute($begin).await?;
            let paused = Statement::once($insert).text(actor).text(reason).execute(c).await? > 0;
            if paused {
                audit(c, actor, "pause", reason).await?;
            }
            c.batch_execute("commit").await?;
            Ok(paused)
        }

        /// Whether it was paused.
        pub(super) async fn clear_pause(c: &mut $connection, actor: &str) -> QueryResult<bool> {
            c.batch_execute($begin).await?;
            let resumed = Statement::once("delete from outbox_pause").execute(c).await? > 0;
            if resumed {
                audit(c, actor, "resume", "").await?;
            }
            c.batch_execute("commit").await?;
            Ok(resumed)
        }

        async fn audit(c: &mut $connection, actor: &str, action: &str, detail: &str) -> QueryResult<()> {
            let insert = Statement::once(
                "insert into outbox_audit (actor, action, aggregate_type, aggregate_id, detail)
                 values (?, ?, '', '', ?)",
            );
            insert.text(actor).text(action).text(detail).execute(c).await.map(drop)
        }
    };
}
pub(super) use pauses;
