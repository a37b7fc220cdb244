//! Copies of a source's tables in a target database (MySQL or MariaDB), kept equal to the source's transactions.
//!
//! *plan* says what a copy holds of which table (*resolve*: of the specification, *columns*: as it is written, *facts*:
//! what the servers say of it, *collation*: which keys are equal there; *create* makes a table that is missing, *indexes*
//! its keys);
//! *filter* and *project* make its rows of the source's; *compact* gathers whole transactions into a [`Group`];
//! *target* applies a group with its checkpoint in one transaction, by *write* (*work*, *statement*, *park*, *aside*, *rivals*)
//! and *reconcile*, *large* one that memory does not hold; *state* is what the target knows of the replication, *note*
//! writes it; *session* connects; *sql* writes names and values, *json* documents.
//!
//! *run* goes from connection to connection; *setup* says what a replication begins with, *begin* where; *conduct* owns
//! one while it is connected, and *copy* what it is to each, with *tasks* beside it: *feed* (reads the log), *chunks*
//! (reads tables; *window* waits for the log with what was read) and *applier* (writes); *holds* takes copies out that
//! cannot go on, by *ddl* too, which finds what no row event tells; *lineage* knows whether the source is the same;
//! *status* and *report* are for whoever looks.

mod applier;
mod aside;
mod begin;
mod chunks;
mod clock;
mod collation;
mod columns;
pub mod compact;
mod conduct;
mod copy;
mod create;
mod ddl;
mod definition;
pub mod facts;
mod feed;
pub mod filter;
mod holds;
mod indexes;
mod json;
mod keys;
mod large;
mod lineage;
mod load;
mod memory;
mod note;
mod park;
pub mod plan;
mod project;
mod reconcile;
pub mod report;
mod resolve;
mod rivals;
mod run;
mod session;
mod setup;
pub mod sql;
pub mod state;
mod statement;
pub mod status;
pub mod target;
mod tasks;
mod update;
pub mod verify;
mod window;
mod work;
mod write;

pub use compact::{ClosedWindow, CopyProgress, Group, Held, Touched};
pub use facts::{ColumnFacts, Index, KeyPart, TableFacts, UniqueKey};
pub(crate) use facts::{unlogged_actions, unreadable};
pub(crate) use lineage::UNPROVEN;
pub use plan::{CopyPlan, CopySpec, Key, NewTable, Projected};
pub use run::{Left, Replication, run_all};
pub use setup::specs;
pub use state::{Checkpoint, CopyPhase, CopyState, PauseState, State};
pub use target::{Applied, Fenced, Target, TargetOptions};
