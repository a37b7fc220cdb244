//! The families of faults, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::SqliteConnection;
pub(crate) const SERVER: Server = Server::Sqlite;
pub(crate) const TABLES: &str = crate::items::SQLITE;

#[path = "../database.rs"]
#[allow(dead_code, reason = "shared with the suites; faults need a part of it")]
mod database;
#[path = "stage.rs"]
#[allow(dead_code, reason = "not every family runs on every database")]
mod stage;

#[path = "agreement.rs"]
mod agreement;
#[path = "deadly.rs"]
mod deadly;
#[path = "kills.rs"]
mod kills;
#[path = "wire.rs"]
#[allow(dead_code, reason = "not every family runs on every database")]
mod wire;
