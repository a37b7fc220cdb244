//! The promises on the consumer's side, on every database: one effect per message, in the order of each key, and
//! nothing lost, whatever fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is the failure")]
#![allow(clippy::duplicate_mod, reason = "each file is compiled once for each database")]

#[cfg(feature = "servers")]
#[path = "../faults/checker.rs"]
#[allow(dead_code, reason = "shared with the faults; subscribers need a part of it")]
mod checker;
#[cfg(feature = "servers")]
#[path = "../harness.rs"]
#[allow(dead_code, reason = "shared with the suites; subscribers need a part of it")]
mod harness;
#[cfg(feature = "servers")]
#[path = "../items.rs"]
#[allow(dead_code, reason = "shared with the suites; subscribers need a part of it")]
mod items;
#[cfg(feature = "servers")]
mod mariadb;
#[cfg(feature = "servers")]
mod mariadb_async;
#[cfg(feature = "servers")]
mod mysql;
#[cfg(feature = "servers")]
mod mysql_async;
#[cfg(feature = "servers")]
mod postgres;
#[cfg(feature = "servers")]
mod postgres_async;
#[cfg(feature = "servers")]
mod process;
#[cfg(feature = "servers")]
#[path = "../faults/proxy.rs"]
#[allow(dead_code, reason = "shared with the faults; subscribers need a part of it")]
mod proxy;
#[cfg(feature = "servers")]
#[path = "../faults/report.rs"]
#[allow(dead_code, reason = "shared with the faults; subscribers need a part of it")]
mod report;
#[cfg(feature = "servers")]
mod sqlite;
#[cfg(feature = "servers")]
mod sqlite_async;

/// Without the feature nothing here would run, and that must not look like a success.
#[cfg(not(feature = "servers"))]
#[test]
fn the_tests_need_servers() {
    panic!("these tests need servers: run `cargo lab test`");
}
