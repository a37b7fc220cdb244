//! Copies of a source's tables in a target database (MySQL or MariaDB), kept equal to the source's transactions.
//!
//! *plan* says what a copy holds of which table; *filter* and *project* make its rows of the source's; *compact*
//! gathers whole transactions into a [`Group`]; *target* applies a group with its checkpoint in one transaction;
//! *state* is what the target knows of the replication; *sql* writes names and values.

mod applier;
mod chunks;
pub mod compact;
mod conduct;
mod ddl;
mod feed;
pub mod filter;
pub mod plan;
mod project;
pub mod report;
mod run;
mod setup;
pub mod sql;
pub mod state;
pub mod status;
pub mod target;
mod temporary;
mod window;

pub use compact::{ClosedWindow, CopyProgress, Group, Held, Touched};
pub use plan::{ColumnFacts, CopyPlan, CopySpec, Key, KeyPart, Projected, TableFacts, UniqueKey};
pub use run::{Left, Replication, run_all};
pub use setup::specs;
pub use state::{Checkpoint, CopyPhase, CopyState, PauseState, State};
pub use target::{Applied, Fenced, Target, TargetOptions};
