//! The tests of subscribers on diesel-async, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::SqliteConnection;
pub(crate) type AsyncConnection = outbox_core::AsyncSqliteConnection;
pub(crate) const SERVER: Server = Server::Sqlite;
pub(crate) const TABLES: &str = crate::items::SQLITE;

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
#[path = "panics.rs"]
mod panics;
#[path = "policies.rs"]
mod policies;
#[path = "services_async.rs"]
mod services;
#[path = "stopping.rs"]
mod stopping;
#[path = "storms.rs"]
mod storms;
#[path = "../subscribers.rs"]
mod subscribers;
