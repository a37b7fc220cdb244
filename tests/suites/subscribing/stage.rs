//! A subscriber on its own database, fed by hand.

use std::time::Duration;

use chrono::Utc;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::broker::{Broker as _, Publisher as _};
use outbox_core::{Event, Frame, Incoming, Message, Recorded, Result, RetryPolicy, Version};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::consumer::{self, Subscriber};
use super::database::{connect, fresh};
use super::{Connection, SERVER};
use crate::harness::{Server, TestDatabase, until};
use crate::items::{ItemCopy, Stepped, inbox_held};

pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy { initial: Duration::from_millis(1), max: Duration::from_millis(5), ..Default::default() }
}

pub(crate) fn recorded(message: Message, id: i64) -> Frame {
    let version = Version { generation: 1, id };
    Recorded { message, source: "items".into(), version, recorded_at: Utc::now() }.to_frame()
}

/// The same as a resync sends it.
pub(crate) fn sent_again(mut frame: Frame) -> Frame {
    let event = frame.kind.split('.').nth(1).unwrap().to_owned();
    for text in [&mut frame.kind, &mut frame.routing_key] {
        *text = text.replacen(&format!(".{event}"), ".current", 1);
    }
    frame
}

pub(crate) fn change(id: i64, event: &str, name: &str, version: i64) -> Frame {
    let side = if event == "deleted" { "before" } else { "after" };
    let image = serde_json::json!({ side: {"id": id, "name": name, "amount": version, "note": null} });
    let payload = image.to_string().into_bytes();
    recorded(Message::new("item", id.to_string(), event, payload).unwrap(), version)
}

pub(crate) fn step(account: &str, sequence: i64) -> Frame {
    let payload = serde_json::to_vec(&Stepped { account: account.into(), sequence }).unwrap();
    recorded(Message::new("account", account, "stepped", payload).unwrap(), 1000 + sequence)
}

/// A row of `inbox_held`, as far as a test looks at it.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub(crate) struct Held {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(crate) message_id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(crate) aggregate_id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(crate) state: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(crate) holds: String,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub(crate) attempts: i32,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub(crate) error: String,
}

/// What is held, in the order of arrival.
pub(crate) fn held_rows(connection: &mut Connection) -> Vec<Held> {
    diesel::sql_query(
        "select message_id, aggregate_id, state, holds, attempts, error from inbox_held order by sequence",
    )
    .load(connection)
    .unwrap()
}

/// What an operator does: asks for something to be done with what is dead, or with what waits.
pub(crate) fn ask(connection: &mut Connection, state: &str, of: &str) -> usize {
    diesel::sql_query(format!("update inbox_held set state = '{state}' where state = '{of}'"))
        .execute(connection)
        .unwrap()
}

/// From now on the copy of items takes no row of the name `refused`.
pub(crate) fn refuse(connection: &mut Connection) {
    let refuse = match SERVER {
        Server::Sqlite => {
            "create trigger refused before insert on item_copy when new.name = 'refused' \
             begin select raise(abort, 'refused'); end"
        }
        _ => "alter table item_copy add constraint refused check (name <> 'refused')",
    };
    connection.batch_execute(refuse).unwrap();
}

/// Ends [`refuse`].
pub(crate) fn allow(connection: &mut Connection) {
    let allow = match SERVER {
        Server::Sqlite => "drop trigger refused",
        _ => "alter table item_copy drop constraint refused",
    };
    connection.batch_execute(allow).unwrap();
}

pub(crate) async fn publish(broker: &MemoryBroker, frames: &[Frame]) {
    broker.publisher().await.unwrap().publish(frames).await.unwrap();
}

/// What a handler enters into the ledger.
#[derive(Debug, Default)]
pub(crate) struct Entries(pub(crate) Vec<(String, i64)>);

impl Entries {
    pub(crate) fn enter(&mut self, step: &Stepped) {
        self.note(&step.account, step.sequence);
    }

    pub(crate) fn note(&mut self, account: &str, sequence: i64) {
        self.0.push((account.to_owned(), sequence));
    }
}

/// A statement that no database takes.
pub(crate) const FAILS: &str = "insert into ledger (no_such_column) values (1)";

/// Handlers that do the same whether they are sync or async: what they say is entered into the ledger.
pub(crate) trait Handles: Sized {
    fn steps(
        self,
        handle: impl Fn(&mut Entries, &Stepped, &Incoming<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self;

    /// Enters each step; what is done with it besides is in a savepoint.
    fn steps_in_savepoint(self, handle: impl Fn(&Stepped) + Send + Sync + 'static) -> Self;

    /// Enters each step; after one of which this is true a statement fails, whose error is ignored.
    fn steps_with_an_error(self, has_error: impl Fn(&Stepped) -> bool + Send + Sync + 'static) -> Self;

    fn enter_steps(self) -> Self {
        self.steps(|entries, step, _| {
            entries.enter(step);
            Ok(())
        })
    }

    fn raw(self, kind: &str, handle: impl Fn(&Incoming<'_>) -> Result<()> + Send + Sync + 'static) -> Self;

    fn events<E: Event + DeserializeOwned>(
        self,
        handle: impl Fn(&mut Entries, E) -> Result<()> + Send + Sync + 'static,
    ) -> Self;
}

/// A subscriber that waits for nothing long.
pub(crate) fn subscriber(broker: &MemoryBroker, database: &TestDatabase) -> Subscriber {
    consumer::on("test", broker.clone(), database).retry(quick()).retry_after([Duration::from_millis(1)])
}

/// A subscriber on its own database, fed by hand.
pub(crate) struct Running {
    pub(crate) broker: MemoryBroker,
    pub(crate) database: TestDatabase,
    pub(crate) connection: Connection,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<()>>,
    pub(crate) stats: outbox_core::SubscriberStats,
}

impl Running {
    pub(crate) async fn start(build: impl FnOnce(Subscriber) -> Subscriber) -> Self {
        let (database, broker) = (fresh(), MemoryBroker::new());
        let subscriber = build(subscriber(&broker, &database));
        Self::over(broker, database, subscriber, &[]).await
    }

    /// With these on the broker before it starts.
    pub(crate) async fn over(
        broker: MemoryBroker,
        database: TestDatabase,
        subscriber: Subscriber,
        frames: &[Frame],
    ) -> Self {
        subscriber.declare().await.unwrap();
        publish(&broker, frames).await;
        let (shutdown, stats) = (CancellationToken::new(), subscriber.stats());
        let task = tokio::spawn(subscriber.run(shutdown.clone()));
        let connection = connect(&database);
        Self { broker, database, connection, shutdown, task, stats }
    }

    pub(crate) async fn stop_keeping(&mut self) {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }

    pub(crate) fn start_again(&mut self, build: impl FnOnce(Subscriber) -> Subscriber) {
        let subscriber = build(subscriber(&self.broker, &self.database));
        (self.shutdown, self.stats) = (CancellationToken::new(), subscriber.stats());
        self.task = tokio::spawn(subscriber.run(self.shutdown.clone()));
    }

    pub(crate) async fn publish(&self, frames: &[Frame]) {
        publish(&self.broker, frames).await;
    }

    pub(crate) async fn feed(&self, frames: &[Frame]) {
        self.publish(frames).await;
        until("all is consumed", || async { self.broker.is_idle() }).await;
    }

    pub(crate) fn held(&mut self) -> Vec<(String, i32, String)> {
        inbox_held::table
            .order((inbox_held::attempts, inbox_held::message_id))
            .select((inbox_held::kind, inbox_held::attempts, inbox_held::error))
            .load(&mut self.connection)
            .unwrap()
    }

    pub(crate) fn rows(&mut self) -> Vec<Held> {
        held_rows(&mut self.connection)
    }

    /// Waits for what is held.
    pub(crate) async fn until_held(&mut self, what: &str, condition: impl Fn(&[Held]) -> bool) {
        let connection = std::cell::RefCell::new(&mut self.connection);
        until(what, || async { condition(&held_rows(&mut connection.borrow_mut())) }).await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub(crate) fn copy(id: i64, name: &str, version: i64) -> ItemCopy {
    ItemCopy { id, name: name.into(), total: version, note: None }
}
