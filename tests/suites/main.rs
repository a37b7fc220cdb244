//! The tests of the promises, on every database and on both brokers. `cargo lab test` starts the servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is the failure")]
#![allow(clippy::duplicate_mod, reason = "each suite is compiled once for each database")]

#[cfg(feature = "servers")]
mod any;
#[cfg(feature = "servers")]
mod brokers;
#[cfg(feature = "servers")]
mod certificates;
#[cfg(feature = "servers")]
mod cloudevents;
#[cfg(feature = "servers")]
mod dead;
#[cfg(feature = "servers")]
mod existing_transactions;
#[cfg(feature = "servers")]
mod harness;
#[cfg(feature = "servers")]
#[allow(dead_code, reason = "shared with other binaries")]
mod items;
#[cfg(feature = "servers")]
mod mariadb;
#[cfg(feature = "servers")]
mod multi_connection;
#[cfg(feature = "servers")]
mod mysql;
#[cfg(feature = "servers")]
mod packaging;
#[cfg(feature = "servers")]
mod pause;
#[cfg(feature = "servers")]
mod postgres;
#[cfg(feature = "servers")]
mod programs;
#[cfg(feature = "servers")]
mod rabbitmq_broker;
#[cfg(feature = "servers")]
mod reload;
#[cfg(feature = "servers")]
mod sqlite;
#[cfg(feature = "servers")]
mod tls_broker;

/// Without the feature nothing here would run, and that must not look like a success.
#[cfg(not(feature = "servers"))]
#[test]
fn the_suites_need_servers() {
    panic!("these tests need servers: run `cargo lab test`");
}
