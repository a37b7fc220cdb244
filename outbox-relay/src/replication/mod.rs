//! Copies of a source's tables in a target database (MySQL or MariaDB), kept equal to the source's transactions.
//!
//! *plan* says what a copy holds of which table; *filter* and *project* make its rows of the source's; *compact*
//! gathers whole transactions into a [`Group`]; *target* applies a group with its checkpoint in one transaction;
//! *state* is what the target knows of the replication; *sql* writes names and values.

pub mod compact;
pub mod filter;
pub mod plan;
mod project;
pub mod sql;
pub mod state;
pub mod target;

pub use compact::{ClosedWindow, CopyProgress, Group, Held, Touched};
pub use plan::{CopyPlan, CopySpec, Key, Projected, ColumnFacts, KeyPart, TableFacts, UniqueKey};
pub use state::{Checkpoint, CopyPhase, CopyState, PauseState, State};
pub use target::{Applied, Fenced, Target, TargetOptions};
