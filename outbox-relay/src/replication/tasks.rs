//! The tasks beside a session: one reads the log, some read tables, one writes to the target.

use std::sync::Arc;

use outbox_core::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::applier::{self, Order, Report};
use super::chunks::{self, Answer};
use super::copy::Copy;
use super::feed::{self, Reads};
use super::state::Checkpoint;
use super::target::Target;
use crate::binlog::{Source, Tables, follow};

/// Tables that are read at the same time.
const READERS: usize = 2;

/// What connects a session with its tasks, which end with it.
pub(super) struct Tasks {
    pub(super) reads: Reads,
    pub(super) requests: mpsc::Sender<chunks::Request>,
    pub(super) answers: mpsc::Receiver<Answer>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) reports: mpsc::Receiver<Result<Report>>,
    _all: JoinSet<()>,
}

impl Tasks {
    pub(super) fn start(
        source: Source,
        checkpoint: &Checkpoint,
        copies: &[Copy],
        target: Target,
        ahead_bytes: u64,
    ) -> Self {
        let mut all = JoinSet::new();
        let followed = copies.iter().filter(|copy| copy.plan.is_some());
        let tables: Tables = followed
            .map(|copy| (copy.spec.source_database.as_str(), copy.spec.source_table.as_str()))
            .collect();
        let mut stream = follow(source.clone(), tables, checkpoint.position.clone());
        if let Some(proof) = checkpoint.proof() {
            stream = stream.prove(proof);
        } else if !checkpoint.source_id.is_empty() {
            stream = stream.from_server(&checkpoint.source_id);
        }
        let (reads, feeding) = feed::feed(stream, ahead_bytes);
        all.spawn(feeding);
        let (requests, asked) = mpsc::channel(READERS);
        let (answering, answers) = mpsc::channel(READERS);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..READERS {
            all.spawn(chunks::read_on(source.clone(), Arc::clone(&asked), answering.clone()));
        }
        let (orders, ordered) = mpsc::channel(1);
        let (reporting, reports) = mpsc::channel(1);
        all.spawn(applier::serve(target, ordered, reporting));
        Self { reads, requests, answers, orders, reports, _all: all }
    }
}

/// The error for a task that has ended though nobody told it to.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::Outage, "a task of the replication has ended")
}
