//! What differs between diesel-async's connections.

use std::future::Future;
use std::num::NonZeroU32;

use diesel::QueryResult;
use diesel_async::{AsyncConnection, TransactionManager};

use super::transaction::AsyncOutboxTx;
use crate::connection::{Ends, NumberRow, OUTERMOST, left_open, rolled_back};
use crate::error::Result;
use crate::lost;
use crate::message::Message;

/// A closure that borrows its argument for the future that it returns, which is `Send`.
///
/// The bound `AsyncFnOnce` alone cannot say that; diesel-async has a private trait of the same kind.
#[doc(hidden)]
pub trait AsyncBody<A, R>: AsyncFnOnce(A) -> R + FnOnce(A) -> <Self as AsyncBody<A, R>>::Future {
    type Future: Future<Output = R>;
}

impl<F, A, R, Fut> AsyncBody<A, R> for F
where
    F: AsyncFnOnce(A) -> R + FnOnce(A) -> Fut,
    Fut: Future<Output = R>,
{
    type Future = Fut;
}

/// As [`AsyncBody`], for a closure that may run again.
#[doc(hidden)]
pub trait AsyncBodyMut<A, R>: AsyncFnMut(A) -> R + FnMut(A) -> <Self as AsyncBodyMut<A, R>>::Future {
    type Future: Future<Output = R>;
}

impl<F, A, R, Fut> AsyncBodyMut<A, R> for F
where
    F: AsyncFnMut(A) -> R + FnMut(A) -> Fut,
    Fut: Future<Output = R>,
{
    type Future = Fut;
}

/// A diesel-async connection whose transactions can record messages: `AsyncPgConnection`,
/// `AsyncMysqlConnection` (MySQL and MariaDB) and [`AsyncSqliteConnection`](crate::AsyncSqliteConnection);
/// connections of deadpool, bb8 and mobc deref to one.
///
/// A function that works on each of them names the trait:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let mut outbox = <diesel::SqliteConnection as diesel::Connection>::establish(":memory:")?;
/// # outbox_core::migrate::run(&mut outbox, &outbox_core::migrate::OUTBOX)?;
/// # let mut connection = outbox_core::AsyncSqliteConnection::new(outbox);
/// use outbox_core::{AsyncOutboxConnection, Message};
///
/// async fn close<C: AsyncOutboxConnection>(connection: &mut C, order: i64) -> outbox_core::Result<()> {
///     connection
///         .outbox_transaction(async |tx| {
///             tx.record_message(Message::new("order", order.to_string(), "closed", b"{}".to_vec())?);
///             Ok(())
///         })
///         .await
/// }
///
/// close(&mut connection, 7).await?;
/// let key = diesel::dsl::sql::<diesel::sql_types::Text>("select aggregate_id from outbox");
/// assert_eq!(diesel_async::RunQueryDsl::get_result::<String>(key, &mut connection).await?, "7");
/// # Ok(())
/// # }
/// ```
///
/// Sealed: the hidden methods may change.
pub trait AsyncOutboxConnection: AsyncConnection + Send + 'static {
    /// Whether a deadlock rolls the whole transaction back, its savepoints included.
    #[doc(hidden)]
    const DEADLOCK_ENDS_ALL: bool = false;

    /// Runs `body` in a transaction and commits its writes together with what it recorded, or neither.
    ///
    /// Inside another transaction it is a savepoint of that one. On SQLite it is `BEGIN IMMEDIATE`. The
    /// future must be awaited to its end: dropped halfway, it leaves the transaction open.
    ///
    /// ```standalone_crate
    /// # include!("../doc_setup.rs");
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// use outbox_core::AsyncOutboxConnection;
    ///
    /// # let mut connection = async_connection();
    /// let name = String::from("kettle");
    /// // The future is `Send`, so a task may run it; closures borrow what is around them.
    /// let task = tokio::spawn(async move {
    ///     connection
    ///         .outbox_transaction(async |tx| {
    ///             let kettle = tx.insert(&NewProduct { name: &name }).await?;
    ///             tx.record(&Sold { product_id: kettle.id, count: 1 })?;
    ///             Ok(kettle)
    ///         })
    ///         .await
    /// });
    /// assert_eq!(task.await.map_err(Error::application)??.name, "kettle");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `body` returns (an application's own error as
    /// [`Error::application`](crate::Error::application)), and the database's.
    fn outbox_transaction<'a, T, F>(&mut self, body: F) -> impl Future<Output = Result<T>> + Send
    where
        for<'t, 'c> F: AsyncFnOnce(&'t mut AsyncOutboxTx<'c, Self>) -> Result<T>
            + AsyncBody<&'t mut AsyncOutboxTx<'c, Self>, Result<T>, Future: Send>
            + Send
            + 'a,
        T: Send + 'a,
    {
        async move {
            self.begin_writing().await?;
            let own = depth(self)?;
            let mut tx = AsyncOutboxTx::new(self);
            let outcome = match body(&mut tx).await {
                Ok(value) => tx.flush().await.map(|()| value),
                Err(error) => Err(error),
            };
            finish(self, own, outcome).await
        }
    }

    /// Records messages inside a transaction that the caller has opened with diesel-async's own
    /// `transaction`.
    ///
    /// ```standalone_crate
    /// # include!("../doc_setup.rs");
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// use diesel_async::AsyncConnection;
    /// use outbox_core::AsyncOutboxConnection;
    ///
    /// # let mut connection = async_connection();
    /// connection
    ///     .transaction(async |connection| {
    ///         // …existing statements…
    ///         connection.record_in_open_transaction(async |tx| tx.delete_by_id::<Product>(&7).await).await
    ///     })
    ///     .await
    /// # .map(|_| ())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Invalid` when no transaction is open (a `BEGIN` sent as text is not seen); what `body` returns, and
    /// the database's.
    fn record_in_open_transaction<'a, T, F>(&mut self, body: F) -> impl Future<Output = Result<T>> + Send
    where
        for<'t, 'c> F: AsyncFnOnce(&'t mut AsyncOutboxTx<'c, Self>) -> Result<T>
            + AsyncBody<&'t mut AsyncOutboxTx<'c, Self>, Result<T>, Future: Send>
            + Send
            + 'a,
        T: Send + 'a,
    {
        async move {
            if depth(self)?.is_none() {
                return Err(crate::connection::no_open_transaction());
            }
            self.outbox_transaction(body).await
        }
    }

    /// Begins a transaction that is going to write.
    #[doc(hidden)]
    fn begin_writing(&mut self) -> impl Future<Output = QueryResult<()>> + Send {
        Self::TransactionManager::begin_transaction(self)
    }

    /// As [`OutboxConnection::check_commits`](crate::OutboxConnection::check_commits), where nothing else is sent before
    /// the end.
    #[doc(hidden)]
    fn check_commits(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Waits for a statement whose future was dropped and that still runs.
    #[doc(hidden)]
    fn settle(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// As [`OutboxConnection::lock_keys`](crate::OutboxConnection::lock_keys).
    #[doc(hidden)]
    fn lock_keys(&mut self, keys: &[(&str, &str)]) -> impl Future<Output = Result<()>> + Send;

    /// As [`OutboxConnection::outbox_ends`](crate::OutboxConnection::outbox_ends).
    #[doc(hidden)]
    fn outbox_ends(&mut self) -> impl Future<Output = QueryResult<Ends>> + Send;

    /// As [`OutboxConnection::oldest_movable_ms`](crate::OutboxConnection::oldest_movable_ms).
    #[doc(hidden)]
    fn oldest_movable_ms(&mut self) -> impl Future<Output = QueryResult<Option<i64>>> + Send;

    /// As [`OutboxConnection::outbox_exceeds`](crate::OutboxConnection::outbox_exceeds).
    #[doc(hidden)]
    fn outbox_exceeds(&mut self, rows: i64) -> impl Future<Output = QueryResult<bool>> + Send;

    #[doc(hidden)]
    fn append_messages(&mut self, messages: Vec<Message>) -> impl Future<Output = QueryResult<()>> + Send;

    /// As [`OutboxConnection::pending_messages`](crate::OutboxConnection::pending_messages).
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn pending_messages(
        &mut self,
    ) -> impl Future<Output = QueryResult<Vec<crate::testing::PendingRow>>> + Send;

    #[cfg(feature = "testing")]
    #[doc(hidden)]
    fn forget_messages(&mut self, ids: &[i64]) -> impl Future<Output = QueryResult<()>> + Send;
}

/// How deep the open transactions are nested; `None` is none.
pub(crate) fn depth<C: AsyncConnection>(connection: &mut C) -> QueryResult<Option<NonZeroU32>> {
    C::TransactionManager::transaction_manager_status_mut(connection).transaction_depth()
}

/// As the sync one.
async fn closed<C: AsyncOutboxConnection, T>(
    connection: &mut C,
    own: Option<NonZeroU32>,
    outcome: Result<T>,
) -> Result<T> {
    connection.settle().await;
    let mut was_open = false;
    while depth(connection).is_ok_and(|depth| depth > own) {
        was_open = true;
        let _ = C::TransactionManager::rollback_transaction(connection).await;
    }
    match outcome {
        Ok(_) if was_open => Err(left_open()),
        outcome => outcome,
    }
}

/// Commits the transaction of this depth, or rolls back and passes the error on. A deadlock in a savepoint stays one,
/// although the savepoint is gone with it.
pub(super) async fn finish<C: AsyncOutboxConnection, T>(
    connection: &mut C,
    own: Option<NonZeroU32>,
    outcome: Result<T>,
) -> Result<T> {
    let outcome = match closed(connection, own, outcome).await {
        // diesel-async leaves a savepoint open whose RELEASE has failed.
        Ok(value) if own > OUTERMOST => connection.check_commits().await.map(|()| value),
        outcome => outcome,
    };
    let outcome = match outcome {
        Ok(value) => match C::TransactionManager::commit_transaction(connection).await {
            Ok(()) => Ok(value),
            Err(error) => {
                // Diesel does not. Where this was a COMMIT nothing is open that the note could stand with.
                if C::DEADLOCK_ENDS_ALL {
                    lost::note(C::TransactionManager::transaction_manager_status_mut(connection));
                }
                Err(error.into())
            }
        },
        Err(error) => Err(rolled_back(error, C::TransactionManager::rollback_transaction(connection).await)),
    };
    lost::tell(is_lost(connection), outcome)
}

/// As the sync one.
pub(super) fn is_lost<C: AsyncOutboxConnection>(connection: &mut C) -> bool {
    C::DEADLOCK_ENDS_ALL && lost::is_noted(C::TransactionManager::transaction_manager_status_mut(connection))
}

macro_rules! backlog_methods {
    ($sql:expr) => {
        async fn outbox_ends(&mut self) -> QueryResult<Ends> {
            diesel_async::RunQueryDsl::get_result(diesel::sql_query($sql.ends), self).await
        }

        async fn oldest_movable_ms(&mut self) -> QueryResult<Option<i64>> {
            let query = diesel::sql_query($sql.oldest_movable);
            let rows: Vec<NumberRow> = diesel_async::RunQueryDsl::load(query, self).await?;
            Ok(rows.first().map(|row| row.number))
        }

        async fn outbox_exceeds(&mut self, rows: i64) -> QueryResult<bool> {
            let query = diesel::sql_query($sql.exceeds).bind::<diesel::sql_types::BigInt, _>(rows);
            let rows: Vec<NumberRow> = diesel_async::RunQueryDsl::load(query, self).await?;
            Ok(!rows.is_empty())
        }

        #[cfg(feature = "testing")]
        async fn pending_messages(&mut self) -> QueryResult<Vec<crate::testing::PendingRow>> {
            let select = crate::testing::select_pending($sql.created_at_us);
            diesel_async::RunQueryDsl::load(select, self).await
        }

        #[cfg(feature = "testing")]
        async fn forget_messages(&mut self, ids: &[i64]) -> QueryResult<()> {
            use diesel::prelude::*;

            use crate::schema::outbox;

            // So many binds every database takes.
            for ids in ids.chunks(500) {
                let delete = diesel::delete(outbox::table.filter(outbox::id.eq_any(ids.to_vec())));
                diesel_async::RunQueryDsl::execute(delete, self).await?;
            }
            Ok(())
        }
    };
}

#[cfg(feature = "async-mysql")]
impl AsyncOutboxConnection for diesel_async::AsyncMysqlConnection {
    const DEADLOCK_ENDS_ALL: bool = true;

    async fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        let slots = crate::connection::lock::Slots::of(keys);
        let query = diesel::sql_query(slots.sql());
        let locked = diesel_async::RunQueryDsl::load::<NumberRow>(query, self).await;
        slots.check(locked.map(|rows| rows.len()))
    }

    async fn append_messages(&mut self, messages: Vec<Message>) -> QueryResult<()> {
        use crate::connection::{packet, rendered};

        for run in crate::buffer::append_runs(&messages) {
            if let [one] = run {
                if packet::is_large(one) {
                    let limit = diesel::sql_query(packet::LIMIT);
                    let NumberRow { number } = diesel_async::RunQueryDsl::get_result(limit, self).await?;
                    packet::check(one, number)?;
                }
                let row = crate::schema::NewOutboxRow::of(one);
                let insert = diesel::insert_into(crate::schema::outbox::table).values(row);
                diesel_async::RunQueryDsl::execute(insert, self).await?;
            } else {
                let insert = rendered::insert(run, &rendered::MYSQL);
                diesel_async::SimpleAsyncConnection::batch_execute(self, &insert).await?;
            }
        }
        Ok(())
    }

    backlog_methods!(crate::connection::backlog::MYSQL);
}

#[cfg(feature = "async-postgres")]
impl AsyncOutboxConnection for diesel_async::AsyncPgConnection {
    /// Nobody notes what the server tells of the transaction: asked, where no other statement follows that would fail.
    async fn check_commits(&mut self) -> Result<()> {
        let asked = diesel_async::SimpleAsyncConnection::batch_execute(self, "select 1").await;
        asked.map_err(|error| match crate::connection::is_spoiled(&error) {
            true => crate::connection::spoiled(),
            false => error.into(),
        })
    }

    async fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        use diesel::sql_types::{Array, Integer};

        use crate::connection::lock;
        let query = diesel::sql_query(lock::POSTGRES)
            .bind::<Integer, _>(lock::CLASS)
            .bind::<Array<Integer>, _>(lock::advisory(keys));
        diesel_async::RunQueryDsl::execute(query, self).await?;
        Ok(())
    }

    async fn append_messages(&mut self, messages: Vec<Message>) -> QueryResult<()> {
        use diesel_async::RunQueryDsl;

        for run in crate::buffer::append_runs(&messages) {
            // As for the sync connections: the statement of one row stays prepared.
            if let [one] = run {
                let insert = diesel::insert_into(crate::schema::outbox::table);
                insert.values(crate::schema::NewOutboxRow::of(one)).execute(self).await?;
            } else {
                crate::connection::columns::insert_columns!(run).execute(self).await?;
            }
        }
        Ok(())
    }

    backlog_methods!(crate::connection::backlog::POSTGRES);
}

#[cfg(feature = "async-sqlite")]
impl AsyncOutboxConnection for super::AsyncSqliteConnection {
    /// `BEGIN IMMEDIATE`: a transaction that starts as a reader cannot become a writer behind another one.
    async fn begin_writing(&mut self) -> QueryResult<()> {
        if depth(self)?.is_some() {
            return <Self as AsyncConnection>::TransactionManager::begin_transaction(self).await;
        }
        self.spawn_blocking(|connection| {
            diesel::connection::AnsiTransactionManager::begin_transaction_sql(connection, "BEGIN IMMEDIATE")
        })
        .await
    }

    /// It runs on a thread of its own, and diesel-async panics when it is asked for its state meanwhile.
    async fn settle(&mut self) {
        let _ = self.spawn_blocking(|_| Ok(())).await;
    }

    /// Nothing to take: who has begun to write is the only writer until its COMMIT.
    async fn lock_keys(&mut self, _: &[(&str, &str)]) -> Result<()> {
        Ok(())
    }

    async fn append_messages(&mut self, messages: Vec<Message>) -> QueryResult<()> {
        self.spawn_blocking(move |connection| crate::OutboxConnection::append_messages(connection, &messages))
            .await
    }

    backlog_methods!(crate::connection::backlog::SQLITE);
}
