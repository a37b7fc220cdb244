//! The relay of a transactional outbox: it takes committed messages from the outbox table of a database and
//! publishes them, confirmed and in order per key, to a broker.
//!
//! ```no_run
//! use outbox_core::broker::memory::MemoryBroker;
//! use outbox_relay::{CancellationToken, OutboxConfig, Relay, Unrouted};
//!
//! # async fn run() -> outbox_core::Result<()> {
//! let outbox = OutboxConfig::new("product", "sqlite:///tmp/product.db");
//! let relay = Relay::new([outbox], MemoryBroker::new(), Unrouted::Queue)?;
//! let statuses = relay.statuses();
//! let shutdown = CancellationToken::new();
//! relay.run(shutdown).await?;
//! println!("{} published", statuses[0].snapshot().published);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "admin")]
pub mod admin;
pub mod bell;
#[cfg(feature = "binlog")]
pub mod binlog;
#[cfg(feature = "binlog")]
pub mod change;
pub mod check;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod dead;
pub mod held;
#[cfg(feature = "rabbitmq")]
pub mod leftovers;
#[cfg(feature = "admin")]
pub mod metrics;
pub mod outbox;
pub mod pipe;
pub mod publish;
mod relay;
pub mod reload;
#[cfg(feature = "binlog")]
pub mod replication;
pub mod report;
pub mod resync;
pub mod retry;
#[cfg(feature = "binlog")]
pub mod snapshot;
pub mod status;
pub mod subscribers;

pub use bell::BellState;
pub use config::{Config, OutboxConfig, Unrouted};
pub use relay::{Left, Relay, Resettings};
pub use status::{Snapshot, State, Status};
pub use tokio_util::sync::CancellationToken;
