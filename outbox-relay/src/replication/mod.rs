//! Copies of a source's tables in a target database (MySQL or MariaDB), kept equal to the source's transactions.
//!
//! *plan* says what a copy holds of which table (*columns*: as it is written, *facts*: what the servers say of it);
//! *filter* and *project* make its rows of the source's; *compact* gathers whole transactions into a [`Group`];
//! *target* applies a group with its checkpoint in one transaction, by *write* (*statement*, *park*, *aside*) and
//! *reconcile*; *state* is what the target knows of the replication; *session* connects; *sql* writes names and
//! values.

mod aside;
mod columns;
pub mod compact;
pub mod facts;
pub mod filter;
mod park;
pub mod plan;
mod project;
mod reconcile;
mod session;
pub mod sql;
pub mod state;
mod statement;
pub mod target;
mod write;

pub use compact::{ClosedWindow, CopyProgress, Group, Held, Touched};
pub use facts::{ColumnFacts, KeyPart, TableFacts, UniqueKey};
pub use plan::{CopyPlan, CopySpec, Key, Projected};
pub use state::{Checkpoint, CopyPhase, CopyState, PauseState, State};
pub use target::{Applied, Fenced, Target, TargetOptions};
