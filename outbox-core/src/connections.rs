//! Where subscribers, resyncs and freshness get their connections from: a pool, whichever it is.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};

use crate::error::Result;

/// A connection of a pool, which gets it back when this is dropped.
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
