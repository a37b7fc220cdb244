//! What a kind of message does, and what its failure holds up.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use super::incoming::Incoming;
use crate::connection::OutboxConnection;
use crate::copy::misfit::Misfit;
use crate::copy::{self, Applied, Origin, ReplicaOn};
use crate::entity::Operation;
use crate::error::{Error, Result};
use crate::inbox::Holds;
use crate::message::Recorded;
use crate::panics::{caught, caught_on};
use crate::resync::mark::Notice;

/// What a message that cannot be applied holds up, until it can, or until an operator has discarded it.
///
/// It is tried again after the waits of [`Subscriber::retry_after`](crate::Subscriber::retry_after) in any case,
/// and then set aside in `inbox_held`.
///
/// ```
/// # use outbox_core::broker::memory::MemoryBroker;
/// # use outbox_core::testing::{memory_pool, run_until_idle};
/// use outbox_core::{FailurePolicy, Message, OutboxConnection, Result, Subscriber};
///
/// /// Of three messages, of keys 7, 7 and 8, the first one does not read; how many are applied?
/// fn applied(policy: FailurePolicy) -> Result<u64> {
/// #     let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// #     let mut connection = pool.get()?;
///     let orders = Subscriber::new("order", broker.clone(), pool)
///         .on("product.sold", |_, _: u32| Ok(()))
///         .on_failure("product.sold", policy);
///     connection.outbox_transaction(|tx| {
///         [("7", "\"a few\""), ("7", "2"), ("8", "1")].into_iter().try_for_each(|(key, payload)| {
///             Ok(tx.record_message(Message::new("product", key, "sold", payload.into())?))
///         })
///     })?;
///     run_until_idle(&mut *connection, &broker, &[&orders]).unwrap_err();
///     Ok(orders.stats().applied())
/// }
///
/// assert_eq!(applied(FailurePolicy::LatestWins)?, 2);
/// assert_eq!(applied(FailurePolicy::Ordered)?, 1);
/// assert_eq!(applied(FailurePolicy::Halt)?, 0);
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailurePolicy {
    /// Later messages of its key with this policy wait in `inbox_held`, in order, and go on after it. What
    /// handlers do by default.
    Ordered,
    /// Nothing: a later state is as good as this one. What copies do by default, which never take an older change. A
    /// handler has to see to that itself: a message that failed is handled after later ones of its key; compare
    /// [`Incoming::version`](crate::Incoming::version).
    LatestWins,
    /// The subscriber, all its queues and processes.
    Halt,
}

impl FailurePolicy {
    pub(super) fn holds(self) -> Holds {
        match self {
            Self::Ordered => Holds::Key,
            Self::LatestWins => Holds::Nothing,
            Self::Halt => Holds::All,
        }
    }
}

/// Handles a message in the open transaction, with what it records.
pub(super) type Handler<C> = dyn Fn(&mut C, &Incoming<'_>) -> Result<()> + Send + Sync;

/// What one consumer of messages does.
pub(super) enum Run<C> {
    Handler(Arc<Handler<C>>),
    Copy(Arc<dyn CopyEffect<C>>),
}

pub(super) struct Effect<C> {
    pub(super) run: Run<C>,
    pub(super) policy: FailurePolicy,
}

impl<C> Effect<C> {
    pub(super) fn handler(run: impl Fn(&mut C, &Incoming<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { run: Run::Handler(Arc::new(run)), policy: FailurePolicy::Ordered }
    }

    pub(super) fn copy<R: ReplicaOn<C> + 'static>() -> Self
    where
        C: OutboxConnection,
    {
        Self { run: Run::Copy(Arc::new(CopyOf::<R>(PhantomData))), policy: FailurePolicy::LatestWins }
    }

    pub(super) fn copy_name(&self) -> Option<&'static str> {
        match &self.run {
            Run::Handler(_) => None,
            Run::Copy(copy) => Some(copy.name()),
        }
    }
}

// Not derived: `C` itself is never cloned.
impl<C> Clone for Effect<C> {
    fn clone(&self) -> Self {
        let run = match &self.run {
            Run::Handler(handler) => Run::Handler(Arc::clone(handler)),
            Run::Copy(copy) => Run::Copy(Arc::clone(copy)),
        };
        Self { run, policy: self.policy }
    }
}

/// A copy, whatever its row's type.
pub(super) trait CopyEffect<C>: Send + Sync {
    fn name(&self) -> &'static str;

    /// The row in a message.
    fn read(&self, recorded: &Recorded) -> Result<Box<dyn Any + Send>>;

    /// Applies messages in the order of their arrival, with the rows that were read of them.
    fn apply(
        &self,
        connection: &mut C,
        changes: Vec<(&Recorded, &dyn Any)>,
        origin: Origin,
    ) -> Result<Applied>;

    /// What its table has that does not go with it.
    fn misfits(&self, connection: &mut C) -> Result<Vec<Misfit>>;

    /// Deletes a piece of what a resync has found stale; whether there may be more.
    fn sweep(&self, connection: &mut C, consumer: &str) -> Result<bool>;
}

struct CopyOf<R>(PhantomData<fn() -> R>);

impl<C: OutboxConnection, R: ReplicaOn<C> + 'static> CopyEffect<C> for CopyOf<R> {
    fn name(&self) -> &'static str {
        R::COPY
    }

    fn read(&self, recorded: &Recorded) -> Result<Box<dyn Any + Send>> {
        if let Some(notice) = Notice::of(&recorded.message) {
            return Ok(Box::new(notice));
        }
        // A `with` of the service's may be called.
        let row = caught(format_args!("reading a row of copy {}", R::COPY), || copy::read::<R>(recorded))?;
        Ok(Box::new(row))
    }

    fn apply(
        &self,
        connection: &mut C,
        changes: Vec<(&Recorded, &dyn Any)>,
        origin: Origin,
    ) -> Result<Applied> {
        // The service's types are written, and a key of it may be read.
        let writing = format!("writing rows of copy {}", R::COPY);
        caught_on(connection, writing, |connection| apply::<R, C>(connection, changes, origin))
    }

    fn misfits(&self, connection: &mut C) -> Result<Vec<Misfit>> {
        let key: BTreeSet<_> = R::key_columns().into_iter().collect();
        let mut misfits = connection.misfits(R::COPY)?;
        misfits.retain(|misfit| {
            misfit.kind != "unique" || misfit.parts.split(',').collect::<BTreeSet<_>>() != key
        });
        Ok(misfits)
    }

    fn sweep(&self, connection: &mut C, consumer: &str) -> Result<bool> {
        copy::resync::sweep::<R, C>(connection, consumer)
    }
}

/// Rows and what a resync tells, in their order.
fn apply<R: ReplicaOn<C> + 'static, C: OutboxConnection>(
    connection: &mut C,
    changes: Vec<(&Recorded, &dyn Any)>,
    origin: Origin,
) -> Result<Applied> {
    let mut rows = Vec::new();
    // Where `rows` begin.
    let mut begin = 0;
    for (place, (recorded, change)) in changes.into_iter().enumerate() {
        if let Some(row) = change.downcast_ref::<R>() {
            rows.push((recorded, row));
            continue;
        }
        let notice = change
            .downcast_ref::<Notice>()
            .ok_or_else(|| Error::invalid(format!("a row of another copy than {}", R::COPY)))?;
        // What came before the notice is there before it.
        if let stale @ Applied::Stale(_) = apply_rows::<R, C>(connection, &rows, begin, origin)? {
            return Ok(stale);
        }
        rows.clear();
        begin = place + 1;
        copy::resync::follow::<R, C>(connection, recorded, notice)?;
    }
    apply_rows::<R, C>(connection, &rows, begin, origin)
}

/// Rows of which the first has this place in the batch.
fn apply_rows<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    rows: &[(&Recorded, &R)],
    begin: usize,
    origin: Origin,
) -> Result<Applied> {
    if rows.is_empty() {
        return Ok(Applied::All);
    }
    Ok(match copy::apply::<R, C>(connection, rows, origin)? {
        Applied::Stale(place) => Applied::Stale(place.map(|place| begin + place)),
        Applied::All => Applied::All,
    })
}

/// The consumers of a subscriber, by kind or by a pattern of kinds.
pub(super) struct Effects<C> {
    by_kind: BTreeMap<String, Effect<C>>,
}

impl<C> Default for Effects<C> {
    fn default() -> Self {
        Self { by_kind: BTreeMap::new() }
    }
}

impl<C> Clone for Effects<C> {
    fn clone(&self) -> Self {
        Self { by_kind: self.by_kind.clone() }
    }
}

/// What a subscriber does with a kind of message.
pub(super) enum Found<'a, C> {
    Effect(&'a Effect<C>),
    /// A state sent again is nothing to a handler of a pattern.
    Ignored,
    Nothing,
}

impl<C> Effects<C> {
    /// False when the same kind or pattern was there already.
    pub(super) fn add(&mut self, kind: String, effect: Effect<C>) -> bool {
        self.by_kind.insert(kind, effect).is_none()
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = &String> {
        self.by_kind.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Effect<C>)> {
        self.by_kind.iter()
    }

    pub(super) fn find(&self, kind: &str) -> Found<'_, C> {
        if let Some(effect) = self.by_kind.get(kind) {
            return Found::Effect(effect);
        }
        let mut patterns = self.by_kind.iter().filter(|(pattern, _)| pattern.contains('*'));
        match patterns.find(|(pattern, _)| overlap(pattern, kind)) {
            Some(_) if kind.ends_with(&format!(".{}", Operation::Current.name())) => Found::Ignored,
            Some((_, effect)) => Found::Effect(effect),
            None => Found::Nothing,
        }
    }

    /// Two that want one kind of message.
    pub(super) fn overlapping(&self) -> Option<(&str, &str)> {
        let patterns = self.by_kind.keys().filter(|kind| kind.contains('*'));
        patterns
            .flat_map(|pattern| self.by_kind.keys().map(move |kind| (kind.as_str(), pattern.as_str())))
            .find(|(kind, pattern)| kind != pattern && overlap(kind, pattern))
    }

    /// Sets the policy of all that a kind or pattern names; false when that is none.
    pub(super) fn set_policy(&mut self, pattern: &str, policy: FailurePolicy) -> bool {
        let named = self.by_kind.iter_mut().filter(|(kind, _)| overlap(pattern, kind));
        named.map(|(_, effect)| effect.policy = policy).count() > 0
    }

    /// One effect of each copy.
    pub(super) fn each_copy(&self) -> impl Iterator<Item = &dyn CopyEffect<C>> {
        let mut names = BTreeSet::new();
        self.by_kind.values().filter_map(move |effect| match &effect.run {
            Run::Copy(copy) if names.insert(copy.name()) => Some(&**copy),
            _ => None,
        })
    }

    /// The names of the copies.
    pub(super) fn copies(&self) -> Vec<&'static str> {
        let mut copies: Vec<_> = self.by_kind.values().filter_map(Effect::copy_name).collect();
        copies.sort_unstable();
        copies.dedup();
        copies
    }
}

/// Whether a kind can be meant by both; `*` is any word.
fn overlap(a: &str, b: &str) -> bool {
    let fits = |(a, b): (&str, &str)| a == b || a == "*" || b == "*";
    match (a.split_once('.'), b.split_once('.')) {
        (Some(a), Some(b)) => fits((a.0, b.0)) && fits((a.1, b.1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_kinds_and_each_other() {
        let mut effects = Effects::<()>::default();
        for kind in ["product.created", "order.*"] {
            assert!(effects.add(kind.into(), Effect::handler(|_, _| Ok(()))));
        }
        assert!(effects.overlapping().is_none());
        assert!(matches!(effects.find("order.placed"), Found::Effect(_)));
        assert!(matches!(effects.find("order.current"), Found::Ignored));
        assert!(matches!(effects.find("product.deleted"), Found::Nothing));
        assert!(effects.set_policy("product.*", FailurePolicy::Halt));
        assert!(!effects.set_policy("item.*", FailurePolicy::Halt));
        assert!(effects.add("*.created".into(), Effect::handler(|_, _| Ok(()))));
        let (a, b) = effects.overlapping().unwrap();
        assert!([a, b].contains(&"*.created"));
    }
}
