//! The tests of subscribers, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::MysqlConnection;
pub(crate) const SERVER: Server = Server::Mysql;
pub(crate) const TABLES: &str = crate::items::MYSQL;

#[path = "../database.rs"]
#[allow(dead_code, reason = "shared with the suites; subscribers need a part of it")]
mod database;
#[path = "stage.rs"]
mod stage;

#[path = "policies.rs"]
mod policies;
#[path = "../subscribers.rs"]
mod subscribers;
