//! Both sides on diesel-async: the same names with `.await`.
//!
//! As with diesel-async's own transactions, a transaction whose future is dropped halfway stays open on its
//! connection, with its locks: do not put a timeout or `select!` around it, and give it a task of its own where
//! a server drops handlers whose client has gone. bb8 throws such a connection away when it comes back, deadpool
//! only when somebody takes it next.

mod awaited;
mod connection;
mod subscriber;
#[cfg(feature = "testing")]
pub(crate) mod testing;
mod transaction;
mod write;
mod writer;

pub use awaited::Awaited;
pub use connection::AsyncOutboxConnection;
pub use transaction::AsyncOutboxTx;
pub use write::{AsyncEntityOn, AsyncInsertOn, AsyncUpsertOn};

/// SQLite on diesel-async: the sync connection on a thread for blocking work.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use diesel_async::{AsyncConnection, AsyncMigrationHarness, RunQueryDsl};
/// use outbox_core::{AsyncOutboxConnection, AsyncSqliteConnection, Message, migrate};
///
/// let connection = AsyncSqliteConnection::establish(":memory:").await?;
/// let mut harness = AsyncMigrationHarness::new(connection);
/// migrate::run(&mut harness, &migrate::OUTBOX)?;
/// let mut connection = harness.into_inner();
///
/// let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
/// connection.outbox_transaction(async |tx| { tx.record_message(message); Ok(()) }).await?;
/// let kept = diesel::dsl::sql::<diesel::sql_types::BigInt>("select count(*) from outbox");
/// assert_eq!(kept.get_result::<i64>(&mut connection).await?, 1);
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "async-sqlite")]
pub type AsyncSqliteConnection =
    diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::sqlite::SqliteConnection>;
