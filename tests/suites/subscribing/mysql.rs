//! The tests of subscribers, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::MysqlConnection;
pub(crate) const SERVER: Server = Server::Mysql;
pub(crate) const TABLES: &str = crate::items::MYSQL;

#[path = "consumer.rs"]
mod consumer;
#[path = "../database.rs"]
#[allow(dead_code, reason = "shared with the suites; subscribers need a part of it")]
mod database;
#[path = "stage.rs"]
mod stage;

#[path = "deciding.rs"]
mod deciding;
#[path = "economy.rs"]
mod economy;
#[path = "hanging.rs"]
mod hanging;
#[path = "killing.rs"]
mod killing;
#[path = "memories.rs"]
mod memories;
#[path = "misfits.rs"]
mod misfits;
#[path = "overtaking.rs"]
mod overtaking;
#[path = "panics.rs"]
mod panics;
#[path = "poison.rs"]
mod poison;
#[path = "policies.rs"]
mod policies;
#[path = "stopping.rs"]
mod stopping;
#[path = "storms.rs"]
mod storms;
#[path = "../subscribers.rs"]
mod subscribers;
#[path = "upgrading.rs"]
mod upgrading;
