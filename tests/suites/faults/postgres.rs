//! The families of faults, on this database.

use crate::harness::Server;

pub(crate) type Connection = diesel::PgConnection;
pub(crate) const SERVER: Server = Server::Postgres;
pub(crate) const TABLES: &str = crate::items::POSTGRES;

#[path = "../database.rs"]
#[allow(dead_code, reason = "shared with the suites; faults need a part of it")]
mod database;
#[path = "stage.rs"]
#[allow(dead_code, reason = "not every family runs on every database")]
mod stage;

#[path = "agreement.rs"]
mod agreement;
#[path = "brokers.rs"]
mod brokers;
#[path = "clocks.rs"]
mod clocks;
#[path = "deadly.rs"]
mod deadly;
#[path = "failover.rs"]
mod failover;
#[path = "forgetting.rs"]
mod forgetting;
#[path = "kills.rs"]
mod kills;
#[path = "leases.rs"]
mod leases;
#[path = "loads.rs"]
mod loads;
#[path = "locks.rs"]
mod locks;
#[path = "networks.rs"]
mod networks;
#[path = "outages.rs"]
mod outages;
#[path = "wire.rs"]
mod wire;
