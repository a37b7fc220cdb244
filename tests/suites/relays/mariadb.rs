//! The suites, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::MysqlConnection;
pub(crate) const SERVER: Server = Server::Mariadb;
pub(crate) const KIND: &str = "mariadb";
pub(crate) const TABLES: &str = crate::items::MYSQL;

#[path = "../database.rs"]
#[allow(dead_code, reason = "shared with the suites; these need a part of it")]
mod database;
#[path = "isolation.rs"]
mod isolation;
#[path = "semi_sync.rs"]
mod semi_sync;
#[path = "tail.rs"]
mod tail;
