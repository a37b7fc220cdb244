//! A connection of diesel-async's as a sync one: on a thread for blocking work each statement is waited for. So the
//! consumer's side has its statements once, and its handlers and services of either kind.

use std::future::Future;

use diesel::QueryResult;
use diesel_async::SimpleAsyncConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use tokio::runtime::Handle;

use super::connection::AsyncOutboxConnection;
use crate::connection::{Ends, OutboxConnection, testing_methods};
use crate::connections::{Connections, Lent};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// A connection of diesel-async's that a subscriber or a resync uses; what
/// [`Subscriber::new_async`](crate::Subscriber::new_async) makes of it.
///
/// Who keeps such a subscriber or hands it on names the type. A sync handler on one has Diesel's own methods:
#[cfg_attr(
    all(feature = "async-sqlite", feature = "testing"),
    doc = async_example!(r##"
# diesel_async::SimpleAsyncConnection::batch_execute(&mut connection, "create table alert (text text)").await?;
# connection.outbox_transaction(async |tx| {
#     tx.record_message(Message::new("product", "7", "raised", br#"{}"#.to_vec())?);
#     Ok(())
# }).await?;
use diesel::RunQueryDsl;
use outbox_core::{Awaited, Message, Subscriber};

struct Service {
    alerts: Subscriber<MemoryBroker, Awaited<AsyncSqliteConnection>>,
}

let alerts = Subscriber::new_async("order", broker.clone(), async move || pool.get().await);
let service = Service {
    alerts: alerts.on_raw("product.raised", |tx, _| {
        diesel::sql_query("insert into alert (text) values ('it is dearer')").execute(tx.conn())?;
        Ok(())
    }),
};
# testing::run_until_idle_async(&mut connection, &broker, &[&service.alerts]).await?;
# let alerts = diesel::dsl::sql::<diesel::sql_types::BigInt>("select count(*) from alert");
# assert_eq!(diesel_async::RunQueryDsl::get_result::<i64>(alerts, &mut connection).await?, 1);
assert_eq!(service.alerts.stats().applied(), 1);
"##)
)]
pub type Awaited<A> = AsyncConnectionWrapper<Lent<A>>;

/// Connections of a pool of diesel-async's.
pub(crate) fn connections<A, P, E>(
    connect: impl AsyncFn() -> std::result::Result<P, E> + Send + Sync + 'static,
) -> Connections<Awaited<A>>
where
    A: AsyncOutboxConnection,
    P: std::ops::DerefMut<Target = A> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Connections::new(move || {
        let connection = wait_for(connect())?
            .map_err(|e| Error::with_source(ErrorKind::Outage, "no database connection from the pool", e))?;
        Ok(Lent::new(Box::new(Awaited::from(Lent::new(connection)))))
    })
}

/// Waits on this thread, which must be one for blocking work of a tokio runtime.
pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = Handle::try_current().map_err(|e| {
        let needs =
            "connections of diesel-async need a tokio runtime: call this in `tokio::task::spawn_blocking`";
        Error::with_source(ErrorKind::Invalid, needs, e)
    })?;
    Ok(runtime.block_on(future))
}

/// As [`wait_for`], of what Diesel answers.
fn ask<T>(future: impl Future<Output = QueryResult<T>>) -> QueryResult<T> {
    wait_for(future).unwrap_or_else(|e| Err(diesel::result::Error::QueryBuilderError(Box::new(e))))
}

macro_rules! outbox_connection {
    ($connection:ty, $sql:expr) => {
        impl OutboxConnection for Awaited<$connection> {
            const DEADLOCK_ENDS_ALL: bool = <$connection as AsyncOutboxConnection>::DEADLOCK_ENDS_ALL;

            /// What diesel-async locks its SQLite connections with is poisoned until a statement has run.
            fn after_panic(&mut self) {
                let _ = ask(SimpleAsyncConnection::batch_execute(&mut ***self, "select 1"));
            }

            fn settle(&mut self) {
                let _ = wait_for(AsyncOutboxConnection::settle(&mut ***self));
            }

            fn begin_write(&mut self) -> QueryResult<()> {
                ask(AsyncOutboxConnection::begin_writing(&mut ***self))
            }

            fn check_commits(&mut self) -> Result<()> {
                wait_for(AsyncOutboxConnection::check_commits(&mut ***self))?
            }

            fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
                wait_for(AsyncOutboxConnection::lock_keys(&mut ***self, keys))?
            }

            fn outbox_ends(&mut self) -> QueryResult<Ends> {
                ask(AsyncOutboxConnection::outbox_ends(&mut ***self))
            }

            fn oldest_movable_ms(&mut self) -> QueryResult<Option<i64>> {
                ask(AsyncOutboxConnection::oldest_movable_ms(&mut ***self))
            }

            fn outbox_exceeds(&mut self, rows: i64) -> QueryResult<bool> {
                ask(AsyncOutboxConnection::outbox_exceeds(&mut ***self, rows))
            }

            fn append_messages(&mut self, messages: &[Message]) -> QueryResult<()> {
                ask(AsyncOutboxConnection::append_messages(&mut ***self, messages.to_vec()))
            }

            testing_methods!($sql);
        }
    };
}
#[cfg(feature = "async-mysql")]
outbox_connection!(diesel_async::AsyncMysqlConnection, crate::connection::backlog::MYSQL);
#[cfg(feature = "async-postgres")]
outbox_connection!(diesel_async::AsyncPgConnection, crate::connection::backlog::POSTGRES);
#[cfg(feature = "async-sqlite")]
outbox_connection!(super::AsyncSqliteConnection, crate::connection::backlog::SQLITE);
