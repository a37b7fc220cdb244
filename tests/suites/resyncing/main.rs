//! Sending entities again: new copies, lost rows, keys, restored outboxes; on every database and as a user runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is the failure")]
#![allow(clippy::duplicate_mod, reason = "the stories are compiled once for each database")]

#[cfg(feature = "servers")]
#[path = "../harness.rs"]
mod harness;
#[cfg(feature = "servers")]
#[path = "../items.rs"]
#[allow(dead_code, reason = "shared with the suites; a part of it is needed here")]
mod items;
#[cfg(feature = "servers")]
mod mariadb;
#[cfg(feature = "servers")]
mod mysql;
#[cfg(feature = "servers")]
mod postgres;
#[cfg(feature = "servers")]
mod sqlite;

/// Without the feature nothing here would run, and that must not look like a success.
#[cfg(not(feature = "servers"))]
#[test]
fn resyncing_needs_servers() {
    panic!("these tests need servers: run `cargo lab test`");
}
