//! Every suite, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::SqliteConnection;
pub(crate) const SERVER: Server = Server::Sqlite;
pub(crate) const TABLES: &str = crate::items::SQLITE;

#[path = "database.rs"]
mod database;
//WAIT #[path = "end_to_end.rs"]
//WAIT mod end_to_end;
//WAIT #[path = "faults.rs"]
//WAIT mod faults;
#[path = "migrations.rs"]
mod migrations;
//WAIT #[path = "store.rs"]
//WAIT mod store;
#[path = "subscribers.rs"]
mod subscribers;
#[path = "write_side.rs"]
mod write_side;
