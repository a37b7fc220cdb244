//! The tests of subscribers on diesel-async, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::MysqlConnection;
pub(crate) type AsyncConnection = diesel_async::AsyncMysqlConnection;
pub(crate) const SERVER: Server = Server::Mariadb;
pub(crate) const TABLES: &str = crate::items::MYSQL;

#[path = "consumer_async.rs"]
mod consumer;
#[path = "../database.rs"]
#[allow(dead_code, reason = "shared with the suites; subscribers need a part of it")]
mod database;
#[path = "stage.rs"]
#[allow(dead_code, reason = "shared with the sync subscribers")]
mod stage;

#[path = "hanging_async.rs"]
mod hanging;
#[path = "killing.rs"]
mod killing;
#[path = "panics.rs"]
mod panics;
#[path = "policies.rs"]
mod policies;
#[path = "services_async.rs"]
mod services;
#[path = "sleeping.rs"]
mod sleeping;
#[path = "stopping.rs"]
mod stopping;
#[path = "storms.rs"]
mod storms;
#[path = "../subscribers.rs"]
mod subscribers;
