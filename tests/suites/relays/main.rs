//! Relays as tasks of the test's own process, on servers that the tests set up as they need them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is the failure")]
#![allow(clippy::duplicate_mod, reason = "each suite is compiled once for each database")]

#[cfg(feature = "servers")]
#[path = "../certificates.rs"]
#[allow(dead_code, reason = "shared with the suites; these need a part of it")]
mod certificates;
#[cfg(feature = "servers")]
#[path = "../faults/checker.rs"]
#[allow(dead_code, reason = "shared with the faults; these need a part of it")]
mod checker;
#[cfg(feature = "servers")]
#[path = "../harness.rs"]
#[allow(dead_code, reason = "shared with the suites; these need a part of it")]
mod harness;
#[cfg(feature = "servers")]
#[path = "../items.rs"]
#[allow(dead_code, reason = "shared with the suites; these need a part of it")]
mod items;
#[cfg(feature = "servers")]
mod mariadb;
#[cfg(feature = "servers")]
mod mysql;
#[cfg(feature = "servers")]
mod running;

/// Without the feature nothing here would run, and that must not look like a success.
#[cfg(not(feature = "servers"))]
#[test]
fn the_relays_need_servers() {
    panic!("these tests need servers: run `cargo lab test`");
}
