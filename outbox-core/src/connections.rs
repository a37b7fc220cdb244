//! Where subscribers, resyncs and freshness get their connections from: a pool, whichever it is.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};

use crate::error::Result;

/// A connection of a pool, which gets it back when this is dropped.
///
/// A sync handler on connections of diesel-async's has one in its [`Awaited`](crate::Awaited), and derefs to
/// the connection itself:
#[cfg_attr(
    all(feature = "async-sqlite", feature = "testing"),
    doc = async_example!(r##"
# connection.outbox_transaction(async |tx| {
#     tx.record_message(Message::new("product", "7", "raised", br#"{}"#.to_vec())?);
#     Ok(())
# }).await?;
# use outbox_core::{Message, Subscriber};
use outbox_core::Lent;

/// What diesel-async knows of it.
fn is_in_transaction(lent: &mut Lent<AsyncSqliteConnection>) -> bool {
    use diesel_async::{AsyncConnection, TransactionManager};

    type Manager = <AsyncSqliteConnection as AsyncConnection>::TransactionManager;
    let depth = Manager::transaction_manager_status_mut(lent).transaction_depth();
    depth.is_ok_and(|depth| depth.is_some())
}

let orders = Subscriber::new_async("order", broker.clone(), async move || pool.get().await)
    .on_raw("product.raised", |tx, _| {
        assert!(is_in_transaction(tx.conn()));
        Ok(())
    });
# testing::run_until_idle_async(&mut connection, &broker, &[&orders]).await?;
assert_eq!(orders.stats().applied(), 1);
"##)
)]
#[cfg_attr(
    not(feature = "async"),
    allow(unreachable_pub, reason = "a part of the types of async connections, which this build has not")
)]
pub struct Lent<C>(Box<dyn DerefMut<Target = C> + Send>);

impl<C> Lent<C> {
    pub(crate) fn new(connection: impl DerefMut<Target = C> + Send + 'static) -> Self {
        Self(Box::new(connection))
    }
}

impl<C> Deref for Lent<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C> DerefMut for Lent<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.0
    }
}

impl<C> std::fmt::Debug for Lent<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

/// Lends connections, on a thread for blocking work.
pub(crate) struct Connections<C>(Arc<Lend<C>>);

type Lend<C> = dyn Fn() -> Result<Lent<C>> + Send + Sync;

// Not derived: `C` itself is never cloned.
impl<C> Clone for Connections<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Connections<C> {
    pub(crate) fn new(lend: impl Fn() -> Result<Lent<C>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lend))
    }

    pub(crate) fn get(&self) -> Result<Lent<C>> {
        (self.0)()
    }
}

impl<C: R2D2Connection + 'static> From<Pool<ConnectionManager<C>>> for Connections<C> {
    fn from(pool: Pool<ConnectionManager<C>>) -> Self {
        Self::new(move || Ok(Lent::new(pool.get()?)))
    }
}
