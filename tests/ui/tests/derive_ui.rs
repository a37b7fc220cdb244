//! What the derives accept, run against SQLite in memory, and how they refuse what they do not.
//!
//! The expected messages are those of the toolchain in `rust-toolchain.toml`. After a wanted change:
//! `TRYBUILD=overwrite cargo test -p outbox-ui-tests`, and read the difference.

#[test]
fn derives_accept_and_refuse() {
    let cases = trybuild::TestCases::new();
    cases.pass("pass/*.rs");
    cases.compile_fail("fail/*.rs");
}
