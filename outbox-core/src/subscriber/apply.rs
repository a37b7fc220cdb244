//! A batch of deliveries into the database: one transaction for all, and when one fails, each alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
use tokio_util::sync::CancellationToken;

use super::{Effect, SubscriberStats};
use crate::broker::Delivery;
use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::{HeldMessage, HeldState};
use crate::message::Recorded;
use crate::retry::RetryPolicy;
use crate::transaction::OutboxTx;

/// What a delivery came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    Duplicate,
}

/// Applies deliveries; blocking, one call at a time per queue.
pub(super) struct Worker<C: R2D2Connection + 'static> {
    name: String,
    pool: Pool<ConnectionManager<C>>,
    effects: BTreeMap<String, Effect<C>>,
    retry: RetryPolicy,
    stats: SubscriberStats,
    /// The source that each copy was found to follow.
    sources: Mutex<HashMap<&'static str, String>>,
}

impl<C: OutboxConnection + R2D2Connection> Worker<C> {
    pub(super) fn new(
        name: String,
        pool: Pool<ConnectionManager<C>>,
        effects: BTreeMap<String, Effect<C>>,
        retry: RetryPolicy,
        stats: SubscriberStats,
    ) -> Self {
        Self { name, pool, effects, retry, stats, sources: Mutex::default() }
    }

    pub(super) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Whether the inbox tables are there.
    pub(super) fn check(&self) -> Result<()> {
        self.pool.get()?.deleted_version("", "").map(|_| ()).map_err(|e| {
            Error::from(e).context(format!(
                "subscriber {}: the inbox tables cannot be read; create them with \
                 outbox_core::migrate::run(&mut connection, &outbox_core::migrate::INBOX)",
                self.name
            ))
        })
    }

    /// Applies from the front and takes off what is done; stops early, with the rest left, at shutdown.
    ///
    /// An error means that the database cannot be used now; what is left is to be tried again.
    pub(super) fn apply(&self, pending: &mut VecDeque<Delivery>, shutdown: &CancellationToken) -> Result<()> {
        let mut connection = self.pool.get()?;
        let decoded: Vec<_> = pending.iter().map(|delivery| Recorded::from_frame(&delivery.frame)).collect();
        match self.apply_together(&mut connection, &decoded) {
            Ok(outcomes) => {
                outcomes.into_iter().for_each(|outcome| self.count(outcome));
                pending.clear();
                return Ok(());
            }
            Err(error) if error.is_outage() => return Err(error),
            Err(_) => {}
        }
        for recorded in decoded {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            let Some(delivery) = pending.front() else { break };
            self.apply_alone(&mut connection, delivery, &recorded, shutdown)?;
            if shutdown.is_cancelled() {
                return Ok(());
            }
            pending.pop_front();
        }
        Ok(())
    }

    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Applied => &self.stats.0.applied,
            Outcome::Duplicate => &self.stats.0.duplicates,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All in one transaction, or nothing.
    fn apply_together(&self, connection: &mut C, decoded: &[Result<Recorded>]) -> Result<Vec<Outcome>> {
        let messages: Vec<_> = decoded
            .iter()
            .map(|recorded| recorded.as_ref().map_err(|e| Error::invalid(e.to_string())))
            .collect::<Result<_>>()?;
        for recorded in &messages {
            self.check_source(connection, recorded)?;
        }
        connection.write_transaction(|connection| {
            messages.iter().map(|recorded| self.apply_one(connection, recorded)).collect()
        })
    }

    /// One message, tried again after short waits and then set aside.
    fn apply_alone(
        &self,
        connection: &mut C,
        delivery: &Delivery,
        decoded: &Result<Recorded>,
        shutdown: &CancellationToken,
    ) -> Result<()> {
        let recorded = match decoded {
            Ok(recorded) => recorded,
            Err(error) => return self.set_aside(connection, delivery, None, 1, error),
        };
        let mut waits = self.retry.waits();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let applied = self.check_source(connection, recorded).and_then(|()| {
                connection.write_transaction(|connection| self.apply_one(connection, recorded))
            });
            let error = match applied {
                Ok(outcome) => {
                    self.count(outcome);
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.is_outage() {
                return Err(error);
            }
            if error.kind() == ErrorKind::Invalid || attempts >= self.retry.max_attempts {
                return self.set_aside(connection, delivery, Some(recorded), attempts, &error);
            }
            self.stats.0.retries.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(waits.next_wait());
            if shutdown.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Inbox row and effect, inside the caller's transaction.
    fn apply_one(&self, connection: &mut C, recorded: &Recorded) -> Result<Outcome> {
        let message = &recorded.message;
        let kind = message.kind();
        let effect = self.effects.get(&kind).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("subscriber {} has no consumer for {kind}", self.name))
        })?;
        if !connection.record_applied(&self.name, message.id())? {
            return Ok(Outcome::Duplicate);
        }
        let mut tx = OutboxTx::new(connection);
        catch_unwind(AssertUnwindSafe(|| (effect.run)(&mut tx, recorded)))
            .unwrap_or_else(|panic| Err(Error::new(ErrorKind::Application, panic_text(&*panic))))
            .map_err(|e| e.context(format!("{kind} of key {}", message.key())))?;
        tx.flush()?;
        Ok(Outcome::Applied)
    }

    /// A copy follows one outbox: versions of two cannot be compared.
    fn check_source(&self, connection: &mut C, recorded: &Recorded) -> Result<()> {
        let Some(copy) = self.effects.get(&recorded.message.kind()).and_then(|effect| effect.copy) else {
            return Ok(());
        };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if !sources.contains_key(copy) {
            sources.insert(copy, connection.claim_copy(copy, &recorded.source)?);
        }
        match sources.get(copy) {
            Some(source) if *source != recorded.source => Err(Error::new(
                ErrorKind::Invalid,
                format!("copy {copy} follows outbox {source}, the message comes from {}", recorded.source),
            )),
            _ => Ok(()),
        }
    }

    /// Stores the message with its error. Whatever goes wrong here is the database's fault: nothing is
    /// acknowledged before it stands there.
    fn set_aside(
        &self,
        connection: &mut C,
        delivery: &Delivery,
        recorded: Option<&Recorded>,
        attempts: u32,
        error: &Error,
    ) -> Result<()> {
        let frame = &delivery.frame;
        let text: String = error.to_string().chars().take(2000).collect();
        let headers = frame.headers.to_json();
        // PostgreSQL's text takes no NUL, and what arrives here may hold anything.
        let [text, id, kind, routing_key] = [&text, &identity(delivery), &frame.kind, &frame.routing_key]
            .map(|text| text.replace('\0', "\u{fffd}"));
        tracing::error!(
            subscriber = self.name,
            kind = frame.kind,
            message = frame.message_id,
            error = text,
            "message set aside in inbox_held"
        );
        let held = HeldMessage {
            consumer: &self.name,
            message_id: &id,
            // Buckets are below 64.
            bucket: recorded.map_or(-1, |recorded| recorded.message.bucket() as i16),
            kind: &kind,
            key: recorded.map_or("", |recorded| recorded.message.key()),
            state: HeldState::Dead,
            attempts: i32::try_from(attempts).unwrap_or(i32::MAX),
            error: &text,
            routing_key: &routing_key,
            headers: headers.as_bytes(),
            payload: &frame.body,
        };
        connection.hold_message(&held).map_err(|e| {
            Error::with_source(ErrorKind::Outage, "setting a message aside in inbox_held", Error::from(e))
        })?;
        self.stats.0.set_aside.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The message id as it arrived; of a message without one, a hash, so that a redelivery is recognised.
fn identity(delivery: &Delivery) -> String {
    let frame = &delivery.frame;
    if (1..=255).contains(&frame.message_id.len()) {
        return frame.message_id.clone();
    }
    let mut hash = fnv::FnvHasher::default();
    hash.write(frame.routing_key.as_bytes());
    hash.write(&frame.body);
    format!("fnv1a64:{:016x}", hash.finish())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("no text"))
}
