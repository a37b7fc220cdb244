//! The task that writes to the target: one order at a time, so that the next group is gathered meanwhile.

use std::time::Instant;

use outbox_core::Result;
use tokio::sync::mpsc;
use tracing::debug;

use super::compact::{Group, Held};
use super::state::{Checkpoint, CopyState, PauseState};
use super::target::{Applied, Target};

/// What the target is asked for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time")]
pub(super) enum Order {
    Apply(Group, Checkpoint),
    /// What others have written to the tables of state; with a checkpoint that is renewed if it is old.
    Look {
        checkpoint: Option<Checkpoint>,
        /// Whether the source is known to be the one that was read from before.
        is_proven: bool,
    },
}

/// What has come of an order.
#[derive(Debug)]
pub(super) enum Report {
    Applied(Applied),
    Looked(Look),
}

/// What stands in the tables of state.
#[derive(Debug)]
pub(super) struct Look {
    /// Copies that are held since now.
    pub(super) held: Vec<Held>,
    pub(super) pause: Option<PauseState>,
    pub(super) copies: Vec<CopyState>,
    /// How many rows of which copies.
    pub(super) set_aside: Vec<(String, u64)>,
    /// Whether the source is known to be the one that was read from before, or all copies were verified since.
    pub(super) is_proven: bool,
}

/// Does what it is asked for, until nobody asks any more or something fails.
pub(super) async fn serve(
    mut target: Target,
    mut orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Result<Report>>,
) {
    while let Some(order) = orders.recv().await {
        let report = obey(&mut target, order).await;
        let is_end = report.is_err();
        if reports.send(report).await.is_err() || is_end {
            return;
        }
    }
}

async fn obey(target: &mut Target, order: Order) -> Result<Report> {
    match order {
        Order::Apply(group, checkpoint) => {
            let (bytes, windows, started) = (group.weight_bytes(), group.windows.len(), Instant::now());
            let applied = target.apply(group, &checkpoint).await?;
            let Applied { upserted, loaded, joined, deleted, .. } = applied;
            debug!(upserted, loaded, joined, deleted, windows, bytes, took = ?started.elapsed(), "a group is committed");
            Ok(Report::Applied(applied))
        }
        Order::Look { checkpoint, is_proven } => {
            // Rows set aside that were tried again may have a copy held.
            let held = match checkpoint {
                Some(checkpoint) => {
                    target.idle(&checkpoint).await?.map_or_else(Vec::new, |applied| applied.held)
                }
                None => Vec::new(),
            };
            let pause = target.state().pause_state().await?;
            let copies = target.copies().await?;
            let set_aside = target.state().set_aside().await?;
            let is_proven = is_proven || target.state().unproven_since().await?.is_none();
            Ok(Report::Looked(Look { held, pause, copies, set_aside, is_proven }))
        }
    }
}
