//! Every suite, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::PgConnection;
pub(crate) type AsyncConnection = diesel_async::AsyncPgConnection;
pub(crate) const SERVER: Server = Server::Postgres;
pub(crate) const TABLES: &str = crate::items::POSTGRES;

#[path = "asynchronous.rs"]
mod asynchronous;
#[path = "backlog.rs"]
mod backlog;
#[path = "database.rs"]
mod database;
#[path = "end_to_end.rs"]
mod end_to_end;
#[path = "grants.rs"]
mod grants;
#[path = "keyed.rs"]
mod keyed;
#[path = "languages.rs"]
mod languages;
#[path = "late_commit.rs"]
mod late_commit;
#[path = "migrations.rs"]
mod migrations;
#[path = "random_writes.rs"]
mod random_writes;
#[path = "recording.rs"]
mod recording;
#[path = "role.rs"]
mod role;
#[path = "settings.rs"]
mod settings;
#[path = "standby.rs"]
mod standby;
#[path = "statements.rs"]
mod statements;
#[path = "store.rs"]
mod store;
#[path = "swallowed.rs"]
mod swallowed;
#[path = "tail.rs"]
mod tail;
#[path = "testkit.rs"]
mod testkit;
#[path = "testkit_async.rs"]
mod testkit_async;
#[path = "tls_database.rs"]
mod tls_database;
#[path = "tls_postgres.rs"]
mod tls_postgres;
#[path = "write_side.rs"]
mod write_side;
#[path = "writer.rs"]
mod writer;
#[path = "writer_postgres.rs"]
mod writer_postgres;
#[path = "writer_servers.rs"]
mod writer_servers;
#[path = "writer_servers_async.rs"]
mod writer_servers_async;
