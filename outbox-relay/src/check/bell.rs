//! The doorbell of PostgreSQL: in tail mode whether it is installed and a ring arrives; in poll mode it should not
//! be there, since every writer pays for it.

use std::time::Duration;

use outbox_core::migrate::POSTGRES_NO_BELL;

use super::{About, Level};
use crate::config::{Mode, OutboxConfig};
use crate::outbox::store::Store;
use crate::retry::{self, Side};

/// How long a ring may take from one connection to another.
const RING: Duration = Duration::from_secs(5);

pub(super) async fn check(store: &mut Store, outbox: &OutboxConfig, about: &mut About) {
    let fault = match store.doorbell().await {
        Ok(doorbell) => doorbell.fault(),
        Err(error) => return about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy()),
    };
    match (outbox.mode, fault) {
        (Mode::Poll, None) => about.add(
            Level::Warning,
            "mode is \"poll\", and trigger outbox_bell still tells of every commit: writers wait for each other",
            Some(POSTGRES_NO_BELL.trim().replace('\n', " ")),
        ),
        (Mode::Poll, Some(_)) => {}
        (Mode::Tail, Some((what, fix))) => {
            about.bad(format!("mode is \"tail\": {what}; the relay polls until it is there"), fix);
        }
        (Mode::Tail, None) => check_ring(store, about).await,
    }
}

async fn check_ring(store: &mut Store, about: &mut About) {
    let mut ear = Store::new(store.database().clone(), "").with_timeout(RING);
    let heard = async {
        ear.listen().await?;
        store.ring().await?;
        ear.rung().await
    };
    match tokio::time::timeout(RING, heard).await {
        Ok(Ok(())) => about.ok("trigger outbox_bell is there, and a ring arrives"),
        Ok(Err(error)) => about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy()),
        Err(_) => about.bad(
            "mode is \"tail\", and what one connection notifies does not reach another",
            "connect to the server itself, not to a pooler that gives each transaction another session",
        ),
    }
}
