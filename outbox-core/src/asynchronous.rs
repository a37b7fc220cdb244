//! The write side on diesel-async: the same names with `.await`.
//!
//! As with diesel-async's own transactions, a transaction whose future is dropped halfway stays open on its
//! connection: do not put a timeout or `select!` around it; pools throw such a connection away.

mod connection;
mod transaction;
mod write;
mod writer;

pub use connection::AsyncOutboxConnection;
pub use transaction::AsyncOutboxTx;
pub use write::{AsyncEntityOn, AsyncInsertOn, AsyncUpsertOn};

/// SQLite on diesel-async: the sync connection on a thread for blocking work.
#[cfg(feature = "async-sqlite")]
pub type AsyncSqliteConnection =
    diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::sqlite::SqliteConnection>;
