//! Subscribers whose connections and handlers are sync.

use outbox_core::broker::Broker;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Event, Incoming, Result};
use serde::de::DeserializeOwned;

use super::Connection;
use super::database::{enter, pool_at};
use super::stage::{Entries, FAILS, Handles};
use crate::harness::TestDatabase;
use crate::items::Stepped;

pub(crate) type Subscriber<B = MemoryBroker> = outbox_core::Subscriber<B, Connection>;

pub(crate) fn on<B: Broker>(name: &str, broker: B, database: &TestDatabase) -> Subscriber<B> {
    at(name, broker, &database.url)
}

pub(crate) fn at<B: Broker>(name: &str, broker: B, url: &str) -> Subscriber<B> {
    Subscriber::new(name, broker, pool_at(url))
}

impl<B: Broker> Handles for Subscriber<B> {
    fn steps(
        self,
        handle: impl Fn(&mut Entries, &Stepped, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_with("account.stepped", move |tx, step: Stepped, incoming| {
            let mut entries = Entries::default();
            let handled = handle(&mut entries, &step, incoming);
            write(tx.conn(), entries)?;
            handled
        })
    }

    fn steps_in_savepoint(self, handle: impl Fn(&Stepped) + Send + Sync + 'static) -> Self {
        self.on("account.stepped", move |tx, step: Stepped| {
            enter(tx.conn(), &step.account, step.sequence)?;
            tx.savepoint(|_| {
                handle(&step);
                Ok(())
            })
        })
    }

    fn steps_with_an_error(self, has_error: impl Fn(&Stepped) -> bool + Send + Sync + 'static) -> Self {
        self.on("account.stepped", move |tx, step: Stepped| {
            enter(tx.conn(), &step.account, step.sequence)?;
            if has_error(&step) {
                let _ = diesel::RunQueryDsl::execute(diesel::sql_query(FAILS), tx.conn());
            }
            Ok(())
        })
    }

    fn raw(self, kind: &str, handle: impl Fn(&Incoming<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_raw(kind, move |_, incoming| handle(incoming))
    }

    fn events<E: Event + DeserializeOwned>(
        self,
        handle: impl Fn(&mut Entries, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_event::<E>(move |tx, event| {
            let mut entries = Entries::default();
            let handled = handle(&mut entries, event);
            write(tx.conn(), entries)?;
            handled
        })
    }
}

fn write(connection: &mut Connection, entries: Entries) -> Result<()> {
    for (account, sequence) in entries.0 {
        enter(connection, &account, sequence)?;
    }
    Ok(())
}
