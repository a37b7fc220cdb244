//! What a handler is given beside the payload.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::message::{Headers, Message, MessageId, Recorded, Version};

/// A message as it came in, with what is known of its delivery.
///
/// ```
/// # use outbox_core::broker::memory::MemoryBroker;
/// # use outbox_core::testing::{memory_pool, run_until_idle};
/// use outbox_core::{Error, Message, OutboxConnection, Subscriber, testing::SOURCE};
///
/// # let (pool, broker) = (memory_pool(), MemoryBroker::new());
/// # let mut connection = pool.get()?;
/// let orders = Subscriber::new("order", broker.clone(), pool).on_raw("product.*", |_, incoming| {
///     assert_eq!((incoming.message().kind().as_str(), incoming.payload::<u32>()?), ("product.sold", 2));
///     assert_eq!(incoming.headers().get("tenant"), Some("eu"));
///     assert_eq!((incoming.source(), incoming.version().generation), (SOURCE, 1));
///     assert!((chrono::Utc::now() - incoming.recorded_at()).num_seconds() < 60);
///     assert_eq!(incoming.is_redelivered(), incoming.attempt() > 1);
///     // The same at the second attempt, so that no second mail is sent.
///     assert_eq!(incoming.idempotency_key("mail"), format!("order:{}:mail", incoming.id()));
///     if incoming.attempt() == 1 { Err(Error::application("no answer from the mail server")) } else { Ok(()) }
/// });
/// let sold = Message::new("product", "7", "sold", b"2".to_vec())?.with_header("tenant", "eu")?;
/// connection.outbox_transaction(|tx| Ok(tx.record_message(sold)))?;
/// run_until_idle(&mut *connection, &broker, &[&orders])?;
/// assert_eq!((orders.stats().retries(), orders.stats().applied()), (1, 1));
/// # Ok::<(), outbox_core::Error>(())
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
    /// nor are those whose batch was rolled back for another message. A message that came back five times without an answer
    /// is handled alone from then on, and begins with 2.
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
