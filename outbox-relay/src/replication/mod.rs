//! Copies of a source's tables in a target database (MySQL or MariaDB), kept equal to the source's transactions.
//!
//! *plan* says what a copy holds of which table (*columns*: as it is written, *facts*: what the servers say of it);
//! *filter* and *project* make its rows of the source's; *compact* gathers whole transactions into a [`Group`];
//! *target* applies a group with its checkpoint in one transaction, by *write* (*statement*, *park*, *aside*) and
//! *reconcile*; *state* is what the target knows of the replication; *session* connects; *sql* writes names and
//! values.
//!
//! *run* goes from connection to connection; *setup* says what a replication begins with; *conduct* owns one while it
//! is connected, with *feed* (reads the log), *chunks* (reads tables; *window* waits for the log with what was read)
//! and *applier* (writes) in tasks beside it; *ddl* finds what no row event tells; *status* and *report* are for
//! whoever looks.

mod applier;
mod aside;
mod chunks;
mod columns;
pub mod compact;
mod conduct;
mod ddl;
pub mod facts;
mod feed;
pub mod filter;
mod keys;
mod park;
pub mod plan;
mod project;
mod reconcile;
pub mod report;
mod run;
mod session;
mod setup;
pub mod sql;
pub mod state;
mod statement;
pub mod status;
pub mod target;
pub mod verify;
mod window;
mod write;

pub use compact::{ClosedWindow, CopyProgress, Group, Held, Touched};
pub use facts::{ColumnFacts, KeyPart, TableFacts, UniqueKey};
pub use plan::{CopyPlan, CopySpec, Key, Projected};
pub use run::{Left, Replication, run_all};
pub use setup::specs;
pub use state::{Checkpoint, CopyPhase, CopyState, PauseState, State};
pub use target::{Applied, Fenced, Target, TargetOptions};
