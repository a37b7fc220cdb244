//! Every suite, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::SqliteConnection;
pub(crate) type AsyncConnection = outbox_core::AsyncSqliteConnection;
pub(crate) const SERVER: Server = Server::Sqlite;
pub(crate) const TABLES: &str = crate::items::SQLITE;

#[path = "asynchronous.rs"]
mod asynchronous;
#[path = "backlog.rs"]
mod backlog;
#[path = "database.rs"]
mod database;
#[path = "dropped_sqlite.rs"]
mod dropped_sqlite;
#[path = "end_to_end.rs"]
mod end_to_end;
#[path = "keyed.rs"]
mod keyed;
#[path = "migrations.rs"]
mod migrations;
#[path = "random_writes.rs"]
mod random_writes;
#[path = "recording.rs"]
mod recording;
#[path = "statements.rs"]
mod statements;
#[path = "store.rs"]
mod store;
#[path = "swallowed.rs"]
mod swallowed;
#[path = "testkit.rs"]
mod testkit;
#[path = "testkit_async.rs"]
mod testkit_async;
#[path = "write_side.rs"]
mod write_side;
#[path = "writer.rs"]
mod writer;
#[path = "writer_sqlite.rs"]
mod writer_sqlite;
