//! What the test suites share.
//!
//! The servers come from the launcher (`cargo lab test`, or `cargo lab serve` for work by hand), which is the
//! binary `lab` of this package; a suite reaches it through [`lab_client`].

pub mod lab_client;
