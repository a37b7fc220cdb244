//! Replication by the binary logs of MariaDB and MySQL. `cargo lab test` starts the servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is the failure")]
#![allow(clippy::duplicate_mod, reason = "each suite is compiled once for each database")]

#[cfg(feature = "servers")]
mod across;
#[cfg(feature = "servers")]
mod cases;
#[cfg(feature = "servers")]
#[path = "../certificates.rs"]
#[allow(dead_code, reason = "other suites use all of it")]
mod certificates;
#[cfg(feature = "servers")]
mod copies;
#[cfg(feature = "servers")]
mod mariadb;
#[cfg(feature = "servers")]
mod mysql;
#[cfg(feature = "servers")]
mod pair;
#[cfg(feature = "servers")]
mod program;
#[cfg(feature = "servers")]
mod proxy;
#[cfg(feature = "servers")]
mod source;
#[cfg(feature = "servers")]
mod stage;

/// Without the feature nothing here would run, and that must not look like a success.
#[cfg(not(feature = "servers"))]
#[test]
fn the_suites_need_servers() {
    panic!("these tests need servers: run `cargo lab test`");
}
