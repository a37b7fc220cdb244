//! The stories, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::MysqlConnection;
pub(crate) const SERVER: Server = Server::Mariadb;
pub(crate) const TABLES: &str = crate::items::MYSQL;

#[path = "composite.rs"]
mod composite;
#[path = "../database.rs"]
#[allow(dead_code, reason = "shared with the suites; a part of it is needed here")]
mod database;
#[path = "panicking.rs"]
mod panicking;
#[path = "programs.rs"]
mod programs;
#[path = "rights.rs"]
mod rights;
#[path = "../role.rs"]
mod role;
#[path = "stage.rs"]
mod stage;
#[path = "stories.rs"]
mod stories;
