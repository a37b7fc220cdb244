//! The pages of docs/guide, whose code blocks are tests of this crate.

#[cfg(all(feature = "derive", feature = "sqlite"))]
#[doc = include_str!("../docs/guide/first-entity.md")]
struct FirstEntity;

#[cfg(all(feature = "derive", feature = "mysql", feature = "postgres", feature = "sqlite"))]
#[doc = include_str!("../docs/guide/existing-transactions.md")]
struct ExistingTransactions;

#[cfg(all(feature = "derive", feature = "sqlite"))]
#[doc = include_str!("../docs/guide/contract.md")]
struct Contract;

#[cfg(all(feature = "async-sqlite", feature = "derive"))]
#[doc = include_str!("../docs/guide/async.md")]
struct Asynchronous;

#[cfg(all(feature = "derive", feature = "sqlite", feature = "testing"))]
#[doc = include_str!("../docs/guide/testing.md")]
struct Testing;

#[cfg(all(feature = "derive", feature = "sqlite", feature = "testing"))]
#[doc = include_str!("../docs/guide/subscribing.md")]
struct Subscribing;
