//! Faults, injected into the relay's way from the outbox to its subscribers, and what must hold after each:
//! nothing lost, every effect once, the order of each key kept. `cargo lab faults` runs these, `--full` with
//! many rounds, and prints what was injected and counted.
//!
//! The families stand in a file each and are compiled once per database; the relay is the program itself, as a
//! process that is killed, stopped, or cut off by a proxy of the tests' own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is the failure")]
#![allow(clippy::duplicate_mod, reason = "each family is compiled once for each database")]

#[cfg(feature = "servers")]
mod checker;
#[cfg(feature = "servers")]
#[path = "../harness.rs"]
mod harness;
#[cfg(feature = "servers")]
#[path = "../items.rs"]
#[allow(dead_code, reason = "shared with the suites; faults need a part of it")]
mod items;
#[cfg(feature = "servers")]
mod mariadb;
#[cfg(feature = "servers")]
mod mysql;
#[cfg(feature = "servers")]
mod postgres;
#[cfg(feature = "servers")]
mod proxy;
#[cfg(feature = "servers")]
mod relay;
#[cfg(feature = "servers")]
mod report;
#[cfg(feature = "servers")]
mod sqlite;

/// Without the feature nothing here would run, and that must not look like a success.
#[cfg(not(feature = "servers"))]
#[test]
fn the_faults_need_servers() {
    panic!("these tests need servers: run `cargo lab faults`");
}
