//! What a handler is given beside the payload.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::message::{Headers, Message, MessageId, Recorded, Version};

/// A message as it came in, with what is known of its delivery.
///
/// ```no_run
/// # use outbox_core::{Incoming, Subscriber, broker::memory::MemoryBroker};
/// # fn example(subscriber: Subscriber<MemoryBroker, diesel::SqliteConnection>) {
/// let subscriber = subscriber.on_raw("product.sold", |_, incoming: &Incoming<'_>| {
///     let sold: serde_json::Value = incoming.payload()?;
///     if incoming.attempt() > 1 || incoming.is_redelivered() {
///         println!("{} of {} again: {sold}", incoming.message().kind(), incoming.source());
///     }
///     // A request to another system, which it takes once however often it comes.
///     let key = incoming.idempotency_key("invoice");
///     let late = chrono::Utc::now() - incoming.recorded_at();
///     println!("{key}: {} (row {}), {late} late", incoming.id(), incoming.version().id);
///     println!("tenant: {:?}", incoming.headers().get("tenant"));
///     Ok(())
/// });
/// # let _ = subscriber;
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub(super) recorded: &'a Recorded,
    pub(super) consumer: &'a str,
    pub(super) attempt: u32,
    pub(super) redelivered: bool,
    pub(super) limit: Duration,
}

impl<'a> Incoming<'a> {
    /// The message.
    pub fn message(&self) -> &'a Message {
        &self.recorded.message
    }

    /// Its identity.
    pub fn id(&self) -> MessageId {
        self.recorded.message.id()
    }

    /// Its headers, without those of the way.
    pub fn headers(&self) -> &'a Headers {
        self.recorded.message.headers()
    }

    /// Its payload as `T`.
    ///
    /// # Errors
    /// `Invalid` when it does not read as one.
    pub fn payload<T: serde::de::DeserializeOwned>(&self) -> crate::Result<T> {
        Ok(serde_json::from_slice(self.recorded.message.payload())?)
    }

    /// The name of the outbox that it comes from.
    pub fn source(&self) -> &'a str {
        &self.recorded.source
    }

    /// Its place in the history of its source.
    pub fn version(&self) -> Version {
        self.recorded.version
    }

    /// When it was recorded, by the clock of its source's database.
    pub fn recorded_at(&self) -> DateTime<Utc> {
        self.recorded.recorded_at
    }

    /// Which attempt this is, 1 at first. Attempts that an outage or another transaction ended are not counted,
    /// nor are those whose batch was rolled back for another message.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How long handling it may take.
    #[cfg(feature = "async")]
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether the broker may have delivered it before, or it was held.
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// The same text whenever this message is handled by this subscriber, and no other: for systems outside the
    /// database, whose effects a rollback does not take back, as the key of one request. `step` tells several
    /// requests of one handler apart.
    pub fn idempotency_key(&self, step: &str) -> String {
        let (consumer, id) = (self.consumer, self.id());
        if step.is_empty() { format!("{consumer}:{id}") } else { format!("{consumer}:{id}:{step}") }
    }
}
