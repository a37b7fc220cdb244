//! A copy while its replication is connected: how it is made, how far it has got, what is wrong with it.

use std::sync::Arc;
use std::time::Instant;

use outbox_core::{Error, Result};

use super::chunks;
use super::plan::{CopyPlan, CopySpec};
use super::setup;
use super::state::{CopyPhase, CopyState};
use super::status::{CopyStatus, eta_seconds};
use super::window::Copying;
use crate::config::ReplicationConfig;

/// A copy in a session.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) spec: CopySpec,
    pub(super) state: CopyState,
    pub(super) plan: Option<Arc<CopyPlan>>,
    pub(super) copying: Option<Copying>,
    pub(super) began: Instant,
    /// Rows that were copied when the session began.
    pub(super) began_at: u64,
    pub(super) set_aside: u64,
}

impl Copy {
    pub(super) fn new(copy: setup::Copy, config: &ReplicationConfig) -> Result<Self> {
        let setup::Copy { spec, state, plan, row_bytes, .. } = copy;
        let copying = match (&plan, state.phase) {
            (Some(plan), CopyPhase::Copying) => {
                let after = state.after_key.clone();
                let after =
                    after.map(|key| Ok::<_, Error>((key.clone(), plan.copied_key(&key)?))).transpose()?;
                let rows = chunks::first_rows(config.chunk_bytes.get(), row_bytes);
                Some(Copying::new(Arc::clone(plan), after, rows))
            }
            _ => None,
        };
        Ok(Self {
            copying,
            began: Instant::now(),
            began_at: state.rows_copied,
            set_aside: 0,
            spec,
            state,
            plan,
        })
    }

    pub(super) fn status(&self) -> CopyStatus {
        let CopyState { rows_copied, rows_estimated, .. } = self.state;
        let copied = rows_copied - self.began_at;
        let left = rows_estimated.saturating_sub(rows_copied);
        CopyStatus {
            copy: self.state.copy.clone(),
            state: self.state.phase.as_str(),
            reason: self.state.reason.clone().filter(|_| self.state.phase == CopyPhase::Held),
            rows_copied,
            rows_estimated,
            eta_seconds: self
                .copying
                .as_ref()
                .and_then(|_| eta_seconds(self.began.elapsed().as_secs(), copied, left)),
            set_aside: self.set_aside,
        }
    }
}
