//! [`Writer`] on diesel-async: the same policy, with waits that give the thread away.

use std::time::Instant;

use diesel_async::TransactionManager;

use super::connection::{AsyncBodyMut, AsyncOutboxConnection, depth, finish};
use super::transaction::AsyncOutboxTx;
use crate::error::Result;
use crate::retry::Attempts;
use crate::writer::backlog::{self, Backlog, BacklogLimit, Step};
use crate::writer::{Writer, next_wait, not_outermost};

impl Writer {
    /// As [`Writer::transaction`], on a diesel-async connection.
    ///
    /// ```
    /// # #[cfg(feature = "async-sqlite")]
    /// # async fn example(connection: &mut outbox_core::AsyncSqliteConnection) -> outbox_core::Result<()> {
    /// use outbox_core::{Message, RetryPolicy, Writer};
    ///
    /// let writer = Writer::new().retry(RetryPolicy::default());
    /// writer
    ///     .transaction_async(connection, async |tx| {
    ///         tx.record_message(Message::new("product", "7", "price_raised", b"{}".to_vec())?);
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Writer::transaction`].
    pub async fn transaction_async<'a, C, T, F>(&self, connection: &mut C, mut body: F) -> Result<T>
    where
        C: AsyncOutboxConnection,
        for<'t, 'c> F: AsyncFnMut(&'t mut AsyncOutboxTx<'c, C>) -> Result<T>
            + AsyncBodyMut<&'t mut AsyncOutboxTx<'c, C>, Result<T>, Future: Send>
            + Send
            + 'a,
        T: Send + 'a,
    {
        let is_test = is_outermost(connection)?;
        self.enter_async(connection).await?;
        let mut attempts = self.retry.as_ref().filter(|_| !is_test).map(Attempts::of);
        loop {
            connection.begin_writing().await?;
            let own = depth(connection)?;
            let mut tx = AsyncOutboxTx::new(connection);
            let outcome = match body(&mut tx).await {
                Ok(value) => tx.flush().await.map(|()| value),
                Err(error) => Err(error),
            };
            let error = match finish(connection, own, outcome).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let is_usable = || depth(connection).is_ok_and(|depth| depth.is_none());
            let wait = next_wait(attempts.as_mut(), error, is_usable)?;
            tokio::time::sleep(wait).await;
        }
    }

    async fn enter_async<C: AsyncOutboxConnection>(&self, connection: &mut C) -> Result<()> {
        let Some(gate) = &self.gate else { return Ok(()) };
        let until = gate.patience(Instant::now());
        loop {
            let mut step = gate.step(Instant::now(), until);
            if let Step::Probe = step {
                let seen = look(connection, gate.limit()).await;
                step = gate.answer(seen, Instant::now(), until)?;
            }
            match step {
                Step::Enter | Step::Probe => return Ok(()),
                Step::Wait(wait) => tokio::time::sleep(wait).await,
                Step::Refuse(error) => return Err(error),
            }
        }
    }
}

/// As the sync `is_outermost`.
fn is_outermost<C: AsyncOutboxConnection>(connection: &mut C) -> Result<bool> {
    match depth(connection)?.map_or(0, u32::from) {
        0 => Ok(false),
        1 if !C::TransactionManager::is_broken_transaction_manager(connection) => Ok(true),
        _ => Err(not_outermost()),
    }
}

/// As [`backlog::look`].
async fn look<C: AsyncOutboxConnection>(connection: &mut C, limit: &BacklogLimit) -> Result<Option<Backlog>> {
    let ends = connection.outbox_ends().await?;
    let mut exceeds = false;
    if let Some(offset) = backlog::offset_to_look_at(&ends, limit) {
        exceeds = connection.outbox_exceeds(offset).await?;
    }
    let mut movable = None;
    if backlog::may_be_too_old(&ends, limit) {
        movable = connection.oldest_movable_ms().await?;
    }
    Ok(backlog::judge(ends, limit, exceeds, movable))
}
