//! What wakes a pipe that has nothing to do. A bell carries no messages and keeps no position: it says "look
//! now", and whoever looks reads what there is. So a ring too many costs one read, and a ring that is lost
//! costs the time until the next read that happens anyway.
//!
//! Whoever can notice a commit rings: [`listen`](crate::outbox) by PostgreSQL's NOTIFY, [`follow`](crate::outbox) by
//! the binary log of MySQL and MariaDB, the keeper of leases when it has got more buckets to read.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::status::Status;

/// Whether commits are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum BellState {
    /// `mode = "poll"`, or the relay ends.
    #[default]
    Off,
    /// Every commit rings.
    Heard,
    /// Commits are not told: the relay polls until they are.
    Silent {
        /// What is wrong and what helps.
        why: String,
    },
}

/// The bell of one pipe. Clones are the same bell.
#[derive(Debug, Clone)]
pub struct Bell {
    rung: Arc<Notify>,
    status: Status,
}

impl Bell {
    /// A bell that nobody rings yet; `status` shows its state.
    pub fn new(status: Status) -> Self {
        Self { rung: Arc::default(), status }
    }

    /// Wakes the pipe. If it does not wait just now, its next wait ends at once.
    pub fn ring(&self) {
        self.rung.notify_one();
    }

    /// Until somebody rings. A ring that came before counts, several count as one.
    ///
    /// Dropping the future loses nothing.
    pub async fn rung(&self) {
        self.rung.notified().await;
    }

    /// Whether every commit rings.
    pub fn is_heard(&self) -> bool {
        self.status.bell_is_heard()
    }

    /// Says whether commits are told from now on. A change rings: what was committed while they were not
    /// told is read at once, and a pipe that trusted the bell starts to poll.
    pub fn set(&self, state: BellState) {
        let Some(before) = self.status.set_bell(state.clone()) else { return };
        let outbox = self.status.name();
        match (&before, &state) {
            (_, BellState::Heard) => info!(outbox, "the doorbell is heard: reading when a commit rings"),
            // The first state of every start, and the last one of every end.
            (BellState::Off, _) | (_, BellState::Off) => {}
            (_, BellState::Silent { why }) => warn!(outbox, "the doorbell is silent, polling: {why}"),
        }
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_rung(bell: &Bell) -> bool {
        tokio::time::timeout(Duration::from_secs(1), bell.rung()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_is_kept_and_several_are_one() {
        let bell = Bell::new(Status::new("product"));
        assert!(!is_rung(&bell).await);
        bell.ring();
        bell.ring();
        assert!(is_rung(&bell).await);
        assert!(!is_rung(&bell).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_state_rings_and_shows() {
        let status = Status::new("product");
        let bell = Bell::new(status.clone());
        let silent = || BellState::Silent { why: "connection lost".into() };
        for (state, is_change) in [(silent(), true), (silent(), false), (BellState::Heard, true)] {
            bell.set(state.clone());
            assert_eq!(is_rung(&bell).await, is_change, "{state:?}");
            assert_eq!(status.snapshot().bell, state);
        }
        assert!(bell.is_heard());
    }
}
