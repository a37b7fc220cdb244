//! Every suite, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::MysqlConnection;
pub(crate) type AsyncConnection = diesel_async::AsyncMysqlConnection;
pub(crate) const SERVER: Server = Server::Mariadb;
pub(crate) const TABLES: &str = crate::items::MYSQL;

#[path = "asynchronous.rs"]
mod asynchronous;
#[path = "backlog.rs"]
mod backlog;
#[path = "cut_short.rs"]
mod cut_short;
#[path = "database.rs"]
mod database;
#[path = "end_to_end.rs"]
mod end_to_end;
#[path = "grants.rs"]
mod grants;
#[path = "keyed.rs"]
mod keyed;
#[path = "late_commit.rs"]
mod late_commit;
#[path = "many_rows.rs"]
mod many_rows;
#[path = "migrations.rs"]
mod migrations;
#[path = "packets.rs"]
mod packets;
#[path = "random_writes.rs"]
mod random_writes;
#[path = "recording.rs"]
mod recording;
#[path = "role.rs"]
mod role;
#[path = "settings.rs"]
mod settings;
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
#[path = "tls_database.rs"]
mod tls_database;
#[path = "write_side.rs"]
mod write_side;
#[path = "writer.rs"]
mod writer;
#[path = "writer_servers.rs"]
mod writer_servers;
#[path = "writer_servers_async.rs"]
mod writer_servers_async;
